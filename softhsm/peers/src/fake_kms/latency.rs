//! How long an answer takes.

use std::time::Duration;

use fastrand::Rng;

/// The standard normal distribution's 99th percentile.
const NORMAL_P99: f64 = 2.326_347_874;
/// The longest that a draw may be, as a multiple of the 99th percentile: log-normal has no end.
const LONGEST: u32 = 10;

/// A distribution of the time from a request's arrival to its answer; the work itself is within it.
/// Timers have a resolution of one millisecond and round up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Latency {
    /// Always the same; zero answers as soon as the work is done.
    Fixed(Duration),
    /// Log-normal through these two points, cut at ten times the second.
    Spread {
        /// Half of the answers are faster.
        p50: Duration,
        /// One answer in a hundred is slower; at least `p50`.
        p99: Duration,
    },
}

impl Default for Latency {
    fn default() -> Self {
        Self::Fixed(Duration::ZERO)
    }
}

impl Latency {
    /// One draw.
    pub(super) fn draw(self, random: &mut Rng) -> Duration {
        match self {
            Self::Fixed(duration) => duration,
            Self::Spread { p50, p99 } if p50.is_zero() || p99 <= p50 => p50,
            Self::Spread { p50, p99 } => {
                let sigma = (p99.as_secs_f64() / p50.as_secs_f64()).ln() / NORMAL_P99;
                let seconds = p50.as_secs_f64() * (sigma * normal(random)).exp();
                Duration::try_from_secs_f64(seconds).unwrap_or(Duration::MAX).min(p99 * LONGEST)
            }
        }
    }
}

/// A draw from the standard normal distribution (Box and Muller).
fn normal(random: &mut Rng) -> f64 {
    // (0, 1], as the logarithm of 0 is none.
    let radius = (-2.0 * (1.0 - random.f64()).ln()).sqrt();
    radius * (std::f64::consts::TAU * random.f64()).cos()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_spread_has_its_two_points() {
        let (p50, p99) = (Duration::from_millis(10), Duration::from_millis(80));
        let mut random = Rng::with_seed(7);
        let mut draws: Vec<_> =
            (0..20_000).map(|_| Latency::Spread { p50, p99 }.draw(&mut random)).collect();
        draws.sort_unstable();
        let at = |share: usize| draws[draws.len() * share / 100].as_secs_f64();
        assert!((at(50) / p50.as_secs_f64() - 1.0).abs() < 0.03, "p50 is {} s", at(50));
        assert!((at(99) / p99.as_secs_f64() - 1.0).abs() < 0.10, "p99 is {} s", at(99));
        assert!(draws[draws.len() - 1] <= p99 * LONGEST);
    }

    #[test]
    fn a_seed_gives_the_same_draws() {
        let latency =
            Latency::Spread { p50: Duration::from_millis(5), p99: Duration::from_millis(50) };
        let draws = |seed| {
            let mut random = Rng::with_seed(seed);
            (0..8).map(|_| latency.draw(&mut random)).collect::<Vec<_>>()
        };
        assert_eq!(draws(1), draws(1));
        assert_ne!(draws(1), draws(2));
    }
}
