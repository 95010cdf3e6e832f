//! AWS KMS's words for kinds of key and signature algorithms.

use aws_sdk_kms::types::{KeySpec, SigningAlgorithmSpec};
use ca_core::key::{KeyType, SignatureAlgorithm};

/// How KMS calls a kind of key.
pub(super) fn spec(key_type: KeyType) -> KeySpec {
    match key_type {
        KeyType::EcP256 => KeySpec::EccNistP256,
        KeyType::EcP384 => KeySpec::EccNistP384,
        KeyType::Rsa2048 => KeySpec::Rsa2048,
        KeyType::Rsa3072 => KeySpec::Rsa3072,
        KeyType::Rsa4096 => KeySpec::Rsa4096,
        KeyType::Ed25519 => KeySpec::EccNistEdwards25519,
        KeyType::MlDsa44 => KeySpec::MlDsa44,
        KeyType::MlDsa65 => KeySpec::MlDsa65,
    }
}

/// The kind of key that KMS calls so, if Mintmark signs with it.
pub(super) fn key_type(wanted: &KeySpec) -> Option<KeyType> {
    KeyType::ALL.into_iter().find(|&key_type| spec(key_type) == *wanted)
}

/// How KMS calls an algorithm.
pub(super) fn algorithm(algorithm: SignatureAlgorithm) -> SigningAlgorithmSpec {
    match algorithm {
        SignatureAlgorithm::EcdsaP256Sha256 => SigningAlgorithmSpec::EcdsaSha256,
        SignatureAlgorithm::EcdsaP384Sha384 => SigningAlgorithmSpec::EcdsaSha384,
        SignatureAlgorithm::RsaPkcs1Sha256 => SigningAlgorithmSpec::RsassaPkcs1V15Sha256,
        // Its salt is as long as the digest, as `PS256` has it.
        SignatureAlgorithm::RsaPssSha256 => SigningAlgorithmSpec::RsassaPssSha256,
        SignatureAlgorithm::Ed25519 => SigningAlgorithmSpec::Ed25519Sha512,
        SignatureAlgorithm::MlDsa44 | SignatureAlgorithm::MlDsa65 => {
            SigningAlgorithmSpec::MlDsaShake256
        }
    }
}
