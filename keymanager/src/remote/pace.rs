//! How much a KMS is asked for at once, and how long anybody waits for it.

use std::time::Duration;

use ca_core::key::KeyError;

/// How fast a KMS may be asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pace {
    /// Requests under way at one time, 1 to 4096. At least the wanted rate times the time of one answer:
    /// fewer leave the quota unused, more change nothing.
    pub max_in_flight: usize,
    /// The highest rate of signing requests, per second, 1 to 100,000: the quota of the account, or what
    /// the server can do. When the KMS throttles, less is asked for until it answers again.
    pub max_rate: u32,
    /// The longest that a caller waits for its turn, 1 ms to 60 s. Who would wait longer is `Busy` at once.
    pub queue_wait: Duration,
    /// The longest that one request may take, 10 ms to 60 s; then it is sent again, if the caller can
    /// still wait.
    pub attempt_timeout: Duration,
}

impl Pace {
    /// Refuses what is out of bounds.
    pub(super) fn check(&self, place: &str) -> Result<(), KeyError> {
        let within = |low: u64, time: Duration| {
            (Duration::from_millis(low)..=Duration::from_secs(60)).contains(&time)
        };
        let reason = if !(1..=4096).contains(&self.max_in_flight) {
            "1 to 4096 requests can be under way at one time"
        } else if !(1..=100_000).contains(&self.max_rate) {
            "a rate of 1 to 100000 requests per second is possible"
        } else if !within(1, self.queue_wait) {
            "a queue wait of 1 ms to 60 s is possible"
        } else if !within(10, self.attempt_timeout) {
            "an attempt timeout of 10 ms to 60 s is possible"
        } else {
            return Ok(());
        };
        Err(KeyError::Setup { place: place.to_owned(), reason: reason.to_owned() })
    }
}
