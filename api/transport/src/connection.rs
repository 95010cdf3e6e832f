//! From a stream of bytes to a peer that is known.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use ca_core::clock::Clock;
use ca_core::id::SpiffeId;
use rustls::CommonState;
use rustls_pki_types::{IpAddr, Ipv4Addr, ServerName};
use thiserror::Error;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::timeout;
use tokio_rustls::{TlsAcceptor, TlsConnector, client, server};

use crate::identity::Identity;
use crate::rules::{Peer, Rejected, Side, examine};
use crate::settings::{self, H2};
use crate::trust::Trust;
use crate::verifier::rejection;

/// Why there is no connection.
#[derive(Debug, Error)]
pub enum HandshakeError {
    /// The peer is not let in by the rules.
    #[error(transparent)]
    Rejected(#[from] Rejected),
    /// It speaks something else on top.
    #[error("the peer does not speak HTTP/2")]
    NotHttp2,
    /// It took too long.
    #[error("the handshake took longer than {} ms", .0.as_millis())]
    TooSlow(Duration),
    /// TLS ended it: the peer speaks no TLS 1.3, holds not the key of its certificate, or has rejected us.
    #[error("TLS: {0}")]
    Tls(#[from] rustls::Error),
    /// The connection broke.
    #[error("the connection broke: {0}")]
    Broken(io::Error),
}

impl From<io::Error> for HandshakeError {
    fn from(error: io::Error) -> Self {
        let tls = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>());
        match tls.map(|tls| (rejection(tls), tls.clone())) {
            Some((Some(rejected), _)) => Self::Rejected(rejected),
            Some((None, tls)) => Self::Tls(tls),
            None => Self::Broken(error),
        }
    }
}

/// Lets peers in.
#[derive(Clone)]
pub struct Acceptor {
    tls: TlsAcceptor,
    ends: Ends,
}

/// Goes to one kind of server.
#[derive(Clone)]
pub struct Connector {
    tls: TlsConnector,
    ends: Ends,
}

/// What both ends have.
#[derive(Clone)]
struct Ends {
    trust: Arc<Trust>,
    clock: Arc<dyn Clock>,
    within: Duration,
}

impl Acceptor {
    /// Shows `identity`, and lets in whom `trust` vouches for, each within that time.
    ///
    /// # Errors
    /// If the library refuses its settings, which are ours.
    pub fn new(
        identity: Arc<Identity>,
        trust: Arc<Trust>,
        clock: Arc<dyn Clock>,
        within: Duration,
    ) -> Result<Self, HandshakeError> {
        let settings = settings::server(identity, Arc::clone(&trust), Arc::clone(&clock))?;
        let tls = TlsAcceptor::from(Arc::new(settings));
        Ok(Self { tls, ends: Ends { trust, clock, within } })
    }

    /// A stream to a peer that is known.
    ///
    /// # Errors
    /// Why it is not let in. It learns that it was not, and no more.
    pub async fn accept<S>(&self, stream: S) -> Result<(server::TlsStream<S>, Peer), HandshakeError>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let within = self.ends.within;
        let accepted = timeout(within, self.tls.accept(stream)).await;
        let stream = accepted.map_err(|_| HandshakeError::TooSlow(within))??;
        let peer = self.ends.peer(stream.get_ref().1, Side::Client)?;
        Ok((stream, peer))
    }
}

impl Connector {
    /// Shows `identity`, and speaks to the server of that ID alone: [`TrustDomain::signer_id`](ca_core::id::TrustDomain::signer_id) for a
    /// signer.
    ///
    /// # Errors
    /// If the library refuses its settings, which are ours.
    pub fn new(
        identity: Arc<Identity>,
        trust: Arc<Trust>,
        expected: SpiffeId,
        clock: Arc<dyn Clock>,
        within: Duration,
    ) -> Result<Self, HandshakeError> {
        let settings =
            settings::client(identity, Arc::clone(&trust), expected, Arc::clone(&clock))?;
        let tls = TlsConnector::from(Arc::new(settings));
        Ok(Self { tls, ends: Ends { trust, clock, within } })
    }

    /// A stream to that server. Whether the server lets us in shows when something is read: TLS 1.3 says so last.
    ///
    /// # Errors
    /// Why it is not the one.
    pub async fn connect<S>(
        &self,
        stream: S,
    ) -> Result<(client::TlsStream<S>, Peer), HandshakeError>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        // Sent nowhere and compared with nothing; the library wants one.
        let name = ServerName::IpAddress(IpAddr::V4(Ipv4Addr::from([0, 0, 0, 0])));
        let within = self.ends.within;
        let connected = timeout(within, self.tls.connect(name, stream)).await;
        let stream = connected.map_err(|_| HandshakeError::TooSlow(within))??;
        let peer = self.ends.peer(stream.get_ref().1, Side::Server)?;
        Ok((stream, peer))
    }
}

impl Ends {
    /// Whom a handshake that has succeeded was with.
    fn peer(&self, tls: &CommonState, side: Side) -> Result<Peer, HandshakeError> {
        if tls.alpn_protocol() != Some(H2) {
            return Err(HandshakeError::NotHttp2);
        }
        let chain = tls.peer_certificates().ok_or(Rejected::NoCertificate)?;
        Ok(examine(chain, side, self.trust.trust_domain(), self.clock.now())?)
    }
}
