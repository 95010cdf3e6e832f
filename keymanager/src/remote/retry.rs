//! How often and after how long a request is sent again.

use std::time::{Duration, Instant};

use tokio::time::{sleep, timeout};

use super::wire::{Class, WireError};

/// The first pause is at most this long; each further one may be twice as long.
const FIRST_PAUSE: Duration = Duration::from_millis(25);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// The pause before the try that follows so many: drawn evenly from zero to a bound that doubles, so
/// that those who failed together do not come back together.
pub(super) fn pause(tries: u32) -> Duration {
    let bound = FIRST_PAUSE.saturating_mul(1 << tries.min(10)).min(LONGEST_PAUSE);
    bound.mul_f64(fastrand::f64())
}

/// Second tries that are allowed: a share of the first ones, so that a KMS in trouble gets little more
/// than its usual load.
#[derive(Debug)]
pub(super) struct Budget {
    left: f64,
    most: f64,
    since: Instant,
}

/// Of the first tries.
const SHARE: f64 = 0.1;
/// Per second, whatever the traffic: a quiet service may try again too.
const FLOOR: f64 = 5.0;
/// How long unused tries are kept, in seconds of the highest rate.
const KEPT: f64 = 10.0;

impl Budget {
    /// Full, for a KMS that is asked `rate` times a second at most.
    pub(super) fn new(rate: f64, now: Instant) -> Self {
        let most = (rate * SHARE * KEPT).max(10.0 * FLOOR);
        Self { left: most, most, since: now }
    }

    /// Somebody asks for the first time.
    pub(super) fn earn(&mut self) {
        self.left = (self.left + SHARE).min(self.most);
    }

    /// Whether there is a second try left; takes it.
    pub(super) fn take(&mut self, now: Instant) -> bool {
        let time = now.saturating_duration_since(self.since).as_secs_f64();
        self.since = now;
        self.left = (self.left + time * FLOOR).min(self.most);
        let granted = self.left >= 1.0;
        if granted {
            self.left -= 1.0;
        }
        granted
    }
}

/// How often a call that manages keys is sent, and how long each may take.
const PATIENT_TRIES: u32 = 6;
const PATIENT_TIMEOUT: Duration = Duration::from_secs(10);

/// Sends a call that manages keys again while that may help, for some seconds: managing is rare, and the
/// quota for it is small.
pub(crate) async fn patiently<T, F>(call: impl Fn() -> F) -> Result<T, WireError>
where
    F: Future<Output = Result<T, WireError>>,
{
    let mut tries = 1;
    loop {
        let error = match timeout(PATIENT_TIMEOUT, call()).await {
            Ok(Ok(answer)) => return Ok(answer),
            Ok(Err(error)) => error,
            Err(_) => return Err(timed_out(PATIENT_TIMEOUT)),
        };
        if tries == PATIENT_TRIES || !error.may_pass() {
            return Err(error);
        }
        // Full jitter, from a higher start: CreateKey has a quota of five a second.
        let stated = match error.class {
            Class::Throttled { retry_after } => retry_after.unwrap_or_default(),
            _ => Duration::ZERO,
        };
        sleep(stated.min(LONGEST_PAUSE) + pause(tries + 2)).await;
        tries += 1;
    }
}

/// The KMS said nothing for so long.
pub(super) fn timed_out(after: Duration) -> WireError {
    WireError::transient("timeout", format!("it did not answer within {} ms", after.as_millis()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_budget_is_a_share_of_the_traffic_and_a_floor() {
        let now = Instant::now();
        let mut budget = Budget::new(100.0, now);
        let granted = (0..1000).filter(|_| budget.take(now)).count();
        assert_eq!(granted, 100, "what was kept");
        (0..100).for_each(|_| budget.earn());
        let granted = (0..1000).filter(|_| budget.take(now)).count();
        assert!((9..=10).contains(&granted), "a tenth of the traffic, not {granted}");
        let later = now + Duration::from_secs(2);
        let granted = (0..1000).filter(|_| budget.take(later)).count();
        assert!((10..=11).contains(&granted), "five a second, not {granted}");
    }

    #[test]
    fn pauses_double_and_end_at_a_second() {
        assert!((0..1000).all(|_| pause(1) <= FIRST_PAUSE * 2));
        assert!((0..1000).all(|_| pause(40) <= LONGEST_PAUSE));
        assert!((0..1000).any(|_| pause(40) > LONGEST_PAUSE / 2));
    }
}
