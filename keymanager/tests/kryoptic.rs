//! Keys in a kryoptic token: a second opinion on what SoftHSM lets pass.

#![expect(clippy::unwrap_used, reason = "a test: the message is the line")]

use ca_core::key::contract;
use keymanager::pkcs11::{Settings, TokenSelector};
use keymanager::{Pkcs11Store, SecretSource};
use peers::kryoptic::Token;

peers::kryoptic_process!();

const DOMAIN: &str = "token.test";

fn settings(token: &Token) -> Settings {
    Settings {
        module: token.module().to_owned(),
        token: TokenSelector::label(token.label()).with_serial(token.serial()),
        pin: SecretSource::File(token.pin_file().to_owned()),
        sessions: 2,
        queue: 256,
        read_write_sessions: false,
    }
}

async fn open(token: &Token) -> Pkcs11Store {
    Pkcs11Store::open(settings(token), DOMAIN).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kryoptic_token_keeps_the_contract() {
    contract::key_store(&open(&Token::fresh()).await, DOMAIN).await;
}
