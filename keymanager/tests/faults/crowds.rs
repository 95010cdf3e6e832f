//! A pipeline whose authority is a key in the token, and more who ask than the device can serve: who is served,
//! who is refused and how soon, and what is left of those that give up. Seconds here, a minute in `make soak`.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use ca_core::clock::{Clock, SystemClock};
use ca_core::log::local::{LocalLog, LogSettings, RealDisk};
use ca_core::log::{Caller, Durability, WriterId};
use ca_core::mint::MintError;
use ca_core::pipeline::admission::{Bounds, Class, Refused};
use ca_core::pipeline::{Minted, Order};
use keymanager::Pkcs11Store;
use keymanager::pkcs11::Settings;
use pkcs11_proxy::Function;
use tokio::task::JoinSet;

use crate::bench::{Bench, DOMAIN, count, is_alone, resident, tell, until};
use crate::minting::{Leaves, Minting};

/// The device: about 2,000 signatures a second.
const LATENCY: Duration = Duration::from_millis(2);
const SLOTS: u32 = 4;
/// So long an answer is of use.
const PATIENCE: Duration = Duration::from_secs(2);
const CALLERS: u64 = 16;

#[tokio::test(flavor = "multi_thread")]
async fn ten_times_the_capacity_costs_no_throughput_and_every_class_has_its_share() {
    const NAME: &str =
        "crowds::ten_times_the_capacity_costs_no_throughput_and_every_class_has_its_share";
    if !is_alone(NAME) {
        return;
    }
    let world = World::new(BOUNDS).await;
    let capacity = world.capacity(Duration::from_secs(2)).await;
    let time = Duration::from_secs(count("SOAK_OVERLOAD_SECONDS", 4));
    // Each class alone offers more than its share of the turns.
    let streams =
        [(Class::Expiring, 1.0), (Class::New, 2.0), (Class::Refresh, 3.0), (Class::Bulk, 4.0)];
    let streams = streams.map(|(class, times)| Stream::new(class, times * capacity, time));
    let signed = world.signed();
    let run = world.offer(&streams).await;
    let signed = world.signed() - signed;
    run.tell("ten times the capacity", capacity);
    run.check(capacity, signed);
    let released = |class: Class| run.of(class).released.load(Ordering::Relaxed) as f64;
    let all: f64 = Class::ALL.into_iter().map(released).sum();
    for class in Class::ALL {
        let share = f64::from(class.share()) / 100.0;
        let part = released(class) / all;
        assert!(part >= share * strict_or(0.9, 0.6), "{class:?}: {part:.3} of {share}");
    }
    let (first, last) = (run.of(Class::Expiring).wait(99), run.of(Class::Bulk).wait(99));
    assert!(first * 4 <= last * strict_or(1, 2), "expiring waits {first:?}, bulk {last:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn while_bulk_fills_everything_nothing_expiring_within_its_share_is_refused() {
    const NAME: &str =
        "crowds::while_bulk_fills_everything_nothing_expiring_within_its_share_is_refused";
    if !is_alone(NAME) {
        return;
    }
    let world = World::new(BOUNDS).await;
    let capacity = world.capacity(Duration::from_secs(2)).await;
    let time = Duration::from_secs(count("SOAK_OVERLOAD_SECONDS", 4));
    let bulk = Stream::new(Class::Bulk, 10.0 * capacity, time);
    let expiring = Stream { from: time / 4, ..Stream::new(Class::Expiring, 0.2 * capacity, time) };
    let signed = world.signed();
    let run = world.offer(&[bulk, expiring]).await;
    let signed = world.signed() - signed;
    run.tell("bulk everywhere", capacity);
    run.check(capacity, signed);
    let (expiring, bulk) = (run.of(Class::Expiring), run.of(Class::Bulk));
    let offered = expiring.offered.load(Ordering::Relaxed);
    assert_eq!(expiring.released.load(Ordering::Relaxed), offered, "none of it is refused or late");
    assert!(bulk.released.load(Ordering::Relaxed) > offered, "what it leaves is bulk's");
    let (first, last) = (expiring.wait(99), bulk.wait(99));
    assert!(first * 4 <= last * strict_or(1, 2), "expiring waits {first:?}, bulk {last:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn of_five_hundred_callers_that_leave_only_what_was_being_signed_is_signed() {
    const LEAVE: usize = 500;
    let world = World::new(BOUNDS).await;
    let before = world.signed();
    let mut callers = JoinSet::new();
    for number in 0..LEAVE as u64 {
        let minting = Arc::clone(&world.minting);
        callers.spawn(async move {
            let order = order(Class::New, number, Instant::now());
            minting.pipeline.one(minting.certificate(), &order).await
        });
    }
    tokio::time::sleep(Duration::from_millis(20)).await;
    callers.abort_all();
    let mut released = 0;
    while let Some(answer) = callers.join_next().await {
        released += u64::from(matches!(answer, Ok(Ok(_))));
    }
    let left = world.signed();
    let asked = Instant::now();
    let order = order(Class::New, 0, asked);
    world.minting.pipeline.one(world.minting.certificate(), &order).await.unwrap();
    let next = asked.elapsed();
    tokio::time::sleep(Duration::from_millis(100)).await;
    let (signed, after) = (world.signed() - before, world.signed() - left);
    tell(&format!(
        "{LEAVE} callers left after 20 ms: {released} were answered, {signed} signatures in all, {after} of \
         them after they had left, one of which was the next caller's, answered in {next:?}"
    ));
    // What is in the slots, one more that the pipeline hands over, and the next caller's.
    let under_way = u64::from(SLOTS) + 2;
    assert!(after <= under_way, "{after}");
    // Some were answered and had no time left to hear it.
    assert!(signed <= released + 3 * under_way, "{signed} for {released}");
    // The work of 500 would be 250 ms.
    assert!(next < Duration::from_millis(100), "{next:?}");
}

const BOUNDS: Bounds =
    Bounds { memory: 64 << 20, wait: Duration::from_secs(5), caller_percent: 50 };

/// A bar as it is for the long form, which has the machine for itself, or with the slack of the short one, beside
/// which other tests run.
fn strict_or<T>(strict: T, slack: T) -> T {
    if std::env::var_os("SOAK_OVERLOAD_SECONDS").is_some() { strict } else { slack }
}

fn order(class: Class, number: u64, asked: Instant) -> Order {
    let uid = u32::try_from(number % CALLERS).unwrap();
    Order { caller: Caller::Local { uid, pid: None }, class, deadline: asked + PATIENCE }
}

/// A pipeline that signs leaves with the authority's key, which is in a slow token.
struct World {
    minting: Arc<Minting>,
    _directory: tempfile::TempDir,
    bench: Bench,
}

impl World {
    async fn new(bounds: Bounds) -> Self {
        let bench = Bench::new();
        // The store's own probes would be counted as signatures.
        let settings = Settings { probe_interval: Duration::from_secs(3600), ..bench.settings() };
        let store = Pkcs11Store::open(settings, DOMAIN).await.unwrap();
        // In memory, so that the device is what bounds and not the machine's disk.
        let directory = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap();
        let clock = Arc::new(SystemClock);
        let log =
            LogSettings { directory: directory.path().to_owned(), durability: Durability::Durable };
        let writer = WriterId::new(1).unwrap();
        let log = LocalLog::open(&log, Arc::new(RealDisk), writer, &[], clock.now()).unwrap();
        let leaves = Leaves::ByAuthority;
        let minting = Minting::start_within(bounds, &store, leaves, Arc::new(log), clock).await;
        bench.device.set_slots(SLOTS);
        bench.device.set_latency(Function::Sign, LATENCY);
        let world = Self { minting: Arc::new(minting), _directory: directory, bench };
        // Sessions are opened, and what is only made once is made.
        world.capacity(Duration::from_millis(300)).await;
        world
    }

    fn signed(&self) -> u64 {
        self.bench.device.calls(Function::Sign)
    }

    /// Releases in a second, by callers that ask again as soon as they are answered.
    async fn capacity(&self, time: Duration) -> f64 {
        let mut callers = JoinSet::new();
        let end = Instant::now() + time;
        for number in 0..64 {
            let minting = Arc::clone(&self.minting);
            callers.spawn(async move {
                let mut released = 0;
                while Instant::now() < end {
                    let order = order(Class::New, number, Instant::now());
                    minting.pipeline.one(minting.certificate(), &order).await.unwrap();
                    released += 1;
                }
                released
            });
        }
        let released: u32 = callers.join_all().await.into_iter().sum();
        f64::from(released) / time.as_secs_f64()
    }

    /// Offers all streams, and waits for all answers.
    async fn offer(&self, streams: &[Stream]) -> Run {
        let time = streams.iter().map(|stream| stream.until).max().unwrap();
        let run = Run::new();
        let (runtime, minting) = (tokio::runtime::Handle::current(), &self.minting);
        let threads = streams.iter().map(|stream| {
            let (stream, runtime) = (stream.clone(), runtime.clone());
            let (minting, seen) = (Arc::clone(minting), Arc::clone(run.of(stream.class)));
            std::thread::spawn(move || stream.offer(run.start, &minting, &seen, &runtime))
        });
        let threads: Vec<_> = threads.collect();
        tokio::time::sleep_until((run.start + time / 4).into()).await;
        let early = resident();
        tokio::time::sleep_until((run.start + time).into()).await;
        let (late, goodput) = (resident(), run.released() / time.as_secs_f64());
        threads.into_iter().for_each(|thread| thread.join().unwrap());
        until("every answer", || run.seen.iter().all(|seen| seen.is_answered())).await;
        Run { goodput, memory: (early, late), ..run }
    }
}

/// What one class asks for, on a schedule that does not care for the answers.
#[derive(Clone)]
struct Stream {
    class: Class,
    per_second: f64,
    from: Duration,
    until: Duration,
}

impl Stream {
    fn new(class: Class, per_second: f64, until: Duration) -> Self {
        Self { class, per_second, from: Duration::ZERO, until }
    }

    fn offer(
        &self,
        start: Instant,
        minting: &Arc<Minting>,
        seen: &Arc<Seen>,
        runtime: &tokio::runtime::Handle,
    ) {
        for number in 0_u64.. {
            let after = self.from + Duration::from_secs_f64(number as f64 / self.per_second);
            if after >= self.until {
                break;
            }
            let due = start + after;
            std::thread::sleep(due.saturating_duration_since(Instant::now()));
            let order = order(self.class, number, due);
            let (wish, asked_of) = (minting.certificate(), Arc::clone(minting));
            let mut asking = Box::pin(async move { asked_of.pipeline.one(wish, &order).await });
            seen.offered.fetch_add(1, Ordering::Relaxed);
            let asked = Instant::now();
            match asking.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
                Poll::Ready(answer) => {
                    seen.refusals.note(asked.elapsed());
                    seen.answer(&answer, due);
                }
                Poll::Pending => {
                    let seen = Arc::clone(seen);
                    runtime.spawn(async move { seen.answer(&asking.await, due) });
                }
            }
        }
    }
}

/// A run, and what was seen of each class.
struct Run {
    start: Instant,
    seen: [Arc<Seen>; Class::ALL.len()],
    /// Released in a second while it went on.
    goodput: f64,
    /// Of this process in KiB, after a quarter of it and at its end.
    memory: (u64, u64),
}

impl Run {
    fn new() -> Self {
        let seen = std::array::from_fn(|_| Arc::default());
        Self { start: Instant::now(), seen, goodput: 0.0, memory: (0, 0) }
    }

    fn of(&self, class: Class) -> &Arc<Seen> {
        &self.seen[class as usize]
    }

    fn released(&self) -> f64 {
        self.seen.iter().map(|seen| seen.released.load(Ordering::Relaxed) as f64).sum()
    }

    fn sum(&self, count: impl Fn(&Seen) -> &AtomicU64) -> u64 {
        self.seen.iter().map(|seen| count(seen).load(Ordering::Relaxed)).sum()
    }

    fn tell(&self, what: &str, capacity: f64) {
        let (early, late) = self.memory;
        tell(&format!(
            "{what}: {:.0}/s released of a capacity of {capacity:.0}/s; memory {early} KiB after a quarter, {late} \
             KiB at the end",
            self.goodput
        ));
        for class in Class::ALL {
            self.of(class).tell(what, class);
        }
    }

    /// What holds of every run.
    fn check(&self, capacity: f64, signed: u64) {
        // With less, it is not the device that bounds.
        assert!(capacity > strict_or(1_600.0, 500.0), "{capacity}/s with callers that wait");
        let least = strict_or(0.9, 0.6);
        assert!(self.goodput >= least * capacity, "{}/s of {capacity}/s", self.goodput);
        let (early, late) = self.memory;
        assert!(late <= early + 8 * 1024, "{early} KiB, then {late} KiB");
        let (released, failed) = (self.sum(|seen| &seen.released), self.sum(|seen| &seen.failed));
        assert!(
            signed <= released + failed,
            "{signed} signed, {released} released, {failed} failed"
        );
        for seen in &self.seen {
            assert!(seen.others.lock().unwrap().is_empty(), "{:?}", seen.others);
            assert_eq!(seen.hintless.load(Ordering::Relaxed), 0, "refusals without a hint");
            let slowest = Duration::from_millis(strict_or(5, 50));
            assert!(seen.refusals.percentile(99) < slowest, "{:?}", seen.refusals.percentile(99));
        }
    }
}

/// What became of what a class asked for.
#[derive(Default)]
struct Seen {
    offered: AtomicU64,
    released: AtomicU64,
    /// For want of a place, at once or when another took it.
    refused: AtomicU64,
    /// The deadline passed before the turn came.
    late: AtomicU64,
    /// The deadline passed while it was being signed.
    failed: AtomicU64,
    /// Refused without a time after which to try again.
    hintless: AtomicU64,
    /// From when it was to be asked to when it was released.
    waits: Times,
    /// How long the calls took that were refused at once.
    refusals: Times,
    others: Mutex<BTreeSet<String>>,
}

impl Seen {
    fn answer(&self, answer: &Result<Minted, MintError>, due: Instant) {
        let counter = match answer {
            Ok(_) => {
                self.waits.note(due.elapsed());
                &self.released
            }
            Err(MintError::NotAdmitted(Refused::Full(hint) | Refused::Budget(hint))) => {
                self.hintless.fetch_add(u64::from(hint.is_zero()), Ordering::Relaxed);
                &self.refused
            }
            Err(MintError::NotAdmitted(Refused::Late)) => &self.late,
            Err(MintError::X509(_)) => &self.failed,
            Err(other) => {
                self.others.lock().unwrap().insert(other.to_string());
                &self.failed
            }
        };
        counter.fetch_add(1, Ordering::Relaxed);
    }

    fn is_answered(&self) -> bool {
        let answers = [&self.released, &self.refused, &self.late, &self.failed];
        let answers: u64 = answers.into_iter().map(|count| count.load(Ordering::Relaxed)).sum();
        answers == self.offered.load(Ordering::Relaxed)
    }

    fn wait(&self, percent: u64) -> Duration {
        self.waits.percentile(percent)
    }

    fn tell(&self, what: &str, class: Class) {
        let get = |count: &AtomicU64| count.load(Ordering::Relaxed);
        tell(&format!(
            "{what}: {class:?}: {} offered, {} released, {} refused, {} late, {} failed; waits {:.1?}, p99 {:.1?}; \
             refusals p99 {:.1?}",
            get(&self.offered),
            get(&self.released),
            get(&self.refused),
            get(&self.late),
            get(&self.failed),
            self.wait(50),
            self.wait(99),
            self.refusals.percentile(99),
        ));
    }
}

/// Times, to a twentieth, in memory that does not grow.
struct Times([AtomicU64; 512]);

impl Default for Times {
    fn default() -> Self {
        Self(std::array::from_fn(|_| AtomicU64::new(0)))
    }
}

impl Times {
    fn note(&self, time: Duration) {
        let place = (time.as_nanos().max(1) as f64).ln() / 1.05_f64.ln();
        self.0[(place as usize).min(511)].fetch_add(1, Ordering::Relaxed);
    }

    /// So many of a hundred are not longer; zero of none.
    fn percentile(&self, percent: u64) -> Duration {
        let all: u64 = self.0.iter().map(|count| count.load(Ordering::Relaxed)).sum();
        let mut seen = 0;
        let place = self.0.iter().position(|count| {
            seen += count.load(Ordering::Relaxed);
            seen * 100 >= all * percent
        });
        let longest = 1.05_f64.powf(place.unwrap_or(0) as f64 + 1.0);
        if all == 0 { Duration::ZERO } else { Duration::from_nanos(longest as u64) }
    }
}
