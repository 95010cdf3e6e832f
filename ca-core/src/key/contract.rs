//! What every key store owes: one suite, run by each implementation.
//!
//! A failure panics with the claim that does not hold. The suite wants a store without keys of the
//! trust domain, and leaves its keys behind, as nothing in a store is ever destroyed.

#![expect(clippy::unwrap_used, reason = "a suite of tests: the message is the line")]

use std::collections::BTreeSet;
use std::sync::Arc;

use futures_util::future::join_all;

use super::{KeyError, KeyName, KeyStore, KeyType, SignError, SigningKey, ToBeSigned};

/// How many signatures are asked for at once: within the queue of any implementation under test, which
/// has to hold at least this many jobs.
pub const CONCURRENT_SIGNATURES: usize = 64;

/// Runs the whole suite against `store`, which serves `trust_domain` and holds no key of it yet.
///
/// # Panics
/// If the store breaks the contract.
pub async fn key_store(store: &dyn KeyStore, trust_domain: &str) {
    names_without_a_key_are_not_found(store, trust_domain).await;
    for key_type in KeyType::ALL {
        if store.description().key_types.contains(&key_type) {
            a_key_is_made_once_and_found_again(store, &name_of(trust_domain, key_type)).await;
        } else {
            an_unsupported_type_is_refused(store, trust_domain, key_type).await;
        }
    }
    the_list_names_every_key(store, trust_domain).await;
    another_trust_domain_is_refused(store).await;
    a_retired_key_signs_no_more(store, trust_domain).await;
}

/// The suite for one key: what it signs verifies, whatever the length, and however many ask at once.
///
/// # Panics
/// If the key breaks the contract.
pub async fn signing_key(key: &Arc<dyn SigningKey>) {
    signatures_verify_at_every_length(key).await;
    concurrent_signatures_verify_each_over_its_message(key).await;
}

fn name_of(trust_domain: &str, key_type: KeyType) -> KeyName {
    KeyName::parse(&format!("mintmark/{trust_domain}/x509/{key_type}")).expect("a well-formed name")
}

async fn names_without_a_key_are_not_found(store: &dyn KeyStore, trust_domain: &str) {
    let name = KeyName::parse(&format!("mintmark/{trust_domain}/jwt/none")).unwrap();
    assert!(store.find(&name).await.unwrap().is_none(), "a name without a key finds nothing");
    assert_eq!(store.retire(&name).await, Err(KeyError::NotFound(name)));
    assert_eq!(store.list().await.unwrap(), [], "the suite wants a store without keys");
}

async fn a_key_is_made_once_and_found_again(store: &dyn KeyStore, name: &KeyName) {
    let key_type: KeyType = name.as_str().rsplit('/').next().unwrap().parse().unwrap();
    let made = store.create(name, key_type).await.unwrap();
    assert_eq!(made.algorithm(), key_type.signature_algorithm());
    assert_eq!(made.public_key().kind(), key_type.kind());
    signing_key(&made).await;

    let found = store.find(name).await.unwrap().expect("a key that was made is found");
    assert_eq!(found.public_key(), made.public_key(), "the key found is the key made");
    assert_eq!(found.algorithm(), made.algorithm());
    let probe = probe();
    let signature = found.sign(probe.clone()).await.unwrap();
    assert!(made.public_key().verifies(probe.message(), &signature));

    for again in [key_type, KeyType::EcP256] {
        assert_eq!(
            store.create(name, again).await.map(|_| ()),
            Err(KeyError::Exists(name.clone())),
            "a name that is taken is refused, whatever the type"
        );
    }
    assert!(!format!("{made:?}").is_empty(), "a key can be named in a log");
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

async fn signatures_verify_at_every_length(key: &Arc<dyn SigningKey>) {
    for length in [0, 1, 31, 32, 64, 127, 4096, 65_536] {
        let message: Vec<u8> = (0..length).map(|index| (index % 251) as u8).collect();
        let signature = key.sign(ToBeSigned::of_any_bytes(message.clone())).await.unwrap();
        assert_eq!(signature.algorithm(), key.algorithm());
        assert!(key.public_key().verifies(&message, &signature), "{length} bytes verify");
        assert!(
            !key.public_key().verifies(&[&message[..], &[0]].concat(), &signature),
            "no other message verifies"
        );
    }
}

async fn concurrent_signatures_verify_each_over_its_message(key: &Arc<dyn SigningKey>) {
    let messages: Vec<ToBeSigned> = (0..CONCURRENT_SIGNATURES).map(|_| probe()).collect();
    let signatures = join_all(messages.iter().map(|message| key.sign(message.clone()))).await;
    for (message, signature) in messages.iter().zip(signatures) {
        let signature = signature.unwrap();
        assert!(key.public_key().verifies(message.message(), &signature));
    }
}

async fn the_list_names_every_key(store: &dyn KeyStore, trust_domain: &str) {
    let listed = store.list().await.unwrap();
    let expected: BTreeSet<KeyName> =
        store.description().key_types.iter().map(|&t| name_of(trust_domain, t)).collect();
    let names: Vec<KeyName> = listed.iter().map(|key| key.name.clone()).collect();
    assert_eq!(names, expected.into_iter().collect::<Vec<_>>(), "every key once, by name");
    for key in listed {
        let found = store.find(&key.name).await.unwrap().expect("a listed key is found");
        assert_eq!((found.algorithm(), found.public_key()), (key.algorithm, &key.public_key));
    }
}

async fn another_trust_domain_is_refused(store: &dyn KeyStore) {
    let name = KeyName::parse("mintmark/elsewhere.test/x509/1").unwrap();
    let key_type = store.description().key_types[0];
    let made = store.create(&name, key_type).await.map(|_| ());
    assert!(matches!(made, Err(KeyError::Unsafe { .. })), "create: {made:?}");
    let found = store.find(&name).await.map(|_| ());
    assert!(matches!(found, Err(KeyError::Unsafe { .. })), "find: {found:?}");
    let retired = store.retire(&name).await;
    assert!(matches!(retired, Err(KeyError::Unsafe { .. })), "retire: {retired:?}");
}

async fn a_retired_key_signs_no_more(store: &dyn KeyStore, trust_domain: &str) {
    let key_type = store.description().key_types[0];
    let name = name_of(trust_domain, key_type);
    let before = store.list().await.unwrap().len();
    let handles =
        [store.find(&name).await.unwrap().unwrap(), store.find(&name).await.unwrap().unwrap()];
    store.retire(&name).await.unwrap();
    for handle in handles {
        let refused = handle.sign(probe()).await;
        assert!(matches!(refused, Err(SignError::Refused { .. })), "retired: {refused:?}");
    }
    assert!(store.find(&name).await.unwrap().is_none(), "a retired key is not found");
    let listed = store.list().await.unwrap();
    assert!(listed.iter().all(|key| key.name != name), "a retired key is not listed");
    assert_eq!(listed.len(), before - 1, "the other keys are still there");
    assert_eq!(store.retire(&name).await, Ok(()), "retiring again changes nothing");
    let again = store.create(&name, key_type).await.map(|_| ());
    assert_eq!(again, Err(KeyError::Exists(name)), "a retired name is never used again");
}

fn probe() -> ToBeSigned {
    let mut nonce = [0; 32];
    aws_lc_rs::rand::fill(&mut nonce).expect("the system gives random bytes");
    ToBeSigned::probe(nonce)
}
