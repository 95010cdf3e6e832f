//! A wrong set-up is refused at the start, with its reason. Here are those for which the token has to lie,
//! by the fault-injecting proxy; `pkcs11.rs` has those that SoftHSM itself can be brought to (duplicate
//! labels, extractable keys, `CKA_SIGN=false`, another curve, half a pair, imported keys, PIN files,
//! missing tokens and modules), and `kryoptic.rs` locked PINs and their last try.

#![expect(clippy::unwrap_used, reason = "a test: the message is the line")]

use std::os::unix::fs::PermissionsExt;
use std::time::{Duration, Instant};

use ca_core::key::{
    KeyError, KeyName, KeyStore, KeyType, Priority, SignError, SignatureAlgorithm, ToBeSigned,
    Urgency,
};
use keymanager::metrics::StoreMetrics;
use keymanager::pkcs11::{Hashing, Settings, TokenSelector};
use keymanager::{Oversight, Pkcs11Store, SecretSource, Verification};
use pkcs11_proxy::cryptoki_sys::*;
use pkcs11_proxy::testing::{Turn, device};
use pkcs11_proxy::{Effect, Function, Lie, Rule, When};
use softhsm::Token;

pkcs11_proxy::test_process!();

const DOMAIN: &str = "setup.test";

/// A fresh token behind the proxy.
struct Setup {
    device: Turn,
    token: Token,
}

impl Setup {
    fn new() -> Self {
        let device = device();
        // Made before the proxy is loaded for the first time, so that SoftHSM is not the proxy's to end.
        Self { device, token: Token::fresh() }
    }

    fn settings(&self) -> Settings {
        let selector = TokenSelector::label(self.token.label()).with_serial(self.token.serial());
        let pin = SecretSource::File(self.token.pin_file().to_owned());
        let oversight =
            Oversight { verification: Verification::Always, metrics: StoreMetrics::default() };
        Settings::new(pkcs11_proxy::module_path().unwrap(), selector, pin, oversight)
    }

    async fn open(&self) -> Pkcs11Store {
        Pkcs11Store::open(self.settings(), DOMAIN).await.unwrap()
    }

    fn fail(&self, function: Function, code: u64) {
        let effect = Effect::Fail(code);
        self.device.add(Rule { function, when: When::Every(1), effect }).unwrap();
    }
}

fn name() -> KeyName {
    KeyName::parse(&format!("mintmark/{DOMAIN}/x509/1")).unwrap()
}

#[tokio::test]
async fn a_wrong_pin_is_tried_exactly_once_however_many_sessions_there_are() {
    let setup = Setup::new();
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("pin");
    std::fs::write(&file, "very-wrong-pin\n").unwrap();
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o600)).unwrap();
    let settings = Settings { pin: SecretSource::File(file), sessions: 16, ..setup.settings() };
    let error = Pkcs11Store::open(settings, DOMAIN).await.unwrap_err();
    assert_eq!(setup.device.calls(Function::Login), 1);
    assert!(matches!(error, KeyError::Credentials { .. }), "{error}");
    let text = error.to_string();
    for part in ["CKR_PIN_INCORRECT from C_Login", "not tried again", "correct the PIN"] {
        assert!(text.contains(part), "{part:?} is not in: {text}");
    }
    assert_eq!(setup.device.sessions_open(), 0, "nothing is left open");
}

#[tokio::test]
async fn a_right_pin_is_offered_once_for_all_sessions() {
    let setup = Setup::new();
    let settings = Settings { sessions: 16, ..setup.settings() };
    let store = Pkcs11Store::open(settings, DOMAIN).await.unwrap();
    store.create(&name(), KeyType::EcP256).await.unwrap();
    assert_eq!(setup.device.calls(Function::Login), 1);
}

#[tokio::test]
async fn what_a_token_says_of_the_pin_at_the_login_is_told() {
    let setup = Setup::new();
    for (code, text) in [
        (CKR_PIN_LOCKED, "CKR_PIN_LOCKED"),
        (CKR_PIN_EXPIRED, "CKR_PIN_EXPIRED"),
        (CKR_USER_PIN_NOT_INITIALIZED, "CKR_USER_PIN_NOT_INITIALIZED"),
    ] {
        let tried = setup.device.calls(Function::Login);
        setup.fail(Function::Login, code);
        let error = Pkcs11Store::open(setup.settings(), DOMAIN).await.unwrap_err();
        assert!(matches!(error, KeyError::Credentials { .. }), "{error}");
        assert!(error.to_string().contains(text), "{error}");
        assert_eq!(setup.device.calls(Function::Login), tried + 1);
        setup.device.clear_rules();
    }
}

/// What a private key may say of itself, and the reason that an operator reads.
const LIES: &[(CK_ATTRIBUTE_TYPE, bool, &str)] = &[
    (CKA_SENSITIVE, false, "its value can be read in plain text"),
    (CKA_ALWAYS_SENSITIVE, false, "its value could once be read in plain text"),
    (CKA_EXTRACTABLE, true, "it can be exported from the token"),
    (CKA_NEVER_EXTRACTABLE, false, "it could once be exported from the token"),
    (CKA_LOCAL, false, "it was not made in the token but brought there"),
    (CKA_SIGN, false, "it is not allowed to sign"),
    (CKA_ALWAYS_AUTHENTICATE, true, "it wants the PIN for every signature"),
    (CKA_SIGN_RECOVER, true, "it may do more than sign"),
    (CKA_DECRYPT, true, "it may do more than sign"),
    (CKA_UNWRAP, true, "it may do more than sign"),
    (CKA_DERIVE, true, "it may do more than sign"),
    (CKA_PRIVATE, false, "it can be seen and used without the PIN"),
];

#[tokio::test]
async fn a_key_that_says_otherwise_than_it_must_is_refused_with_what_that_means() {
    let setup = Setup::new();
    let store = setup.open().await;
    store.create(&name(), KeyType::EcP256).await.unwrap();
    for &(attribute, value, reason) in LIES {
        setup.device.lie(attribute, Lie::Boolean(value)).unwrap();
        assert_unsafe(&store, reason).await;
        setup.device.clear_lies();
    }
    assert!(store.find(&name()).await.unwrap().is_some(), "it was the lies");
}

#[tokio::test]
async fn a_key_that_does_not_tell_what_it_must_is_refused_for_each_promise() {
    let setup = Setup::new();
    let store = setup.open().await;
    store.create(&name(), KeyType::EcP256).await.unwrap();
    for &(attribute, _, reason) in &LIES[..7] {
        setup.device.lie(attribute, Lie::Hidden).unwrap();
        assert_unsafe(&store, &format!("so it may be that {reason}")).await;
        setup.device.clear_lies();
    }
    assert!(store.find(&name()).await.unwrap().is_some(), "it was the lies");
}

#[tokio::test]
async fn a_key_that_can_be_changed_or_copied_says_so() {
    let setup = Setup::new();
    setup.open().await.create(&name(), KeyType::EcP256).await.unwrap();
    for (attribute, shown) in [(CKA_MODIFIABLE, "CKA_MODIFIABLE"), (CKA_COPYABLE, "CKA_COPYABLE")] {
        for value in [true, false] {
            setup.device.lie(attribute, Lie::Boolean(value)).unwrap();
            let store = setup.open().await;
            assert!(store.find(&name()).await.unwrap().is_some());
            let facts = store.describe(&name()).await.unwrap().unwrap().facts;
            assert!(facts.contains(&(shown.to_owned(), value.to_string())), "{facts:?}");
            setup.device.clear_lies();
        }
        setup.device.lie(attribute, Lie::Hidden).unwrap();
        assert!(setup.open().await.find(&name()).await.unwrap().is_some(), "some do not know it");
        setup.device.clear_lies();
    }
}

async fn assert_unsafe(store: &Pkcs11Store, reason: &str) {
    let error = store.find(&name()).await.unwrap_err();
    assert!(matches!(error, KeyError::Unsafe { .. }), "{reason}: {error}");
    for part in [reason, name().as_str()] {
        assert!(error.to_string().contains(part), "{part:?} is not in: {error}");
    }
}

#[tokio::test]
async fn a_key_is_refused_by_the_next_process_as_by_the_one_that_has_it() {
    let setup = Setup::new();
    setup.open().await.create(&name(), KeyType::EcP256).await.unwrap();
    setup.device.lie(CKA_ALWAYS_AUTHENTICATE, Lie::Boolean(true)).unwrap();
    assert_unsafe(&setup.open().await, "it wants the PIN for every signature").await;
}

#[tokio::test]
async fn a_bad_key_that_the_token_makes_is_not_left_there() {
    let setup = Setup::new();
    let store = setup.open().await;
    setup.device.lie(CKA_NEVER_EXTRACTABLE, Lie::Boolean(false)).unwrap();
    let error = store.create(&name(), KeyType::EcP256).await.unwrap_err();
    assert!(matches!(error, KeyError::Unsafe { .. }), "{error}");
    setup.device.clear_lies();
    assert_eq!(store.list().await.unwrap(), []);
}

#[tokio::test]
async fn a_kind_of_key_whose_mechanism_is_missing_is_not_offered() {
    let setup = Setup::new();
    setup.device.hide_mechanism(CKM_ECDSA).unwrap();
    setup.device.hide_mechanism(CKM_RSA_PKCS_PSS).unwrap();
    let store = setup.open().await;
    let offered = &store.description().key_types;
    assert!(!offered.contains(&KeyType::EcP256), "{offered:?}");
    let error = store.create(&name(), KeyType::EcP256).await.unwrap_err();
    assert!(matches!(error, KeyError::Unsupported { .. }), "{error}");
    let key = store.create(&name(), KeyType::Rsa2048).await.unwrap();
    assert_eq!(key.algorithms(), [SignatureAlgorithm::RsaPkcs1Sha256]);
}

#[tokio::test]
async fn a_key_whose_mechanism_has_gone_is_refused_and_the_setting_named() {
    let setup = Setup::new();
    setup.open().await.create(&name(), KeyType::EcP256).await.unwrap();
    setup.device.hide_mechanism(CKM_ECDSA).unwrap();
    assert_unsafe(&setup.open().await, "does not sign with a key of kind").await;
    setup.device.reset();
    // SoftHSM hashes for RSA alone.
    let settings = Settings { hashing: Hashing::Device, ..setup.settings() };
    let store = Pkcs11Store::open(settings, DOMAIN).await.unwrap();
    assert_unsafe(&store, "(hash = …)").await;
}

#[tokio::test]
async fn a_key_that_does_not_sign_or_signs_wrongly_is_refused_before_it_is_used() {
    let setup = Setup::new();
    let store = setup.open().await;
    store.create(&name(), KeyType::EcP256).await.unwrap();
    setup.fail(Function::SignInit, CKR_KEY_FUNCTION_NOT_PERMITTED);
    assert_unsafe(&store, "CKR_KEY_FUNCTION_NOT_PERMITTED from C_SignInit").await;
    setup.device.clear_rules();
    let (when, effect) = (When::Every(1), Effect::Corrupt);
    setup.device.add(Rule { function: Function::Sign, when, effect }).unwrap();
    assert_unsafe(&store, "what it signs does not verify with its public half").await;
    setup.device.clear_rules();
    assert!(store.find(&name()).await.unwrap().is_some());
}

#[tokio::test]
async fn a_key_does_without_an_algorithm_that_the_token_refuses_and_says_why() {
    use SignatureAlgorithm::{RsaPkcs1Sha256, RsaPssSha256};
    let setup = Setup::new();
    // Nothing else signs meanwhile.
    let settings = Settings { probe_interval: Duration::from_secs(3600), ..setup.settings() };
    let store = Pkcs11Store::open(settings, DOMAIN).await.unwrap();
    let whole = store.create(&name(), KeyType::Rsa2048).await.unwrap();
    assert_eq!(whole.algorithms(), [RsaPkcs1Sha256, RsaPssSha256]);
    for (function, code, text) in [
        (Function::SignInit, CKR_KEY_FUNCTION_NOT_PERMITTED, "CKR_KEY_FUNCTION_NOT_PERMITTED"),
        (Function::Sign, CKR_FUNCTION_REJECTED, "CKR_FUNCTION_REJECTED"),
    ] {
        for (call, left, refused) in
            [(1, RsaPssSha256, RsaPkcs1Sha256), (2, RsaPkcs1Sha256, RsaPssSha256)]
        {
            let (when, effect) = (When::Nth(call), Effect::Fail(code));
            setup.device.add(Rule { function, when, effect }).unwrap();
            let key = store.find(&name()).await.unwrap().unwrap();
            setup.device.clear_rules();
            assert_eq!(key.algorithms(), [left]);
            assert_eq!(store.describe(&name()).await.unwrap().unwrap().algorithms, [left]);
            let sign = |algorithm| {
                let urgency =
                    Urgency::within(Priority::New, Duration::from_secs(30), Instant::now());
                key.sign(ToBeSigned::probe([7; 32], algorithm), urgency)
            };
            sign(left).await.unwrap();
            let error = sign(refused).await.unwrap_err();
            assert!(matches!(error, SignError::Refused { .. }), "{error}");
            for part in [&format!("it does not sign by {refused}: "), text] {
                assert!(error.to_string().contains(part), "{part:?} is not in: {error}");
            }
        }
        setup.fail(function, code);
        assert_unsafe(&store, text).await;
        setup.device.clear_rules();
    }
    let again = store.find(&name()).await.unwrap().unwrap();
    assert_eq!(again.algorithms(), whole.algorithms(), "as soon as it is permitted");
}

#[tokio::test]
async fn a_template_that_the_token_rejects_names_the_setting() {
    let setup = Setup::new();
    let store = setup.open().await;
    setup.fail(Function::GenerateKeyPair, CKR_TEMPLATE_INCONSISTENT);
    let error = store.create(&name(), KeyType::EcP256).await.unwrap_err();
    for part in ["CKR_TEMPLATE_INCONSISTENT", "leave that out by the template setting"] {
        assert!(error.to_string().contains(part), "{part:?} is not in: {error}");
    }
    setup.device.clear_rules();
    store.create(&name(), KeyType::EcP256).await.unwrap();
}

#[tokio::test]
async fn more_sessions_than_the_token_allows_are_told_with_what_to_do() {
    let setup = Setup::new();
    setup.fail(Function::OpenSession, CKR_SESSION_COUNT);
    let error = Pkcs11Store::open(setup.settings(), DOMAIN).await.unwrap_err();
    for part in ["CKR_SESSION_COUNT from C_OpenSession", "allows no more sessions, use fewer"] {
        assert!(error.to_string().contains(part), "{part:?} is not in: {error}");
    }
}
