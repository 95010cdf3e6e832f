//! The PIN is nowhere but in the token and in the login. Every test of this program looks for it in the
//! log and in the figures when it ends; this one has the store tell all that it can.

use std::time::Duration;

use ca_core::key::{KeyStore, KeyType};
use pkcs11_proxy::cryptoki_sys::{CKR_DEVICE_REMOVED, CKR_KEY_SIZE_RANGE, CKR_PIN_INCORRECT};
use pkcs11_proxy::{Effect, Function, When};

use crate::bench::{Bench, LONG, name, pin};
use crate::log;

#[tokio::test(flavor = "multi_thread")]
async fn the_pin_is_in_no_debug_output_error_figure_or_log_line() {
    let bench = Bench::new();
    let pin = pin(&bench.token);
    let settings = bench.settings();
    let opened = bench.open().await;
    let mut told = vec![
        format!("{settings:?}"),
        format!("{:?}", settings.pin),
        format!("{:?} {:?}", opened.store, opened.store.description()),
        format!("{:?}", opened.key),
        format!("{:?}", opened.store.describe(&name("x509/1")).await),
    ];
    opened.signs().await;
    for (function, code) in
        [(Function::SignInit, CKR_DEVICE_REMOVED), (Function::Sign, CKR_KEY_SIZE_RANGE)]
    {
        bench.fail_next(function, code);
        told.push(format!("{:?}", opened.sign(LONG).await));
    }
    bench.fault(Function::Sign, When::From { call: 1, times: 2 }, Effect::Corrupt);
    told.push(format!("{:?}", opened.sign(LONG).await));
    let taken = opened.store.create(&name("x509/1"), KeyType::EcP256).await.unwrap_err();
    told.push(format!("{taken} {taken:?}"));
    bench.fault(Function::Login, When::Every(1), Effect::Fail(CKR_PIN_INCORRECT));
    bench.device.remove_device(Duration::ZERO);
    let refused = opened.sign(LONG).await.unwrap_err();
    told.push(format!("{refused} {refused:?} {:?}", opened.health()));
    told.push(bench.figures.text());
    for text in told {
        assert!(!text.contains(&pin), "the PIN is in: {text}");
    }
    assert!(log::lines_with("keys are lost to this process") == 1, "the log is looked at");
    assert_eq!(log::leak(), None);
}
