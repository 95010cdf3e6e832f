//! When requests are sent: at times fixed before the run, whether or not answers have come.
//!
//! A generator that waits for an answer before it sends again asks a stalled server for nothing, and so
//! leaves out of its figures exactly the requests that would have been slow. Here each request has an
//! intended time, and whatever happens after that time counts as its latency.

use std::num::NonZeroU64;
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::setpriority_process;
use rustix::thread::set_current_timer_slack;

use crate::shape::Schedule;
use crate::target::Item;

/// Most items that leave together, so that the first of many late ones does not wait for the last.
const MOST_AT_ONCE: usize = 1_024;

/// Calls `depart` for the items of `schedule`, which take turns among `asks` questions, at their times: with
/// all whose time has come, and the time it is. A late item leaves late, with its intended time unchanged, and
/// none is left out. Blocks until the last.
pub fn keep(
    schedule: &Schedule,
    asks: u32,
    time: &mut impl Time,
    mut depart: impl FnMut(&[Item], Duration),
) {
    let count = schedule.count();
    let item = |index| Item {
        index,
        ask: u32::try_from(index % u64::from(asks)).expect("a place is below a length"),
        intended: schedule.at(index),
    };
    let mut due = Vec::with_capacity(MOST_AT_ONCE);
    let mut next = item(0);
    while next.index < count {
        time.wait_until(next.intended);
        let now = time.now();
        while next.index < count && next.intended <= now && due.len() < MOST_AT_ONCE {
            due.push(next);
            next = item(next.index + 1);
        }
        depart(&due, now);
        due.clear();
    }
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
    /// `PR_SET_TIMERSLACK`); this one asks not to be kept, and to come before others when its time has come.
    /// Where that is refused, requests leave later, which the report shows.
    #[must_use]
    pub fn on_this_thread(start: Instant) -> Self {
        let _ = set_current_timer_slack(Some(NO_SLACK));
        // Linux: of this thread alone (nice(2)). Takes a privilege.
        let _ = setpriority_process(None, URGENT);
        Self { start }
    }
}

/// Nanoseconds; zero would mean the default.
const NO_SLACK: NonZeroU64 = NonZeroU64::MIN;
/// A nice value.
const URGENT: i32 = -10;

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
    use proptest::prelude::*;

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
    fn requests_leave_at_their_times() {
        let time = VirtualTime::default();
        let mut departures = Vec::new();
        keep(&Schedule::even(100, 1, milliseconds(50)), 2, &mut &time, |items, now| {
            departures.push((items.to_vec(), now));
        });
        let expected: Vec<_> = (0..5)
            .map(|index| {
                let intended = milliseconds(10 * index);
                let ask = u32::try_from(index % 2).unwrap();
                (vec![Item { index, ask, intended }], intended)
            })
            .collect();
        assert_eq!(departures, expected);
    }

    proptest! {
        #[test]
        fn a_generator_held_up_anywhere_sends_all_it_owes_at_once_with_their_intended_times(
            from in 1..50_000_u32, to in 1..50_000_u32, batch in 1..200_u32, ms in 1..200_u64,
            held_up in proptest::collection::vec(0..5_000_000_u64, 1..40),
        ) {
            let time = VirtualTime::default();
            let schedule = Schedule::new(from, to, batch, milliseconds(ms));
            let (mut sent, mut turn, mut wrong) = (0, 0, None);
            keep(&schedule, 7, &mut &time, |items, now| {
                for item in items {
                    let right = item.index == sent
                        && u64::from(item.ask) == sent % 7
                        && item.intended == schedule.at(sent)
                        && item.intended <= now;
                    if !right {
                        wrong.get_or_insert((*item, sent, now));
                    }
                    sent += 1;
                }
                // Whatever else is due by now leaves with them.
                if items.len() < MOST_AT_ONCE && sent < schedule.count() && schedule.at(sent) <= now {
                    wrong.get_or_insert((items[0], sent, now));
                }
                time.now.set(now + Duration::from_nanos(held_up[turn % held_up.len()]));
                turn += 1;
            });
            prop_assert_eq!(wrong, None);
            prop_assert_eq!(sent, schedule.count());
        }
    }

    #[test]
    fn the_monotonic_clock_never_lets_a_request_leave_early() {
        let mut time = MonotonicTime::on_this_thread(Instant::now());
        keep(&Schedule::even(1_000, 1, milliseconds(20)), 1, &mut time, |items, now| {
            assert!(items.iter().all(|item| now >= item.intended), "{items:?} at {now:?}");
        });
    }
}
