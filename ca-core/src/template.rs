//! The encoder of everything that is signed with a CA key: a `TBSCertificate` from parts encoded once.
//!
//! Two phases, because a key may be slow and far away: [`Template::tbs`] gives the bytes to sign,
//! [`assemble`] joins them with the signature. Outer lengths are computed anew each time, never patched.
//! The tests hold every byte against `x509-cert`, an unrelated encoder.

use crate::clock::Timestamp;
use crate::der::{header_length, tag, write, write_header};
use crate::dns::DnsName;
use crate::id::SpiffeId;
use crate::key::{KeyId, PublicKey, Signature, SignatureAlgorithm};
use crate::name::Name;
use crate::profile::{KeyUsage, Profile};
use crate::serial::Serial;

/// What all certificates of one issuer and profile share.
#[derive(Debug, Clone)]
pub struct Template {
    algorithm: SignatureAlgorithm,
    profile: Profile,
    issuer: Name,
    /// Authority key identifier (unless self-signed), basic constraints and extended key usage, encoded.
    fixed_extensions: Vec<u8>,
}

/// What one certificate adds to its template.
#[derive(Debug, Clone, Copy)]
pub struct Fields<'a> {
    /// Its serial number.
    pub serial: &'a Serial,
    /// The first second in which it is valid.
    pub not_before: Timestamp,
    /// The last second in which it is valid (RFC 5280 §4.1.2.5).
    pub not_after: Timestamp,
    /// Its subject. Empty makes the subject alternative name critical (RFC 5280 §4.2.1.6).
    pub subject: &'a Name,
    /// Its key.
    pub key: &'a PublicKey,
    /// Its URI name.
    pub id: &'a SpiffeId,
    /// Its DNS names, in this order.
    pub dns_names: &'a [DnsName],
}

/// `[0] EXPLICIT` version 3 (RFC 5280 §4.1.2.1).
const VERSION_3: &[u8] = b"\xa0\x03\x02\x01\x02";
/// Critical basic constraints, `cA` FALSE by default (RFC 5280 §4.2.1.9).
const BASIC_CONSTRAINTS_LEAF: &[u8] = b"\x30\x0c\x06\x03\x55\x1d\x13\x01\x01\xff\x04\x02\x30\x00";
/// Critical basic constraints, `cA` TRUE, no path length.
const BASIC_CONSTRAINTS_CA: &[u8] =
    b"\x30\x0f\x06\x03\x55\x1d\x13\x01\x01\xff\x04\x05\x30\x03\x01\x01\xff";
/// The same with a path length of zero, the only one that a kind of certificate has.
const BASIC_CONSTRAINTS_LAST_CA: &[u8] =
    b"\x30\x12\x06\x03\x55\x1d\x13\x01\x01\xff\x04\x08\x30\x06\x01\x01\xff\x02\x01\x00";
/// `serverAuth` and `clientAuth` (X509-SVID §4.4, RFC 5280 §4.2.1.12).
const EXTENDED_KEY_USAGE: &[u8] = b"\x30\x1d\x06\x03\x55\x1d\x25\x04\x16\x30\x14\x06\x08\x2b\x06\x01\x05\x05\x07\x03\x01\x06\x08\x2b\x06\x01\x05\x05\x07\x03\x02";
/// Authority key identifier with a key identifier of 20 bytes, which follow (RFC 5280 §4.2.1.1).
const AUTHORITY_KEY_ID: &[u8] = b"\x30\x1f\x06\x03\x55\x1d\x23\x04\x18\x30\x16\x80\x14";
/// Subject key identifier of 20 bytes, which follow (RFC 5280 §4.2.1.2).
const SUBJECT_KEY_ID: &[u8] = b"\x30\x1d\x06\x03\x55\x1d\x0e\x04\x16\x04\x14";
/// Critical key usage; the two content bytes of the BIT STRING follow.
const KEY_USAGE: &[u8] = b"\x30\x0e\x06\x03\x55\x1d\x0f\x01\x01\xff\x04\x04\x03\x02";
/// OID of the subject alternative name.
const SUBJECT_ALT_NAME: &[u8] = b"\x06\x03\x55\x1d\x11";
/// BOOLEAN TRUE.
const CRITICAL: &[u8] = b"\x01\x01\xff";

const KEY_USAGE_LENGTH: usize = KEY_USAGE.len() + 2;
const SUBJECT_KEY_ID_LENGTH: usize = SUBJECT_KEY_ID.len() + 20;

impl Template {
    /// The template of certificates that `issuer` signs with `algorithm`. `authority_key` is absent for a
    /// self-signed certificate only.
    #[must_use]
    pub fn new(
        profile: Profile,
        algorithm: SignatureAlgorithm,
        issuer: Name,
        authority_key: Option<KeyId>,
    ) -> Self {
        let mut fixed_extensions = Vec::with_capacity(96);
        if !profile.is_ca() {
            fixed_extensions.extend_from_slice(EXTENDED_KEY_USAGE);
        }
        fixed_extensions.extend_from_slice(match (profile.is_ca(), profile.path_length()) {
            (false, _) => BASIC_CONSTRAINTS_LEAF,
            (true, None) => BASIC_CONSTRAINTS_CA,
            (true, Some(_)) => BASIC_CONSTRAINTS_LAST_CA,
        });
        if let Some(KeyId(id)) = authority_key {
            fixed_extensions.extend_from_slice(AUTHORITY_KEY_ID);
            fixed_extensions.extend_from_slice(&id);
        }
        Self { algorithm, profile, issuer, fixed_extensions }
    }

    /// The kind of certificate that it makes.
    #[must_use]
    pub fn profile(&self) -> Profile {
        self.profile
    }

    /// The `TBSCertificate` (RFC 5280 §4.1): the bytes to be checked and then signed.
    #[must_use]
    pub fn tbs(&self, fields: &Fields<'_>) -> Vec<u8> {
        let names = Names::of(fields);
        let extensions = KEY_USAGE_LENGTH
            + self.fixed_extensions.len()
            + SUBJECT_KEY_ID_LENGTH
            + names.extension_length();
        let wrapped = header_length(extensions) + extensions;
        let algorithm = self.algorithm.identifier();
        let validity = time_length(fields.not_before) + time_length(fields.not_after);
        let content = VERSION_3.len()
            + 2
            + Serial::LENGTH
            + algorithm.len()
            + self.issuer.der().len()
            + header_length(validity)
            + validity
            + fields.subject.der().len()
            + fields.key.spki().len()
            + header_length(wrapped)
            + wrapped;

        // Exactly: what is shared later would otherwise need one more allocation.
        let length = header_length(content) + content;
        let mut out = Vec::with_capacity(length);
        write_header(&mut out, tag::SEQUENCE, content);
        out.extend_from_slice(VERSION_3);
        write(&mut out, tag::INTEGER, fields.serial.bytes());
        out.extend_from_slice(algorithm);
        out.extend_from_slice(self.issuer.der());
        write_header(&mut out, tag::SEQUENCE, validity);
        write_time(&mut out, fields.not_before);
        write_time(&mut out, fields.not_after);
        out.extend_from_slice(fields.subject.der());
        out.extend_from_slice(fields.key.spki());
        write_header(&mut out, tag::context_constructed(3), wrapped);
        write_header(&mut out, tag::SEQUENCE, extensions);
        write_key_usage(&mut out, self.profile.key_usage(fields.key.kind()));
        out.extend_from_slice(&self.fixed_extensions);
        out.extend_from_slice(SUBJECT_KEY_ID);
        out.extend_from_slice(&fields.key.key_id().0);
        names.write(&mut out);
        debug_assert_eq!(out.len(), length);
        out
    }
}

/// The `Certificate` (RFC 5280 §4.1) of signed bytes.
#[must_use]
pub fn assemble(tbs: &[u8], signature: &Signature) -> Vec<u8> {
    let algorithm = signature.algorithm().identifier();
    let bits = 1 + signature.x509_length();
    let content = tbs.len() + algorithm.len() + header_length(bits) + bits;
    let mut out = Vec::with_capacity(header_length(content) + content);
    write_header(&mut out, tag::SEQUENCE, content);
    out.extend_from_slice(tbs);
    out.extend_from_slice(algorithm);
    write_header(&mut out, tag::BIT_STRING, bits);
    out.push(0);
    signature.write_x509(&mut out);
    out
}

/// The subject alternative name and the lengths of its nested values.
struct Names<'a> {
    id: &'a SpiffeId,
    dns_names: &'a [DnsName],
    critical: bool,
    /// Content length of `GeneralNames`.
    names: usize,
    /// Content length of the extension.
    extension: usize,
}

impl<'a> Names<'a> {
    fn of(fields: &Fields<'a>) -> Self {
        let length = |text: &str| header_length(text.len()) + text.len();
        let names = fields.dns_names.iter().map(|name| length(name.as_str())).sum::<usize>()
            + length(fields.id.as_str());
        let critical = fields.subject.is_empty();
        let sequence = header_length(names) + names;
        let extension = SUBJECT_ALT_NAME.len()
            + if critical { CRITICAL.len() } else { 0 }
            + header_length(sequence)
            + sequence;
        Self { id: fields.id, dns_names: fields.dns_names, critical, names, extension }
    }

    fn extension_length(&self) -> usize {
        header_length(self.extension) + self.extension
    }

    fn write(&self, out: &mut Vec<u8>) {
        write_header(out, tag::SEQUENCE, self.extension);
        out.extend_from_slice(SUBJECT_ALT_NAME);
        if self.critical {
            out.extend_from_slice(CRITICAL);
        }
        write_header(out, tag::OCTET_STRING, header_length(self.names) + self.names);
        write_header(out, tag::SEQUENCE, self.names);
        for name in self.dns_names {
            write(out, tag::context(2), name.as_str().as_bytes());
        }
        write(out, tag::context(6), self.id.as_str().as_bytes());
    }
}

fn write_key_usage(out: &mut Vec<u8>, usage: KeyUsage) {
    out.extend_from_slice(KEY_USAGE);
    out.extend_from_slice(&usage.bit_string());
}

/// RFC 5280 §4.1.2.5: UTCTime through 2049, GeneralizedTime from 2050 on.
const FIRST_GENERALIZED: i64 = 2_524_608_000;

fn time_length(time: Timestamp) -> usize {
    if time.unix() < FIRST_GENERALIZED { 15 } else { 17 }
}

fn write_time(out: &mut Vec<u8>, time: Timestamp) {
    let (year, month, day, hour, minute, second) = time.civil();
    let digits = |value: u8| [b'0' + value / 10, b'0' + value % 10];
    let century = u8::try_from(year / 100).expect("a year has four digits");
    let year = u8::try_from(year % 100).expect("two digits");
    if time.unix() < FIRST_GENERALIZED {
        write_header(out, tag::UTC_TIME, 13);
    } else {
        write_header(out, tag::GENERALIZED_TIME, 15);
        out.extend_from_slice(&digits(century));
    }
    for value in [year, month, day, hour, minute, second] {
        out.extend_from_slice(&digits(value));
    }
    out.push(b'Z');
}
