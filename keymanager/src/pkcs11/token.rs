//! One token: found by its label, logged in to, and what can be done in it on a session.

use std::path::Path;

use ca_core::key::{KeyError, KeyName, KeyType, Signature, ToBeSigned};
use cryptoki::context::Pkcs11;
use cryptoki::mechanism::MechanismType;
use cryptoki::session::{Session, SessionState, UserType};
use cryptoki::slot::{Slot, TokenInfo};

use super::fault::Fault;
use super::key::Input;
use super::login::Login;
use super::object::{self, Pair};
use super::settings::{Settings, TokenSelector, trim};
use super::{key, module};

/// A token that is there and whose PIN is known.
pub(super) struct Token {
    context: Pkcs11,
    slot: Slot,
    place: String,
    login: Login,
    key_types: Vec<KeyType>,
    hardware: bool,
    read_write: bool,
}

impl Token {
    /// Finds the token and reads the PIN; does not log in yet.
    pub(super) fn open(settings: &Settings) -> Result<Self, KeyError> {
        let context = module::load(&settings.module)?;
        let (slot, info) = select(&context, &settings.token)?;
        let place = place(&info);
        if info.user_pin_locked() {
            let reason = "the PIN is locked; the security officer can set it anew".to_owned();
            return Err(KeyError::Credentials { place, reason });
        }
        if info.user_pin_final_try() {
            let reason =
                "one more wrong PIN would lock it; check the PIN, and log in once by hand \
                          (pkcs11-tool --login) so that the token counts anew"
                    .to_owned();
            return Err(KeyError::Credentials { place, reason });
        }
        let (key_types, hardware) =
            abilities(&context, slot).map_err(|error| Fault::from(error).key_error(&place))?;
        let login = Login::read(&settings.pin)?;
        let read_write = settings.read_write_sessions;
        Ok(Self { context, slot, place, login, key_types, hardware, read_write })
    }

    /// For people.
    pub(super) fn place(&self) -> &str {
        &self.place
    }

    /// What keys it can make and sign with.
    pub(super) fn key_types(&self) -> &[KeyType] {
        &self.key_types
    }

    /// Whether it says of itself that its keys live in hardware (`CKF_HW`).
    pub(super) fn hardware(&self) -> bool {
        self.hardware
    }

    /// A new session, logged in, to look up keys and sign.
    pub(super) fn session(&self) -> Result<Session, KeyError> {
        self.open_session(self.read_write).map_err(|fault| fault.key_error(&self.place))
    }

    fn open_session(&self, read_write: bool) -> Result<Session, Fault> {
        let session = if read_write {
            self.context.open_rw_session(self.slot)?
        } else {
            self.context.open_ro_session(self.slot)?
        };
        self.log_in(&session)?;
        Ok(session)
    }

    /// Makes sure that a session that was opened earlier still sees the private keys: a logout by
    /// anything else in this process hides them, without an error.
    pub(super) fn check_login(&self, session: &Session) -> Result<(), KeyError> {
        self.log_in(session).map_err(|fault| fault.key_error(&self.place))
    }

    fn log_in(&self, session: &Session) -> Result<(), Fault> {
        let logged_in = || {
            let state = session.get_session_info()?.session_state();
            Ok(matches!(state, SessionState::RoUser | SessionState::RwUser))
        };
        self.login.ensure(logged_in, |pin| session.login(UserType::User, Some(pin)))
    }

    /// Makes a key pair and checks it as every later look-up will. What fails the check is removed
    /// again: a key that was never given out is no loss, a bad one in its place would be.
    pub(super) fn create(&self, name: &KeyName, key_type: KeyType) -> Result<(), KeyError> {
        let failed = |fault: Fault| fault.key_error(&self.place);
        let session = self.open_session(true).map_err(failed)?;
        let made = object::generate(&session, name, key_type).map_err(|error| {
            let fault = Fault::from(error);
            failed(match fault {
                Fault::Refused(said) => {
                    Fault::Refused(format!("it does not make a key of type {key_type}: {said}"))
                }
                other => other,
            })
        })?;
        let checked = self.check_new(&session, name, key_type);
        if checked.is_err() {
            for handle in [made.0, made.1] {
                // The error that is returned says more than a failure to clean up would.
                let _ = session.destroy_object(handle);
            }
        }
        checked
    }

    fn check_new(
        &self,
        session: &Session,
        name: &KeyName,
        key_type: KeyType,
    ) -> Result<(), KeyError> {
        let pair = self
            .inspect(session, name)?
            .ok_or_else(|| unsafe_key(name, "the token does not show the key it just made"))?;
        if pair.public_key.kind() != key_type.kind() {
            let kind = pair.public_key.kind();
            return Err(unsafe_key(name, &format!("the token made {kind} instead of {key_type}")));
        }
        self.prove(session, name, &pair)
    }

    /// The one key pair of that name, if there is one; refuses it unless it keeps every promise.
    pub(super) fn inspect(
        &self,
        session: &Session,
        name: &KeyName,
    ) -> Result<Option<Pair>, KeyError> {
        object::inspect(session, name, &self.place)
    }

    /// Destroys the key pair of that name.
    pub(super) fn destroy(&self, name: &KeyName) -> Result<(), KeyError> {
        let session = self.open_session(true).map_err(|fault| fault.key_error(&self.place))?;
        object::destroy(&session, name).map_err(|error| Fault::from(error).key_error(&self.place))
    }

    /// The labels of all private keys.
    pub(super) fn labels(&self, session: &Session) -> Result<Vec<String>, KeyError> {
        object::labels(session).map_err(|error| Fault::from(error).key_error(&self.place))
    }

    /// Has the key sign a probe, and verifies it with the public half.
    pub(super) fn prove(
        &self,
        session: &Session,
        name: &KeyName,
        pair: &Pair,
    ) -> Result<(), KeyError> {
        let mut nonce = [0; 32];
        aws_lc_rs::rand::fill(&mut nonce).map_err(|_| KeyError::Unavailable {
            place: self.place.clone(),
            reason: "the system gives no random bytes for a probe".to_owned(),
        })?;
        let algorithm = pair.public_key.kind().usual_algorithm();
        let probe = ToBeSigned::probe(nonce, algorithm);
        let input = Input::new(&probe);
        let signed = key::sign_on(session, pair.private, algorithm, &input);
        let verifies = |signature: &Signature| pair.public_key.verifies(probe.message(), signature);
        match signed.map_err(Fault::from) {
            Ok(Ok(signature)) if verifies(&signature) => Ok(()),
            Ok(_) => Err(unsafe_key(name, "what it signs does not verify with its public half")),
            Err(Fault::Refused(said)) => {
                Err(unsafe_key(name, &format!("it does not sign: {said}")))
            }
            Err(fault) => Err(fault.key_error(&self.place)),
        }
    }
}

fn unsafe_key(name: &KeyName, reason: &str) -> KeyError {
    KeyError::Unsafe { name: name.clone(), reason: reason.to_owned() }
}

/// Finds the token, as it is described to people, and asks nothing of it that wants a PIN.
pub(super) fn find(module: &Path, selector: &TokenSelector) -> Result<String, KeyError> {
    let context = module::load(module)?;
    select(&context, selector).map(|(_, info)| place(&info))
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
    // A slot whose token cannot be asked holds none that could be used.
    let tokens: Vec<(Slot, TokenInfo)> = slots
        .into_iter()
        .filter_map(|slot| context.get_token_info(slot).ok().map(|info| (slot, info)))
        .filter(|(_, info)| info.token_initialized())
        .collect();
    let matching =
        |(_, info): &&(Slot, TokenInfo)| selector.matches(info.label(), info.serial_number());
    let mut found = tokens.iter().filter(matching);
    match (found.next(), found.next()) {
        (Some((slot, info)), None) => Ok((*slot, info.clone())),
        (Some(_), Some(_)) => {
            let reason = format!("several match; give the serial too. {}", listing(&tokens));
            Err(KeyError::Setup { place, reason })
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

/// What the mechanism list says: a type needs its generator and its signature, in its size.
fn abilities(context: &Pkcs11, slot: Slot) -> Result<(Vec<KeyType>, bool), cryptoki::error::Error> {
    let offered = context.get_mechanism_list(slot)?;
    let mut hardware = false;
    let mut holds =
        |mechanism: MechanismType, bits: Option<usize>| -> Result<bool, cryptoki::error::Error> {
            if !offered.contains(&mechanism) {
                return Ok(false);
            }
            let info = context.get_mechanism_info(slot, mechanism)?;
            hardware |= info.hardware();
            // Modules that do not limit sizes say 0.
            let max = if info.max_key_size() == 0 { usize::MAX } else { info.max_key_size() };
            Ok(bits.is_none_or(|bits| (info.min_key_size()..=max).contains(&bits)))
        };
    let mut key_types = Vec::new();
    for key_type in KeyType::ALL {
        let Some((generator, signature, bits)) = mechanisms(key_type) else { continue };
        if holds(generator, bits)? && holds(signature, bits)? {
            key_types.push(key_type);
        }
    }
    Ok((key_types, hardware))
}

fn mechanisms(key_type: KeyType) -> Option<(MechanismType, MechanismType, Option<usize>)> {
    use MechanismType as Type;
    Some(match key_type {
        KeyType::EcP256 => (Type::ECC_KEY_PAIR_GEN, Type::ECDSA, Some(256)),
        KeyType::EcP384 => (Type::ECC_KEY_PAIR_GEN, Type::ECDSA, Some(384)),
        KeyType::Rsa2048 => (Type::RSA_PKCS_KEY_PAIR_GEN, Type::RSA_PKCS, Some(2048)),
        KeyType::Rsa3072 => (Type::RSA_PKCS_KEY_PAIR_GEN, Type::RSA_PKCS, Some(3072)),
        KeyType::Rsa4096 => (Type::RSA_PKCS_KEY_PAIR_GEN, Type::RSA_PKCS, Some(4096)),
        // Modules count an Edwards key as 255 or 256 bits, or as 32 bytes.
        KeyType::Ed25519 => (Type::ECC_EDWARDS_KEY_PAIR_GEN, Type::EDDSA, None),
        KeyType::MlDsa44 | KeyType::MlDsa65 => return None,
    })
}
