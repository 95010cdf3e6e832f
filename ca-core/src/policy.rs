//! Who may have what: the only room that says yes. A yes is a grant, and only this module makes one.

mod front_end;

use std::time::Duration;

use thiserror::Error;

pub use self::front_end::{
    NameGrant, NamedJwt, NamedX509, frontend_jwt, frontend_names, frontend_publish, frontend_svid,
};
use crate::clock::Timestamp;
use crate::csr::{VerifiedCsr, VerifiedKey};
use crate::dns::{DnsError, DnsName};
use crate::excerpt::Excerpt;
use crate::frontend::FrontEndName;
use crate::id::{IdError, SpiffeId, TrustDomain, WorkloadId};
use crate::key::{KeyKind, PublicKey};
use crate::name::{Name, NameError};
use crate::profile::Profile;

/// The most bytes that all audiences of a token may have together. The token carries them, and headers
/// that carry the token end at 8 KiB in many servers.
const MAX_AUDIENCE_BYTES: usize = 4096;

/// The decision that a key may have a certificate with this ID, of this kind, for this long.
#[derive(Debug)]
pub struct X509Grant {
    id: SpiffeId,
    key: VerifiedKey,
    profile: Profile,
    dns_names: Vec<DnsName>,
    subject: Name,
    ttl: Option<Duration>,
}

/// The decision that a workload may have a token for these audiences, for this long.
#[derive(Debug)]
pub struct JwtGrant {
    id: SpiffeId,
    audience: Vec<String>,
    ttl: Option<Duration>,
}

/// Why a request is refused. It is wrong and will stay wrong.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum Refusal {
    /// The CSR names no URI.
    #[error("the CSR has no URI name; ask for exactly one SPIFFE ID")]
    UriMissing,
    /// The CSR names several URIs (X509-SVID §2).
    #[error("the CSR has {0} URI names; an X509-SVID has exactly one")]
    UriNotSingle(usize),
    /// The CSR's URI is not an ID that a workload of this trust domain may have.
    #[error(transparent)]
    Uri(IdError),
    /// A DNS name of the CSR is not acceptable, or one covers another.
    #[error(transparent)]
    Dns(DnsError),
    /// The subject of the CSR is not acceptable.
    #[error(transparent)]
    Subject(NameError),
    /// The ID asked for is not one that a workload of this trust domain may have.
    #[error(transparent)]
    Id(IdError),
    /// No audience, or only empty ones (JWT-SVID §3.2).
    #[error("a JWT-SVID needs at least one audience that is not empty")]
    AudienceMissing,
    /// The audiences are too long for any header.
    #[error("the audiences have {0} bytes; {MAX_AUDIENCE_BYTES} are allowed")]
    AudienceTooLong(usize),
    /// A negative time to live.
    #[error("a time to live of {0} seconds is not possible; leave it out for the default")]
    Ttl(i32),
    /// The front end was withdrawn.
    #[error("front end {front_end} was withdrawn at {since}; nothing is minted for it")]
    Withdrawn {
        /// The front end.
        front_end: FrontEndName,
        /// Since when.
        since: Timestamp,
    },
    /// The front end may ask for what entries allow, and names an ID itself.
    #[error(
        "front end {0} may not name IDs itself; ask for an entry, or enrol it with --allow-named"
    )]
    NamedNotGranted(FrontEndName),
    /// The front end may not ask for CA certificates.
    #[error("front end {0} may not ask for downstream CAs; enrol it with --allow-downstream")]
    DownstreamNotGranted(FrontEndName),
    /// The front end may not publish JWT authorities.
    #[error("front end {0} may not publish JWT authorities; enrol it with --allow-publish")]
    PublishNotGranted(FrontEndName),
    /// Nobody but the service itself has certificates of that kind.
    #[error(
        "a certificate of kind {0} is not for front ends to ask for; ask for workload or downstream-ca"
    )]
    ProfileNotOffered(Profile),
    /// A downstream CA has the ID of its trust domain (X509-SVID §4.1), and no other name.
    #[error("a downstream CA has the ID {0} and no DNS name; ask for it so")]
    DownstreamNames(SpiffeId),
    /// The ID lies outside of what the front end serves.
    #[error(
        "{id} is outside the path scopes of front end {front_end}; ask another front end, or enrol this one with \
         that --path-scope"
    )]
    OutsidePathScope {
        /// The front end.
        front_end: FrontEndName,
        /// The ID.
        id: Excerpt,
    },
    /// A DNS name lies outside of what the front end serves.
    #[error(
        "DNS name {name} is outside the DNS scopes of front end {front_end}; leave it out, or enrol the front end \
         with that --dns-scope"
    )]
    OutsideDnsScope {
        /// The front end.
        front_end: FrontEndName,
        /// The name.
        name: Excerpt,
    },
    /// The front end's word for who has the key is not enough.
    #[error("front end {0} has to send CSRs, and this is a key alone; send the workload's CSR")]
    CsrRequired(FrontEndName),
    /// The CSR was made for somebody else.
    #[error(
        "the CSR names {csr}, and {id} is asked for; send a CSR for that ID, or one without an ID"
    )]
    CsrOfOther {
        /// What the CSR names.
        csr: Excerpt,
        /// What was asked for.
        id: Excerpt,
    },
    /// A key of a kind that the front end may not ask for.
    #[error(
        "front end {front_end} may not ask for a key of kind {kind}; use one of its kinds, or enrol it with that \
         --allow-key"
    )]
    KeyKind {
        /// The front end.
        front_end: FrontEndName,
        /// The kind.
        kind: KeyKind,
    },
    /// A longer life than what the front end asks for may have.
    #[error(
        "a life of {asked} s is longer than the {most} s that front end {front_end} may ask for; ask for less, or \
         enrol it with a longer --max-ttl"
    )]
    TtlBeyond {
        /// The front end.
        front_end: FrontEndName,
        /// The life that was asked for, in seconds.
        asked: u64,
        /// The longest, in seconds.
        most: u64,
    },
}

/// Decides on a certificate that an administrator of this machine asks for: any workload ID of the trust
/// domain, with the DNS names and the subject of the CSR, as SPIRE's `MintX509SVID` allows.
///
/// `ttl_seconds` of zero asks for the default.
pub fn mint_x509(
    trust_domain: &TrustDomain,
    csr: &VerifiedCsr,
    ttl_seconds: i32,
) -> Result<X509Grant, Refusal> {
    let VerifiedCsr { key, requested } = csr;
    let uri = match requested.uris.as_slice() {
        [] => return Err(Refusal::UriMissing),
        [uri] => uri,
        several => return Err(Refusal::UriNotSingle(several.len())),
    };
    let id = SpiffeId::parse(uri)
        .and_then(|id| WorkloadId::new(id, trust_domain))
        .map_err(Refusal::Uri)?;
    let dns_names =
        DnsName::list(requested.dns_names.iter().map(String::as_str)).map_err(Refusal::Dns)?;
    let subject = subject(requested.subject().map_err(Refusal::Subject)?, &dns_names);
    Ok(X509Grant {
        id: id.into_id(),
        key: key.clone(),
        profile: Profile::Workload,
        dns_names,
        subject,
        ttl: ttl(ttl_seconds)?,
    })
}

/// Decides on the certificate with which this signer answers front ends, for a key that it has just made.
#[must_use]
pub fn signer(trust_domain: &TrustDomain, key: PublicKey) -> X509Grant {
    X509Grant {
        id: trust_domain.signer_id(),
        key: VerifiedKey::vouched(key),
        profile: Profile::Server,
        dns_names: Vec::new(),
        subject: Name::empty(),
        ttl: None,
    }
}

/// Decides on the CA certificate of a key of this process that is to issue in the authority's stead, under a
/// subject that no other has.
#[must_use]
pub fn issuing_key(
    trust_domain: &TrustDomain,
    key: VerifiedKey,
    subject: Name,
    life: Duration,
) -> X509Grant {
    X509Grant {
        id: trust_domain.id(),
        key,
        profile: Profile::IssuingCa,
        dns_names: Vec::new(),
        subject,
        ttl: Some(life),
    }
}

/// Decides on a token that an administrator of this machine asks for: any workload ID of the trust domain,
/// for any audience. Empty audiences are left out.
pub fn mint_jwt(
    trust_domain: &TrustDomain,
    id: SpiffeId,
    audience: Vec<String>,
    ttl_seconds: i32,
) -> Result<JwtGrant, Refusal> {
    let id = WorkloadId::new(id, trust_domain).map_err(Refusal::Id)?;
    let audience = self::audience(audience)?;
    Ok(JwtGrant { id: id.into_id(), audience, ttl: ttl(ttl_seconds)? })
}

fn audience(wanted: Vec<String>) -> Result<Vec<String>, Refusal> {
    let audience: Vec<String> = wanted.into_iter().filter(|value| !value.is_empty()).collect();
    if audience.is_empty() {
        return Err(Refusal::AudienceMissing);
    }
    let bytes = audience.iter().map(String::len).sum();
    if bytes > MAX_AUDIENCE_BYTES {
        return Err(Refusal::AudienceTooLong(bytes));
    }
    Ok(audience)
}

fn ttl(seconds: i32) -> Result<Option<Duration>, Refusal> {
    match u64::try_from(seconds) {
        Ok(0) => Ok(None),
        Ok(seconds) => Ok(Some(Duration::from_secs(seconds))),
        Err(_) => Err(Refusal::Ttl(seconds)),
    }
}

/// The first DNS name is the common name, for servers that look only there; so does SPIRE. A name too
/// long for that stays an alternative name only.
fn subject(requested: Name, dns_names: &[DnsName]) -> Name {
    match dns_names.first() {
        Some(name) => requested.with_common_name(name).unwrap_or(requested),
        None => requested,
    }
}

impl X509Grant {
    /// The ID that the certificate names.
    #[must_use]
    pub fn id(&self) -> &SpiffeId {
        &self.id
    }

    /// The key that it is for.
    #[must_use]
    pub fn key(&self) -> &PublicKey {
        self.key.public_key()
    }

    /// The kind of certificate.
    #[must_use]
    pub fn profile(&self) -> Profile {
        self.profile
    }

    /// Its DNS names.
    #[must_use]
    pub fn dns_names(&self) -> &[DnsName] {
        &self.dns_names
    }

    /// Its subject; mostly empty.
    #[must_use]
    pub fn subject(&self) -> &Name {
        &self.subject
    }

    /// How long it is to live, if not as long as usual.
    #[must_use]
    pub fn ttl(&self) -> Option<Duration> {
        self.ttl
    }

    pub(crate) fn into_id(self) -> SpiffeId {
        self.id
    }

    /// Bytes that it holds beside itself, about.
    pub(crate) fn size(&self) -> usize {
        let names: usize = self.dns_names.iter().map(|name| 32 + name.as_str().len()).sum();
        self.id.as_str().len() + self.key().spki().len() + names + self.subject.der().len()
    }
}

impl JwtGrant {
    /// The ID that the token names.
    #[must_use]
    pub fn id(&self) -> &SpiffeId {
        &self.id
    }

    /// Whom it is for; at least one.
    #[must_use]
    pub fn audience(&self) -> &[String] {
        &self.audience
    }

    /// How long it is to live, if not as long as usual.
    #[must_use]
    pub fn ttl(&self) -> Option<Duration> {
        self.ttl
    }

    pub(crate) fn into_id(self) -> SpiffeId {
        self.id
    }

    /// Bytes that it holds beside itself, about.
    pub(crate) fn size(&self) -> usize {
        let audience: usize = self.audience.iter().map(|value| 32 + value.len()).sum();
        self.id.as_str().len() + audience
    }
}
