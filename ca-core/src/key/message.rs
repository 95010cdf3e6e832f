//! What a key may be asked to sign.

use aws_lc_rs::digest::{SHA256, digest};
use bytes::Bytes;

use super::SignatureAlgorithm;
use crate::csr::Request;
use crate::lint::Linted;
use crate::log::tree::CheckpointBody;
use crate::token::SigningInput;

/// The first bytes of every probe. Neither DER (no SEQUENCE tag) nor a JWS signing input (no base64url),
/// so a probe's signature proves nothing to anyone else.
pub const PROBE_PREFIX: &[u8] = b"\0mintmark key probe, not a certificate, not a token\0";

/// Why a message is signed; named in errors, metrics and logs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Purpose {
    /// The `TBSCertificate` of a CA certificate that passed [`lint`](crate::lint). A wrong signature on
    /// one would reach everybody, so it is verified whatever is said about leaves.
    CaCertificate,
    /// The `TBSCertificate` of a leaf that passed [`lint`](crate::lint).
    Certificate,
    /// The signing input of a JWT-SVID.
    Token,
    /// The `CertificationRequestInfo` of our own request to an upstream authority.
    Request,
    /// The note text of a checkpoint of the issuance log. Text with newlines, so neither a `TBSCertificate`
    /// nor a JWS signing input. Auditors rely on it for as long as the log is kept, so it is verified
    /// whatever is said about leaves.
    TreeHead,
    /// A random message that shows that a key works, or how fast it is. Who asks for one verifies it.
    Probe,
}

/// A message that has passed its checks and may meet a private key.
///
/// Only the code that checks can build one: [`lint`](crate::lint), [`token`](crate::token),
/// [`csr`](crate::csr) and [`checkpoint`](crate::log::tree::checkpoint). It carries the message and not a digest, because some keys want the one
/// (Ed25519, hashing HSM firmware) and some the other (a KMS). It names its algorithm, since the signed
/// bytes do. Cloning shares the bytes.
#[derive(Debug, Clone)]
pub struct ToBeSigned {
    purpose: Purpose,
    algorithm: SignatureAlgorithm,
    message: Bytes,
    /// SHA-256 of the message: most keys sign it, and the issuance log keeps it. Computed once.
    sha256: [u8; 32],
}

impl ToBeSigned {
    /// A certificate, checked.
    pub(crate) fn certificate(linted: Linted) -> Self {
        let (is_ca, algorithm) = (linted.is_ca(), linted.algorithm());
        let purpose = if is_ca { Purpose::CaCertificate } else { Purpose::Certificate };
        Self::new(purpose, algorithm, linted.into_tbs())
    }

    /// A token, granted.
    pub(crate) fn token(input: SigningInput, algorithm: SignatureAlgorithm) -> Self {
        Self::new(Purpose::Token, algorithm, input.into_bytes())
    }

    /// A request of our own.
    pub(crate) fn request(request: &Request, algorithm: SignatureAlgorithm) -> Self {
        Self::new(Purpose::Request, algorithm, request.info().clone())
    }

    /// The head of the issuance log's tree.
    pub(crate) fn tree_head(body: &CheckpointBody, algorithm: SignatureAlgorithm) -> Self {
        Self::new(Purpose::TreeHead, algorithm, body.text())
    }

    /// [`PROBE_PREFIX`] and `nonce`: shows that a key signs, at start and as a health check.
    #[must_use]
    pub fn probe(nonce: [u8; 32], algorithm: SignatureAlgorithm) -> Self {
        Self::new(Purpose::Probe, algorithm, [PROBE_PREFIX, &nonce].concat())
    }

    /// Bytes of any length, for the suite that every key must pass.
    #[cfg(any(test, feature = "testing"))]
    pub(super) fn of_any_bytes(message: Vec<u8>, algorithm: SignatureAlgorithm) -> Self {
        Self::new(Purpose::Probe, algorithm, message)
    }

    fn new(purpose: Purpose, algorithm: SignatureAlgorithm, message: impl Into<Bytes>) -> Self {
        let message = message.into();
        let hash = digest(&SHA256, &message);
        let sha256 = hash.as_ref().try_into().expect("SHA-256 has 32 bytes");
        Self { purpose, algorithm, message, sha256 }
    }

    /// Why it is to be signed.
    #[must_use]
    pub fn purpose(&self) -> Purpose {
        self.purpose
    }

    /// How it is to be signed: the message itself names it, or its signature will.
    #[must_use]
    pub fn algorithm(&self) -> SignatureAlgorithm {
        self.algorithm
    }

    /// The bytes to sign, unhashed.
    #[must_use]
    pub fn message(&self) -> &[u8] {
        &self.message
    }

    /// SHA-256 of the bytes to sign.
    #[must_use]
    pub fn sha256(&self) -> &[u8; 32] {
        &self.sha256
    }
}
