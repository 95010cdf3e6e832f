//! What every key store owes: one suite, run by each implementation.
//!
//! A failure panics with the claim that does not hold. The suite wants a store without keys of the
//! trust domain, and leaves all but one of its keys behind. What held is counted ([`Kept`]), so that a
//! run can list the stores that passed.

#![expect(clippy::unwrap_used, reason = "a suite of tests: the message is the line")]

use std::collections::BTreeSet;
use std::fs::File;
use std::io::Write;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::future::join_all;

use super::{
    ExpiredKey, KeyError, KeyName, KeyStore, KeyType, Priority, SignError, SignatureAlgorithm,
    SigningKey, ToBeSigned, Urgency,
};

/// How many signatures are asked for at once: within the queue of any implementation under test, which
/// has to hold at least this many jobs.
pub const CONCURRENT_SIGNATURES: usize = 64;

/// Names the file to which [`Kept::report`] adds a line for each store that passed. Without it, nothing is
/// written.
pub const REPORT_VARIABLE: &str = "MINTMARK_CONTRACT_REPORT";

/// What a store or a key has kept of the contract: all of it, or the suite would have panicked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Kept {
    /// Keys that were made and put through the suite for one key.
    pub keys: usize,
    /// Claims that held, each of them counted for each key or algorithm that it is about.
    pub claims: usize,
}

impl Kept {
    /// Adds `contract: <backend>: <n> keys, <n> claims` to the file that [`REPORT_VARIABLE`] names, for
    /// whoever runs the tests of all stores.
    ///
    /// # Panics
    /// If the file cannot be written.
    pub fn report(self, backend: &str) {
        let Some(path) = std::env::var_os(REPORT_VARIABLE) else { return };
        let line = format!("contract: {backend}: {} keys, {} claims\n", self.keys, self.claims);
        let file = File::options().append(true).create(true).open(path);
        // At once, so that the lines of tests that end together stay whole.
        file.and_then(|mut file| file.write_all(line.as_bytes())).expect("the report takes a line");
    }

    async fn claim(&mut self, claim: impl Future<Output = ()>) {
        claim.await;
        self.claims += 1;
    }

    fn add(&mut self, other: Self) {
        self.keys += other.keys;
        self.claims += other.claims;
    }
}

/// Runs the whole suite against `store`, which serves `trust_domain` and holds no key of it yet.
///
/// # Panics
/// If the store breaks the contract.
pub async fn key_store(store: &dyn KeyStore, trust_domain: &str) -> Kept {
    assert!(store.description().longest_message >= 4096, "a certificate has to fit");
    let mut kept = Kept::default();
    kept.claim(names_without_a_key_are_not_found(store, trust_domain)).await;
    for key_type in KeyType::ALL {
        if store.description().key_types.contains(&key_type) {
            let name = name_of(trust_domain, key_type);
            kept.add(a_key_is_made_once_and_found_again(store, &name).await);
        } else {
            kept.claim(an_unsupported_type_is_refused(store, trust_domain, key_type)).await;
        }
    }
    kept.claim(the_list_names_every_key(store, trust_domain)).await;
    kept.claim(another_trust_domain_is_refused(store)).await;
    kept.claim(a_retired_key_signs_no_more(store, trust_domain)).await;
    kept.claim(a_destroyed_key_is_gone(store, trust_domain)).await;
    kept
}

/// The suite for one key: what it signs verifies, by every algorithm it names, whatever the length up to
/// `longest` (where the message itself is signed), and however many ask at once.
///
/// # Panics
/// If the key breaks the contract.
pub async fn signing_key(key: &Arc<dyn SigningKey>, longest: usize) -> Kept {
    let mut kept = Kept { keys: 1, claims: 0 };
    for &algorithm in key.algorithms() {
        kept.claim(signatures_verify_at_every_length(key, algorithm, longest)).await;
        kept.claim(concurrent_signatures_verify_each_over_its_message(key, algorithm)).await;
    }
    kept.claim(another_algorithm_is_refused(key)).await;
    kept.claim(what_is_late_already_is_not_signed(key)).await;
    kept
}

fn name_of(trust_domain: &str, key_type: KeyType) -> KeyName {
    KeyName::parse(&format!("mintmark/{trust_domain}/x509/{key_type}")).expect("a well-formed name")
}

async fn names_without_a_key_are_not_found(store: &dyn KeyStore, trust_domain: &str) {
    let name = KeyName::parse(&format!("mintmark/{trust_domain}/jwt/none")).unwrap();
    assert!(store.find(&name).await.unwrap().is_none(), "a name without a key finds nothing");
    assert_eq!(store.retire(&name).await, Err(KeyError::NotFound(name)));
    assert!(store.list().await.unwrap().is_empty(), "the suite wants a store without keys");
}

async fn a_key_is_made_once_and_found_again(store: &dyn KeyStore, name: &KeyName) -> Kept {
    let key_type: KeyType = name.as_str().rsplit('/').next().unwrap().parse().unwrap();
    let made = store.create(name, key_type).await.unwrap();
    assert_eq!(made.algorithm(), key_type.signature_algorithm());
    assert_eq!(made.public_key().kind(), key_type.kind());
    assert!(made.algorithms().iter().all(|way| key_type.kind().algorithms().contains(way)));
    let mut kept = signing_key(&made, store.description().longest_message).await;

    let found = store.find(name).await.unwrap().expect("a key that was made is found");
    assert_eq!(found.public_key(), made.public_key(), "the key found is the key made");
    assert_eq!(found.algorithms(), made.algorithms());
    let probe = probe(made.algorithm());
    let signature = found.sign(probe.clone(), soon()).await.unwrap();
    assert!(made.public_key().verifies(probe.message(), &signature));

    for again in [key_type, KeyType::EcP256] {
        assert_eq!(
            store.create(name, again).await.map(|_| ()),
            Err(KeyError::Exists(name.clone())),
            "a name that is taken is refused, whatever the type"
        );
    }
    assert!(!format!("{made:?}").is_empty(), "a key can be named in a log");
    kept.claims += 1;
    kept
}

async fn an_unsupported_type_is_refused(
    store: &dyn KeyStore,
    trust_domain: &str,
    key_type: KeyType,
) {
    let name = name_of(trust_domain, key_type);
    match store.create(&name, key_type).await {
        Err(KeyError::Unsupported { key_type: refused, .. }) => assert_eq!(refused, key_type),
        other => panic!("{key_type} is not in the description, yet creating one gave {other:?}"),
    }
    assert!(store.find(&name).await.unwrap().is_none(), "a refused key leaves nothing behind");
}

async fn signatures_verify_at_every_length(
    key: &Arc<dyn SigningKey>,
    algorithm: SignatureAlgorithm,
    longest: usize,
) {
    let hashes = algorithm.digest(&[]).is_some();
    for length in [0, 1, 31, 32, 64, 127, 4096, 65_536] {
        let message: Vec<u8> = (0..length).map(|index| (index % 251) as u8).collect();
        let signed = key.sign(ToBeSigned::of_any_bytes(message.clone(), algorithm), soon()).await;
        let refused = matches!(signed, Err(SignError::Refused { .. }));
        if !hashes && length > longest {
            assert!(refused, "{length}: {signed:?}");
            continue;
        }
        // Nothing that is ever signed is empty, and some KMS take no empty message.
        if !hashes && length == 0 && refused {
            continue;
        }
        let signature = signed.unwrap_or_else(|error| panic!("{algorithm}, {length}: {error}"));
        assert_eq!(signature.algorithm(), algorithm);
        assert!(key.public_key().verifies(&message, &signature), "{length} bytes verify");
        assert!(
            !key.public_key().verifies(&[&message[..], &[0]].concat(), &signature),
            "no other message verifies"
        );
    }
}

async fn concurrent_signatures_verify_each_over_its_message(
    key: &Arc<dyn SigningKey>,
    algorithm: SignatureAlgorithm,
) {
    let messages: Vec<ToBeSigned> = (0..CONCURRENT_SIGNATURES).map(|_| probe(algorithm)).collect();
    let signatures =
        join_all(messages.iter().map(|message| key.sign(message.clone(), soon()))).await;
    for (message, signature) in messages.iter().zip(signatures) {
        let signature = signature.unwrap_or_else(|error| panic!("{algorithm}: {error}"));
        assert!(key.public_key().verifies(message.message(), &signature));
    }
}

async fn another_algorithm_is_refused(key: &Arc<dyn SigningKey>) {
    for key_type in KeyType::ALL {
        for &algorithm in key_type.kind().algorithms() {
            if !key.algorithms().contains(&algorithm) {
                let refused = key.sign(probe(algorithm), soon()).await;
                assert!(matches!(refused, Err(SignError::Refused { .. })), "{algorithm}");
            }
        }
    }
}

async fn what_is_late_already_is_not_signed(key: &Arc<dyn SigningKey>) {
    let past = Urgency { priority: Priority::New, deadline: Instant::now() };
    let late = key.sign(probe(key.algorithm()), past).await;
    assert!(matches!(late, Err(SignError::Late { .. })), "late: {late:?}");
}

async fn the_list_names_every_key(store: &dyn KeyStore, trust_domain: &str) {
    let listed = store.list().await.unwrap();
    let expected: BTreeSet<KeyName> =
        store.description().key_types.iter().map(|&t| name_of(trust_domain, t)).collect();
    assert_eq!(listed, expected.into_iter().collect::<Vec<_>>(), "every key once, by name");
    for name in listed {
        let found = store.find(&name).await.unwrap().expect("a listed key is found");
        let described = store.describe(&name).await.unwrap().expect("a listed key is described");
        assert_eq!(described.name, name);
        assert_eq!(&described.public_key, found.public_key());
        assert_eq!(&described.algorithms[..], found.algorithms());
        assert!(!described.location.is_empty(), "an operator can find the key in the store");
    }
}

async fn another_trust_domain_is_refused(store: &dyn KeyStore) {
    let name = KeyName::parse("mintmark/elsewhere.test/x509/1").unwrap();
    let key_type = store.description().key_types[0];
    let made = store.create(&name, key_type).await.map(|_| ());
    assert!(matches!(made, Err(KeyError::Unsafe { .. })), "create: {made:?}");
    let found = store.find(&name).await.map(|_| ());
    assert!(matches!(found, Err(KeyError::Unsafe { .. })), "find: {found:?}");
    let described = store.describe(&name).await.map(|_| ());
    assert!(matches!(described, Err(KeyError::Unsafe { .. })), "describe: {described:?}");
    let retired = store.retire(&name).await;
    assert!(matches!(retired, Err(KeyError::Unsafe { .. })), "retire: {retired:?}");
    let destroyed = store.destroy(&ExpiredKey::of_a_test(name)).await;
    assert!(matches!(destroyed, Err(KeyError::Unsafe { .. })), "destroy: {destroyed:?}");
}

async fn a_retired_key_signs_no_more(store: &dyn KeyStore, trust_domain: &str) {
    let key_type = store.description().key_types[0];
    let name = name_of(trust_domain, key_type);
    let before = store.list().await.unwrap().len();
    let handles =
        [store.find(&name).await.unwrap().unwrap(), store.find(&name).await.unwrap().unwrap()];
    store.retire(&name).await.unwrap();
    for handle in handles {
        let refused = handle.sign(probe(handle.algorithm()), soon()).await;
        assert!(matches!(refused, Err(SignError::Refused { .. })), "retired: {refused:?}");
    }
    assert!(store.find(&name).await.unwrap().is_none(), "a retired key is not found");
    assert!(store.describe(&name).await.unwrap().is_none(), "a retired key is not described");
    let listed = store.list().await.unwrap();
    assert!(!listed.contains(&name), "a retired key is not listed");
    assert_eq!(listed.len(), before - 1, "the other keys are still there");
    assert_eq!(store.retire(&name).await, Ok(()), "retiring again changes nothing");
    let again = store.create(&name, key_type).await.map(|_| ());
    assert_eq!(again, Err(KeyError::Exists(name)), "a retired name is never used again");
}

async fn a_destroyed_key_is_gone(store: &dyn KeyStore, trust_domain: &str) {
    let key_type = store.description().key_types[0];
    let name = KeyName::parse(&format!("mintmark/{trust_domain}/x509/destroyed")).unwrap();
    let other = name_of(trust_domain, key_type);
    let handle = store.create(&name, key_type).await.unwrap();
    let expired = ExpiredKey::of_a_test(name.clone());
    assert!(!store.destroy(&expired).await.unwrap().is_empty(), "it is said what was done");
    let refused = handle.sign(probe(handle.algorithm()), soon()).await;
    assert!(matches!(refused, Err(SignError::Refused { .. })), "destroyed: {refused:?}");
    assert!(store.find(&name).await.unwrap().is_none(), "a destroyed key is not found");
    assert!(!store.list().await.unwrap().contains(&name), "a destroyed key is not listed");
    assert_eq!(store.destroy(&expired).await, Err(KeyError::NotFound(name)));
    // Retired by the claim before; still there.
    let taken = store.create(&other, key_type).await.map(|_| ());
    assert_eq!(taken, Err(KeyError::Exists(other)), "no other key is destroyed");
}

fn probe(algorithm: SignatureAlgorithm) -> ToBeSigned {
    let mut nonce = [0; 32];
    aws_lc_rs::rand::fill(&mut nonce).expect("the system gives random bytes");
    ToBeSigned::probe(nonce, algorithm)
}

/// Long enough for the slowest device on a busy machine.
fn soon() -> Urgency {
    Urgency::within(Priority::New, Duration::from_secs(60), Instant::now())
}
