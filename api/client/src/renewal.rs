//! The front end's own certificate, renewed in time.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use ca_core::clock::{Clock, Timestamp};
use mintmark_proto::control::v1::RenewFrontEndRequest;
use thiserror::Error;
use tonic::Status;

use crate::backoff::Backoff;
use crate::credentials::{CredentialsError, Life};
use crate::key;
use crate::signer::{ConnectError, Signer};

/// How long the signer may take.
const ANSWER_WITHIN: Duration = Duration::from_secs(30);
/// How often the clock is read while nothing is due: it may be set.
const LOOK_EVERY: Duration = Duration::from_secs(60);
/// Instances that were enrolled together do not renew together: each waits for a share of its certificate's life that it
/// draws, up to so much of it and so long.
const SPREAD: f64 = 0.01;
const LONGEST_SPREAD: Duration = Duration::from_secs(3600);
/// The pause before another try, at first and at most: a week's certificate has three days for it.
const PAUSE: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(300));

/// Why there is no next certificate, or none that is shown yet. What was shown before stays in use.
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
    /// There is a next certificate, and no connection was let in with it: the signer has not seen its key, so the key
    /// before is still good.
    #[error(
        "the next certificate of this front end is kept, and no connection is let in with it: {0}"
    )]
    Connection(#[from] ConnectError),
}

/// Asks for the next certificate, for a key that is made here, if half of the life of this one is over; keeps both in the
/// folder; and opens the signer's connection anew, unless it was opened with what the credentials are by then. When this is
/// done, that is let in: the signer has seen the new key and replaces the one before, and what begins from then on goes
/// over the new connection.
///
/// Whoever renews the same credentials meanwhile waits, and does only what is left to do.
///
/// # Errors
/// Why there is no certificate, or no connection with it, within about half a minute and as long for each who was first.
/// Called again it goes on from there.
pub async fn renew(signer: &Signer, clock: &dyn Clock) -> Result<Life, RenewError> {
    let credentials = signer.credentials();
    let _renewing = credentials.renewing().await;
    // Not before it is our turn: who had it may have done it.
    if clock.now() >= credentials.life().half() {
        replace(signer, clock).await?;
    }
    if !signer.is_current() {
        signer.reconnect().await?;
    }
    Ok(credentials.life())
}

/// The next certificate, in the folder and in the credentials.
async fn replace(signer: &Signer, clock: &dyn Clock) -> Result<(), RenewError> {
    let credentials = signer.credentials();
    let (key, csr) = key::with_request(credentials.id())?;
    let mut control = signer.control();
    let asking = control.renew_front_end(RenewFrontEndRequest { csr: csr.into() });
    let answer = tokio::time::timeout(ANSWER_WITHIN, asking)
        .await
        .map_err(|_| Status::deadline_exceeded(format!("no answer in {ANSWER_WITHIN:?}")))??;
    let chain = answer.into_inner().chain.unwrap_or_default().certificates;
    let chain = chain.into_iter().map(|der| der.to_vec().into()).collect();
    let (keeping, now) = (Arc::clone(credentials), clock.now());
    credentials.blocking(move || keeping.replace(chain, &key, now)).await?;
    let until = credentials.life().until;
    tracing::info!(%until, "the front end's certificate is renewed");
    Ok(())
}

/// Renews for ever, soon after half of a life is over, and sees to it that the signer's connection was opened with the
/// newest certificate, whoever has renewed it. While either fails, what was there before is in use, and the log has the
/// reason.
pub async fn keep_fresh(signer: &Signer, clock: &dyn Clock) -> Infallible {
    let mut backoff = Backoff::new(PAUSE.0, PAUSE.1);
    let mut share = fastrand::f64();
    loop {
        let (life, now) = (signer.credentials().life(), clock.now());
        if let Some(wait) = until_due(life, share, now)
            && signer.is_current()
        {
            tokio::time::sleep(wait.min(LOOK_EVERY)).await;
            continue;
        }
        match renew(signer, clock).await {
            Ok(life) => {
                share = fastrand::f64();
                // One whose half is over when it comes is no reason to ask without a pause.
                if now < life.half() {
                    backoff.reset();
                }
            }
            Err(error) => {
                let until = signer.credentials().life().until;
                tracing::error!(%error, %until, "the front end's certificate is not renewed; it is tried again");
            }
        }
        tokio::time::sleep(backoff.pause()).await;
    }
}

/// How long until the next certificate is due, by the share of the spread that was drawn; none if it is.
fn until_due(life: Life, share: f64, now: Timestamp) -> Option<Duration> {
    let spread = life.until.since(life.since).mul_f64(SPREAD).min(LONGEST_SPREAD);
    let due = life.half().plus(spread.mul_f64(share));
    (now < due).then(|| due.since(now))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn life(seconds: i64) -> Life {
        Life { since: Timestamp::from_unix(1000), until: Timestamp::from_unix(1000 + seconds) }
    }

    #[test]
    fn the_next_certificate_is_due_at_half_of_the_life() {
        let due = |now| until_due(life(600), 0.0, Timestamp::from_unix(now));
        assert_eq!(due(1290), Some(Duration::from_secs(10)));
        assert_eq!((due(1300), due(9999)), (None, None));
    }

    #[test]
    fn instances_of_one_second_are_due_within_a_hundredth_of_the_life_and_an_hour() {
        let after_half = |seconds, share| {
            let life = life(seconds);
            until_due(life, share, life.half()).unwrap_or_default().as_secs()
        };
        assert_eq!([0.0, 0.5, 1.0].map(|share| after_half(86_400, share)), [0, 432, 864]);
        assert_eq!([0.0, 0.5, 1.0].map(|share| after_half(86_400 * 365, share)), [0, 1800, 3600]);
    }
}
