//! What a certificate says, for people and programs. Reads any certificate, not only Mintmark's own,
//! with a parser that shares nothing with the code that issues.

use std::time::Duration;

use ca_core::clock::Timestamp;
use ca_core::key::PublicKey;
use serde::Serialize;
use thiserror::Error;
use x509_cert::Certificate;
use x509_cert::der::asn1::ObjectIdentifier;
use x509_cert::der::{self, Decode as _, Encode as _, Reader as _, SliceReader};
use x509_cert::ext::pkix::name::GeneralName;
use x509_cert::ext::pkix::{
    AuthorityKeyIdentifier, BasicConstraints, ExtendedKeyUsage, KeyUsage, KeyUsages,
    SubjectAltName, SubjectKeyIdentifier,
};
use x509_cert::time::Time;

use crate::config::Period;
use crate::output::Rows;

/// Why bytes are no certificate.
#[derive(Debug, Error)]
#[error("not a certificate: {0}")]
pub struct CertificateError(#[from] der::Error);

/// The fields of a certificate that people ask for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct CertificateView {
    /// Subject, RFC 4514; empty if there is none.
    pub subject: String,
    /// The one SPIFFE ID, if there is exactly one URI name and it is one.
    pub spiffe_id: Option<String>,
    /// URI names.
    pub uris: Vec<String>,
    /// DNS names.
    pub dns_names: Vec<String>,
    /// Serial number in hexadecimal.
    pub serial_number: String,
    /// Start of the validity, RFC 3339.
    pub not_before: String,
    /// Last second of the validity, RFC 3339.
    pub not_after: String,
    /// Seconds until the end of the validity; 0 if it is past.
    pub remaining_seconds: u64,
    /// Kind of key.
    pub key: String,
    /// Key usages by the names of RFC 5280 §4.2.1.3.
    pub key_usage: Vec<&'static str>,
    /// Extended key usages, by name where it is known.
    pub extended_key_usage: Vec<String>,
    /// Whether it may issue certificates.
    pub ca: bool,
    /// Issuer, RFC 4514.
    pub issuer: String,
    /// Subject key identifier in hexadecimal.
    pub subject_key_id: Option<String>,
    /// Authority key identifier in hexadecimal.
    pub authority_key_id: Option<String>,
}

impl CertificateView {
    /// Reads a DER certificate and says how much of its life is left at `now`.
    pub fn of(der: &[u8], now: Timestamp) -> Result<Self, CertificateError> {
        let certificate = Certificate::from_der(der)?;
        let fields = certificate.tbs_certificate();
        let names =
            fields.get_extension::<SubjectAltName>()?.map_or(Vec::new(), |(_, names)| names.0);
        let uris: Vec<String> = names
            .iter()
            .filter_map(|name| match name {
                GeneralName::UniformResourceIdentifier(uri) => Some(uri.as_str().to_owned()),
                _ => None,
            })
            .collect();
        let spiffe_id = match uris.as_slice() {
            [only] => ca_core::id::SpiffeId::parse(only).ok().map(|id| id.as_str().to_owned()),
            _ => None,
        };
        let dns_names = names
            .iter()
            .filter_map(|name| match name {
                GeneralName::DnsName(name) => Some(name.as_str().to_owned()),
                _ => None,
            })
            .collect();
        let not_after = instant(fields.validity().not_after);
        Ok(Self {
            subject: fields.subject().to_string(),
            spiffe_id,
            uris,
            dns_names,
            serial_number: hexadecimal(fields.serial_number().as_bytes()),
            not_before: instant(fields.validity().not_before).to_string(),
            not_after: not_after.to_string(),
            remaining_seconds: not_after.since(now).as_secs(),
            key: key_name(&fields.subject_public_key_info().to_der()?),
            key_usage: fields
                .get_extension::<KeyUsage>()?
                .map_or(Vec::new(), |(_, usage)| usages(usage)),
            extended_key_usage: fields
                .get_extension::<ExtendedKeyUsage>()?
                .map_or(Vec::new(), |(_, usage)| usage.0.iter().map(extended_usage).collect()),
            ca: fields.get_extension::<BasicConstraints>()?.is_some_and(|(_, basic)| basic.ca),
            issuer: fields.issuer().to_string(),
            subject_key_id: fields
                .get_extension::<SubjectKeyIdentifier>()?
                .map(|(_, id)| hexadecimal(id.0.as_bytes())),
            authority_key_id: fields
                .get_extension::<AuthorityKeyIdentifier>()?
                .and_then(|(_, id)| Some(hexadecimal(id.key_identifier?.as_bytes()))),
        })
    }

    /// The fields as the rows of a table.
    #[must_use]
    pub fn rows(&self) -> Rows {
        let or_none = |text: &str| if text.is_empty() { "(none)" } else { text }.to_owned();
        let remaining = match self.remaining_seconds {
            0 => "ended".to_owned(),
            seconds => format!("{} left", Period(Duration::from_secs(seconds))),
        };
        let kind = if self.ca { "CA certificate" } else { "leaf certificate" };
        let id = self.spiffe_id.clone().unwrap_or_else(|| or_none(&self.uris.join("\n")));
        vec![
            ("Kind", kind.to_owned()),
            ("SPIFFE ID", id),
            ("Subject", or_none(&self.subject)),
            ("DNS names", or_none(&self.dns_names.join(", "))),
            ("Serial number", self.serial_number.clone()),
            ("Valid from", self.not_before.clone()),
            ("Valid until", format!("{} ({remaining})", self.not_after)),
            ("Key", self.key.clone()),
            ("Key usage", or_none(&self.key_usage.join(", "))),
            ("Extended usage", or_none(&self.extended_key_usage.join(", "))),
            ("Issuer", or_none(&self.issuer)),
            ("Subject key id", or_none(self.subject_key_id.as_deref().unwrap_or_default())),
            ("Authority key id", or_none(self.authority_key_id.as_deref().unwrap_or_default())),
        ]
    }
}

/// The DER `SubjectPublicKeyInfo` of a certificate.
pub fn public_key(der: &[u8]) -> Result<Vec<u8>, CertificateError> {
    let certificate = Certificate::from_der(der)?;
    Ok(certificate.tbs_certificate().subject_public_key_info().to_der()?)
}

/// The `TBSCertificate` of a certificate: the bytes that were signed (RFC 5280 §4.1.1.1).
pub fn signed_part(der: &[u8]) -> Result<&[u8], CertificateError> {
    let _ = Certificate::from_der(der)?;
    let mut reader = SliceReader::new(der)?;
    let _ = der::Header::decode(&mut reader)?;
    Ok(reader.tlv_bytes()?)
}

/// The serial number of a certificate, big-endian.
pub fn serial_number(der: &[u8]) -> Result<Vec<u8>, CertificateError> {
    Ok(Certificate::from_der(der)?.tbs_certificate().serial_number().as_bytes().to_vec())
}

fn instant(time: Time) -> Timestamp {
    Timestamp::EPOCH.plus(time.to_unix_duration())
}

/// Lower case, without separators.
pub(crate) fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn key_name(spki: &[u8]) -> String {
    match PublicKey::from_spki(spki) {
        Ok(key) => key.kind().to_string(),
        Err(_) => "of a kind that Mintmark does not certify".to_owned(),
    }
}

fn usages(usage: KeyUsage) -> Vec<&'static str> {
    usage
        .0
        .into_iter()
        .map(|usage| match usage {
            KeyUsages::DigitalSignature => "digitalSignature",
            KeyUsages::NonRepudiation => "nonRepudiation",
            KeyUsages::KeyEncipherment => "keyEncipherment",
            KeyUsages::DataEncipherment => "dataEncipherment",
            KeyUsages::KeyAgreement => "keyAgreement",
            KeyUsages::KeyCertSign => "keyCertSign",
            KeyUsages::CRLSign => "cRLSign",
            KeyUsages::EncipherOnly => "encipherOnly",
            KeyUsages::DecipherOnly => "decipherOnly",
        })
        .collect()
}

fn extended_usage(purpose: &ObjectIdentifier) -> String {
    match purpose.to_string().as_str() {
        "1.3.6.1.5.5.7.3.1" => "serverAuth".to_owned(),
        "1.3.6.1.5.5.7.3.2" => "clientAuth".to_owned(),
        other => other.to_owned(),
    }
}
