//! Keys in a PKCS#11 token: an HSM, a smart card, SoftHSM.
//!
//! Each key has threads of its own, one session on each, behind a bounded queue: a session carries one
//! operation at a time, a call into the module may take as long as it likes, and neither may hold up
//! the runtime. Handles are looked up when a session is opened, never per signature. The token is
//! logged in to once and never logged out of, since a logout ends every session's login at once.

mod fault;
mod key;
mod login;
mod module;
mod object;
mod settings;
mod token;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use async_trait::async_trait;
use ca_core::key::{
    ExpiredKey, KeyDescription, KeyError, KeyName, KeyStore, KeyType, SigningKey, StoreDescription,
};
use cryptoki::session::Session;

pub use settings::{Settings, TokenSelector};

use crate::blocking;
use crate::retirement::{Retirements, check_domain};
use key::TokenKey;
use token::Token;

/// The keys of one trust domain in one token.
pub struct Pkcs11Store {
    description: StoreDescription,
    shared: Arc<Shared>,
}

/// What the blocking threads work on.
struct Shared {
    trust_domain: String,
    token: Arc<Token>,
    sessions: usize,
    queue: usize,
    retired: Retirements,
    manager: Mutex<Manager>,
}

/// Managing keys is done by one thread at a time.
#[derive(Default)]
struct Manager {
    /// Stays open: the token logs out of itself when its last session closes.
    session: Option<Session>,
    /// The keys in use, so that finding one again shares its sessions.
    live: BTreeMap<KeyName, Weak<TokenKey>>,
}

impl Pkcs11Store {
    /// Loads the module, finds the token and logs in to it, once.
    ///
    /// # Errors
    /// [`KeyError::Setup`] if a setting, the module, the token or the PIN's source is wrong,
    /// [`KeyError::Credentials`] if the token refuses the PIN (which is not tried again),
    /// [`KeyError::Unavailable`] if the device fails.
    pub async fn open(settings: Settings, trust_domain: &str) -> Result<Self, KeyError> {
        let place = settings.module.display().to_string();
        let trust_domain = trust_domain.to_owned();
        blocking::run(&place, move || Self::open_now(&settings, trust_domain)).await
    }

    /// Loads the module and says which token the selector finds, without its PIN: shows that a
    /// configuration can work beside a server that is using the token.
    ///
    /// # Errors
    /// [`KeyError::Setup`] if the module or the token is wrong.
    pub async fn find_token(module: &Path, token: &TokenSelector) -> Result<String, KeyError> {
        let (module, token) = (module.to_owned(), token.clone());
        blocking::run(&module.display().to_string(), move || token::find(&module, &token)).await
    }

    fn open_now(settings: &Settings, trust_domain: String) -> Result<Self, KeyError> {
        settings.check()?;
        let token = Token::open(settings)?;
        let session = token.session()?;
        let description = StoreDescription {
            kind: "pkcs11",
            place: token.place().to_owned(),
            key_types: token.key_types().to_vec(),
            hardware: token.hardware(),
            longest_message: usize::MAX,
        };
        let shared = Shared {
            trust_domain,
            token: Arc::new(token),
            sessions: settings.sessions,
            queue: settings.queue,
            retired: Retirements::default(),
            manager: Mutex::new(Manager { session: Some(session), live: BTreeMap::new() }),
        };
        Ok(Self { description, shared: Arc::new(shared) })
    }

    async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Shared, &mut Manager) -> Result<T, KeyError> + Send + 'static,
    ) -> Result<T, KeyError> {
        let shared = Arc::clone(&self.shared);
        blocking::run(&self.description.place, move || {
            // A panic under the lock leaves at worst a session to be opened again.
            let mut manager = shared.manager.lock().unwrap_or_else(PoisonError::into_inner);
            work(&shared, &mut manager)
        })
        .await
    }
}

impl fmt::Debug for Pkcs11Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Pkcs11Store({})", self.description.place)
    }
}

#[async_trait]
impl KeyStore for Pkcs11Store {
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
        self.run(move |shared, manager| shared.create(manager, &name, key_type)).await
    }

    async fn find(&self, name: &KeyName) -> Result<Option<Arc<dyn SigningKey>>, KeyError> {
        check_domain(name, &self.shared.trust_domain)?;
        let name = name.clone();
        self.run(move |shared, manager| shared.find(manager, &name)).await
    }

    async fn list(&self) -> Result<Vec<KeyName>, KeyError> {
        self.run(Shared::list).await
    }

    async fn describe(&self, name: &KeyName) -> Result<Option<KeyDescription>, KeyError> {
        check_domain(name, &self.shared.trust_domain)?;
        let name = name.clone();
        self.run(move |shared, manager| shared.describe(manager, name)).await
    }

    async fn retire(&self, name: &KeyName) -> Result<(), KeyError> {
        check_domain(name, &self.shared.trust_domain)?;
        let name = name.clone();
        self.run(move |shared, manager| {
            shared
                .on_session(manager, |session| shared.token.inspect(session, &name))?
                .ok_or_else(|| KeyError::NotFound(name.clone()))?;
            shared.retired.of(&name).set();
            Ok(())
        })
        .await
    }

    async fn destroy(&self, key: &ExpiredKey) -> Result<String, KeyError> {
        let name = key.name().clone();
        check_domain(&name, &self.shared.trust_domain)?;
        self.run(move |shared, manager| shared.destroy(manager, &name)).await
    }
}

impl Shared {
    fn create(
        &self,
        manager: &mut Manager,
        name: &KeyName,
        key_type: KeyType,
    ) -> Result<Arc<dyn SigningKey>, KeyError> {
        let taken = self.on_session(manager, |session| self.token.inspect(session, name))?;
        if taken.is_some() {
            return Err(KeyError::Exists(name.clone()));
        }
        self.token.create(name, key_type)?;
        let made = self.find(manager, name)?;
        made.ok_or_else(|| KeyError::NotFound(name.clone()))
    }

    fn find(
        &self,
        manager: &mut Manager,
        name: &KeyName,
    ) -> Result<Option<Arc<dyn SigningKey>>, KeyError> {
        let found = self.on_session(manager, |session| {
            let found = self.token.inspect(session, name)?;
            if let Some(pair) = &found {
                self.token.prove(session, name, pair)?;
            }
            Ok(found)
        })?;
        let Some(pair) = found.filter(|_| !self.retired.contains(name)) else { return Ok(None) };
        if let Some(key) = manager.live.get(name).and_then(Weak::upgrade)
            && *key.public_key() == pair.public_key
            && !key.has_stopped()
        {
            return Ok(Some(key));
        }
        let key = Arc::new(TokenKey::start(
            &self.token,
            name,
            pair.public_key,
            self.sessions,
            self.queue,
            self.retired.of(name),
        )?);
        manager.live.insert(name.clone(), Arc::downgrade(&key));
        Ok(Some(key))
    }

    fn list(&self, manager: &mut Manager) -> Result<Vec<KeyName>, KeyError> {
        let labels = self.on_session(manager, |session| self.token.labels(session))?;
        let names: BTreeSet<KeyName> = labels
            .iter()
            .filter_map(|label| KeyName::parse(label).ok())
            .filter(|name| name.trust_domain() == self.trust_domain)
            .filter(|name| !self.retired.contains(name))
            .collect();
        Ok(names.into_iter().collect())
    }

    fn describe(
        &self,
        manager: &mut Manager,
        name: KeyName,
    ) -> Result<Option<KeyDescription>, KeyError> {
        let pair = self.on_session(manager, |session| self.token.inspect(session, &name))?;
        let Some(pair) = pair.filter(|_| !self.retired.contains(&name)) else { return Ok(None) };
        Ok(Some(KeyDescription {
            name,
            algorithms: vec![pair.public_key.kind().usual_algorithm()],
            public_key: pair.public_key,
            location: format!("object {} in {}", pair.private, self.token.place()),
            facts: Vec::new(),
        }))
    }

    fn destroy(&self, manager: &mut Manager, name: &KeyName) -> Result<String, KeyError> {
        let found = self.on_session(manager, |session| self.token.inspect(session, name))?;
        found.ok_or_else(|| KeyError::NotFound(name.clone()))?;
        self.retired.of(name).set();
        manager.live.remove(name);
        self.token.destroy(name)?;
        Ok(format!("destroyed in {}", self.token.place()))
    }

    /// Runs `work` on the managing session; opens another and tries once more if that one was lost.
    fn on_session<T>(
        &self,
        manager: &mut Manager,
        work: impl Fn(&Session) -> Result<T, KeyError>,
    ) -> Result<T, KeyError> {
        if let Some(session) = &manager.session {
            match self.token.check_login(session).and_then(|()| work(session)) {
                Err(KeyError::Unavailable { .. }) => manager.session = None,
                result => return result,
            }
        }
        work(manager.session.insert(self.token.session()?))
    }
}
