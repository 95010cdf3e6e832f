//! Whether a KMS signs: asked every few seconds by a signature that nobody else needs.

use std::sync::{Arc, PoisonError, Weak};
use std::time::{Duration, Instant};

use ca_core::key::{Priority, SignError, SigningKey, StoreHealth, ToBeSigned, Urgency};
use tokio::time::sleep;

use super::Shared;
use super::key::RemoteKey;
use crate::probes::Probes;
use crate::verification;

/// How often.
const PERIOD: Duration = Duration::from_secs(5);
/// How long a probe may take.
const PATIENCE: Duration = Duration::from_secs(4);

/// Probes the keys in use, one after the other, for as long as their store is there.
pub(super) async fn watch(store: Weak<Shared>) {
    let mut keys = Probes::default();
    loop {
        sleep(PERIOD).await;
        let Some(shared) = store.upgrade() else { return };
        let next = keys.next(&shared.keys_in_use());
        drop(shared);
        if let Some(key) = next {
            let urgency = Urgency::within(Priority::Health, PATIENCE, Instant::now());
            let outcome = sign_probe(&key, urgency).await.map_err(|error| error.to_string());
            let in_use = key.shared.keys_in_use();
            let names = in_use.iter().map(|key| &key.name);
            if keys.conclude(&key.name, &key.metrics, &outcome, names) {
                key.shared.note_health(outcome);
            }
        }
    }
}

impl Shared {
    /// The keys that are in use, and not retired.
    fn keys_in_use(&self) -> Vec<Arc<RemoteKey>> {
        let keys = self.live();
        let in_use = keys.values().filter_map(Weak::upgrade);
        in_use.filter(|key| !key.retired.is_set()).collect()
    }

    fn note_health(&self, outcome: Result<(), String>) {
        let place = &self.description.place;
        self.oversight.metrics.healthy(outcome.is_ok());
        let new = outcome.map_or_else(StoreHealth::Ailing, |()| StoreHealth::Good);
        let mut health = self.health.lock().unwrap_or_else(PoisonError::into_inner);
        let old = std::mem::replace(&mut *health, new.clone());
        drop(health);
        match (old, new) {
            (StoreHealth::Ailing(_), StoreHealth::Good) => {
                tracing::info!(place, "the KMS signs again")
            }
            (StoreHealth::Good, StoreHealth::Ailing(reason)) => {
                tracing::warn!(place, reason, "the KMS does not sign");
            }
            _ => {}
        }
    }
}

/// Has the key sign a message that was never signed before, and verifies it.
pub(super) async fn sign_probe(key: &Arc<RemoteKey>, urgency: Urgency) -> Result<(), SignError> {
    let mut nonce = [0; 32];
    fastrand::fill(&mut nonce);
    let algorithms = key.algorithms();
    let way = *algorithms.first().expect("a key can sign in one way at least");
    let probe = ToBeSigned::probe(nonce, way);
    let signature = key.sign(probe.clone(), urgency).await?;
    if key.public_key().verifies(probe.message(), &signature) {
        return Ok(());
    }
    key.metrics.wrong();
    Err(verification::wrong(&key.name))
}
