//! Whether a front end may have what it asks for: one function, asked for each item. It reads the item;
//! [`policy`] decides by the front end's record.

use bytes::Bytes;
use ca_core::csr::LONGEST_CSR;
use ca_core::id::SpiffeId;
use ca_core::key::{PublicKey, PublicKeyError};
use ca_core::pipeline::Wish;
use ca_core::policy::{self, NameGrant, frontend_jwt, frontend_names};
use ca_core::profile;
use mintmark_proto::signing::v1::{JwtItem, NamedX509, Profile, X509Item, jwt_item, x509_item};
use thiserror::Error;

use super::gate::FrontEndView;

/// One of the things that a message asks for.
#[derive(Debug, Clone)]
pub enum Item {
    /// A certificate.
    X509(X509Item),
    /// A token.
    Jwt(JwtItem),
}

/// Why an item is refused. It is wrong and will stay wrong, as long as what is known of the front end does.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum Refusal {
    /// An X.509 item without a key, or with a form of one that is not known here.
    #[error("the item has no key; give an SPKI or a CSR")]
    KeyMissing,
    /// The key cannot be read, or is not accepted.
    #[error("SPKI: {0}")]
    Key(#[from] PublicKeyError),
    /// A CSR that is longer than any of use.
    #[error("the CSR has {0} bytes; {LONGEST_CSR} are allowed")]
    CsrTooLong(usize),
    /// An item that names nobody, or in a form that is not known here.
    #[error("the item names no subject; give a path")]
    SubjectMissing,
    /// An item that names an entry.
    #[error("there are no registration entries at this signer; name the subject by its path")]
    EntryNotOffered,
    /// A kind of certificate that is not known here.
    #[error("{0} is no kind of certificate that this signer knows")]
    ProfileUnknown(i32),
    /// What policy says no to.
    #[error(transparent)]
    Policy(#[from] policy::Refusal),
}

/// What is to be minted for an item of that front end.
///
/// # Errors
/// Why nothing is.
pub fn authorise(front_end: &FrontEndView, item: Item) -> Result<Wish, Refusal> {
    match item {
        Item::X509(item) => x509(front_end, item),
        Item::Jwt(item) => jwt(front_end, item),
    }
}

fn x509(front_end: &FrontEndView, item: X509Item) -> Result<Wish, Refusal> {
    let names = match item.subject.ok_or(Refusal::SubjectMissing)? {
        x509_item::Subject::Named(named) => names(front_end, named)?,
        x509_item::Subject::Entry(_) => return Err(Refusal::EntryNotOffered),
    };
    match item.key.ok_or(Refusal::KeyMissing)? {
        x509_item::Key::Spki(spki) => Ok(Wish::X509(names.vouched(PublicKey::from_spki(&spki)?)?)),
        x509_item::Key::Csr(csr) if csr.len() > LONGEST_CSR => Err(Refusal::CsrTooLong(csr.len())),
        // In memory of its own: what waits in the queue must not keep the whole message that it came in.
        x509_item::Key::Csr(csr) => Ok(Wish::Proven { csr: Bytes::copy_from_slice(&csr), names }),
    }
}

fn names(front_end: &FrontEndView, named: NamedX509) -> Result<NameGrant, Refusal> {
    let profile = match Profile::try_from(named.profile) {
        Ok(Profile::Unspecified | Profile::Workload) => profile::Profile::Workload,
        Ok(Profile::Agent) => profile::Profile::Agent,
        Ok(Profile::DownstreamCa) => profile::Profile::DownstreamCa,
        Err(_) => return Err(Refusal::ProfileUnknown(named.profile)),
    };
    let wanted = policy::NamedX509 {
        id: id(front_end, &named.path)?,
        dns_names: named.dns_names,
        ttl_seconds: named.ttl_seconds,
        profile,
    };
    let (record, domain) = (&front_end.record, &front_end.trust_domain);
    Ok(frontend_names(record, domain, wanted, front_end.usual.x509)?)
}

fn jwt(front_end: &FrontEndView, item: JwtItem) -> Result<Wish, Refusal> {
    let named = match item.subject.ok_or(Refusal::SubjectMissing)? {
        jwt_item::Subject::Named(named) => named,
        jwt_item::Subject::Entry(_) => return Err(Refusal::EntryNotOffered),
    };
    let wanted = policy::NamedJwt {
        id: id(front_end, &named.path)?,
        audience: item.audience,
        ttl_seconds: named.ttl_seconds,
    };
    let (record, domain) = (&front_end.record, &front_end.trust_domain);
    Ok(Wish::Jwt(frontend_jwt(record, domain, wanted, front_end.usual.jwt)?))
}

fn id(front_end: &FrontEndView, path: &str) -> Result<SpiffeId, policy::Refusal> {
    SpiffeId::from_parts(front_end.trust_domain.name(), path).map_err(policy::Refusal::Id)
}
