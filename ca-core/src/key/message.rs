//! What a key may be asked to sign.

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
}

impl ToBeSigned {
    /// A certificate, checked.
    pub(crate) fn certificate(linted: Linted) -> Self {
        let (is_ca, algorithm) = (linted.is_ca(), linted.algorithm());
        let purpose = if is_ca { Purpose::CaCertificate } else { Purpose::Certificate };
        Self { purpose, algorithm, message: linted.into_tbs().into() }
    }

    /// A token, granted.
    pub(crate) fn token(input: &SigningInput, algorithm: SignatureAlgorithm) -> Self {
        let message = Bytes::copy_from_slice(input.as_bytes());
        Self { purpose: Purpose::Token, algorithm, message }
    }

    /// A request of our own.
    pub(crate) fn request(request: &Request, algorithm: SignatureAlgorithm) -> Self {
        Self { purpose: Purpose::Request, algorithm, message: request.info().clone() }
    }

    /// The head of the issuance log's tree.
    pub(crate) fn tree_head(body: &CheckpointBody, algorithm: SignatureAlgorithm) -> Self {
        Self { purpose: Purpose::TreeHead, algorithm, message: body.text().into() }
    }

    /// [`PROBE_PREFIX`] and `nonce`: shows that a key signs, at start and as a health check.
    #[must_use]
    pub fn probe(nonce: [u8; 32], algorithm: SignatureAlgorithm) -> Self {
        let message = [PROBE_PREFIX, &nonce].concat().into();
        Self { purpose: Purpose::Probe, algorithm, message }
    }

    /// Bytes of any length, for the suite that every key must pass.
    #[cfg(any(test, feature = "testing"))]
    pub(super) fn of_any_bytes(message: Vec<u8>, algorithm: SignatureAlgorithm) -> Self {
        Self { purpose: Purpose::Probe, algorithm, message: message.into() }
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
}
