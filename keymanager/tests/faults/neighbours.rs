//! Several stores on one library, of which one is in trouble.

use std::sync::Arc;
use std::time::{Duration, Instant};

use ca_core::key::StoreHealth;
use keymanager::Pkcs11Store;
use keymanager::pkcs11::Settings;
use pkcs11_proxy::cryptoki_sys::{CKR_DEVICE_REMOVED, CKR_GENERAL_ERROR};
use pkcs11_proxy::{Effect, Function, When};
use softhsm::Token;

use crate::bench::{Bench, DOMAIN, Figures, LONG, Opened, settings, sign, until};

/// A store on another token of the bench's library.
async fn neighbour(figures: &Figures, sessions: usize) -> Opened {
    let token = Token::fresh();
    let module = pkcs11_proxy::module_path().unwrap();
    let settings = Settings { sessions, ..settings(module, &token, figures) };
    Opened::of(settings).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_waits_while_another_has_the_library_initialised_and_initialises_nothing_itself() {
    let (bench, figures) = (Bench::new(), Figures::new());
    let stall_limit = Duration::from_millis(400);
    let opened = Opened::of(Settings { stall_limit, ..bench.settings() }).await;
    let other = neighbour(&figures, 2).await;
    opened.warm_up(4).await;
    other.warm_up(2).await;
    let ended = bench.device.calls(Function::Finalize);
    // A call of the other one holds the recovery up once; it is given up, and begun again.
    bench.fault(Function::Sign, When::Nth(1), Effect::Hang(Duration::from_millis(600)));
    let key = Arc::clone(&other.key);
    let slow = tokio::spawn(async move { sign(&*key, LONG).await });
    until("the slow call", || bench.device.hanging() == 1).await;
    bench.fail_next(Function::SignInit, CKR_DEVICE_REMOVED);
    let key = Arc::clone(&opened.key);
    let failed = tokio::spawn(async move { sign(&*key, LONG).await });
    until("the loss", || opened.health() != StoreHealth::Good).await;
    while !slow.is_finished() || !failed.is_finished() {
        other.signs().await;
        assert_eq!(other.health(), StoreHealth::Good);
    }
    slow.await.unwrap().unwrap();
    failed.await.unwrap().unwrap();
    other.warm_up(2).await;
    assert_eq!((opened.health(), other.health()), (StoreHealth::Good, StoreHealth::Good));
    assert_eq!(bench.figures.errors_of_class("hangs"), 1, "one try was given up");
    assert_eq!(figures.sum("errors_total", &[]), 0, "nothing of the other has failed");
    assert_eq!(bench.device.calls(Function::Finalize), ended + 1);
    assert!(bench.device.sessions_open() <= 4 + 2 + 2, "{}", bench.device.sessions_open());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_library_that_a_store_left_uninitialised_is_initialised_by_the_others() {
    for stays in [true, false] {
        let (bench, figures) = (Bench::new(), Figures::new());
        let opened = Opened::of(Settings { sessions: 1, ..bench.settings() }).await;
        let other = if stays { Some(neighbour(&figures, 2).await) } else { None };
        opened.warm_up(1).await;
        let fault =
            bench.fault(Function::Initialize, When::Every(1), Effect::Fail(CKR_GENERAL_ERROR));
        bench.fail_next(Function::SignInit, CKR_DEVICE_REMOVED);
        let key = Arc::clone(&opened.key);
        // It has the store as long as it waits.
        let patience = Duration::from_millis(500);
        let failed = tokio::spawn(async move { sign(&*key, patience).await });
        until("a try", || bench.device.fired(fault) > 0).await;
        drop(opened);
        failed.await.unwrap().unwrap_err();
        bench.device.remove(fault);
        let started = Instant::now();
        match other {
            Some(other) => other.signs().await,
            None => drop(Pkcs11Store::open(bench.settings(), DOMAIN).await.unwrap()),
        }
        assert!(started.elapsed() < Duration::from_secs(5), "{:?}", started.elapsed());
    }
}
