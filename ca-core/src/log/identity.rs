//! Whose log it is: its name, the key that signs its heads, the number of each run, and the newest head, kept
//! in the state store. What the log's own directory says of itself can be changed with it; this cannot.

use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::WriterId;
use super::tree::{Checkpoint, CheckpointError, Head, LogKey, LogKeyError, Origin, TextError};
use crate::authority::KeyCreation;
use crate::id::TrustDomain;
use crate::key::{KeyError, KeyName, KeyStore, KeyType, PublicKey, SigningKey};
use crate::store::key::{TrustDomainNumber, issuance_log};
use crate::store::{
    Check, Commit, CommitOutcome, Consistency, Entry, Op, StateStore, StoreError, Version,
    record as envelope,
};

const FORMAT: u8 = 1;
/// Commits that are tried again because another process was faster.
const MOST_TRIES: usize = 16;
/// The part of a key's name that says what it is for.
pub const KEY_PART: &str = "log";

/// The log of a signer, as this run of it writes it.
#[derive(Debug)]
pub struct Identity {
    /// By what its heads are verified; its name is the log's.
    pub key: LogKey,
    /// What signs them.
    pub signing: Arc<dyn SigningKey>,
    /// This run.
    pub writer: WriterId,
    /// The newest head that was signed, and recorded.
    pub newest: Option<Checkpoint>,
}

/// What the state store knows of a log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Known {
    /// By what its heads are verified.
    pub key: LogKey,
    /// The name of that key in its key store.
    pub key_name: KeyName,
    /// The newest head that was signed.
    pub newest: Option<Checkpoint>,
}

/// Why the log of a signer cannot be had.
#[derive(Debug, Error)]
pub enum IdentityError {
    /// The state store.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The key store.
    #[error("key of the issuance log: {0}")]
    Key(#[from] KeyError),
    /// The key is of a kind that signs no heads.
    #[error("key of the issuance log: {0}")]
    Kind(#[from] LogKeyError),
    /// Keys are made by an administrator, and this one is not there.
    #[error(
        "the issuance log needs the key {0}, and keys are not made by the server (create = \"never\"); make it \
         with `mintmark key create --authority log`"
    )]
    NoKey(KeyName),
    /// The key that has signed the log so far is not there.
    #[error(
        "key {0}, which has signed the heads of the issuance log, is not in its key store; give it back, or begin a \
         new log with another [log] name and dir"
    )]
    KeyLost(KeyName),
    /// The key is not the one that the log was begun with.
    #[error(
        "key {name} is another than the one that has signed the issuance log so far ({known}); give it back, or \
         begin a new log with another [log] name and dir"
    )]
    OtherKey {
        /// Its name.
        name: KeyName,
        /// The verifier key on record.
        known: String,
    },
    /// What is recorded makes no sense.
    #[error("record of the issuance log: {0}; restore a backup of the store")]
    Record(String),
    /// There are no numbers left for runs.
    #[error(
        "the issuance log has had all the runs it can have; begin a new one with another [log] name"
    )]
    NoWriter,
    /// Other processes write the record all the time.
    #[error("the record of the issuance log is being changed by other processes; try again")]
    Contended,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
struct Record {
    /// The name of the key that signs heads.
    key: String,
    /// Its `SubjectPublicKeyInfo` in base64.
    public_key: String,
    /// The number of the last run.
    writer: u32,
    /// The newest signed head, as C2SP tlog-checkpoint has it.
    #[serde(default)]
    checkpoint: Option<String>,
}

/// The name of the log of the signer `name` of a trust domain.
///
/// # Errors
/// [`TextError`] if it cannot stand in a checkpoint.
pub fn origin(trust_domain: &TrustDomain, name: &str) -> Result<Origin, TextError> {
    Origin::parse(&format!("{}/mintmark/{name}", trust_domain.name()))
}

/// Begins a run of a log: finds its key, or makes it for a log that is new, and takes a number.
///
/// # Errors
/// [`IdentityError`].
pub async fn begin(
    origin: &Origin,
    trust_domain: &TrustDomain,
    creation: KeyCreation,
    store: &dyn StateStore,
    keys: &dyn KeyStore,
) -> Result<Identity, IdentityError> {
    let recorded = read(origin, store).await?;
    let name = match &recorded {
        Some((record, _)) => parse_name(&record.key)?,
        None => parse_name(&format!("mintmark/{}/{KEY_PART}/1", trust_domain.name()))?,
    };
    let signing = match keys.find(&name).await? {
        Some(key) => key,
        None if recorded.is_some() => return Err(IdentityError::KeyLost(name)),
        None if creation == KeyCreation::Never => return Err(IdentityError::NoKey(name)),
        None => keys.create(&name, KeyType::EcP256).await?,
    };
    let key = LogKey::new(origin.clone(), signing.public_key().clone())?;
    if let Some((record, _)) = &recorded {
        let known = record.log_key(origin)?;
        if known != key {
            return Err(IdentityError::OtherKey { name, known: known.vkey() });
        }
    }
    for _ in 0..MOST_TRIES {
        let found = read(origin, store).await?;
        let last = found.as_ref().map_or(0, |(record, _)| record.writer);
        let writer = WriterId::new(last.saturating_add(1)).ok_or(IdentityError::NoWriter)?;
        let checkpoint = found.as_ref().and_then(|(record, _)| record.checkpoint.clone());
        let record = Record {
            key: name.to_string(),
            public_key: STANDARD.encode(signing.public_key().spki()),
            writer: writer.number(),
            checkpoint,
        };
        if write(origin, store, &record, found.map(|(_, version)| version)).await? {
            let newest = record.newest(&key)?;
            return Ok(Identity { key, signing, writer, newest });
        }
    }
    Err(IdentityError::Contended)
}

/// Records the newest head that was signed.
///
/// # Errors
/// [`IdentityError`].
pub async fn keep(
    origin: &Origin,
    checkpoint: &Checkpoint,
    store: &dyn StateStore,
) -> Result<(), IdentityError> {
    for _ in 0..MOST_TRIES {
        let Some((record, version)) = read(origin, store).await? else {
            return Err(IdentityError::Record("it is gone".to_owned()));
        };
        let record = Record { checkpoint: Some(checkpoint.to_string()), ..record };
        if write(origin, store, &record, Some(version)).await? {
            return Ok(());
        }
    }
    Err(IdentityError::Contended)
}

/// What the state store knows of a log; `None` if that was never begun.
///
/// # Errors
/// [`IdentityError`].
pub async fn known(
    origin: &Origin,
    store: &dyn StateStore,
) -> Result<Option<Known>, IdentityError> {
    let Some((record, _)) = read(origin, store).await? else { return Ok(None) };
    let key = record.log_key(origin)?;
    let newest = record.newest(&key)?;
    Ok(Some(Known { key_name: parse_name(&record.key)?, key, newest }))
}

/// The name and the public half of the key that a record of a log is about.
///
/// # Errors
/// [`IdentityError::Record`] if it makes no sense.
pub(crate) fn key_of(entry: &Entry) -> Result<(KeyName, PublicKey), IdentityError> {
    let record: Record = envelope::decode(FORMAT, entry)?;
    let spki = STANDARD.decode(&record.public_key).map_err(sense)?;
    Ok((parse_name(&record.key)?, PublicKey::from_spki(&spki).map_err(sense)?))
}

impl Record {
    fn log_key(&self, origin: &Origin) -> Result<LogKey, IdentityError> {
        let spki = STANDARD.decode(&self.public_key).map_err(sense)?;
        let key = PublicKey::from_spki(&spki).map_err(sense)?;
        Ok(LogKey::new(origin.clone(), key)?)
    }

    fn newest(&self, key: &LogKey) -> Result<Option<Checkpoint>, IdentityError> {
        let Some(text) = &self.checkpoint else { return Ok(None) };
        let checkpoint = Checkpoint::parse(text).map_err(sense)?;
        key.verify(&checkpoint).map_err(sense)?;
        Ok(Some(checkpoint))
    }
}

impl Identity {
    /// The newest head that was signed before this run.
    ///
    /// # Errors
    /// [`CheckpointError`] if it does not verify, which was looked at when it was read.
    pub fn newest_head(&self) -> Result<Option<Head>, CheckpointError> {
        let verified = self.newest.as_ref().map(|checkpoint| self.key.verify(checkpoint));
        Ok(verified.transpose()?.map(|verified| verified.head()))
    }
}

fn sense(error: impl std::fmt::Display) -> IdentityError {
    IdentityError::Record(error.to_string())
}

fn parse_name(text: &str) -> Result<KeyName, IdentityError> {
    KeyName::parse(text).map_err(sense)
}

async fn read(
    origin: &Origin,
    store: &dyn StateStore,
) -> Result<Option<(Record, Version)>, IdentityError> {
    let key = issuance_log(TrustDomainNumber::OWN, origin.as_str()).map_err(StoreError::from)?;
    let snapshot = store.get(&[key], Consistency::Strong).await?;
    match snapshot.entries.into_iter().flatten().next() {
        Some(entry) => Ok(Some((envelope::decode(FORMAT, &entry)?, entry.version))),
        None => Ok(None),
    }
}

/// Writes if nobody has since it was read.
async fn write(
    origin: &Origin,
    store: &dyn StateStore,
    record: &Record,
    read_at: Option<Version>,
) -> Result<bool, IdentityError> {
    let key = issuance_log(TrustDomainNumber::OWN, origin.as_str()).map_err(StoreError::from)?;
    let check = match read_at {
        Some(version) => Check::At(key.clone(), version),
        None => Check::Absent(key.clone()),
    };
    let op = Op::Put(key, envelope::encode(FORMAT, record));
    let commit = Commit::new(vec![check], vec![op])?;
    Ok(matches!(store.commit(commit).await?, CommitOutcome::Done(_)))
}
