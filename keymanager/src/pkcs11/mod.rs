//! Keys in a PKCS#11 token: an HSM, a smart card, SoftHSM.
//!
//! A token has a [`pool`] of threads, one session on each, behind one bounded [`queue`] for all its keys: a
//! session carries one operation at a time, a call into the module may take as long as it likes, and
//! neither may hold up the runtime. Handles are looked up once in each session, never per signature. The
//! token is logged in to once and never logged out of, since a logout ends every session's login at once.
//!
//! What goes wrong is sorted by what helps ([`fault`]): another session, the same a little later, or the
//! library initialised anew ([`recovery`]). That makes a new *generation* of the [`module`]: sessions and
//! handles of the one before are never used again ([`gate`]), since their numbers may name other things by
//! then.
//!
//! No call into the module is waited for without an end. Those of threads that sign and those by which the
//! library is brought back are looked after by the [`watch`]; opening a store and managing keys have a time
//! limit of their own.

mod answer;
mod call;
mod fault;
mod gate;
mod key;
mod login;
mod module;
mod object;
mod pool;
mod queue;
mod recovery;
mod settings;
mod token;
mod watch;
mod worker;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError, Weak, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use ca_core::key::{
    ExpiredKey, KeyDescription, KeyError, KeyName, KeyStore, KeyType, SigningKey, StoreDescription,
    StoreHealth,
};
use cryptoki::session::Session;
use tokio::sync::OwnedMutexGuard;

pub use object::Template;
pub use settings::{Hashing, Settings, TokenSelector};

use crate::blocking;
use crate::retirement::{Retirements, check_domain};
use crate::verification::{self, Oversight, Verifiers};
use fault::Class;
use key::{Facts, TokenKey};
use object::{Failure, Pair};
use pool::Pool;
use token::{Proven, Token, TokenSession, unsafe_key};

/// The keys of one trust domain in one token.
pub struct Pkcs11Store {
    description: StoreDescription,
    shared: Arc<Shared>,
}

/// What the blocking threads work on.
struct Shared {
    trust_domain: String,
    // Dropped in this order: the managing session is closed before the threads that may wait for it.
    manager: Arc<tokio::sync::Mutex<Manager>>,
    /// The same, for others: until when the call under way that manages keys may take.
    until: Mutex<Option<Instant>>,
    pool: Arc<Pool>,
    retired: Retirements,
    oversight: Oversight,
}

/// Managing keys is done by one thread at a time.
struct Manager {
    /// Stays open: the token logs out of itself when its last session closes.
    session: Option<TokenSession>,
    /// The keys in use, so that finding one again finds the same.
    live: BTreeMap<KeyName, Weak<TokenKey>>,
    /// Until when what it is at may take.
    until: Instant,
}

impl Manager {
    /// The key of that name, if it is in use.
    fn live(&self, name: &KeyName) -> Option<Arc<TokenKey>> {
        self.live.get(name).and_then(Weak::upgrade)
    }
}

impl Pkcs11Store {
    /// Loads the module, finds the token and logs in to it, once.
    ///
    /// Using it needs a tokio runtime with its timer on.
    ///
    /// # Errors
    /// [`KeyError::Setup`] if a setting, the module, the token or the PIN's source is wrong,
    /// [`KeyError::Credentials`] if the token refuses the PIN (which is not tried again),
    /// [`KeyError::Unavailable`] if the device fails, or has not answered after 3 s and six times
    /// [`Settings::stall_limit`].
    pub async fn open(settings: Settings, trust_domain: &str) -> Result<Self, KeyError> {
        let (module, limit) = (settings.module.clone(), managing(settings.stall_limit));
        let trust_domain = trust_domain.to_owned();
        starting(&module, limit, move || Self::open_now(&settings, trust_domain)).await
    }

    /// Loads the module and says which token the selector finds, without its PIN: shows that a
    /// configuration can work beside a server that is using the token.
    ///
    /// # Errors
    /// [`KeyError::Setup`] if the module or the token is wrong, [`KeyError::Unavailable`] if the device may
    /// be away, or has not answered for a minute.
    pub async fn find_token(module: &Path, token: &TokenSelector) -> Result<String, KeyError> {
        let (path, token) = (module.to_owned(), token.clone());
        let limit = managing(Settings::STALL_LIMIT);
        starting(module, limit, move || token::find(&path, &token)).await
    }

    fn open_now(settings: &Settings, trust_domain: String) -> Result<Self, KeyError> {
        settings.check()?;
        let token = Token::open(settings)?;
        // The login is tried here, once, before threads that would try it too.
        let session = token.session().map_err(|fault| fault.key_error(token.place()))?;
        let description = StoreDescription {
            kind: "pkcs11",
            place: token.place().to_owned(),
            key_types: token.key_types().to_vec(),
            hardware: token.hardware(),
            longest_message: usize::MAX,
        };
        let (live, until) = (BTreeMap::new(), Instant::now());
        let manager = Manager { session: Some(session), live, until };
        let shared = Shared {
            trust_domain,
            manager: Arc::new(tokio::sync::Mutex::new(manager)),
            until: Mutex::default(),
            pool: Arc::new(Pool::start(token, settings)?),
            retired: Retirements::default(),
            oversight: settings.oversight.clone(),
        };
        Ok(Self { description, shared: Arc::new(shared) })
    }

    /// Does it, no longer than managing keys may take and `more`. What takes longer goes on without its
    /// caller, and those who come after it are refused.
    async fn run<T: Send + 'static>(
        &self,
        more: Duration,
        work: impl FnOnce(&Shared, &mut Manager) -> Result<T, Failure> + Send + 'static,
    ) -> Result<T, KeyError> {
        let mut manager = self.turn().await?;
        let until = Instant::now() + self.shared.longest() + more;
        manager.until = until;
        let shared = Arc::clone(&self.shared);
        let place = self.description.place.clone();
        let work = async move {
            blocking::run(&place, move || {
                shared.set_until(Some(until));
                let result = work(&shared, &mut manager);
                shared.set_until(None);
                // Before the store, which closes its session.
                drop(manager);
                result.map_err(|failure| failure.key_error(shared.token().place()))
            })
            .await
        };
        match tokio::time::timeout_at(until.into(), work).await {
            Ok(result) => result,
            Err(_) => {
                Err(self.takes_too_long("it has not answered yet, and may still do what was asked"))
            }
        }
    }

    /// Waits for the turn to manage keys, unless who has it hangs.
    async fn turn(&self) -> Result<OwnedMutexGuard<Manager>, KeyError> {
        let manager = || Arc::clone(&self.shared.manager);
        if let Ok(turn) = manager().try_lock_owned() {
            return Ok(turn);
        }
        let hangs =
            "another call that manages keys hangs in it; if it stays so, start the process anew";
        if self.shared.until().is_some_and(|until| Instant::now() >= until) {
            return Err(self.takes_too_long(hangs));
        }
        let turn = tokio::time::timeout(self.shared.longest(), manager().lock_owned()).await;
        turn.map_err(|_| self.takes_too_long("another call that manages keys is not done yet"))
    }

    fn takes_too_long(&self, reason: &str) -> KeyError {
        KeyError::Unavailable { place: self.description.place.clone(), reason: reason.to_owned() }
    }
}

/// Does with a module what comes before there is a store, no longer than that. What takes longer is left
/// behind: it may hang for ever.
async fn starting<T: Send + 'static>(
    module: &Path,
    limit: Duration,
    work: impl FnOnce() -> Result<T, KeyError> + Send + 'static,
) -> Result<T, KeyError> {
    let place = format!("PKCS#11 module {}", module.display());
    match tokio::time::timeout(limit, blocking::run(&place, work)).await {
        Ok(result) => result,
        Err(_) => Err(KeyError::Unavailable {
            reason: format!(
                "it has not answered for {} s; look at the device and at its client's log, then start again",
                limit.as_secs()
            ),
            place,
        }),
    }
}

/// How long a call that manages keys may take, by how long one call into the module may.
fn managing(stall_limit: Duration) -> Duration {
    PATIENCE.saturating_add(stall_limit.saturating_mul(MANAGING))
}

impl Drop for Shared {
    /// Closing a session calls the module, which may hang: it is given as long as the threads are.
    fn drop(&mut self) {
        // Free: whoever has the turn has the store too.
        let Ok(mut manager) = self.manager.try_lock() else { return };
        let Some(session) = manager.session.take() else { return };
        let (closed, wait) = mpsc::channel::<()>();
        let closing = thread::Builder::new().name("key store end".to_owned());
        let started = closing.spawn(move || {
            drop(session);
            drop(closed);
        });
        if started.is_ok() {
            // Disconnected when it is closed; left behind if that takes longer.
            let _ = wait.recv_timeout(pool::PATIENCE);
        }
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

    fn health(&self) -> StoreHealth {
        self.shared.pool.health()
    }

    async fn create(
        &self,
        name: &KeyName,
        key_type: KeyType,
    ) -> Result<Arc<dyn SigningKey>, KeyError> {
        check_domain(name, &self.shared.trust_domain)?;
        self.description.check(key_type)?;
        let name = name.clone();
        self.run(MAKING, move |shared, manager| shared.create(manager, &name, key_type)).await
    }

    async fn find(&self, name: &KeyName) -> Result<Option<Arc<dyn SigningKey>>, KeyError> {
        check_domain(name, &self.shared.trust_domain)?;
        let name = name.clone();
        self.run(NO_MORE, move |shared, manager| shared.find(manager, &name)).await
    }

    async fn list(&self) -> Result<Vec<KeyName>, KeyError> {
        self.run(NO_MORE, Shared::list).await
    }

    async fn describe(&self, name: &KeyName) -> Result<Option<KeyDescription>, KeyError> {
        check_domain(name, &self.shared.trust_domain)?;
        let name = name.clone();
        self.run(NO_MORE, move |shared, manager| shared.describe(manager, name)).await
    }

    async fn retire(&self, name: &KeyName) -> Result<(), KeyError> {
        check_domain(name, &self.shared.trust_domain)?;
        let name = name.clone();
        self.run(NO_MORE, move |shared, manager| {
            shared.inspect(manager, &name)?.ok_or_else(|| not_found(&name))?;
            shared.retired.of(&name).set();
            Ok(())
        })
        .await
    }

    async fn destroy(&self, key: &ExpiredKey) -> Result<String, KeyError> {
        let name = key.name().clone();
        check_domain(&name, &self.shared.trust_domain)?;
        self.run(NO_MORE, move |shared, manager| shared.destroy(manager, &name)).await
    }
}

/// How long managing keys waits for a device to be brought back, or to have time.
const PATIENCE: Duration = Duration::from_secs(3);
/// How long it leaves a device alone that failed, at first, and at most after doubling it each time.
const PAUSE: Duration = Duration::from_millis(20);
const LONGEST_PAUSE: Duration = Duration::from_millis(500);
/// How often a step of managing keys is tried: a session may have been lost, and then the device be away.
const MOST_TRIES: u32 = 3;
/// What a call that manages keys may take beside, in stall limits: it is made of many calls into the module.
const MANAGING: u32 = 6;
/// What making a key may take beside: hardware seeks the primes of an RSA key for minutes.
const MAKING: Duration = Duration::from_secs(300);
const NO_MORE: Duration = Duration::ZERO;

fn not_found(name: &KeyName) -> Failure {
    Failure::Key(KeyError::NotFound(name.clone()))
}

impl Shared {
    fn token(&self) -> &Token {
        self.pool.token()
    }

    /// What a call that manages keys may take, and makes none.
    fn longest(&self) -> Duration {
        managing(self.pool.inner().stall_limit)
    }

    fn until(&self) -> Option<Instant> {
        *self.until.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn set_until(&self, until: Option<Instant>) {
        *self.until.lock().unwrap_or_else(PoisonError::into_inner) = until;
    }

    fn create(
        &self,
        manager: &mut Manager,
        name: &KeyName,
        key_type: KeyType,
    ) -> Result<Arc<dyn SigningKey>, Failure> {
        if self.inspect(manager, name)?.is_some() || self.retired.contains(name) {
            return Err(Failure::Key(KeyError::Exists(name.clone())));
        }
        self.token().create(name, key_type, manager.until)?;
        let found = self.find(manager, name);
        if matches!(found, Err(Failure::Key(KeyError::Unsafe { .. }))) {
            // It was never given out. The error that is returned says more than a failure to clean up would.
            let _ = self.token().destroy(name, manager.until);
        }
        found?.ok_or_else(|| not_found(name))
    }

    fn find(
        &self,
        manager: &mut Manager,
        name: &KeyName,
    ) -> Result<Option<Arc<dyn SigningKey>>, Failure> {
        let found = self.prove(manager, name)?;
        let Some((pair, proven)) = found.filter(|_| !self.retired.contains(name)) else {
            return Ok(None);
        };
        self.pool.inner().queue.note_pace(proven.took);
        if let Some(key) = manager.live(name)
            && *key.public_key() == pair.public_key
            && key.algorithms() == proven.algorithms
        {
            return Ok(Some(key));
        }
        let key = Arc::new(self.key(name, pair, proven)?);
        manager.live.insert(name.clone(), Arc::downgrade(&key));
        Ok(Some(key))
    }

    /// Looks the key up and has it sign. After a wrong signature it signs once more, on another session.
    fn prove(
        &self,
        manager: &mut Manager,
        name: &KeyName,
    ) -> Result<Option<(Pair, Proven)>, Failure> {
        let token = self.token();
        for is_last in [false, true] {
            let found = self.on_session(manager, |session| {
                let Some(pair) = token.inspect(session, name)? else { return Ok(None) };
                let proven = token.prove(session, name, &pair)?;
                Ok(Some((pair, proven)))
            })?;
            match found {
                None => return Ok(None),
                Some((pair, Some(proven))) => return Ok(Some((pair, proven))),
                Some((_, None)) => self.oversight.metrics.key(name).wrong(),
            }
            manager.session = None;
            if !is_last {
                verification::alarm(name, token.place());
            }
        }
        Err(unsafe_key(name, "what it signs does not verify with its public half"))
    }

    fn key(&self, name: &KeyName, pair: Pair, proven: Proven) -> Result<TokenKey, Failure> {
        let verifiers = Verifiers::new(&pair.public_key, self.oversight.verification);
        let verifiers = verifiers.map_err(|error| unsafe_key(name, &error.to_string()))?;
        for (algorithm, reason) in &proven.refused {
            tracing::warn!(
                key = %name,
                place = self.token().place(),
                reason,
                "the token refuses to sign by {algorithm} with this key, which does without"
            );
        }
        let facts = Facts::new(
            name.clone(),
            (proven.algorithms, proven.refused),
            pair.public_key,
            self.retired.of(name),
            verifiers,
            self.oversight.metrics.key(name),
        );
        Ok(TokenKey::new(Arc::clone(&self.pool), Arc::new(facts)))
    }

    fn list(&self, manager: &mut Manager) -> Result<Vec<KeyName>, Failure> {
        let labels = self.on_session(manager, |session| Ok(object::labels(session)?))?;
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
    ) -> Result<Option<KeyDescription>, Failure> {
        let found = self.inspect(manager, &name)?;
        let Some(pair) = found.filter(|_| !self.retired.contains(&name)) else { return Ok(None) };
        // Nothing is signed here, so what the token refuses with this key is known of one in use alone.
        let used = manager.live(&name).filter(|key| *key.public_key() == pair.public_key);
        let algorithms = match used {
            Some(key) => key.algorithms().to_vec(),
            None => self.token().algorithms(&pair.public_key),
        };
        Ok(Some(KeyDescription {
            name,
            algorithms,
            public_key: pair.public_key,
            location: format!("object {} of {}", pair.private, self.token().place()),
            facts: pair.facts,
        }))
    }

    fn destroy(&self, manager: &mut Manager, name: &KeyName) -> Result<String, Failure> {
        self.inspect(manager, name)?.ok_or_else(|| not_found(name))?;
        self.retired.of(name).set();
        manager.live.remove(name);
        self.token().destroy(name, manager.until)?;
        Ok(format!("destroyed in {}", self.token().place()))
    }

    fn inspect(&self, manager: &mut Manager, name: &KeyName) -> Result<Option<Pair>, Failure> {
        self.on_session(manager, |session| self.token().inspect(session, name))
    }

    /// Runs `work` on the managing session. If that was lost, or a generation of the module ended with it,
    /// opens another and tries again; if the library has lost its device, has that brought back first, and
    /// waits some seconds for it, as for a device that wants less.
    fn on_session<T>(
        &self,
        manager: &mut Manager,
        work: impl Fn(&Session) -> Result<T, Failure>,
    ) -> Result<T, Failure> {
        let (mut tries, mut pause, end) = (0, PAUSE, Instant::now() + PATIENCE);
        loop {
            tries += 1;
            let present = self.token().module().generation();
            let (generation, fault) = match self.try_on_session(manager, &work) {
                (generation, Err(Failure::Token(fault))) => (generation.unwrap_or(present), fault),
                (_, result) => return result,
            };
            let is_away = match fault.class {
                Class::Refused | Class::Credentials => return Err(Failure::Token(fault)),
                Class::Library => true,
                // Another store has the library initialised, or has given up and gone.
                Class::Past => self.token().module().is_down(),
                _ => false,
            };
            let left = end.saturating_duration_since(Instant::now());
            let wants_less = fault.class == Class::Later;
            let too_long = (is_away || wants_less) && left.is_zero();
            if too_long || !wants_less && tries == MOST_TRIES {
                return Err(Failure::Token(fault));
            }
            if is_away {
                self.pool.inner().recover_within(generation, &fault.said, left);
            } else if wants_less || fault.class == Class::Device {
                thread::sleep(pause);
                pause = (pause * 2).min(LONGEST_PAUSE);
            }
        }
    }

    /// Runs `work` once; gives up the session if the token fails. Says of which generation that was.
    fn try_on_session<T>(
        &self,
        manager: &mut Manager,
        work: impl Fn(&Session) -> Result<T, Failure>,
    ) -> (Option<u64>, Result<T, Failure>) {
        let token = self.token();
        let session = match manager.session.take().map_or_else(|| token.session(), Ok) {
            Ok(session) => session,
            Err(fault) => return (None, Err(fault.into())),
        };
        let generation = Some(session.generation());
        let result = session.run_until(Instant::now() + self.longest(), |session| {
            token.log_in(session)?;
            work(session)
        });
        if !matches!(result, Err(Failure::Token(_))) {
            manager.session = Some(session);
        }
        (generation, result)
    }
}
