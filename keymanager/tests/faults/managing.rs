//! Keys that are managed while the device hangs, is away, or takes its time.

use std::sync::Arc;
use std::time::{Duration, Instant};

use ca_core::key::{KeyError, KeyStore, KeyType, StoreHealth};
use keymanager::pkcs11::Settings;
use pkcs11_proxy::cryptoki_sys::CKR_DEVICE_REMOVED;
use pkcs11_proxy::{Effect, Function, When};

use crate::bench::{Bench, LONG, Opened, name, sign, until};

const STALL: Duration = Duration::from_millis(200);

async fn impatient(bench: &Bench, sessions: usize) -> Opened {
    let settings = Settings { stall_limit: STALL, sessions, ..bench.settings() };
    let opened = Opened::of(settings).await;
    opened.warm_up(sessions).await;
    opened
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_that_hangs_is_told_after_a_while_and_holds_up_neither_signatures_nor_threads() {
    let bench = Bench::new();
    let opened = impatient(&bench, 2).await;
    bench.fault(Function::FindObjectsInit, When::Nth(1), Effect::Hang(Duration::MAX));
    let store = Arc::new(opened.store);
    let started = Instant::now();
    let calls = [(); 20].map(|()| {
        let store = Arc::clone(&store);
        tokio::spawn(async move { store.list().await })
    });
    let key = Arc::clone(&opened.key);
    while calls.iter().any(|call| !call.is_finished()) {
        sign(&*key, LONG).await.unwrap();
        assert!(started.elapsed() < Duration::from_secs(12), "{:?}", started.elapsed());
    }
    for call in calls {
        let error = call.await.unwrap().unwrap_err();
        assert!(matches!(error, KeyError::Unavailable { .. }), "{error}");
    }
    // Its time is over, so nobody waits for it.
    for _ in 0..200 {
        let asked = Instant::now();
        let error = store.list().await.unwrap_err();
        assert!(error.to_string().contains("another call that manages keys hangs"), "{error}");
        assert!(asked.elapsed() < Duration::from_millis(500), "{:?}", asked.elapsed());
    }
    assert_eq!((store.health(), bench.device.hanging()), (StoreHealth::Good, 1));
    bench.device.release();
    let end = Instant::now() + LONG;
    while store.list().await.is_err() {
        assert!(Instant::now() < end, "not free again");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert_eq!(store.list().await.unwrap(), [name("x509/1")]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_that_is_long_in_the_making_delays_a_recovery_and_is_no_hang() {
    let bench = Bench::new();
    // One, so that no other takes up the job that failed before the recovery begins.
    let opened = impatient(&bench, 1).await;
    let generation = bench.figures.generation();
    let making = bench.fault(Function::GenerateKeyPair, When::Nth(1), Effect::Hang(STALL * 8));
    let store = Arc::new(opened.store);
    let made = {
        let store = Arc::clone(&store);
        tokio::spawn(async move { store.create(&name("jwt/1"), KeyType::Rsa2048).await })
    };
    until("the making", || bench.device.fired(making) == 1).await;
    bench.fail_next(Function::SignInit, CKR_DEVICE_REMOVED);
    let started = Instant::now();
    sign(&*opened.key, LONG).await.unwrap();
    assert!(started.elapsed() > STALL * 4, "after the making: {:?}", started.elapsed());
    assert_eq!(store.health(), StoreHealth::Good);
    assert_eq!(bench.figures.generation(), generation + 1);
    assert_eq!(bench.figures.errors_of_class("hangs"), 0);
    sign(&*made.await.unwrap().unwrap(), LONG).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_are_managed_again_as_soon_as_a_recovery_that_others_began_is_done() {
    let bench = Bench::new();
    let opened = bench.open().await;
    opened.warm_up(4).await;
    bench.device.remove_device(Duration::from_millis(800));
    let key = Arc::clone(&opened.key);
    let signing = tokio::spawn(async move { sign(&*key, LONG).await });
    until("the loss", || opened.health() != StoreHealth::Good).await;
    assert_eq!(opened.store.list().await.unwrap(), [name("x509/1")]);
    signing.await.unwrap().unwrap();
}
