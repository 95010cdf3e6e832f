//! The request quota: a token bucket.

use std::time::{Duration, Instant};

/// How many cryptographic requests a second are let through. KMS counts per account, region and family
/// of keys; the stand-in has one bucket for all.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Quota {
    /// The rate at which the bucket fills.
    pub per_second: f64,
    /// The depth of the bucket, as the time in which it fills: what an idle client may ask for at once.
    /// One second at most makes sense.
    pub burst: Duration,
}

impl Quota {
    /// This many a second, with a bucket a tenth of a second deep.
    #[must_use]
    pub fn per_second(per_second: f64) -> Self {
        Self { per_second, burst: Duration::from_millis(100) }
    }

    /// How many tokens the bucket holds; at least one, or nothing would ever pass.
    fn depth(self) -> f64 {
        (self.per_second * self.burst.as_secs_f64()).max(1.0)
    }
}

/// The bucket. It starts full, and keeps what it has when the quota changes, up to its new depth.
#[derive(Debug, Default)]
pub(super) struct Bucket {
    state: Option<(f64, Instant)>,
}

impl Bucket {
    /// Takes a token, if there is one.
    pub(super) fn take(&mut self, quota: Quota, now: Instant) -> bool {
        let (had, since) = self.state.unwrap_or((quota.depth(), now));
        let filled = now.saturating_duration_since(since).as_secs_f64() * quota.per_second;
        let has = (had + filled).min(quota.depth());
        let passes = has >= 1.0;
        self.state = Some((if passes { has - 1.0 } else { has }, now));
        passes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn passed(
        bucket: &mut Bucket,
        quota: Quota,
        from: Instant,
        asked: u32,
        every: Duration,
    ) -> u32 {
        (0..asked).map(|index| u32::from(bucket.take(quota, from + every * index))).sum()
    }

    #[test]
    fn a_full_bucket_passes_its_depth_and_then_its_rate() {
        let (mut bucket, start) = (Bucket::default(), Instant::now());
        let quota = Quota::per_second(1000.0);
        assert_eq!(passed(&mut bucket, quota, start, 500, Duration::ZERO), 100);
        let later = passed(&mut bucket, quota, start, 20_000, Duration::from_micros(100));
        assert!((1998..=2001).contains(&later), "{later} of 2000");
    }

    #[test]
    fn a_new_quota_holds_at_once() {
        let (mut bucket, start) = (Bucket::default(), Instant::now());
        bucket.take(Quota::per_second(1000.0), start);
        let halved = Quota::per_second(100.0);
        assert_eq!(passed(&mut bucket, halved, start, 100, Duration::ZERO), 10);
    }

    #[test]
    fn a_quota_below_one_a_second_still_passes_some() {
        let (mut bucket, start) = (Bucket::default(), Instant::now());
        let quota = Quota::per_second(0.5);
        assert_eq!(passed(&mut bucket, quota, start, 11, Duration::from_secs(1)), 6);
    }
}
