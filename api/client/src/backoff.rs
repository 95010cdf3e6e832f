//! How long to wait before the next try.

use std::time::Duration;

/// Pauses that double up to a bound. Each is drawn from its upper half, so that many who failed together do not come
/// back together.
#[derive(Debug, Clone)]
pub struct Backoff {
    first: Duration,
    longest: Duration,
    next: Duration,
}

impl Backoff {
    /// The first pause is about `first`, none is longer than `longest`.
    #[must_use]
    pub fn new(first: Duration, longest: Duration) -> Self {
        Self { first, longest, next: first }
    }

    /// The pause before the next try.
    pub fn pause(&mut self) -> Duration {
        let whole = self.next.min(self.longest);
        self.next = whole.saturating_mul(2).min(self.longest);
        whole.mul_f64(0.5 + fastrand::f64() / 2.0)
    }

    /// It worked: the next pause is the first one again.
    pub fn reset(&mut self) {
        self.next = self.first;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_a_bound_and_begin_anew() {
        let seconds = Duration::from_secs_f64;
        let mut backoff = Backoff::new(seconds(1.0), seconds(6.0));
        for whole in [1.0, 2.0, 4.0, 6.0, 6.0] {
            let pause = backoff.pause();
            assert!(
                seconds(whole / 2.0) <= pause && pause <= seconds(whole),
                "{pause:?} of {whole}"
            );
        }
        backoff.reset();
        assert!(backoff.pause() <= seconds(1.0));
    }
}
