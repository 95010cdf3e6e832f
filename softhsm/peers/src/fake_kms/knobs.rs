//! What can be set while the stand-in runs.

use std::collections::BTreeSet;

use super::{Faults, Latency, Operation, Quota};

/// The settings of a stand-in. The default is a KMS at its best: no delay, no quota, no fault.
#[derive(Debug, Clone, Default)]
pub struct Knobs {
    /// How long every answer takes, refusals included.
    pub latency: Latency,
    /// How many cryptographic requests (`Sign`, `GetPublicKey` excluded) are let through; `None` lets
    /// all through. Over it: HTTP 400 `ThrottlingException`.
    pub quota: Option<Quota>,
    /// How often requests that passed authentication and quota fail, and in which way.
    pub faults: Faults,
    /// Operations that the caller's policy does not allow: `AccessDeniedException`.
    pub denied: BTreeSet<Operation>,
    /// How far the service's clock is ahead of this machine's, in seconds (negative: behind). Past five
    /// minutes either way SigV4 refuses a client that goes by this machine's clock.
    pub clock_ahead: i64,
    /// Where the randomness of latency and faults starts; the same seed gives the same sequence of
    /// draws. Read when it changes.
    pub seed: u64,
}
