//! Keys in a SoftHSM token, one fresh token for each test.

#![expect(clippy::unwrap_used, reason = "a test: the message is the line")]

use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::{Duration, Instant};

use ca_core::key::{
    KeyError, KeyName, KeyStore, KeyType, SignError, SigningKey, ToBeSigned, contract,
};
use cryptoki::context::{CInitializeArgs, CInitializeFlags, Pkcs11};
use cryptoki::mechanism::Mechanism;
use cryptoki::object::{Attribute, AttributeType, ObjectClass};
use cryptoki::session::{Session, UserType};
use cryptoki::types::AuthPin;
use keymanager::pkcs11::{Settings, TokenSelector};
use keymanager::{Pkcs11Store, SecretSource};
use softhsm::Token;
use token::{DOMAIN, is_alone, name, open, pin, settings, soon};

mod token;

softhsm::test_process!();

/// A session of an operator beside us, to make keys as they should not be.
fn operator(token: &Token) -> Session {
    let context = Pkcs11::new(token.module()).unwrap();
    // The store or the token's maker has initialised the library; the answer does not matter.
    let _ = context.initialize(CInitializeArgs::new(CInitializeFlags::OS_LOCKING_OK));
    let slot = context
        .get_slots_with_initialized_token()
        .unwrap()
        .into_iter()
        .find(|slot| context.get_token_info(*slot).unwrap().serial_number() == token.serial())
        .unwrap();
    let session = context.open_rw_session(slot).unwrap();
    // Logged in already where a store is open.
    let _ = session.login(UserType::User, Some(&AuthPin::from(pin(token).as_str())));
    session
}

const P256: &[u8] = b"\x06\x08\x2a\x86\x48\xce\x3d\x03\x01\x07";
const P521: &[u8] = b"\x06\x05\x2b\x81\x04\x00\x23";

/// Makes a key pair by hand: a good one, but for `changes`.
fn make(session: &Session, name: &KeyName, curve: &[u8], changes: &[Attribute]) {
    let label = Attribute::Label(name.as_str().as_bytes().to_vec());
    let public = [
        Attribute::Token(true),
        Attribute::Verify(true),
        Attribute::EcParams(curve.to_vec()),
        Attribute::Id(vec![1]),
        label.clone(),
    ];
    let mut private = vec![
        Attribute::Token(true),
        Attribute::Private(true),
        Attribute::Sensitive(true),
        Attribute::Extractable(false),
        Attribute::Sign(true),
        Attribute::SignRecover(false),
        Attribute::Decrypt(false),
        Attribute::Unwrap(false),
        Attribute::Derive(false),
        Attribute::Id(vec![1]),
        label,
    ];
    for change in changes {
        private.retain(|kept| kept.attribute_type() != change.attribute_type());
        private.push(change.clone());
    }
    session.generate_key_pair(&Mechanism::EccKeyPairGen, &public, &private).unwrap();
}

fn delete(session: &Session, name: &KeyName) {
    let label = Attribute::Label(name.as_str().as_bytes().to_vec());
    for object in session.find_objects(&[label]).unwrap() {
        session.destroy_object(object).unwrap();
    }
}

async fn refusal(store: &Pkcs11Store, name: &KeyName) -> KeyError {
    store.find(name).await.unwrap_err()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_keeps_the_contract() {
    contract::key_store(&open(&Token::fresh()).await, DOMAIN).await.report("SoftHSM");
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
async fn soft_hsm_offers_every_kind_of_key() {
    let store = open(&Token::fresh()).await;
    assert_eq!(store.description().key_types, KeyType::ALL[..6], "all but ML-DSA");
    assert_eq!(store.description().kind, "pkcs11");
}

#[tokio::test]
async fn a_key_is_the_same_key_for_another_store() {
    let token = Token::fresh();
    let made = open(&token).await.create(&name("x509/1"), KeyType::EcP384).await.unwrap();
    let found = open(&token).await.find(&name("x509/1")).await.unwrap().unwrap();
    assert_eq!(found.public_key(), made.public_key());
}

#[tokio::test]
async fn a_key_can_only_sign_and_never_leaves() {
    let token = Token::fresh();
    let store = open(&token).await;
    let key = store.create(&name("x509/1"), KeyType::EcP256).await.unwrap();
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
        Attribute::Label(name("x509/1").as_str().as_bytes().to_vec()),
    ];
    let types: Vec<AttributeType> = expected.iter().map(Attribute::attribute_type).collect();
    assert_eq!(session.get_attributes(private, &types).unwrap(), expected);
    assert_eq!(session.get_attributes(private, &[AttributeType::Value]).unwrap(), []);
    drop(key);
}

#[tokio::test]
async fn a_wrong_pin_is_refused_and_not_shown() {
    let token = Token::fresh();
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("pin");
    std::fs::write(&file, "very-wrong-pin\n").unwrap();
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o600)).unwrap();
    let wrong = Settings { pin: SecretSource::File(file), ..settings(&token) };
    let error = Pkcs11Store::open(wrong.clone(), DOMAIN).await.unwrap_err();
    assert!(matches!(error, KeyError::Credentials { .. }), "{error}");
    for shown in [error.to_string(), format!("{error:?}"), format!("{wrong:?}")] {
        assert!(!shown.contains("very-wrong-pin"), "{shown}");
    }
    open(&token).await;
}

#[tokio::test]
async fn no_pin_is_shown_anywhere() {
    let token = Token::fresh();
    let pin = pin(&token);
    let store = open(&token).await;
    let key = store.create(&name("x509/1"), KeyType::EcP256).await.unwrap();
    let shown = format!(
        "{store:?} {key:?} {:?} {:?} {:?}",
        store.description(),
        settings(&token),
        refusal_texts(&store).await
    );
    assert!(!shown.contains(&pin), "the PIN is in: {shown}");
}

async fn refusal_texts(store: &Pkcs11Store) -> Vec<String> {
    let taken = store.create(&name("x509/1"), KeyType::EcP256).await.unwrap_err();
    let missing = store.retire(&name("x509/9")).await.unwrap_err();
    vec![taken.to_string(), missing.to_string()]
}

#[tokio::test]
async fn a_pin_file_that_others_can_read_is_refused() {
    let token = Token::fresh();
    std::fs::set_permissions(token.pin_file(), std::fs::Permissions::from_mode(0o644)).unwrap();
    let error = Pkcs11Store::open(settings(&token), DOMAIN).await.unwrap_err();
    assert!(matches!(error, KeyError::Setup { .. }), "{error}");
    assert!(error.to_string().contains("chmod 600"), "{error}");
}

#[tokio::test]
async fn a_missing_token_is_answered_with_those_that_are_there() {
    let token = Token::fresh();
    let selector = TokenSelector::label("no such token");
    let error = Pkcs11Store::open(Settings { token: selector, ..settings(&token) }, DOMAIN)
        .await
        .unwrap_err();
    let text = error.to_string();
    assert!(matches!(error, KeyError::Setup { .. }), "{text}");
    assert!(text.contains(&format!("\"{}\"", token.label())), "{text}");
    assert!(text.contains("softhsm2-util --init-token"), "{text}");
}

#[tokio::test]
async fn a_missing_module_and_settings_out_of_bounds_are_refused() {
    let token = Token::fresh();
    let good = settings(&token);
    for wrong in [
        Settings { module: PathBuf::from("/nonexistent/libhsm.so"), ..good.clone() },
        Settings { module: PathBuf::from("libhsm.so"), ..good.clone() },
        Settings { sessions: 0, ..good.clone() },
        Settings { sessions: 1025, ..good.clone() },
        Settings { queue: 0, ..good.clone() },
    ] {
        let error = Pkcs11Store::open(wrong, DOMAIN).await.unwrap_err();
        assert!(matches!(error, KeyError::Setup { .. }), "{error}");
    }
}

#[tokio::test]
async fn two_keys_of_one_name_are_refused() {
    let token = Token::fresh();
    let store = open(&token).await;
    store.create(&name("x509/1"), KeyType::EcP256).await.unwrap();
    make(&operator(&token), &name("x509/1"), P256, &[]);
    let error = refusal(&store, &name("x509/1")).await;
    assert!(matches!(error, KeyError::Ambiguous { count: 2, .. }), "{error}");
    let described = store.describe(&name("x509/1")).await;
    assert!(matches!(described, Err(KeyError::Ambiguous { .. })), "{described:?}");
    assert_eq!(store.list().await.unwrap(), [name("x509/1")], "a bad key is listed");
}

#[tokio::test]
async fn a_key_that_breaks_a_promise_is_refused() {
    let token = Token::fresh();
    let store = open(&token).await;
    let session = operator(&token);
    for (generation, changes, reason) in [
        (1, vec![Attribute::Extractable(true)], "can be exported"),
        (2, vec![Attribute::Sensitive(false)], "read in plain text"),
        (3, vec![Attribute::Sign(false)], "not allowed to sign"),
        (4, vec![Attribute::Id(vec![2])], "different ids"),
        (5, vec![Attribute::Decrypt(true)], "may do more than sign"),
        (6, vec![Attribute::Derive(true)], "may do more than sign"),
    ] {
        let name = name(&format!("x509/{generation}"));
        make(&session, &name, P256, &changes);
        let error = refusal(&store, &name).await;
        assert!(matches!(error, KeyError::Unsafe { .. }), "{error}");
        assert!(error.to_string().contains(reason), "{error}");
    }
}

#[tokio::test]
async fn a_key_on_another_curve_is_refused() {
    let token = Token::fresh();
    let store = open(&token).await;
    make(&operator(&token), &name("x509/1"), P521, &[]);
    let error = refusal(&store, &name("x509/1")).await;
    assert!(error.to_string().contains("neither P-256 nor P-384"), "{error}");
}

#[tokio::test]
async fn a_key_with_one_half_missing_is_refused() {
    let token = Token::fresh();
    let store = open(&token).await;
    let session = operator(&token);
    for (generation, class) in [(1, ObjectClass::PUBLIC_KEY), (2, ObjectClass::PRIVATE_KEY)] {
        let name = name(&format!("x509/{generation}"));
        make(&session, &name, P256, &[]);
        let label = Attribute::Label(name.as_str().as_bytes().to_vec());
        let half = session.find_objects(&[label, Attribute::Class(class)]).unwrap()[0];
        session.destroy_object(half).unwrap();
        let error = refusal(&store, &name).await;
        assert!(matches!(error, KeyError::Incomplete { .. }), "{error}");
    }
}

#[tokio::test]
async fn an_imported_key_is_refused() {
    let token = Token::fresh();
    let store = open(&token).await;
    let session = operator(&token);
    make(&session, &name("x509/1"), P256, &[]);
    let label = Attribute::Label(name("x509/1").as_str().as_bytes().to_vec());
    let private = [label.clone(), Attribute::Class(ObjectClass::PRIVATE_KEY)];
    session.destroy_object(session.find_objects(&private).unwrap()[0]).unwrap();
    session
        .create_object(&[
            Attribute::Class(ObjectClass::PRIVATE_KEY),
            Attribute::KeyType(cryptoki::object::KeyType::EC),
            Attribute::Token(true),
            Attribute::Private(true),
            Attribute::Sensitive(true),
            Attribute::Extractable(false),
            Attribute::Sign(true),
            Attribute::EcParams(P256.to_vec()),
            Attribute::Value(vec![7; 32]),
            Attribute::Id(vec![1]),
            label,
        ])
        .unwrap();
    let error = refusal(&store, &name("x509/1")).await;
    assert!(matches!(error, KeyError::Unsafe { .. }), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_deleted_meanwhile_refuses_and_the_others_go_on() {
    if !is_alone("a_key_deleted_meanwhile_refuses_and_the_others_go_on") {
        return;
    }
    let token = Token::fresh();
    let store = open(&token).await;
    let gone = store.create(&name("x509/1"), KeyType::EcP256).await.unwrap();
    let stays = store.create(&name("jwt/1"), KeyType::EcP256).await.unwrap();
    delete(&operator(&token), &name("x509/1"));
    for _ in 0..3 {
        let error = gone.sign(probe(&*gone), soon()).await.unwrap_err();
        assert!(matches!(error, SignError::Refused { .. }), "{error}");
        assert!(error.to_string().contains("mintmark/token.test/x509/1"), "{error}");
    }
    contract::signing_key(&stays, usize::MAX).await;
    assert!(store.find(&name("x509/1")).await.unwrap().is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_replaced_meanwhile_never_signs_under_the_old_name() {
    let token = Token::fresh();
    let store = open(&token).await;
    let old = store.create(&name("x509/1"), KeyType::EcP256).await.unwrap();
    let session = operator(&token);
    delete(&session, &name("x509/1"));
    make(&session, &name("x509/1"), P256, &[]);
    let error = old.sign(probe(&*old), soon()).await.unwrap_err();
    assert!(matches!(error, SignError::Refused { .. }), "{error}");
    let new = store.find(&name("x509/1")).await.unwrap().unwrap();
    assert_ne!(new.public_key(), old.public_key());
    contract::signing_key(&new, usize::MAX).await;
}

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

#[tokio::test(flavor = "multi_thread")]
async fn a_key_found_twice_shares_its_sessions() {
    let token = Token::fresh();
    let store = open(&token).await;
    let first = store.create(&name("x509/1"), KeyType::EcP256).await.unwrap();
    let second = store.find(&name("x509/1")).await.unwrap().unwrap();
    assert!(Arc::ptr_eq(&first, &second));
}

/// A key with one session and room for one waiting job, and an RSA key of 4096 bits: a signature takes
/// milliseconds, so that the queue can be seen full.
async fn slow_key(token: &Token) -> Arc<dyn SigningKey> {
    let settings = Settings { sessions: 1, queue: 1, ..settings(token) };
    let store = Pkcs11Store::open(settings, DOMAIN).await.unwrap();
    store.create(&name("x509/1"), KeyType::Rsa4096).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_queue_is_busy_at_once() {
    let token = Token::fresh();
    let key = slow_key(&token).await;
    let mut signing: Vec<_> = (0..32).map(|_| Box::pin(key.sign(probe(&*key), soon()))).collect();
    let mut busy = 0;
    for future in &mut signing {
        // One poll alone: a full queue answers without waiting.
        if let Poll::Ready(Err(error)) = poll_once(future).await {
            let SignError::Busy { retry_after, .. } = error else { panic!("{error}") };
            assert!((1..=10_000).contains(&retry_after.as_millis()), "{retry_after:?}");
            busy += 1;
        }
    }
    assert!(busy >= 8, "one is being signed, one waits, {busy} of 32 were refused");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_that_nobody_waits_for_is_not_signed() {
    let token = Token::fresh();
    let store = Pkcs11Store::open(Settings { sessions: 1, queue: 512, ..settings(&token) }, DOMAIN)
        .await
        .unwrap();
    let key = store.create(&name("x509/1"), KeyType::Rsa4096).await.unwrap();
    let started = Instant::now();
    key.sign(probe(&*key), soon()).await.unwrap();
    let one = started.elapsed();
    for _ in 0..500 {
        let mut abandoned = Box::pin(key.sign(probe(&*key), soon()));
        assert!(poll_once(&mut abandoned).await.is_pending());
    }
    let started = Instant::now();
    key.sign(probe(&*key), soon()).await.unwrap();
    assert!(started.elapsed() < one * 250, "the 500 abandoned jobs were signed");
}

async fn poll_once<F: Future + Unpin>(future: &mut F) -> Poll<F::Output> {
    std::future::poll_fn(|context| Poll::Ready(Pin::new(&mut *future).poll(context))).await
}

#[tokio::test(flavor = "multi_thread")]
async fn threads_end_with_the_store_and_its_keys() {
    let token = Token::fresh();
    let settings = Settings { sessions: 5, ..settings(&token) };
    let store = Pkcs11Store::open(settings, DOMAIN).await.unwrap();
    let key = store.create(&name("end/1"), KeyType::EcP256).await.unwrap();
    let mark = format!("{:.10} #", token.label());
    let threads = || {
        let tasks = std::fs::read_dir("/proc/self/task").unwrap();
        let names = tasks.flatten().map(|task| std::fs::read_to_string(task.path().join("comm")));
        names.flatten().filter(|name| name.starts_with(&mark)).count()
    };
    // A thread gives itself its name.
    let settle_at = async |count: usize| {
        let deadline = Instant::now() + Duration::from_secs(20);
        while threads() != count {
            assert!(Instant::now() < deadline, "{} threads instead of {count}", threads());
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    settle_at(5).await;
    drop(store);
    settle_at(5).await;
    key.sign(probe(&*key), soon()).await.unwrap();
    drop(key);
    settle_at(0).await;
}

fn probe(key: &dyn SigningKey) -> ToBeSigned {
    ToBeSigned::probe([1; 32], key.algorithm())
}
