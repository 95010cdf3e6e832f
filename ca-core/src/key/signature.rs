//! A signature that knows its encodings: DER for X.509, fixed length for JWS.

use thiserror::Error;

use super::SignatureAlgorithm;
use crate::der::{self, tag};

/// Why bytes are not a signature of an algorithm.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum SignatureError {
    /// The bytes have another length than the algorithm's signatures.
    #[error("a signature of {algorithm} cannot have {found} bytes")]
    Length {
        /// The algorithm asked for.
        algorithm: SignatureAlgorithm,
        /// How many bytes came.
        found: usize,
    },
    /// `r` or `s` is zero or not below the order of the curve (SEC 1 §4.1.4).
    #[error("an ECDSA value is zero or not below the order of the curve")]
    Range,
    /// Not the strict DER of `ECDSA-Sig-Value` (RFC 3279 §2.2.3).
    #[error("the ECDSA signature is not strict DER")]
    Der,
}

/// A well-formed signature of a known algorithm. Says nothing about whether it verifies.
#[derive(Clone, PartialEq, Eq)]
pub struct Signature {
    algorithm: SignatureAlgorithm,
    /// ECDSA as `r||s`; everything else as it goes on the wire.
    fixed: Octets,
}

/// The usual signatures are short, and made on one thread and dropped on another, which costs an allocator
/// dearly: they are kept where they are.
#[derive(Clone, PartialEq, Eq)]
enum Octets {
    Short { bytes: [u8; SHORT], length: u8 },
    Long(Vec<u8>),
}

/// ECDSA on P-384.
const SHORT: usize = 96;

impl Octets {
    fn of(octets: &[u8]) -> Self {
        if octets.len() > SHORT {
            return Self::Long(octets.to_vec());
        }
        let mut bytes = [0; SHORT];
        bytes[..octets.len()].copy_from_slice(octets);
        Self::Short { bytes, length: octets.len() as u8 }
    }

    fn as_slice(&self) -> &[u8] {
        match self {
            Self::Short { bytes, length } => &bytes[..usize::from(*length)],
            Self::Long(octets) => octets,
        }
    }
}

impl std::fmt::Debug for Signature {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Signature({}, {} bytes)", self.algorithm, self.fixed.as_slice().len())
    }
}

/// Order of the group of P-256 (FIPS 186-5, SP 800-186 §3.2.1.3).
const ORDER_P256: &[u8; 32] = b"\xff\xff\xff\xff\x00\x00\x00\x00\xff\xff\xff\xff\xff\xff\xff\xff\xbc\xe6\xfa\xad\xa7\x17\x9e\x84\xf3\xb9\xca\xc2\xfc\x63\x25\x51";
/// Order of the group of P-384 (SP 800-186 §3.2.1.4).
const ORDER_P384: &[u8; 48] = b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xc7\x63\x4d\x81\xf4\x37\x2d\xdf\x58\x1a\x0d\xb2\x48\xb0\xa7\x7a\xec\xec\x19\x6a\xcc\xc5\x29\x73";

/// The order of the curve of an ECDSA algorithm.
fn order(algorithm: SignatureAlgorithm) -> Option<&'static [u8]> {
    match algorithm {
        SignatureAlgorithm::EcdsaP256Sha256 => Some(ORDER_P256),
        SignatureAlgorithm::EcdsaP384Sha384 => Some(ORDER_P384),
        _ => None,
    }
}

impl Signature {
    /// ECDSA as PKCS#11 and Azure give it and JWS wants it: `r||s`, each as long as the order.
    fn from_ecdsa_fixed(
        algorithm: SignatureAlgorithm,
        order: &[u8],
        bytes: &[u8],
    ) -> Result<Self, SignatureError> {
        if bytes.len() != 2 * order.len() {
            return Err(SignatureError::Length { algorithm, found: bytes.len() });
        }
        let (r, s) = bytes.split_at(order.len());
        for value in [r, s] {
            if value >= order || value.iter().all(|&byte| byte == 0) {
                return Err(SignatureError::Range);
            }
        }
        Ok(Self { algorithm, fixed: Octets::of(bytes) })
    }

    /// ECDSA as software libraries, AWS and Google give it and X.509 wants it: the strict DER of
    /// `ECDSA-Sig-Value` (RFC 3279 §2.2.3).
    fn from_ecdsa_der(
        algorithm: SignatureAlgorithm,
        order: &[u8],
        bytes: &[u8],
    ) -> Result<Self, SignatureError> {
        let width = order.len();
        let mut fixed = [0; 2 * ORDER_P384.len()];
        let read = || {
            let mut values = der::sole(bytes, tag::SEQUENCE, "ECDSA-Sig-Value")?;
            let parts = [values.unsigned("r")?, values.unsigned("s")?];
            values.finish("ECDSA-Sig-Value")?;
            Ok(parts)
        };
        let parts = read().map_err(|_: der::DerError| SignatureError::Der)?;
        for (index, value) in parts.into_iter().enumerate() {
            let end = (index + 1) * width;
            let start = end - value.len().min(width);
            if value.len() > width {
                return Err(SignatureError::Range);
            }
            fixed[start..end].copy_from_slice(value);
        }
        Self::from_ecdsa_fixed(algorithm, order, &fixed[..2 * width])
    }

    /// A signature as a token or JWS has it: ECDSA as `r||s`, everything else as it goes on the wire.
    pub fn from_fixed(algorithm: SignatureAlgorithm, bytes: &[u8]) -> Result<Self, SignatureError> {
        let fits = match algorithm {
            SignatureAlgorithm::EcdsaP256Sha256 => {
                return Self::from_ecdsa_fixed(algorithm, ORDER_P256, bytes);
            }
            SignatureAlgorithm::EcdsaP384Sha384 => {
                return Self::from_ecdsa_fixed(algorithm, ORDER_P384, bytes);
            }
            // As many bytes as the modulus has.
            SignatureAlgorithm::RsaPkcs1Sha256 | SignatureAlgorithm::RsaPssSha256 => {
                (256..=512).contains(&bytes.len())
            }
            // RFC 8032 §5.1.6
            SignatureAlgorithm::Ed25519 => bytes.len() == 64,
            // FIPS 204 §4, table 2
            SignatureAlgorithm::MlDsa44 => bytes.len() == 2420,
            SignatureAlgorithm::MlDsa65 => bytes.len() == 3309,
        };
        if fits {
            Ok(Self { algorithm, fixed: Octets::of(bytes) })
        } else {
            Err(SignatureError::Length { algorithm, found: bytes.len() })
        }
    }

    /// A signature as an X.509 `signatureValue` holds it and most libraries and KMS give it: ECDSA as DER,
    /// everything else as it goes on the wire.
    pub fn from_x509(algorithm: SignatureAlgorithm, bytes: &[u8]) -> Result<Self, SignatureError> {
        match algorithm {
            SignatureAlgorithm::EcdsaP256Sha256 => {
                Self::from_ecdsa_der(algorithm, ORDER_P256, bytes)
            }
            SignatureAlgorithm::EcdsaP384Sha384 => {
                Self::from_ecdsa_der(algorithm, ORDER_P384, bytes)
            }
            other => Self::from_fixed(other, bytes),
        }
    }

    /// How it was made.
    #[must_use]
    pub fn algorithm(&self) -> SignatureAlgorithm {
        self.algorithm
    }

    /// The bytes of a JWS signature (RFC 7518 §3.3, §3.4): ECDSA as `r||s`.
    #[must_use]
    pub fn jws(&self) -> &[u8] {
        self.fixed.as_slice()
    }

    /// Appends the bytes that an X.509 `signatureValue` holds: ECDSA as DER.
    pub fn write_x509(&self, out: &mut Vec<u8>) {
        if !self.is_ecdsa() {
            out.extend_from_slice(self.jws());
            return;
        }
        let (r, s) = self.jws().split_at(self.jws().len() / 2);
        der::write_header(out, tag::SEQUENCE, unsigned_length(r) + unsigned_length(s));
        der::write_unsigned(out, r);
        der::write_unsigned(out, s);
    }

    /// How many bytes [`write_x509`](Self::write_x509) appends.
    #[must_use]
    pub fn x509_length(&self) -> usize {
        if !self.is_ecdsa() {
            return self.jws().len();
        }
        let (r, s) = self.jws().split_at(self.jws().len() / 2);
        let content = unsigned_length(r) + unsigned_length(s);
        der::header_length(content) + content
    }

    /// The bytes that an X.509 `signatureValue` holds.
    #[must_use]
    pub fn x509(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(self.x509_length());
        self.write_x509(&mut out);
        out
    }

    fn is_ecdsa(&self) -> bool {
        order(self.algorithm).is_some()
    }
}

/// Whole length of a DER INTEGER with this magnitude, of at most 49 content bytes.
fn unsigned_length(magnitude: &[u8]) -> usize {
    let zeros = magnitude.iter().take_while(|&&byte| byte == 0).count();
    let padded = magnitude.get(zeros).is_none_or(|&byte| byte >= 0x80);
    2 + magnitude.len() - zeros + usize::from(padded)
}

#[cfg(test)]
mod tests {
    use super::*;
    use SignatureAlgorithm::{
        EcdsaP256Sha256, EcdsaP384Sha384, Ed25519, MlDsa44, MlDsa65, RsaPkcs1Sha256, RsaPssSha256,
    };
    use proptest::prelude::*;

    #[test]
    fn zero_and_values_beyond_the_order_are_refused() {
        let one = [&[0; 31][..], &[1]].concat();
        let fixed = |r: &[u8], s: &[u8]| Signature::from_fixed(EcdsaP256Sha256, &[r, s].concat());
        assert!(fixed(&one, &one).is_ok());
        assert_eq!(fixed(&[0; 32], &one), Err(SignatureError::Range));
        assert_eq!(fixed(&one, &[0; 32]), Err(SignatureError::Range));
        assert_eq!(fixed(ORDER_P256, &one), Err(SignatureError::Range));
        assert_eq!(fixed(&one, &[0xff; 32]), Err(SignatureError::Range));
    }

    #[test]
    fn a_length_of_another_algorithm_is_refused() {
        assert!(Signature::from_fixed(EcdsaP384Sha384, &[1; 64]).is_err());
        assert!(Signature::from_fixed(EcdsaP256Sha256, &[1; 63]).is_err());
        assert!(Signature::from_fixed(Ed25519, &[1; 63]).is_err());
        assert!(Signature::from_fixed(RsaPkcs1Sha256, &[1; 128]).is_err());
        assert!(Signature::from_x509(RsaPssSha256, &[1; 513]).is_err());
        assert!(Signature::from_x509(MlDsa44, &[1; 2421]).is_err());
        assert!(Signature::from_x509(MlDsa65, &[1; 3310]).is_err());
    }

    #[test]
    fn only_strict_der_is_read() {
        let read = |bytes: &[u8]| Signature::from_x509(EcdsaP256Sha256, bytes).map(|_| ());
        assert_eq!(read(&[0x30, 6, 2, 1, 1, 2, 1, 1]), Ok(()));
        assert_eq!(read(&[0x30, 6, 2, 1, 1, 2, 1, 1, 0]), Err(SignatureError::Der));
        assert_eq!(read(&[0x30, 7, 2, 2, 0, 1, 2, 1, 1]), Err(SignatureError::Der));
        assert_eq!(read(&[0x30, 6, 2, 1, 0x81, 2, 1, 1]), Err(SignatureError::Der));
        assert_eq!(read(&[0x30, 6, 2, 1, 0, 2, 1, 1]), Err(SignatureError::Range));
        assert_eq!(
            read(&der::encode(0x30, &[&der::encode(2, &[&[1; 33]]), &[2, 1, 1]])),
            Err(SignatureError::Range)
        );
    }

    proptest! {
        /// Leading zeros and top bits set in every combination.
        #[test]
        fn both_encodings_name_the_same_signature(
            mut r in proptest::collection::vec(any::<u8>(), 48),
            mut s in proptest::collection::vec(any::<u8>(), 48),
            zeros_r in 0usize..48, zeros_s in 0usize..48, wide in any::<bool>(),
        ) {
            let (algorithm, width) = if wide { (EcdsaP384Sha384, 48) } else { (EcdsaP256Sha256, 32) };
            r.truncate(width);
            s.truncate(width);
            for (value, zeros) in [(&mut r, zeros_r), (&mut s, zeros_s)] {
                value[..zeros.min(width - 1)].fill(0);
                value[width - 1] |= 1;
                value[0] &= 0xfe;
            }
            let fixed = [r, s].concat();
            let signature = Signature::from_fixed(algorithm, &fixed).unwrap();
            let der = signature.x509();
            prop_assert_eq!(der.len(), signature.x509_length());
            let read = Signature::from_x509(algorithm, &der).unwrap();
            prop_assert_eq!(read.jws(), &fixed[..]);
        }

        #[test]
        fn no_bytes_make_the_der_reading_panic(bytes in proptest::collection::vec(any::<u8>(), 0..120)) {
            let _ = Signature::from_x509(EcdsaP256Sha256, &bytes);
            let _ = Signature::from_x509(EcdsaP384Sha384, &bytes);
        }
    }
}
