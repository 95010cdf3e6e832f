//! Keeping up with the signer's bundle.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use ca_core::bundle::{Bundle, JwtAuthority, X509Authority};
use ca_core::certificate::{CaCertificate, CaCertificateError};
use ca_core::clock::Timestamp;
use ca_core::id::{IdError, TrustDomain};
use ca_core::key::{PublicKey, PublicKeyError};
use mintmark_proto::signing::v1::FollowRequest;
use mintmark_proto::signing::v1::follow_response::Event;
use mintmark_proto::signing::v1::{self as wire};
use thiserror::Error;
use tokio::sync::watch;
use tonic::Status;

use crate::backoff::Backoff;
use crate::credentials::{Credentials, CredentialsError};
use crate::signer::Signer;

/// The pause before a stream that broke is opened again, at first and at most.
const PAUSE: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(10));
/// The pause before a bundle that could not be written is written again, at first and at most.
const WRITE_PAUSE: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(60));

/// Why a bundle cannot be followed.
#[derive(Debug, Error)]
pub enum BundleError {
    /// It is of nobody's trust domain.
    #[error("the signer's bundle: {0}")]
    TrustDomain(#[from] IdError),
    /// One of its root certificates cannot be read.
    #[error("the signer's bundle: {0}")]
    X509(#[from] CaCertificateError),
    /// One of its token keys cannot be read.
    #[error("the signer's bundle: {0}")]
    Jwt(#[from] PublicKeyError),
    /// No signer can be verified by it.
    #[error(transparent)]
    Unusable(#[from] CredentialsError),
}

/// What a signer tells of its bundle.
///
/// # Errors
/// If a part of it cannot be read.
pub fn bundle(message: &wire::Bundle) -> Result<Bundle, BundleError> {
    let root = |root: &wire::X509Authority| -> Result<X509Authority, BundleError> {
        let certificate = CaCertificate::from_der(&root.certificate)?;
        Ok(X509Authority { certificate, tainted: root.tainted })
    };
    let key = |key: &wire::JwtAuthority| -> Result<JwtAuthority, BundleError> {
        Ok(JwtAuthority {
            kid: key.key_id.clone(),
            key: PublicKey::from_spki(&key.public_key)?,
            expires_at: Timestamp::from_unix(key.expires_at),
            tainted: key.tainted,
        })
    };
    Ok(Bundle {
        trust_domain: TrustDomain::parse(&message.trust_domain)?,
        x509_authorities: message.x509_authorities.iter().map(root).collect::<Result<_, _>>()?,
        jwt_authorities: message.jwt_authorities.iter().map(key).collect::<Result<_, _>>()?,
        sequence: message.sequence,
        refresh_hint: Duration::from_secs(message.refresh_hint_seconds.into()),
    })
}

/// Follows for ever: each bundle that differs from the one before verifies signers from then on and is told, and the newest
/// is kept in the folder of the credentials. One that cannot be used is written to the log, and the one before stays. One
/// that cannot be written to the folder is in use all the same, and is written later.
pub async fn keep(signer: &Signer, told: &watch::Sender<Arc<Bundle>>) -> Infallible {
    let (trusted, to_keep) = watch::channel(None);
    let following = follow(signer, &trusted, told);
    tokio::select! {
        never = following => never,
        never = keep_in_folder(signer.credentials(), to_keep) => never,
    }
}

/// Trusts and tells what comes, stream after stream.
async fn follow(
    signer: &Signer,
    trusted: &watch::Sender<Option<Arc<Bundle>>>,
    told: &watch::Sender<Arc<Bundle>>,
) -> Infallible {
    let mut backoff = Backoff::new(PAUSE.0, PAUSE.1);
    loop {
        let Err(status) = events(signer, trusted, told, &mut backoff).await;
        tracing::warn!(
            reason = status.message(),
            "the signer's bundle is not followed; it is tried again"
        );
        tokio::time::sleep(backoff.pause()).await;
    }
}

/// One stream, until it ends.
async fn events(
    signer: &Signer,
    trusted: &watch::Sender<Option<Arc<Bundle>>>,
    told: &watch::Sender<Arc<Bundle>>,
    backoff: &mut Backoff,
) -> Result<Infallible, Status> {
    let mut events = signer.client().follow(FollowRequest::default()).await?.into_inner();
    loop {
        let event = events.message().await?;
        let event = event.ok_or_else(|| Status::unavailable("the signer has ended the stream"))?;
        backoff.reset();
        let Some(Event::Bundle(message)) = event.event else { continue };
        if let Err(error) = took(signer.credentials(), &message, trusted, told) {
            tracing::error!(%error, "the signer's bundle is not taken over");
        }
    }
}

fn took(
    credentials: &Credentials,
    message: &wire::Bundle,
    trusted: &watch::Sender<Option<Arc<Bundle>>>,
    told: &watch::Sender<Arc<Bundle>>,
) -> Result<(), BundleError> {
    let fresh = Arc::new(bundle(message)?);
    if trusted.borrow().as_ref() == Some(&fresh) {
        return Ok(());
    }
    credentials.follow(&fresh)?;
    trusted.send_replace(Some(Arc::clone(&fresh)));
    told.send_if_modified(|told| {
        let differs = *told != fresh;
        *told = fresh;
        differs
    });
    Ok(())
}

/// Writes the newest bundle that is trusted to the folder, again after a pause where that fails.
async fn keep_in_folder(
    credentials: &Arc<Credentials>,
    mut trusted: watch::Receiver<Option<Arc<Bundle>>>,
) -> Infallible {
    let mut backoff = Backoff::new(WRITE_PAUSE.0, WRITE_PAUSE.1);
    loop {
        let newest = trusted.borrow_and_update().clone();
        if let Some(bundle) = newest {
            let keeping = Arc::clone(credentials);
            let kept = credentials.blocking(move || keeping.keep(&bundle)).await;
            if let Err(error) = kept {
                tracing::error!(%error, "the signer's bundle is in use, and is not kept for the next start; it is tried again");
                tokio::time::sleep(backoff.pause()).await;
                continue;
            }
            backoff.reset();
        }
        if trusted.changed().await.is_err() {
            // Nobody follows any more, so nobody waits for this.
            std::future::pending::<()>().await;
        }
    }
}
