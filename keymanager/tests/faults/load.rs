//! Many callers at once, and what became of each call.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use ca_core::key::{Priority, SignError, SigningKey, Urgency};
use tokio::task::JoinSet;

use crate::bench::{Figures, probe};

/// Callers that ask again as soon as they are answered.
pub(crate) struct Load {
    pub(crate) keys: Vec<Arc<dyn SigningKey>>,
    pub(crate) callers: usize,
    /// Each waits so long, or, every other one, a third of it.
    pub(crate) patience: Duration,
}

/// What became of the calls.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(crate) struct Tally {
    pub(crate) asked: u64,
    /// Released and verified by us.
    pub(crate) signed: u64,
    /// Released and wrong.
    pub(crate) invalid: u64,
    pub(crate) busy: u64,
    pub(crate) late: u64,
    pub(crate) unavailable: u64,
    pub(crate) refused: u64,
    pub(crate) wrong: u64,
    pub(crate) malformed: u64,
    /// Told that the store is closed, though it is not: their jobs were dropped without an answer.
    pub(crate) lost: u64,
    /// The longest that a caller was answered after its deadline.
    pub(crate) overrun: Duration,
    /// The longest that a refusal for want of a place took.
    pub(crate) slowest_refusal: Duration,
    /// How many were signed in each tenth of a second.
    pub(crate) tenths: Vec<u64>,
    /// What the failed ones were told, without numbers.
    pub(crate) reasons: BTreeSet<String>,
}

impl Load {
    /// Goes on until `ends`, which is told how many were signed, says so.
    pub(crate) async fn run(self, ends: impl Fn(u64) -> bool + Send + Sync + 'static) -> Tally {
        let (ends, signed) = (Arc::new(ends), Arc::new(AtomicU64::new(0)));
        let started = Instant::now();
        let mut callers = JoinSet::new();
        for number in 0..self.callers {
            let key = Arc::clone(&self.keys[number % self.keys.len()]);
            let patience = if number % 2 == 0 { self.patience } else { self.patience / 3 };
            let priority = Priority::ALL[1 + number % 4];
            let (ends, signed) = (Arc::clone(&ends), Arc::clone(&signed));
            callers.spawn(async move {
                let mut tally = Tally::default();
                while !ends(signed.load(Ordering::Relaxed)) {
                    let before = tally.signed;
                    tally.call(&*key, priority, patience, started).await;
                    signed.fetch_add(tally.signed - before, Ordering::Relaxed);
                }
                tally
            });
        }
        let mut sum = Tally::default();
        while let Some(tally) = callers.join_next().await {
            sum.add(tally.unwrap());
        }
        sum
    }
}

impl Tally {
    async fn call(
        &mut self,
        key: &dyn SigningKey,
        priority: Priority,
        patience: Duration,
        started: Instant,
    ) {
        let message = probe(key);
        let asked = Instant::now();
        let urgency = Urgency::within(priority, patience, asked);
        let answer = key.sign(message.clone(), urgency).await;
        let answered = Instant::now();
        self.asked += 1;
        self.overrun = self.overrun.max(answered.saturating_duration_since(urgency.deadline));
        match answer {
            Ok(signature) if key.public_key().verifies(message.message(), &signature) => {
                self.signed += 1;
                let tenth = ((answered - started).as_millis() / 100) as usize;
                if self.tenths.len() <= tenth {
                    self.tenths.resize(tenth + 1, 0);
                }
                self.tenths[tenth] += 1;
            }
            Ok(_) => self.invalid += 1,
            Err(error) => {
                self.failed(&error);
                if let SignError::Busy { retry_after, .. } = error {
                    self.slowest_refusal = self.slowest_refusal.max(answered - asked);
                    tokio::time::sleep(retry_after.min(Duration::from_millis(20))).await;
                }
            }
        }
    }

    fn failed(&mut self, error: &SignError) {
        let text = error.to_string();
        if text.contains("the key store is closed") || text.contains("dropped") {
            self.lost += 1;
        }
        *match error {
            SignError::Busy { .. } => &mut self.busy,
            SignError::Unavailable { .. } => &mut self.unavailable,
            SignError::Refused { .. } => &mut self.refused,
            SignError::Late { .. } => &mut self.late,
            SignError::Wrong { .. } => &mut self.wrong,
            SignError::Malformed { .. } => &mut self.malformed,
        } += 1;
        let text = text.split_once(": ").map_or(&text[..], |(_, reason)| reason);
        self.reasons.insert(text.chars().filter(|letter| !letter.is_ascii_digit()).collect());
    }

    pub(crate) fn add(&mut self, other: Self) {
        self.asked += other.asked;
        self.signed += other.signed;
        self.invalid += other.invalid;
        self.busy += other.busy;
        self.late += other.late;
        self.unavailable += other.unavailable;
        self.refused += other.refused;
        self.wrong += other.wrong;
        self.malformed += other.malformed;
        self.lost += other.lost;
        self.overrun = self.overrun.max(other.overrun);
        self.slowest_refusal = self.slowest_refusal.max(other.slowest_refusal);
        if self.tenths.len() < other.tenths.len() {
            self.tenths.resize(other.tenths.len(), 0);
        }
        for (tenth, signed) in self.tenths.iter_mut().zip(other.tenths) {
            *tenth += signed;
        }
        self.reasons.extend(other.reasons);
    }

    pub(crate) fn failures(&self) -> u64 {
        self.busy + self.late + self.unavailable + self.refused + self.wrong + self.malformed
    }

    /// Each call was answered once, no released signature is wrong, and the figures say the same.
    pub(crate) fn check(&self, before: &Self, figures: &Figures) {
        assert_eq!(self.invalid, 0, "a wrong signature was released: {self:?}");
        assert_eq!(self.lost, 0, "an answer was lost: {self:?}");
        assert_eq!(self.signed + self.failures(), self.asked, "{self:?}");
        assert!(self.reasons.iter().all(|reason| !reason.trim().is_empty()), "{self:?}");
        let counted = Self::counted(figures);
        for (outcome, ours, before, counted) in [
            ("signed", self.signed, before.signed, counted.signed),
            ("busy", self.busy, before.busy, counted.busy),
            ("late", self.late, before.late, counted.late),
            ("unavailable", self.unavailable, before.unavailable, counted.unavailable),
            ("refused", self.refused, before.refused, counted.refused),
            ("wrong", self.wrong, before.wrong, counted.wrong),
            ("malformed", self.malformed, before.malformed, counted.malformed),
        ] {
            assert_eq!(ours, counted - before, "{outcome}, by callers and by the figures");
        }
    }

    /// What the figures say up to now.
    pub(crate) fn counted(figures: &Figures) -> Self {
        Self {
            signed: figures.outcomes("signed"),
            busy: figures.outcomes("busy"),
            late: figures.outcomes("late"),
            unavailable: figures.outcomes("unavailable"),
            refused: figures.outcomes("refused"),
            wrong: figures.outcomes("wrong"),
            malformed: figures.outcomes("malformed"),
            ..Self::default()
        }
    }

    /// In one line, for people.
    pub(crate) fn summary(&self) -> String {
        format!(
            "{} asked, {} signed, {} busy, {} late, {} unavailable, {} refused, {} wrong, {} malformed, \
             {} invalid released, {} lost; longest past a deadline {:?}",
            self.asked,
            self.signed,
            self.busy,
            self.late,
            self.unavailable,
            self.refused,
            self.wrong,
            self.malformed,
            self.invalid,
            self.lost,
            self.overrun
        )
    }
}

/// How late this machine wakes a task, measured beside a load: the margin of a deadline.
pub(crate) struct Margin {
    stop: Arc<AtomicBool>,
    sleeper: tokio::task::JoinHandle<Duration>,
}

impl Margin {
    pub(crate) fn measure() -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let sleeper = tokio::spawn(async move {
            let mut latest = Duration::ZERO;
            while !stopped.load(Ordering::Relaxed) {
                let due = Instant::now() + Duration::from_millis(5);
                tokio::time::sleep_until(due.into()).await;
                latest = latest.max(due.elapsed());
            }
            latest
        });
        Self { stop, sleeper }
    }

    /// The latest that it was.
    pub(crate) async fn end(self) -> Duration {
        self.stop.store(true, Ordering::Relaxed);
        self.sleeper.await.unwrap()
    }
}

/// A caller may be answered so much later than its deadline beside the margin: its task runs with others.
pub(crate) const SLACK: Duration = Duration::from_millis(100);
