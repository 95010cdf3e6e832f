//! Keys in this process's memory, kept on disk as sealed files or not at all.
//!
//! Sealing protects a copied file, a backup or a stolen disk. It does not protect against who can read
//! this process's memory or the seal key: for that the key belongs in a token.

mod directory;
#[cfg(not(feature = "ring"))]
mod p256;
mod pair;
mod seal;

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use async_trait::async_trait;
use ca_core::key::{
    ExpiredKey, KeyDescription, KeyError, KeyName, KeyStore, KeyType, PublicKey, Reach, SignError,
    Signature, SignatureAlgorithm, SigningKey, SignsHere, StoreDescription, ToBeSigned, Urgency,
};

pub use seal::SealKey;

use crate::blocking;
use crate::metrics::{KeyMetrics, StoreMetrics};
use crate::retirement::{Retired, Retirements, check_domain};
use crate::verification::{self, Oversight, Verification, Verifiers};
use directory::SealedDirectory;
use pair::{CREATABLE, Pair};

/// Software keys of one trust domain.
pub struct SoftwareStore {
    description: StoreDescription,
    shared: Arc<Shared>,
}

/// What the blocking threads work on.
struct Shared {
    trust_domain: String,
    place: Place,
    retired: Retirements,
    oversight: Oversight,
}

enum Place {
    Memory(Mutex<BTreeMap<KeyName, Arc<Pair>>>),
    Directory(SealedDirectory),
}

impl SoftwareStore {
    /// The keys sealed under `seal` in `directory`, which is made with mode 0700 if it is not there.
    /// One directory serves one trust domain.
    ///
    /// # Errors
    /// [`KeyError::Setup`] if the directory cannot be made, is not ours or is open to others.
    pub async fn open(
        directory: PathBuf,
        seal: SealKey,
        trust_domain: &str,
        oversight: Oversight,
    ) -> Result<Self, KeyError> {
        let shown = directory.display().to_string();
        let domain = trust_domain.to_owned();
        let opened =
            blocking::run(&shown, move || SealedDirectory::open(directory, seal, domain)).await?;
        let place = opened.place().to_owned();
        Ok(Self::new(place, trust_domain, Place::Directory(opened), oversight))
    }

    /// Keys that end with this process: for tests, benches and issuing keys of hours.
    #[must_use]
    pub fn in_memory(trust_domain: &str) -> Self {
        Self::new(
            "memory of this process".to_owned(),
            trust_domain,
            Place::Memory(Mutex::default()),
            Oversight { verification: Verification::INSIDE, metrics: StoreMetrics::default() },
        )
    }

    fn new(place_name: String, trust_domain: &str, place: Place, oversight: Oversight) -> Self {
        let description = StoreDescription {
            kind: "software",
            place: place_name,
            key_types: CREATABLE.to_vec(),
            hardware: false,
            longest_message: usize::MAX,
        };
        let retired = Retirements::default();
        let trust_domain = trust_domain.to_owned();
        let shared = Shared { trust_domain, place, retired, oversight };
        Self { description, shared: Arc::new(shared) }
    }

    async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Shared) -> Result<T, KeyError> + Send + 'static,
    ) -> Result<T, KeyError> {
        let shared = Arc::clone(&self.shared);
        blocking::run(&self.description.place, move || work(&shared)).await
    }
}

impl fmt::Debug for SoftwareStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SoftwareStore({})", self.description.place)
    }
}

#[async_trait]
impl KeyStore for SoftwareStore {
    fn description(&self) -> &StoreDescription {
        &self.description
    }

    async fn create(
        &self,
        name: &KeyName,
        key_type: KeyType,
    ) -> Result<Arc<dyn SigningKey>, KeyError> {
        check_domain(name, &self.shared.trust_domain)?;
        self.description.check(key_type)?;
        let name = name.clone();
        self.run(move |shared| shared.create(&name, key_type)).await
    }

    async fn find(&self, name: &KeyName) -> Result<Option<Arc<dyn SigningKey>>, KeyError> {
        check_domain(name, &self.shared.trust_domain)?;
        let name = name.clone();
        self.run(move |shared| match shared.load(&name)? {
            Some(pair) if !shared.retired.contains(&name) => shared.key(name, pair).map(Some),
            _ => Ok(None),
        })
        .await
    }

    async fn list(&self) -> Result<Vec<KeyName>, KeyError> {
        self.run(Shared::list).await
    }

    async fn describe(&self, name: &KeyName) -> Result<Option<KeyDescription>, KeyError> {
        check_domain(name, &self.shared.trust_domain)?;
        let name = name.clone();
        self.run(move |shared| shared.describe(name)).await
    }

    async fn retire(&self, name: &KeyName) -> Result<(), KeyError> {
        check_domain(name, &self.shared.trust_domain)?;
        let name = name.clone();
        self.run(move |shared| {
            shared.load(&name)?.ok_or_else(|| KeyError::NotFound(name.clone()))?;
            shared.retired.of(&name).set();
            Ok(())
        })
        .await
    }

    async fn destroy(&self, key: &ExpiredKey) -> Result<String, KeyError> {
        let name = key.name().clone();
        check_domain(&name, &self.shared.trust_domain)?;
        self.run(move |shared| shared.destroy(&name)).await
    }
}

impl Shared {
    fn create(&self, name: &KeyName, key_type: KeyType) -> Result<Arc<dyn SigningKey>, KeyError> {
        if self.retired.contains(name) {
            return Err(KeyError::Exists(name.clone()));
        }
        match &self.place {
            Place::Memory(keys) => {
                let pair = Arc::new(Pair::generate(name, key_type)?.1);
                let mut keys = keys.lock().unwrap_or_else(PoisonError::into_inner);
                if keys.contains_key(name) {
                    return Err(KeyError::Exists(name.clone()));
                }
                keys.insert(name.clone(), Arc::clone(&pair));
                self.key(name.clone(), pair)
            }
            Place::Directory(directory) => {
                directory.check_vacant(name)?;
                let (pkcs8, _) = Pair::generate(name, key_type)?;
                directory.write_new(name, key_type, &pkcs8)?;
                // Read back from the disk: the key that is used is the key that will be found.
                let pair = self.load(name)?.ok_or_else(|| KeyError::NotFound(name.clone()))?;
                self.key(name.clone(), pair)
            }
        }
    }

    fn load(&self, name: &KeyName) -> Result<Option<Arc<Pair>>, KeyError> {
        match &self.place {
            Place::Memory(keys) => {
                Ok(keys.lock().unwrap_or_else(PoisonError::into_inner).get(name).cloned())
            }
            Place::Directory(directory) => {
                let Some(key) = directory.read(name)? else { return Ok(None) };
                Pair::from_pkcs8(name, key.key_type, &key.pkcs8).map(Arc::new).map(Some)
            }
        }
    }

    fn list(&self) -> Result<Vec<KeyName>, KeyError> {
        let names: Vec<KeyName> = match &self.place {
            Place::Memory(keys) => {
                keys.lock().unwrap_or_else(PoisonError::into_inner).keys().cloned().collect()
            }
            Place::Directory(directory) => directory.names()?,
        };
        Ok(names.into_iter().filter(|name| !self.retired.contains(name)).collect())
    }

    fn describe(&self, name: KeyName) -> Result<Option<KeyDescription>, KeyError> {
        let pair = self.load(&name)?.filter(|_| !self.retired.contains(&name));
        let Some(pair) = pair else { return Ok(None) };
        let location = match &self.place {
            Place::Memory(_) => "memory of this process".to_owned(),
            Place::Directory(directory) => directory.path_of(&name).display().to_string(),
        };
        Ok(Some(KeyDescription {
            name,
            algorithms: pair.algorithms().to_vec(),
            public_key: pair.public_key().clone(),
            location,
            facts: Vec::new(),
        }))
    }

    fn destroy(&self, name: &KeyName) -> Result<String, KeyError> {
        let gone = match &self.place {
            Place::Memory(keys) => {
                let mut keys = keys.lock().unwrap_or_else(PoisonError::into_inner);
                let pair = keys.remove(name).ok_or_else(|| KeyError::NotFound(name.clone()))?;
                drop(pair);
                "wiped from memory".to_owned()
            }
            Place::Directory(directory) => directory.remove(name)?,
        };
        // Handles given out still hold the pair: they must not use it.
        self.retired.of(name).set();
        Ok(gone)
    }

    fn key(&self, name: KeyName, pair: Arc<Pair>) -> Result<Arc<dyn SigningKey>, KeyError> {
        let verifiers = Verifiers::new(pair.public_key(), self.oversight.verification)
            .map_err(|error| KeyError::Unsafe { name: name.clone(), reason: error.to_string() })?;
        let (retired, metrics) = (self.retired.of(&name), self.oversight.metrics.key(&name));
        Ok(Arc::new(SoftwareKey { name, pair, retired, verifiers, metrics }))
    }
}

/// A key pair in memory. Signs where it is called: a signature takes microseconds (RSA: up to two
/// milliseconds), less than a hand-over to another thread would be worth.
struct SoftwareKey {
    name: KeyName,
    pair: Arc<Pair>,
    retired: Retired,
    verifiers: Verifiers,
    metrics: KeyMetrics,
}

impl SoftwareKey {
    fn sign_verified(
        &self,
        message: &ToBeSigned,
        urgency: Urgency,
    ) -> Result<Signature, SignError> {
        self.retired.check(&self.name)?;
        if Instant::now() >= urgency.deadline {
            return Err(late(&self.name));
        }
        let signature = self.pair.sign(&self.name, message)?;
        if self.verifiers.accepts(message, &signature) {
            return Ok(signature);
        }
        self.metrics.wrong();
        verification::alarm(&self.name, "memory of this process");
        let second = self.pair.sign(&self.name, message)?;
        if self.pair.public_key().verifies(message.message(), &second) {
            return Ok(second);
        }
        self.metrics.wrong();
        Err(verification::wrong(&self.name))
    }
}

impl fmt::Debug for SoftwareKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SoftwareKey({}, {:?})", self.name, self.pair.public_key())
    }
}

#[async_trait]
impl SigningKey for SoftwareKey {
    async fn sign(&self, message: ToBeSigned, urgency: Urgency) -> Result<Signature, SignError> {
        self.sign_here(&message, urgency)
    }

    fn algorithms(&self) -> &[SignatureAlgorithm] {
        self.pair.algorithms()
    }

    fn public_key(&self) -> &PublicKey {
        self.pair.public_key()
    }

    fn reach(&self) -> Reach<'_> {
        Reach::Here(self)
    }
}

impl SignsHere for SoftwareKey {
    fn sign_here(&self, message: &ToBeSigned, urgency: Urgency) -> Result<Signature, SignError> {
        let answer = self.sign_verified(message, urgency);
        self.metrics.answered(&answer);
        answer
    }
}

fn late(name: &KeyName) -> SignError {
    let reason = "its deadline had passed when it was asked".to_owned();
    SignError::Late { key: name.to_string(), reason }
}
