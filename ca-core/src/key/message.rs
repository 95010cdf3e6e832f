//! What a key may be asked to sign.

use bytes::Bytes;

use crate::csr::Request;
use crate::lint::Linted;
use crate::token::SigningInput;

/// The first bytes of every probe. Neither DER (no SEQUENCE tag) nor a JWS signing input (no base64url),
/// so a probe's signature proves nothing to anyone else.
pub const PROBE_PREFIX: &[u8] = b"\0mintmark key probe, not a certificate, not a token\0";

/// Why a message is signed; named in errors, metrics and logs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Purpose {
    /// The `TBSCertificate` of a certificate that passed [`lint`](crate::lint).
    Certificate,
    /// The signing input of a JWT-SVID.
    Token,
    /// The `CertificationRequestInfo` of our own request to an upstream authority.
    Request,
    /// A random message that shows that a key works.
    Probe,
}

/// A message that has passed its checks and may meet a private key.
///
/// Only the code that checks can build one: [`lint`](crate::lint), [`token`](crate::token) and
/// [`csr`](crate::csr). It carries the message and not a digest, because some keys want the one
/// (Ed25519, hashing HSM firmware) and some the other (a KMS). Cloning shares the bytes.
#[derive(Debug, Clone)]
pub struct ToBeSigned {
    purpose: Purpose,
    message: Bytes,
}

impl ToBeSigned {
    /// A certificate, checked.
    pub(crate) fn certificate(linted: Linted) -> Self {
        Self { purpose: Purpose::Certificate, message: linted.into_tbs().into() }
    }

    /// A token, granted.
    pub(crate) fn token(input: &SigningInput) -> Self {
        Self { purpose: Purpose::Token, message: Bytes::copy_from_slice(input.as_bytes()) }
    }

    /// A request of our own.
    pub(crate) fn request(request: &Request) -> Self {
        Self { purpose: Purpose::Request, message: request.info().clone() }
    }

    /// [`PROBE_PREFIX`] and `nonce`: shows that a key signs, at start and as a health check.
    #[must_use]
    pub fn probe(nonce: [u8; 32]) -> Self {
        Self { purpose: Purpose::Probe, message: [PROBE_PREFIX, &nonce].concat().into() }
    }

    /// Bytes of any length, for the suite that every key must pass.
    #[cfg(any(test, feature = "testing"))]
    pub(super) fn of_any_bytes(message: Vec<u8>) -> Self {
        Self { purpose: Purpose::Probe, message: message.into() }
    }

    /// Why it is to be signed.
    #[must_use]
    pub fn purpose(&self) -> Purpose {
        self.purpose
    }

    /// The bytes to sign, unhashed.
    #[must_use]
    pub fn message(&self) -> &[u8] {
        &self.message
    }
}
