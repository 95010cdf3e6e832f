//! Issuing in the authority's stead: a short-lived key in memory under a CA certificate that the authority's
//! key, which may be slow and far away, signs once in hours.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use crate::authority::CaSubject;
use crate::clock::Timestamp;
use crate::issuer::{IssueError, Issuer};
use crate::key::KeyType;

/// Whose key signs leaves.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum IssuingMode {
    /// The authority's own.
    Direct,
    /// A short-lived one of this process.
    Delegated(DelegationSettings),
}

/// What issuing keys are to be like.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DelegationSettings {
    /// The kind of key.
    pub key_type: KeyType,
    /// The life of its CA certificate; another takes its place after half of that.
    pub life: Duration,
    /// The subject of its CA certificate. The certificate's serial number is added, so that no two share a
    /// name: verifiers that look issuers up by name would try each of them.
    pub subject: CaSubject,
    /// What becomes of a leaf that is to live longer than it.
    pub long_ttl: LongTtl,
}

/// What becomes of a leaf that is to live longer than the certificate of the key that issues.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum LongTtl {
    /// The authority's own key signs it, and it is counted.
    #[default]
    Authority,
    /// It is refused.
    Refuse,
}

/// The issuing key of this process, and its predecessor for as long as something is being signed with it.
#[derive(Debug)]
pub struct Delegation {
    settings: DelegationSettings,
    present: RwLock<Option<Arc<Issuer>>>,
    long: AtomicU64,
}

impl Delegation {
    /// Without a key yet: until it has one, the authority's own signs.
    #[must_use]
    pub fn new(settings: DelegationSettings) -> Self {
        Self { settings, present: RwLock::default(), long: AtomicU64::new(0) }
    }

    /// What issuing keys are to be like.
    #[must_use]
    pub fn settings(&self) -> &DelegationSettings {
        &self.settings
    }

    /// What issues now, if there is a key.
    #[must_use]
    pub fn present(&self) -> Option<Arc<Issuer>> {
        self.present.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// How many leaves the authority's own key has signed because they are to live longer than the certificate
    /// of the issuing key.
    #[must_use]
    pub fn signed_by_authority(&self) -> u64 {
        self.long.load(Ordering::Relaxed)
    }

    /// Whether the next key is due: there is none yet, half of its life is over, or the clock is before it. A life
    /// that the authority's end cut short is halved too.
    #[must_use]
    pub fn is_due(&self, now: Timestamp) -> bool {
        self.present().is_none_or(|issuer| {
            let (first, last) =
                (issuer.certificate().not_before(), issuer.certificate().not_after());
            let life = last.unix().saturating_sub(first.unix());
            now < first || now.unix() >= first.unix() + life / 2
        })
    }

    /// From now on, this issues. What was prepared under the last one is still signed by it; its key is wiped
    /// after that.
    pub(crate) fn adopt(&self, issuer: Issuer) {
        let mut present = self.present.write().unwrap_or_else(PoisonError::into_inner);
        let last = present.replace(Arc::new(issuer));
        drop(present);
        drop(last);
    }

    /// Whether a leaf of that life is likely to be signed by the authority's own key.
    pub(crate) fn is_too_long(
        &self,
        authority: &Issuer,
        ttl: Option<Duration>,
        now: Timestamp,
    ) -> bool {
        let wanted = authority.wanted_end(ttl, now).min(authority.certificate().not_after());
        let present = self.present.read().unwrap_or_else(PoisonError::into_inner);
        present.as_ref().is_none_or(|issuer| wanted > issuer.certificate().not_after())
    }

    /// Whether `present`, this process's key, issues a leaf of that life, and not the authority.
    pub(crate) fn issues(
        &self,
        present: &Issuer,
        authority: &Issuer,
        ttl: Option<Duration>,
        now: Timestamp,
    ) -> Result<bool, IssueError> {
        let (first, last) = (present.certificate().not_before(), present.certificate().not_after());
        // Nothing outlives the authority, so that is not asked of the issuing key.
        let wanted = authority.wanted_end(ttl, now).min(authority.certificate().not_after());
        if first <= now && wanted <= last {
            return Ok(true);
        }
        match (self.settings.long_ttl, present.issuing_key()) {
            // It could not be replaced in time, which is not the caller's fault: preparing fails and says so.
            (LongTtl::Refuse, _) if now < first || now >= last => Ok(true),
            (LongTtl::Refuse, Some(issuing_key)) => Err(IssueError::LongTtl {
                issuing_key: Arc::clone(issuing_key),
                not_after: last,
                wanted,
            }),
            _ => {
                self.long.fetch_add(1, Ordering::Relaxed);
                Ok(false)
            }
        }
    }
}
