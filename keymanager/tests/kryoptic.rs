//! Keys in a kryoptic token: a second opinion on what SoftHSM lets pass, and what SoftHSM cannot show.

#![expect(clippy::unwrap_used, reason = "a test: the message is the line")]

use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;

use ca_core::key::{KeyError, KeyStore, KeyType, SignError, SigningKey, ToBeSigned, contract};
use cryptoki::context::Pkcs11;
use cryptoki::mechanism::Mechanism;
use cryptoki::object::{Attribute, AttributeType, ObjectClass};
use cryptoki::session::{Session, UserType};
use cryptoki::slot::{Slot, TokenInfo};
use cryptoki::types::AuthPin;
use keymanager::pkcs11::Settings;
use keymanager::{Pkcs11Store, SecretSource};
use peers::kryoptic::Token;
use token::{DOMAIN, is_alone, name, open, pin, settings, soon};

mod token;

peers::kryoptic_process!();

/// The token as any program sees it. Its maker has initialised the library.
fn seen(token: &Token) -> (Pkcs11, Slot, TokenInfo) {
    let context = Pkcs11::new(token.module()).unwrap();
    for slot in context.get_slots_with_token().unwrap() {
        let info = context.get_token_info(slot).unwrap();
        if info.serial_number().trim_end() == token.serial() {
            return (context, slot, info);
        }
    }
    panic!("{token:?} is not there");
}

/// A session of an operator beside us.
fn operator(token: &Token) -> Session {
    let (context, slot, _) = seen(token);
    let session = context.open_rw_session(slot).unwrap();
    // The login belongs to the whole process: the store may have it already.
    let _ = session.login(UserType::User, Some(&AuthPin::from(pin(token).as_str())));
    session
}

/// Another program's work on the token: `pkcs11-tool` with these arguments.
fn other_program(token: &Token, arguments: &[&str]) {
    let mut command = Command::new("pkcs11-tool");
    command.env("KRYOPTIC_CONF", token.configuration());
    command.arg("--module").arg(token.module()).args(["--token-label", token.label(), "--login"]);
    let output = command.args(["--pin", &pin(token)]).args(arguments).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kryoptic_token_keeps_the_contract() {
    contract::key_store(&open(&Token::fresh()).await, DOMAIN).await.report("kryoptic");
}

#[tokio::test(flavor = "multi_thread")]
async fn read_write_sessions_and_a_single_one_keep_the_contract_of_a_key() {
    let token = Token::fresh();
    let settings = Settings { sessions: 1, read_write_sessions: true, ..settings(&token) };
    let store = Pkcs11Store::open(settings, DOMAIN).await.unwrap();
    let key = store.create(&name("x509/1"), KeyType::EcP256).await.unwrap();
    contract::signing_key(&key, usize::MAX).await;
}

#[tokio::test]
async fn what_the_module_lacks_is_not_offered() {
    let store = open(&Token::fresh()).await;
    let lacking = [KeyType::Ed25519, KeyType::MlDsa44, KeyType::MlDsa65];
    let offered = KeyType::ALL.into_iter().filter(|key_type| !lacking.contains(key_type));
    assert_eq!(store.description().key_types, offered.collect::<Vec<_>>());
}

#[tokio::test]
async fn a_key_is_the_same_key_for_another_store() {
    let token = Token::fresh();
    for (number, key_type) in [KeyType::EcP384, KeyType::Rsa2048].into_iter().enumerate() {
        let name = name(&format!("x509/{number}"));
        let made = open(&token).await.create(&name, key_type).await.unwrap();
        let found = open(&token).await.find(&name).await.unwrap().unwrap();
        assert_eq!(found.public_key(), made.public_key());
    }
}

#[tokio::test]
async fn a_key_can_only_sign_and_never_leaves() {
    let token = Token::fresh();
    let store = open(&token).await;
    store.create(&name("x509/1"), KeyType::EcP256).await.unwrap();
    let session = operator(&token);
    let private = session.find_objects(&[Attribute::Class(ObjectClass::PRIVATE_KEY)]).unwrap()[0];
    let expected = [
        Attribute::Private(true),
        Attribute::Sensitive(true),
        Attribute::AlwaysSensitive(true),
        Attribute::Extractable(false),
        Attribute::NeverExtractable(true),
        Attribute::Local(true),
        Attribute::Sign(true),
        Attribute::SignRecover(false),
        Attribute::Decrypt(false),
        Attribute::Unwrap(false),
        Attribute::Derive(false),
        Attribute::Modifiable(false),
        Attribute::Copyable(false),
    ];
    let types: Vec<AttributeType> = expected.iter().map(Attribute::attribute_type).collect();
    assert_eq!(session.get_attributes(private, &types).unwrap(), expected);
    assert_eq!(session.get_attributes(private, &[AttributeType::Value]).unwrap(), []);
}

#[tokio::test]
async fn a_key_that_breaks_a_promise_is_refused() {
    let token = Token::fresh();
    let store = open(&token).await;
    let session = operator(&token);
    for (generation, change, reason) in [
        (1, Attribute::Extractable(true), "can be exported"),
        (2, Attribute::Sensitive(false), "read in plain text"),
        (3, Attribute::Sign(false), "not allowed to sign"),
        (4, Attribute::Derive(true), "may do more than sign"),
        (5, Attribute::Id(vec![2]), "different ids"),
        (6, Attribute::AlwaysAuthenticate(true), "wants the PIN for every signature"),
    ] {
        let name = name(&format!("x509/{generation}"));
        let label = Attribute::Label(name.as_str().as_bytes().to_vec());
        let p256 = b"\x06\x08\x2a\x86\x48\xce\x3d\x03\x01\x07".to_vec();
        let (token, id) = (Attribute::Token(true), Attribute::Id(vec![1]));
        let public = [token.clone(), label.clone(), id.clone(), Attribute::EcParams(p256)];
        let mut private = vec![
            token,
            label,
            id,
            Attribute::Private(true),
            Attribute::Sensitive(true),
            Attribute::Extractable(false),
            Attribute::Sign(true),
        ];
        private.retain(|kept| kept.attribute_type() != change.attribute_type());
        private.push(change);
        session.generate_key_pair(&Mechanism::EccKeyPairGen, &public, &private).unwrap();
        let error = store.find(&name).await.unwrap_err();
        assert!(matches!(error, KeyError::Unsafe { .. }), "{error}");
        assert!(error.to_string().contains(reason), "{error}");
    }
}

/// Settings with a PIN that is not the token's; the folder holds it.
fn with_wrong_pin(token: &Token) -> (Settings, tempfile::TempDir) {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("pin");
    std::fs::write(&file, "very-wrong-pin\n").unwrap();
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o600)).unwrap();
    let pin = SecretSource::File(PathBuf::from(&file));
    (Settings { pin, ..settings(token) }, directory)
}

/// Has someone else mistake the PIN that often. The token locks at the tenth time and says when one try
/// is left; SoftHSM counts nothing.
fn mistake_the_pin(token: &Token, times: usize) {
    let (context, slot, _) = seen(token);
    let session = context.open_ro_session(slot).unwrap();
    for _ in 0..times {
        session.login(UserType::User, Some(&AuthPin::from("mistaken"))).unwrap_err();
    }
}

#[tokio::test]
async fn a_wrong_pin_costs_one_try() {
    let token = Token::fresh();
    mistake_the_pin(&token, 8);
    assert!(!seen(&token).2.user_pin_final_try());
    let (wrong, _directory) = with_wrong_pin(&token);
    let error = Pkcs11Store::open(wrong, DOMAIN).await.unwrap_err();
    assert!(matches!(error, KeyError::Credentials { .. }), "{error}");
    let info = seen(&token).2;
    assert!(info.user_pin_final_try() && !info.user_pin_locked(), "one more would have locked it");
}

#[tokio::test]
async fn the_last_try_is_left_to_a_person() {
    let token = Token::fresh();
    mistake_the_pin(&token, 9);
    let error = Pkcs11Store::open(settings(&token), DOMAIN).await.unwrap_err();
    assert!(matches!(error, KeyError::Credentials { .. }), "{error}");
    assert!(error.to_string().contains("one more wrong PIN would lock it"), "{error}");
    drop(operator(&token));
    open(&token).await;
}

#[tokio::test]
async fn a_locked_pin_is_told_as_such() {
    let token = Token::fresh();
    mistake_the_pin(&token, 10);
    let error = Pkcs11Store::open(settings(&token), DOMAIN).await.unwrap_err();
    assert!(matches!(error, KeyError::Credentials { .. }), "{error}");
    assert!(error.to_string().contains("the PIN is locked"), "{error}");
}

async fn assert_refuses(key: &Arc<dyn SigningKey>) {
    for _ in 0..3 {
        let error =
            key.sign(ToBeSigned::probe([1; 32], key.algorithm()), soon()).await.unwrap_err();
        assert!(matches!(error, SignError::Refused { .. }), "{error}");
    }
}

/// The module answers `CKR_GENERAL_ERROR` to whoever signs with it, where SoftHSM says that the handle
/// is gone.
#[tokio::test(flavor = "multi_thread")]
async fn a_key_deleted_by_another_program_refuses_and_the_others_go_on() {
    if !is_alone("a_key_deleted_by_another_program_refuses_and_the_others_go_on") {
        return;
    }
    let token = Token::fresh();
    let store = open(&token).await;
    let gone = store.create(&name("x509/1"), KeyType::EcP256).await.unwrap();
    let stays = store.create(&name("jwt/1"), KeyType::EcP256).await.unwrap();
    let label = name("x509/1").to_string();
    for kind in ["privkey", "pubkey"] {
        other_program(&token, &["--delete-object", "--type", kind, "--label", &label]);
    }
    assert_refuses(&gone).await;
    contract::signing_key(&stays, usize::MAX).await;
    assert!(store.find(&name("x509/1")).await.unwrap().is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_deleted_in_this_process_refuses() {
    if !is_alone("a_key_deleted_in_this_process_refuses") {
        return;
    }
    let token = Token::fresh();
    let store = open(&token).await;
    let gone = store.create(&name("x509/1"), KeyType::EcP256).await.unwrap();
    let session = operator(&token);
    for object in session.find_objects(&[Attribute::Token(true)]).unwrap() {
        session.destroy_object(object).unwrap();
    }
    assert_refuses(&gone).await;
}

/// Nothing is being signed at the time of the logout: this module waits for ever otherwise.
#[tokio::test(flavor = "multi_thread")]
async fn a_logout_by_something_else_in_the_process_is_repaired() {
    let token = Token::fresh();
    let store = open(&token).await;
    let key = store.create(&name("x509/1"), KeyType::EcP256).await.unwrap();
    for _ in 0..3 {
        operator(&token).logout().unwrap();
        contract::signing_key(&key, usize::MAX).await;
        operator(&token).logout().unwrap();
        assert_eq!(store.list().await.unwrap().len(), 1);
        operator(&token).logout().unwrap();
        let found = store.find(&name("x509/1")).await.unwrap().unwrap();
        assert_eq!(found.public_key(), key.public_key());
    }
}
