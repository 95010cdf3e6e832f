//! Certificate signing requests (PKCS#10, RFC 2986): strangers' ones read and verified, our own made.
//!
//! A CSR proves one thing, that whoever sent it holds a private key. That becomes a [`VerifiedKey`],
//! which only this module can make. Everything else in it is a wish: it is handed on as [`Requested`],
//! and whoever grants anything of it decides that by name.

use std::fmt;

use aws_lc_rs::rand::{SecureRandom, SystemRandom};
use aws_lc_rs::signature::{self as verification, VerificationAlgorithm};
use bytes::Bytes;
use thiserror::Error;

use crate::der::{self, DerError, Reader, tag};
use crate::id::SpiffeId;
use crate::key::{
    KeyKind, PublicKey, PublicKeyError, SignError, Signature, SignatureAlgorithm, SigningKey,
    ToBeSigned, Urgency,
};
use crate::name::{Name, NameError};

/// Longest CSR in bytes. One with an RSA-4096 key and a 2048-byte id has under 4 KiB.
pub const LONGEST_CSR: usize = 16 * 1024;
/// Most subject alternative names in a CSR, all kinds together.
pub const MOST_NAMES: usize = 100;
/// Most attributes, and most extensions, in a CSR.
pub const MOST_PARTS: usize = 32;

// 1.2.840.113549.1.9.14, extensionRequest (RFC 2985 §5.4.2)
const EXTENSION_REQUEST: &[u8] = b"\x2a\x86\x48\x86\xf7\x0d\x01\x09\x0e";
// 2.5.29.17, subjectAltName (RFC 5280 §4.2.1.6)
const SUBJECT_ALT_NAME: &[u8] = b"\x55\x1d\x11";
// 2.5.29.19, basicConstraints (RFC 5280 §4.2.1.9)
const BASIC_CONSTRAINTS: &[u8] = b"\x55\x1d\x13";

/// A CSR whose structure has been read, and nothing verified. Borrows the bytes it was read from.
#[derive(Debug, Clone)]
pub struct Csr<'a> {
    /// The `CertificationRequestInfo`: what the signature covers.
    info: &'a [u8],
    subject: &'a [u8],
    spki: &'a [u8],
    extensions: Extensions<'a>,
    /// The content of the signature's `AlgorithmIdentifier`.
    algorithm: &'a [u8],
    signature: &'a [u8],
}

/// The requested extensions that are looked at; all others are read and forgotten.
#[derive(Debug, Clone, Copy, Default)]
struct Extensions<'a> {
    /// The content of the `GeneralNames`, every name read once.
    names: &'a [u8],
    ca: bool,
}

impl<'a> Csr<'a> {
    /// Reads DER by the letter of RFC 2986 §4 and allocates nothing.
    ///
    /// Unknown attributes and extensions are read and passed over. More than one extensionRequest, an
    /// extension given twice and more than [`MOST_NAMES`] names are refused: there is no telling which
    /// of two the sender meant. The order of the attributes is not looked at, since widespread
    /// encoders do not sort them.
    pub fn parse(der: &'a [u8]) -> Result<Self, CsrError> {
        Self::read(der).map_err(CsrError::Malformed)
    }

    fn read(der: &'a [u8]) -> Result<Self, Malformed> {
        if der.len() > LONGEST_CSR {
            return Err(Malformed::Size(der.len()));
        }
        let mut request = der::sole(der, tag::SEQUENCE, "CertificationRequest")?;
        let info = request.expect(tag::SEQUENCE, "CertificationRequestInfo")?;
        let algorithm = request.expect(tag::SEQUENCE, "signatureAlgorithm")?.value;
        let signature = request.bit_string("signature")?;
        request.finish("CertificationRequest")?;

        let mut fields = Reader::new(info.value);
        if fields.unsigned("version")? != [0] {
            return Err(Malformed::Version);
        }
        let subject = fields.expect(tag::SEQUENCE, "subject")?.whole;
        let spki = fields.expect(tag::SEQUENCE, "subjectPublicKeyInfo")?.whole;
        let attributes = fields.enter(tag::context_constructed(0), "attributes")?;
        fields.finish("CertificationRequestInfo")?;
        let extensions = read_attributes(attributes)?;
        Ok(Self { info: info.whole, subject, spki, extensions, algorithm, signature })
    }

    /// Verifies that the CSR is signed by the key that it holds.
    ///
    /// The key's kind and size are bounded before any arithmetic. The signature's algorithm must be of
    /// the key's family, and its digest no wider than the curve: P-256 with SHA-256; P-384 with
    /// SHA-384, or with SHA-256 as `openssl req` makes it; RSA (PKCS#1 v1.5) with SHA-256, SHA-384 or
    /// SHA-512; Ed25519.
    pub fn verify(&self) -> Result<VerifiedCsr, CsrError> {
        let key = PublicKey::from_spki_unproven(self.spki)?;
        let usual = RequestAlgorithm::usual(key.kind()).ok_or(PublicKeyError::Unsupported)?;
        let algorithm = RequestAlgorithm::read(self.algorithm).ok_or(CsrError::UnknownAlgorithm)?;
        let verification = algorithm.verification(key.kind()).ok_or(CsrError::Algorithm {
            key: key.kind(),
            algorithm,
            usual,
        })?;
        if !key.verifies_with(verification, self.info, self.signature) {
            // A point off its curve fails like a wrong signature: say which it is.
            PublicKey::from_spki(self.spki)?;
            return Err(CsrError::Signature);
        }
        Ok(VerifiedCsr { key: VerifiedKey(key), requested: self.requested() })
    }

    /// What it asks for, whoever has made it: fit to be shown as what was asked, and for nothing else.
    #[must_use]
    pub fn requested(&self) -> Requested {
        let mut requested = Requested {
            subject: self.subject.to_vec(),
            ca: self.extensions.ca,
            ..Requested::default()
        };
        let mut names = Reader::new(self.extensions.names);
        while let Ok(name) = names.any("name") {
            let text = || String::from_utf8_lossy(name.value).into_owned();
            match name.tag {
                URI => requested.uris.push(text()),
                DNS_NAME => requested.dns_names.push(text()),
                _ => requested.other_names = true,
            }
        }
        requested
    }
}

/// A public key whose holder has shown, by a signature, that it has the private half.
///
/// Only [`Csr::verify`] makes one, [`VerifiedKey::of_ours`], and policy, where it takes the word of a front end
/// ([`NameGrant::vouched`](crate::policy::NameGrant::vouched)).
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct VerifiedKey(PublicKey);

impl VerifiedKey {
    /// That of a key that this process holds, which signs a probe.
    ///
    /// # Errors
    /// Those of signing; [`SignError::Wrong`] if the probe does not verify.
    pub async fn of_ours(key: &dyn SigningKey, urgency: Urgency) -> Result<Self, SignError> {
        let public_key = key.public_key();
        let name = || public_key.key_id().to_string();
        let mut nonce = [0; 32];
        SystemRandom::new().fill(&mut nonce).map_err(|_| SignError::Unavailable {
            key: name(),
            reason: "the operating system gave no random bytes for a probe".to_owned(),
        })?;
        let probe = ToBeSigned::probe(nonce, public_key.kind().usual_algorithm());
        let signature = key.sign_checked(probe.clone(), urgency).await?;
        if public_key.verifies(probe.message(), &signature) {
            return Ok(Self(public_key.clone()));
        }
        let reason = "a probe does not verify; do not use this key".to_owned();
        Err(SignError::Wrong { key: name(), reason })
    }

    /// That of a key for which somebody vouches whom policy believes.
    pub(crate) fn vouched(key: PublicKey) -> Self {
        Self(key)
    }

    /// The key.
    #[must_use]
    pub fn public_key(&self) -> &PublicKey {
        &self.0
    }
}

/// What a CSR proves and what it asks for.
#[derive(Debug, Clone)]
pub struct VerifiedCsr {
    /// The key, proven.
    pub key: VerifiedKey,
    /// The wishes, unbelieved.
    pub requested: Requested,
}

/// What a CSR asks for. Nothing here has been checked beyond its encoding; nothing may be copied into
/// a certificate unless a policy grants it by name.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Requested {
    /// The URI names, in order.
    pub uris: Vec<String>,
    /// The DNS names, in order.
    pub dns_names: Vec<String>,
    /// Whether there are names of other kinds (addresses, e-mail, …).
    pub other_names: bool,
    /// The DER of the subject, a SEQUENCE with unread content; [`subject`](Self::subject) reads it.
    pub subject: Vec<u8>,
    /// Whether basic constraints ask for a CA. Never granted: a profile alone says who is one.
    pub ca: bool,
}

impl Requested {
    /// The subject, strictly read.
    pub fn subject(&self) -> Result<Name, NameError> {
        Name::from_der(&self.subject)
    }
}

/// Why a CSR is refused. [`Malformed`](Self::Malformed) means that it cannot be read; all others, that
/// it does not prove the possession of an acceptable key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum CsrError {
    /// The bytes are not a strict PKCS#10 request.
    #[error(transparent)]
    Malformed(Malformed),
    /// The public key is malformed, of an unknown kind, or too small or too large.
    #[error(transparent)]
    Key(#[from] PublicKeyError),
    /// No signature algorithm that is accepted from anyone.
    #[error(
        "signature algorithm is not supported; sign with ECDSA or RSA (PKCS#1 v1.5) and SHA-256, SHA-384 or (RSA) SHA-512, or with Ed25519"
    )]
    UnknownAlgorithm,
    /// The signature's algorithm does not go with the key.
    #[error(
        "signature algorithm {algorithm} does not go with a key of kind {key}; sign with {usual}"
    )]
    Algorithm {
        /// The kind of key in the CSR.
        key: KeyKind,
        /// The algorithm that the signature claims.
        algorithm: RequestAlgorithm,
        /// The algorithm that would.
        usual: RequestAlgorithm,
    },
    /// The signature is not by the key in the CSR, or not over these bytes.
    #[error(
        "signature does not verify with the key in the CSR; sign with its private half and send the bytes unchanged"
    )]
    Signature,
}

/// What in a CSR cannot be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum Malformed {
    /// Too long to be looked at.
    #[error("it has {0} bytes; at most 16384 are accepted")]
    Size(usize),
    /// Not strict DER, or another structure.
    #[error(transparent)]
    Der(#[from] DerError),
    /// Another version than 0 (RFC 2986 §4.1).
    #[error("version is not 0")]
    Version,
    /// Something given twice that can be meant once only.
    #[error("{0} is given twice")]
    Repeated(&'static str),
    /// More parts of one kind than are looked at.
    #[error("there are too many {what}; at most {most} are accepted")]
    TooMany {
        /// Parts of which kind.
        what: &'static str,
        /// The limit.
        most: usize,
    },
}

/// The signature algorithms that CSRs come with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum RequestAlgorithm {
    /// ECDSA with SHA-256 (RFC 5758 §3.2).
    EcdsaSha256,
    /// ECDSA with SHA-384.
    EcdsaSha384,
    /// ECDSA with SHA-512.
    EcdsaSha512,
    /// RSASSA-PKCS1-v1_5 with SHA-256 (RFC 4055 §5).
    RsaSha256,
    /// RSASSA-PKCS1-v1_5 with SHA-384.
    RsaSha384,
    /// RSASSA-PKCS1-v1_5 with SHA-512.
    RsaSha512,
    /// Ed25519 (RFC 8410 §3).
    Ed25519,
}

impl RequestAlgorithm {
    /// By the content of an `AlgorithmIdentifier`. Parameters are absent with ECDSA and Ed25519;
    /// with RSA they are NULL or absent (RFC 4055 §5 has both accepted).
    fn read(identifier: &[u8]) -> Option<Self> {
        let (rsa, identifier) = match identifier.strip_suffix(b"\x05\x00") {
            Some(identifier) if identifier.starts_with(RSA_SIGNATURES) => (true, identifier),
            _ => (identifier.starts_with(RSA_SIGNATURES), identifier),
        };
        if rsa {
            return match identifier[RSA_SIGNATURES.len()..] {
                [11] => Some(Self::RsaSha256),
                [12] => Some(Self::RsaSha384),
                [13] => Some(Self::RsaSha512),
                _ => None,
            };
        }
        match identifier {
            // 1.2.840.10045.4.3.2 to 4
            b"\x06\x08\x2a\x86\x48\xce\x3d\x04\x03\x02" => Some(Self::EcdsaSha256),
            b"\x06\x08\x2a\x86\x48\xce\x3d\x04\x03\x03" => Some(Self::EcdsaSha384),
            b"\x06\x08\x2a\x86\x48\xce\x3d\x04\x03\x04" => Some(Self::EcdsaSha512),
            // 1.3.101.112
            b"\x06\x03\x2b\x65\x70" => Some(Self::Ed25519),
            _ => None,
        }
    }

    /// The one that every client has for a key of that kind; `None` where the kind is not certified.
    fn usual(key: KeyKind) -> Option<Self> {
        match key {
            KeyKind::EcP256 => Some(Self::EcdsaSha256),
            KeyKind::EcP384 => Some(Self::EcdsaSha384),
            KeyKind::Rsa { .. } => Some(Self::RsaSha256),
            KeyKind::Ed25519 => Some(Self::Ed25519),
            // Peers of workloads do not verify with them yet.
            KeyKind::MlDsa44 | KeyKind::MlDsa65 => None,
        }
    }

    /// How to verify it with a key of that kind; `None` where the two do not go together.
    fn verification(self, key: KeyKind) -> Option<&'static dyn VerificationAlgorithm> {
        match (key, self) {
            (KeyKind::EcP256, Self::EcdsaSha256) => Some(&verification::ECDSA_P256_SHA256_ASN1),
            (KeyKind::EcP384, Self::EcdsaSha256) => Some(&verification::ECDSA_P384_SHA256_ASN1),
            (KeyKind::EcP384, Self::EcdsaSha384) => Some(&verification::ECDSA_P384_SHA384_ASN1),
            (KeyKind::Rsa { .. }, Self::RsaSha256) => {
                Some(&verification::RSA_PKCS1_2048_8192_SHA256)
            }
            (KeyKind::Rsa { .. }, Self::RsaSha384) => {
                Some(&verification::RSA_PKCS1_2048_8192_SHA384)
            }
            (KeyKind::Rsa { .. }, Self::RsaSha512) => {
                Some(&verification::RSA_PKCS1_2048_8192_SHA512)
            }
            (KeyKind::Ed25519, Self::Ed25519) => Some(&verification::ED25519),
            _ => None,
        }
    }
}

/// The names of the RFCs that define them.
impl fmt::Display for RequestAlgorithm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::EcdsaSha256 => "ecdsa-with-SHA256",
            Self::EcdsaSha384 => "ecdsa-with-SHA384",
            Self::EcdsaSha512 => "ecdsa-with-SHA512",
            Self::RsaSha256 => "sha256WithRSAEncryption",
            Self::RsaSha384 => "sha384WithRSAEncryption",
            Self::RsaSha512 => "sha512WithRSAEncryption",
            Self::Ed25519 => "Ed25519",
        })
    }
}

/// Everything but the last arc of 1.2.840.113549.1.1.11 to 13, as an OBJECT IDENTIFIER.
const RSA_SIGNATURES: &[u8] = b"\x06\x09\x2a\x86\x48\x86\xf7\x0d\x01\x01";

// GeneralName (RFC 5280 §4.2.1.6)
const EMAIL: u8 = tag::context(1);
const DNS_NAME: u8 = tag::context(2);
const URI: u8 = tag::context(6);
const ADDRESS: u8 = tag::context(7);
const REGISTERED_ID: u8 = tag::context(8);
/// The constructed kinds: otherName, x400Address, directoryName, ediPartyName.
const CONSTRUCTED: [u8; 4] = [0xa0, 0xa3, 0xa4, 0xa5];

fn read_attributes(mut attributes: Reader<'_>) -> Result<Extensions<'_>, Malformed> {
    let mut extensions = None;
    let mut count = 0;
    while !attributes.is_empty() {
        count += 1;
        if count > MOST_PARTS {
            return Err(Malformed::TooMany { what: "attributes", most: MOST_PARTS });
        }
        let mut attribute = attributes.enter(tag::SEQUENCE, "attribute")?;
        let kind = attribute.oid("attribute type")?;
        let mut values = attribute.enter(tag::SET, "attribute values")?;
        attribute.finish("attribute")?;
        if kind != EXTENSION_REQUEST {
            while !values.is_empty() {
                values.any("attribute value")?;
            }
            continue;
        }
        let list = values.enter(tag::SEQUENCE, "extensionRequest")?;
        values.finish("extensionRequest")?;
        if extensions.replace(read_extensions(list)?).is_some() {
            return Err(Malformed::Repeated("extensionRequest"));
        }
    }
    Ok(extensions.unwrap_or_default())
}

fn read_extensions(mut list: Reader<'_>) -> Result<Extensions<'_>, Malformed> {
    let mut extensions = Extensions::default();
    let mut seen: [&[u8]; MOST_PARTS] = [&[]; MOST_PARTS];
    let mut count = 0;
    while !list.is_empty() {
        let mut extension = list.enter(tag::SEQUENCE, "extension")?;
        let kind = extension.oid("extension type")?;
        // DER leaves out a default: a critical flag that is there is true (X.690 §11.5).
        if extension.peek() == Some(tag::BOOLEAN) && !extension.boolean("critical")? {
            return Err(DerError::Value("critical").into());
        }
        let value = extension.expect(tag::OCTET_STRING, "extension value")?.value;
        extension.finish("extension")?;
        if seen[..count].contains(&kind) {
            return Err(Malformed::Repeated("an extension"));
        }
        *seen
            .get_mut(count)
            .ok_or(Malformed::TooMany { what: "extensions", most: MOST_PARTS })? = kind;
        count += 1;
        match kind {
            SUBJECT_ALT_NAME => extensions.names = read_names(value)?,
            BASIC_CONSTRAINTS => extensions.ca = read_basic_constraints(value)?,
            _ => {}
        }
    }
    Ok(extensions)
}

/// Reads every name of a `GeneralNames` once and gives back its content.
fn read_names(value: &[u8]) -> Result<&[u8], Malformed> {
    let mut outer = Reader::new(value);
    let list = outer.expect(tag::SEQUENCE, "subjectAltName")?.value;
    outer.finish("subjectAltName")?;
    if list.is_empty() {
        return Err(DerError::Value("subjectAltName").into());
    }
    let mut names = Reader::new(list);
    let mut count = 0;
    while !names.is_empty() {
        count += 1;
        if count > MOST_NAMES {
            return Err(Malformed::TooMany { what: "subject alternative names", most: MOST_NAMES });
        }
        let name = names.any("subject alternative name")?;
        let well_formed = match name.tag {
            EMAIL | DNS_NAME | URI => name.value.is_ascii(), // IA5String
            ADDRESS => matches!(name.value.len(), 4 | 16),
            REGISTERED_ID => !name.value.is_empty(),
            other => CONSTRUCTED.contains(&other),
        };
        if !well_formed {
            return Err(DerError::Value("subject alternative name").into());
        }
    }
    Ok(list)
}

fn read_basic_constraints(value: &[u8]) -> Result<bool, Malformed> {
    let mut fields = der::sole(value, tag::SEQUENCE, "basicConstraints")?;
    let ca = fields.peek() == Some(tag::BOOLEAN) && {
        let ca = fields.boolean("cA")?;
        if !ca {
            return Err(DerError::Value("cA").into());
        }
        ca
    };
    if !fields.is_empty() {
        fields.unsigned("pathLenConstraint")?;
    }
    fields.finish("basicConstraints")?;
    Ok(ca)
}

/// A request of our own, checked by construction, that lacks its signature.
#[derive(Debug, Clone)]
pub struct Request {
    info: Bytes,
}

impl Request {
    /// Asks for a certificate of `key` with `subject` and the one name `uri`.
    #[must_use]
    pub fn prepare(subject: &Name, uri: &SpiffeId, key: &PublicKey) -> Self {
        let name = der::encode(URI, &[uri.as_str().as_bytes()]);
        let names = der::encode(tag::SEQUENCE, &[&name]);
        // RFC 5280 §4.2.1.6: the names are critical if the subject is empty.
        let critical: &[u8] = if subject.is_empty() { b"\x01\x01\xff" } else { b"" };
        let extension = der::encode(
            tag::SEQUENCE,
            &[
                &der::encode(tag::OID, &[SUBJECT_ALT_NAME]),
                critical,
                &der::encode(tag::OCTET_STRING, &[&names]),
            ],
        );
        let extensions = der::encode(tag::SEQUENCE, &[&extension]);
        let attribute = der::encode(
            tag::SEQUENCE,
            &[&der::encode(tag::OID, &[EXTENSION_REQUEST]), &der::encode(tag::SET, &[&extensions])],
        );
        let attributes = der::encode(tag::context_constructed(0), &[&attribute]);
        let info =
            der::encode(tag::SEQUENCE, &[b"\x02\x01\x00", subject.der(), key.spki(), &attributes]);
        Self { info: info.into() }
    }

    /// What the key must sign, and by which algorithm.
    #[must_use]
    pub fn to_be_signed(&self, algorithm: SignatureAlgorithm) -> ToBeSigned {
        ToBeSigned::request(self, algorithm)
    }

    /// The `CertificationRequestInfo` (RFC 2986 §4.1).
    pub(crate) fn info(&self) -> &Bytes {
        &self.info
    }

    /// The DER of the whole request. Whether `signature` is by the right key is for its reader to see.
    #[must_use]
    pub fn assemble(self, signature: &Signature) -> Vec<u8> {
        let bits = der::encode(tag::BIT_STRING, &[&[0], &signature.x509()]);
        der::encode(tag::SEQUENCE, &[&self.info, signature.algorithm().identifier(), &bits])
    }
}
