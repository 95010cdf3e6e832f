//! What was issued, to whom, by which key: the record of each SVID, and the seam behind which it is kept.

pub mod block;
pub mod directory;
pub mod entry;
pub mod export;
pub mod identity;
pub mod index;
pub mod local;
pub mod metrics;
pub mod prune;
pub mod reading;
pub mod records;
pub mod search;
#[cfg(test)]
mod testing;
pub mod tree;
pub mod verify;

use std::sync::Arc;

use futures_util::future::BoxFuture;
use thiserror::Error;

use crate::clock::Timestamp;
use crate::id::SpiffeId;
use crate::profile::Profile;
use crate::serial::Serial;

/// Who asked, as the door established it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
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
    /// A front end, over the signing listener.
    FrontEnd {
        /// The name in its record.
        name: Arc<str>,
        /// Which of the instances that share the name, as it says itself; empty if it says nothing.
        instance: Arc<str>,
    },
}

impl Caller {
    /// Who is charged for what it asks: processes and instances come and go.
    #[must_use]
    pub fn account(&self) -> Self {
        match self {
            Self::Local { uid, .. } => Self::Local { uid: *uid, pid: None },
            Self::Signer => Self::Signer,
            Self::FrontEnd { name, .. } => {
                Self::FrontEnd { name: Arc::clone(name), instance: Arc::default() }
            }
        }
    }
}

impl std::fmt::Display for Caller {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Local { uid, pid: Some(pid) } => write!(f, "local uid {uid} pid {pid}"),
            Self::Local { uid, pid: None } => write!(f, "local uid {uid}"),
            Self::Signer => f.write_str("signer"),
            Self::FrontEnd { name, instance } if instance.is_empty() => {
                write!(f, "front end {name}")
            }
            Self::FrontEnd { name, instance } => write!(f, "front end {name} instance {instance}"),
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

/// One SVID that is about to be signed, as it is handed to the log: borrows what [`IssuanceRecord`] owns, since
/// cloning shared parts for each of many makes the processor's cores wait for each other.
#[derive(Debug, Clone)]
pub struct Issuance<'a> {
    /// What kind of document, and what names it.
    pub document: Issued<'a>,
    /// As in [`IssuanceRecord::digest`].
    pub digest: &'a [u8; 32],
    /// As in [`IssuanceRecord::id`].
    pub id: &'a SpiffeId,
    /// As in [`IssuanceRecord::not_before`].
    pub not_before: Timestamp,
    /// As in [`IssuanceRecord::not_after`].
    pub not_after: Timestamp,
    /// As in [`IssuanceRecord::authority`].
    pub authority: &'a Arc<str>,
    /// As in [`IssuanceRecord::issuing_key`].
    pub issuing_key: Option<&'a Arc<str>>,
    /// As in [`IssuanceRecord::caller`].
    pub caller: &'a Caller,
    /// As in [`IssuanceRecord::time`].
    pub time: Timestamp,
}

/// The document of an [`Issuance`]; as [`Document`].
#[derive(Debug, Clone)]
pub enum Issued<'a> {
    /// As [`Document::X509`].
    X509 {
        /// Which kind of certificate.
        profile: Profile,
        /// Its serial number.
        serial: &'a Serial,
        /// SHA-256 of the DER of its key.
        key_digest: &'a [u8; 32],
    },
    /// As [`Document::Jwt`].
    Jwt {
        /// Its `aud`.
        audience: &'a [String],
    },
}

impl Issuance<'_> {
    /// The record that the log will hold of it.
    #[must_use]
    pub fn to_record(&self) -> IssuanceRecord {
        IssuanceRecord {
            document: match self.document {
                Issued::X509 { profile, serial, key_digest } => {
                    Document::X509 { profile, serial: *serial, key_digest: *key_digest }
                }
                Issued::Jwt { audience } => Document::Jwt { audience: audience.to_vec() },
            },
            digest: *self.digest,
            id: self.id.clone(),
            not_before: self.not_before,
            not_after: self.not_after,
            authority: Arc::clone(self.authority),
            issuing_key: self.issuing_key.cloned(),
            caller: self.caller.clone(),
            time: self.time,
        }
    }
}

impl IssuanceRecord {
    /// What [`Issuance::to_record`] makes a record of.
    #[must_use]
    pub fn as_issuance(&self) -> Issuance<'_> {
        Issuance {
            document: match &self.document {
                Document::X509 { profile, serial, key_digest } => {
                    Issued::X509 { profile: *profile, serial, key_digest }
                }
                Document::Jwt { audience } => Issued::Jwt { audience },
            },
            digest: &self.digest,
            id: &self.id,
            not_before: self.not_before,
            not_after: self.not_after,
            authority: &self.authority,
            issuing_key: self.issuing_key.as_ref(),
            caller: &self.caller,
            time: self.time,
        }
    }
}

/// Names the blocks of one run of one signer: 24 bits, from 1, taken from the state store and never again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct WriterId(u32);

impl WriterId {
    /// The last there is: a thousand starts a day for 45 years.
    pub const LAST: u32 = 0x00ff_ffff;

    /// The writer of that number, if it is one.
    #[must_use]
    pub fn new(number: u32) -> Option<Self> {
        (1..=Self::LAST).contains(&number).then_some(Self(number))
    }

    /// Its number.
    #[must_use]
    pub fn number(self) -> u32 {
        self.0
    }
}

impl std::fmt::Display for WriterId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// What it means that the log has taken a record. Written into the log at the start of each run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Durability {
    /// It is on the disk: flushed.
    #[default]
    Durable,
    /// The operating system has it and flushes it within so many milliseconds. What was released in that time
    /// is missing from the log if the machine, not only the process, goes down.
    Relaxed {
        /// At most so much is lost.
        window_ms: u32,
    },
}

impl std::fmt::Display for Durability {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Durable => f.write_str("durable"),
            Self::Relaxed { window_ms } => write!(f, "relaxed ({window_ms} ms)"),
        }
    }
}

/// Records could not be written; what they are about is not released.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum LogError {
    /// As much waits to be written as may.
    #[error("the issuance log is behind; try again in a moment")]
    Busy,
    /// The disk did not take them. It is tried again with the next ones.
    #[error("issuance log cannot be written: {0}")]
    Unwritable(String),
    /// It is not known what the disk holds. Nothing is written until the process has started anew.
    #[error("the issuance log failed and takes nothing until the next start: {0}")]
    Failed(String),
    /// The log has been closed.
    #[error("the issuance log is closed")]
    Closed,
}

/// Where issuance records go. Nothing is released that [`append`](Self::append) has not taken.
pub trait IssuanceLog: Send + Sync {
    /// Takes records, all of them or none. They are on their way when this returns, so that signing goes on
    /// beside it; what they are about waits for the answer. Whoever asks for the answer has the log make haste,
    /// so it is asked for when it is the only thing that lacks.
    fn append(&self, issued: &[Issuance<'_>]) -> Appending;
}

/// The answer of an [`IssuanceLog`], to be waited for. Dropping it takes nothing back.
pub type Appending = BoxFuture<'static, Result<(), LogError>>;
