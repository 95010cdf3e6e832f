//! Whether a front end may have what it asks for: one function, asked for each item.

use ca_core::key::{PublicKey, PublicKeyError};
use ca_core::pipeline::Wish;
use ca_core::policy::{self, NameGrant};
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
    /// An item that names nobody, or in a form that is not known here.
    #[error("the item names no subject; give a path")]
    SubjectMissing,
    /// An item that names an entry.
    #[error("there are no registration entries at this signer; name the subject by its path")]
    EntryNotOffered,
    /// A kind of certificate that is not known here.
    #[error("{0} is no kind of certificate that this signer knows")]
    ProfileUnknown(i32),
    /// A kind of certificate that this front end may not have.
    #[error("front end {front_end} has no grant for certificates of kind {profile}")]
    ProfileNotGranted {
        /// Who asks.
        front_end: String,
        /// What for.
        profile: &'static str,
    },
    /// What the domain's policy says no to.
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
        x509_item::Subject::Named(named) => names(front_end, &named)?,
        x509_item::Subject::Entry(_) => return Err(Refusal::EntryNotOffered),
    };
    match item.key.ok_or(Refusal::KeyMissing)? {
        x509_item::Key::Spki(spki) => Ok(Wish::X509(names.vouched(PublicKey::from_spki(&spki)?)?)),
        x509_item::Key::Csr(csr) => Ok(Wish::Proven { csr, names }),
    }
}

fn names(front_end: &FrontEndView, named: &NamedX509) -> Result<NameGrant, Refusal> {
    let not_granted = |profile| {
        Err(Refusal::ProfileNotGranted { front_end: front_end.name.to_string(), profile })
    };
    match Profile::try_from(named.profile) {
        Ok(Profile::Unspecified | Profile::Workload) => {}
        Ok(Profile::Agent) => return not_granted("agent"),
        Ok(Profile::DownstreamCa) => return not_granted("downstream-ca"),
        Err(_) => return Err(Refusal::ProfileUnknown(named.profile)),
    }
    let dns_names = named.dns_names.iter().map(String::as_str);
    let domain = &front_end.trust_domain;
    Ok(policy::front_end_names(domain, &named.path, dns_names, named.ttl_seconds)?)
}

fn jwt(front_end: &FrontEndView, item: JwtItem) -> Result<Wish, Refusal> {
    let named = match item.subject.ok_or(Refusal::SubjectMissing)? {
        jwt_item::Subject::Named(named) => named,
        jwt_item::Subject::Entry(_) => return Err(Refusal::EntryNotOffered),
    };
    let (domain, ttl) = (&front_end.trust_domain, named.ttl_seconds);
    Ok(Wish::Jwt(policy::front_end_jwt(domain, &named.path, item.audience, ttl)?))
}
