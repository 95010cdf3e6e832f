//! What a peer's certificate has to be, before anything is verified by it: the cheap part, which reads what a
//! stranger sent.

use ca_core::certificate::{Extensions, TbsView, oid};
use ca_core::clock::Timestamp;
use ca_core::der::{self, DerError, Reader, tag};
use ca_core::excerpt::Excerpt;
use ca_core::id::{IdError, SpiffeId, TrustDomain};
use ca_core::key::{PublicKey, PublicKeyError};
use ca_core::profile::KeyUsage;
use rustls_pki_types::CertificateDer;
use thiserror::Error;

/// The most certificates of a chain: a leaf, an issuing key's, and three above it.
pub const LONGEST_CHAIN: usize = 5;
/// The largest certificate in bytes. One with an ML-DSA-65 key, its signature and a 2,048-byte ID has under 8 KiB.
pub const LARGEST_CERTIFICATE: usize = 16 * 1024;
/// RFC 5280 §4.1.2.2 ends serial numbers at 20 bytes; here with a leading zero.
const LONGEST_SERIAL: usize = 21;

/// Who is on the other side: what its certificate says, verified.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Peer {
    /// Its ID, of our trust domain, with a path.
    pub id: SpiffeId,
    /// SHA-256 of the DER of its `SubjectPublicKeyInfo`.
    pub key_fingerprint: [u8; 32],
    /// The first second of its certificate.
    pub not_before: Timestamp,
    /// The last second in which it is who it is.
    pub not_after: Timestamp,
    /// The serial number of its certificate, in lower-case hexadecimal.
    pub serial: String,
}

/// Which side of a connection shows the certificate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// The one that connects: `clientAuth`.
    Client,
    /// The one that listens: `serverAuth`.
    Server,
}

impl Side {
    fn purpose(self) -> (&'static [u8], &'static str) {
        match self {
            Self::Client => (oid::CLIENT_AUTH, "clientAuth"),
            Self::Server => (oid::SERVER_AUTH, "serverAuth"),
        }
    }
}

/// The rule that a peer has broken. Each is one sentence, fit for a log.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum Rejected {
    /// None was shown.
    #[error("the peer shows no certificate")]
    NoCertificate,
    /// More than [`LONGEST_CHAIN`].
    #[error("the peer shows {0} certificates; at most {LONGEST_CHAIN} are read")]
    ChainTooLong(usize),
    /// One is larger than [`LARGEST_CERTIFICATE`].
    #[error("a certificate of the peer has {0} bytes; at most {LARGEST_CERTIFICATE} are read")]
    TooLarge(usize),
    /// Not strict DER of a certificate.
    #[error("a certificate of the peer is malformed: {0}")]
    Malformed(#[from] DerError),
    /// The serial number is longer than any may be.
    #[error("the peer's certificate has a serial number of {0} bytes; 20 are allowed")]
    Serial(usize),
    /// A key of the chain is none that is accepted.
    #[error("a certificate of the peer: {0}")]
    Key(#[from] PublicKeyError),
    /// RFC 5280 §4.2.
    #[error("the peer's certificate has an extension twice")]
    Repeated,
    /// RFC 5280 §4.2.
    #[error("the peer's certificate has a critical extension that is not understood")]
    UnknownCritical,
    /// X509-SVID §2.
    #[error("the peer's certificate has {0} URI names; an X509-SVID has exactly one")]
    Uris(usize),
    /// The URI is no SPIFFE ID.
    #[error("the peer's certificate: {0}")]
    Id(#[from] IdError),
    /// X509-SVID §5.1: verified by the bundle of its trust domain, and there is one bundle here.
    #[error("{found} is of another trust domain; only {expected:?} is let in")]
    TrustDomain {
        /// The ID.
        found: Excerpt,
        /// Ours.
        expected: String,
    },
    /// X509-SVID §2: a leaf has a path.
    #[error("{0} names a trust domain and no peer: it has no path")]
    NoPath(Excerpt),
    /// X509-SVID §4.1: signing certificates authenticate nobody.
    #[error("{0} shows a CA certificate, which authenticates nobody")]
    Ca(Excerpt),
    /// X509-SVID §4.3.
    #[error(
        "the certificate of {0} has a key usage that is not a leaf's: digitalSignature, neither keyCertSign nor cRLSign"
    )]
    KeyUsage(Excerpt),
    /// X509-SVID §4.4.
    #[error("the certificate of {id} is not for {purpose}: its extended key usage lacks it")]
    Purpose {
        /// Whose.
        id: Excerpt,
        /// What it lacks.
        purpose: &'static str,
    },
    /// RFC 5280 §4.1.2.5.
    #[error("the certificate of {id} is not valid before {not_before}; it is {now}")]
    NotYet {
        /// Whose.
        id: Excerpt,
        /// From when on it is.
        not_before: Timestamp,
        /// When it was looked at.
        now: Timestamp,
    },
    /// RFC 5280 §4.1.2.5.
    #[error("the certificate of {id} has ended at {not_after}; it is {now}")]
    Ended {
        /// Whose.
        id: Excerpt,
        /// Its last second.
        not_after: Timestamp,
        /// When it was looked at.
        now: Timestamp,
    },
    /// RFC 5280 §4.2.1.3 and §4.2.1.9, X509-SVID §4.1 and §4.3: a certificate above the leaf that may not sign others.
    #[error(
        "certificate {0} of the chain of {1} may sign no other: a CA's has basicConstraints with CA:TRUE and the key usage keyCertSign"
    )]
    NotCa(usize, Excerpt),
    /// An ID of the service that an authority of the bundle has not certified itself. A CA below it, an issuing key or
    /// another server, can certify any ID of the trust domain, and must not make signers or front ends.
    #[error(
        "the certificate of {0} is not signed by an authority of the bundle itself, as those of IDs under /mintmark have to be"
    )]
    NotOfAuthority(Excerpt),
    /// The chain does not verify to the bundle.
    #[error("the certificate of {id} does not lead to an authority of the bundle: {reason}")]
    Untrusted {
        /// Whose.
        id: Excerpt,
        /// What the verifier said.
        reason: String,
    },
    /// A server that is not the one that was asked for.
    #[error("{found} answers where {expected} was asked for")]
    NotExpected {
        /// Who answers.
        found: Excerpt,
        /// Who was to.
        expected: SpiffeId,
    },
}

/// Reads a chain, leaf first, and holds the leaf against every rule that needs no other certificate. Nothing here
/// verifies a signature: that is [`Trust::verify`](crate::Trust::verify).
///
/// # Errors
/// The first rule that is broken, the cheapest looked at first.
pub fn examine(
    chain: &[CertificateDer<'_>],
    side: Side,
    trust_domain: &TrustDomain,
    now: Timestamp,
) -> Result<Peer, Rejected> {
    if chain.len() > LONGEST_CHAIN {
        return Err(Rejected::ChainTooLong(chain.len()));
    }
    let (leaf, intermediates) = chain.split_first().ok_or(Rejected::NoCertificate)?;
    let view = read(leaf)?;
    let id = id_of(&view, trust_domain)?;
    check_extensions(&view.extensions, side, &id)?;
    check_validity(&view, &id, now)?;
    if view.serial.len() > LONGEST_SERIAL {
        return Err(Rejected::Serial(view.serial.len()));
    }
    let key = PublicKey::from_spki(view.spki)?;
    for (at, intermediate) in intermediates.iter().enumerate() {
        let view = read(intermediate)?;
        if !is_ca(&view.extensions) {
            return Err(Rejected::NotCa(at + 2, Excerpt::of(id.as_str())));
        }
        // Its size and kind, before a signature is verified with it.
        PublicKey::from_spki(view.spki)?;
    }
    let serial = view.serial.iter().skip_while(|byte| **byte == 0);
    Ok(Peer {
        id,
        key_fingerprint: *key.fingerprint(),
        not_before: view.not_before.0,
        not_after: view.not_after.0,
        serial: serial.map(|byte| format!("{byte:02x}")).collect(),
    })
}

/// The fields of a certificate; its signature is only found.
fn read<'a>(certificate: &'a CertificateDer<'_>) -> Result<TbsView<'a>, Rejected> {
    if certificate.len() > LARGEST_CERTIFICATE {
        return Err(Rejected::TooLarge(certificate.len()));
    }
    let mut outer = der::sole(certificate, tag::SEQUENCE, "certificate")?;
    let tbs = outer.expect(tag::SEQUENCE, "TBSCertificate")?.whole;
    outer.expect(tag::SEQUENCE, "signature algorithm")?;
    outer.bit_string("signature")?;
    outer.finish("certificate")?;
    Ok(TbsView::read(tbs)?)
}

/// X509-SVID §2, §5.2: exactly one URI name, and that is an ID of ours with a path.
fn id_of(view: &TbsView<'_>, trust_domain: &TrustDomain) -> Result<SpiffeId, Rejected> {
    let names = view.extensions.subject_alt_name.map_or(&[][..], |(_, names)| names);
    let (mut names, mut uris, mut first) = (Reader::new(names), 0, None);
    while !names.is_empty() {
        let name = names.any("subject alternative name")?;
        if name.tag == tag::context(6) {
            uris += 1;
            first = first.or(Some(name.value));
        }
    }
    let uri = match (uris, first) {
        (1, Some(uri)) => uri,
        _ => return Err(Rejected::Uris(uris)),
    };
    let uri = std::str::from_utf8(uri).map_err(|_| DerError::Value("URI name"))?;
    let id = SpiffeId::parse(uri)?;
    if !id.is_member_of(trust_domain) {
        let found = Excerpt::of(id.as_str());
        return Err(Rejected::TrustDomain { found, expected: trust_domain.name().to_owned() });
    }
    if id.path().is_empty() {
        return Err(Rejected::NoPath(Excerpt::of(id.as_str())));
    }
    Ok(id)
}

/// X509-SVID §4.1, §4.3, §4.4 and §5.2.
fn check_extensions(
    extensions: &Extensions<'_>,
    side: Side,
    id: &SpiffeId,
) -> Result<(), Rejected> {
    let id = || Excerpt::of(id.as_str());
    if extensions.repeated {
        return Err(Rejected::Repeated);
    }
    if extensions.unknown == Some(true) {
        return Err(Rejected::UnknownCritical);
    }
    if extensions.basic_constraints.is_some_and(|(_, constraints)| constraints.ca) {
        return Err(Rejected::Ca(id()));
    }
    let is_leafs = |usage: KeyUsage| {
        usage.contains(KeyUsage::DIGITAL_SIGNATURE)
            && !usage.contains(KeyUsage::KEY_CERT_SIGN)
            && !usage.contains(KeyUsage::CRL_SIGN)
    };
    match extensions.key_usage {
        Some((_, Some(usage))) if is_leafs(usage) => {}
        _ => return Err(Rejected::KeyUsage(id())),
    }
    let (wanted, purpose) = side.purpose();
    let mut purposes = Reader::new(extensions.extended_key_usage.map_or(&[], |(_, list)| list));
    let mut found = false;
    while !purposes.is_empty() {
        found |= purposes.expect(tag::OID, "extended key usage")?.value == wanted;
    }
    if found { Ok(()) } else { Err(Rejected::Purpose { id: id(), purpose }) }
}

/// Whether others may be signed with its key. The library that verifies chains looks at no key usage of theirs.
fn is_ca(extensions: &Extensions<'_>) -> bool {
    let ca = extensions.basic_constraints.is_some_and(|(_, constraints)| constraints.ca);
    let usage = extensions.key_usage.and_then(|(_, usage)| usage);
    ca && usage.is_some_and(|usage| usage.contains(KeyUsage::KEY_CERT_SIGN))
}

fn check_validity(view: &TbsView<'_>, id: &SpiffeId, now: Timestamp) -> Result<(), Rejected> {
    let (not_before, not_after) = (view.not_before.0, view.not_after.0);
    let id = || Excerpt::of(id.as_str());
    if now < not_before {
        return Err(Rejected::NotYet { id: id(), not_before, now });
    }
    if now > not_after {
        return Err(Rejected::Ended { id: id(), not_after, now });
    }
    Ok(())
}
