//! The kinds of key that Mintmark signs with, and the signature algorithms of each.

use std::fmt;
use std::str::FromStr;

use thiserror::Error;

use super::KeyKind;

/// A kind of key that can be asked for, by SPIRE's names (`ec-p256`, `rsa-2048`, …).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum KeyType {
    /// ECDSA on NIST P-256.
    EcP256,
    /// ECDSA on NIST P-384.
    EcP384,
    /// RSA with a modulus of 2048 bits.
    Rsa2048,
    /// RSA with a modulus of 3072 bits.
    Rsa3072,
    /// RSA with a modulus of 4096 bits.
    Rsa4096,
    /// Ed25519 (RFC 8032). Signs certificates only: JWT-SVID §3 has no `EdDSA`.
    Ed25519,
    /// ML-DSA-44 (FIPS 204). Signs certificates only (RFC 9881).
    MlDsa44,
    /// ML-DSA-65 (FIPS 204). Signs certificates only (RFC 9881).
    MlDsa65,
}

impl KeyType {
    /// Every kind, in the order in which they are described to people.
    pub const ALL: [Self; 8] = [
        Self::EcP256,
        Self::EcP384,
        Self::Rsa2048,
        Self::Rsa3072,
        Self::Rsa4096,
        Self::Ed25519,
        Self::MlDsa44,
        Self::MlDsa65,
    ];

    /// The name in configuration, command line and stored records.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::EcP256 => "ec-p256",
            Self::EcP384 => "ec-p384",
            Self::Rsa2048 => "rsa-2048",
            Self::Rsa3072 => "rsa-3072",
            Self::Rsa4096 => "rsa-4096",
            Self::Ed25519 => "ed25519",
            Self::MlDsa44 => "ml-dsa-44",
            Self::MlDsa65 => "ml-dsa-65",
        }
    }

    /// What the public half of such a key is.
    #[must_use]
    pub fn kind(self) -> KeyKind {
        match self {
            Self::EcP256 => KeyKind::EcP256,
            Self::EcP384 => KeyKind::EcP384,
            Self::Rsa2048 => KeyKind::Rsa { bits: 2048 },
            Self::Rsa3072 => KeyKind::Rsa { bits: 3072 },
            Self::Rsa4096 => KeyKind::Rsa { bits: 4096 },
            Self::Ed25519 => KeyKind::Ed25519,
            Self::MlDsa44 => KeyKind::MlDsa44,
            Self::MlDsa65 => KeyKind::MlDsa65,
        }
    }

    /// How a key of this kind signs unless it is asked for another way.
    #[must_use]
    pub fn signature_algorithm(self) -> SignatureAlgorithm {
        self.kind().usual_algorithm()
    }
}

impl fmt::Display for KeyType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Which of its two schemes an RSA key signs by. Keys of other kinds have one way each.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum RsaScheme {
    /// RSASSA-PKCS1-v1_5: what every peer verifies.
    #[default]
    Pkcs1,
    /// RSASSA-PSS: has a proof of security; older peers do not verify it.
    Pss,
}

impl RsaScheme {
    /// How a key of `kind` signs under this choice.
    #[must_use]
    pub fn algorithm(self, kind: KeyKind) -> SignatureAlgorithm {
        match (self, kind) {
            (Self::Pss, KeyKind::Rsa { .. }) => SignatureAlgorithm::RsaPssSha256,
            (_, kind) => kind.usual_algorithm(),
        }
    }
}

/// A key type name that is not known.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error(
    "unknown key type {0:?}; one of ec-p256, ec-p384, rsa-2048, rsa-3072, rsa-4096, ed25519, ml-dsa-44, ml-dsa-65 is expected"
)]
pub struct UnknownKeyType(String);

impl FromStr for KeyType {
    type Err = UnknownKeyType;

    fn from_str(text: &str) -> Result<Self, UnknownKeyType> {
        Self::ALL
            .into_iter()
            .find(|key_type| key_type.name() == text)
            .ok_or_else(|| UnknownKeyType(text.to_owned()))
    }
}

/// How a signature is made. The algorithm names its digest, so a key is handed the message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum SignatureAlgorithm {
    /// ECDSA on P-256 with SHA-256 (RFC 5758 §3.2; `ES256`).
    EcdsaP256Sha256,
    /// ECDSA on P-384 with SHA-384 (RFC 5758 §3.2; `ES384`).
    EcdsaP384Sha384,
    /// RSASSA-PKCS1-v1_5 with SHA-256 (RFC 4055 §5; `RS256`).
    RsaPkcs1Sha256,
    /// RSASSA-PSS with SHA-256, MGF1 with SHA-256 and a salt of 32 bytes (RFC 4055 §3.1; `PS256`).
    RsaPssSha256,
    /// Ed25519 over the message itself (RFC 8410 §3).
    Ed25519,
    /// ML-DSA-44 over the message itself, without a context (RFC 9881 §3).
    MlDsa44,
    /// ML-DSA-65 over the message itself, without a context (RFC 9881 §3).
    MlDsa65,
}

/// The `AlgorithmIdentifier` of RSASSA-PSS with all three parameters said, as RFC 4055 §3.1 has them.
const RSA_PSS_SHA256: &[u8] = b"\x30\x41\x06\x09\x2a\x86\x48\x86\xf7\x0d\x01\x01\x0a\x30\x34\
    \xa0\x0f\x30\x0d\x06\x09\x60\x86\x48\x01\x65\x03\x04\x02\x01\x05\x00\
    \xa1\x1c\x30\x1a\x06\x09\x2a\x86\x48\x86\xf7\x0d\x01\x01\x08\
    \x30\x0d\x06\x09\x60\x86\x48\x01\x65\x03\x04\x02\x01\x05\x00\
    \xa2\x03\x02\x01\x20";

impl SignatureAlgorithm {
    /// The DER of the X.509 `AlgorithmIdentifier`.
    #[must_use]
    pub fn identifier(self) -> &'static [u8] {
        match self {
            // 1.2.840.10045.4.3.2, parameters absent (RFC 5758 §3.2)
            Self::EcdsaP256Sha256 => b"\x30\x0a\x06\x08\x2a\x86\x48\xce\x3d\x04\x03\x02",
            // 1.2.840.10045.4.3.3, parameters absent
            Self::EcdsaP384Sha384 => b"\x30\x0a\x06\x08\x2a\x86\x48\xce\x3d\x04\x03\x03",
            // 1.2.840.113549.1.1.11, parameters NULL (RFC 4055 §5)
            Self::RsaPkcs1Sha256 => b"\x30\x0d\x06\x09\x2a\x86\x48\x86\xf7\x0d\x01\x01\x0b\x05\x00",
            // 1.2.840.113549.1.1.10 with rSASSA-PSS-SHA256-Params (RFC 4055 §3.1, §6)
            Self::RsaPssSha256 => RSA_PSS_SHA256,
            // 1.3.101.112, parameters absent (RFC 8410 §3)
            Self::Ed25519 => b"\x30\x05\x06\x03\x2b\x65\x70",
            // 2.16.840.1.101.3.4.3.17 and .18, parameters absent (RFC 9881 §2)
            Self::MlDsa44 => b"\x30\x0b\x06\x09\x60\x86\x48\x01\x65\x03\x04\x03\x11",
            Self::MlDsa65 => b"\x30\x0b\x06\x09\x60\x86\x48\x01\x65\x03\x04\x03\x12",
        }
    }

    /// The `alg` of a JWS made with it, where JWT-SVID §3 allows one.
    #[must_use]
    pub fn jws(self) -> Option<&'static str> {
        match self {
            Self::EcdsaP256Sha256 => Some("ES256"),
            Self::EcdsaP384Sha384 => Some("ES384"),
            Self::RsaPkcs1Sha256 => Some("RS256"),
            Self::RsaPssSha256 => Some("PS256"),
            Self::Ed25519 | Self::MlDsa44 | Self::MlDsa65 => None,
        }
    }

    /// The digest of `message` that a device without hashing of its own signs; `None` for Ed25519 and
    /// ML-DSA, which sign the message.
    #[must_use]
    pub fn digest(self, message: &[u8]) -> Option<aws_lc_rs::digest::Digest> {
        use aws_lc_rs::digest::{SHA256, SHA384, digest};
        match self {
            Self::EcdsaP256Sha256 | Self::RsaPkcs1Sha256 | Self::RsaPssSha256 => {
                Some(digest(&SHA256, message))
            }
            Self::EcdsaP384Sha384 => Some(digest(&SHA384, message)),
            Self::Ed25519 | Self::MlDsa44 | Self::MlDsa65 => None,
        }
    }

    /// A name for people.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::EcdsaP256Sha256 => "ecdsa-p256-sha256",
            Self::EcdsaP384Sha384 => "ecdsa-p384-sha384",
            Self::RsaPkcs1Sha256 => "rsa-pkcs1-sha256",
            Self::RsaPssSha256 => "rsa-pss-sha256",
            Self::Ed25519 => "ed25519",
            Self::MlDsa44 => "ml-dsa-44",
            Self::MlDsa65 => "ml-dsa-65",
        }
    }
}

impl fmt::Display for SignatureAlgorithm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}
