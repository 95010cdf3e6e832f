//! Keys in a remote KMS: everything but its wire.
//!
//! One store for every KMS: who may ask it now and how fast ([`Pace`]), what is asked again, what is
//! verified, counted and probed is the same for all. A KMS brings its wire alone, and says how its
//! errors are to be taken. Signing spawns nothing and holds no thread: a signature is a request of its
//! caller's own future.

pub(crate) mod endpoint;
mod health;
mod key;
mod lane;
mod pace;
mod rate;
pub(crate) mod retry;
pub(crate) mod task;
pub(crate) mod wire;

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Instant;

use async_trait::async_trait;
use ca_core::key::{
    ExpiredKey, KeyDescription, KeyError, KeyName, KeyStore, KeyType, Priority, SignError,
    SigningKey, StoreDescription, StoreHealth, Urgency,
};

pub use pace::Pace;

use crate::retirement::{Retirements, check_domain};
use crate::verification::{Oversight, Verifiers};
use key::RemoteKey;
use lane::Lane;
use task::OwnedTask;
use wire::{Found, Wire};

/// The keys of one trust domain in one KMS.
pub struct RemoteStore {
    shared: Arc<Shared>,
    _health: OwnedTask,
}

/// What the store and its keys have in common.
struct Shared {
    description: StoreDescription,
    trust_domain: String,
    pace: Pace,
    oversight: Oversight,
    /// What the last probe showed.
    health: Mutex<StoreHealth>,
    wire: Box<dyn Wire>,
    lane: Lane,
    retired: Retirements,
    /// The keys in use, so that finding one again gives the same.
    live: Mutex<BTreeMap<KeyName, Weak<RemoteKey>>>,
    /// Keys are made and destroyed by one caller at a time.
    manager: tokio::sync::Mutex<()>,
}

impl RemoteStore {
    /// A store behind a wire that has been found to work.
    pub(crate) fn open(
        wire: Box<dyn Wire>,
        description: StoreDescription,
        pace: Pace,
        trust_domain: &str,
        oversight: Oversight,
    ) -> Result<Self, KeyError> {
        pace.check(&description.place)?;
        let shared = Arc::new(Shared {
            lane: Lane::open(pace, oversight.metrics.clone(), Instant::now()),
            trust_domain: trust_domain.to_owned(),
            retired: Retirements::default(),
            live: Mutex::default(),
            manager: tokio::sync::Mutex::default(),
            description,
            pace,
            oversight,
            health: Mutex::new(StoreHealth::Good),
            wire,
        });
        let health = OwnedTask::spawn(health::watch(Arc::downgrade(&shared)));
        Ok(Self { shared, _health: health })
    }
}

impl fmt::Debug for RemoteStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RemoteStore({})", self.shared.description.place)
    }
}

#[async_trait]
impl KeyStore for RemoteStore {
    fn description(&self) -> &StoreDescription {
        &self.shared.description
    }

    fn health(&self) -> StoreHealth {
        self.shared.health.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    async fn create(
        &self,
        name: &KeyName,
        key_type: KeyType,
    ) -> Result<Arc<dyn SigningKey>, KeyError> {
        let shared = &self.shared;
        check_domain(name, &shared.trust_domain)?;
        shared.description.check(key_type)?;
        let _alone = shared.manager.lock().await;
        if shared.retired.contains(name) || shared.wire.find(name).await?.is_some() {
            return Err(KeyError::Exists(name.clone()));
        }
        let made = shared.wire.create(name, key_type).await?;
        tracing::info!(key = %name, location = made.location, "made a key");
        shared.key(name, made).await
    }

    async fn find(&self, name: &KeyName) -> Result<Option<Arc<dyn SigningKey>>, KeyError> {
        check_domain(name, &self.shared.trust_domain)?;
        match self.shared.found(name).await? {
            Some(found) => self.shared.key(name, found).await.map(Some),
            None => Ok(None),
        }
    }

    async fn list(&self) -> Result<Vec<KeyName>, KeyError> {
        let mut names = self.shared.wire.list(&self.shared.trust_domain).await?;
        names.retain(|name| !self.shared.retired.contains(name));
        names.sort();
        names.dedup();
        Ok(names)
    }

    async fn describe(&self, name: &KeyName) -> Result<Option<KeyDescription>, KeyError> {
        check_domain(name, &self.shared.trust_domain)?;
        let found = self.shared.found(name).await?;
        Ok(found.map(|found| KeyDescription {
            name: name.clone(),
            algorithms: found.public_key.kind().algorithms().to_vec(),
            public_key: found.public_key,
            location: found.location,
            facts: found.facts,
        }))
    }

    async fn retire(&self, name: &KeyName) -> Result<(), KeyError> {
        check_domain(name, &self.shared.trust_domain)?;
        let found = self.shared.wire.find(name).await?;
        found.ok_or_else(|| KeyError::NotFound(name.clone()))?;
        self.shared.retired.of(name).set();
        Ok(())
    }

    async fn destroy(&self, key: &ExpiredKey) -> Result<String, KeyError> {
        let name = key.name();
        check_domain(name, &self.shared.trust_domain)?;
        let _alone = self.shared.manager.lock().await;
        let end = self.shared.wire.destroy(name).await?;
        let end = end.ok_or_else(|| KeyError::NotFound(name.clone()))?;
        // Handles given out refuse, although the KMS may take a moment to.
        self.shared.retired.of(name).set();
        self.shared.live().remove(name);
        Ok(end)
    }
}

impl Shared {
    fn live(&self) -> MutexGuard<'_, BTreeMap<KeyName, Weak<RemoteKey>>> {
        // A key is in it or not: a panic elsewhere leaves nothing half done.
        self.live.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn found(&self, name: &KeyName) -> Result<Option<Found>, KeyError> {
        let found = self.wire.find(name).await?;
        Ok(found.filter(|_| !self.retired.contains(name)))
    }

    /// A handle for a key that was found, once it has signed.
    async fn key(
        self: &Arc<Self>,
        name: &KeyName,
        found: Found,
    ) -> Result<Arc<dyn SigningKey>, KeyError> {
        let live = self.live().get(name).and_then(Weak::upgrade);
        if let Some(key) = live.filter(|key| key.found.handle == found.handle)
            && key.found.public_key == found.public_key
        {
            self.prove(&key).await?;
            return Ok(key);
        }
        let verifiers = Verifiers::new(&found.public_key, self.oversight.verification)
            .map_err(|error| KeyError::Unsafe { name: name.clone(), reason: error.to_string() })?;
        let key = Arc::new(RemoteKey {
            name: name.clone(),
            found,
            verifiers,
            retired: self.retired.of(name),
            metrics: self.oversight.metrics.key(name),
            shared: Arc::clone(self),
        });
        self.prove(&key).await?;
        self.live().insert(name.clone(), Arc::downgrade(&key));
        Ok(key)
    }

    /// Has the key sign once, which is verified: it is the key that its public half belongs to.
    async fn prove(&self, key: &Arc<RemoteKey>) -> Result<(), KeyError> {
        let patience = self.pace.attempt_timeout * 3 + self.pace.queue_wait;
        let urgency = Urgency::within(Priority::New, patience, Instant::now());
        health::sign_probe(key, urgency).await.map_err(|error| match error {
            SignError::Refused { reason, .. } | SignError::Wrong { reason, .. } => {
                KeyError::Unsafe { name: key.name.clone(), reason }
            }
            other => KeyError::Unavailable {
                place: self.description.place.clone(),
                reason: other.to_string(),
            },
        })
    }
}
