//! When requests are sent: at times fixed before the run, whether or not answers have come.
//!
//! A generator that waits for an answer before it sends again asks a stalled server for nothing, and so
//! leaves out of its figures exactly the requests that would have been slow. Here each request has an
//! intended time, and whatever happens after that time counts as its latency.

use std::num::NonZeroU64;
use std::thread;
use std::time::{Duration, Instant};

use rustix::thread::set_current_timer_slack;

/// The intended times of a run: even intervals from its start, which is zero.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Schedule {
    rate: u32,
    duration: Duration,
}

impl Schedule {
    /// `rate` requests per second, at least 1, for `duration`.
    #[must_use]
    pub fn new(rate: u32, duration: Duration) -> Self {
        Self { rate: rate.max(1), duration }
    }

    /// How many requests have their time before the end.
    #[must_use]
    pub fn count(&self) -> u64 {
        let count = (self.duration.as_nanos() * u128::from(self.rate)).div_ceil(NANOSECONDS);
        u64::try_from(count).unwrap_or(u64::MAX)
    }

    /// The intended time of request `index`, counted from 0. Rounding does not add up: each is computed
    /// from the start, not from the one before.
    #[must_use]
    pub fn at(&self, index: u64) -> Duration {
        let nanoseconds = u128::from(index) * NANOSECONDS / u128::from(self.rate);
        Duration::from_nanos(u64::try_from(nanoseconds).unwrap_or(u64::MAX))
    }

    /// Calls `depart` for each request at its time, or at once if that time has passed: a late request
    /// is sent late, with its intended time unchanged, and none is left out. Blocks until the last.
    pub fn keep(&self, time: &mut impl Time, mut depart: impl FnMut(Departure)) {
        for index in 0..self.count() {
            let intended = self.at(index);
            time.wait_until(intended);
            depart(Departure { index, intended, actual: time.now() });
        }
    }
}

const NANOSECONDS: u128 = 1_000_000_000;

/// A request whose time has come. Times are counted from the start of the run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Departure {
    /// Which request of the schedule.
    pub index: u64,
    /// When it should have been sent.
    pub intended: Duration,
    /// When the generator came to it.
    pub actual: Duration,
}

/// Time since the start of a run.
pub trait Time {
    /// How long the run has lasted.
    fn now(&self) -> Duration;
    /// Blocks until the run has lasted `instant`; not at all if it has.
    fn wait_until(&mut self, instant: Duration);
}

/// The machine's monotonic clock. It blocks the thread: a runtime's timer ticks in milliseconds, and the
/// interval at 5,000 requests a second is a fifth of one.
#[derive(Debug, Clone, Copy)]
pub struct MonotonicTime {
    start: Instant,
}

impl MonotonicTime {
    /// A run that starts at `start`, for the calling thread to wait in.
    ///
    /// The kernel wakes a thread up to 50 µs late, to wake several at once (prctl(2),
    /// `PR_SET_TIMERSLACK`); this one asks not to be kept. Where that is refused, requests leave later,
    /// which the report shows.
    #[must_use]
    pub fn on_this_thread(start: Instant) -> Self {
        let _ = set_current_timer_slack(Some(NO_SLACK));
        Self { start }
    }
}

/// Nanoseconds; zero would mean the default.
const NO_SLACK: NonZeroU64 = NonZeroU64::MIN;

impl Time for MonotonicTime {
    fn now(&self) -> Duration {
        self.start.elapsed()
    }

    fn wait_until(&mut self, instant: Duration) {
        let left = instant.saturating_sub(self.now());
        if !left.is_zero() {
            thread::sleep(left);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A clock that moves when it is waited for, and when a test pushes it.
    #[derive(Default)]
    struct VirtualTime {
        now: std::cell::Cell<Duration>,
    }

    impl Time for &VirtualTime {
        fn now(&self) -> Duration {
            self.now.get()
        }

        fn wait_until(&mut self, instant: Duration) {
            self.now.set(self.now.get().max(instant));
        }
    }

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
            let schedule = Schedule::new(rate, duration);
            assert_eq!(schedule.count(), count, "{rate}/s for {duration:?}");
            assert!(schedule.at(count - 1) < duration);
            assert!(schedule.at(count) + Duration::from_nanos(1) > duration);
        }
    }

    #[test]
    fn a_rate_that_divides_no_second_does_not_drift() {
        let schedule = Schedule::new(3, milliseconds(86_400_000));
        assert_eq!(schedule.at(1).as_nanos(), 333_333_333);
        assert_eq!(schedule.at(3 * 86_399), Duration::from_secs(86_399));
    }

    #[test]
    fn requests_leave_at_their_times() {
        let time = VirtualTime::default();
        let mut departures = Vec::new();
        Schedule::new(100, milliseconds(50))
            .keep(&mut &time, |departure| departures.push(departure));
        let expected: Vec<_> = (0..5)
            .map(|index| Departure {
                index,
                intended: milliseconds(10 * index),
                actual: milliseconds(10 * index),
            })
            .collect();
        assert_eq!(departures, expected);
    }

    #[test]
    fn a_held_up_generator_sends_all_it_owes_at_once_and_keeps_their_intended_times() {
        let time = VirtualTime::default();
        let mut departures = Vec::new();
        Schedule::new(100, milliseconds(100)).keep(&mut &time, |departure| {
            departures.push((departure.intended.as_millis(), departure.actual.as_millis()));
            if departure.index == 2 {
                time.now.set(milliseconds(65));
            }
        });
        let late = [(30, 65), (40, 65), (50, 65), (60, 65)];
        assert_eq!(departures[..3], [(0, 0), (10, 10), (20, 20)]);
        assert_eq!(departures[3..7], late);
        assert_eq!(departures[7..], [(70, 70), (80, 80), (90, 90)]);
    }

    #[test]
    fn the_monotonic_clock_never_lets_a_request_leave_early() {
        let mut time = MonotonicTime::on_this_thread(Instant::now());
        Schedule::new(1_000, milliseconds(20)).keep(&mut time, |departure| {
            assert!(departure.actual >= departure.intended, "{departure:?}");
        });
    }
}
