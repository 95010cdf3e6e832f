//! `mintmark key verify`

use std::time::{Duration, Instant};

use ca_core::key::{KeyName, KeyStore, Priority, SigningKey, ToBeSigned, Urgency};
use serde::Serialize;

use super::list::{Store, reason};
use super::{Chosen, close};
use crate::cli::{Output, VerifyKeys};
use crate::exit::Failure;
use crate::output::{Screen, columns};

/// How long a signature may take. The slowest HSM signs in a second.
const PATIENCE: Duration = Duration::from_secs(60);

/// What was found, as programs see it.
#[derive(Serialize)]
struct Report {
    store: Store,
    keys: Vec<Verified>,
}

#[derive(Serialize)]
struct Verified {
    name: String,
    good: bool,
    /// By which algorithms it signed, or what is wrong.
    detail: String,
}

/// Finds the keys as strictly as the server does, and has each sign a probe by each of its algorithms.
pub(super) async fn verify(arguments: VerifyKeys, screen: &mut Screen<'_>) -> Result<(), Failure> {
    let chosen = Chosen::load(&arguments.place)?;
    let store = chosen.open().await.map_err(Failure::failed)?;
    let names = match arguments.name {
        Some(name) => vec![name],
        None => store.list().await.map_err(Failure::failed)?,
    };
    if names.is_empty() {
        let place = &store.description().place;
        return Err(Failure::failed(format!(
            "there is no key of {} in {place}; make one with `mintmark key create`, or start the server",
            chosen.trust_domain()
        )));
    }
    let mut keys = Vec::new();
    for name in &names {
        keys.push(verified(&*store, name).await);
    }
    let bad = keys.iter().filter(|key| !key.good).count();
    let report = Report { store: Store::of(&chosen, store.description()), keys };
    close(store).await;
    show(report, screen)?;
    match bad {
        0 => Ok(()),
        _ => Err(Failure::failed(format!("{bad} of {} keys cannot be used", names.len()))),
    }
}

async fn verified(store: &dyn KeyStore, name: &KeyName) -> Verified {
    let outcome = match store.find(name).await {
        Ok(Some(key)) => prove(&*key).await,
        Ok(None) => Err("there is no such key".to_owned()),
        Err(error) => Err(reason(error)),
    };
    let good = outcome.is_ok();
    Verified { name: name.to_string(), good, detail: outcome.unwrap_or_else(|problem| problem) }
}

/// Has the key sign a probe by each of its algorithms, and verifies it; names them.
async fn prove(key: &dyn SigningKey) -> Result<String, String> {
    let mut named = Vec::new();
    for &algorithm in key.algorithms() {
        let mut nonce = [0; 32];
        aws_lc_rs::rand::fill(&mut nonce).map_err(|_| "the system gives no random bytes")?;
        let probe = ToBeSigned::probe(nonce, algorithm);
        let urgency = Urgency::within(Priority::Health, PATIENCE, Instant::now());
        let signature =
            key.sign(probe.clone(), urgency).await.map_err(|error| error.to_string())?;
        if !key.public_key().verifies(probe.message(), &signature) {
            return Err(format!("its signature by {algorithm} does not verify; check the device"));
        }
        named.push(algorithm.to_string());
    }
    Ok(named.join(", "))
}

fn show(report: Report, screen: &mut Screen<'_>) -> Result<(), Failure> {
    if screen.form() == Output::Json {
        return screen.json(&report);
    }
    let line = |key: Verified| {
        let verdict = if key.good { "ok" } else { "BAD" };
        [key.name, verdict.to_owned(), key.detail]
    };
    let rows = report.keys.into_iter().map(line).collect();
    screen.text(&format!("{}\n", columns(["Key", "State", "Found"], rows)))
}
