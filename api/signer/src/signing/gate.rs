//! Who is let in, once it is known who it is: asked after the handshake, and what it hands out ends the connection.

use std::fmt;
use std::sync::Arc;

use ca_core::id::TrustDomain;
use futures_util::future::BoxFuture;
use mintmark_transport::Peer;
use thiserror::Error;

/// Decides on a peer whose certificate has been verified. Asked once for each connection, on a runtime thread, so it
/// answers from memory.
pub type Gate = Arc<dyn Fn(&Peer) -> Result<Admitted, Refused> + Send + Sync>;

/// A peer that is let in.
pub struct Admitted {
    /// As what.
    pub front_end: FrontEndView,
    /// Resolves when it is no longer, to the reason in one sentence: the connection is cut off at once, its open
    /// streams too. Never resolves if nothing happens; dropped with the connection.
    pub until: BoxFuture<'static, String>,
}

impl fmt::Debug for Admitted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Admitted").field("front_end", &self.front_end).finish_non_exhaustive()
    }
}

/// Why a peer is not let in, in one sentence. The peer learns that it was not, and no more.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{0}")]
pub struct Refused(pub String);

/// What is known of a front end when it asks for something.
#[derive(Debug, Clone)]
pub struct FrontEndView {
    /// The name in its record.
    pub name: Arc<str>,
    /// Whose SVIDs it may ask for.
    pub trust_domain: TrustDomain,
}
