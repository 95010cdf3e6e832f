//! Nothing is released that is not in the log, whatever moment the process or the power is cut off at.
//!
//! A process mints, tells what a client would have received, and is killed. What it told is then looked for in
//! the log that it left. Half of the processes write through a [disk](unflushed) that loses what was not
//! flushed. The numbers are small here and large in `make soak`.
#![expect(clippy::unwrap_used, reason = "the helpers of tests state expectations as tests do")]

mod child;
mod history;
#[path = "../minting/mod.rs"]
mod minting;
mod unflushed;

use std::io::{BufRead as _, BufReader};
use std::os::unix::process::ExitStatusExt as _;
use std::process::Child;
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use ca_core::clock::Timestamp;
use ca_core::log::local::{LocalLog, RealDisk};
use ca_core::log::tree::Head;
use ca_core::log::{Durability, WriterId};

use child::{Orders, Said, settings};
use history::{Fault, History};
use minting::Answer;
use unflushed::Manner;

/// A new log is begun after so many runs, so that looking for a kill's answers takes no longer than the run.
const RUNS_OF_A_LOG: u64 = 50;

#[test]
fn whatever_was_released_before_a_kill_is_in_the_log() {
    const NAME: &str = "whatever_was_released_before_a_kill_is_in_the_log";
    child::run();
    let (kills, started) = (count("SOAK_KILLS", 100), Instant::now());
    let mut figures = Figures::default();
    let (mut log, mut seen) = (Log::new(), Seen::nothing());
    for kill in 0..kills {
        let manner = [Manner::Nothing, Manner::Prefix, Manner::Pages][kill as usize / 2 % 3];
        let disk = (kill % 2 == 1).then_some(manner);
        let orders = log.orders(disk, Durability::Durable);
        seen.add(Seen::of(orders.start(NAME), instant_to_kill()));
        let is_last = (kill + 1) % RUNS_OF_A_LOG == 0 || kill + 1 == kills;
        // Now and then the next process is the first to see what this one left, and may be killed at it.
        if !is_last && fastrand::u8(0..3) == 0 {
            continue;
        }
        if let Err(fault) = log.check(&seen, &mut figures) {
            panic!("kill {kill}: {fault}\n{orders:?}");
        }
        seen = Seen::nothing();
        if is_last {
            log = Log::new();
        }
    }
    tell(&format!(
        "kills of a process that mints: {kills} ({} before the first answer) in {:.0?}: {} answers, {} entries, \
         {} openings, {} torn ends, none missing, no serial number twice",
        figures.silent,
        started.elapsed(),
        figures.answers,
        figures.entries,
        figures.openings,
        figures.torn,
    ));
    assert!(figures.answers > 20 * kills, "the processes minted: {} answers", figures.answers);
    assert!(figures.torn > 0, "writes were cut off in the middle");
}

#[test]
fn a_disk_that_lies_about_its_flushes_is_noticed() {
    const NAME: &str = "a_disk_that_lies_about_its_flushes_is_noticed";
    child::run();
    let mut log = Log::new();
    let orders = log.orders(Some(Manner::Lying), Durability::Durable);
    let mut seen = Seen::of(orders.start(NAME), Kill::AfterAnswer(Duration::from_millis(20)));
    assert!(!seen.answers.is_empty(), "it released");
    // A slow process has kept a tree already, and would not be opened at all.
    seen.heads.clear();
    let _ = std::fs::remove_dir_all(log.directory.path().join("tile"));
    let missing = seen.answers.iter().map(|(_, answer)| *answer).collect();
    let fault = log.check(&seen, &mut Figures::default());
    assert_eq!(fault, Err(Fault::Missing(missing)), "each of them is missing");
}

#[test]
fn a_disk_that_lies_is_found_out_by_the_tree_that_was_kept() {
    const NAME: &str = "a_disk_that_lies_is_found_out_by_the_tree_that_was_kept";
    child::run();
    let mut log = Log::new();
    let orders = log.orders(Some(Manner::Lying), Durability::Durable);
    let mut seen = Seen::of(orders.start(NAME), Kill::AfterAnswer(Duration::from_millis(900)));
    assert!(seen.heads.len() > 1, "a tree was kept");
    seen.heads.clear();
    let fault = log.check(&seen, &mut Figures::default()).unwrap_err();
    assert!(fault.to_string().contains("is known (its tiles): its end is missing"), "{fault}");
}

#[test]
fn a_relaxed_log_says_so_and_loses_nothing_with_the_process_alone() {
    const NAME: &str = "a_relaxed_log_says_so_and_loses_nothing_with_the_process_alone";
    child::run();
    let mut log = Log::new();
    let relaxed = Durability::Relaxed { window_ms: 60_000 };
    for kill in 0..8 {
        let orders = log.orders(None, relaxed);
        let seen = Seen::of(orders.start(NAME), Kill::AfterAnswer(some_milliseconds(60)));
        assert!(!seen.answers.is_empty(), "kill {kill}: it released");
        assert_eq!(log.check(&seen, &mut Figures::default()), Ok(()), "kill {kill}");
        let [.., opening, _] = log.history.openings.as_slice() else { panic!("two openings") };
        let said = (opening.writer.number(), opening.durability);
        assert_eq!(said, (orders.writer, relaxed), "kill {kill}");
    }
}

#[test]
fn a_relaxed_log_loses_no_more_than_its_window_with_the_power() {
    const NAME: &str = "a_relaxed_log_loses_no_more_than_its_window_with_the_power";
    child::run();
    let (mut log, mut lost) = (Log::new(), 0);
    let window = Duration::from_millis(100);
    // Until a busy machine has begun the flush that is due, and ended it.
    let late = Duration::from_millis(500);
    for kill in 0..4 {
        let relaxed = Durability::Relaxed { window_ms: 100 };
        let orders = log.orders(Some(Manner::Nothing), relaxed);
        let run = Duration::from_millis(1_200) + some_milliseconds(100);
        let seen = Seen::of(orders.start(NAME), Kill::AfterAnswer(run));
        match log.check(&seen, &mut Figures::default()) {
            Ok(()) => {}
            Err(Fault::Missing(missing)) => {
                let heard = |answer| seen.answers.iter().find(|(_, other)| other == answer);
                let first = missing.iter().map(|answer| heard(answer).unwrap().0).min().unwrap();
                let ago = seen.killed.saturating_duration_since(first);
                assert!(ago <= window + late, "kill {kill}: lost what was released {ago:?} before");
                lost += missing.len();
            }
            Err(fault) => panic!("kill {kill}: {fault}"),
        }
    }
    assert!(lost > 0, "the disk forgot what was not flushed");
}

#[test]
fn a_log_is_in_use_until_the_process_that_writes_it_is_gone() {
    const NAME: &str = "a_log_is_in_use_until_the_process_that_writes_it_is_gone";
    child::run();
    let mut log = Log::new();
    let orders = log.orders(None, Durability::Durable);
    let mut child = orders.start(NAME);
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let opened = lines.any(|line| line.unwrap().starts_with("head "));
    assert!(opened, "it has its log");
    let refused = log.check(&Seen::nothing(), &mut Figures::default()).unwrap_err();
    assert!(refused.to_string().contains("is open in another process"), "{refused}");
    child.kill().unwrap();
    child.wait().unwrap();
    assert_eq!(log.check(&Seen::nothing(), &mut Figures::default()), Ok(()));
}

/// When a process is killed.
#[derive(Debug, Clone, Copy)]
enum Kill {
    /// So long after its start, whatever it is doing.
    AfterStart(Duration),
    /// So long after its first answer.
    AfterAnswer(Duration),
}

/// Mostly among the first answers; now and then when the process is still opening its log, or when it has kept
/// tiles.
fn instant_to_kill() -> Kill {
    match fastrand::u8(0..12) {
        0 | 1 => Kill::AfterStart(some_milliseconds(80)),
        2 => Kill::AfterAnswer(Duration::from_millis(500) + some_milliseconds(200)),
        _ => Kill::AfterAnswer(some_milliseconds(60)),
    }
}

fn some_milliseconds(most: u64) -> Duration {
    Duration::from_micros(fastrand::u64(0..most * 1_000))
}

/// What a process has told until it was killed.
struct Seen {
    /// And when it was heard.
    answers: Vec<(Instant, Answer)>,
    heads: Vec<Head>,
    torn: u64,
    /// Whether it was killed before its first answer.
    silent: u64,
    killed: Instant,
}

impl Seen {
    fn nothing() -> Self {
        let (answers, heads) = (Vec::new(), Vec::new());
        Self { answers, heads, torn: 0, silent: 0, killed: Instant::now() }
    }

    /// What the next process has told.
    fn add(&mut self, next: Self) {
        self.answers.extend(next.answers);
        self.heads.extend(next.heads);
        self.torn += next.torn;
        self.silent += next.silent;
        self.killed = next.killed;
    }

    fn of(mut child: Child, kill: Kill) -> Self {
        let mut out = BufReader::new(child.stdout.take().unwrap());
        let (first_tell, first) = mpsc::channel();
        let reader = thread::spawn(move || {
            let (mut seen, mut line) = (Self::nothing(), String::new());
            while out.read_line(&mut line).unwrap() > 0 {
                match Said::read(&line) {
                    Some(Said::Released(answer)) => {
                        if seen.answers.is_empty() {
                            let _ = first_tell.send(());
                        }
                        seen.answers.push((Instant::now(), answer));
                    }
                    Some(Said::Head(head)) => seen.heads.push(head),
                    Some(Said::Torn) => seen.torn += 1,
                    None => {}
                }
                line.clear();
            }
            seen
        });
        match kill {
            Kill::AfterStart(wait) => thread::sleep(wait),
            Kill::AfterAnswer(wait) => {
                // A process that ends without an answer is looked at below.
                let _ = first.recv();
                thread::sleep(wait);
            }
        }
        let killed = Instant::now();
        child.kill().unwrap();
        let ended = child.wait().unwrap();
        assert_eq!(ended.signal(), Some(9), "it went on until it was killed");
        let seen = reader.join().unwrap();
        Self { silent: u64::from(seen.answers.is_empty()), killed, ..seen }
    }
}

/// A log that many processes write in turn, each until it is killed.
struct Log {
    directory: tempfile::TempDir,
    history: History,
    writers: u32,
}

impl Log {
    fn new() -> Self {
        let directory = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        let history = History::new(directory.path().to_owned());
        Self { directory, history, writers: 0 }
    }

    fn orders(&mut self, disk: Option<Manner>, durability: Durability) -> Orders {
        let directory = self.directory.path().to_owned();
        Orders { directory, writer: self.writer(), seed: fastrand::u64(..), disk, durability }
    }

    fn writer(&mut self) -> u32 {
        self.writers += 1;
        self.writers
    }

    /// Opens what the process left, as the next would, and looks at all of it that is new.
    fn check(&mut self, seen: &Seen, figures: &mut Figures) -> Result<(), Fault> {
        let writer = WriterId::new(self.writer()).unwrap();
        let settings = settings(self.directory.path(), Durability::Durable);
        let known: Vec<_> = seen.heads.iter().map(|&head| (head, "the process")).collect();
        let now = Timestamp::from_unix(1_800_000_000);
        let log = LocalLog::open(&settings, Arc::new(RealDisk), writer, &known, now)
            .map_err(|error| Fault::Unreadable(error.to_string()))?;
        let opened = log.opened().clone();
        drop(log);
        let before = (self.history.entries(), self.history.openings.len());
        let answers: Vec<Answer> = seen.answers.iter().map(|(_, answer)| *answer).collect();
        let heads: Vec<Head> = seen.heads.iter().copied().chain([opened.continues]).collect();
        let checked = self.history.check(&answers, &heads);
        figures.answers += answers.len() as u64;
        figures.silent += seen.silent;
        figures.torn += seen.torn + u64::from(opened.torn.is_some());
        figures.entries += self.history.entries() - before.0;
        figures.openings += (self.history.openings.len() - before.1) as u64;
        checked
    }
}

#[derive(Debug, Default)]
struct Figures {
    answers: u64,
    entries: u64,
    openings: u64,
    torn: u64,
    /// Runs that were killed before their first answer.
    silent: u64,
}

/// A number that the long form of a run sets, or the one of the short form.
fn count(variable: &str, short: u64) -> u64 {
    match std::env::var(variable) {
        Ok(text) => text.parse().unwrap_or_else(|_| panic!("{variable}={text} is no number")),
        Err(_) => short,
    }
}

/// Tells a figure to whoever reads the run.
#[expect(clippy::print_stderr, reason = "figures are what a long run is made for")]
fn tell(figure: &str) {
    eprintln!("soak: {figure}");
}
