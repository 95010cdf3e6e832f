//! The process that is killed: it mints as fast as it can, and tells what it has released as a client sees it.

use std::fmt::Write as _;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Instant;

use ca_core::clock::{Clock, Timestamp};
use ca_core::log::local::{Disk, LocalLog, LogSettings, RealDisk};
use ca_core::log::tree::{Hash, Head};
use ca_core::log::{Durability, WriterId};
use keymanager::SoftwareStore;

use crate::minting::{Answer, Leaves, Minting, order};
use crate::unflushed::{Manner, Unflushed};

/// The variable that has the orders, and makes a process a child.
const ORDERS: &str = "CRASH_TEST_CHILD";
const CALLERS: usize = 6;
const MOST_WISHES: usize = 64;

/// What a child is to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Orders {
    pub(crate) directory: PathBuf,
    pub(crate) writer: u32,
    pub(crate) seed: u64,
    /// `None` for the machine's own.
    pub(crate) disk: Option<Manner>,
    pub(crate) durability: Durability,
}

const MANNERS: [Option<Manner>; 5] =
    [None, Some(Manner::Nothing), Some(Manner::Prefix), Some(Manner::Pages), Some(Manner::Lying)];

impl Orders {
    /// Starts the test of that name again, in a process that finds these.
    pub(crate) fn start(&self, test: &str) -> Child {
        let disk = MANNERS.iter().position(|manner| *manner == self.disk).unwrap();
        let window = match self.durability {
            Durability::Durable => 0,
            Durability::Relaxed { window_ms } => window_ms,
        };
        let directory = self.directory.to_str().unwrap();
        let orders = format!("{} {} {disk} {window} {directory}", self.writer, self.seed);
        Command::new(std::env::current_exe().unwrap())
            .args(["--exact", test, "--nocapture"])
            .env(ORDERS, orders)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap()
    }

    fn given() -> Option<Self> {
        let orders = std::env::var(ORDERS).ok()?;
        let mut words = orders.splitn(5, ' ');
        let mut number = || words.next().unwrap().parse::<u64>().unwrap();
        let (writer, seed, disk, window) = (number(), number(), number(), number());
        let durability = match u32::try_from(window).unwrap() {
            0 => Durability::Durable,
            window_ms => Durability::Relaxed { window_ms },
        };
        let directory = words.next().unwrap().into();
        let disk = MANNERS[disk as usize];
        Some(Self { directory, writer: writer as u32, seed, disk, durability })
    }
}

/// Does what the orders say until it is killed. Returns at once in a process without orders.
pub(crate) fn run() {
    let Some(orders) = Orders::given() else { return };
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    runtime.block_on(mint_for_ever(&orders));
}

async fn mint_for_ever(orders: &Orders) {
    let clock = Arc::new(AroundMidnight { start: Instant::now(), seed: orders.seed });
    let log = Arc::new(open(orders, clock.now()));
    if log.opened().torn.is_some() {
        say(&Said::Torn);
    }
    say(&Said::Head(log.opened().continues));
    let keys = SoftwareStore::in_memory("faults.test");
    let minting = Minting::start(&keys, Leaves::ByIssuingKey, log.clone(), clock).await;
    let minting = Arc::new(minting);
    for caller in 0..CALLERS {
        let (minting, name) = (Arc::clone(&minting), format!("{}-{caller}", orders.writer));
        let random = fastrand::Rng::with_seed(orders.seed ^ caller as u64);
        tokio::spawn(call_for_ever(minting, name, random));
    }
    let mut kept = log.kept();
    loop {
        kept.changed().await.unwrap();
        let head = kept.borrow_and_update().head;
        say(&Said::Head(head));
    }
}

fn open(orders: &Orders, now: Timestamp) -> LocalLog {
    let disk: Arc<dyn Disk> = match orders.disk {
        None => Arc::new(RealDisk),
        Some(manner) => Arc::new(Unflushed::new(manner, orders.seed)),
    };
    let writer = WriterId::new(orders.writer).unwrap();
    LocalLog::open(&settings(&orders.directory, orders.durability), disk, writer, &[], now).unwrap()
}

pub(crate) fn settings(directory: &Path, durability: Durability) -> LogSettings {
    LogSettings { directory: directory.to_owned(), durability }
}

async fn call_for_ever(minting: Arc<Minting>, name: String, mut random: fastrand::Rng) {
    for call in 0.. {
        let count = if random.bool() { random.usize(1..=4) } else { random.usize(1..=MOST_WISHES) };
        let tokens = random.u8(0..3);
        let wish = |at| match tokens {
            0 => minting.token(format!("{name}-{call}-{at}")),
            1 if at % 2 == 0 => minting.token(format!("{name}-{call}-{at}")),
            _ => minting.certificate(),
        };
        let wishes = (0..count).map(wish).collect();
        let answers = minting.pipeline.batch(wishes, &order()).await;
        let answers = answers.into_iter().map(|answer| Answer::of(&answer.unwrap()));
        say_all(answers.map(Said::Released));
    }
}

/// Stands still before midnight in most runs; in the others it goes to and fro over it.
struct AroundMidnight {
    start: Instant,
    seed: u64,
}

impl Clock for AroundMidnight {
    fn now(&self) -> Timestamp {
        let day = 1_800_057_600 + 86_400 * i64::try_from(self.seed % 3).unwrap();
        let after = self.seed.is_multiple_of(4) && (self.start.elapsed().as_millis() / 20) % 2 == 1;
        Timestamp::from_unix(if after { day + 1 } else { day - 1 })
    }
}

/// What a child says to its parent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Said {
    Released(Answer),
    /// A tree that the log had.
    Head(Head),
    /// The process before has left a torn end.
    Torn,
}

impl Said {
    /// Reads a line; `None` for the words of the test harness, and for a line that a kill has cut.
    pub(crate) fn read(line: &str) -> Option<Self> {
        let words: Vec<&str> = line.strip_suffix(" .\n")?.split(' ').collect();
        match *words.as_slice() {
            ["certificate", serial, digest] => {
                let serial = Some(bytes(serial).try_into().unwrap());
                let digest = bytes(digest).try_into().unwrap();
                Some(Self::Released(Answer { serial, digest }))
            }
            ["token", digest] => {
                let digest = bytes(digest).try_into().unwrap();
                Some(Self::Released(Answer { serial: None, digest }))
            }
            ["head", size, root] => {
                let root = Hash::from_bytes(bytes(root).try_into().unwrap());
                Some(Self::Head(Head { size: size.parse().unwrap(), root }))
            }
            ["torn"] => Some(Self::Torn),
            _ => None,
        }
    }

    fn write(&self, line: &mut String) {
        match self {
            Self::Released(Answer { serial: Some(serial), digest }) => {
                writeln!(line, "certificate {} {} .", hex(serial), hex(digest)).unwrap();
            }
            Self::Released(Answer { serial: None, digest }) => {
                writeln!(line, "token {} .", hex(digest)).unwrap();
            }
            Self::Head(Head { size, root }) => {
                writeln!(line, "head {size} {} .", hex(root.as_bytes())).unwrap();
            }
            Self::Torn => line.push_str("torn .\n"),
        }
    }
}

fn say(said: &Said) {
    say_all([*said]);
}

/// Past the capture of the test harness, whose own line may not be at its end.
fn say_all(all: impl IntoIterator<Item = Said>) {
    let mut text = String::from("\n");
    all.into_iter().for_each(|said| said.write(&mut text));
    let mut out = std::io::stdout().lock();
    out.write_all(text.as_bytes()).and_then(|()| out.flush()).unwrap();
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn bytes(hex: &str) -> Vec<u8> {
    let digits = hex.as_bytes().chunks(2).map(|pair| std::str::from_utf8(pair).unwrap());
    digits.map(|pair| u8::from_str_radix(pair, 16).unwrap()).collect()
}
