//! A token that fails, and a store on it that does not: every fault heals or is refused with its reason,
//! no caller waits past its deadline, and no wrong signature is released.
//!
//! The token is SoftHSM behind the fault-injecting proxy. Faults are the process's, so each test takes its
//! turn with the device ([`bench::Bench`]); what only SoftHSM itself can show runs in processes of its own
//! ([`alone`]). The tests of [`soak`] and [`crowds`] are short here and long in `make soak`.

#![expect(clippy::unwrap_used, reason = "tests: the message is the line")]

mod alone;
mod batches;
mod bench;
mod codes;
mod crowds;
mod hangs;
mod load;
mod log;
mod managing;
#[path = "../../../ca-core/tests/minting/mod.rs"]
mod minting;
mod neighbours;
mod overload;
mod secrets;
mod signatures;
mod soak;

use bench::{Bench, DOMAIN};
use ca_core::key::contract;
use keymanager::Pkcs11Store;
use keymanager::pkcs11::Settings;

pkcs11_proxy::test_process!();

#[tokio::test(flavor = "multi_thread")]
async fn a_token_behind_the_proxy_keeps_the_contract() {
    let bench = Bench::new();
    let settings = Settings { sessions: 2, ..bench.settings() };
    let store = Pkcs11Store::open(settings, DOMAIN).await.unwrap();
    contract::key_store(&store, DOMAIN).await.report("SoftHSM through the proxy");
}
