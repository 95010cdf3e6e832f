//! What became of each request while a part of a run lasts: counted where it happens, gathered window by
//! window.

use std::collections::BTreeMap;
use std::num::NonZeroUsize;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock};
use std::thread::{self, Thread};
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;

use crate::check::{Checker, Claim};
use crate::target::{Fault, Item, Svid};

/// The account of one part of a run, shared by who sends, who is answered and who watches.
///
/// What is counted per item is counted under a lock that is taken once per batch; there is a page for
/// each core, so that hardly anybody waits for one.
#[derive(Debug)]
pub struct Ledger {
    start: Instant,
    offered: AtomicU64,
    dropped: AtomicU64,
    in_flight: AtomicU64,
    most_in_flight: u64,
    pages: Box<[Mutex<Page>]>,
    checker: Option<Arc<Checker>>,
    /// Who wants to know when an item is answered; in a closed loop alone.
    waiting: OnceLock<Thread>,
}

/// What came back, on one core or in one window.
#[derive(Debug)]
pub struct Page {
    /// Of what was answered with an SVID, from the intended time; nanoseconds.
    pub latency: Histogram<u64>,
    /// When the last SVID came.
    pub last: Duration,
    /// What got no SVID, by code: how often, and what was said of the first.
    pub errors: BTreeMap<&'static str, (u64, String)>,
}

/// How many requests there were so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counts {
    /// Those whose time came.
    pub offered: u64,
    /// Those of them that were not sent.
    pub dropped: u64,
    /// Those that wait for an answer.
    pub in_flight: u64,
}

impl Ledger {
    /// Nothing has happened. At most `most_in_flight` items may wait for an answer at once: of a closed
    /// loop, its callers. Answers go to `checker`, if there is one.
    #[must_use]
    pub fn new(start: Instant, most_in_flight: u64, checker: Option<Arc<Checker>>) -> Self {
        let cores = thread::available_parallelism().map_or(1, NonZeroUsize::get);
        Self {
            start,
            offered: AtomicU64::new(0),
            dropped: AtomicU64::new(0),
            in_flight: AtomicU64::new(0),
            most_in_flight,
            pages: (0..=cores).map(|_| Mutex::new(Page::new())).collect(),
            checker,
            waiting: OnceLock::new(),
        }
    }

    /// How long this part of the run has lasted.
    #[must_use]
    pub fn now(&self) -> Duration {
        self.start.elapsed()
    }

    /// The machine's time at `since_start`.
    #[must_use]
    pub fn instant(&self, since_start: Duration) -> Instant {
        self.start + since_start
    }

    /// Counts `count` items whose time has come, and says how many of them may be sent.
    pub fn offer(&self, count: usize) -> usize {
        let wanted = count as u64;
        // Only the thread that keeps the pace adds: the room can but grow meanwhile.
        let room = self.most_in_flight.saturating_sub(self.in_flight.load(Ordering::Acquire));
        let sent = wanted.min(room);
        self.in_flight.fetch_add(sent, Ordering::AcqRel);
        self.offered.fetch_add(wanted, Ordering::Relaxed);
        self.dropped.fetch_add(wanted - sent, Ordering::Relaxed);
        usize::try_from(sent).expect("no more than were offered")
    }

    /// Counts what came of items, all of them now. An SVID that is to be checked goes to whoever checks.
    pub fn deliver(&self, answers: impl IntoIterator<Item = (Item, Result<Svid, Fault>)>) {
        let now = self.now();
        let mut claims = Vec::new();
        let mut count = 0;
        let mut page = self.page();
        for (item, outcome) in answers {
            count += 1;
            match outcome {
                Ok(svid) => {
                    page.answered(item.intended, now);
                    if self.checker.as_ref().is_some_and(|checker| checker.wants(item.index)) {
                        claims.push(Claim { ask: item.ask, svid });
                    }
                }
                Err(fault) => page.failed(fault),
            }
        }
        drop(page);
        if let (Some(checker), false) = (&self.checker, claims.is_empty()) {
            checker.hand_over(claims);
        }
        self.in_flight.fetch_sub(count, Ordering::AcqRel);
        if let Some(waiting) = self.waiting.get() {
            waiting.unpark();
        }
    }

    /// How many callers of a closed loop have their answer; one thread alone asks this. Blocks while there is none, until `end`.
    pub fn wait_for_callers(&self, end: Duration) -> usize {
        self.waiting.get_or_init(thread::current);
        loop {
            let free = self.most_in_flight - self.in_flight.load(Ordering::Acquire);
            let left = end.saturating_sub(self.now());
            if free > 0 || left.is_zero() {
                return usize::try_from(free).expect("a plan has at most 100,000 callers");
            }
            thread::park_timeout(left);
        }
    }

    /// Blocks until nothing is in flight, or until `end`; whatever is left then is unanswered, and nothing
    /// of it is counted here any more.
    pub fn settle(&self, end: Duration) {
        while self.counts().in_flight > 0 && self.now() < end {
            thread::sleep(Duration::from_millis(1));
        }
    }

    /// The counts so far.
    #[must_use]
    pub fn counts(&self) -> Counts {
        Counts {
            offered: self.offered.load(Ordering::Relaxed),
            dropped: self.dropped.load(Ordering::Relaxed),
            in_flight: self.in_flight.load(Ordering::Acquire),
        }
    }

    /// Adds what came back since the last time to `total`, which was [empty](Page::clear) or not.
    pub fn gather(&self, spare: &mut Page, total: &mut Page) {
        for page in &self.pages {
            // The lock is held for a swap alone.
            std::mem::swap(&mut *page.lock().expect(COUNTING), spare);
            total.add(spare);
            spare.clear();
        }
    }

    fn page(&self) -> MutexGuard<'_, Page> {
        static THREADS: AtomicUsize = AtomicUsize::new(0);
        thread_local! {
            static THREAD: usize = THREADS.fetch_add(1, Ordering::Relaxed);
        }
        let place = THREAD.with(|thread| thread % self.pages.len());
        self.pages[place].lock().expect(COUNTING)
    }
}

const COUNTING: &str = "counting does not panic";

impl Page {
    /// Nothing came back.
    #[must_use]
    pub fn new() -> Self {
        Self { latency: spans(), last: Duration::ZERO, errors: BTreeMap::new() }
    }

    /// Counts an SVID that came at `now`.
    pub fn answered(&mut self, intended: Duration, now: Duration) {
        record(&mut self.latency, now.saturating_sub(intended));
        self.last = self.last.max(now);
    }

    /// Counts a request that got none.
    pub fn failed(&mut self, fault: Fault) {
        let Fault { code, message } = fault;
        self.errors.entry(code).or_insert_with(|| (0, one_line(&message))).0 += 1;
    }

    /// How many got none.
    #[must_use]
    pub fn failures(&self) -> u64 {
        self.errors.values().map(|(count, _)| count).sum()
    }

    /// Takes in all that `other` has.
    pub fn add(&mut self, other: &Self) {
        if !other.latency.is_empty() {
            self.latency.add(&other.latency).expect("all have the same bounds");
        }
        self.last = self.last.max(other.last);
        for (code, (count, first)) in &other.errors {
            self.errors.entry(code).or_insert_with(|| (0, first.clone())).0 += count;
        }
    }

    /// As if nothing had come back.
    pub fn clear(&mut self) {
        if !self.latency.is_empty() {
            self.latency.reset();
        }
        self.last = Duration::ZERO;
        self.errors.clear();
    }
}

impl Default for Page {
    fn default() -> Self {
        Self::new()
    }
}

/// Nanoseconds, with an error of at most a thousandth, up to an hour.
#[must_use]
pub fn spans() -> Histogram<u64> {
    Histogram::new_with_bounds(1, LONGEST, 3).expect("the bounds are in order")
}

/// Longer spans count as this: one hour, far beyond what any request may take.
const LONGEST: u64 = 3_600_000_000_000;

/// Counts one span.
pub fn record(spans: &mut Histogram<u64>, span: Duration) {
    spans.saturating_record(u64::try_from(span.as_nanos()).unwrap_or(LONGEST));
}

/// Most characters of a message that are kept.
const LONGEST_MESSAGE: usize = 200;

/// A message as one line of a table, whatever a server puts into it.
pub(crate) fn one_line(message: &str) -> String {
    message
        .chars()
        .take(LONGEST_MESSAGE)
        .map(|character| if character.is_control() { ' ' } else { character })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn item(index: u64) -> Item {
        Item { index, ask: 0, intended: Duration::ZERO }
    }

    fn gathered(ledger: &Ledger) -> Page {
        let mut total = Page::new();
        ledger.gather(&mut Page::new(), &mut total);
        total
    }

    #[test]
    fn what_is_offered_beyond_the_limit_is_dropped_until_there_is_room() {
        let ledger = Ledger::new(Instant::now(), 5, None);
        assert_eq!((ledger.offer(3), ledger.offer(3), ledger.offer(1)), (3, 2, 0));
        ledger.deliver((0..4).map(|index| (item(index), Ok(Svid::Nothing))));
        assert_eq!(ledger.offer(9), 4);
        assert_eq!(ledger.counts(), Counts { offered: 16, dropped: 7, in_flight: 5 });
    }

    #[test]
    fn what_many_threads_deliver_is_counted_once() {
        let ledger = Ledger::new(Instant::now(), 8_000, None);
        assert_eq!(ledger.offer(8_000), 8_000);
        let mut total = Page::new();
        thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    for batch in 0..100 {
                        let items = (0..10).map(|n| {
                            let fault = Fault { code: "INTERNAL", message: "a\nb".to_owned() };
                            (
                                item(batch * 10 + n),
                                if n == 0 { Err(fault) } else { Ok(Svid::Nothing) },
                            )
                        });
                        ledger.deliver(items);
                    }
                });
            }
            for _ in 0..20 {
                ledger.gather(&mut Page::new(), &mut total);
            }
        });
        total.add(&gathered(&ledger));
        assert_eq!((total.latency.len(), total.failures()), (7_200, 800));
        assert_eq!(total.errors["INTERNAL"].1, "a b");
        assert_eq!(ledger.counts().in_flight, 0);
    }

    #[test]
    fn errors_are_not_in_the_latency() {
        let ledger = Ledger::new(Instant::now(), 1, None);
        ledger.offer(1);
        ledger.deliver([(item(0), Err(Fault::unusable()))]);
        assert_eq!(gathered(&ledger).latency.len(), 0);
    }

    #[test]
    fn a_span_beyond_all_bounds_is_kept_at_the_bound() {
        let mut page = Page::new();
        page.answered(Duration::ZERO, Duration::MAX);
        assert!(page.latency.max() >= LONGEST);
    }

    #[test]
    fn a_caller_that_got_its_answer_is_free_again() {
        let ledger = Arc::new(Ledger::new(Instant::now(), 2, None));
        let end = Duration::from_secs(60);
        assert_eq!(ledger.wait_for_callers(end), 2);
        ledger.offer(2);
        let answering = thread::spawn({
            let ledger = ledger.clone();
            move || ledger.deliver([(item(0), Ok(Svid::Nothing))])
        });
        assert_eq!(ledger.wait_for_callers(end), 1);
        answering.join().unwrap();
        ledger.offer(1);
        assert_eq!(ledger.wait_for_callers(Duration::ZERO), 0);
    }
}
