//! Key material, and how it signs.

use std::fmt;
use std::str::FromStr;

use aws_lc_rs::digest::{self, Digest};
use aws_lc_rs::encoding::{AsDer, PublicKeyX509Der};
use aws_lc_rs::error::Unspecified;
use aws_lc_rs::rsa::KeySize;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_ASN1_SIGNING, ECDSA_P384_SHA384_ASN1_SIGNING, EcdsaKeyPair, Ed25519KeyPair,
    KeyPair as _, ML_DSA_44_SIGNING, ML_DSA_65_SIGNING, PqdsaKeyPair, RSA_PKCS1_SHA256,
    RSA_PKCS1_SHA384, RSA_PKCS1_SHA512, RSA_PSS_SHA256, RSA_PSS_SHA384, RSA_PSS_SHA512,
    RsaEncoding, RsaKeyPair,
};

use super::FakeKmsError;

/// A kind of key that the stand-in makes, by its name in the KMS API.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum KeySpec {
    /// `ECC_NIST_P256`.
    EccNistP256,
    /// `ECC_NIST_P384`.
    EccNistP384,
    /// `ECC_NIST_EDWARDS25519`.
    EccNistEdwards25519,
    /// `RSA_2048`.
    Rsa2048,
    /// `RSA_3072`.
    Rsa3072,
    /// `RSA_4096`.
    Rsa4096,
    /// `ML_DSA_44`.
    MlDsa44,
    /// `ML_DSA_65`.
    MlDsa65,
}

impl KeySpec {
    /// Every kind.
    pub const ALL: [Self; 8] = [
        Self::EccNistP256,
        Self::EccNistP384,
        Self::EccNistEdwards25519,
        Self::Rsa2048,
        Self::Rsa3072,
        Self::Rsa4096,
        Self::MlDsa44,
        Self::MlDsa65,
    ];

    /// Its name in the API.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::EccNistP256 => "ECC_NIST_P256",
            Self::EccNistP384 => "ECC_NIST_P384",
            Self::EccNistEdwards25519 => "ECC_NIST_EDWARDS25519",
            Self::Rsa2048 => "RSA_2048",
            Self::Rsa3072 => "RSA_3072",
            Self::Rsa4096 => "RSA_4096",
            Self::MlDsa44 => "ML_DSA_44",
            Self::MlDsa65 => "ML_DSA_65",
        }
    }

    /// How such a key signs, in the order in which KMS lists it.
    pub(super) fn algorithms(self) -> &'static [SigningAlgorithm] {
        use SigningAlgorithm as A;
        match self {
            Self::EccNistP256 => &[A::Ecdsa(Hash::Sha256)],
            Self::EccNistP384 => &[A::Ecdsa(Hash::Sha384)],
            Self::EccNistEdwards25519 => &[A::Ed25519, A::Ed25519Prehashed],
            Self::Rsa2048 | Self::Rsa3072 | Self::Rsa4096 => &[
                A::Pkcs1(Hash::Sha256),
                A::Pkcs1(Hash::Sha384),
                A::Pkcs1(Hash::Sha512),
                A::Pss(Hash::Sha256),
                A::Pss(Hash::Sha384),
                A::Pss(Hash::Sha512),
            ],
            Self::MlDsa44 | Self::MlDsa65 => &[A::MlDsa],
        }
    }
}

impl fmt::Display for KeySpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A kind of key that the stand-in does not make.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("unknown key spec {0:?}; name a signing key as the KMS API does, such as ECC_NIST_P256")]
pub struct UnknownKeySpec(String);

impl FromStr for KeySpec {
    type Err = UnknownKeySpec;

    fn from_str(text: &str) -> Result<Self, UnknownKeySpec> {
        Self::ALL
            .into_iter()
            .find(|spec| spec.name() == text)
            .ok_or_else(|| UnknownKeySpec(text.to_owned()))
    }
}

/// A digest algorithm.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Hash {
    Sha256,
    Sha384,
    Sha512,
}

impl Hash {
    fn algorithm(self) -> &'static digest::Algorithm {
        match self {
            Self::Sha256 => &digest::SHA256,
            Self::Sha384 => &digest::SHA384,
            Self::Sha512 => &digest::SHA512,
        }
    }

    fn pkcs1(self) -> &'static dyn RsaEncoding {
        match self {
            Self::Sha256 => &RSA_PKCS1_SHA256,
            Self::Sha384 => &RSA_PKCS1_SHA384,
            Self::Sha512 => &RSA_PKCS1_SHA512,
        }
    }

    /// PSS with a salt as long as the digest, as KMS makes it.
    fn pss(self) -> &'static dyn RsaEncoding {
        match self {
            Self::Sha256 => &RSA_PSS_SHA256,
            Self::Sha384 => &RSA_PSS_SHA384,
            Self::Sha512 => &RSA_PSS_SHA512,
        }
    }
}

/// A signing algorithm of the KMS API.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum SigningAlgorithm {
    Ecdsa(Hash),
    Pkcs1(Hash),
    Pss(Hash),
    Ed25519,
    Ed25519Prehashed,
    MlDsa,
}

impl SigningAlgorithm {
    const ALL: [Self; 12] = [
        Self::Ecdsa(Hash::Sha256),
        Self::Ecdsa(Hash::Sha384),
        Self::Ecdsa(Hash::Sha512),
        Self::Pkcs1(Hash::Sha256),
        Self::Pkcs1(Hash::Sha384),
        Self::Pkcs1(Hash::Sha512),
        Self::Pss(Hash::Sha256),
        Self::Pss(Hash::Sha384),
        Self::Pss(Hash::Sha512),
        Self::Ed25519,
        Self::Ed25519Prehashed,
        Self::MlDsa,
    ];

    /// Its name in the API.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Ecdsa(Hash::Sha256) => "ECDSA_SHA_256",
            Self::Ecdsa(Hash::Sha384) => "ECDSA_SHA_384",
            Self::Ecdsa(Hash::Sha512) => "ECDSA_SHA_512",
            Self::Pkcs1(Hash::Sha256) => "RSASSA_PKCS1_V1_5_SHA_256",
            Self::Pkcs1(Hash::Sha384) => "RSASSA_PKCS1_V1_5_SHA_384",
            Self::Pkcs1(Hash::Sha512) => "RSASSA_PKCS1_V1_5_SHA_512",
            Self::Pss(Hash::Sha256) => "RSASSA_PSS_SHA_256",
            Self::Pss(Hash::Sha384) => "RSASSA_PSS_SHA_384",
            Self::Pss(Hash::Sha512) => "RSASSA_PSS_SHA_512",
            Self::Ed25519 => "ED25519_SHA_512",
            Self::Ed25519Prehashed => "ED25519_PH_SHA_512",
            Self::MlDsa => "ML_DSA_SHAKE_256",
        }
    }

    /// The algorithm of that name.
    pub(super) fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|algorithm| algorithm.name() == name)
    }

    /// An algorithm of another name.
    pub(super) fn other_than(name: &str) -> Self {
        let other = Self::Ecdsa(Hash::Sha384);
        if other.name() == name { Self::Ecdsa(Hash::Sha256) } else { other }
    }

    /// The digest that is signed in place of the message, for the algorithms that take one.
    pub(super) fn hash(self) -> Option<Hash> {
        match self {
            Self::Ecdsa(hash) | Self::Pkcs1(hash) | Self::Pss(hash) => Some(hash),
            Self::Ed25519 | Self::Ed25519Prehashed | Self::MlDsa => None,
        }
    }
}

/// What is signed.
#[derive(Debug)]
pub(super) enum Input {
    /// A message, for the algorithms that hash within.
    Message(Vec<u8>),
    /// A digest of the algorithm's own length.
    Digest(Digest),
}

impl Input {
    /// The whole message, hashed where the algorithm signs a digest.
    pub(super) fn of_message(algorithm: SigningAlgorithm, message: Vec<u8>) -> Self {
        match algorithm.hash() {
            Some(hash) => Self::Digest(digest::digest(hash.algorithm(), &message)),
            None => Self::Message(message),
        }
    }

    /// A digest that the caller has made; `None` if the algorithm takes none or one of another length.
    pub(super) fn of_digest(algorithm: SigningAlgorithm, digest: &[u8]) -> Option<Self> {
        let algorithm = algorithm.hash()?.algorithm();
        Digest::import_less_safe(digest, algorithm).ok().map(Self::Digest)
    }
}

/// A private key.
pub(super) struct KeyPair(Material);

enum Material {
    Ecdsa(EcdsaKeyPair),
    Ed25519(Ed25519KeyPair),
    Rsa(RsaKeyPair),
    MlDsa(PqdsaKeyPair),
}

impl fmt::Debug for KeyPair {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("KeyPair")
    }
}

impl KeyPair {
    /// A new key; RSA takes up to seconds.
    pub(super) fn generate(spec: KeySpec) -> Result<Self, FakeKmsError> {
        Self::of_library(spec).map_err(|Unspecified| FakeKmsError::Random)
    }

    fn of_library(spec: KeySpec) -> Result<Self, Unspecified> {
        Ok(Self(match spec {
            KeySpec::EccNistP256 => {
                Material::Ecdsa(EcdsaKeyPair::generate(&ECDSA_P256_SHA256_ASN1_SIGNING)?)
            }
            KeySpec::EccNistP384 => {
                Material::Ecdsa(EcdsaKeyPair::generate(&ECDSA_P384_SHA384_ASN1_SIGNING)?)
            }
            KeySpec::EccNistEdwards25519 => Material::Ed25519(Ed25519KeyPair::generate()?),
            KeySpec::Rsa2048 => Material::Rsa(RsaKeyPair::generate(KeySize::Rsa2048)?),
            KeySpec::Rsa3072 => Material::Rsa(RsaKeyPair::generate(KeySize::Rsa3072)?),
            KeySpec::Rsa4096 => Material::Rsa(RsaKeyPair::generate(KeySize::Rsa4096)?),
            KeySpec::MlDsa44 => Material::MlDsa(PqdsaKeyPair::generate(&ML_DSA_44_SIGNING)?),
            KeySpec::MlDsa65 => Material::MlDsa(PqdsaKeyPair::generate(&ML_DSA_65_SIGNING)?),
        }))
    }

    /// The DER of the public key's `SubjectPublicKeyInfo` (RFC 5280 §4.1.2.7).
    pub(super) fn public_key(&self) -> Result<Vec<u8>, Unspecified> {
        let der: PublicKeyX509Der<'static> = match &self.0 {
            Material::Ecdsa(key) => key.public_key().as_der()?,
            Material::Ed25519(key) => key.public_key().as_der()?,
            Material::Rsa(key) => key.public_key().as_der()?,
            Material::MlDsa(key) => key.public_key().as_der()?,
        };
        Ok(der.as_ref().to_vec())
    }

    /// The signature in the encoding of KMS (ECDSA: DER). Fails if algorithm, key and input do not fit
    /// each other.
    pub(super) fn sign(
        &self,
        algorithm: SigningAlgorithm,
        input: &Input,
    ) -> Result<Vec<u8>, Unspecified> {
        use SigningAlgorithm as A;
        match (&self.0, algorithm, input) {
            (Material::Ecdsa(key), A::Ecdsa(_), Input::Digest(digest)) => {
                Ok(key.sign_digest(digest)?.as_ref().to_vec())
            }
            (Material::Rsa(key), A::Pkcs1(hash), Input::Digest(digest)) => {
                rsa(key, hash.pkcs1(), digest)
            }
            (Material::Rsa(key), A::Pss(hash), Input::Digest(digest)) => {
                rsa(key, hash.pss(), digest)
            }
            (Material::Ed25519(key), A::Ed25519, Input::Message(message)) => {
                Ok(key.try_sign(message)?.as_ref().to_vec())
            }
            (Material::MlDsa(key), A::MlDsa, Input::Message(message)) => {
                let mut signature = vec![0; key.algorithm().signature_len()];
                let length = key.sign(message, &mut signature)?;
                signature.truncate(length);
                Ok(signature)
            }
            _ => Err(Unspecified),
        }
    }
}

fn rsa(
    key: &RsaKeyPair,
    encoding: &'static dyn RsaEncoding,
    digest: &Digest,
) -> Result<Vec<u8>, Unspecified> {
    let mut signature = vec![0; key.public_modulus_len()];
    key.sign_digest(encoding, digest, &mut signature)?;
    Ok(signature)
}
