//! Front ends: processes that attest nodes and workloads, and ask a signer to mint for them.
//!
//! A signer believes a front end as far as its record in the state store goes, and no further. The record names
//! its keys: a front end is accepted by a key that is enrolled under its name and by an SVID for that name, so
//! that a certificate with the right path is nothing by itself. What it may then ask for is decided by
//! [`policy`](crate::policy) on its [`Terms`].
//!
//! [`FrontEnds`] is what a process knows of all of them: read for each connection, followed as it changes.
//! Several instances of a front end share a name, each with a key of its own.

mod budget;
mod enrolment;
mod record;
mod registry;
mod scope;
mod terms;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use thiserror::Error;

pub use self::budget::{Budget, Budgets, OverBudget, Rate, RateError, Rates};
pub use self::enrolment::{
    Certified, Checked, CheckedRenewal, Enrolment, Existing, FrontEndError, Shown,
};
pub use self::registry::FrontEnds;
pub use self::scope::{DnsScope, PathScope, ScopeError};
pub use self::terms::{Grants, KeyKinds, Terms, TermsError, Wanted};
use crate::clock::Timestamp;
use crate::excerpt::Excerpt;
use crate::id::{SpiffeId, TrustDomain};
use crate::serial::Serial;

/// The life of a front end's SVID. It is renewed after half of that.
pub const SVID_LIFE: Duration = Duration::from_secs(7 * 86_400);
/// How long a key that has been replaced may go on with the connections that it has.
pub const HANDOVER: Duration = Duration::from_secs(600);
/// Most keys of one front end whose SVIDs have not ended: one for each instance, a key and the one that it is being
/// replaced by counted once.
pub const MOST_KEYS: usize = 64;
/// Most instances that may be between two keys at once, above that.
pub const MOST_HANDOVERS: usize = 24;
/// Most front ends of a trust domain, withdrawn ones included. Signers hold all of them in memory.
pub const MOST_FRONT_ENDS: usize = 4096;
/// Longest name in bytes.
const LONGEST_NAME: usize = 63;
/// What comes before the name in the path of its SPIFFE ID.
const PATH: &str = "/mintmark/frontend/";

/// The name of a front end: a label of 1 to 63 of `a`–`z`, `0`–`9` and inner hyphens.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FrontEndName(Arc<str>);

impl FrontEndName {
    /// Reads a name.
    ///
    /// # Errors
    /// [`NameError`] for any other text.
    pub fn parse(text: &str) -> Result<Self, NameError> {
        let allowed = |byte: u8| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'-');
        let good = (1..=LONGEST_NAME).contains(&text.len())
            && text.bytes().all(allowed)
            && !text.starts_with('-')
            && !text.ends_with('-');
        if good { Ok(Self(text.into())) } else { Err(NameError(Excerpt::of(text))) }
    }

    /// The name as it is written.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The same, shared.
    #[must_use]
    pub fn shared(&self) -> &Arc<str> {
        &self.0
    }

    /// The SPIFFE ID of its SVIDs: `spiffe://TRUST-DOMAIN/mintmark/frontend/NAME`.
    #[must_use]
    pub fn id(&self, trust_domain: &TrustDomain) -> SpiffeId {
        let path = [PATH, self.as_str()].concat();
        SpiffeId::from_parts(trust_domain.name(), &path).expect("a name is a segment of a path")
    }

    /// Whose name an ID has; `None` if it is not the ID of a front end of that trust domain. That there is such a
    /// front end, and that whoever shows the ID is one, it does not say.
    #[must_use]
    pub fn of_id(id: &SpiffeId, trust_domain: &TrustDomain) -> Option<Self> {
        let name = id.path().strip_prefix(PATH).filter(|_| id.is_member_of(trust_domain))?;
        Self::parse(name).ok()
    }
}

impl fmt::Display for FrontEndName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for FrontEndName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "FrontEndName({self})")
    }
}

/// A text that is no name of a front end.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error(
    "{0} is no name of a front end; use 1 to 63 of a-z, 0-9 and '-', with no '-' at either end"
)]
pub struct NameError(Excerpt);

/// A key by which instances of a front end are recognised.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EnrolledKey {
    /// SHA-256 of its `SubjectPublicKeyInfo`.
    pub fingerprint: [u8; 32],
    /// The serial number of its newest SVID.
    pub serial: Serial,
    /// The last second of that SVID: the key is nobody's after it.
    pub not_after: Timestamp,
    /// When it was first enrolled.
    pub enrolled_at: Timestamp,
    /// The key that asked for it, if it came by a renewal.
    pub renewed_from: Option<[u8; 32]>,
    /// Since when another has its place: what was opened with it may go on until `not_after`, and that is all.
    pub replaced_at: Option<Timestamp>,
}

/// A front end, as its record says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FrontEnd {
    name: FrontEndName,
    terms: Terms,
    keys: Vec<EnrolledKey>,
    enrolled_at: Timestamp,
    withdrawn_at: Option<Timestamp>,
    revision: u64,
    /// Fields of a later release, which are written back as they were read.
    later: record::Later,
}

impl FrontEnd {
    /// Its name.
    #[must_use]
    pub fn name(&self) -> &FrontEndName {
        &self.name
    }

    /// What it may ask for.
    #[must_use]
    pub fn terms(&self) -> &Terms {
        &self.terms
    }

    /// Its keys, in the order in which they were enrolled. Some may have ended. Those of a front end that is
    /// withdrawn open nothing.
    #[must_use]
    pub fn keys(&self) -> &[EnrolledKey] {
        &self.keys
    }

    /// When its present enrolment began.
    #[must_use]
    pub fn enrolled_at(&self) -> Timestamp {
        self.enrolled_at
    }

    /// Since when it is withdrawn, if it is.
    #[must_use]
    pub fn withdrawn_at(&self) -> Option<Timestamp> {
        self.withdrawn_at
    }

    /// Counts its changes, from 1.
    #[must_use]
    pub fn revision(&self) -> u64 {
        self.revision
    }

    /// Whether whoever has shown an SVID for this name, and that it holds the key of that fingerprint (SHA-256 of its
    /// `SubjectPublicKeyInfo`), is this front end. The SVID is verified elsewhere; this is the other half.
    ///
    /// # Errors
    /// [`NotAdmitted`] says why not.
    pub fn admit(&self, key: &[u8; 32], now: Timestamp) -> Result<&EnrolledKey, NotAdmitted> {
        let known = self.keep(key, now)?;
        match known.replaced_at {
            Some(at) => Err(NotAdmitted::Replaced { name: self.name.clone(), at }),
            None => Ok(known),
        }
    }

    /// Whether a peer that was admitted by that key may go on: as [`admit`](Self::admit), but also for a while after
    /// the key was replaced, so that what is under way can be ended.
    ///
    /// # Errors
    /// [`NotAdmitted`] says why not.
    pub fn keep(&self, key: &[u8; 32], now: Timestamp) -> Result<&EnrolledKey, NotAdmitted> {
        let name = || self.name.clone();
        if let Some(since) = self.withdrawn_at {
            return Err(NotAdmitted::Withdrawn { name: name(), since });
        }
        let known = self.key(key).ok_or_else(|| NotAdmitted::UnknownKey { name: name() })?;
        match known.replaced_at {
            _ if now <= known.not_after => Ok(known),
            Some(at) => Err(NotAdmitted::Replaced { name: name(), at }),
            None => Err(NotAdmitted::KeyEnded { name: name(), not_after: known.not_after }),
        }
    }

    fn key(&self, fingerprint: &[u8; 32]) -> Option<&EnrolledKey> {
        self.keys.iter().find(|known| known.fingerprint == *fingerprint)
    }
}

/// Why a peer is not the front end that it says it is.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum NotAdmitted {
    /// The front end is withdrawn.
    #[error(
        "front end {name} was withdrawn at {since}; enrol it again with `mintmark frontend enroll --again`"
    )]
    Withdrawn {
        /// The front end.
        name: FrontEndName,
        /// Since when.
        since: Timestamp,
    },
    /// The key is not one of its keys, whatever its certificate says.
    #[error(
        "the key is not enrolled for front end {name}; enrol it with `mintmark frontend enroll`"
    )]
    UnknownKey {
        /// The front end.
        name: FrontEndName,
    },
    /// The key was not renewed in time.
    #[error(
        "the enrolment of this key of front end {name} ended at {not_after}; enrol a key with `mintmark \
         frontend enroll`"
    )]
    KeyEnded {
        /// The front end.
        name: FrontEndName,
        /// Its last second.
        not_after: Timestamp,
    },
    /// The key was renewed, and the new one is in use.
    #[error(
        "this key of front end {name} was replaced at {at} by the one that it asked for; connect with that, and if no \
         instance has it, somebody else does: withdraw the front end"
    )]
    Replaced {
        /// The front end.
        name: FrontEndName,
        /// When the new key was first seen.
        at: Timestamp,
    },
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_name_is_a_short_label_in_lower_case() {
        for text in ["a", "0", "edge-1", "a--b", &"a".repeat(63)] {
            assert_eq!(FrontEndName::parse(text).unwrap().as_str(), text);
        }
        for text in [
            "",
            "-a",
            "a-",
            "-",
            "A",
            "a.b",
            "a/b",
            "a_b",
            "a b",
            "..",
            "é",
            "a\n",
            &"a".repeat(64),
        ] {
            let error = FrontEndName::parse(text).unwrap_err().to_string();
            assert!(error.contains("no name of a front end; use 1 to 63"), "{error}");
        }
    }

    #[test]
    fn a_name_and_its_id_tell_each_other() {
        let domain = TrustDomain::parse("example.org").unwrap();
        let name = FrontEndName::parse("edge-1").unwrap();
        let id = name.id(&domain);
        assert_eq!(id.as_str(), "spiffe://example.org/mintmark/frontend/edge-1");
        assert_eq!(FrontEndName::of_id(&id, &domain), Some(name));
        for other in [
            "spiffe://other.org/mintmark/frontend/edge-1",
            "spiffe://example.org/mintmark/frontend/edge-1/x",
            "spiffe://example.org/mintmark/frontend/Edge-1",
            "spiffe://example.org/mintmark/frontend",
            "spiffe://example.org/mintmark/frontends/edge-1",
            "spiffe://example.org/x/mintmark/frontend/edge-1",
            "spiffe://example.org/mintmark/signer",
            "spiffe://example.org",
        ] {
            let id = SpiffeId::parse(other).unwrap();
            assert_eq!(FrontEndName::of_id(&id, &domain), None, "{other}");
        }
    }

    proptest! {
        #[test]
        fn what_is_a_name_is_a_segment_of_a_path(text in "\\PC{0,70}") {
            if let Ok(name) = FrontEndName::parse(&text) {
                let domain = TrustDomain::parse("td").unwrap();
                prop_assert_eq!(FrontEndName::of_id(&name.id(&domain), &domain), Some(name));
            }
        }
    }
}
