//! What was issued, to whom, by which key: the record of each SVID, and the seam behind which it is kept.

pub mod tree;

use std::sync::Arc;

use async_trait::async_trait;
use thiserror::Error;

use crate::clock::Timestamp;
use crate::id::SpiffeId;
use crate::profile::Profile;
use crate::serial::Serial;

/// Who asked, as the door established it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Caller {
    /// A process on this machine, through the admin socket; ids from the kernel.
    Local {
        /// Its effective user.
        uid: u32,
        /// Its process, where the kernel says.
        pid: Option<i32>,
    },
    /// The signer itself, for a key of its own.
    Signer,
}

impl std::fmt::Display for Caller {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Local { uid, pid: Some(pid) } => write!(f, "local uid {uid} pid {pid}"),
            Self::Local { uid, pid: None } => write!(f, "local uid {uid}"),
            Self::Signer => f.write_str("signer"),
        }
    }
}

/// Which kind of document a record is about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Document {
    /// An X.509 certificate of this serial number, for the key whose `SubjectPublicKeyInfo` has this
    /// SHA-256.
    X509 {
        /// Which kind of certificate.
        profile: Profile,
        /// Its serial number.
        serial: Serial,
        /// SHA-256 of the DER of its key.
        key_digest: [u8; 32],
    },
    /// A JWT-SVID for these audiences.
    Jwt {
        /// Its `aud`.
        audience: Vec<String>,
    },
}

/// One SVID, as it is written down before it is released.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IssuanceRecord {
    /// What kind of document, and what names it.
    pub document: Document,
    /// SHA-256 of what is signed: the `TBSCertificate`, or the JWS signing input.
    pub digest: [u8; 32],
    /// The identity it gives.
    pub id: SpiffeId,
    /// The first second in which it is valid.
    pub not_before: Timestamp,
    /// The last second in which it is valid.
    pub not_after: Timestamp,
    /// The authority that signs: subject key identifier in hexadecimal, or `kid`.
    pub authority: Arc<str>,
    /// The short-lived key that signs in the authority's stead: the subject key identifier of its CA
    /// certificate, in hexadecimal. `None` if the authority's own key signs.
    pub issuing_key: Option<Arc<str>>,
    /// Who asked.
    pub caller: Caller,
    /// When.
    pub time: Timestamp,
}

/// A record could not be written; what it is about is not released.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("issuance log cannot be written: {0}")]
pub struct LogError(pub String);

/// Where issuance records go. Nothing is released that [`append`](Self::append) has not taken.
#[async_trait]
pub trait IssuanceLog: Send + Sync {
    /// Takes one record. Runs beside the signature; the SVID waits for both.
    async fn append(&self, record: IssuanceRecord) -> Result<(), LogError>;
}
