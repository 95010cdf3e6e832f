//! The front end's own certificate, renewed in time.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use ca_core::clock::Clock;
use mintmark_proto::control::v1::RenewFrontEndRequest;
use rcgen::string::Ia5String;
use rcgen::{CertificateParams, DistinguishedName, KeyPair, SanType};
use thiserror::Error;
use tonic::Status;
use zeroize::Zeroizing;

use crate::backoff::Backoff;
use crate::credentials::{CredentialsError, Life};
use crate::signer::Signer;

/// How long the signer may take.
const ANSWER_WITHIN: Duration = Duration::from_secs(30);
/// How often the clock is read while nothing is due: it may be set.
const LOOK_EVERY: Duration = Duration::from_secs(60);
/// The pause before another try, at first and at most: a week's certificate has three days for it.
const PAUSE: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(300));

/// Why there is no next certificate. The last one stays in use.
#[derive(Debug, Error)]
pub enum RenewError {
    /// No key, or no CSR by it, could be made.
    #[error("cannot make a key and a CSR by it: {0}")]
    Key(#[from] rcgen::Error),
    /// The signer, or the connection to it, says no.
    #[error("the signer does not renew the certificate of this front end: {:?}: {}", .0.code(), .0.message())]
    Signer(#[from] Status),
    /// What was issued cannot be used or kept.
    #[error(transparent)]
    Credentials(#[from] CredentialsError),
}

/// Asks for the next certificate, for a key that is made here, keeps both in the folder, and shows them to connections
/// that are opened from now on.
///
/// # Errors
/// Why there is none, within half a minute.
pub async fn renew(signer: &Signer, clock: &dyn Clock) -> Result<Life, RenewError> {
    let credentials = signer.credentials();
    let pair = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256)?;
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    let id = Ia5String::try_from(credentials.id().as_str())?;
    params.subject_alt_names.push(SanType::URI(id));
    let csr = params.serialize_request(&pair)?.der().to_vec().into();
    let mut control = signer.control();
    let asking = control.renew_front_end(RenewFrontEndRequest { csr });
    let answer = tokio::time::timeout(ANSWER_WITHIN, asking)
        .await
        .map_err(|_| Status::deadline_exceeded(format!("no answer in {ANSWER_WITHIN:?}")))??;
    let chain = answer.into_inner().chain.unwrap_or_default().certificates;
    let chain = chain.into_iter().map(|der| der.to_vec().into()).collect();
    let key = Zeroizing::new(pair.serialize_pem());
    let (keeping, now) = (Arc::clone(credentials), clock.now());
    credentials.blocking(move || keeping.replace(chain, &key, now)).await?;
    Ok(credentials.life())
}

/// Renews for ever, whenever half of a life is over. While that fails, the last certificate is shown, and the log has
/// the reason.
pub async fn keep_fresh(signer: &Signer, clock: &dyn Clock) -> Infallible {
    let mut backoff = Backoff::new(PAUSE.0, PAUSE.1);
    loop {
        let (life, now) = (signer.credentials().life(), clock.now());
        if let Some(wait) = until_due(life, now) {
            tokio::time::sleep(wait.min(LOOK_EVERY)).await;
            continue;
        }
        match renew(signer, clock).await {
            Ok(life) => {
                tracing::info!(until = %life.until, "the front end's certificate is renewed");
                // One whose half is over when it comes is no reason to ask without a pause.
                if until_due(life, now).is_some() {
                    backoff.reset();
                }
            }
            Err(error) => {
                tracing::error!(%error, until = %life.until, "the front end's certificate is not renewed; it is tried again");
            }
        }
        tokio::time::sleep(backoff.pause()).await;
    }
}

/// How long until the next certificate is due; none if it is.
fn until_due(life: Life, now: ca_core::clock::Timestamp) -> Option<Duration> {
    (now < life.half()).then(|| life.half().since(now))
}

#[cfg(test)]
mod tests {
    use super::*;
    use ca_core::clock::Timestamp;

    #[test]
    fn the_next_certificate_is_due_at_half_of_the_life() {
        let life = Life { since: Timestamp::from_unix(1000), until: Timestamp::from_unix(1600) };
        let due = |now| until_due(life, Timestamp::from_unix(now));
        assert_eq!(due(1290), Some(Duration::from_secs(10)));
        assert_eq!((due(1300), due(9999)), (None, None));
    }
}
