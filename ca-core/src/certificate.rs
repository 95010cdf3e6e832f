//! Reading certificates: a strict view of a `TBSCertificate` for the checks before signing, and the CA
//! certificates that issue.

use bytes::Bytes;
use thiserror::Error;

use crate::clock::Timestamp;
use crate::der::{self, DerError, Reader, tag};
use crate::key::{KeyId, PublicKey, PublicKeyError, SignatureAlgorithm};
use crate::name::{Name, NameError};
use crate::profile::KeyUsage;

/// Object identifiers of the extensions that are understood, as DER content.
pub mod oid {
    #![expect(missing_docs, reason = "the names are those of RFC 5280 §4.2.1")]
    pub const SUBJECT_KEY_ID: &[u8] = b"\x55\x1d\x0e";
    pub const KEY_USAGE: &[u8] = b"\x55\x1d\x0f";
    pub const SUBJECT_ALT_NAME: &[u8] = b"\x55\x1d\x11";
    pub const BASIC_CONSTRAINTS: &[u8] = b"\x55\x1d\x13";
    pub const NAME_CONSTRAINTS: &[u8] = b"\x55\x1d\x1e";
    pub const AUTHORITY_KEY_ID: &[u8] = b"\x55\x1d\x23";
    pub const EXTENDED_KEY_USAGE: &[u8] = b"\x55\x1d\x25";
    pub const SERVER_AUTH: &[u8] = b"\x2b\x06\x01\x05\x05\x07\x03\x01";
    pub const CLIENT_AUTH: &[u8] = b"\x2b\x06\x01\x05\x05\x07\x03\x02";
}

/// The fields of a `TBSCertificate` (RFC 5280 §4.1), borrowed from its DER.
#[derive(Debug, Clone)]
pub struct TbsView<'a> {
    /// The version number as written: 2 for version 3.
    pub version: u8,
    /// Content of the serial number's INTEGER.
    pub serial: &'a [u8],
    /// The whole signature `AlgorithmIdentifier`.
    pub algorithm: &'a [u8],
    /// The whole issuer name.
    pub issuer: &'a [u8],
    /// Start of validity, and whether its encoding follows RFC 5280 §4.1.2.5.
    pub not_before: (Timestamp, bool),
    /// End of validity, and whether its encoding follows RFC 5280 §4.1.2.5.
    pub not_after: (Timestamp, bool),
    /// The whole subject name.
    pub subject: &'a [u8],
    /// The whole `SubjectPublicKeyInfo`.
    pub spki: &'a [u8],
    /// The extensions.
    pub extensions: Extensions<'a>,
}

/// The extensions of a certificate (RFC 5280 §4.2), each with its criticality; `None` if it is not there.
#[derive(Debug, Clone, Default)]
pub struct Extensions<'a> {
    /// The key identifier that names the issuer's key; empty if it is named in another way, or in two.
    pub authority_key_id: Option<(bool, &'a [u8])>,
    /// The key identifier of this certificate's own key.
    pub subject_key_id: Option<(bool, &'a [u8])>,
    /// What the key may be used for; `None` inside if the bits are not well-formed.
    pub key_usage: Option<(bool, Option<KeyUsage>)>,
    /// The content of the purposes' SEQUENCE.
    pub extended_key_usage: Option<(bool, &'a [u8])>,
    /// Whether this is a CA.
    pub basic_constraints: Option<(bool, BasicConstraints)>,
    /// The content of `GeneralNames`.
    pub subject_alt_name: Option<(bool, &'a [u8])>,
    /// Whether there are name constraints.
    pub name_constraints: bool,
    /// Whether an extension of the above is there twice.
    pub repeated: bool,
    /// Whether there is another extension, and whether one of those is critical.
    pub unknown: Option<bool>,
}

impl<'a> TbsView<'a> {
    /// Reads the DER of a `TBSCertificate`; nothing may follow it.
    pub fn read(tbs: &'a [u8]) -> Result<Self, DerError> {
        let mut fields = der::sole(tbs, tag::SEQUENCE, "TBSCertificate")?;
        let version = read_version(&mut fields)?;
        let serial = fields.expect(tag::INTEGER, "serial number")?.value;
        let algorithm = fields.expect(tag::SEQUENCE, "signature algorithm")?.whole;
        let issuer = fields.expect(tag::SEQUENCE, "issuer")?.whole;
        let mut validity = fields.enter(tag::SEQUENCE, "validity")?;
        let not_before = read_time(&mut validity, "notBefore")?;
        let not_after = read_time(&mut validity, "notAfter")?;
        validity.finish("validity")?;
        let subject = fields.expect(tag::SEQUENCE, "subject")?.whole;
        let spki = fields.expect(tag::SEQUENCE, "SubjectPublicKeyInfo")?.whole;
        let extensions = Extensions::read(&mut fields)?;
        fields.finish("TBSCertificate")?;
        Ok(Self {
            version,
            serial,
            algorithm,
            issuer,
            not_before,
            not_after,
            subject,
            spki,
            extensions,
        })
    }
}

fn read_version(fields: &mut Reader<'_>) -> Result<u8, DerError> {
    let Some(explicit) = fields.optional(tag::context_constructed(0), "version")? else {
        return Ok(0);
    };
    let mut inner = Reader::new(explicit.value);
    let version = inner.unsigned("version")?;
    inner.finish("version")?;
    match *version {
        [number] => Ok(number),
        _ => Err(DerError::Value("version")),
    }
}

impl<'a> Extensions<'a> {
    /// Reads `[3] EXPLICIT Extensions`, if that comes next.
    fn read(fields: &mut Reader<'a>) -> Result<Self, DerError> {
        let mut found = Self::default();
        let Some(explicit) = fields.optional(tag::context_constructed(3), "extensions")? else {
            return Ok(found);
        };
        let mut list = der::sole(explicit.value, tag::SEQUENCE, "extensions")?;
        while !list.is_empty() {
            let mut fields = list.enter(tag::SEQUENCE, "extension")?;
            let oid = fields.expect(tag::OID, "extension identifier")?.value;
            let critical = fields.peek() == Some(tag::BOOLEAN);
            if critical && !fields.boolean("extension criticality")? {
                // DER leaves out a default value (X.690 §11.5).
                return Err(DerError::Value("extension criticality"));
            }
            let value = fields.expect(tag::OCTET_STRING, "extension value")?.value;
            fields.finish("extension")?;
            found.add(oid, critical, value)?;
        }
        Ok(found)
    }

    fn add(&mut self, oid: &[u8], critical: bool, value: &'a [u8]) -> Result<(), DerError> {
        let repeated = match oid {
            oid::KEY_USAGE => self.key_usage.replace((critical, key_usage(value)?)).is_some(),
            oid::EXTENDED_KEY_USAGE => {
                let purposes = content(value, tag::SEQUENCE, "extended key usage")?;
                self.extended_key_usage.replace((critical, purposes)).is_some()
            }
            oid::BASIC_CONSTRAINTS => {
                let constraints = BasicConstraints::read(value)?;
                self.basic_constraints.replace((critical, constraints)).is_some()
            }
            oid::AUTHORITY_KEY_ID => {
                let mut fields = der::sole(value, tag::SEQUENCE, "authority key identifier")?;
                let id = fields.optional(tag::context(0), "authority key identifier")?;
                let alone = id.filter(|_| fields.is_empty());
                let id = alone.map_or(&[][..], |id| id.value);
                self.authority_key_id.replace((critical, id)).is_some()
            }
            oid::SUBJECT_KEY_ID => {
                let id = content(value, tag::OCTET_STRING, "subject key identifier")?;
                self.subject_key_id.replace((critical, id)).is_some()
            }
            oid::SUBJECT_ALT_NAME => {
                let names = content(value, tag::SEQUENCE, "subject alternative name")?;
                self.subject_alt_name.replace((critical, names)).is_some()
            }
            oid::NAME_CONSTRAINTS => std::mem::replace(&mut self.name_constraints, true),
            _ => {
                self.unknown = Some(critical || self.unknown == Some(true));
                false
            }
        };
        self.repeated |= repeated;
        Ok(())
    }
}

/// The content of the one value that `bytes` hold.
fn content<'a>(bytes: &'a [u8], tag: u8, what: &'static str) -> Result<&'a [u8], DerError> {
    let mut reader = Reader::new(bytes);
    let value = reader.expect(tag, what)?.value;
    reader.finish(what)?;
    Ok(value)
}

fn key_usage(value: &[u8]) -> Result<Option<KeyUsage>, DerError> {
    content(value, tag::BIT_STRING, "key usage").map(KeyUsage::from_bit_string)
}

fn read_time(fields: &mut Reader<'_>, what: &'static str) -> Result<(Timestamp, bool), DerError> {
    let time = fields.any(what)?;
    let (century, digits) = match (time.tag, time.value) {
        (tag::UTC_TIME, [digits @ .., b'Z']) if digits.len() == 12 => (None, digits),
        (tag::GENERALIZED_TIME, [a, b, digits @ .., b'Z']) if digits.len() == 12 => {
            (Some(pair(&[*a, *b], what)?), digits)
        }
        _ => return Err(DerError::Value(what)),
    };
    let mut parts = [0; 6];
    for (part, text) in parts.iter_mut().zip(digits.chunks_exact(2)) {
        *part = pair(text, what)?;
    }
    let [year, month, day, hour, minute, second] = parts;
    // RFC 5280 §4.1.2.5.1: a two-digit year below 50 is of this century.
    let century_or = century.unwrap_or(if year < 50 { 20 } else { 19 });
    let year = u16::from(century_or) * 100 + u16::from(year);
    let instant = Timestamp::from_civil((year, month, day), (hour, minute, second));
    // §4.1.2.5: UTCTime through the year 2049, GeneralizedTime after.
    let right = century.is_some() == (year >= 2050);
    Ok((instant.ok_or(DerError::Value(what))?, right))
}

fn pair(text: &[u8], what: &'static str) -> Result<u8, DerError> {
    match text {
        [a @ b'0'..=b'9', b @ b'0'..=b'9'] => Ok((a - b'0') * 10 + (b - b'0')),
        _ => Err(DerError::Value(what)),
    }
}

/// Why a certificate cannot be used as a CA's.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum CaCertificateError {
    /// Not strict DER of a certificate.
    #[error("CA certificate is malformed: {0}")]
    Malformed(#[from] DerError),
    /// What is signed names another algorithm than the signature does (RFC 5280 §4.1.1.2).
    #[error("CA certificate names two different signature algorithms; ask its issuer for another")]
    TwoAlgorithms,
    /// Its key is not accepted.
    #[error("CA certificate: {0}")]
    Key(#[from] PublicKeyError),
    /// Its subject is not accepted.
    #[error("CA certificate subject: {0}")]
    Subject(#[from] NameError),
    /// It is not a CA certificate that may sign certificates (RFC 5280 §4.2, §4.2.1.3, §4.2.1.9).
    #[error(
        "certificate is not a CA certificate: basic constraints and key usage keyCertSign are required"
    )]
    NotCa,
    /// It has no subject key identifier of 20 bytes (RFC 5280 §4.2.1.2).
    #[error("CA certificate has no subject key identifier")]
    NoKeyId,
    /// It claims to be self-signed, but its signature is not by its own key.
    #[error("signature of the self-signed CA certificate does not verify")]
    Signature,
}

/// A CA certificate: what issuing under it needs to know.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CaCertificate {
    der: Bytes,
    subject: Name,
    key: PublicKey,
    key_id: KeyId,
    not_before: Timestamp,
    not_after: Timestamp,
    path_length: Option<u8>,
    self_signed: bool,
}

impl CaCertificate {
    /// Reads the DER of a certificate and checks that it is a CA's; a self-signed one must verify.
    pub fn from_der(bytes: &[u8]) -> Result<Self, CaCertificateError> {
        let mut outer = der::sole(bytes, tag::SEQUENCE, "certificate")?;
        let tbs = outer.expect(tag::SEQUENCE, "TBSCertificate")?.whole;
        let algorithm = outer.expect(tag::SEQUENCE, "signature algorithm")?.whole;
        let signature = outer.bit_string("signature")?;
        outer.finish("certificate")?;
        let view = TbsView::read(tbs)?;
        if view.algorithm != algorithm {
            return Err(CaCertificateError::TwoAlgorithms);
        }
        let key = PublicKey::from_spki(view.spki)?;
        if !is_ca(&view.extensions) {
            return Err(CaCertificateError::NotCa);
        }
        let self_signed = view.subject == view.issuer;
        if self_signed {
            let named = |ours: &&SignatureAlgorithm| algorithm == ours.identifier();
            let ours = key.kind().algorithms().iter().find(named);
            if !ours.is_some_and(|&ours| key.verifies_x509(ours, tbs, signature)) {
                return Err(CaCertificateError::Signature);
            }
        }
        Ok(Self {
            der: Bytes::copy_from_slice(bytes),
            subject: Name::from_der(view.subject)?,
            key_id: key_id(&view.extensions).ok_or(CaCertificateError::NoKeyId)?,
            key,
            not_before: view.not_before.0,
            not_after: view.not_after.0,
            path_length: view.extensions.basic_constraints.and_then(|(_, it)| it.path_length),
            self_signed,
        })
    }

    /// The whole certificate.
    #[must_use]
    pub fn der(&self) -> &Bytes {
        &self.der
    }

    /// Its subject, which is the issuer of what it signs.
    #[must_use]
    pub fn subject(&self) -> &Name {
        &self.subject
    }

    /// Its key.
    #[must_use]
    pub fn key(&self) -> &PublicKey {
        &self.key
    }

    /// Its subject key identifier: SPIRE's authority id.
    #[must_use]
    pub fn key_id(&self) -> KeyId {
        self.key_id
    }

    /// The first second in which it is valid.
    #[must_use]
    pub fn not_before(&self) -> Timestamp {
        self.not_before
    }

    /// The last second in which it is valid.
    #[must_use]
    pub fn not_after(&self) -> Timestamp {
        self.not_after
    }

    /// How many CA certificates may follow before a leaf, if that is bounded (RFC 5280 §4.2.1.9).
    #[must_use]
    pub fn path_length(&self) -> Option<u8> {
        self.path_length
    }

    /// Whether it is signed by its own key, hence a root that no chain carries.
    #[must_use]
    pub fn is_self_signed(&self) -> bool {
        self.self_signed
    }
}

/// RFC 5280 §4.2: no extension twice, and no critical one that is not understood. §4.2.1.3 and §4.2.1.9:
/// the constraints and the usage of a CA.
fn is_ca(extensions: &Extensions<'_>) -> bool {
    let constraints = extensions.basic_constraints.is_some_and(|(_, constraints)| constraints.ca);
    let usage = extensions.key_usage.is_some_and(|(_, usage)| {
        usage.is_some_and(|usage| usage.contains(KeyUsage::KEY_CERT_SIGN))
    });
    constraints && usage && !extensions.repeated && extensions.unknown != Some(true)
}

fn key_id(extensions: &Extensions<'_>) -> Option<KeyId> {
    extensions.subject_key_id.and_then(|(_, id)| id.try_into().ok().map(KeyId))
}

/// The content of the basic constraints extension (RFC 5280 §4.2.1.9).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BasicConstraints {
    /// Whether the key may sign certificates.
    pub ca: bool,
    /// How many CA certificates may follow before a leaf, if that is bounded. 255 stands for more, too.
    pub path_length: Option<u8>,
}

impl BasicConstraints {
    /// Reads the extension's value.
    pub fn read(value: &[u8]) -> Result<Self, DerError> {
        const WHAT: &str = "basic constraints";
        let mut fields = der::sole(value, tag::SEQUENCE, WHAT)?;
        let ca = fields.peek() == Some(tag::BOOLEAN);
        if ca && !fields.boolean(WHAT)? {
            // DER leaves out a default value (X.690 §11.5).
            return Err(DerError::Value(WHAT));
        }
        let mut path_length = None;
        if fields.peek() == Some(tag::INTEGER) {
            path_length = Some(match *fields.unsigned(WHAT)? {
                [few] => few,
                _ => u8::MAX,
            });
        }
        fields.finish(WHAT)?;
        Ok(Self { ca, path_length })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn time(tag: u8, text: &str) -> Result<(Timestamp, bool), DerError> {
        read_time(&mut Reader::new(&der::encode(tag, &[text.as_bytes()])), "time")
    }

    #[test]
    fn times_are_read_to_the_second_from_one_end_of_the_calendar_to_the_other() {
        for (tag, text, unix, right) in [
            (tag::UTC_TIME, "700101000000Z", 0, true),
            (tag::UTC_TIME, "991231235959Z", 946_684_799, true),
            (tag::UTC_TIME, "000101000000Z", 946_684_800, true),
            (tag::UTC_TIME, "000229120000Z", 951_825_600, true),
            (tag::UTC_TIME, "491231235959Z", 2_524_607_999, true),
            (tag::GENERALIZED_TIME, "20500101000000Z", 2_524_608_000, true),
            (tag::GENERALIZED_TIME, "99991231235959Z", Timestamp::MAX.unix(), true),
            // RFC 5280 §4.1.2.5 wants UTCTime here; it is for the reader of the view to mind.
            (tag::GENERALIZED_TIME, "20491231235959Z", 2_524_607_999, false),
            (tag::GENERALIZED_TIME, "19700101000000Z", 0, false),
        ] {
            assert_eq!(time(tag, text), Ok((Timestamp::from_unix(unix), right)), "{text}");
        }
    }

    #[test]
    fn what_is_no_time_of_the_calendar_is_refused() {
        for text in [
            "",
            "Z",
            "691231235959Z", // 1969
            "500101000000Z", // 1950
            "260001000000Z",
            "261301000000Z",
            "260100000000Z",
            "260132000000Z",
            "260229000000Z",
            "260431000000Z",
            "260101240000Z",
            "260101006000Z",
            "261231235960Z", // a leap second
            "2601010000Z",
            "260101000000",
            "260101000000z",
            "26010100000 Z",
            "26-10100000Z",
            "260101000000.0Z",
            "260101000000+0000",
        ] {
            assert!(time(tag::UTC_TIME, text).is_err(), "{text:?}");
        }
        for text in [
            "00000101000000Z",
            "19691231235959Z",
            "21000229000000Z",
            "2026010100000Z",
            "20260101000000.5Z",
        ] {
            assert!(time(tag::GENERALIZED_TIME, text).is_err(), "{text:?}");
        }
        assert!(time(tag::PRINTABLE_STRING, "260101000000Z").is_err());
    }

    fn extensions(list: &[u8]) -> Result<(), DerError> {
        let list = der::encode(tag::SEQUENCE, &[list]);
        let explicit = der::encode(tag::context_constructed(3), &[&list]);
        Extensions::read(&mut Reader::new(&explicit)).map(|_| ())
    }

    #[test]
    fn a_criticality_of_false_is_left_out() {
        let extension = |critical: &[u8]| {
            let oid = der::encode(tag::OID, &[b"\x2a\x03"]);
            der::encode(tag::SEQUENCE, &[&oid, critical, &[tag::OCTET_STRING, 0]])
        };
        assert_eq!(extensions(&extension(&[])), Ok(()));
        assert_eq!(extensions(&extension(&[1, 1, 0xff])), Ok(()));
        for critical in [&[1, 1, 0][..], &[1, 1, 1], &[1, 0]] {
            let refused = Err(DerError::Value("extension criticality"));
            assert_eq!(extensions(&extension(critical)), refused, "{critical:?}");
        }
    }

    proptest! {
        #[test]
        fn every_instant_is_read_back_from_its_text(unix in 0..=Timestamp::MAX.unix()) {
            let instant = Timestamp::from_unix(unix);
            let text: String = instant.to_string().chars().filter(char::is_ascii_digit).collect();
            let right = unix >= 2_524_608_000;
            prop_assert_eq!(time(tag::GENERALIZED_TIME, &format!("{text}Z")), Ok((instant, right)));
        }
    }
}
