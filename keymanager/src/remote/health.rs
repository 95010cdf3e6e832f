//! Whether a KMS signs: asked every few seconds by a signature that nobody else needs.

use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use ca_core::key::{Priority, SigningKey, ToBeSigned, Urgency};
use tokio::time::sleep;

use super::Shared;
use super::key::RemoteKey;

/// How often.
const PERIOD: Duration = Duration::from_secs(5);
/// How long a probe may take.
const PATIENCE: Duration = Duration::from_secs(4);

/// Probes the keys in use, one after the other, for as long as their store is there.
pub(super) async fn watch(store: Weak<Shared>) {
    let mut health = None;
    for round in 0.. {
        sleep(PERIOD).await;
        let Some(shared) = store.upgrade() else { return };
        if let Some(key) = key_in_use(&shared, round) {
            drop(shared);
            probe(&key, &mut health).await;
        }
    }
}

fn key_in_use(shared: &Shared, round: usize) -> Option<Arc<RemoteKey>> {
    let keys: Vec<_> = shared
        .live()
        .values()
        .filter_map(Weak::upgrade)
        .filter(|key| !key.retired.is_set())
        .collect();
    keys.get(round % keys.len().max(1)).map(Arc::clone)
}

async fn probe(key: &Arc<RemoteKey>, health: &mut Option<bool>) {
    let urgency = Urgency::within(Priority::Health, PATIENCE, Instant::now());
    let answer = key.sign(message(key), urgency).await;
    let place = &key.shared.description.place;
    match (&answer, *health) {
        (Ok(_), Some(false)) => tracing::info!(place, "the KMS signs again"),
        (Err(error), None | Some(true)) => tracing::warn!(place, %error, "the KMS does not sign"),
        _ => {}
    }
    *health = Some(answer.is_ok());
    key.shared.oversight.metrics.healthy(answer.is_ok());
}

/// A probe that was never signed before.
pub(super) fn message(key: &RemoteKey) -> ToBeSigned {
    let mut nonce = [0; 32];
    fastrand::fill(&mut nonce);
    let algorithms = key.algorithms();
    ToBeSigned::probe(nonce, *algorithms.first().expect("a key can sign in one way at least"))
}
