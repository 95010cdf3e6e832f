//! What can be set while the stand-in runs.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::{Faults, Latency, Operation, Quota};

/// The settings of a stand-in. The default is a KMS at its best: no delay, no quota, no fault.
#[derive(Debug, Clone, Default)]
pub struct Knobs {
    /// How long every answer takes, refusals included.
    pub latency: Latency,
    /// How many cryptographic requests, which is `Sign` here, are let through; `None` lets all through.
    /// Over it: HTTP 400 `ThrottlingException`.
    pub quota: Option<Quota>,
    /// How often requests that passed authentication and quota fail, and in which way.
    pub faults: Faults,
    /// Operations that the caller's policy does not allow: `AccessDeniedException`.
    pub denied: BTreeSet<Operation>,
    /// Operations that the caller's policy does not allow with one key, by its ARN, likewise.
    pub denied_keys: BTreeSet<(Operation, String)>,
    /// For how long an operation does not know a key that was just made: `NotFoundException`. KMS is
    /// eventually consistent.
    pub unseen: BTreeMap<Operation, Duration>,
    /// How far the service's clock is ahead of this machine's, in seconds (negative: behind). Past five
    /// minutes either way SigV4 refuses a client that goes by this machine's clock.
    pub clock_ahead: i64,
    /// Where the randomness of latency and faults starts, read when it changes. The same seed gives the
    /// same sequence of draws; which request meets which depends on the order of their arrival.
    pub seed: u64,
}
