//! A key store on a fresh token, for the tests of one module or another: `crate::Token` says which.

use std::process::Command;
use std::time::{Duration, Instant};

use ca_core::key::{KeyName, Priority, Urgency};
use keymanager::metrics::StoreMetrics;
use keymanager::pkcs11::{Settings, TokenSelector};
use keymanager::{Oversight, Pkcs11Store, SecretSource, Verification};

use crate::Token;

pub(crate) const DOMAIN: &str = "token.test";

pub(crate) fn settings(token: &Token) -> Settings {
    let selector = TokenSelector::label(token.label()).with_serial(token.serial());
    let pin = SecretSource::File(token.pin_file().to_owned());
    let oversight =
        Oversight { verification: Verification::Always, metrics: StoreMetrics::default() };
    Settings { sessions: 2, ..Settings::new(token.module().to_owned(), selector, pin, oversight) }
}

pub(crate) async fn open(token: &Token) -> Pkcs11Store {
    Pkcs11Store::open(settings(token), DOMAIN).await.unwrap()
}

pub(crate) fn name(text: &str) -> KeyName {
    KeyName::parse(&format!("mintmark/{DOMAIN}/{text}")).unwrap()
}

pub(crate) fn pin(token: &Token) -> String {
    std::fs::read_to_string(token.pin_file()).unwrap()
}

pub(crate) fn soon() -> Urgency {
    Urgency::within(Priority::New, Duration::from_secs(60), Instant::now())
}

/// Whether this is a process in which no other test runs; if not, runs the test of that name in one. For
/// tests that have the module initialised anew, under whoever else uses it in the process.
pub(crate) fn is_alone(name: &str) -> bool {
    const ALONE: &str = "MODULE_TEST_ALONE";
    if std::env::var_os(ALONE).is_some() {
        return true;
    }
    let output = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", name, "--nocapture"])
        .env(ALONE, "1")
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let run = String::from_utf8_lossy(&output.stdout).contains("1 passed");
    assert!(run, "the test of that name has run");
    false
}
