//! The rate at which a KMS is asked, as its throttling shapes it.
//!
//! Below a quota nothing is throttled, above it the surplus is: the share that passes tells the quota. After
//! a cut the rate returns quickly to what passed last, stays near it, and then probes ever faster, so that a
//! quota that was raised is found within seconds and a steady one is hardly overstepped.

use std::time::{Duration, Instant};

/// After a cut the rate starts this much below what passed, to let the quota's bucket fill again.
const CUT: f64 = 0.9;
/// The rate reaches double of what passed after 7 seconds: a cube of the time from the plateau, per s³.
const STEEPNESS: f64 = 0.01;
/// The part of the ceiling that the same cube adds, so that a rate that was cut to a trickle is whole again
/// after 15 seconds.
const RECOVERY: f64 = 0.0003;
/// The lowest share of the rate that one cut leaves.
const DEEPEST: f64 = 0.3;
/// The lowest rate: a trickle that shows when the KMS answers again.
const LOWEST: f64 = 1.0;
/// The shortest time between two cuts. Answers to what was sent before a cut do not count against it.
const SHORTEST_WINDOW: Duration = Duration::from_millis(50);

/// A rate that adapts.
#[derive(Debug)]
pub(super) struct Rate {
    ceiling: f64,
    /// The last cut, and what passed then.
    cut: Option<(Instant, f64)>,
    /// What was answered since `since`: enough to tell the share that passes.
    since: Instant,
    passed: u32,
    throttled: u32,
}

impl Rate {
    /// Starts at its ceiling, in requests per second.
    pub(super) fn new(ceiling: f64, now: Instant) -> Self {
        Self { ceiling, cut: None, since: now, passed: 0, throttled: 0 }
    }

    /// Requests per second that may be sent now.
    pub(super) fn per_second(&self, now: Instant) -> f64 {
        let Some((at, plateau)) = self.cut else { return self.ceiling };
        let time = now.saturating_duration_since(at).as_secs_f64();
        let to_plateau = ((1.0 - CUT) / STEEPNESS).cbrt();
        let cube = (time - to_plateau).powi(3);
        let rate = plateau * (1.0 + STEEPNESS * cube) + self.ceiling * RECOVERY * cube.max(0.0);
        rate.clamp(LOWEST, self.ceiling.max(LOWEST))
    }

    /// A request was not throttled.
    pub(super) fn passed(&mut self, now: Instant, round_trip: Duration) {
        if now.saturating_duration_since(self.since) > window(round_trip) {
            (self.since, self.passed, self.throttled) = (now, 0, 0);
        }
        self.passed += 1;
    }

    /// A request was throttled. Cuts the rate, unless that was done a moment ago; says whether it did.
    pub(super) fn throttled(&mut self, now: Instant, round_trip: Duration) -> bool {
        self.throttled += 1;
        let fresh =
            |(at, _): &(Instant, f64)| now.saturating_duration_since(*at) < window(round_trip);
        if self.cut.as_ref().is_some_and(fresh) {
            return false;
        }
        let share = f64::from(self.passed) / f64::from(self.passed + self.throttled);
        let plateau = self.per_second(now) * share.max(DEEPEST);
        self.cut = Some((now, plateau.max(LOWEST)));
        (self.since, self.passed, self.throttled) = (now, 0, 0);
        true
    }
}

fn window(round_trip: Duration) -> Duration {
    (round_trip * 2).max(SHORTEST_WINDOW)
}

#[cfg(test)]
mod tests {
    use super::*;

    const ROUND_TRIP: Duration = Duration::from_millis(10);

    /// A KMS with a bucket a tenth of a second deep, asked at exactly the rate in steps of a millisecond.
    struct Simulation {
        rate: Rate,
        now: Instant,
        owed: f64,
        bucket: f64,
    }

    impl Simulation {
        fn new(ceiling: f64) -> Self {
            let now = Instant::now();
            Self { rate: Rate::new(ceiling, now), now, owed: 0.0, bucket: 0.0 }
        }

        /// How many passed and how many were throttled under this quota for so long.
        fn run(&mut self, quota: f64, seconds: f64) -> (f64, f64) {
            let (mut passed, mut throttled) = (0.0, 0.0);
            for _ in 0..(seconds * 1000.0) as u32 {
                self.now += Duration::from_millis(1);
                self.owed += self.rate.per_second(self.now) / 1000.0;
                self.bucket = (self.bucket + quota / 1000.0).min(quota / 10.0);
                while self.owed >= 1.0 {
                    self.owed -= 1.0;
                    if self.bucket >= 1.0 {
                        self.bucket -= 1.0;
                        passed += 1.0;
                        self.rate.passed(self.now, ROUND_TRIP);
                    } else {
                        throttled += 1.0;
                        self.rate.throttled(self.now, ROUND_TRIP);
                    }
                }
            }
            (passed, throttled)
        }
    }

    #[test]
    fn a_steady_quota_is_used_and_hardly_overstepped() {
        for (ceiling, quota) in [(1000.0, 1000.0), (1500.0, 1000.0), (4000.0, 200.0)] {
            let mut simulation = Simulation::new(ceiling);
            simulation.run(quota, 5.0);
            let (passed, throttled) = simulation.run(quota, 60.0);
            assert!(passed >= 0.96 * 60.0 * quota, "{passed} of {quota}/s at most {ceiling}/s");
            assert!(throttled <= 0.03 * passed, "{throttled} throttled, {passed} passed");
        }
    }

    #[test]
    fn a_halved_quota_is_found_at_once_and_a_doubled_one_within_ten_seconds() {
        let mut simulation = Simulation::new(1000.0);
        simulation.run(1000.0, 5.0);
        let (_, throttled) = simulation.run(500.0, 1.0);
        assert!(throttled <= 250.0, "{throttled} throttled in the first second");
        let (passed, _) = simulation.run(500.0, 20.0);
        assert!(passed >= 0.95 * 500.0 * 20.0, "{passed} at half the quota");
        simulation.run(1000.0, 9.0);
        let (passed, _) = simulation.run(1000.0, 1.0);
        assert!(passed >= 950.0, "{passed} in the tenth second of the full quota");
    }

    #[test]
    fn a_kms_that_throttles_everything_is_still_asked_a_little() {
        let mut simulation = Simulation::new(1000.0);
        let (_, throttled) = simulation.run(0.0, 20.0);
        assert!(throttled < 400.0, "{throttled} requests");
        let rate = simulation.rate.per_second(simulation.now);
        assert!((LOWEST..200.0).contains(&rate), "{rate}");
        simulation.run(1000.0, 15.0);
        let (passed, _) = simulation.run(1000.0, 5.0);
        assert!(passed >= 0.95 * 5000.0, "{passed} in five seconds after it healed");
    }
}
