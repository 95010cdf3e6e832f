//! The keys that an administrator has made ahead, for authorities to come.

use std::collections::BTreeSet;

use super::record::SlotRecord;
use super::{
    AuthorityError, AuthorityKind, AuthoritySettings, KeyCreation, PreparedKeys, ledger, read,
};
use crate::key::{KeyError, KeyName, KeyStore, KeyType};
use crate::store::StateStore;

/// Counts the keys that are left for authorities to come; `None` where they are made when they are needed.
/// Takes as many questions to the key store as there are such keys, and one more.
///
/// # Errors
/// What reading the record or the key store gives, unless it is about one key, which is then not counted.
pub async fn prepared_keys(
    settings: &AuthoritySettings,
    store: &dyn StateStore,
    keys: &dyn KeyStore,
) -> Result<Option<PreparedKeys>, AuthorityError> {
    if settings.key_creation == KeyCreation::Auto {
        return Ok(None);
    }
    let stock = Stock::read(settings, store, keys).await?;
    let mut left = [0; 2];
    for (kind, left) in AuthorityKind::ALL.into_iter().zip(&mut left) {
        let slot = read::<SlotRecord>(store, kind.slot()).await?;
        let recorded = slot.map_or(0, |(slot, _)| slot.generation);
        *left = stock.after(kind, recorded).await?.0.len();
    }
    let [x509, jwt] = left;
    Ok(Some(PreparedKeys { x509, jwt }))
}

/// The keys of a key store, without those that the record says are retired.
pub(super) struct Stock<'a> {
    settings: &'a AuthoritySettings,
    keys: &'a dyn KeyStore,
    retired: BTreeSet<KeyName>,
}

impl<'a> Stock<'a> {
    pub(super) async fn read(
        settings: &'a AuthoritySettings,
        store: &dyn StateStore,
        keys: &'a dyn KeyStore,
    ) -> Result<Self, AuthorityError> {
        Ok(Self { settings, keys, retired: ledger::retired(store).await? })
    }

    /// The keys of later generations than `recorded` that the next authority could be made with, lowest first,
    /// and why others cannot.
    pub(super) async fn after(
        &self,
        kind: AuthorityKind,
        recorded: u64,
    ) -> Result<(Vec<(u64, KeyName)>, Vec<KeyError>), AuthorityError> {
        let key_kind = self.settings.key_type(kind).kind();
        let algorithm = self.settings.rsa_scheme.algorithm(key_kind);
        let (mut usable, mut refused) = (Vec::new(), Vec::new());
        for (generation, name) in ledger::later_keys(kind, recorded, self.keys.list().await?) {
            if self.is_retired(&name).await? {
                continue;
            }
            match self.keys.describe(&name).await {
                Ok(Some(key)) => {
                    let of_kind = key.public_key.kind() == key_kind;
                    if of_kind && key.algorithms.contains(&algorithm) {
                        usable.push((generation, name));
                    }
                }
                Ok(None) => {}
                Err(error) if error.is_of_one_key() => refused.push(error),
                Err(error) => return Err(error.into()),
            }
        }
        Ok((usable, refused))
    }

    /// Whether the record says that the key is retired. If so, its store hears of it: it forgets with each
    /// restart.
    pub(super) async fn is_retired(&self, name: &KeyName) -> Result<bool, AuthorityError> {
        if !self.retired.contains(name) {
            return Ok(false);
        }
        match self.keys.retire(name).await {
            Err(error) if !error.is_of_one_key() => Err(error.into()),
            // What cannot be found or used signs nothing either.
            _ => Ok(true),
        }
    }
}

impl AuthoritySettings {
    /// The kind of key of a new authority.
    pub(super) fn key_type(&self, kind: AuthorityKind) -> KeyType {
        match kind {
            AuthorityKind::X509 => self.ca_key_type,
            AuthorityKind::Jwt => self.jwt_key_type,
        }
    }
}
