//! One `Follow` stream: everything once, then what changes.

use std::sync::Arc;
use std::time::Duration;

use ca_core::bundle::Bundle;
use ca_core::issuing::Delegation;
use ca_core::mint::Mint;
use mintmark_proto::signing::v1::follow_response::Event;
use mintmark_proto::signing::v1::{
    Authorities, Bundle as BundleMessage, FollowResponse, JwtAuthority, SnapshotEnd, X509Authority,
};
use tokio::sync::watch;
use tonic::Status;

use crate::status::Failure;

/// How often it is looked whether another key signs.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// A stream under way.
pub(super) struct Following {
    mint: Arc<Mint>,
    bundle: watch::Receiver<Arc<Bundle>>,
    leaving: watch::Receiver<bool>,
    next: Next,
    told: Authorities,
}

/// What is told next.
enum Next {
    Bundle,
    Authorities,
    SnapshotEnd,
    Change,
    Nothing,
}

impl Following {
    pub(super) fn new(
        mint: Arc<Mint>,
        bundle: watch::Receiver<Arc<Bundle>>,
        leaving: watch::Receiver<bool>,
    ) -> Self {
        Self { mint, bundle, leaving, next: Next::Bundle, told: Authorities::default() }
    }

    /// The next event, or the end.
    pub(super) async fn next(mut self) -> Option<(Result<FollowResponse, Status>, Self)> {
        let event = match self.next {
            Next::Bundle => {
                self.next = Next::Authorities;
                Ok(self.bundle())
            }
            Next::Authorities => {
                self.next = Next::SnapshotEnd;
                Ok(self.authorities(authorities(&self.mint)))
            }
            Next::SnapshotEnd => {
                self.next = Next::Change;
                Ok(Event::SnapshotEnd(SnapshotEnd {}))
            }
            Next::Change => self.change().await,
            Next::Nothing => return None,
        };
        if event.is_err() {
            self.next = Next::Nothing;
        }
        let event = event.map(|event| FollowResponse { event: Some(event) });
        Some((event.map_err(Status::from), self))
    }

    /// Waits for one.
    async fn change(&mut self) -> Result<Event, Failure> {
        loop {
            // The sender is gone with the connection, and so is this.
            let left = async { drop(self.leaving.wait_for(|leaving| *leaving).await) };
            tokio::select! {
                () = left => return Err(Failure::Stopping),
                Ok(()) = self.bundle.changed() => return Ok(self.bundle()),
                () = tokio::time::sleep(LOOK_EVERY) => {
                    let now = authorities(&self.mint);
                    if now != self.told {
                        return Ok(self.authorities(now));
                    }
                }
            }
        }
    }

    fn bundle(&mut self) -> Event {
        Event::Bundle(message(&self.bundle.borrow_and_update()))
    }

    fn authorities(&mut self, now: Authorities) -> Event {
        self.told = now.clone();
        Event::Authorities(now)
    }
}

fn authorities(mint: &Mint) -> Authorities {
    let issuing = mint.delegation().and_then(Delegation::present);
    let issuing_key = issuing.as_ref().and_then(|issuer| issuer.issuing_key());
    Authorities {
        x509_authority_id: mint.authorities().x509.authority().to_string(),
        issuing_key_id: issuing_key.map(ToString::to_string).unwrap_or_default(),
        jwt_authority_id: mint.authorities().jwt.kid().to_string(),
    }
}

fn message(bundle: &Bundle) -> BundleMessage {
    let x509 = bundle.x509_authorities.iter().map(|authority| X509Authority {
        certificate: authority.certificate.der().clone(),
        tainted: authority.tainted,
    });
    let jwt = bundle.jwt_authorities.iter().map(|authority| JwtAuthority {
        key_id: authority.kid.clone(),
        public_key: authority.key.spki().to_vec().into(),
        expires_at: authority.expires_at.unix(),
        tainted: authority.tainted,
    });
    BundleMessage {
        trust_domain: bundle.trust_domain.name().to_owned(),
        sequence: bundle.sequence,
        refresh_hint_seconds: u32::try_from(bundle.refresh_hint.as_secs()).unwrap_or(u32::MAX),
        x509_authorities: x509.collect(),
        jwt_authorities: jwt.collect(),
    }
}
