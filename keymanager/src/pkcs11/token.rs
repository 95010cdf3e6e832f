//! One token: found by what it says of itself, logged in to, and what can be done in it on a session.

use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use ca_core::key::{
    KeyError, KeyName, KeyType, PublicKey, Signature, SignatureAlgorithm, ToBeSigned,
};
use cryptoki::context::Pkcs11;
use cryptoki::mechanism::MechanismType;
use cryptoki::object::ObjectHandle;
use cryptoki::session::{Session, SessionState, UserType};
use cryptoki::slot::{Slot, TokenInfo};
use prometheus_client::metrics::gauge::Gauge;

use super::call::{self, Input};
use super::fault::{Class, Fault};
use super::gate::Inside;
use super::login::{Login, PinState};
use super::module::{self, Module};
use super::object::{self, Failure, Pair, Template};
use super::settings::{Hashing, Settings, TokenFacts, TokenSelector, trim};
use crate::metrics::StoreMetrics;

/// A token that is there and whose PIN is known.
pub(super) struct Token {
    module: Arc<Module>,
    selector: TokenSelector,
    label: String,
    /// The slot it is in, and the generation of the module in which it was found there.
    slot: Mutex<(u64, Slot)>,
    place: String,
    login: Login,
    abilities: Abilities,
    hashing: Hashing,
    read_write: bool,
    template: Template,
    metrics: StoreMetrics,
    open_sessions: Gauge,
}

/// What a key showed by signing.
pub(super) struct Proven {
    /// How it signs; the usual way first. Not empty.
    pub(super) algorithms: Vec<SignatureAlgorithm>,
    /// How the token refuses to sign with it, and what it said.
    pub(super) refused: Vec<(SignatureAlgorithm, String)>,
    /// How long one signature took, and its verification.
    pub(super) took: Duration,
}

/// What the mechanism list says.
struct Abilities {
    key_types: Vec<KeyType>,
    algorithms: Vec<SignatureAlgorithm>,
    /// Whether it says of itself that its keys live in hardware (`CKF_HW`).
    hardware: bool,
}

impl Token {
    /// Finds the token and reads the PIN; does not log in yet.
    pub(super) fn open(settings: &Settings) -> Result<Self, KeyError> {
        let module = module::load(&settings.module)?;
        let entered = module.revive().and_then(|()| module.enter_now());
        let (generation, entered) = entered.map_err(|fault| {
            fault.key_error(&format!("PKCS#11 module {}", settings.module.display()))
        })?;
        let (slot, info) = select(module.context(), &settings.token)?;
        let place = place(&info);
        check_pin_state(&info, &place)?;
        let abilities = Abilities::ask(module.context(), slot, settings.hashing)
            .map_err(|error| Fault::from(error).key_error(&place))?;
        drop(entered);
        let metrics = settings.oversight.metrics.clone();
        metrics.generation(generation);
        Ok(Self {
            module,
            selector: settings.token.clone(),
            label: trim(info.label()).to_owned(),
            slot: Mutex::new((generation, slot)),
            place,
            login: Login::with(&settings.pin)?,
            abilities,
            hashing: settings.hashing,
            read_write: settings.read_write_sessions,
            template: settings.template.clone(),
            open_sessions: metrics.sessions("open"),
            metrics,
        })
    }

    /// For people.
    pub(super) fn place(&self) -> &str {
        &self.place
    }

    /// Its label.
    pub(super) fn label(&self) -> &str {
        &self.label
    }

    /// What keys it can make and sign with.
    pub(super) fn key_types(&self) -> &[KeyType] {
        &self.abilities.key_types
    }

    /// How a key of that kind signs in it, unless the token refuses one of them with this key; the usual way
    /// first.
    pub(super) fn algorithms(&self, key: &PublicKey) -> Vec<SignatureAlgorithm> {
        let ways = key.kind().algorithms().iter().copied();
        ways.filter(|way| self.abilities.algorithms.contains(way)).collect()
    }

    /// Whether it says of itself that its keys live in hardware.
    pub(super) fn hardware(&self) -> bool {
        self.abilities.hardware
    }

    /// Its library.
    pub(super) fn module(&self) -> &Module {
        &self.module
    }

    /// What the token is given for a message; `None` if tokens do not sign so.
    pub(super) fn input(&self, message: &ToBeSigned) -> Option<Input> {
        Input::new(self.hashing, message)
    }

    /// A new session, logged in, to look up keys and sign. Waits while the library is being initialised.
    pub(super) fn session(&self) -> Result<TokenSession, Fault> {
        self.open_session(self.read_write, self.module.enter_now()?)
    }

    /// As [`session`](Self::session), but fails while the library is being initialised.
    pub(super) fn session_at_once(&self) -> Result<TokenSession, Fault> {
        let generation = self.module.generation();
        self.open_session(self.read_write, (generation, self.module.enter(generation)?))
    }

    fn open_session(
        &self,
        read_write: bool,
        (generation, _inside): (u64, Inside<'_>),
    ) -> Result<TokenSession, Fault> {
        let slot = self.slot(generation)?;
        let session = if read_write {
            self.module.context().open_rw_session_no_drop(slot)?
        } else {
            self.module.context().open_ro_session_no_drop(slot)?
        };
        self.metrics.session_opened();
        self.open_sessions.inc();
        let session = TokenSession {
            module: Arc::clone(&self.module),
            generation,
            session: Some(session),
            open: self.open_sessions.clone(),
        };
        self.log_in(session.bare())?;
        self.module.is_good_in(generation);
        Ok(session)
    }

    /// The slot it is in: looked for once in each generation of the module.
    fn slot(&self, generation: u64) -> Result<Slot, Fault> {
        let mut known = self.slot.lock().unwrap_or_else(PoisonError::into_inner);
        if known.0 != generation {
            let gone =
                |error: KeyError| Fault::new(Class::Library, "token not found", &error.to_string());
            let (slot, _) = select(self.module.context(), &self.selector).map_err(gone)?;
            *known = (generation, slot);
            self.metrics.generation(generation);
        }
        Ok(known.1)
    }

    /// Makes sure that a session that was opened earlier still sees the private keys: a logout by
    /// anything else in this process hides them, without an error.
    pub(super) fn log_in(&self, session: &Session) -> Result<(), Fault> {
        let logged_in = || is_logged_in(session);
        let log_in = |pin: &_| session.login(UserType::User, Some(pin));
        self.login.ensure(logged_in, log_in, || self.pin_state(session))
    }

    fn pin_state(&self, session: &Session) -> Option<PinState> {
        let slot = session.get_session_info().ok()?.slot_id();
        let info = self.module.context().get_token_info(slot).ok()?;
        Some([info.user_pin_count_low(), info.user_pin_final_try(), info.user_pin_locked()])
    }

    /// Whether the session sees the private keys.
    pub(super) fn is_logged_in(&self, session: &Session) -> Result<bool, Fault> {
        Ok(is_logged_in(session)?)
    }

    /// Makes a key pair and checks it as every later look-up will, except that it signs, on a read-write
    /// session of its own. What fails the check is removed again: a key that was never given out is no loss, a
    /// bad one in its place would be.
    pub(super) fn create(
        &self,
        name: &KeyName,
        key_type: KeyType,
        until: Instant,
    ) -> Result<(), Failure> {
        let session = self.open_session(true, self.module.enter_now()?)?;
        session.run_until(until, |session| {
            let made = object::generate(session, name, key_type, &self.template);
            let made = made.map_err(|failure| cannot_make(failure, key_type))?;
            let checked = self.check_new(session, name, key_type);
            if checked.is_err() {
                for handle in [made.0, made.1] {
                    // The error that is returned says more than a failure to clean up would.
                    let _ = session.destroy_object(handle);
                }
            }
            checked
        })
    }

    fn check_new(
        &self,
        session: &Session,
        name: &KeyName,
        key_type: KeyType,
    ) -> Result<(), Failure> {
        let pair = self
            .inspect(session, name)?
            .ok_or_else(|| unsafe_key(name, "the token does not show the key it just made"))?;
        if pair.public_key.kind() != key_type.kind() {
            let kind = pair.public_key.kind();
            return Err(unsafe_key(name, &format!("the token made {kind} instead of {key_type}")));
        }
        Ok(())
    }

    /// Destroys the key pair of that name.
    pub(super) fn destroy(&self, name: &KeyName, until: Instant) -> Result<(), Failure> {
        let session = self.open_session(true, self.module.enter_now()?)?;
        session.run_until(until, |session| Ok(object::destroy(session, name)?))
    }

    /// The one key pair of that name, if there is one; refuses it unless it keeps every promise.
    pub(super) fn inspect(
        &self,
        session: &Session,
        name: &KeyName,
    ) -> Result<Option<Pair>, Failure> {
        object::inspect(session, name, &self.place)
    }

    /// Has the key sign a probe by each of its algorithms, and verifies it with the public half. One that the
    /// token refuses, for want of a permission say, is left out, if another is left. `None` if the key signs
    /// wrongly.
    pub(super) fn prove(
        &self,
        session: &Session,
        name: &KeyName,
        pair: &Pair,
    ) -> Result<Option<Proven>, Failure> {
        let algorithms = self.algorithms(&pair.public_key);
        if algorithms.is_empty() {
            let reason = format!(
                "the token does not sign with a key of kind {} as it is set (hash = …)",
                pair.public_key.kind()
            );
            return Err(unsafe_key(name, &reason));
        }
        let (count, started) = (algorithms.len() as u32, Instant::now());
        let (mut proven, mut refused) = (Vec::new(), Vec::new());
        for algorithm in algorithms {
            match self.prove_one(session, pair, algorithm) {
                Ok(true) => proven.push(algorithm),
                Ok(false) => return Ok(None),
                Err(fault) if fault.class == Class::Refused => {
                    refused.push((algorithm, fault.said))
                }
                Err(fault) => return Err(fault.into()),
            }
        }
        if let ([], [(algorithm, said), ..]) = (&proven[..], &refused[..]) {
            return Err(unsafe_key(name, &format!("it does not sign by {algorithm}: {said}")));
        }
        Ok(Some(Proven { algorithms: proven, refused, took: started.elapsed() / count }))
    }

    /// Whether what it signs verifies.
    fn prove_one(
        &self,
        session: &Session,
        pair: &Pair,
        algorithm: SignatureAlgorithm,
    ) -> Result<bool, Fault> {
        let mut nonce = [0; 32];
        aws_lc_rs::rand::fill(&mut nonce).map_err(|_| {
            Fault::new(Class::Later, "random", "the system gives no random bytes for a probe")
        })?;
        let probe = ToBeSigned::probe(nonce, algorithm);
        let input = self.input(&probe).expect("the token has told that it signs so");
        let signed = self.sign_on(session, pair.private, &input)?;
        Ok(signed.is_ok_and(|signature| pair.public_key.verifies(probe.message(), &signature)))
    }

    /// Has the token sign, on a session in use by this thread alone and inside the module.
    pub(super) fn sign_on(
        &self,
        session: &Session,
        key: ObjectHandle,
        input: &Input,
    ) -> Result<Result<Signature, ca_core::key::SignatureError>, Fault> {
        Ok(self.module.calls().sign(session, key, input)?)
    }
}

fn is_logged_in(session: &Session) -> cryptoki::error::Result<bool> {
    let state = session.get_session_info()?.session_state();
    Ok(matches!(state, SessionState::RoUser | SessionState::RwUser))
}

/// A key that may not be used.
pub(super) fn unsafe_key(name: &KeyName, reason: &str) -> Failure {
    Failure::Key(KeyError::Unsafe { name: name.clone(), reason: reason.to_owned() })
}

/// What is refused about a template is about the kind of key or an attribute.
fn cannot_make(failure: Failure, key_type: KeyType) -> Failure {
    match failure {
        Failure::Token(fault) if fault.class == Class::Refused => {
            let said = format!(
                "it does not make a key of type {key_type}: {}; if it rejects an attribute, leave that \
                 out by the template setting",
                fault.said
            );
            Failure::Token(Fault { said, ..fault })
        }
        other => other,
    }
}

/// Refuses to use up the last tries of a PIN.
fn check_pin_state(info: &TokenInfo, place: &str) -> Result<(), KeyError> {
    let refused = |reason: &str| {
        Err(KeyError::Credentials { place: place.to_owned(), reason: reason.to_owned() })
    };
    if info.user_pin_locked() {
        return refused("the PIN is locked; the security officer can set it anew");
    }
    if info.user_pin_final_try() {
        return refused(
            "one more wrong PIN would lock it; check the PIN, and log in once by hand \
             (pkcs11-tool --login) so that the token counts anew",
        );
    }
    Ok(())
}

/// A session of a token, logged in, and of one generation of its module.
pub(super) struct TokenSession {
    module: Arc<Module>,
    generation: u64,
    /// There until it is dropped.
    session: Option<Session>,
    open: Gauge,
}

impl TokenSession {
    /// Calls the token, unless the module has been initialised anew since the session was opened: its number
    /// may be another session's by now.
    pub(super) fn run<T, E: From<Fault>>(
        &self,
        work: impl FnOnce(&Session) -> Result<T, E>,
    ) -> Result<T, E> {
        let _inside = self.module.enter(self.generation)?;
        work(self.bare())
    }

    /// As [`run`](Self::run), for work that may take until then without hanging.
    pub(super) fn run_until<T, E: From<Fault>>(
        &self,
        until: Instant,
        work: impl FnOnce(&Session) -> Result<T, E>,
    ) -> Result<T, E> {
        let _guest = self.module.enter_until(self.generation, until)?;
        work(self.bare())
    }

    /// The generation of the module in which it was opened.
    pub(super) fn generation(&self) -> u64 {
        self.generation
    }

    fn bare(&self) -> &Session {
        self.session.as_ref().expect("there until it is dropped")
    }
}

impl Drop for TokenSession {
    fn drop(&mut self) {
        self.open.dec();
        let session = self.session.take();
        // A session of the past was closed with the library; its number is not ours any more.
        if let (Some(session), Ok(_inside)) = (session, self.module.enter(self.generation)) {
            // It may be closed already, which is as good.
            let _ = session.close();
        }
    }
}

/// Finds the token, as it is described to people, and asks nothing of it that wants a PIN.
pub(super) fn find(module: &Path, selector: &TokenSelector) -> Result<String, KeyError> {
    let named = format!("PKCS#11 module {}", module.display());
    let module = module::load(module)?;
    let entered = module.revive().and_then(|()| module.enter_now());
    let _inside = entered.map_err(|fault| fault.key_error(&named))?;
    select(module.context(), selector).map(|(_, info)| place(&info))
}

/// A token for people.
fn place(info: &TokenInfo) -> String {
    format!(
        "{} token \"{}\" (serial {})",
        trim(info.model()),
        trim(info.label()),
        trim(info.serial_number())
    )
}

/// The one token that the selector names.
fn select(context: &Pkcs11, selector: &TokenSelector) -> Result<(Slot, TokenInfo), KeyError> {
    let place = format!("PKCS#11 token {selector}");
    let slots =
        context.get_slots_with_token().map_err(|error| Fault::from(error).key_error(&place))?;
    let mut unasked = None;
    let mut ask = |slot: Slot| match context.get_token_info(slot) {
        Ok(info) => Some((slot, info)),
        // It may hold the token that is looked for.
        Err(error) => {
            unasked = Some(Fault::from(error).said);
            None
        }
    };
    let tokens: Vec<(Slot, TokenInfo)> = slots
        .iter()
        .filter_map(|slot| ask(*slot))
        .filter(|(_, info)| info.token_initialized())
        .collect();
    let matching = |(_, info): &&(Slot, TokenInfo)| {
        selector.matches(&TokenFacts {
            label: info.label(),
            serial: info.serial_number(),
            manufacturer: info.manufacturer_id(),
            model: info.model(),
        })
    };
    let mut found = tokens.iter().filter(matching);
    match (found.next(), found.next()) {
        (Some((slot, info)), None) => Ok((*slot, info.clone())),
        (Some(_), Some(_)) => {
            let reason = format!("several match; give the serial too. {}", listing(&tokens));
            Err(KeyError::Setup { place, reason })
        }
        (None, _) if unasked.is_some() || has_empty_slots(context, slots.len()) => {
            let why = unasked.unwrap_or_else(|| "a slot is empty".to_owned());
            let reason = format!(
                "the module has no such token, or it is away ({why}). {}; see whether the device is on \
                 and connected",
                listing(&tokens)
            );
            Err(KeyError::Unavailable { place, reason })
        }
        (None, _) => {
            let reason = format!(
                "the module has no such token. {}; make one with the vendor's tools (for SoftHSM: \
                 softhsm2-util --init-token --free --label NAME)",
                listing(&tokens)
            );
            Err(KeyError::Setup { place, reason })
        }
    }
}

/// Whether there are slots without a token, or none at all: a device may be away.
fn has_empty_slots(context: &Pkcs11, with_token: usize) -> bool {
    context.get_all_slots().is_ok_and(|all| all.len() > with_token || all.is_empty())
}

fn listing(tokens: &[(Slot, TokenInfo)]) -> String {
    if tokens.is_empty() {
        return "It has none at all".to_owned();
    }
    let shown: Vec<String> = tokens
        .iter()
        .take(16)
        .map(|(_, info)| {
            format!("\"{}\" (serial {})", trim(info.label()), trim(info.serial_number()))
        })
        .collect();
    format!("It has {}", shown.join(", "))
}

impl Abilities {
    /// A type needs its generator and its usual signature, in its size.
    fn ask(context: &Pkcs11, slot: Slot, hashing: Hashing) -> Result<Self, cryptoki::error::Error> {
        let offered = context.get_mechanism_list(slot)?;
        let mut hardware = false;
        let mut holds = |mechanism: MechanismType,
                         bits: Option<usize>|
         -> Result<bool, cryptoki::error::Error> {
            if !offered.contains(&mechanism) {
                return Ok(false);
            }
            let info = context.get_mechanism_info(slot, mechanism)?;
            hardware |= info.hardware();
            // Modules that do not limit sizes say 0.
            let max = if info.max_key_size() == 0 { usize::MAX } else { info.max_key_size() };
            Ok(bits.is_none_or(|bits| (info.min_key_size()..=max).contains(&bits)))
        };
        let (mut key_types, mut algorithms) = (Vec::new(), Vec::new());
        for key_type in KeyType::ALL {
            let Some((generator, bits)) = generator(key_type) else { continue };
            let usual = key_type.signature_algorithm();
            for &algorithm in key_type.kind().algorithms() {
                let Some(signs) = signing_mechanism(hashing, algorithm) else { continue };
                if holds(signs, bits)? && !algorithms.contains(&algorithm) {
                    algorithms.push(algorithm);
                }
            }
            let Some(signs) = signing_mechanism(hashing, usual) else { continue };
            if holds(generator, bits)? && holds(signs, bits)? {
                key_types.push(key_type);
            }
        }
        Ok(Self { key_types, algorithms, hardware })
    }
}

fn signing_mechanism(hashing: Hashing, algorithm: SignatureAlgorithm) -> Option<MechanismType> {
    MechanismType::try_from(call::mechanism(hashing, algorithm)?).ok()
}

/// What makes a key, and its size in bits as mechanism lists count it.
fn generator(key_type: KeyType) -> Option<(MechanismType, Option<usize>)> {
    use MechanismType as Type;
    Some(match key_type {
        KeyType::EcP256 => (Type::ECC_KEY_PAIR_GEN, Some(256)),
        KeyType::EcP384 => (Type::ECC_KEY_PAIR_GEN, Some(384)),
        KeyType::Rsa2048 => (Type::RSA_PKCS_KEY_PAIR_GEN, Some(2048)),
        KeyType::Rsa3072 => (Type::RSA_PKCS_KEY_PAIR_GEN, Some(3072)),
        KeyType::Rsa4096 => (Type::RSA_PKCS_KEY_PAIR_GEN, Some(4096)),
        // Modules count an Edwards key as 255 or 256 bits, or as 32 bytes.
        KeyType::Ed25519 => (Type::ECC_EDWARDS_KEY_PAIR_GEN, None),
        KeyType::MlDsa44 | KeyType::MlDsa65 => return None,
    })
}
