//! Whom a run asks. The seam is as small as it can be: items whose time has come together go in, and
//! each comes back to the [`Ledger`] once.

pub mod local;
pub mod signer;
pub mod spire;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use zeroize::Zeroizing;

use crate::ledger::Ledger;

/// One request whose time has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Item {
    /// Which of the run.
    pub index: u64,
    /// What is asked: a place in [`Asks`](crate::asks::Asks).
    pub ask: u32,
    /// When it should have been sent, from the start of the run.
    pub intended: Duration,
}

/// Somebody who can be asked for SVIDs, one by one or by the batch.
pub trait Target: Send + Sync {
    /// Sends items that left at the same moment, and does not wait for their answers. It is called on the
    /// thread that keeps the pace: it must not block, and what it takes delays the next items.
    ///
    /// Each item is [delivered](Ledger::deliver) once, with an SVID or a fault, from any thread; a target
    /// that gets answers by the batch delivers them by the batch.
    fn send(&self, items: &[Item], ledger: &Arc<Ledger>);

    /// The process of the server, if it is known and on this machine.
    fn server(&self) -> Option<u32> {
        None
    }
}

/// What was minted for one item.
#[derive(Debug)]
pub enum Svid {
    /// DER, leaf first.
    X509(Vec<Bytes>),
    /// A bearer token, and a good one.
    Jwt(Zeroizing<String>),
    /// Nothing: the target only says that it was asked.
    Nothing,
}

/// Why a request got no SVID.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// The name of the gRPC code that the server sent, such as `UNAVAILABLE`, or of a signer's word on one item, such as
    /// `OVERLOAD`; or, in small letters, what
    /// this side saw: [`BROKEN_OFF`](Self::BROKEN_OFF), [`UNANSWERED`](Self::UNANSWERED) or
    /// [`UNUSABLE`](Self::UNUSABLE).
    pub code: &'static str,
    /// The server's or the connection's words.
    pub message: String,
}

impl Fault {
    /// The connection or the call ended before an answer.
    pub const BROKEN_OFF: &'static str = "broken_off";
    /// No answer came in time.
    pub const UNANSWERED: &'static str = "unanswered";
    /// The answer says OK and holds no SVID.
    pub const UNUSABLE: &'static str = "unusable";

    /// A request that has waited for `limit`.
    #[must_use]
    pub fn unanswered(limit: Duration) -> Self {
        Self { code: Self::UNANSWERED, message: format!("no answer in {limit:?}") }
    }

    /// A yes with nothing in it.
    #[must_use]
    pub fn unusable() -> Self {
        Self { code: Self::UNUSABLE, message: "the answer holds no SVID".to_owned() }
    }
}
