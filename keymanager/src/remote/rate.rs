//! The rate at which a KMS is asked, as its throttling shapes it.
//!
//! Below a quota nothing is throttled, above it the surplus is: the share that passes tells the quota. A
//! little throttling is what using all of a quota looks like, and costs nobody anything: the rate stays.
//! More cuts it to what passes. Then the rate stays near that, and probes ever faster, so that a quota that
//! was raised is found within seconds and a steady one is hardly overstepped.

use std::time::{Duration, Instant};

/// The share of throttled answers up to which the rate stays. Up to the higher share it stays once: requests
/// that arrive in a bunch are throttled below the quota too.
const TOLERATED: f64 = 0.05;
const TOLERATED_ONCE: f64 = 0.2;
/// After a cut the rate starts this much below what passed, to let the quota's bucket fill again.
const CUT: f64 = 0.03;
/// The rate reaches double of what passed after 5 seconds: a cube of the time from the plateau, per s³.
const STEEPNESS: f64 = 0.02;
/// The part of the ceiling that the same cube adds, so that a rate that was cut to a trickle is whole again
/// after some 20 seconds.
const RECOVERY: f64 = 0.0001;
/// The lowest share of the rate that one cut leaves.
const DEEPEST: f64 = 0.1;
/// The lowest rate: a trickle that shows when the KMS answers again.
const LOWEST: f64 = 1.0;
/// The shortest time that is judged, and the fewest answers; after the longest, fewer have to do.
const SHORTEST_WINDOW: Duration = Duration::from_millis(50);
const FEWEST_ANSWERS: u32 = 20;
const LONGEST_WINDOW: Duration = Duration::from_secs(1);

/// A rate that adapts.
#[derive(Debug)]
pub(super) struct Rate {
    ceiling: f64,
    /// `None` at the ceiling, where nothing has been throttled yet.
    curve: Option<Curve>,
    /// The answers since then, to what was sent since then: what was sent at an earlier rate says nothing
    /// about this one.
    since: Instant,
    answers: u32,
    throttled: u32,
    /// Whether more than is tolerated was throttled in the last time that was judged.
    suspicious: bool,
}

/// How the rate grows from now on.
#[derive(Debug)]
struct Curve {
    from: Instant,
    /// What passed then.
    plateau: f64,
    /// How long the rate takes to get there, in seconds.
    approach: f64,
}

impl Rate {
    /// Starts at its ceiling, in requests per second.
    pub(super) fn new(ceiling: f64, now: Instant) -> Self {
        Self { ceiling, curve: None, since: now, answers: 0, throttled: 0, suspicious: false }
    }

    /// Requests per second that may be sent now.
    pub(super) fn per_second(&self, now: Instant) -> f64 {
        let Some(curve) = &self.curve else { return self.ceiling };
        let time = now.saturating_duration_since(curve.from).as_secs_f64();
        let cube = (time - curve.approach).powi(3);
        let rate = curve.plateau * (1.0 + STEEPNESS * cube);
        (rate + self.ceiling * RECOVERY * cube.max(0.0)).clamp(LOWEST, self.ceiling.max(LOWEST))
    }

    /// What was sent then has been answered now, throttled or not.
    pub(super) fn answered(&mut self, sent: Instant, now: Instant, throttled: bool) {
        if sent < self.since {
            return;
        }
        self.answers += 1;
        self.throttled += u32::from(throttled);
        let time = now.saturating_duration_since(self.since);
        let enough = self.answers >= FEWEST_ANSWERS && time >= SHORTEST_WINDOW;
        if enough || time >= LONGEST_WINDOW {
            self.judge(sent, now);
            (self.since, self.answers, self.throttled) = (now, 0, 0);
        }
    }

    fn judge(&mut self, sent: Instant, now: Instant) {
        let share = f64::from(self.throttled) / f64::from(self.answers);
        let rate = self.per_second(now);
        let suspicious = std::mem::replace(&mut self.suspicious, share > TOLERATED);
        if share > TOLERATED_ONCE || (share > TOLERATED && suspicious) {
            // By what passed of the rate or, as few answers scatter, in the time; the larger, as another cut
            // is near and a rise is far.
            let time = sent.saturating_duration_since(self.since).max(SHORTEST_WINDOW / 2);
            let in_time = f64::from(self.answers - self.throttled) / time.as_secs_f64();
            let passed = (rate * (1.0 - share)).max(in_time).clamp(rate * DEEPEST, rate);
            let plateau = passed.max(LOWEST);
            let approach = (CUT / STEEPNESS).cbrt();
            self.curve = Some(Curve { from: now, plateau, approach });
        } else if share > 0.0 && self.curve.is_some() {
            self.curve = Some(Curve { from: now, plateau: rate, approach: 0.0 });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
                        self.rate.answered(self.now, self.now, false);
                    } else {
                        throttled += 1.0;
                        self.rate.answered(self.now, self.now, true);
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
            assert!(throttled <= 0.05 * passed, "{throttled} throttled, {passed} passed");
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
        simulation.run(1000.0, 20.0);
        let (passed, _) = simulation.run(1000.0, 5.0);
        assert!(passed >= 0.95 * 5000.0, "{passed} in five seconds after it healed");
    }
}
