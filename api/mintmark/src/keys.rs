//! From the description of a key store to the store.

use std::sync::Arc;

use ca_core::key::{KeyError, KeyStore};
use keymanager::metrics::StoreMetrics;
use keymanager::{Oversight, Pkcs11Store, SealKey, SoftwareStore, pkcs11};

use crate::config::{Backend, KeySettings, Pkcs11Settings, SoftwareSettings};

/// Opens the key store that `settings` describe: reads its secret, reaches the place and logs in, once.
///
/// # Errors
/// What the store says of its place, its credentials or its settings.
pub async fn open(
    settings: &KeySettings,
    trust_domain: &str,
    metrics: StoreMetrics,
) -> Result<Arc<dyn KeyStore>, KeyError> {
    let oversight = Oversight { verification: settings.verification, metrics };
    Ok(match &settings.backend {
        Backend::Software(SoftwareSettings { dir, seal_key }) => {
            let seal = SealKey::read(seal_key).await?;
            Arc::new(SoftwareStore::open(dir.clone(), seal, trust_domain, oversight).await?)
        }
        Backend::Pkcs11(token) => Arc::new(Pkcs11Store::open(of_token(token), trust_domain).await?),
    })
}

fn of_token(token: &Pkcs11Settings) -> pkcs11::Settings {
    pkcs11::Settings {
        module: token.module.clone(),
        token: token.selector(),
        pin: token.pin.clone(),
        sessions: token.sessions.into(),
        queue: usize::try_from(token.queue).unwrap_or(usize::MAX),
        read_write_sessions: token.read_write_sessions,
    }
}
