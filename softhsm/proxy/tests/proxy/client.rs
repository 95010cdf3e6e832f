//! A client that has a token, a session and a key.

use std::time::{Duration, Instant};

use aws_lc_rs::digest::{SHA256, digest};
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED, UnparsedPublicKey};
use cryptoki::context::{CInitializeArgs, CInitializeFlags, Pkcs11};
use cryptoki::error::{Error, RvError};
use cryptoki::mechanism::Mechanism;
use cryptoki::object::{Attribute, AttributeType, ObjectHandle};
use cryptoki::session::{Session, UserType};
use cryptoki::slot::Slot;
use cryptoki::types::AuthPin;
use pkcs11_proxy::testing::{self, Turn};
use softhsm::Token;

/// P-256, as an OID in DER.
const P256: [u8; 10] = [0x06, 0x08, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07];
pub(crate) const MESSAGE: &[u8] = b"to be signed";

pub(crate) struct Client {
    pub(crate) session: Session,
    pub(crate) key: ObjectHandle,
    pub(crate) public: ObjectHandle,
    pub(crate) context: Pkcs11,
    pub(crate) slot: Slot,
    pub(crate) token: Token,
    /// The last to go: the turn ends when the session is closed.
    pub(crate) device: Turn,
}

impl Client {
    /// With a new token and a P-256 key in it; the counters begin after that.
    pub(crate) fn new() -> Self {
        let device = testing::device();
        // Initialises SoftHSM itself, so that the proxy is not the one to finalise it.
        let token = Token::fresh();
        let context = load();
        let slot = slot_of(&context, &token);
        let session = context.open_rw_session(slot).unwrap();
        log_in(&session, &token).unwrap();
        let (public, key) = make_key(&session).unwrap();
        device.reset();
        Self { session, key, public, context, slot, token, device }
    }

    /// Another session on the same token, which is logged in.
    pub(crate) fn another_session(&self) -> Result<Session, Error> {
        self.context.open_ro_session(self.slot)
    }

    pub(crate) fn sign(&self) -> Result<Vec<u8>, Error> {
        sign(&self.session, self.key)
    }

    pub(crate) fn verifies(&self, signature: &[u8]) -> bool {
        let asked = [AttributeType::EcPoint];
        let Ok([Attribute::EcPoint(point)]) =
            <[Attribute; 1]>::try_from(self.session.get_attributes(self.public, &asked).unwrap())
        else {
            panic!("a public key has its point")
        };
        // An OCTET STRING of 65 bytes around it.
        let key = UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, &point[2..]);
        key.verify(MESSAGE, signature).is_ok()
    }
}

/// The proxy, initialised.
pub(crate) fn load() -> Pkcs11 {
    let context = Pkcs11::new(pkcs11_proxy::module_path().unwrap()).unwrap();
    match context.initialize(CInitializeArgs::new(CInitializeFlags::OS_LOCKING_OK)) {
        Ok(()) | Err(Error::Pkcs11(RvError::CryptokiAlreadyInitialized, _)) => context,
        Err(error) => panic!("{error}"),
    }
}

pub(crate) fn slot_of(context: &Pkcs11, token: &Token) -> Slot {
    let slots = context.get_slots_with_token().unwrap();
    let is_it = |slot: &Slot| {
        context.get_token_info(*slot).unwrap().serial_number().trim_end() == token.serial()
    };
    slots.into_iter().find(is_it).expect("the token is in a slot")
}

pub(crate) fn log_in(session: &Session, token: &Token) -> Result<(), Error> {
    session.login(UserType::User, Some(&AuthPin::from(pin(token).as_str())))
}

pub(crate) fn pin(token: &Token) -> String {
    std::fs::read_to_string(token.pin_file()).unwrap()
}

/// The public and the private one.
pub(crate) fn make_key(session: &Session) -> Result<(ObjectHandle, ObjectHandle), Error> {
    let public =
        [Attribute::Token(true), Attribute::Verify(true), Attribute::EcParams(P256.to_vec())];
    let private = [
        Attribute::Token(true),
        Attribute::Sign(true),
        Attribute::Private(true),
        Attribute::Id(b"key".to_vec()),
    ];
    session.generate_key_pair(&Mechanism::EccKeyPairGen, &public, &private)
}

pub(crate) fn sign(session: &Session, key: ObjectHandle) -> Result<Vec<u8>, Error> {
    session.sign(&Mechanism::Ecdsa, key, digest(&SHA256, MESSAGE).as_ref())
}

/// The code that a call failed with.
pub(crate) fn code<T>(answer: Result<T, Error>) -> Option<RvError> {
    match answer {
        Err(Error::Pkcs11(code, _)) => Some(code),
        Err(other) => panic!("{other}"),
        Ok(_) => None,
    }
}

/// Waits until something is so, at most ten seconds.
pub(crate) fn until(so: impl Fn() -> bool) {
    let start = Instant::now();
    while !so() {
        assert!(start.elapsed() < Duration::from_secs(10), "it never comes");
        std::thread::sleep(Duration::from_millis(1));
    }
}
