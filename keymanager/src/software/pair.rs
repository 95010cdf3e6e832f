//! A private key in memory, ready to sign; the one place that names the cryptography library.

#[cfg(not(feature = "ring"))]
use aws_lc_rs as provider;
#[cfg(feature = "ring")]
use ring as provider;

use ca_core::der::{self, tag};
use ca_core::key::{
    KeyError, KeyName, KeyType, PublicKey, SignError, Signature, SignatureAlgorithm, ToBeSigned,
};
use provider::rand::{SecureRandom, SystemRandom};
use provider::signature::{
    ECDSA_P256_SHA256_ASN1_SIGNING, ECDSA_P384_SHA384_ASN1_SIGNING, EcdsaKeyPair,
    EcdsaSigningAlgorithm, Ed25519KeyPair, KeyPair, RSA_PKCS1_SHA256, RSA_PSS_SHA256, RsaKeyPair,
};
#[cfg(not(feature = "ring"))]
use provider::signature::{ML_DSA_44_SIGNING, ML_DSA_65_SIGNING, PqdsaKeyPair};
use zeroize::Zeroizing;

#[cfg(not(feature = "ring"))]
use super::p256::P256Key;

/// The kinds of key that [`Pair::generate`] makes.
#[cfg(not(feature = "ring"))]
pub(super) const CREATABLE: &[KeyType] = &KeyType::ALL;
/// The kinds of key that [`Pair::generate`] makes: ring signs with RSA keys and makes none, and has no
/// ML-DSA.
#[cfg(feature = "ring")]
pub(super) const CREATABLE: &[KeyType] = &[KeyType::EcP256, KeyType::EcP384, KeyType::Ed25519];

/// A key pair with all that a signature needs held ready.
pub(super) struct Pair {
    private: Private,
    random: SystemRandom,
    public_key: PublicKey,
}

enum Private {
    // With the ASN.1 signing algorithms: cheaper in aws-lc-rs than its fixed-length ones.
    Ecdsa(EcdsaKeyPair),
    #[cfg(not(feature = "ring"))]
    P256(P256Key, PublicKey),
    Rsa(RsaKeyPair),
    Ed25519(Ed25519KeyPair),
    #[cfg(not(feature = "ring"))]
    MlDsa(Box<PqdsaKeyPair>),
}

impl Pair {
    /// The signature over a message, by the algorithm that it names and hashed as that says.
    pub(super) fn sign(
        &self,
        name: &KeyName,
        message: &ToBeSigned,
    ) -> Result<Signature, SignError> {
        let algorithm = message.algorithm();
        if !self.algorithms().contains(&algorithm) {
            return Err(cannot(name, algorithm));
        }
        let bytes = message.message();
        let signature = match &self.private {
            Private::Ecdsa(pair) => {
                let der = pair.sign(&self.random, bytes).map_err(|_| failed(name))?;
                Signature::from_x509(algorithm, der.as_ref())
            }
            #[cfg(not(feature = "ring"))]
            Private::P256(key, _) => {
                let fixed = key.sign(message.sha256()).ok_or_else(|| failed(name))?;
                Signature::from_fixed(algorithm, &fixed)
            }
            Private::Ed25519(pair) => Signature::from_fixed(algorithm, pair.sign(bytes).as_ref()),
            Private::Rsa(pair) => {
                let padding = match algorithm {
                    SignatureAlgorithm::RsaPssSha256 => RSA_PSS,
                    _ => &RSA_PKCS1_SHA256,
                };
                let mut buffer = [0; 512];
                let signature = &mut buffer[..modulus_length(pair)];
                pair.sign(padding, &self.random, bytes, signature).map_err(|_| failed(name))?;
                Signature::from_fixed(algorithm, signature)
            }
            #[cfg(not(feature = "ring"))]
            Private::MlDsa(pair) => {
                let mut signature = vec![0; pair.algorithm().signature_len()];
                let length = pair.sign(bytes, &mut signature).map_err(|_| failed(name))?;
                Signature::from_fixed(algorithm, &signature[..length])
            }
        };
        signature.map_err(|source| SignError::Malformed { key: name.to_string(), source })
    }

    pub(super) fn algorithms(&self) -> &'static [SignatureAlgorithm] {
        self.public_key.kind().algorithms()
    }

    pub(super) fn public_key(&self) -> &PublicKey {
        &self.public_key
    }

    /// A new key of a [`CREATABLE`] type, and its PKCS#8 for keeping.
    pub(super) fn generate(
        name: &KeyName,
        key_type: KeyType,
    ) -> Result<(Zeroizing<Vec<u8>>, Self), KeyError> {
        let pkcs8 = generate_pkcs8(key_type).ok_or_else(|| KeyError::Unavailable {
            place: "the cryptography library".to_owned(),
            reason: format!("it could not make a key of type {key_type}"),
        })?;
        let pair = Self::from_pkcs8(name, key_type, &pkcs8)?;
        Ok((pkcs8, pair))
    }

    /// Reads a private key, checks that it is of `key_type` and that what it signs verifies.
    pub(super) fn from_pkcs8(
        name: &KeyName,
        key_type: KeyType,
        pkcs8: &[u8],
    ) -> Result<Self, KeyError> {
        let broken = |reason: String| KeyError::Unsafe { name: name.clone(), reason };
        let private = Private::from_pkcs8(key_type, pkcs8)
            .ok_or_else(|| broken(format!("its content is no private key of type {key_type}")))?;
        let public_key = private
            .public_key()
            .ok_or_else(|| broken("its public half is malformed".to_owned()))?;
        if public_key.kind() != key_type.kind() {
            return Err(broken(format!("it is {} and not {key_type}", public_key.kind())));
        }
        let pair = Self { private, random: SystemRandom::new(), public_key };
        pair.prove(name).map_err(|reason| broken(reason.to_owned()))?;
        Ok(pair)
    }

    /// Signs a probe and verifies it, so that halves that do not belong together never sign.
    fn prove(&self, name: &KeyName) -> Result<(), &'static str> {
        let mut nonce = [0; 32];
        self.random.fill(&mut nonce).map_err(|_| "the system gives no random bytes")?;
        let probe = ToBeSigned::probe(nonce, self.public_key.kind().usual_algorithm());
        match self.sign(name, &probe) {
            Ok(signature) if self.public_key.verifies(probe.message(), &signature) => Ok(()),
            _ => Err("what it signs does not verify with its public half"),
        }
    }
}

impl Private {
    fn from_pkcs8(key_type: KeyType, pkcs8: &[u8]) -> Option<Self> {
        match key_type {
            KeyType::EcP256 => p256(pkcs8),
            KeyType::EcP384 => ecdsa(&ECDSA_P384_SHA384_ASN1_SIGNING, pkcs8).map(Self::Ecdsa),
            KeyType::Rsa2048 | KeyType::Rsa3072 | KeyType::Rsa4096 => {
                RsaKeyPair::from_pkcs8(pkcs8).ok().map(Self::Rsa)
            }
            KeyType::Ed25519 => Ed25519KeyPair::from_pkcs8(pkcs8).ok().map(Self::Ed25519),
            #[cfg(not(feature = "ring"))]
            KeyType::MlDsa44 => ml_dsa(&ML_DSA_44_SIGNING, pkcs8),
            #[cfg(not(feature = "ring"))]
            KeyType::MlDsa65 => ml_dsa(&ML_DSA_65_SIGNING, pkcs8),
            #[cfg(feature = "ring")]
            KeyType::MlDsa44 | KeyType::MlDsa65 => None,
        }
    }

    fn public_key(&self) -> Option<PublicKey> {
        match self {
            Self::Ecdsa(pair) => PublicKey::from_ec_point(pair.public_key().as_ref()).ok(),
            #[cfg(not(feature = "ring"))]
            Self::P256(_, public_key) => Some(public_key.clone()),
            Self::Ed25519(pair) => {
                PublicKey::from_ed25519(pair.public_key().as_ref().try_into().ok()?).ok()
            }
            Self::Rsa(pair) => {
                // Both libraries give the RSAPublicKey of RFC 8017 §A.1.1.
                let mut numbers =
                    der::sole(pair.public_key().as_ref(), tag::SEQUENCE, "RSAPublicKey").ok()?;
                let modulus = numbers.unsigned("RSA modulus").ok()?;
                PublicKey::from_rsa(modulus, numbers.unsigned("RSA exponent").ok()?).ok()
            }
            #[cfg(not(feature = "ring"))]
            Self::MlDsa(pair) => PublicKey::from_ml_dsa(pair.public_key().as_ref()).ok(),
        }
    }
}

fn failed(name: &KeyName) -> SignError {
    let reason = "the cryptography library failed to sign".to_owned();
    SignError::Unavailable { key: name.to_string(), reason }
}

/// The refusal of an algorithm that is not the key's.
fn cannot(name: &KeyName, algorithm: SignatureAlgorithm) -> SignError {
    let reason = format!("it does not sign by {algorithm}; use a key of another type");
    SignError::Refused { key: name.to_string(), reason }
}

/// The libraries have it by different types.
#[cfg(not(feature = "ring"))]
const RSA_PSS: &provider::signature::RsaSignatureEncoding = &RSA_PSS_SHA256;
#[cfg(feature = "ring")]
const RSA_PSS: &dyn provider::signature::RsaEncoding = &RSA_PSS_SHA256;

#[cfg(not(feature = "ring"))]
fn ml_dsa(
    algorithm: &'static provider::signature::PqdsaSigningAlgorithm,
    pkcs8: &[u8],
) -> Option<Private> {
    let pair = PqdsaKeyPair::from_pkcs8(algorithm, pkcs8).ok()?;
    Some(Private::MlDsa(Box::new(pair)))
}

#[cfg(not(feature = "ring"))]
fn p256(pkcs8: &[u8]) -> Option<Private> {
    let checked = ecdsa(&ECDSA_P256_SHA256_ASN1_SIGNING, pkcs8)?;
    let public_key = PublicKey::from_ec_point(checked.public_key().as_ref()).ok()?;
    Some(Private::P256(P256Key::from_pkcs8(pkcs8)?, public_key))
}

#[cfg(feature = "ring")]
fn p256(pkcs8: &[u8]) -> Option<Private> {
    ecdsa(&ECDSA_P256_SHA256_ASN1_SIGNING, pkcs8).map(Private::Ecdsa)
}

#[cfg(not(feature = "ring"))]
fn ecdsa(algorithm: &'static EcdsaSigningAlgorithm, pkcs8: &[u8]) -> Option<EcdsaKeyPair> {
    EcdsaKeyPair::from_pkcs8(algorithm, pkcs8).ok()
}

#[cfg(feature = "ring")]
fn ecdsa(algorithm: &'static EcdsaSigningAlgorithm, pkcs8: &[u8]) -> Option<EcdsaKeyPair> {
    EcdsaKeyPair::from_pkcs8(algorithm, pkcs8, &SystemRandom::new()).ok()
}

#[cfg(not(feature = "ring"))]
fn modulus_length(pair: &RsaKeyPair) -> usize {
    pair.public_modulus_len()
}

#[cfg(feature = "ring")]
fn modulus_length(pair: &RsaKeyPair) -> usize {
    pair.public().modulus_len()
}

fn generate_pkcs8(key_type: KeyType) -> Option<Zeroizing<Vec<u8>>> {
    let random = SystemRandom::new();
    let document = match key_type {
        KeyType::EcP256 => EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, &random),
        KeyType::EcP384 => EcdsaKeyPair::generate_pkcs8(&ECDSA_P384_SHA384_ASN1_SIGNING, &random),
        KeyType::Ed25519 => Ed25519KeyPair::generate_pkcs8(&random),
        KeyType::Rsa2048 | KeyType::Rsa3072 | KeyType::Rsa4096 => return generate_rsa(key_type),
        #[cfg(not(feature = "ring"))]
        KeyType::MlDsa44 => return generate_ml_dsa(&ML_DSA_44_SIGNING),
        #[cfg(not(feature = "ring"))]
        KeyType::MlDsa65 => return generate_ml_dsa(&ML_DSA_65_SIGNING),
        #[cfg(feature = "ring")]
        KeyType::MlDsa44 | KeyType::MlDsa65 => return None,
    };
    document.ok().map(|document| Zeroizing::new(document.as_ref().to_vec()))
}

#[cfg(not(feature = "ring"))]
fn generate_rsa(key_type: KeyType) -> Option<Zeroizing<Vec<u8>>> {
    use aws_lc_rs::encoding::{AsDer, Pkcs8V1Der};
    use aws_lc_rs::rsa::KeySize;
    let size = match key_type {
        KeyType::Rsa2048 => KeySize::Rsa2048,
        KeyType::Rsa3072 => KeySize::Rsa3072,
        _ => KeySize::Rsa4096,
    };
    let pair = RsaKeyPair::generate(size).ok()?;
    let document: Pkcs8V1Der<'_> = pair.as_der().ok()?;
    Some(Zeroizing::new(document.as_ref().to_vec()))
}

#[cfg(not(feature = "ring"))]
fn generate_ml_dsa(
    algorithm: &'static provider::signature::PqdsaSigningAlgorithm,
) -> Option<Zeroizing<Vec<u8>>> {
    // `Document` wipes itself.
    let document = PqdsaKeyPair::generate(algorithm).ok()?.to_pkcs8v1().ok()?;
    Some(Zeroizing::new(document.as_ref().to_vec()))
}

#[cfg(feature = "ring")]
fn generate_rsa(_: KeyType) -> Option<Zeroizing<Vec<u8>>> {
    None
}

#[cfg(test)]
#[cfg_attr(
    not(feature = "ring"),
    expect(unused_qualifications, reason = "the library is named, whichever `provider` is")
)]
mod tests {
    use super::*;
    use aws_lc_rs::encoding::{AsDer, Pkcs8V1Der};
    use aws_lc_rs::rsa::KeySize;
    use aws_lc_rs::signature as aws_lc;

    fn name() -> KeyName {
        KeyName::parse("mintmark/a.test/x509/1").unwrap()
    }

    /// Made by aws-lc-rs, whichever library signs: a sealed file outlives a change of it.
    fn made_by_aws_lc(key_type: KeyType) -> Vec<u8> {
        let random = aws_lc_rs::rand::SystemRandom::new();
        let ec = |algorithm| aws_lc::EcdsaKeyPair::generate_pkcs8(algorithm, &random).unwrap();
        let document = match key_type {
            KeyType::EcP256 => ec(&aws_lc::ECDSA_P256_SHA256_ASN1_SIGNING),
            KeyType::EcP384 => ec(&aws_lc::ECDSA_P384_SHA384_ASN1_SIGNING),
            KeyType::Ed25519 => aws_lc::Ed25519KeyPair::generate_pkcs8(&random).unwrap(),
            KeyType::Rsa2048 => return rsa(KeySize::Rsa2048),
            KeyType::Rsa3072 => return rsa(KeySize::Rsa3072),
            KeyType::Rsa4096 => return rsa(KeySize::Rsa4096),
            KeyType::MlDsa44 => return ml_dsa(&aws_lc::ML_DSA_44_SIGNING),
            KeyType::MlDsa65 => return ml_dsa(&aws_lc::ML_DSA_65_SIGNING),
        };
        document.as_ref().to_vec()
    }

    fn ml_dsa(algorithm: &'static aws_lc::PqdsaSigningAlgorithm) -> Vec<u8> {
        let pair = aws_lc::PqdsaKeyPair::generate(algorithm).unwrap();
        pair.to_pkcs8v1().unwrap().as_ref().to_vec()
    }

    fn rsa(size: KeySize) -> Vec<u8> {
        let pair = aws_lc::RsaKeyPair::generate(size).unwrap();
        let document: Pkcs8V1Der<'_> = pair.as_der().unwrap();
        document.as_ref().to_vec()
    }

    #[test]
    fn keys_of_every_kind_sign_whichever_library_made_them() {
        for key_type in KeyType::ALL {
            let read = Pair::from_pkcs8(&name(), key_type, &made_by_aws_lc(key_type));
            if cfg!(feature = "ring") && matches!(key_type, KeyType::MlDsa44 | KeyType::MlDsa65) {
                assert!(matches!(read, Err(KeyError::Unsafe { .. })), "ring has no ML-DSA");
                continue;
            }
            let pair = read.unwrap();
            for &algorithm in pair.algorithms() {
                let probe = ToBeSigned::probe([7; 32], algorithm);
                let signature = pair.sign(&name(), &probe).unwrap();
                assert!(pair.public_key().verifies(probe.message(), &signature), "{algorithm}");
            }
        }
    }

    #[test]
    fn a_key_of_another_kind_than_its_file_says_is_refused() {
        let (p256, rsa) = (made_by_aws_lc(KeyType::EcP256), made_by_aws_lc(KeyType::Rsa2048));
        for (key_type, pkcs8) in [
            (KeyType::EcP384, &p256),
            (KeyType::Ed25519, &p256),
            (KeyType::Rsa3072, &rsa),
            (KeyType::EcP256, &rsa),
            (KeyType::EcP256, &vec![]),
        ] {
            let refused = Pair::from_pkcs8(&name(), key_type, pkcs8).map(|_| ());
            assert!(matches!(refused, Err(KeyError::Unsafe { .. })), "{key_type}: {refused:?}");
        }
    }
}
