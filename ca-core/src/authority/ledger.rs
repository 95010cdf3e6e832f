//! What our own record says of each key: whose it is, whether it is retired, and when nothing needs it any
//! more.
//!
//! A key store knows which keys there are; only this knows what they are for. Nothing is destroyed on the
//! word of a key store, its time stamps or its tags.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::time::Duration;

use super::record::{self, AuthorityRecord, FORMAT, RetirementRecord, SlotRecord};
use super::{AuthorityError, AuthorityKind, parse_key_name, put, read, retirement_key};
use crate::bundle;
use crate::certificate::CaCertificate;
use crate::clock::Timestamp;
use crate::key::{ExpiredKey, KeyError, KeyName, KeyStore, PublicKey};
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
    /// Nothing that was read is older.
    at: Version,
    slots: BTreeMap<AuthorityKind, SlotRecord>,
    known: BTreeMap<KeyName, Known>,
}

/// What is recorded under a name.
#[derive(Debug, Clone)]
struct Known {
    standing: Standing,
    public_key: Option<PublicKey>,
}

impl Ledger {
    /// Reads the record.
    ///
    /// # Errors
    /// [`AuthorityError::Store`], or [`AuthorityError::Record`] if it makes no sense.
    pub async fn read(store: &dyn StateStore) -> Result<Self, AuthorityError> {
        let at = store.get(&[], Consistency::Strong).await?.at.version;
        let mut slots = BTreeMap::new();
        for kind in AuthorityKind::ALL {
            if let Some((slot, _)) = read::<SlotRecord>(store, kind.slot()).await? {
                slots.insert(kind, slot);
            }
        }
        let mut ledger = Self { at, slots, known: BTreeMap::new() };
        for entry in scan(store, &key::authorities(TrustDomainNumber::OWN)).await? {
            ledger.add_authority(&entry)?;
        }
        for entry in scan(store, &key::retirements(TrustDomainNumber::OWN)).await? {
            ledger.add_retirement(&entry)?;
        }
        for slot in ledger.slots.values() {
            if let Some(pending) = &slot.pending {
                let pending_key = Known { standing: Standing::Pending, public_key: None };
                ledger.known.insert(parse_key_name(pending)?, pending_key);
            }
        }
        Ok(ledger)
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
        self.slots.get(&kind).map_or(0, |slot| slot.generation)
    }

    /// The last generation of this kind that the record speaks of, retired keys included.
    #[must_use]
    pub fn last_generation(&self, kind: AuthorityKind) -> u64 {
        let of_kind = self.known.keys().filter(|name| name.authority() == kind.key_part());
        of_kind.filter_map(generation).max().unwrap_or(0).max(self.generation(kind))
    }

    fn add_authority(&mut self, entry: &Entry) -> Result<(), AuthorityError> {
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
        let is_active = self.slots.values().any(|slot| slot.active.as_ref() == Some(&authority));
        // What is not said to be old may be in use.
        let standing = if record.state == "old" && !is_active {
            let certificates_end = Timestamp::from_unix(record.not_after);
            Standing::Old { authority, certificates_end }
        } else {
            Standing::Active { authority }
        };
        self.known.insert(name, Known { standing, public_key: Some(public_key) });
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
        self.known.insert(name, Known { standing, public_key });
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
/// What reading the record or the key store gives, unless it is about one key, which is then kept.
pub async fn expired_keys(
    store: &dyn StateStore,
    keys: &dyn KeyStore,
    now: Timestamp,
) -> Result<Vec<KeyVerdict>, AuthorityError> {
    let ledger = Ledger::read(store).await?;
    let mut verdicts = Vec::new();
    for name in keys.list().await? {
        let verdict = match keys.describe(&name).await {
            Ok(Some(key)) => ledger.judge(name, &key.public_key, now),
            // Deleted in between, or retired in this process.
            Ok(None) => continue,
            Err(error) if error.is_of_one_key() => {
                let standing = ledger.standing(&name, None);
                let reason = format!("{error}; destroy it with the tools of its store");
                KeyVerdict { name, standing, verdict: Verdict::Kept { reason, until: None } }
            }
            Err(error) => return Err(error.into()),
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

/// Records that a key signs no more, for good, and has its store let it sign no more. Gives the end of
/// everything that it may have signed: that of its authority if it had one, else the life of an authority
/// (`ca_ttl`) from now on. A key that is retired already stays as it is.
///
/// # Errors
/// [`AuthorityError::KeyInUse`] if an authority signs with it or is being made with it,
/// [`KeyError::NotFound`] if the key store has no key of the name.
pub async fn retire_key(
    store: &dyn StateStore,
    keys: &dyn KeyStore,
    name: &KeyName,
    ca_ttl: Duration,
    now: Timestamp,
) -> Result<Timestamp, AuthorityError> {
    if !keys.list().await?.contains(name) {
        return Err(KeyError::NotFound(name.clone()).into());
    }
    let public_key = match keys.describe(name).await {
        Ok(described) => described.map(|key| key.public_key),
        // It may be retired just because it is not as it should be.
        Err(error) if error.is_of_one_key() => None,
        Err(error) => return Err(error.into()),
    };
    let ledger = Ledger::read(store).await?;
    let in_use = |reason| AuthorityError::KeyInUse { key: name.clone(), reason };
    let certificates_end = match ledger.standing(name, public_key.as_ref()) {
        Standing::Active { authority } => {
            let reason = format!(
                "the active authority {authority} signs with it; it may be retired once another \
                 authority has followed"
            );
            return Err(in_use(reason));
        }
        Standing::Pending => {
            let reason = "an authority is being made with it; start the server to complete that";
            return Err(in_use(reason.to_owned()));
        }
        Standing::Unknown if ledger.known.contains_key(name) => {
            let reason = "our record knows another key of that name, so that it cannot tell them \
                          apart; is this the key store that [issuing] keys names?";
            return Err(in_use(reason.to_owned()));
        }
        Standing::Retired { certificates_end, .. } => certificates_end,
        Standing::Old { certificates_end, .. } => {
            ledger.record(store, name, public_key, certificates_end, now).await?;
            certificates_end
        }
        Standing::Prepared | Standing::Unknown => {
            let certificates_end = now.plus(ca_ttl);
            ledger.record(store, name, public_key, certificates_end, now).await?;
            certificates_end
        }
    };
    match keys.retire(name).await {
        // What is refused by its store signs nothing either.
        Err(error) if !error.is_of_one_key() => Err(error.into()),
        _ => Ok(certificates_end),
    }
}

impl Ledger {
    /// Writes a retirement, if nothing has changed since the record was read.
    async fn record(
        &self,
        store: &dyn StateStore,
        name: &KeyName,
        public_key: Option<PublicKey>,
        certificates_end: Timestamp,
        now: Timestamp,
    ) -> Result<(), AuthorityError> {
        let record = RetirementRecord {
            key: name.to_string(),
            public_key: public_key.map(|key| record::text(key.spki())),
            retired_at: now.unix(),
            certificates_end: certificates_end.unix(),
        };
        let key = retirement_key(name)?;
        let unchanged = |range| Check::RangeUnchanged(range, self.at);
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
