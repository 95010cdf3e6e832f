//! What our own record says of each key: whose it is, whether it is retired, and when nothing needs it any
//! more.
//!
//! A key store knows which keys there are; only this knows what they are for. Nothing is destroyed on the
//! word of a key store, its time stamps or its tags.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::time::Duration;

use super::record::{self, AuthorityRecord, FORMAT, RetirementRecord, SlotRecord};
use super::{
    Authorities, AuthorityError, AuthorityKind, parse_key_name, put, read, retirement_key,
};
use crate::bundle;
use crate::certificate::CaCertificate;
use crate::clock::Timestamp;
use crate::key::{ExpiredKey, KeyError, KeyName, KeyStore, PublicKey};
use crate::log::identity as log;
use crate::store::key::{self, TrustDomainNumber};
use crate::store::{
    Check, Commit, CommitOutcome, Consistency, Entry, KeyRange, Page, StateStore, StoreError,
    Version, record as envelope,
};

/// How long a key is kept after the end of the last certificate that it may have signed: as long as the bundle
/// keeps its authority.
const KEPT: Duration = bundle::KEPT;

/// What the record says of a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Standing {
    /// An authority signs with it.
    Active {
        /// Which: its id.
        authority: String,
    },
    /// It signs the heads of an issuance log.
    OfLog,
    /// An authority is being made with it.
    Pending,
    /// Its authority has been followed by another one.
    Old {
        /// Which: its id.
        authority: String,
        /// The end of the authority, and so of everything that it signed.
        certificates_end: Timestamp,
    },
    /// It was retired by a person.
    Retired {
        /// Since when.
        retired_at: Timestamp,
        /// Whatever it signed has ended by then.
        certificates_end: Timestamp,
    },
    /// Nothing has used it, and its turn is yet to come.
    Prepared,
    /// The record does not know it: it is of a state that was lost, or another key that bears a known name.
    Unknown,
}

impl Standing {
    /// The name for programs.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::Active { .. } => "active",
            Self::OfLog => "log",
            Self::Pending => "pending",
            Self::Old { .. } => "old",
            Self::Retired { .. } => "retired",
            Self::Prepared => "prepared",
            Self::Unknown => "unknown",
        }
    }
}

impl fmt::Display for Standing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// The record of all keys, as of one moment.
#[derive(Debug, Clone)]
pub struct Ledger {
    generations: BTreeMap<AuthorityKind, u64>,
    known: BTreeMap<KeyName, KnownKey>,
}

/// What is recorded under a name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KnownKey {
    /// What it is for.
    pub standing: Standing,
    /// Its public half, where that is recorded. Without it every key of the name is taken for this one.
    pub public_key: Option<PublicKey>,
}

impl Ledger {
    /// Reads the record.
    ///
    /// # Errors
    /// [`AuthorityError::Store`], or [`AuthorityError::Record`] if it makes no sense.
    pub async fn read(store: &dyn StateStore) -> Result<Self, AuthorityError> {
        let mut slots = BTreeMap::new();
        for kind in AuthorityKind::ALL {
            if let Some((slot, _)) = read::<SlotRecord>(store, kind.slot()).await? {
                slots.insert(kind, slot);
            }
        }
        let generations = slots.iter().map(|(kind, slot)| (*kind, slot.generation)).collect();
        let mut ledger = Self { generations, known: BTreeMap::new() };
        let active: BTreeSet<&str> =
            slots.values().filter_map(|slot| slot.active.as_deref()).collect();
        for entry in scan(store, &key::authorities(TrustDomainNumber::OWN)).await? {
            ledger.add_authority(&entry, &active)?;
        }
        for entry in scan(store, &key::retirements(TrustDomainNumber::OWN)).await? {
            ledger.add_retirement(&entry)?;
        }
        for entry in scan(store, &key::issuance_logs(TrustDomainNumber::OWN)).await? {
            let (name, public_key) =
                log::key_of(&entry).map_err(|error| AuthorityError::Record {
                    what: "key of an issuance log".to_owned(),
                    reason: error.to_string(),
                })?;
            let known = KnownKey { standing: Standing::OfLog, public_key: Some(public_key) };
            ledger.known.insert(name, known);
        }
        for slot in slots.values() {
            if let Some(pending) = &slot.pending {
                let pending_key = KnownKey { standing: Standing::Pending, public_key: None };
                ledger.known.insert(parse_key_name(pending)?, pending_key);
            }
        }
        Ok(ledger)
    }

    /// What another process has read: the last generation that an authority of each kind has taken, and what
    /// is recorded under each name.
    #[must_use]
    pub fn of_parts(
        generations: BTreeMap<AuthorityKind, u64>,
        known: BTreeMap<KeyName, KnownKey>,
    ) -> Self {
        Self { generations, known }
    }

    /// What is recorded, by name.
    #[must_use]
    pub fn known(&self) -> &BTreeMap<KeyName, KnownKey> {
        &self.known
    }

    /// Has the keys of these authorities be active, whatever the record says: this process signs with them.
    pub fn mark_in_use(&mut self, authorities: &Authorities) {
        let x509 = (&authorities.x509_key, authorities.x509.authority().to_string());
        let jwt = (&authorities.jwt_key, authorities.jwt.kid().to_string());
        for (name, authority) in [x509, jwt] {
            let is_active = |known: &KnownKey| matches!(known.standing, Standing::Active { .. });
            if !self.known.get(name).is_some_and(is_active) {
                let standing = Standing::Active { authority };
                self.known.insert(name.clone(), KnownKey { standing, public_key: None });
            }
        }
    }

    /// What the record says of the key of this name, whose public half is `public_key` if that is known.
    #[must_use]
    pub fn standing(&self, name: &KeyName, public_key: Option<&PublicKey>) -> Standing {
        if let Some(known) = self.known.get(name) {
            let is_other = |found| known.public_key.as_ref().is_some_and(|known| known != found);
            if public_key.is_some_and(is_other) {
                return Standing::Unknown;
            }
            return known.standing.clone();
        }
        let kind = AuthorityKind::ALL.into_iter().find(|kind| kind.key_part() == name.authority());
        match (kind, generation(name)) {
            (Some(kind), Some(generation)) if generation > self.generation(kind) => {
                Standing::Prepared
            }
            _ => Standing::Unknown,
        }
    }

    /// The last generation that an authority of this kind has taken; 0 before the first.
    #[must_use]
    pub fn generation(&self, kind: AuthorityKind) -> u64 {
        self.generations.get(&kind).copied().unwrap_or(0)
    }

    /// The last generation of this kind that the record speaks of, retired keys included.
    #[must_use]
    pub fn last_generation(&self, kind: AuthorityKind) -> u64 {
        let of_kind = self.known.keys().filter(|name| name.authority() == kind.key_part());
        of_kind.filter_map(generation).max().unwrap_or(0).max(self.generation(kind))
    }

    fn add_authority(
        &mut self,
        entry: &Entry,
        active: &BTreeSet<&str>,
    ) -> Result<(), AuthorityError> {
        let record: AuthorityRecord = envelope::decode(FORMAT, entry)?;
        let name = parse_key_name(&record.key)?;
        let what = format!("authority of key {name}");
        let corrupt = |reason: String| AuthorityError::Record { what: what.clone(), reason };
        let public_key = PublicKey::from_spki(&record::bytes(&record.public_key, &what)?)
            .map_err(|error| corrupt(error.to_string()))?;
        let authority = match &record.certificate {
            Some(text) => CaCertificate::from_der(&record::bytes(text, &what)?)
                .map_err(|error| corrupt(error.to_string()))?
                .key_id()
                .to_string(),
            None => bundle::thumbprint(&public_key),
        };
        // What is not said to be old may be in use.
        let standing = if record.state == "old" && !active.contains(authority.as_str()) {
            let certificates_end = Timestamp::from_unix(record.not_after);
            Standing::Old { authority, certificates_end }
        } else {
            Standing::Active { authority }
        };
        self.known.insert(name, KnownKey { standing, public_key: Some(public_key) });
        Ok(())
    }

    fn add_retirement(&mut self, entry: &Entry) -> Result<(), AuthorityError> {
        let (name, record) = retirement(entry)?;
        let what = format!("retirement of key {name}");
        let public_key = match &record.public_key {
            Some(text) => Some(
                PublicKey::from_spki(&record::bytes(text, &what)?)
                    .map_err(|error| AuthorityError::Record { what, reason: error.to_string() })?,
            ),
            None => None,
        };
        let standing = Standing::Retired {
            retired_at: Timestamp::from_unix(record.retired_at),
            certificates_end: Timestamp::from_unix(record.certificates_end),
        };
        self.known.insert(name, KnownKey { standing, public_key });
        Ok(())
    }
}

/// A key and what may be done with it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyVerdict {
    /// Its name.
    pub name: KeyName,
    /// What the record says of it.
    pub standing: Standing,
    /// Whether it may be destroyed.
    pub verdict: Verdict,
}

/// Whether a key may be destroyed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// Nothing needs it.
    Destroyable(ExpiredKey),
    /// It stays.
    Kept {
        /// Why, and what to do.
        reason: String,
        /// When it may be destroyed, where nothing but time has to pass.
        until: Option<Timestamp>,
    },
}

/// Says of every key in the key store whether it may be destroyed: it is retired, by hand or because its
/// authority was followed by another, and everything that it may have signed ended a day ago.
///
/// # Errors
/// What reading the key store gives, unless it is about one key, which is then kept.
pub async fn expired_keys(
    ledger: &Ledger,
    keys: &dyn KeyStore,
    now: Timestamp,
) -> Result<Vec<KeyVerdict>, KeyError> {
    let mut verdicts = Vec::new();
    for name in keys.list().await? {
        let verdict = match keys.describe(&name).await {
            Ok(Some(key)) => ledger.judge(name, &key.public_key, now),
            // Deleted in between.
            Ok(None) => continue,
            Err(error) if error.is_of_one_key() => {
                let standing = ledger.standing(&name, None);
                let reason = format!("{error}; destroy it with the tools of its store");
                KeyVerdict { name, standing, verdict: Verdict::Kept { reason, until: None } }
            }
            Err(error) => return Err(error),
        };
        verdicts.push(verdict);
    }
    Ok(verdicts)
}

impl Ledger {
    fn judge(&self, name: KeyName, public_key: &PublicKey, now: Timestamp) -> KeyVerdict {
        let standing = self.standing(&name, Some(public_key));
        let kept = |reason: String| Verdict::Kept { reason, until: None };
        let verdict = match &standing {
            Standing::Active { authority } => {
                kept(format!("the active authority {authority} signs with it"))
            }
            Standing::OfLog => {
                kept("the heads of an issuance log are signed and verified with it".to_owned())
            }
            Standing::Pending => kept("an authority is being made with it".to_owned()),
            Standing::Old { certificates_end: end, .. }
            | Standing::Retired { certificates_end: end, .. } => {
                let until = end.plus(KEPT);
                if now > until {
                    Verdict::Destroyable(ExpiredKey::new(name.clone()))
                } else {
                    let reason = format!(
                        "certificates that it signed may live until {end}; it may be destroyed after {until}"
                    );
                    Verdict::Kept { reason, until: Some(until) }
                }
            }
            Standing::Prepared => {
                kept("it is prepared for an authority to come; retire it first".to_owned())
            }
            Standing::Unknown if self.known.contains_key(&name) => {
                kept("our record knows another key of that name; this one is not ours".to_owned())
            }
            Standing::Unknown => kept("our record does not know it; retire it first".to_owned()),
        };
        KeyVerdict { name, standing, verdict }
    }
}

/// A key that a person wants to sign no more, as its key store tells of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Retirement {
    /// Which.
    pub key: KeyName,
    /// Its public half, unless the store refuses the key: it may be retired just because of that.
    pub public_key: Option<PublicKey>,
}

impl Retirement {
    /// Of a key that is in the key store.
    ///
    /// # Errors
    /// [`KeyError::NotFound`] if it is not, and what else the key store says but of this key alone.
    pub async fn of(keys: &dyn KeyStore, name: &KeyName) -> Result<Self, KeyError> {
        if !keys.list().await?.contains(name) {
            return Err(KeyError::NotFound(name.clone()));
        }
        let public_key = match keys.describe(name).await {
            Ok(described) => described.map(|key| key.public_key),
            Err(error) if error.is_of_one_key() => None,
            Err(error) => return Err(error),
        };
        Ok(Self { key: name.clone(), public_key })
    }

    /// Records that the key signs no more, for good, and has it sign no more if it is in `keys`, the key store
    /// of this process. `signing` is what this process signs with, if it does. Gives the end of everything
    /// that the key may have signed: that of its authority if it had one, else the life of an authority
    /// (`ca_ttl`) from now on. A key that is retired already stays as it is.
    ///
    /// # Errors
    /// [`AuthorityError::KeyInUse`] if an authority signs with it or is being made with it, or what the stores
    /// say.
    pub async fn carry_out(
        &self,
        store: &dyn StateStore,
        keys: &dyn KeyStore,
        signing: Option<&Authorities>,
        ca_ttl: Duration,
        now: Timestamp,
    ) -> Result<Timestamp, AuthorityError> {
        // Nothing that is read from here on is older.
        let at = store.get(&[], Consistency::Strong).await?.at.version;
        let mut ledger = Ledger::read(store).await?;
        if let Some(authorities) = signing {
            ledger.mark_in_use(authorities);
        }
        let certificates_end = match ledger.standing(&self.key, self.public_key.as_ref()) {
            Standing::Retired { certificates_end, .. } => certificates_end,
            standing => {
                let end = self.end(&ledger, standing, now.plus(ca_ttl))?;
                self.record(store, at, end, now).await?;
                end
            }
        };
        self.stop(keys).await?;
        Ok(certificates_end)
    }

    /// When whatever it signed has ended, unless it may not be retired. `latest` is the end of what a key
    /// without an authority may have signed.
    fn end(
        &self,
        ledger: &Ledger,
        standing: Standing,
        latest: Timestamp,
    ) -> Result<Timestamp, AuthorityError> {
        let reason = match standing {
            Standing::Old { certificates_end, .. } | Standing::Retired { certificates_end, .. } => {
                return Ok(certificates_end);
            }
            Standing::Active { authority } => format!(
                "the active authority {authority} signs with it; it may be retired once another authority \
                 has followed"
            ),
            Standing::OfLog => {
                "the heads of an issuance log are signed and verified with it".to_owned()
            }
            Standing::Pending => {
                "an authority is being made with it; start the server to complete that".to_owned()
            }
            Standing::Unknown if ledger.known.contains_key(&self.key) => {
                "our record knows another key of that name, so that it cannot tell them apart; is this the \
                 key store that [issuing] keys names?"
                    .to_owned()
            }
            Standing::Prepared | Standing::Unknown => return Ok(latest),
        };
        Err(AuthorityError::KeyInUse { key: self.key.clone(), reason })
    }

    /// Writes it, if nothing has changed since the record was read.
    async fn record(
        &self,
        store: &dyn StateStore,
        at: Version,
        certificates_end: Timestamp,
        now: Timestamp,
    ) -> Result<(), AuthorityError> {
        let record = RetirementRecord {
            key: self.key.to_string(),
            public_key: self.public_key.as_ref().map(|key| record::text(key.spki())),
            retired_at: now.unix(),
            certificates_end: certificates_end.unix(),
        };
        let key = retirement_key(&self.key)?;
        let unchanged = |range| Check::RangeUnchanged(range, at);
        let checks = vec![
            unchanged(KeyRange::one(&AuthorityKind::X509.slot())),
            unchanged(KeyRange::one(&AuthorityKind::Jwt.slot())),
            unchanged(key::authorities(TrustDomainNumber::OWN)),
            unchanged(KeyRange::one(&key)),
        ];
        match store.commit(Commit::new(checks, vec![put(key, &record)])?).await? {
            CommitOutcome::Done(_) => Ok(()),
            CommitOutcome::Conflict { .. } => Err(AuthorityError::Contended("key")),
        }
    }

    /// Has the key sign no more in this process, if it is this very one. What its store refuses signs nothing
    /// either.
    async fn stop(&self, keys: &dyn KeyStore) -> Result<(), KeyError> {
        let retired = match keys.describe(&self.key).await {
            Ok(Some(key)) if self.public_key.as_ref() == Some(&key.public_key) => {
                keys.retire(&self.key).await
            }
            Ok(_) => return Ok(()),
            Err(error) => Err(error),
        };
        match retired {
            Err(error) if !error.is_of_one_key() => Err(error),
            _ => Ok(()),
        }
    }
}

/// The names of all keys that were retired by hand.
pub(super) async fn retired(store: &dyn StateStore) -> Result<BTreeSet<KeyName>, AuthorityError> {
    let entries = scan(store, &key::retirements(TrustDomainNumber::OWN)).await?;
    entries.iter().map(|entry| retirement(entry).map(|(name, _)| name)).collect()
}

/// Those of `names` that are keys of later generations than `recorded`, lowest first.
pub(super) fn later_keys(
    kind: AuthorityKind,
    recorded: u64,
    names: Vec<KeyName>,
) -> Vec<(u64, KeyName)> {
    let of_kind = names.into_iter().filter(|name| name.authority() == kind.key_part());
    let mut later: Vec<(u64, KeyName)> = of_kind
        .filter_map(|name| generation(&name).map(|generation| (generation, name)))
        .filter(|(generation, _)| *generation > recorded)
        .collect();
    later.sort_unstable();
    later
}

/// The number of a key, unless it is written as we never write it.
fn generation(name: &KeyName) -> Option<u64> {
    let number: u64 = name.generation().parse().ok()?;
    (number.to_string() == name.generation()).then_some(number)
}

fn retirement(entry: &Entry) -> Result<(KeyName, RetirementRecord), AuthorityError> {
    let record: RetirementRecord = envelope::decode(FORMAT, entry)?;
    Ok((parse_key_name(&record.key)?, record))
}

/// Every entry of a range, page by page.
async fn scan(store: &dyn StateStore, range: &KeyRange) -> Result<Vec<Entry>, StoreError> {
    let mut entries: Vec<Entry> = Vec::new();
    loop {
        let after = entries.last().map(|entry| entry.key.clone());
        let page = store.scan(range, after.as_ref(), Page::ENTRIES, Consistency::Strong).await?;
        entries.extend(page.entries);
        if !page.more {
            return Ok(entries);
        }
    }
}
