//! The issuing key of a server that does not sign leaves with the authority's own: made at its start, and anew
//! after half of its life.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::{Duration, Instant};

use ca_core::clock::Clock;
use ca_core::issuing::Delegation;
use ca_core::key::{KeyError, KeyName, KeyStore, Priority, SigningKey, Urgency};
use ca_core::mint::{Mint, MintError};
use keymanager::SoftwareStore;
use mintmark_signer::ServiceMetrics;
use thiserror::Error;

/// How often it is looked whether the next key is due. A clock that was set is noticed as soon.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// The first pause after a key could not be made, and the longest.
const PAUSE: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));
/// How long the authority's signature may take.
const LONGEST_SIGNATURE: Duration = Duration::from_secs(60);

/// Why there is no new issuing key.
#[derive(Debug, Error)]
pub enum IssuingKeyError {
    /// The key could not be made.
    #[error("issuing key: {0}")]
    Key(#[from] KeyError),
    /// The authority did not certify it, or that could not be logged.
    #[error("certificate of the issuing key: {0}")]
    Certificate(#[from] MintError),
}

/// Makes the issuing keys of a mint, where leaves are not signed by the authority's own.
pub struct IssuingKeys {
    mint: Arc<Mint>,
    clock: Arc<dyn Clock>,
    metrics: ServiceMetrics,
}

impl IssuingKeys {
    /// Those of this mint.
    pub fn new(mint: Arc<Mint>, clock: Arc<dyn Clock>, metrics: ServiceMetrics) -> Self {
        Self { mint, clock, metrics }
    }

    /// Makes a key and has it certified, if the mint is to have one.
    pub async fn renew(&self) -> Result<(), IssuingKeyError> {
        let Some(delegation) = self.mint.delegation() else { return Ok(()) };
        let key = self.fresh(delegation).await?;
        let urgency = Urgency::within(Priority::Expiring, LONGEST_SIGNATURE, Instant::now());
        let now = self.clock.now();
        let certificate = self.mint.delegate(delegation, key, now, urgency).await?;
        self.metrics.issuing_key_until(certificate.not_after());
        tracing::info!(
            issuing_key = %certificate.key_id(),
            authority = %self.mint.authorities().x509.authority(),
            not_after = %certificate.not_after(),
            "a new key issues"
        );
        Ok(())
    }

    /// A key that lives in the memory of this process and nowhere else: the store that makes it is dropped here.
    async fn fresh(&self, delegation: &Delegation) -> Result<Arc<dyn SigningKey>, KeyError> {
        let trust_domain = self.mint.trust_domain().name();
        let name = KeyName::parse(&format!("mintmark/{trust_domain}/issuing/1"))
            .expect("a trust domain has the letters of a key name");
        let store = SoftwareStore::in_memory(trust_domain);
        store.create(&name, delegation.settings().key_type).await
    }

    /// Renews the key whenever that is due, and tells how often the authority's own had to sign.
    pub async fn keep_fresh(&self) -> Infallible {
        let Some(delegation) = self.mint.delegation() else { return std::future::pending().await };
        let mut pause = PAUSE.0;
        loop {
            tokio::time::sleep(LOOK_EVERY).await;
            self.metrics.signed_by_authority(delegation.signed_by_authority());
            if !delegation.is_due(self.clock.now()) {
                continue;
            }
            match self.renew().await {
                Ok(()) => pause = PAUSE.0,
                Err(error) => {
                    tracing::error!(%error, "the issuing key is not renewed; it is tried again in {pause:?}");
                    tokio::time::sleep(pause).await;
                    pause = (pause * 2).min(PAUSE.1);
                }
            }
        }
    }
}
