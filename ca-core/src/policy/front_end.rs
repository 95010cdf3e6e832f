//! What a front end may have. It is believed in nothing that its record does not say.

use std::time::Duration;

use super::{JwtGrant, Refusal, X509Grant, audience};
use crate::csr::{Requested, VerifiedCsr, VerifiedKey};
use crate::dns::DnsName;
use crate::excerpt::Excerpt;
use crate::frontend::{FrontEnd, FrontEndName, KeyKinds, SVID_LIFE};
use crate::id::{SpiffeId, TrustDomain, WorkloadId};
use crate::key::PublicKey;
use crate::name::{Attribute, Name};
use crate::profile::Profile;

/// A certificate for an ID that the front end names itself.
#[derive(Debug, Clone)]
pub struct NamedX509 {
    /// For which ID: that of a workload, or of the trust domain for a downstream CA.
    pub id: SpiffeId,
    /// The DNS names to put in, as texts that nobody has looked at. A CSR's own are not.
    pub dns_names: Vec<String>,
    /// The life in seconds; zero for the usual one, as far as the front end may have that.
    pub ttl_seconds: u32,
    /// [`Profile::Workload`], or [`Profile::DownstreamCa`].
    pub profile: Profile,
}

/// The decision that whoever holds some key may have a certificate with this ID, of this kind, for this long. It
/// becomes a grant when the key is known, and how that is known is as the front end's terms want it.
#[derive(Debug)]
pub struct NameGrant {
    front_end: FrontEndName,
    require_csr: bool,
    key_kinds: KeyKinds,
    id: SpiffeId,
    profile: Profile,
    dns_names: Vec<DnsName>,
    ttl: Option<Duration>,
}

/// A token for an ID that the front end names itself.
#[derive(Debug, Clone)]
pub struct NamedJwt {
    /// For which ID.
    pub id: SpiffeId,
    /// Whom it is for. Empty ones are left out.
    pub audience: Vec<String>,
    /// The life in seconds; zero for the usual one, as far as the front end may have that.
    pub ttl_seconds: u32,
}

/// Decides on a certificate for an ID that a front end names, before it is looked at its key. `usual_ttl` is the life
/// of certificates for which no other is asked.
///
/// # Errors
/// [`Refusal`]: what has been asked for is beyond the front end's terms, or beyond what anybody may have.
pub fn frontend_names(
    front_end: &FrontEnd,
    trust_domain: &TrustDomain,
    wanted: NamedX509,
    usual_ttl: Duration,
) -> Result<NameGrant, Refusal> {
    let ttl = named(front_end, wanted.ttl_seconds, usual_ttl)?;
    let (id, dns_names) = match wanted.profile {
        Profile::Workload => (
            workload(front_end, trust_domain, wanted.id)?,
            dns_names(front_end, &wanted.dns_names)?,
        ),
        Profile::DownstreamCa => (downstream(front_end, trust_domain, &wanted)?, Vec::new()),
        other => return Err(Refusal::ProfileNotOffered(other)),
    };
    Ok(NameGrant {
        front_end: front_end.name().clone(),
        require_csr: front_end.terms().require_csr(),
        key_kinds: *front_end.terms().key_kinds(),
        id,
        profile: wanted.profile,
        dns_names,
        ttl,
    })
}

impl NameGrant {
    /// For the key of a CSR, of which nothing else is taken.
    ///
    /// # Errors
    /// [`Refusal::CsrOfOther`] or [`Refusal::KeyKind`].
    pub fn proven(self, csr: VerifiedCsr) -> Result<X509Grant, Refusal> {
        speaks_of(&csr.requested, &self.id)?;
        self.to(csr.key)
    }

    /// For a key of which nothing is verified here but that it is one ([`PublicKey::from_spki`]): **the front end**
    /// vouches that it has verified who holds it.
    ///
    /// If the word is false, somebody has an SVID for a key that is not theirs, and can do nothing with it; what a
    /// front end could gain is to make a holder of that key look like another workload.
    ///
    /// # Errors
    /// [`Refusal::CsrRequired`], [`Refusal::KeyKind`].
    pub fn vouched(self, key: PublicKey) -> Result<X509Grant, Refusal> {
        if self.require_csr {
            return Err(Refusal::CsrRequired(self.front_end));
        }
        self.to(VerifiedKey::vouched(key))
    }

    fn to(self, key: VerifiedKey) -> Result<X509Grant, Refusal> {
        let kind = key.public_key().kind();
        if !self.key_kinds.allow(kind) {
            return Err(Refusal::KeyKind { front_end: self.front_end, kind });
        }
        let Self { id, profile, dns_names, ttl, .. } = self;
        let subject = if profile.is_ca() {
            // No two CAs share a name: verifiers that look issuers up by name would try each of them.
            let number = key.public_key().key_id().to_string();
            let subject = Name::from_attributes(&[(Attribute::SerialNumber, &number)]);
            subject.expect("40 hexadecimal digits are a printable text")
        } else {
            super::subject(Name::empty(), &dns_names)
        };
        Ok(X509Grant { id, key, profile, dns_names, subject, ttl })
    }

    /// The ID that the certificate will name.
    #[must_use]
    pub fn id(&self) -> &SpiffeId {
        &self.id
    }

    /// The kind of certificate.
    #[must_use]
    pub fn profile(&self) -> Profile {
        self.profile
    }

    /// How long it is to live, if not as long as usual.
    #[must_use]
    pub fn ttl(&self) -> Option<Duration> {
        self.ttl
    }

    /// Bytes that it holds beside itself, about.
    pub(crate) fn size(&self) -> usize {
        let names: usize = self.dns_names.iter().map(|name| 32 + name.as_str().len()).sum();
        self.id.as_str().len() + names
    }
}

/// Decides on a token for an ID that a front end names. `usual_ttl` is the life of tokens for which no other is
/// asked.
///
/// # Errors
/// As [`frontend_names`]; and [`Refusal::AudienceMissing`] or [`Refusal::AudienceTooLong`].
pub fn frontend_jwt(
    front_end: &FrontEnd,
    trust_domain: &TrustDomain,
    wanted: NamedJwt,
    usual_ttl: Duration,
) -> Result<JwtGrant, Refusal> {
    let ttl = named(front_end, wanted.ttl_seconds, usual_ttl)?;
    let id = workload(front_end, trust_domain, wanted.id)?;
    Ok(JwtGrant { id, audience: audience(wanted.audience)?, ttl })
}

/// Decides on a front end's own SVID, by whose key it is recognised once that is enrolled. A CSR that names an ID
/// must name this one.
///
/// # Errors
/// [`Refusal`] if the CSR is for somebody else.
pub fn frontend_svid(
    name: &FrontEndName,
    trust_domain: &TrustDomain,
    csr: VerifiedCsr,
) -> Result<X509Grant, Refusal> {
    let id = name.id(trust_domain);
    speaks_of(&csr.requested, &id)?;
    Ok(X509Grant {
        id,
        key: csr.key,
        profile: Profile::Server,
        dns_names: Vec::new(),
        subject: Name::empty(),
        ttl: Some(SVID_LIFE),
    })
}

/// Decides whether a front end may publish JWT authorities.
///
/// # Errors
/// [`Refusal::PublishNotGranted`].
pub fn frontend_publish(front_end: &FrontEnd) -> Result<(), Refusal> {
    let granted = front_end.terms().grants().publish;
    if granted { Ok(()) } else { Err(Refusal::PublishNotGranted(front_end.name().clone())) }
}

/// A CA that hangs below ours can issue every ID there is, so its front end has the whole trust domain for a scope
/// ([`Terms::new`](crate::frontend::Terms::new)).
fn downstream(
    front_end: &FrontEnd,
    trust_domain: &TrustDomain,
    wanted: &NamedX509,
) -> Result<SpiffeId, Refusal> {
    if !front_end.terms().grants().downstream {
        return Err(Refusal::DownstreamNotGranted(front_end.name().clone()));
    }
    if wanted.id != trust_domain.id() || !wanted.dns_names.is_empty() {
        return Err(Refusal::DownstreamNames(trust_domain.id()));
    }
    Ok(trust_domain.id())
}

/// Whether it may name IDs at all, and how long what it asks for may live.
fn named(
    front_end: &FrontEnd,
    ttl_seconds: u32,
    usual_ttl: Duration,
) -> Result<Option<Duration>, Refusal> {
    let name = || front_end.name().clone();
    if let Some(since) = front_end.withdrawn_at() {
        return Err(Refusal::Withdrawn { front_end: name(), since });
    }
    if !front_end.terms().grants().named {
        return Err(Refusal::NamedNotGranted(name()));
    }
    let (most, asked) = (front_end.terms().max_ttl(), Duration::from_secs(ttl_seconds.into()));
    match ttl_seconds {
        0 => Ok((usual_ttl > most).then_some(most)),
        _ if asked > most => Err(Refusal::TtlBeyond {
            front_end: name(),
            asked: asked.as_secs(),
            most: most.as_secs(),
        }),
        _ => Ok(Some(asked)),
    }
}

fn workload(
    front_end: &FrontEnd,
    trust_domain: &TrustDomain,
    id: SpiffeId,
) -> Result<SpiffeId, Refusal> {
    let id = WorkloadId::new(id, trust_domain).map_err(Refusal::Id)?;
    if front_end.terms().cover_id(&id) {
        return Ok(id.into_id());
    }
    let id = Excerpt::of(id.id().as_str());
    Err(Refusal::OutsidePathScope { front_end: front_end.name().clone(), id })
}

fn dns_names(front_end: &FrontEnd, texts: &[String]) -> Result<Vec<DnsName>, Refusal> {
    let names = DnsName::list(texts.iter().map(String::as_str)).map_err(Refusal::Dns)?;
    match names.iter().find(|name| !front_end.terms().cover_dns(name)) {
        Some(name) => Err(Refusal::OutsideDnsScope {
            front_end: front_end.name().clone(),
            name: Excerpt::of(name.as_str()),
        }),
        None => Ok(names),
    }
}

/// A CSR proves a key, and its signer's will as far as it names an ID: one that was made for another ID is not to
/// be used for this one. Most name none, or this.
fn speaks_of(requested: &Requested, id: &SpiffeId) -> Result<(), Refusal> {
    match requested.uris.iter().find(|&uri| uri != id.as_str()) {
        Some(uri) => {
            Err(Refusal::CsrOfOther { csr: Excerpt::of(uri), id: Excerpt::of(id.as_str()) })
        }
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests;
