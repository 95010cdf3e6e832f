//! The certificate with which this signer answers front ends: minted by its own mint, for a key that lives in this
//! process alone, and anew after half of its life, or when another authority signs.

use std::convert::Infallible;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use ca_core::clock::{Clock, Timestamp};
use ca_core::key::{Priority, Urgency};
use ca_core::log::Caller;
use ca_core::mint::{Mint, MintError};
use ca_core::policy;
use mintmark_transport::{Credential, CredentialError, FreshKey, Identity};
use thiserror::Error;

/// How often it is looked whether the next certificate is due. A clock that was set is noticed as soon, and so is
/// another authority.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// The first pause after there was none, and the longest.
const PAUSE: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));
/// How long the signature may take.
const LONGEST_SIGNATURE: Duration = Duration::from_secs(60);

/// Why the signer has no certificate of its own.
#[derive(Debug, Error)]
pub enum OwnIdentityError {
    /// Its key, or the two do not go together.
    #[error("the signer's own certificate: {0}")]
    Credential(#[from] CredentialError),
    /// It was not minted, or could not be logged.
    #[error("the signer's own certificate: {0}")]
    Mint(#[from] MintError),
}

/// Keeps what the signer shows.
pub(crate) struct OwnIdentity {
    mint: Arc<Mint>,
    clock: Arc<dyn Clock>,
    shown: Arc<Identity>,
    life: Mutex<Life>,
}

/// From when to when a certificate is used, and who has signed it.
#[derive(Debug, Clone)]
struct Life {
    since: Timestamp,
    until: Timestamp,
    authority: Arc<str>,
}

impl Life {
    /// Whether another certificate is due: half of the time is over, or that authority signs no more.
    fn is_over(&self, now: Timestamp, authority: &str) -> bool {
        let half = self.since.plus(self.until.since(self.since) / 2);
        now < self.since || now >= half || *self.authority != *authority
    }
}

impl OwnIdentity {
    /// Mints the first one.
    pub(crate) async fn establish(
        mint: Arc<Mint>,
        clock: Arc<dyn Clock>,
    ) -> Result<Self, OwnIdentityError> {
        let (credential, life) = minted(&mint, clock.now()).await?;
        let (shown, life) = (Identity::new(credential), Mutex::new(life));
        Ok(Self { mint, clock, shown, life })
    }

    /// What connections are answered with.
    pub(crate) fn shown(&self) -> &Arc<Identity> {
        &self.shown
    }

    /// Renews it whenever that is due. While it cannot, the last one is shown.
    pub(crate) async fn keep_fresh(&self) -> Infallible {
        let mut pause = PAUSE.0;
        loop {
            tokio::time::sleep(LOOK_EVERY).await;
            let now = self.clock.now();
            if !self.is_due(now) {
                continue;
            }
            match minted(&self.mint, now).await {
                Ok((credential, life)) => {
                    self.shown.replace(credential);
                    tracing::info!(until = %life.until, "the signer's own certificate is renewed");
                    *self.life.lock().unwrap_or_else(PoisonError::into_inner) = life;
                    pause = PAUSE.0;
                }
                Err(error) => {
                    tracing::error!(%error, "the signer's own certificate is not renewed; it is tried again in {pause:?}");
                    tokio::time::sleep(pause).await;
                    pause = (pause * 2).min(PAUSE.1);
                }
            }
        }
    }

    fn is_due(&self, now: Timestamp) -> bool {
        let life = self.life.lock().unwrap_or_else(PoisonError::into_inner);
        life.is_over(now, self.mint.authorities().x509.authority())
    }
}

async fn minted(mint: &Mint, now: Timestamp) -> Result<(Credential, Life), OwnIdentityError> {
    let key = FreshKey::generate()?;
    // Asked before it signs: if it is replaced in between, one certificate more is made.
    let authority = Arc::clone(mint.authorities().x509.authority());
    let grant = policy::signer(mint.trust_domain(), key.public().clone());
    let urgency = Urgency::within(Priority::Expiring, LONGEST_SIGNATURE, Instant::now());
    let svid = mint.x509(grant, Caller::Signer, now, urgency).await?;
    let chain = svid.chain().map(|der| der.to_vec().into()).collect();
    Ok((key.certified(chain)?, Life { since: now, until: svid.expires_at, authority }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn life() -> Life {
        let [since, until] = [1000, 1600].map(Timestamp::from_unix);
        Life { since, until, authority: "a1".into() }
    }

    #[test]
    fn the_next_certificate_is_due_at_half_of_its_life_and_when_the_clock_went_back() {
        for (now, due) in [(999, true), (1000, false), (1299, false), (1300, true), (9999, true)] {
            assert_eq!(life().is_over(Timestamp::from_unix(now), "a1"), due, "{now}");
        }
    }

    #[test]
    fn the_next_certificate_is_due_when_another_authority_signs() {
        assert!(life().is_over(Timestamp::from_unix(1000), "b2"));
    }
}
