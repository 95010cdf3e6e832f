//! Signatures that are wrong: none is released, and somebody is told.

use std::sync::Arc;
use std::time::{Duration, Instant};

use ca_core::clock::Timestamp;
use ca_core::id::TrustDomain;
use ca_core::issuer::{self, IssueError};
use ca_core::key::{KeyError, KeyStore, KeyType, SignError};
use ca_core::name::{Attribute, Name};
use ca_core::serial::Serial;
use keymanager::pkcs11::Settings;
use keymanager::{Oversight, Verification};
use pkcs11_proxy::{Effect, Function, When};

use crate::bench::{Bench, LONG, Opened, within};
use crate::load::{Load, Tally};
use crate::log;

const ALARM: &str = "a signature does not verify and was not released";

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_signature_is_not_released_but_made_anew_in_another_session() {
    let bench = Bench::new();
    let opened = Opened::of(Settings { sessions: 1, ..bench.settings() }).await;
    opened.warm_up(1).await;
    let open = bench.device.calls(Function::OpenSession);
    bench.fault(Function::Sign, When::Nth(1), Effect::Corrupt);
    opened.signs().await;
    assert_eq!(bench.figures.sum("wrong_signatures_total", &[]), 1);
    assert_eq!(log::lines_with(ALARM), 1);
    assert_eq!(bench.device.calls(Function::OpenSession), open + 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn of_many_with_every_fifth_wrong_not_one_is_released() {
    let bench = Bench::new();
    let opened = bench.open().await;
    opened.warm_up(4).await;
    let before = Tally::counted(&bench.figures);
    let fault = bench.fault(Function::Sign, When::Every(5), Effect::Corrupt);
    let load = Load { keys: vec![Arc::clone(&opened.key)], callers: 16, patience: LONG };
    let tally = load.run(|signed| signed >= 500).await;
    tally.check(&before, &bench.figures);
    assert!(tally.signed >= 500);
    assert_eq!(bench.figures.sum("wrong_signatures_total", &[]), bench.device.fired(fault));
}

#[tokio::test(flavor = "multi_thread")]
async fn two_wrong_signatures_in_a_row_are_told_to_the_caller() {
    let bench = Bench::new();
    let opened = bench.open().await;
    let tried = bench.device.calls(Function::Sign);
    bench.fault(Function::Sign, When::Every(1), Effect::Corrupt);
    let error = opened.sign(LONG).await.unwrap_err();
    assert!(matches!(error, SignError::Wrong { .. }), "{error}");
    assert!(error.to_string().contains("stop using the device until it is checked"), "{error}");
    assert_eq!(bench.device.calls(Function::Sign), tried + 2);
    assert_eq!(bench.figures.sum("wrong_signatures_total", &[]), 2);
    assert_eq!(bench.figures.outcomes("wrong"), 1);
    assert!(log::lines_with(ALARM) >= 1);
    bench.device.clear_rules();
    opened.signs().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_ca_certificate_is_verified_though_verification_is_off() {
    let bench = Bench::new();
    let metrics = bench.figures.metrics.store("hsm");
    let oversight = Oversight { verification: Verification::Off, metrics };
    let opened = Opened::of(Settings { oversight, ..bench.settings() }).await;
    let certify = async || {
        let subject = Name::from_attributes(&[(Attribute::CommonName, "Faults")]).unwrap();
        let begin = Timestamp::from_unix(1_800_000_000);
        issuer::self_sign(
            &TrustDomain::parse("faults.test").unwrap(),
            &subject,
            &*opened.key,
            opened.key.algorithm(),
            Serial::from_bytes([7; 20]),
            (begin, begin.plus(Duration::from_secs(86_400))),
            within(LONG),
        )
        .await
    };
    bench.fault(Function::Sign, When::Nth(1), Effect::Corrupt);
    certify().await.unwrap();
    assert_eq!(bench.figures.sum("wrong_signatures_total", &[]), 1);
    bench.fault(Function::Sign, When::Every(1), Effect::Corrupt);
    let error = certify().await.unwrap_err();
    assert!(matches!(error, IssueError::Sign(SignError::Wrong { .. })), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_probe_that_is_signed_wrongly_makes_the_store_ailing_until_one_is_right() {
    let bench = Bench::new();
    let opened = bench.open().await;
    opened.warm_up(4).await;
    bench.fault(Function::Sign, When::Every(1), Effect::Corrupt);
    let started = Instant::now();
    crate::bench::until("a bad probe", || {
        matches!(opened.health(), ca_core::key::StoreHealth::Ailing(_))
    })
    .await;
    assert!(started.elapsed() < Duration::from_secs(10), "{:?}", started.elapsed());
    assert_eq!(bench.figures.sum("healthy", &[]), 0);
    bench.device.clear_rules();
    crate::bench::until("a good probe", || opened.health() == ca_core::key::StoreHealth::Good)
        .await;
    assert_eq!(bench.figures.sum("healthy", &[]), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_that_signs_wrongly_once_when_it_is_found_signs_again_in_another_session() {
    let bench = Bench::new();
    // Nothing else signs meanwhile.
    let settings = Settings { probe_interval: Duration::from_secs(3600), ..bench.settings() };
    let opened = Opened::of(settings).await;
    let (store, found) = (&opened.store, crate::bench::name("x509/1"));
    let wrong = || bench.figures.sum("wrong_signatures_total", &[]);
    let (alarms, open) = (log::lines_with(ALARM), bench.device.calls(Function::OpenSession));
    bench.fault(Function::Sign, When::Nth(1), Effect::Corrupt);
    assert!(store.find(&found).await.unwrap().is_some());
    assert_eq!((wrong(), log::lines_with(ALARM)), (1, alarms + 1));
    assert_eq!(bench.device.calls(Function::OpenSession), open + 1, "another session");
    bench.device.clear_rules();
    bench.fault(Function::Sign, When::From { call: 1, times: 2 }, Effect::Corrupt);
    let error = store.find(&found).await.unwrap_err();
    assert!(matches!(error, KeyError::Unsafe { .. }), "{error}");
    assert_eq!((wrong(), log::lines_with(ALARM)), (3, alarms + 2), "one alarm says both");
    bench.device.clear_rules();
    opened.signs().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_key_is_kept_after_one_wrong_signature_and_removed_after_two() {
    let bench = Bench::new();
    let settings = Settings { probe_interval: Duration::from_secs(3600), ..bench.settings() };
    let opened = Opened::of(settings).await;
    let (store, first) = (&opened.store, crate::bench::name("x509/1"));
    let (kept, bad) = (crate::bench::name("x509/2"), crate::bench::name("x509/3"));
    bench.fault(Function::Sign, When::Nth(1), Effect::Corrupt);
    store.create(&kept, KeyType::EcP256).await.unwrap();
    bench.device.clear_rules();
    bench.fault(Function::Sign, When::From { call: 1, times: 2 }, Effect::Corrupt);
    let error = store.create(&bad, KeyType::EcP256).await.unwrap_err();
    assert!(matches!(error, KeyError::Unsafe { .. }), "{error}");
    assert_eq!(store.list().await.unwrap(), [first, kept]);
}
