//! What is behind TLS of the signing listener, for tests that write its bytes themselves.

use std::sync::Arc;
use std::time::Instant;

use mintmark_transport::Peer;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::watch;

use super::SigningServices;
use super::connection::Service;
use super::gate::Gate;
use crate::audit::Audit;

/// A listener without sockets and TLS: the same HTTP/2, calls and ends.
pub struct BehindTls {
    gate: Gate,
    service: Arc<Service>,
    _stop: watch::Sender<bool>,
}

impl BehindTls {
    /// Answers from these.
    #[must_use]
    pub fn of(services: SigningServices) -> Self {
        let audit = Arc::new(Audit::new(services.metrics.clone(), Instant::now()));
        let gate = Arc::clone(&services.gate);
        let (stop, stopping) = watch::channel(false);
        Self { gate, service: super::service(services, &audit, stopping), _stop: stop }
    }

    /// Serves a peer until it leaves; says why, if it was not let in or was cut off.
    pub async fn serve<S>(&self, stream: S, peer: &Peer) -> Option<String>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        match (self.gate)(peer) {
            Ok(admitted) => self.service.answer(stream, peer, admitted).await,
            Err(refused) => Some(refused.to_string()),
        }
    }
}
