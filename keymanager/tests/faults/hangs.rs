//! Calls that do not come back, or late.

use std::sync::Arc;
use std::time::{Duration, Instant};

use ca_core::key::{KeyError, KeyStore, KeyType, SignError, StoreHealth};
use keymanager::Pkcs11Store;
use keymanager::pkcs11::Settings;
use pkcs11_proxy::cryptoki_sys::CKR_DEVICE_REMOVED;
use pkcs11_proxy::{Effect, Function, When};

use crate::bench::{Bench, DOMAIN, LONG, Opened, name, sign, signers, until};
use crate::load::{Load, Margin, SLACK, Tally};

const STALL: Duration = Duration::from_millis(400);

async fn watched(bench: &Bench, sessions: usize) -> Opened {
    let settings = Settings { stall_limit: STALL, sessions, ..bench.settings() };
    let opened = Opened::of(settings).await;
    opened.warm_up(sessions).await;
    opened
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_that_hangs_is_answered_by_another_thread_and_its_own_is_replaced() {
    let bench = Bench::new();
    let opened = watched(&bench, 2).await;
    let for_ever = Effect::Hang(Duration::MAX);
    let hang = bench.fault(Function::Sign, When::Nth(1), for_ever);
    let started = Instant::now();
    opened.signs().await;
    assert_eq!(bench.device.fired(hang), 1);
    assert!(started.elapsed() >= STALL, "{:?}", started.elapsed());
    assert!(started.elapsed() < STALL + Duration::from_secs(2), "{:?}", started.elapsed());
    assert_eq!((bench.device.hanging(), bench.figures.sessions("hanging")), (1, 1));
    assert_eq!(bench.figures.sum("retries_total", &[]), 1);
    // The one that hangs, and as many as before.
    until("a replacement", || signers(&bench.token) == 3).await;
    opened.warm_up(2).await;
    assert_eq!(opened.health(), StoreHealth::Good);
    bench.device.release();
    until("the end of the thread", || signers(&bench.token) == 2).await;
    until("its session is closed", || bench.device.sessions_open() == 3).await;
    assert_eq!(bench.figures.sessions("hanging"), 0);
    opened.warm_up(2).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn opening_a_store_does_not_last_as_long_as_a_call_that_hangs() {
    let bench = Bench::new();
    for function in [Function::GetTokenInfo, Function::OpenSession, Function::Login] {
        bench.fault(function, When::Nth(1), Effect::Hang(Duration::MAX));
        let settings = Settings { stall_limit: Duration::from_millis(100), ..bench.settings() };
        let closed = bench.device.calls(Function::CloseSession);
        let started = Instant::now();
        let error = Pkcs11Store::open(settings, DOMAIN).await.unwrap_err();
        let took = started.elapsed();
        assert!(matches!(error, KeyError::Unavailable { .. }), "{function:?}: {error}");
        assert!(error.to_string().contains("has not answered for 3 s"), "{function:?}: {error}");
        assert!(took < Duration::from_secs(6), "{function:?}: {took:?}");
        bench.device.release();
        // It goes on to open the store, and closes it, since nobody waits for it.
        let closes = || bench.device.calls(Function::CloseSession) > closed;
        let ended = || closes() && signers(&bench.token) == 0 && bench.device.sessions_open() == 0;
        until("the end of what was left behind", ended).await;
    }
    Opened::of(bench.settings()).await.signs().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_session_alone_is_replaced_too() {
    let bench = Bench::new();
    let opened = watched(&bench, 1).await;
    bench.fault(Function::SignInit, When::Nth(1), Effect::Hang(Duration::MAX));
    opened.signs().await;
    bench.device.release();
    until("the end of the thread", || signers(&bench.token) == 1).await;
    opened.signs().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_that_hangs_twice_is_told_so() {
    let bench = Bench::new();
    let opened = watched(&bench, 4).await;
    let twice = When::From { call: 1, times: 2 };
    bench.fault(Function::Sign, twice, Effect::Hang(Duration::MAX));
    let error = opened.sign(LONG).await.unwrap_err();
    assert!(matches!(error, SignError::Unavailable { .. }), "{error}");
    assert!(error.to_string().contains("hang for more than 400ms"), "{error}");
    opened.warm_up(4).await;
    bench.device.release();
    until("the end of the threads", || signers(&bench.token) == 4).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_that_hangs_while_it_is_opened_is_replaced_too() {
    let bench = Bench::new();
    let opened = watched(&bench, 2).await;
    bench.fault(Function::OpenSession, When::Nth(1), Effect::Hang(Duration::MAX));
    bench.device.remove_device(Duration::ZERO);
    opened.signs().await;
    assert_eq!(bench.figures.sessions("hanging"), 1);
    bench.device.release();
    until("the end of the thread", || signers(&bench.token) == 2).await;
    opened.warm_up(2).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_device_on_which_every_call_hangs_is_lost_and_its_callers_are_told() {
    let bench = Bench::new();
    let opened = watched(&bench, 4).await;
    bench.fault(Function::Sign, When::Every(1), Effect::Hang(Duration::MAX));
    let load = Load { keys: vec![Arc::clone(&opened.key)], callers: 16, patience: LONG };
    let before = Tally::counted(&bench.figures);
    let end = Instant::now() + STALL * 4;
    let tally = load.run(move |_| Instant::now() >= end).await;
    tally.check(&before, &bench.figures);
    assert_eq!(tally.signed, 0);
    assert!(tally.unavailable > 0, "{tally:?}");
    let StoreHealth::Stuck(reason) = opened.health() else { panic!("{:?}", opened.health()) };
    assert!(
        reason.contains("calls hang in the PKCS#11 module; start the process anew"),
        "{reason}"
    );
    let error = opened.sign(LONG).await.unwrap_err();
    assert!(matches!(error, SignError::Unavailable { .. }), "{error}");
    assert!(error.to_string().contains("start the process anew"), "{error}");
    bench.device.clear_rules();
    bench.device.release();
    until("the end of the threads", || signers(&bench.token) == 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_that_are_there_do_not_wait_for_another_keys_call_that_hangs() {
    let bench = Bench::new();
    let settings =
        Settings { stall_limit: Duration::from_secs(5), sessions: 1, ..bench.settings() };
    let opened = Opened::of(settings).await;
    let other = opened.store.create(&name("jwt/1"), KeyType::EcP256).await.unwrap();
    opened.warm_up(1).await;
    sign(&*other, LONG).await.unwrap();
    // Eight are handed out together at most, so there are some in hand when the hang begins.
    bench.fault(Function::Sign, When::Nth(6), Effect::Hang(Duration::MAX));
    let mut finished: Vec<_> = (0..5)
        .map(|_| {
            let key = Arc::clone(&opened.key);
            tokio::spawn(async move { sign(&*key, LONG).await.map(|_| Instant::now()) })
        })
        .collect();
    let hung = tokio::spawn(async move { sign(&*other, LONG).await });
    until("the hang", || bench.device.hanging() == 1).await;
    let since = Instant::now();
    // Whichever call it was that hangs, five of the six come back.
    let mut back = 0;
    while back < 5 {
        tokio::time::sleep(Duration::from_millis(1)).await;
        back = finished.iter().filter(|call| call.is_finished()).count()
            + usize::from(hung.is_finished());
        assert!(since.elapsed() < Duration::from_secs(1), "{back} of 5 finished answers");
    }
    bench.device.release();
    for call in finished.drain(..) {
        call.await.unwrap().unwrap();
    }
    hung.await.unwrap().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_caller_is_answered_by_its_deadline_whatever_the_device_does() {
    let bench = Bench::new();
    let settings = Settings { stall_limit: Duration::from_secs(60), ..bench.settings() };
    let opened = Opened::of(settings).await;
    opened.warm_up(4).await;
    for fault in ["hangs", "is away"] {
        match fault {
            "hangs" => {
                bench.fault(Function::Sign, When::Every(1), Effect::Hang(Duration::MAX));
            }
            _ => bench.device.remove_device(Duration::MAX),
        }
        let margin = Margin::measure();
        let before = Tally::counted(&bench.figures);
        let patience = Duration::from_millis(90);
        let load = Load { keys: vec![Arc::clone(&opened.key)], callers: 32, patience };
        let end = Instant::now() + Duration::from_millis(600);
        let tally = load.run(move |_| Instant::now() >= end).await;
        tally.check(&before, &bench.figures);
        assert_eq!((tally.signed, tally.late), (0, tally.asked - tally.busy), "{tally:?}");
        let margin = margin.end().await;
        assert!(tally.overrun <= margin + SLACK, "{fault}: {:?}, {margin:?}", tally.overrun);
        bench.device.clear_rules();
        bench.device.release();
        bench.device.restore_device();
        opened.signs().await;
    }
}

/// The library cannot be initialised anew under a thread that hangs in it; one that comes back in time
/// is waited for.
#[tokio::test(flavor = "multi_thread")]
async fn a_device_that_goes_while_a_call_hangs_is_brought_back_after_the_call() {
    let bench = Bench::new();
    let opened = watched(&bench, 2).await;
    bench.fault(Function::Sign, When::Nth(1), Effect::Hang(STALL / 2));
    bench.fault(Function::SignInit, When::Nth(2), Effect::Fail(CKR_DEVICE_REMOVED));
    let calls = [(); 2].map(|()| {
        let key = Arc::clone(&opened.key);
        tokio::spawn(async move { sign(&*key, LONG).await })
    });
    for call in calls {
        call.await.unwrap().unwrap();
    }
    assert_eq!(opened.health(), StoreHealth::Good);
    assert_eq!(bench.device.calls(Function::Finalize), 1);
}

/// The one that takes the place of a thread that hangs opens its session for no job in particular.
#[tokio::test(flavor = "multi_thread")]
async fn a_device_on_which_no_session_can_be_opened_either_is_stuck_with_one_session_too() {
    let bench = Bench::new();
    let opened = watched(&bench, 1).await;
    bench.fault(Function::OpenSession, When::Every(1), Effect::Hang(Duration::MAX));
    bench.fault(Function::Sign, When::Nth(1), Effect::Hang(Duration::MAX));
    let error = opened.sign(LONG).await.unwrap_err();
    assert!(matches!(error, SignError::Unavailable { .. }), "{error}");
    assert!(matches!(opened.health(), StoreHealth::Stuck(_)), "{:?}", opened.health());
    assert_eq!(bench.figures.sessions("hanging"), 2);
    bench.device.clear_rules();
    bench.device.release();
    until("the end of the threads", || signers(&bench.token) == 0).await;
    assert_eq!(bench.figures.sessions("hanging"), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_library_that_hangs_while_it_is_brought_back_is_stuck() {
    for function in [Function::Initialize, Function::OpenSession, Function::Login] {
        let bench = Bench::new();
        let opened = watched(&bench, 1).await;
        bench.fault(function, When::Every(1), Effect::Hang(Duration::MAX));
        bench.fail_next(Function::SignInit, CKR_DEVICE_REMOVED);
        let started = Instant::now();
        let error = opened.sign(LONG).await.unwrap_err();
        // An initialisation may take some seconds.
        assert!(started.elapsed() > STALL + Duration::from_secs(4), "{:?}", started.elapsed());
        assert!(started.elapsed() < STALL + Duration::from_secs(8), "{:?}", started.elapsed());
        assert!(matches!(error, SignError::Unavailable { .. }), "{error}");
        let StoreHealth::Stuck(reason) = opened.health() else { panic!("{:?}", opened.health()) };
        assert!(reason.contains("hangs while it is brought back; start the process"), "{reason}");
        assert_eq!(bench.figures.sum("healthy", &[]), 0);
        let ends = Instant::now();
        drop(opened);
        assert!(ends.elapsed() < Duration::from_secs(3), "{:?}", ends.elapsed());
        bench.device.clear_rules();
        bench.device.release();
        until("the end of the threads", || signers(&bench.token) == 0).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_nobody_waits_for_any_more_when_a_session_is_open_at_last_is_not_signed() {
    let bench = Bench::new();
    let opened = watched(&bench, 1).await;
    bench.device.remove_device(Duration::ZERO);
    let slow = bench.fault(Function::OpenSession, When::Nth(1), Effect::Hang(STALL / 2));
    let before = bench.device.calls(Function::SignInit);
    let error = opened.sign(STALL / 4).await.unwrap_err();
    assert!(matches!(error, SignError::Late { .. }), "{error}");
    until("the session", || bench.device.fired(slow) == 1 && bench.device.hanging() == 0).await;
    // On the session that was lost, and none since.
    opened.signs().await;
    assert_eq!(bench.device.calls(Function::SignInit), before + 2);
    assert_eq!(bench.figures.outcomes("late"), 1);
}
