//! Public keys as `SubjectPublicKeyInfo`, strictly read and bounded before any arithmetic.

use std::fmt;

use aws_lc_rs::digest::{SHA1_FOR_LEGACY_USE_ONLY, SHA256, digest};
use aws_lc_rs::signature::{
    self as verification, ParsedPublicKey, UnparsedPublicKey, VerificationAlgorithm,
};
use bytes::Bytes;
use thiserror::Error;

use super::{Signature, SignatureAlgorithm};
use crate::der::{self, DerError, tag};

/// The kind and size of a public key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum KeyKind {
    /// An uncompressed point on P-256 (RFC 5480 §2.2).
    EcP256,
    /// An uncompressed point on P-384.
    EcP384,
    /// RSA (RFC 8017 §A.1.1).
    Rsa {
        /// Length of the modulus, 2048 to 4096.
        bits: u16,
    },
    /// Ed25519 (RFC 8410 §4).
    Ed25519,
    /// ML-DSA-44 (RFC 9881 §4).
    MlDsa44,
    /// ML-DSA-65 (RFC 9881 §4).
    MlDsa65,
}

impl fmt::Display for KeyKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::EcP256 => f.write_str("EC P-256"),
            Self::EcP384 => f.write_str("EC P-384"),
            Self::Rsa { bits } => write!(f, "RSA-{bits}"),
            Self::Ed25519 => f.write_str("Ed25519"),
            Self::MlDsa44 => f.write_str("ML-DSA-44"),
            Self::MlDsa65 => f.write_str("ML-DSA-65"),
        }
    }
}

/// Why a public key is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum PublicKeyError {
    /// Not a strict `SubjectPublicKeyInfo`.
    #[error("public key is malformed: {0}")]
    Malformed(#[from] DerError),
    /// An algorithm, curve or parameter that Mintmark does not certify.
    #[error(
        "public key algorithm is not supported; use EC P-256, EC P-384, RSA-2048 to RSA-4096 or Ed25519"
    )]
    Unsupported,
    /// A point in compressed form or of the wrong length (RFC 5480 §2.2).
    #[error("public key point is not an uncompressed point of its curve")]
    PointForm,
    /// The point does not lie on its curve.
    #[error("public key is not a point on its curve")]
    OffCurve,
    /// An RSA modulus outside 2048 to 4096 bits.
    #[error("RSA modulus has {0} bits; 2048 to 4096 are accepted")]
    ModulusSize(usize),
    /// An even RSA modulus.
    #[error("RSA modulus is even")]
    EvenModulus,
    /// An exponent that is even, below 65537 (FIPS 186-5 §5.1) or above 33 bits.
    #[error("RSA exponent must be odd, at least 65537 and at most 33 bits")]
    Exponent,
    /// An Ed25519 point of small order: a signature that verifies with it proves nothing.
    #[error("Ed25519 public key has small order, so anyone can sign for it; make a new key")]
    SmallOrder,
}

/// SHA-1 of the key bits: the subject key identifier of RFC 5280 §4.2.1.2 (1), and SPIRE's authority id.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct KeyId(pub [u8; 20]);

/// Lower-case hexadecimal.
impl fmt::Display for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "KeyId({self})")
    }
}

/// A well-formed public key of an accepted kind. Says nothing about who holds the private half.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct PublicKey {
    spki: Bytes,
    kind: KeyKind,
    /// Both hashes are taken once: the certificate, its check and its log record all need them.
    key_id: KeyId,
    fingerprint: [u8; 32],
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PublicKey({}, {})", self.kind, self.key_id())
    }
}

/// Everything of a P-256 `SubjectPublicKeyInfo` before the 64 coordinate bytes: id-ecPublicKey,
/// secp256r1, BIT STRING, uncompressed point.
const P256_PREFIX: &[u8; 27] = b"\x30\x59\x30\x13\x06\x07\x2a\x86\x48\xce\x3d\x02\x01\x06\x08\x2a\x86\x48\xce\x3d\x03\x01\x07\x03\x42\x00\x04";
/// The same for P-384 and its 96 coordinate bytes.
const P384_PREFIX: &[u8; 24] = b"\x30\x76\x30\x10\x06\x07\x2a\x86\x48\xce\x3d\x02\x01\x06\x05\x2b\x81\x04\x00\x22\x03\x62\x00\x04";
/// Everything of an Ed25519 `SubjectPublicKeyInfo` before the 32 key bytes (RFC 8410 §4).
const ED25519_PREFIX: &[u8; 12] = b"\x30\x2a\x30\x05\x06\x03\x2b\x65\x70\x03\x21\x00";
/// Everything of an ML-DSA `SubjectPublicKeyInfo` before the key bytes (RFC 9881 §4): 1312 and 1952 of them.
const ML_DSA_44_PREFIX: &[u8; 22] =
    b"\x30\x82\x05\x32\x30\x0b\x06\x09\x60\x86\x48\x01\x65\x03\x04\x03\x11\x03\x82\x05\x21\x00";
const ML_DSA_65_PREFIX: &[u8; 22] =
    b"\x30\x82\x07\xb2\x30\x0b\x06\x09\x60\x86\x48\x01\x65\x03\x04\x03\x12\x03\x82\x07\xa1\x00";
const ML_DSA_44_LENGTH: usize = 1312;
const ML_DSA_65_LENGTH: usize = 1952;
/// The content of the RSA `AlgorithmIdentifier`: rsaEncryption and NULL (RFC 3279 §2.3.1).
const RSA_ALGORITHM: &[u8; 13] = b"\x06\x09\x2a\x86\x48\x86\xf7\x0d\x01\x01\x01\x05\x00";

impl PublicKey {
    /// Reads a DER `SubjectPublicKeyInfo` and checks that the key is one: point on its curve, size and
    /// exponent in bounds.
    pub fn from_spki(spki: &[u8]) -> Result<Self, PublicKeyError> {
        let key = Self::from_spki_unproven(spki)?;
        let is_key = match key.kind {
            KeyKind::EcP256 => is_on_p256(key.key_bits()),
            KeyKind::EcP384 => is_on_p384(key.key_bits()),
            _ => true,
        };
        is_key.then_some(key).ok_or(PublicKeyError::OffCurve)
    }

    /// As [`from_spki`](Self::from_spki) without the curve check, for a caller that goes on to verify a
    /// signature with the key: the verification refuses a point off the curve.
    pub(crate) fn from_spki_unproven(spki: &[u8]) -> Result<Self, PublicKeyError> {
        let kind = kind_of(spki)?;
        let bits = key_bits(spki, kind);
        let key_id = digest(&SHA1_FOR_LEGACY_USE_ONLY, bits);
        let fingerprint = digest(&SHA256, spki);
        Ok(Self {
            spki: Bytes::copy_from_slice(spki),
            kind,
            key_id: KeyId(key_id.as_ref().try_into().expect("SHA-1 has 20 bytes")),
            fingerprint: fingerprint.as_ref().try_into().expect("SHA-256 has 32 bytes"),
        })
    }

    /// An EC key from its uncompressed point, `04 || x || y`, as a PKCS#11 token gives it.
    pub fn from_ec_point(point: &[u8]) -> Result<Self, PublicKeyError> {
        let prefix: &[u8] = match point.len() {
            65 => &P256_PREFIX[..26],
            97 => &P384_PREFIX[..23],
            _ => return Err(PublicKeyError::PointForm),
        };
        Self::from_spki(&[prefix, point].concat())
    }

    /// An Ed25519 key from its 32 bytes (RFC 8032 §5.1.5).
    ///
    /// # Errors
    /// [`PublicKeyError::SmallOrder`] if anyone could sign for it.
    pub fn from_ed25519(key: &[u8; 32]) -> Result<Self, PublicKeyError> {
        Self::from_spki_unproven(&[&ED25519_PREFIX[..], key].concat())
    }

    /// An ML-DSA key from its bytes (FIPS 204 §4, table 2): 1312 for ML-DSA-44, 1952 for ML-DSA-65.
    ///
    /// # Errors
    /// [`PublicKeyError::Unsupported`] for any other length.
    pub fn from_ml_dsa(key: &[u8]) -> Result<Self, PublicKeyError> {
        let prefix = match key.len() {
            ML_DSA_44_LENGTH => ML_DSA_44_PREFIX,
            ML_DSA_65_LENGTH => ML_DSA_65_PREFIX,
            _ => return Err(PublicKeyError::Unsupported),
        };
        Self::from_spki_unproven(&[&prefix[..], key].concat())
    }

    /// An RSA key from modulus and exponent, big-endian.
    pub fn from_rsa(modulus: &[u8], exponent: &[u8]) -> Result<Self, PublicKeyError> {
        // Far beyond any key, and far below what the encoder takes.
        const LONGEST: usize = 1 << 20;
        if modulus.len() > LONGEST {
            return Err(PublicKeyError::ModulusSize(modulus.len().saturating_mul(8)));
        }
        if exponent.len() > LONGEST {
            return Err(PublicKeyError::Exponent);
        }
        let mut numbers = Vec::with_capacity(modulus.len() + exponent.len() + 16);
        der::write_unsigned(&mut numbers, modulus);
        der::write_unsigned(&mut numbers, exponent);
        let key = der::encode(tag::SEQUENCE, &[&numbers]);
        let algorithm = der::encode(tag::SEQUENCE, &[RSA_ALGORITHM]);
        let bits = der::encode(tag::BIT_STRING, &[&[0], &key]);
        Self::from_spki(&der::encode(tag::SEQUENCE, &[&algorithm, &bits]))
    }

    /// The DER `SubjectPublicKeyInfo`, byte for byte as it was read.
    #[must_use]
    pub fn spki(&self) -> &[u8] {
        &self.spki
    }

    /// What kind of key it is.
    #[must_use]
    pub fn kind(&self) -> KeyKind {
        self.kind
    }

    /// The content of the `subjectPublicKey` BIT STRING: the EC point, the `RSAPublicKey`, or the bytes of
    /// Ed25519 or ML-DSA.
    #[must_use]
    pub fn key_bits(&self) -> &[u8] {
        key_bits(&self.spki, self.kind)
    }

    /// Modulus and exponent, big-endian without leading zeros, if this is an RSA key.
    #[must_use]
    pub fn rsa_numbers(&self) -> Option<(&[u8], &[u8])> {
        matches!(self.kind, KeyKind::Rsa { .. })
            .then(|| rsa_numbers(self.key_bits()).expect("read once by from_spki_unproven"))
    }

    /// SHA-1 of the key bits (RFC 5280 §4.2.1.2).
    #[must_use]
    pub fn key_id(&self) -> KeyId {
        self.key_id
    }

    /// SHA-256 of the `SubjectPublicKeyInfo`, by which logs name the key.
    #[must_use]
    pub fn fingerprint(&self) -> &[u8; 32] {
        &self.fingerprint
    }

    /// Whether `signature` over `message` is by the private half of this key.
    #[must_use]
    pub fn verifies(&self, message: &[u8], signature: &Signature) -> bool {
        match self.kind.verification(signature.algorithm()) {
            Ok(algorithm) => UnparsedPublicKey::new(algorithm, self.key_bits())
                .verify(message, &signature.x509())
                .is_ok(),
            Err(_) => false,
        }
    }

    /// Made ready to verify signatures of that algorithm.
    ///
    /// # Errors
    /// [`PublicKeyError::Unsupported`] if a key of this kind does not sign so.
    pub fn verifier(&self, algorithm: SignatureAlgorithm) -> Result<Verifier, PublicKeyError> {
        let verification = self.kind.verification(algorithm)?;
        let key = ParsedPublicKey::new(verification, self.key_bits())
            .map_err(|_| PublicKeyError::OffCurve)?;
        Ok(Verifier { algorithm, key })
    }

    /// As [`verifies`](Self::verifies) for signature bytes in the form that X.509 and PKCS#10 hold.
    pub(crate) fn verifies_x509(
        &self,
        algorithm: SignatureAlgorithm,
        message: &[u8],
        signature: &[u8],
    ) -> bool {
        self.kind
            .verification(algorithm)
            .is_ok_and(|algorithm| self.verifies_with(algorithm, message, signature))
    }

    /// As [`verifies_x509`](Self::verifies_x509) by an algorithm that strangers use and Mintmark does
    /// not, which must be of this key's kind.
    pub(crate) fn verifies_with(
        &self,
        algorithm: &'static dyn VerificationAlgorithm,
        message: &[u8],
        signature: &[u8],
    ) -> bool {
        UnparsedPublicKey::new(algorithm, self.key_bits()).verify(message, signature).is_ok()
    }
}

/// A public key read once for many verifications: half of what a verification costs besides its
/// arithmetic is reading the key.
pub struct Verifier {
    algorithm: SignatureAlgorithm,
    key: ParsedPublicKey,
}

impl Verifier {
    /// Whether `signature` over `message` is by the key's private half, and of the algorithm.
    #[must_use]
    pub fn verifies(&self, message: &[u8], signature: &Signature) -> bool {
        signature.algorithm() == self.algorithm
            && self.key.verify_sig(message, &signature.x509()).is_ok()
    }
}

impl fmt::Debug for Verifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Verifier({})", self.algorithm)
    }
}

impl KeyKind {
    /// The algorithm with which a key of this kind signs for Mintmark.
    #[must_use]
    pub fn usual_algorithm(self) -> SignatureAlgorithm {
        match self {
            Self::EcP256 => SignatureAlgorithm::EcdsaP256Sha256,
            Self::EcP384 => SignatureAlgorithm::EcdsaP384Sha384,
            Self::Rsa { .. } => SignatureAlgorithm::RsaPkcs1Sha256,
            Self::Ed25519 => SignatureAlgorithm::Ed25519,
            Self::MlDsa44 => SignatureAlgorithm::MlDsa44,
            Self::MlDsa65 => SignatureAlgorithm::MlDsa65,
        }
    }

    /// The algorithms with which a key of this kind may sign for Mintmark; the usual one first.
    #[must_use]
    pub fn algorithms(self) -> &'static [SignatureAlgorithm] {
        match self {
            Self::EcP256 => &[SignatureAlgorithm::EcdsaP256Sha256],
            Self::EcP384 => &[SignatureAlgorithm::EcdsaP384Sha384],
            Self::Rsa { .. } => {
                &[SignatureAlgorithm::RsaPkcs1Sha256, SignatureAlgorithm::RsaPssSha256]
            }
            Self::Ed25519 => &[SignatureAlgorithm::Ed25519],
            Self::MlDsa44 => &[SignatureAlgorithm::MlDsa44],
            Self::MlDsa65 => &[SignatureAlgorithm::MlDsa65],
        }
    }

    fn verification(
        self,
        algorithm: SignatureAlgorithm,
    ) -> Result<&'static dyn VerificationAlgorithm, PublicKeyError> {
        match (self, algorithm) {
            (Self::EcP256, SignatureAlgorithm::EcdsaP256Sha256) => {
                Ok(&verification::ECDSA_P256_SHA256_ASN1)
            }
            (Self::EcP384, SignatureAlgorithm::EcdsaP384Sha384) => {
                Ok(&verification::ECDSA_P384_SHA384_ASN1)
            }
            (Self::Rsa { .. }, SignatureAlgorithm::RsaPkcs1Sha256) => {
                Ok(&verification::RSA_PKCS1_2048_8192_SHA256)
            }
            (Self::Rsa { .. }, SignatureAlgorithm::RsaPssSha256) => {
                Ok(&verification::RSA_PSS_2048_8192_SHA256)
            }
            (Self::Ed25519, SignatureAlgorithm::Ed25519) => Ok(&verification::ED25519),
            (Self::MlDsa44, SignatureAlgorithm::MlDsa44) => Ok(&verification::ML_DSA_44),
            (Self::MlDsa65, SignatureAlgorithm::MlDsa65) => Ok(&verification::ML_DSA_65),
            _ => Err(PublicKeyError::Unsupported),
        }
    }
}

/// A fifth of what the library that verifies takes, which looks twice and makes the key ready for use.
fn is_on_p256(point: &[u8]) -> bool {
    p256::PublicKey::from_sec1_bytes(point).is_ok()
}

fn is_on_p384(point: &[u8]) -> bool {
    ParsedPublicKey::new(&verification::ECDSA_P384_SHA384_ASN1, point).is_ok()
}

/// Matches the exact encodings of the accepted kinds. Nothing here is arithmetic on the key.
fn kind_of(spki: &[u8]) -> Result<KeyKind, PublicKeyError> {
    if spki.starts_with(P256_PREFIX) && spki.len() == P256_PREFIX.len() + 64 {
        return Ok(KeyKind::EcP256);
    }
    if spki.starts_with(P384_PREFIX) && spki.len() == P384_PREFIX.len() + 96 {
        return Ok(KeyKind::EcP384);
    }
    if spki.starts_with(ED25519_PREFIX) && spki.len() == ED25519_PREFIX.len() + 32 {
        return if has_small_order(&spki[ED25519_PREFIX.len()..]) {
            Err(PublicKeyError::SmallOrder)
        } else {
            Ok(KeyKind::Ed25519)
        };
    }
    for (prefix, length, kind) in [
        (ML_DSA_44_PREFIX, ML_DSA_44_LENGTH, KeyKind::MlDsa44),
        (ML_DSA_65_PREFIX, ML_DSA_65_LENGTH, KeyKind::MlDsa65),
    ] {
        if spki.starts_with(prefix) && spki.len() == prefix.len() + length {
            return Ok(kind);
        }
    }
    let mut info = der::sole(spki, tag::SEQUENCE, "SubjectPublicKeyInfo")?;
    let algorithm = info.expect(tag::SEQUENCE, "key algorithm")?;
    info.bit_string("subjectPublicKey")?;
    info.finish("SubjectPublicKeyInfo")?;
    if algorithm.whole == &P256_PREFIX[2..23] || algorithm.whole == &P384_PREFIX[2..20] {
        return Err(PublicKeyError::PointForm);
    }
    if algorithm.value != RSA_ALGORITHM {
        return Err(PublicKeyError::Unsupported);
    }
    let (modulus, exponent) = rsa_numbers(rsa_bits(spki)?)?;
    let bits = modulus.len() * 8 - modulus.first().map_or(8, |byte| byte.leading_zeros() as usize);
    if !(2048..=4096).contains(&bits) {
        return Err(PublicKeyError::ModulusSize(bits));
    }
    if modulus.last().is_some_and(|byte| byte % 2 == 0) {
        return Err(PublicKeyError::EvenModulus);
    }
    // aws-lc and ring both stop at 33 bits (DNSSEC's largest exponent in use is 2^32 + 1).
    let number = exponent.iter().fold(0u64, |sum, &byte| sum << 8 | u64::from(byte));
    if exponent.len() > 5 || number % 2 == 0 || !(65_537..1 << 33).contains(&number) {
        return Err(PublicKeyError::Exponent);
    }
    Ok(KeyKind::Rsa { bits: u16::try_from(bits).expect("at most 4096") })
}

/// Whether the 32 bytes name one of the eight points whose order divides the cofactor, in any encoding
/// that decodes to one. RFC 8032 §5.1.7 lets every signature of a chosen form verify with those.
fn has_small_order(key: &[u8]) -> bool {
    // The two y of the four points of order 8.
    const EIGHTH: [[u8; 32]; 2] = [
        *b"\x26\xe8\x95\x8f\xc2\xb2\x27\xb0\x45\xc3\xf4\x89\xf2\xef\x98\xf0\xd5\xdf\xac\x05\xd3\xc6\x33\x39\xb1\x38\x02\x88\x6d\x53\xfc\x05",
        *b"\xc7\x17\x6a\x70\x3d\x4d\xd8\x4f\xba\x3c\x0b\x76\x0d\x10\x67\x0f\x2a\x20\x53\xfa\x2c\x39\xcc\xc6\x4e\xc7\xfd\x77\x92\xac\x03\x7a",
    ];
    let (first, middle, last) = (key[0], &key[1..31], key[31] & 0x7f); // without the sign of x
    let low = middle.iter().all(|&byte| byte == 0) && last == 0;
    let high = middle.iter().all(|&byte| byte == 0xff) && last == 0x7f;
    // 0 and 1; then -1, and 0 and 1 once more as p and p + 1 (p = 2^255 - 19).
    low && first <= 1
        || high && (0xec..=0xee).contains(&first)
        || EIGHTH.iter().any(|y| y[..31] == key[..31] && y[31] == last)
}

/// The content of the BIT STRING of a `SubjectPublicKeyInfo` whose kind is known.
fn key_bits(spki: &[u8], kind: KeyKind) -> &[u8] {
    match kind {
        KeyKind::EcP256 => &spki[26..],
        KeyKind::EcP384 => &spki[23..],
        KeyKind::Ed25519 => &spki[12..],
        KeyKind::MlDsa44 | KeyKind::MlDsa65 => &spki[ML_DSA_44_PREFIX.len()..],
        KeyKind::Rsa { .. } => rsa_bits(spki).expect("kind_of has read it"),
    }
}

fn rsa_bits(spki: &[u8]) -> Result<&[u8], DerError> {
    let mut info = der::sole(spki, tag::SEQUENCE, "SubjectPublicKeyInfo")?;
    info.expect(tag::SEQUENCE, "key algorithm")?;
    info.bit_string("subjectPublicKey")
}

fn rsa_numbers(bits: &[u8]) -> Result<(&[u8], &[u8]), DerError> {
    let mut key = der::sole(bits, tag::SEQUENCE, "RSAPublicKey")?;
    let numbers = (key.unsigned("RSA modulus")?, key.unsigned("RSA exponent")?);
    key.finish("RSAPublicKey")?;
    Ok(numbers)
}

#[cfg(test)]
mod tests {
    use super::*;
    use aws_lc_rs::signature::{ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair, KeyPair};

    fn point() -> Vec<u8> {
        EcdsaKeyPair::generate(&ECDSA_P256_SHA256_ASN1_SIGNING)
            .unwrap()
            .public_key()
            .as_ref()
            .to_vec()
    }

    fn rsa(modulus: &[u8], exponent: &[u8]) -> Result<KeyKind, PublicKeyError> {
        PublicKey::from_rsa(modulus, exponent).map(|key| key.kind())
    }

    #[test]
    fn a_point_is_read_and_given_back_unchanged() {
        let point = point();
        let key = PublicKey::from_ec_point(&point).unwrap();
        assert_eq!(key.kind(), KeyKind::EcP256);
        assert_eq!(key.key_bits(), point);
        assert_eq!(PublicKey::from_spki(key.spki()).unwrap(), key);
    }

    #[test]
    fn a_point_off_the_curve_or_compressed_is_refused() {
        let mut off = point();
        off[64] ^= 1;
        assert_eq!(PublicKey::from_ec_point(&off), Err(PublicKeyError::OffCurve));
        let key = PublicKey::from_ec_point(&point()).unwrap();
        let compressed = der::encode(
            tag::SEQUENCE,
            &[
                &key.spki()[2..23],
                &der::encode(tag::BIT_STRING, &[&[0, 2], &key.key_bits()[1..33]]),
            ],
        );
        assert_eq!(PublicKey::from_spki(&compressed), Err(PublicKeyError::PointForm));
    }

    /// Two libraries that have nothing in common have to say the same.
    #[test]
    fn points_of_p256_are_told_from_others_as_the_library_that_verifies_does() {
        let judge = |point: &[u8]| {
            ParsedPublicKey::new(&verification::ECDSA_P256_SHA256_ASN1, point).is_ok()
        };
        let told = |point: &[u8]| match PublicKey::from_ec_point(point) {
            Ok(_) => true,
            Err(PublicKeyError::OffCurve) => false,
            Err(other) => panic!("{other}"),
        };
        for round in 0..64 {
            let good = point();
            assert!(told(&good) && judge(&good));
            let mut other = good.clone();
            other[1 + round] ^= 1 << (round % 8);
            assert_eq!(told(&other), judge(&other), "{other:02x?}");
            // The mirror image is a point too; coordinates that change places hardly ever are.
            let swapped = [&good[..1], &good[33..], &good[1..33]].concat();
            assert_eq!(told(&swapped), judge(&swapped), "{swapped:02x?}");
        }
        // SP 800-186 §3.2.1.3: the field's prime, one less, nothing, and more than the prime.
        let prime: [u8; 32] = std::array::from_fn(|at| match at {
            0..4 | 20..32 => 0xff,
            7 => 1,
            _ => 0,
        });
        let mut less = prime;
        less[31] = 0xfe;
        for x in [[0; 32], prime, less, [0xff; 32]] {
            for y in [[0; 32], prime, less, [0xff; 32]] {
                let edge = [&[4][..], &x, &y].concat();
                assert_eq!((told(&edge), judge(&edge)), (false, false), "{edge:02x?}");
            }
        }
    }

    /// A coordinate that is not reduced names the same point, and is not its encoding (SEC 1 §2.3.5).
    #[test]
    fn a_coordinate_beyond_the_prime_is_refused() {
        // x = 5 is that of a point; so 5 + p is too, were it allowed.
        let y = "459243b9aa581806fe913bce99817ade11ca503c64d9a3c533415c083248fbcc";
        let y: Vec<u8> =
            (0..64).step_by(2).map(|at| u8::from_str_radix(&y[at..at + 2], 16).unwrap()).collect();
        let mut x = [0; 32];
        x[31] = 5;
        assert!(PublicKey::from_ec_point(&[&[4][..], &x, &y].concat()).is_ok());
        let beyond: [u8; 32] = std::array::from_fn(|at| match at {
            0..4 => 0xff,
            7 | 23 => 1,
            31 => 4,
            _ => 0,
        });
        let beyond = PublicKey::from_ec_point(&[&[4][..], &beyond, &y].concat());
        assert_eq!(beyond, Err(PublicKeyError::OffCurve));
    }

    #[test]
    fn ed25519_points_of_small_order_are_refused() {
        let spki = |key: &[u8]| [&ED25519_PREFIX[..], key].concat();
        let read = |key: &[u8]| PublicKey::from_spki(&spki(key)).map(|key| key.kind());
        let hex = |text: &str| -> Vec<u8> {
            (0..64)
                .step_by(2)
                .map(|at| u8::from_str_radix(&text[at..at + 2], 16).unwrap())
                .collect()
        };
        for weak in [
            "0000000000000000000000000000000000000000000000000000000000000000",
            "0100000000000000000000000000000000000000000000000000000000000000",
            "ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
            "edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
            "eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
            "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05",
            "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a",
        ] {
            let mut key = hex(weak);
            assert_eq!(read(&key), Err(PublicKeyError::SmallOrder), "{weak}");
            let bare = PublicKey::from_ed25519(key[..].try_into().unwrap());
            assert_eq!(bare, Err(PublicKeyError::SmallOrder), "{weak} as a token gives it");
            key[31] |= 0x80;
            assert_eq!(read(&key), Err(PublicKeyError::SmallOrder), "{weak} with its sign");
        }
        // RFC 8032 §7.1, test 1.
        let good = hex("d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a");
        assert_eq!(read(&good), Ok(KeyKind::Ed25519));
    }

    #[test]
    fn rsa_keys_are_bounded_before_any_arithmetic() {
        let odd = |bytes: usize| [vec![0x80], vec![1; bytes - 1]].concat();
        assert_eq!(rsa(&odd(256), &[1, 0, 1]), Ok(KeyKind::Rsa { bits: 2048 }));
        assert_eq!(rsa(&odd(512), &[1, 0, 1]), Ok(KeyKind::Rsa { bits: 4096 }));
        assert_eq!(rsa(&odd(128), &[1, 0, 1]), Err(PublicKeyError::ModulusSize(1024)));
        assert_eq!(rsa(&odd(2048), &[1, 0, 1]), Err(PublicKeyError::ModulusSize(16384)));
        assert_eq!(rsa(&odd(131_072), &[1, 0, 1]), Err(PublicKeyError::ModulusSize(1_048_576)));
        let huge = odd(1 << 24);
        assert_eq!(rsa(&huge, &[1, 0, 1]), Err(PublicKeyError::ModulusSize(1 << 27)));
        assert_eq!(rsa(&odd(256), &huge), Err(PublicKeyError::Exponent));
        assert_eq!(rsa(&[0x80; 256], &[1, 0, 1]), Err(PublicKeyError::EvenModulus));
        for exponent in [&[1][..], &[3], &[1, 0, 0], &[1, 0, 0, 0, 0, 1, 1]] {
            assert_eq!(rsa(&odd(256), exponent), Err(PublicKeyError::Exponent));
        }
    }
}
