//! TLS between processes of ours: who may speak to whom, both directions.
//!
//! [`Acceptor`] and [`Connector`] give a stream and the [`Peer`] behind it, or say which rule the other side broke.
//! What is asked of a certificate is in [`rules`] and [`Trust`]; nothing else decides. TLS 1.3 alone, a certificate
//! from both sides, HTTP/2 on top, no resumption: a session that was resumed would skip the look at the certificate,
//! which may have ended since, or been withdrawn.

mod connection;
mod identity;
pub mod rules;
mod settings;
mod trust;
mod verifier;

pub use connection::{Acceptor, Connector, HandshakeError};
pub use identity::{Credential, CredentialError, FreshKey, Identity};
pub use rules::{Peer, Rejected, Side};
pub use trust::{Trust, TrustError};
