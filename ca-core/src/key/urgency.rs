//! How soon a signature is wanted, and until when it is of use.

use std::fmt;
use std::time::{Duration, Instant};

/// Who goes first where signatures wait for a device; in this order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Priority {
    /// A probe: shows whether the device works, so it must not wait behind the work.
    Health,
    /// For a holder whose SVID is about to end.
    Expiring,
    /// For a workload that has none yet.
    New,
    /// A renewal in good time.
    Refresh,
    /// Work that nobody waits for, such as a forced rotation of everything.
    Bulk,
}

impl Priority {
    /// All, the first served first.
    pub const ALL: [Self; 5] = [Self::Health, Self::Expiring, Self::New, Self::Refresh, Self::Bulk];

    /// The name in metrics and logs.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Health => "health",
            Self::Expiring => "expiring",
            Self::New => "new",
            Self::Refresh => "refresh",
            Self::Bulk => "bulk",
        }
    }
}

impl fmt::Display for Priority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// What a caller says about the signature it wants. There is no waiting without an end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Urgency {
    /// Its place among those that wait.
    pub priority: Priority,
    /// The signature is of no use after it: the caller is answered by then, and what has not reached the
    /// device is not signed.
    pub deadline: Instant,
}

impl Urgency {
    /// Of use for `patience` from `now` on.
    #[must_use]
    pub fn within(priority: Priority, patience: Duration, now: Instant) -> Self {
        Self { priority, deadline: now + patience }
    }
}
