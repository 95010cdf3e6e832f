//! How requests are spread over time: schedules fixed before the run, a closed loop beside them, and the
//! search for the rate at which a server can follow no more.

use std::fmt;
use std::time::Duration;

use serde::Serialize;

use crate::plan::seconds;

/// How requests are spread over a run.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
#[serde(tag = "shape", rename_all = "snake_case")]
pub enum Shape {
    /// Open loop: even intervals.
    Constant {
        /// Requests per second, at least 1.
        rate: u32,
        /// Requests that come at once.
        batch: u32,
        /// How long requests are sent.
        #[serde(rename = "duration_seconds", serialize_with = "seconds")]
        duration: Duration,
    },
    /// Open loop: intervals that grow shorter or longer.
    Ramp {
        /// Requests per second at the beginning, at least 1.
        from: u32,
        /// Requests per second at the end, at least 1.
        to: u32,
        /// Requests that come at once.
        batch: u32,
        /// How long requests are sent.
        #[serde(rename = "duration_seconds", serialize_with = "seconds")]
        duration: Duration,
    },
    /// Open loop: steps up to the knee, then a measurement at half of it.
    Knee(Knee),
    /// Closed loop: each caller waits for its answer before it asks again.
    Closed {
        /// How many, at least 1.
        callers: u32,
        /// How long they ask.
        #[serde(rename = "duration_seconds", serialize_with = "seconds")]
        duration: Duration,
    },
}

/// How to look for the knee.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Knee {
    /// Rate of the first step.
    pub from: u32,
    /// No step is higher.
    pub to: u32,
    /// Each step is this much higher than the last, until one is too high.
    pub factor: f64,
    /// How long each step lasts.
    #[serde(rename = "step_seconds", serialize_with = "seconds")]
    pub step: Duration,
    /// A step is too high if its achieved rate is below the offered one by more than this part of it.
    pub short_by: f64,
    /// A step is too high if its p99 is above this.
    #[serde(rename = "p99_seconds", serialize_with = "seconds")]
    pub p99: Duration,
    /// Requests that come at once.
    pub batch: u32,
    /// How long half of the knee is measured.
    #[serde(rename = "duration_seconds", serialize_with = "seconds")]
    pub duration: Duration,
}

impl Shape {
    /// Whether the next request waits for the last answer.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        matches!(self, Self::Closed { .. })
    }

    /// The most requests that a run may send; of a closed loop nobody knows before.
    #[must_use]
    pub fn most_requests(&self) -> u64 {
        match *self {
            Self::Constant { rate, batch, duration } => {
                Schedule::even(rate, batch, duration).count()
            }
            Self::Ramp { from, to, batch, duration } => {
                Schedule::new(from, to, batch, duration).count()
            }
            Self::Knee(_) | Self::Closed { .. } => u64::MAX,
        }
    }
}

impl fmt::Display for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Constant { rate, batch, duration } => {
                write!(f, "open loop, {rate}/s for {duration:?}{}", Batches(batch))
            }
            Self::Ramp { from, to, batch, duration } => {
                write!(f, "open loop, {from}/s to {to}/s over {duration:?}{}", Batches(batch))
            }
            Self::Knee(Knee { from, factor, step, duration, batch, .. }) => write!(
                f,
                "open loop, steps of {step:?} from {from}/s by {factor} up to the knee, then half of it \
                 for {duration:?}{}",
                Batches(batch)
            ),
            Self::Closed { callers, duration } => {
                write!(f, "closed loop, {callers} callers for {duration:?}")
            }
        }
    }
}

struct Batches(u32);

impl fmt::Display for Batches {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0 > 1 { write!(f, ", {} at once", self.0) } else { Ok(()) }
    }
}

/// The intended times of a run, counted from its start: intervals that are even, or change evenly in rate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Schedule {
    from: u32,
    to: u32,
    batch: u32,
    duration: Duration,
}

impl Schedule {
    /// From `from` to `to` requests per second over `duration`, `batch` of them at a time; each at least 1.
    #[must_use]
    pub fn new(from: u32, to: u32, batch: u32, duration: Duration) -> Self {
        Self { from: from.max(1), to: to.max(1), batch: batch.max(1), duration }
    }

    /// `rate` requests per second throughout.
    #[must_use]
    pub fn even(rate: u32, batch: u32, duration: Duration) -> Self {
        Self::new(rate, rate, batch, duration)
    }

    /// How long requests are sent.
    #[must_use]
    pub fn duration(&self) -> Duration {
        self.duration
    }

    /// How many requests have their time before the end.
    #[must_use]
    pub fn count(&self) -> u64 {
        let rates = u128::from(self.from) + u128::from(self.to);
        let count = (self.duration.as_nanos() * rates).div_ceil(2 * NANOSECONDS);
        let count = u64::try_from(count).unwrap_or(u64::MAX);
        // A batch that has begun is whole.
        count.div_ceil(self.batch.into()).saturating_mul(self.batch.into())
    }

    /// The intended time of request `index`, counted from 0. Rounding does not add up: each is computed
    /// from the start, not from the one before.
    #[must_use]
    pub fn at(&self, index: u64) -> Duration {
        let index = index - index % u64::from(self.batch);
        if self.from == self.to { self.at_even(index) } else { self.at_ramp(index) }
    }

    fn at_even(&self, index: u64) -> Duration {
        // Twice as fast as the same in 128 bits, and enough for hours.
        if let Some(nanoseconds) = index.checked_mul(1_000_000_000) {
            return Duration::from_nanos(nanoseconds / u64::from(self.from));
        }
        let nanoseconds = u128::from(index) * NANOSECONDS / u128::from(self.from);
        Duration::from_nanos(u64::try_from(nanoseconds).unwrap_or(u64::MAX))
    }

    /// After t of T seconds, n = from·t + (to − from)·t²/2T requests had their time; this is its inverse,
    /// in the form that does not subtract like from like.
    #[expect(clippy::cast_precision_loss, reason = "right to a nanosecond in a day")]
    fn at_ramp(&self, index: u64) -> Duration {
        let (from, to, n) = (f64::from(self.from), f64::from(self.to), index as f64);
        let under_root = from * from + 2.0 * (to - from) * n / self.duration.as_secs_f64();
        let t = 2.0 * n / (from + under_root.max(0.0).sqrt());
        Duration::try_from_secs_f64(t).unwrap_or(self.duration).min(self.duration)
    }
}

const NANOSECONDS: u128 = 1_000_000_000;

/// The search for the knee: which rate is to be tried next. Steps go up by a factor until one is too high,
/// then halve the gap. A step that is too high is tried once more, since a machine may be busy with
/// something else for a moment; one that the generator could not keep is tried three times and ends the search.
#[derive(Debug, Clone)]
pub struct Search {
    knee: Knee,
    /// Highest rate that was good.
    good: Option<u32>,
    /// Lowest rate that was too high.
    bad: Option<u32>,
    next: u32,
    again: bool,
    /// How often in turn the step at `next` said nothing of the server.
    void: u32,
    halvings: u32,
}

/// How a step went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// The server followed.
    Followed,
    /// It did not.
    TooHigh,
    /// It cannot be told: the generator itself did not.
    Void,
}

/// How often a rate is tried that the generator cannot keep.
const VOID_TRIES: u32 = 3;

/// How often the gap is halved: a factor of 1.5 becomes 1.05.
const HALVINGS: u32 = 3;

impl Search {
    /// Nothing was tried.
    #[must_use]
    pub fn new(knee: Knee) -> Self {
        Self { knee, good: None, bad: None, next: knee.from, again: false, void: 0, halvings: 0 }
    }

    /// The rate to try, until it is known well enough.
    #[must_use]
    pub fn next(&self) -> Option<u32> {
        let near = match (self.good, self.bad) {
            (None, Some(_)) => true,
            (Some(good), Some(bad)) => self.halvings > HALVINGS || bad - good < 2,
            (Some(good), None) => good >= self.knee.to,
            (None, None) => false,
        };
        (!near && self.generator_limit().is_none()).then_some(self.next)
    }

    /// The rate that the generator could not keep, if that is what ended the search.
    #[must_use]
    pub fn generator_limit(&self) -> Option<u32> {
        (self.void == VOID_TRIES).then_some(self.next)
    }

    /// How the step at [`next`](Self::next) went.
    pub fn tried(&mut self, verdict: Verdict) {
        match verdict {
            Verdict::Void => {
                self.void += 1;
                return;
            }
            Verdict::TooHigh if !self.again => {
                self.again = true;
                return;
            }
            Verdict::TooHigh => self.bad = Some(self.next),
            Verdict::Followed => self.good = Some(self.next),
        }
        (self.again, self.void) = (false, 0);
        self.next = match (self.good, self.bad) {
            (Some(good), Some(bad)) => {
                self.halvings += 1;
                good + (bad - good) / 2
            }
            _ => self.higher(),
        };
    }

    /// The highest rate that was good.
    #[must_use]
    pub fn knee(&self) -> Option<u32> {
        self.good
    }

    /// Whether some rate was too high: without one, the knee is farther up.
    #[must_use]
    pub fn is_bounded(&self) -> bool {
        self.bad.is_some()
    }

    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "bounded above")]
    fn higher(&self) -> u32 {
        let higher = (f64::from(self.next) * self.knee.factor).ceil();
        (higher.min(f64::from(u32::MAX)) as u32)
            .clamp(self.next.saturating_add(1), self.knee.to.max(self.next.saturating_add(1)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn milliseconds(count: u64) -> Duration {
        Duration::from_millis(count)
    }

    #[test]
    fn every_request_has_its_time_before_the_end() {
        for (rate, duration, count) in [
            (200, milliseconds(10_000), 2_000),
            (3, milliseconds(1_000), 3),
            (1, milliseconds(500), 1),
            (7, milliseconds(1_500), 11),
            (1_000_000, milliseconds(86_400_000), 86_400_000_000),
        ] {
            let schedule = Schedule::even(rate, 1, duration);
            assert_eq!(schedule.count(), count, "{rate}/s for {duration:?}");
            assert!(schedule.at(count - 1) < duration);
            assert!(schedule.at(count) + Duration::from_nanos(1) > duration);
        }
    }

    #[test]
    fn a_rate_that_divides_no_second_does_not_drift() {
        let schedule = Schedule::even(3, 1, milliseconds(86_400_000));
        assert_eq!(schedule.at(1).as_nanos(), 333_333_333);
        assert_eq!(schedule.at(3 * 86_399), Duration::from_secs(86_399));
    }

    proptest! {
        #[test]
        fn times_never_go_back_and_end_with_the_run(
            from in 1..2_000_000_u32, to in 1..2_000_000_u32, batch in 1..300_u32, ms in 1..100_000_u64,
            places in proptest::collection::vec(0.0..1.0_f64, 20),
        ) {
            let schedule = Schedule::new(from, to, batch, milliseconds(ms));
            let count = schedule.count();
            prop_assert!(count.is_multiple_of(batch.into()));
            for place in places {
                let index = ((count - 1) as f64 * place) as u64;
                let (this, next) = (schedule.at(index), schedule.at(index + 1));
                prop_assert!(this <= next && this <= milliseconds(ms));
                // Those of a batch have one time.
                prop_assert_eq!(schedule.at(index - index % u64::from(batch)), this);
            }
            prop_assert_eq!(schedule.at(0), Duration::ZERO);
        }

        #[test]
        fn a_ramp_has_at_each_time_the_rate_it_should(
            from in 100..1_000_000_u32, to in 100..1_000_000_u32, place in 0.0..1.0_f64,
        ) {
            let schedule = Schedule::new(from, to, 1, Duration::from_secs(100));
            let index = ((schedule.count() - 1) as f64 * place) as u64;
            let (t, from, to) = (schedule.at(index).as_secs_f64(), f64::from(from), f64::from(to));
            let due = from * t + (to - from) * t * t / 200.0;
            prop_assert!((due - index as f64).abs() < 1.0, "{due} instead of {index} at {t}");
        }

        #[test]
        fn the_knee_that_is_found_is_near_the_one_that_is_there(
            from in 1..1_000_u32, there in 1..100_000_u32, factor in 1.01..10.0_f64,
        ) {
            let mut search = Search::new(Knee { from, factor, ..knee() });
            let mut steps = 0;
            while let Some(rate) = search.next() {
                search.tried(if rate <= there { Verdict::Followed } else { Verdict::TooHigh });
                steps += 1;
                prop_assert!(steps < 2_000);
            }
            let Some(found) = search.knee() else {
                prop_assert!(from > there);
                return Ok(());
            };
            prop_assert!(found <= there);
            let gap = f64::from(found) * (factor - 1.0) / 8.0 + 2.0;
            prop_assert!(f64::from(there - found) <= gap, "{found} instead of {there}");
        }
    }

    fn knee() -> Knee {
        Knee {
            from: 100,
            to: u32::MAX,
            factor: 2.0,
            step: milliseconds(100),
            short_by: 0.02,
            p99: milliseconds(100),
            batch: 1,
            duration: milliseconds(100),
        }
    }

    #[test]
    fn one_bad_moment_is_not_the_knee() {
        let mut search = Search::new(knee());
        search.tried(Verdict::TooHigh);
        assert_eq!(search.next(), Some(100));
        search.tried(Verdict::Followed);
        assert_eq!(search.next(), Some(200));
    }

    #[test]
    fn what_the_generator_could_not_keep_is_tried_again_and_then_no_limit_of_the_server() {
        let mut search = Search::new(knee());
        search.tried(Verdict::Followed);
        for _ in 0..2 {
            search.tried(Verdict::Void);
            assert_eq!(search.next(), Some(200));
        }
        search.tried(Verdict::Followed);
        assert_eq!(search.next(), Some(400));
        for _ in 0..3 {
            assert_eq!(search.next(), Some(400));
            search.tried(Verdict::Void);
        }
        assert_eq!((search.next(), search.generator_limit()), (None, Some(400)));
        assert_eq!((search.knee(), search.is_bounded()), (Some(200), false));
    }

    #[test]
    fn a_search_that_finds_no_bound_ends_at_the_highest_rate() {
        let mut search = Search::new(Knee { to: 500, ..knee() });
        let mut tried = Vec::new();
        while let Some(rate) = search.next() {
            tried.push(rate);
            search.tried(Verdict::Followed);
        }
        assert_eq!(tried, [100, 200, 400, 500]);
        assert_eq!((search.knee(), search.is_bounded()), (Some(500), false));
    }
}
