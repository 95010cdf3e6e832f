//! What a token answers instead of a signature, sorted by what helps.

use std::time::{Duration, Instant};

use ca_core::key::{KeyError, KeyStore, KeyType, SignError, StoreHealth};
use cryptoki::context::Pkcs11;
use cryptoki::object::Attribute;
use cryptoki::session::{Session, UserType};
use cryptoki::slot::Slot;
use cryptoki::types::AuthPin;
use keymanager::Pkcs11Store;
use keymanager::pkcs11::{Settings, TokenSelector};
use pkcs11_proxy::cryptoki_sys::*;
use pkcs11_proxy::{Effect, Function, When};

use crate::bench::{Bench, DOMAIN, LONG, Opened, is_alone, name, pin, until};

const VENDORS: u64 = 0x8000_4711;

/// Each code by its name in errors and figures.
type Codes = &'static [(u64, &'static str)];

const OF_A_SESSION: Codes = &[
    (CKR_SESSION_HANDLE_INVALID, "CKR_SESSION_HANDLE_INVALID"),
    (CKR_SESSION_CLOSED, "CKR_SESSION_CLOSED"),
    (CKR_OPERATION_ACTIVE, "CKR_OPERATION_ACTIVE"),
    (CKR_OPERATION_NOT_INITIALIZED, "CKR_OPERATION_NOT_INITIALIZED"),
    (CKR_OBJECT_HANDLE_INVALID, "CKR_OBJECT_HANDLE_INVALID"),
    (CKR_KEY_HANDLE_INVALID, "CKR_KEY_HANDLE_INVALID"),
    (CKR_USER_NOT_LOGGED_IN, "CKR_USER_NOT_LOGGED_IN"),
];
const OF_THE_DEVICE: Codes = &[
    (CKR_DEVICE_ERROR, "CKR_DEVICE_ERROR"),
    (CKR_GENERAL_ERROR, "CKR_GENERAL_ERROR"),
    (VENDORS, "CKR_0x80004711"),
];
const OF_THE_LIBRARY: Codes = &[
    (CKR_TOKEN_NOT_PRESENT, "CKR_TOKEN_NOT_PRESENT"),
    (CKR_DEVICE_REMOVED, "CKR_DEVICE_REMOVED"),
    (CKR_TOKEN_NOT_RECOGNIZED, "CKR_TOKEN_NOT_RECOGNIZED"),
    (CKR_SLOT_ID_INVALID, "CKR_SLOT_ID_INVALID"),
    (CKR_CRYPTOKI_NOT_INITIALIZED, "CKR_CRYPTOKI_NOT_INITIALIZED"),
];
const OF_A_MOMENT: Codes = &[
    (CKR_FUNCTION_FAILED, "CKR_FUNCTION_FAILED"),
    (CKR_DEVICE_MEMORY, "CKR_DEVICE_MEMORY"),
    (CKR_HOST_MEMORY, "CKR_HOST_MEMORY"),
    (CKR_TOKEN_RESOURCE_EXCEEDED, "CKR_0x00000201"),
    (CKR_FUNCTION_CANCELED, "CKR_FUNCTION_CANCELED"),
    (CKR_CANCEL, "CKR_CANCEL"),
];
const OF_A_CALLER: Codes = &[
    (CKR_MECHANISM_INVALID, "CKR_MECHANISM_INVALID"),
    (CKR_MECHANISM_PARAM_INVALID, "CKR_MECHANISM_PARAM_INVALID"),
    (CKR_KEY_TYPE_INCONSISTENT, "CKR_KEY_TYPE_INCONSISTENT"),
    (CKR_KEY_FUNCTION_NOT_PERMITTED, "CKR_KEY_FUNCTION_NOT_PERMITTED"),
    (CKR_FUNCTION_REJECTED, "CKR_FUNCTION_REJECTED"),
    (CKR_KEY_SIZE_RANGE, "CKR_KEY_SIZE_RANGE"),
    (CKR_DATA_LEN_RANGE, "CKR_DATA_LEN_RANGE"),
    (CKR_DATA_INVALID, "CKR_DATA_INVALID"),
    (CKR_ARGUMENTS_BAD, "CKR_ARGUMENTS_BAD"),
    (CKR_FIPS_SELF_TEST_FAILED, "CKR_FIPS_SELF_TEST_FAILED"),
];
const OF_A_PIN: Codes = &[
    (CKR_PIN_INCORRECT, "CKR_PIN_INCORRECT"),
    (CKR_PIN_INVALID, "CKR_PIN_INVALID"),
    (CKR_PIN_EXPIRED, "CKR_PIN_EXPIRED"),
    (CKR_PIN_LOCKED, "CKR_PIN_LOCKED"),
];

/// A single session, so that it is known which one fails.
async fn single(bench: &Bench) -> Opened {
    let opened = Opened::of(Settings { sessions: 1, ..bench.settings() }).await;
    opened.warm_up(1).await;
    opened
}

#[tokio::test(flavor = "multi_thread")]
async fn a_code_about_the_session_costs_the_session_and_no_caller() {
    let bench = Bench::new();
    let opened = single(&bench).await;
    for &(code, text) in OF_A_SESSION {
        for function in [Function::SignInit, Function::Sign] {
            let (open, seen) =
                (bench.device.calls(Function::OpenSession), bench.figures.errors(text));
            let fault = bench.fail_next(function, code);
            opened.signs().await;
            assert_eq!(bench.device.fired(fault), 1);
            bench.device.remove(fault);
            assert_eq!(bench.figures.errors(text), seen + 1, "{text}");
            assert_eq!(
                bench.device.calls(Function::OpenSession),
                open + 1,
                "{text}: a new session"
            );
        }
    }
    let calls = 2 * OF_A_SESSION.len() as u64;
    assert_eq!(bench.figures.errors_of_class("session"), calls);
    assert_eq!(bench.figures.sum("retries_total", &[]), calls);
    assert_eq!(bench.figures.outcomes("unavailable"), 0);
    assert_eq!(bench.device.calls(Function::Finalize), 0, "the library is left alone");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_caller_does_not_pay_for_many_sessions_that_were_lost_together() {
    let bench = Bench::new();
    let opened = Opened::of(Settings { sessions: 30, ..bench.settings() }).await;
    opened.warm_up(30).await;
    for _ in 0..5 {
        bench.device.remove_device(Duration::ZERO);
        opened.signs().await;
        opened.warm_up(30).await;
    }
    assert_eq!(bench.figures.outcomes("unavailable"), 0);
    assert_eq!(bench.device.calls(Function::Finalize), 0, "the library is left alone");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_login_of_lost_sessions_is_not_taken_for_a_slow_device() {
    const BURST: usize = 300;
    let bench = Bench::new();
    let settings = Settings { sessions: 8, queue_wait: LONG / 60, ..bench.settings() };
    let opened = Opened::of(settings).await;
    opened.warm_up(8).await;
    bench.device.set_latency(Function::Login, Duration::from_millis(500));
    bench.device.remove_device(Duration::ZERO);
    let burst = |count| {
        let calls = (0..count).map(|_| {
            let key = std::sync::Arc::clone(&opened.key);
            tokio::spawn(async move { crate::bench::sign(&*key, LONG).await })
        });
        calls.collect::<Vec<_>>()
    };
    // One for each thread, which all wait for the one login.
    for call in burst(8) {
        call.await.unwrap().unwrap();
    }
    for call in burst(BURST) {
        call.await.unwrap().unwrap();
    }
    assert_eq!(bench.figures.outcomes("busy"), 0);
    let slow = bench.figures.sum("sign_seconds_count", &[])
        - bench.figures.sum("sign_seconds_bucket", &["le=\"0.262144\""]);
    assert_eq!(slow, 0, "nor in the figures");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_code_about_the_device_costs_the_session_at_first_and_the_third_one_the_library() {
    let bench = Bench::new();
    let opened = single(&bench).await;
    for &(code, text) in OF_THE_DEVICE {
        let started = bench.device.calls(Function::Initialize);
        bench.fail_next(Function::Sign, code);
        opened.signs().await;
        assert_eq!(bench.device.calls(Function::Initialize), started, "{text}");
        assert_eq!(bench.figures.errors(text), 1);
        let three = When::From { call: 1, times: 3 };
        bench.fault(Function::Sign, three, Effect::Fail(code));
        opened.signs().await;
        assert_eq!(bench.device.calls(Function::Initialize), started + 1, "{text}");
        assert_eq!(bench.figures.errors(text), 4);
        bench.device.clear_rules();
    }
    assert_eq!(opened.health(), StoreHealth::Good);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_that_always_fails_has_the_library_initialised_less_and_less_often() {
    let bench = Bench::new();
    let opened = single(&bench).await;
    let fault = bench.fault(Function::Sign, When::Every(1), Effect::Fail(CKR_DEVICE_ERROR));
    for _ in 0..12 {
        opened.sign(LONG).await.unwrap_err();
    }
    // Six tries each: after 3 errors, 6 more, 12 more, 24 more; a probe may have failed beside.
    assert!(bench.device.fired(fault) >= 72, "{}", bench.device.fired(fault));
    assert!(
        bench.device.calls(Function::Finalize) <= 5,
        "{}",
        bench.device.calls(Function::Finalize)
    );
    bench.device.clear_rules();
    opened.signs().await;
    let recovered = bench.device.calls(Function::Finalize);
    bench.fault(Function::Sign, When::From { call: 1, times: 3 }, Effect::Fail(CKR_DEVICE_ERROR));
    opened.signs().await;
    assert_eq!(bench.device.calls(Function::Finalize), recovered + 1, "after a good one, three");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_library_that_cannot_be_finalised_stays_as_it_is_and_leaks_no_session() {
    let bench = Bench::new();
    let opened = bench.open().await;
    opened.warm_up(4).await;
    let generation = bench.figures.generation();
    let fault = bench.fault(Function::Finalize, When::Every(1), Effect::Fail(CKR_FUNCTION_FAILED));
    for _ in 0..5 {
        bench.fail_next(Function::SignInit, CKR_DEVICE_REMOVED);
        opened.signs().await;
        opened.warm_up(4).await;
    }
    assert_eq!((bench.device.fired(fault), bench.device.sessions_open()), (5, 5));
    assert_eq!(bench.figures.generation(), generation);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_code_about_the_library_has_it_initialised_anew() {
    let bench = Bench::new();
    let opened = single(&bench).await;
    for &(code, text) in OF_THE_LIBRARY {
        let generation = bench.figures.generation();
        bench.fail_next(Function::SignInit, code);
        opened.signs().await;
        assert_eq!(bench.figures.generation(), generation + 1, "{text}");
        assert_eq!(bench.figures.errors(text), 1);
        bench.device.clear_rules();
    }
    assert_eq!(opened.health(), StoreHealth::Good);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_device_that_wants_less_is_asked_again_on_the_same_session() {
    let bench = Bench::new();
    let opened = single(&bench).await;
    let open = bench.device.calls(Function::OpenSession);
    for &(code, text) in OF_A_MOMENT {
        let three = When::From { call: 1, times: 3 };
        bench.fault(Function::Sign, three, Effect::Fail(code));
        opened.signs().await;
        assert_eq!(bench.figures.errors(text), 3);
        bench.device.clear_rules();
    }
    assert_eq!(bench.device.calls(Function::OpenSession), open);
    assert_eq!(bench.device.calls(Function::Finalize), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_wrong_with_the_call_is_refused_at_the_first_try() {
    let bench = Bench::new();
    let opened = single(&bench).await;
    for &(code, text) in OF_A_CALLER {
        let tried = bench.device.calls(Function::SignInit);
        bench.fail_next(Function::SignInit, code);
        let error = opened.sign(LONG).await.unwrap_err();
        assert!(matches!(error, SignError::Refused { .. }), "{error}");
        assert!(error.to_string().contains(text), "{error}");
        assert_eq!(bench.device.calls(Function::SignInit), tried + 1, "{text} is not tried again");
        assert_eq!(bench.figures.errors(text), 1);
        bench.device.clear_rules();
        opened.signs().await;
    }
    assert_eq!(bench.figures.errors_of_class("refused"), OF_A_CALLER.len() as u64);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pin_that_the_token_refuses_later_is_offered_once_and_ends_the_store() {
    for &(code, text) in OF_A_PIN {
        let bench = Bench::new();
        let opened = bench.open().await;
        opened.warm_up(4).await;
        let tried = bench.device.calls(Function::Login);
        bench.fault(Function::Login, When::Every(1), Effect::Fail(code));
        // All sessions are gone, with their login.
        bench.device.remove_device(Duration::ZERO);
        for _ in 0..5 {
            let error = opened.sign(LONG).await.unwrap_err();
            assert!(matches!(error, SignError::Refused { .. }), "{error}");
            assert!(error.to_string().contains(text), "{error}");
        }
        let managed = opened.store.list().await.unwrap_err();
        assert!(matches!(managed, KeyError::Credentials { .. }), "{managed}");
        assert_eq!(bench.device.calls(Function::Login), tried + 1, "{text}: one try");
        let StoreHealth::Lost(reason) = opened.health() else { panic!("{:?}", opened.health()) };
        assert!(reason.contains(text), "{reason}");
        drop(opened);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_login_that_is_refused_by_another_code_is_not_tried_without_end() {
    for (code, tries) in [(VENDORS, 1), (CKR_ARGUMENTS_BAD, 1), (CKR_OBJECT_HANDLE_INVALID, 3)] {
        let bench = Bench::new();
        let opened = bench.open().await;
        opened.warm_up(4).await;
        let tried = bench.device.calls(Function::Login);
        bench.fault(Function::Login, When::Every(1), Effect::Fail(code));
        bench.device.remove_device(Duration::ZERO);
        for _ in 0..3 {
            let error = opened.sign(LONG).await.unwrap_err();
            assert!(matches!(error, SignError::Refused { .. }), "{error}");
        }
        assert!(matches!(opened.health(), StoreHealth::Lost(_)), "{:?}", opened.health());
        assert_eq!(bench.device.calls(Function::Login), tried + tries, "{code:#x}");
        drop(opened);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_device_that_fails_at_the_login_heals_however_long_that_takes() {
    for code in [CKR_DEVICE_ERROR, CKR_FUNCTION_FAILED, CKR_DEVICE_REMOVED] {
        let bench = Bench::new();
        let opened = bench.open().await;
        opened.warm_up(4).await;
        let fault = bench.fault(Function::Login, When::Every(1), Effect::Fail(code));
        bench.device.remove_device(Duration::ZERO);
        let error = opened.sign(Duration::from_secs(1)).await.unwrap_err();
        assert!(!matches!(error, SignError::Refused { .. }), "{error}");
        assert!(bench.device.fired(fault) > 3, "{code:#x}: {}", bench.device.fired(fault));
        bench.device.remove(fault);
        opened.signs().await;
        drop(opened);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_login_that_the_token_counts_as_a_wrong_pin_is_the_last_whatever_it_says() {
    let bench = Bench::new();
    let opened = bench.open().await;
    opened.warm_up(4).await;
    bench.device.remove_device(Duration::ZERO);
    let tried = bench.device.calls(Function::Login);
    // The token is asked before and after; in between, a wrong PIN comes to be counted.
    bench.fault(Function::Login, When::Every(1), Effect::Fail(CKR_FUNCTION_FAILED));
    let after = Effect::Hang(Duration::from_millis(500));
    bench.fault(Function::GetTokenInfo, When::Nth(2), after);
    let signing = opened.sign(LONG);
    let wrong = async {
        until("the login", || bench.device.hanging() == 1).await;
        tokio::task::block_in_place(|| count_a_wrong_pin(&bench.token));
    };
    let (answer, ()) = tokio::join!(signing, wrong);
    let error = answer.unwrap_err();
    assert!(matches!(error, SignError::Refused { .. }), "{error}");
    assert_eq!(bench.device.calls(Function::Login), tried + 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_login_that_something_else_was_quicker_with_is_as_good() {
    let bench = Bench::new();
    let opened = single(&bench).await;
    let done = Effect::Lose(CKR_USER_ALREADY_LOGGED_IN);
    let fault = bench.fault(Function::Login, When::Nth(1), done);
    bench.device.remove_device(Duration::ZERO);
    opened.signs().await;
    assert_eq!(bench.device.fired(fault), 1);
    assert_eq!(bench.figures.errors("CKR_USER_ALREADY_LOGGED_IN"), 0, "it is no error");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_operation_left_behind_in_a_session_is_left_with_it() {
    let bench = Bench::new();
    let opened = single(&bench).await;
    // The operation begins, and we are told that it did not.
    bench.fault(Function::SignInit, When::Nth(1), Effect::Lose(CKR_FUNCTION_FAILED));
    opened.signs().await;
    assert_eq!(bench.figures.errors("CKR_OPERATION_ACTIVE"), 1);
    opened.warm_up(1).await;
    assert_eq!(bench.figures.errors("CKR_OPERATION_ACTIVE"), 1, "the session was replaced");
}

/// Some modules take new sessions and find the key in them, and refuse its handle until they have been
/// started anew.
#[tokio::test(flavor = "multi_thread")]
async fn handles_that_are_refused_in_new_sessions_too_have_the_library_initialised_anew() {
    for code in [CKR_KEY_HANDLE_INVALID, CKR_SESSION_HANDLE_INVALID] {
        let bench = Bench::new();
        let opened = bench.open().await;
        opened.warm_up(4).await;
        bench.fault(Function::SignInit, When::Every(1), Effect::Fail(code));
        let (started, caller) = (Instant::now(), opened.sign(LONG));
        let healed = async {
            until("a new start", || bench.device.calls(Function::Finalize) > 0).await;
            bench.device.clear_rules();
        };
        let (answer, ()) = tokio::join!(caller, healed);
        answer.unwrap();
        assert!(started.elapsed() < LONG / 2, "{:?}", started.elapsed());
        drop(opened);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fault_that_does_not_end_is_told_to_the_caller_with_its_code() {
    let bench = Bench::new();
    let opened = bench.open().await;
    for (code, text) in [OF_A_SESSION[0], OF_THE_DEVICE[2]] {
        bench.fault(Function::Sign, When::Every(1), Effect::Fail(code));
        let error = opened.sign(LONG).await.unwrap_err();
        assert!(matches!(error, SignError::Unavailable { .. }), "{error}");
        assert!(error.to_string().contains(text), "{error}");
        bench.device.clear_rules();
        opened.signs().await;
    }
    let (code, text) = OF_A_MOMENT[0];
    bench.fault(Function::Sign, When::Every(1), Effect::Fail(code));
    let error = opened.sign(Duration::from_millis(300)).await.unwrap_err();
    assert!(matches!(error, SignError::Late { .. }), "it may end: {error}");
    assert!(error.to_string().contains(text), "{error}");
    bench.device.clear_rules();
    opened.signs().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_device_that_wants_less_for_a_second_is_waited_for_and_not_stormed() {
    const CALLERS: usize = 16;
    let bench = Bench::new();
    let opened = bench.open().await;
    opened.warm_up(4).await;
    let fault = bench.fault(Function::SignInit, When::Every(1), Effect::Fail(CKR_FUNCTION_FAILED));
    let calls = [(); CALLERS].map(|()| {
        let key = std::sync::Arc::clone(&opened.key);
        tokio::spawn(async move { crate::bench::sign(&*key, LONG).await })
    });
    tokio::time::sleep(Duration::from_secs(1)).await;
    let tried = bench.device.fired(fault);
    bench.device.remove(fault);
    for call in calls {
        call.await.unwrap().unwrap();
    }
    // Four threads, and each nap is 25 ms long at least once a caller has waited 200 ms.
    assert!((CALLERS as u64..400).contains(&tried), "{tried} tries");
    assert_eq!(bench.device.calls(Function::Finalize), 0, "the library is left alone");
}

#[tokio::test(flavor = "multi_thread")]
async fn managing_keys_waits_for_a_device_that_wants_less() {
    let bench = Bench::new();
    let opened = bench.open().await;
    for (code, while_it_lasts) in
        [(CKR_FUNCTION_FAILED, Duration::from_millis(800)), (CKR_DEVICE_ERROR, Duration::ZERO)]
    {
        let fault = bench.fault(Function::FindObjectsInit, When::Every(1), Effect::Fail(code));
        let ends = async {
            until("a try", || bench.device.fired(fault) > 0).await;
            tokio::time::sleep(while_it_lasts).await;
            let tried = bench.device.fired(fault);
            bench.device.remove(fault);
            tried
        };
        let (listed, tried) = tokio::join!(opened.store.list(), ends);
        assert_eq!(listed.unwrap(), [name("x509/1")]);
        assert!(tried < 20, "{tried} tries");
    }
    let fault = bench.fault(Function::FindObjectsInit, When::Every(1), Effect::Fail(CKR_CANCEL));
    let started = Instant::now();
    let error = opened.store.list().await.unwrap_err();
    assert!(matches!(error, KeyError::Unavailable { .. }), "{error}");
    assert!(started.elapsed() < Duration::from_secs(10), "{:?}", started.elapsed());
    bench.device.remove(fault);
    assert_eq!(opened.store.list().await.unwrap(), [name("x509/1")]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_of_fewer_sessions_serves_on_those_and_takes_more_when_it_may() {
    let bench = Bench::new();
    let opened = Opened::of(Settings { sessions: 8, ..bench.settings() }).await;
    // Two for the pool of eight, and the one that manages keys.
    bench.device.set_session_limit(3);
    bench.device.remove_device(Duration::ZERO);
    let load = |count| {
        let calls = (0..count).map(|_| {
            let key = std::sync::Arc::clone(&opened.key);
            tokio::spawn(async move { crate::bench::sign(&*key, LONG).await })
        });
        calls.collect::<Vec<_>>()
    };
    for _ in 0..20 {
        for call in load(32) {
            call.await.unwrap().unwrap();
        }
    }
    assert!(bench.device.sessions_open() <= 3, "{}", bench.device.sessions_open());
    assert!(bench.figures.errors("CKR_SESSION_COUNT") > 0);
    assert_eq!(bench.device.calls(Function::Finalize), 0, "a limit is no loss");
    bench.device.set_session_limit(0);
    bench.device.set_latency(Function::Sign, Duration::from_millis(5));
    let end = Instant::now() + LONG;
    while bench.device.most_signing() < 8 {
        assert!(Instant::now() < end, "{} of 8 sessions", bench.device.sessions_open());
        for call in load(32) {
            call.await.unwrap().unwrap();
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_that_gives_no_session_at_all_is_told_to_callers_by_their_deadline() {
    let bench = Bench::new();
    let opened = Opened::of(Settings { sessions: 2, ..bench.settings() }).await;
    bench.fault(Function::OpenSession, When::Every(1), Effect::Fail(CKR_SESSION_COUNT));
    bench.device.remove_device(Duration::ZERO);
    let error = opened.sign(Duration::from_millis(300)).await.unwrap_err();
    assert!(error.to_string().contains("CKR_SESSION_COUNT"), "{error}");
    bench.device.clear_rules();
    opened.signs().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_logout_and_an_end_of_the_library_by_something_else_are_repaired() {
    let bench = Bench::new();
    let opened = bench.open().await;
    opened.warm_up(4).await;
    let context = Pkcs11::new(pkcs11_proxy::module_path().unwrap()).unwrap();
    for round in 1..=3 {
        let session = operator(&bench.token);
        session.logout().unwrap();
        drop(session);
        opened.signs().await;
        assert_eq!(opened.store.list().await.unwrap(), [name("x509/1")]);
        // Each round, we end the library once, and the store does before it starts it again.
        assert_eq!(bench.device.calls(Function::Finalize), 2 * round - 2, "a logout costs none");
        context.clone().finalize().unwrap();
        opened.signs().await;
        assert_eq!(opened.store.list().await.unwrap(), [name("x509/1")]);
        assert!(bench.figures.errors("CKR_CRYPTOKI_NOT_INITIALIZED") >= round);
    }
    assert_eq!(opened.health(), StoreHealth::Good);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_library_that_does_not_initialise_for_a_while_is_tried_until_it_does() {
    let bench = Bench::new();
    let settings = Settings { stall_limit: Duration::from_millis(300), ..bench.settings() };
    let opened = Opened::of(Settings { sessions: 8, ..settings }).await;
    opened.warm_up(8).await;
    let fault = bench.fault(Function::Initialize, When::Every(1), Effect::Fail(CKR_GENERAL_ERROR));
    // Some threads have sessions of the past, and some have none.
    bench.device.remove_device(Duration::ZERO);
    bench.fail_next(Function::OpenSession, CKR_DEVICE_REMOVED);
    let mut callers = tokio::task::JoinSet::new();
    for _ in 0..16 {
        let key = std::sync::Arc::clone(&opened.key);
        callers.spawn(async move { crate::bench::sign(&*key, LONG).await });
    }
    until("some tries", || bench.device.fired(fault) >= 6).await;
    let StoreHealth::Ailing(reason) = opened.health() else { panic!("{:?}", opened.health()) };
    assert!(
        reason.contains("does not initialise: CKR_GENERAL_ERROR from C_Initialize"),
        "{reason}"
    );
    bench.device.remove(fault);
    while let Some(answer) = callers.join_next().await {
        answer.unwrap().unwrap();
    }
    assert_eq!(opened.health(), StoreHealth::Good);
    assert_eq!(bench.figures.sum("healthy", &[]), 1);
    assert_eq!(
        bench.figures.sessions("hanging"),
        0,
        "who waits for the library does not hang in it"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_that_is_away_at_the_start_is_told() {
    let bench = Bench::new();
    bench.device.remove_device(Duration::MAX);
    let error = Pkcs11Store::open(bench.settings(), DOMAIN).await.unwrap_err();
    assert!(matches!(error, KeyError::Unavailable { .. }), "it may come back: {error}");
    for part in ["the module has no such token, or it is away", "whether the device is on"] {
        assert!(error.to_string().contains(part), "{error}");
    }
    bench.device.restore_device();
    bench.fail_next(Function::GetTokenInfo, CKR_DEVICE_ERROR);
    let selector = TokenSelector::serial("none");
    let settings = Settings { token: selector.clone(), ..bench.settings() };
    let error = Pkcs11Store::open(settings, DOMAIN).await.unwrap_err();
    assert!(matches!(error, KeyError::Unavailable { .. }), "that slot may hold it: {error}");
    assert!(error.to_string().contains("CKR_DEVICE_ERROR from C_GetTokenInfo"), "{error}");
    let settings = Settings { token: selector, ..bench.settings() };
    let error = Pkcs11Store::open(settings, DOMAIN).await.unwrap_err();
    assert!(matches!(error, KeyError::Setup { .. }), "{error}");
    bench.fail_next(Function::OpenSession, CKR_DEVICE_ERROR);
    let error = Pkcs11Store::open(bench.settings(), DOMAIN).await.unwrap_err();
    assert!(matches!(error, KeyError::Unavailable { .. }), "{error}");
    bench.open().await.signs().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn managing_keys_does_not_wait_for_ever_for_a_token_that_is_away() {
    let bench = Bench::new();
    let opened = bench.open().await;
    bench.device.remove_device(Duration::MAX);
    for _ in 0..2 {
        let started = Instant::now();
        let error = opened.store.list().await.unwrap_err();
        assert!(matches!(error, KeyError::Unavailable { .. }), "{error}");
        assert!(started.elapsed() < Duration::from_secs(15), "{:?}", started.elapsed());
    }
    assert!(matches!(opened.health(), StoreHealth::Ailing(_)), "{:?}", opened.health());
    bench.device.restore_device();
    until("its return", || opened.health() == StoreHealth::Good).await;
    assert_eq!(opened.store.list().await.unwrap(), [name("x509/1")]);
    opened.signs().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_retired_key_or_one_that_fails_alone_does_not_make_the_store_ailing_for_long() {
    let bench = Bench::new();
    let opened = bench.open().await;
    let retired = opened.store.create(&name("jwt/1"), KeyType::EcP256).await.unwrap();
    opened.store.retire(&name("jwt/1")).await.unwrap();
    let signed = bench.device.calls(Function::Sign);
    until("a probe", || bench.device.calls(Function::Sign) > signed).await;
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert_eq!(opened.health(), StoreHealth::Good);
    drop(retired);
    let gone = opened.store.create(&name("jwt/2"), KeyType::EcP256).await.unwrap();
    let label = Attribute::Label(name("jwt/2").as_str().as_bytes().to_vec());
    let session = operator(&bench.token);
    for object in session.find_objects(&[label]).unwrap() {
        session.destroy_object(object).unwrap();
    }
    drop(session);
    until("a probe by the key that is gone", || opened.health() != StoreHealth::Good).await;
    until("one by the other", || opened.health() == StoreHealth::Good).await;
    let usable = |key| bench.figures.sum("usable", &[name(key).as_str()]);
    assert_eq!((usable("jwt/2"), usable("x509/1")), (0, 1));
    // Both keys have their turns, and what one of them cannot does not come and go as the device's.
    let (missing, end) = (|| bench.figures.errors_of_class("missing"), Instant::now() + LONG);
    let first = missing();
    while missing() < first + 2 && Instant::now() < end {
        assert_eq!(opened.health(), StoreHealth::Good);
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert!(first > 0 && missing() == first + 2, "{first}");
    drop(gone);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_library_that_is_back_is_good_once_something_is_signed() {
    let bench = Bench::new();
    let opened = bench.open().await;
    opened.warm_up(4).await;
    let fault = bench.fault(Function::Sign, When::Every(1), Effect::Fail(CKR_DEVICE_ERROR));
    opened.sign(Duration::from_millis(300)).await.unwrap_err();
    let back = |times| bench.figures.sum("generation", &[]) > times;
    until("the library is back", || back(1)).await;
    for _ in 0..100 {
        assert!(matches!(opened.health(), StoreHealth::Ailing(_)), "{:?}", opened.health());
        assert_eq!(bench.figures.sum("healthy", &[]), 0);
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    bench.device.remove(fault);
    until("a probe is signed", || opened.health() == StoreHealth::Good).await;
    assert_eq!(bench.figures.sum("healthy", &[]), 1);
}

/// Somebody tries another PIN at the token, past the proxy.
fn count_a_wrong_pin(token: &softhsm::Token) {
    let context = Pkcs11::new(token.module()).unwrap();
    let slots = context.get_slots_with_initialized_token().unwrap();
    let ours =
        |slot: &Slot| context.get_token_info(*slot).unwrap().serial_number() == token.serial();
    let session = context.open_rw_session(slots.into_iter().find(ours).unwrap()).unwrap();
    session.login(UserType::User, Some(&AuthPin::from("not-the-pin"))).unwrap_err();
}

/// A session of somebody else in this process, through the same library.
fn operator(token: &softhsm::Token) -> Session {
    let context = Pkcs11::new(pkcs11_proxy::module_path().unwrap()).unwrap();
    let slots = context.get_slots_with_initialized_token().unwrap();
    let ours =
        |slot: &Slot| context.get_token_info(*slot).unwrap().serial_number() == token.serial();
    let session = context.open_rw_session(slots.into_iter().find(ours).unwrap()).unwrap();
    // Logged in already where a store is open.
    let _ = session.login(UserType::User, Some(&AuthPin::from(pin(token).as_str())));
    session
}

#[tokio::test(flavor = "multi_thread")]
async fn a_library_that_gives_each_caller_an_instance_of_its_own_is_refused() {
    if !is_alone("codes::a_library_that_gives_each_caller_an_instance_of_its_own_is_refused") {
        return;
    }
    let bench = Bench::new();
    let fault = bench.fail_next(Function::GetInfo, CKR_CRYPTOKI_NOT_INITIALIZED);
    let error = Pkcs11Store::open(bench.settings(), DOMAIN).await.unwrap_err();
    assert_eq!(bench.device.fired(fault), 1);
    assert!(matches!(error, KeyError::Setup { .. }), "{error}");
    assert!(error.to_string().contains("name the vendor's own library"), "{error}");
}
