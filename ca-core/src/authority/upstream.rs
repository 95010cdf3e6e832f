//! The seam to a CA above ours.

use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use thiserror::Error;

/// What an upstream CA answered to our request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UpstreamChain {
    /// Our CA certificate first, then the intermediates above it; no root. DER.
    pub chain: Vec<Bytes>,
    /// The roots under which the chain verifies; they go into the bundle. DER.
    pub roots: Vec<Bytes>,
}

/// Why there is no certificate from upstream.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum UpstreamError {
    /// The upstream CA cannot be reached now; later may work.
    #[error("upstream authority is unavailable: {0}")]
    Unavailable(String),
    /// The upstream CA said no, or answered with something unusable.
    #[error("upstream authority refused: {0}")]
    Refused(String),
}

/// A CA that signs our CA certificate, where the trust domain is not its own root.
#[async_trait]
pub trait UpstreamAuthority: Send + Sync {
    /// Asks for a CA certificate for a PKCS#10 request of ours (DER, signed by the key of the new
    /// authority), to live about `ttl`.
    async fn sign_ca(&self, request: Bytes, ttl: Duration) -> Result<UpstreamChain, UpstreamError>;
}
