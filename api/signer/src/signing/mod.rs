//! The signing listener: where front ends ask for SVIDs, over TLS with a certificate from both sides.
//!
//! `connection` lets peers in and ends their connections, `minting` and `follow` are the two calls of
//! `mintmark.signing.v1`, [`authorise`](mod@authorise) decides on each item; `control` is `mintmark.control.v1`.

mod arrival;
pub mod authorise;
mod connection;
mod control;
mod departure;
mod doorstep;
mod follow;
mod gate;
mod minting;
mod outbox;
mod places;
mod seat;
#[cfg(feature = "testing")]
pub mod testing;

use std::convert::Infallible;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::time::{Duration, Instant};

use ca_core::bundle::Bundle;
use ca_core::clock::Clock;
use ca_core::pipeline::Pipeline;
use futures_util::stream::{self, BoxStream, StreamExt as _};
use mintmark_proto::signing::v1::signing_server::{self, SigningServer};
use mintmark_proto::signing::v1::{FollowRequest, FollowResponse, MintRequest, MintResponse};
use mintmark_transport::{Acceptor, HandshakeError, Trust, TrustError};
use thiserror::Error;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tonic::service::Routes;
use tonic::{Request, Response, Status, Streaming};

use crate::audit::Audit;
use crate::metrics::ServiceMetrics;
use crate::own_identity::{OwnIdentity, OwnIdentityError};
use crate::services::not_offered;
use connection::{Hall, Service};
use control::Control;
use doorstep::Doorstep;
use follow::Following;
pub use gate::{Admitted, FrontEndView, Gate, Refused, UsualLives, by_records};
pub(crate) use minting::VERSION;
use minting::{Minting, Workshop};
use places::Places;
use seat::Seat;

/// Largest message in bytes: as many items as one may have, with a CSR of a kilobyte each.
const LARGEST_MESSAGE: usize = 1 << 20;
/// Largest message of answers: what clients take without being told otherwise.
const LARGEST_ANSWER: usize = 4 << 20;
/// How long what was admitted may take to be answered once the listener stops: a little longer than a mint may take.
const GRACE: Duration = Duration::from_secs(25);
/// How long to wait after a failed accept: it fails again at once while the process is out of files.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// How much strangers and peers may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Connections of peers that were let in.
    pub connections: usize,
    /// Those of one SPIFFE ID, which all instances of a front end share.
    pub connections_of_a_peer: usize,
    /// Connections that have not shown who they are; further ones wait in the kernel's queue.
    pub handshakes: usize,
    /// Those of one address (64 bits of it, if it is of IPv6); further ones are refused.
    pub handshakes_of_an_address: usize,
    /// How long one may take to do so, and to begin HTTP/2 after that.
    pub handshake_within: Duration,
    /// How long a message that has begun may take until it is there as a whole.
    pub message_within: Duration,
    /// How long an answer may wait for its peer to take it; then the connection is cut off.
    pub taken_within: Duration,
    /// Items that one connection may have under way; its streams are not read from beyond that.
    pub items_of_a_connection: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 1024,
            connections_of_a_peer: 128,
            handshakes: 256,
            handshakes_of_an_address: 64,
            handshake_within: Duration::from_secs(5),
            message_within: Duration::from_secs(10),
            taken_within: Duration::from_secs(30),
            items_of_a_connection: 16 * 1024,
        }
    }
}

/// Why there is no signing listener.
#[derive(Debug, Error)]
pub enum SigningError {
    /// Somebody else listens there.
    #[error("signing address {0} is in use; stop what listens there, or choose another")]
    InUse(SocketAddr),
    /// The machine has no such address.
    #[error("signing address {0} is none of this machine's; choose another")]
    Elsewhere(SocketAddr),
    /// The system failed.
    #[error("signing address {address}: cannot {action}: {source}")]
    System {
        /// Where to listen.
        address: SocketAddr,
        /// What was tried.
        action: &'static str,
        /// What the system said.
        source: io::Error,
    },
    /// The signer has no certificate to show.
    #[error(transparent)]
    Identity(#[from] OwnIdentityError),
    /// Peers cannot be verified.
    #[error(transparent)]
    Trust(#[from] TrustError),
    /// TLS cannot be spoken.
    #[error(transparent)]
    Tls(#[from] HandshakeError),
}

/// What the listener answers from.
pub struct SigningServices {
    /// The pipeline, and with it the mint.
    pub pipeline: Arc<Pipeline>,
    /// Read at each handshake, and to know when a certificate ends.
    pub clock: Arc<dyn Clock>,
    /// Who is let in.
    pub gate: Gate,
    /// What peers are verified by and front ends serve, as it is now. The sender may go; then it stays as it is.
    pub bundle: watch::Receiver<Arc<Bundle>>,
    /// Where it is counted what was minted.
    pub metrics: ServiceMetrics,
    /// How much may be taken.
    pub limits: Limits,
}

/// A listener that is bound and not served yet: whoever connects waits.
#[derive(Debug)]
pub struct SigningListener {
    listener: TcpListener,
    address: SocketAddr,
}

impl SigningListener {
    /// Takes the address. Port 0 takes a free one.
    ///
    /// # Errors
    /// [`SigningError`] if the address is taken, not ours, or refused.
    pub fn bind(address: SocketAddr) -> Result<Self, SigningError> {
        let listener = TcpListener::bind(address).map_err(|source| match source.kind() {
            io::ErrorKind::AddrInUse => SigningError::InUse(address),
            io::ErrorKind::AddrNotAvailable => SigningError::Elsewhere(address),
            _ => SigningError::System { address, action: "listen", source },
        })?;
        let address = listener.local_addr().map_err(system(address, "tell the port"))?;
        Ok(Self { listener, address })
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Mints the signer's own certificate, and does what else has to be before anybody is answered.
    ///
    /// # Errors
    /// If it cannot begin: no certificate of its own, or no bundle to verify others by.
    pub async fn prepare(self, services: SigningServices) -> Result<ReadyListener, SigningError> {
        let Self { listener, address } = self;
        listener.set_nonblocking(true).map_err(system(address, "listen"))?;
        let listener =
            tokio::net::TcpListener::from_std(listener).map_err(system(address, "listen"))?;
        let (mint, clock) = (Arc::clone(services.pipeline.mint()), Arc::clone(&services.clock));
        let own = OwnIdentity::establish(mint, clock).await?;
        let bundle = services.bundle.clone();
        let trust = Arc::new(Trust::of(&bundle.borrow())?);
        let audit = Arc::new(Audit::new(services.metrics.clone(), Instant::now()));
        let (stop, stopping) = watch::channel(false);
        let places = Places::of(services.limits);
        let doorstep = Doorstep::of(services.limits);
        let hall = hall(services, &own, &trust, &audit, places, stopping)?;
        Ok(ReadyListener { listener, address, doorstep, hall, own, bundle, trust, audit, stop })
    }
}

/// A listener that answers as soon as it is served. Whoever connects until then waits.
pub struct ReadyListener {
    listener: tokio::net::TcpListener,
    address: SocketAddr,
    doorstep: Arc<Doorstep>,
    hall: Arc<Hall>,
    own: OwnIdentity,
    bundle: watch::Receiver<Arc<Bundle>>,
    trust: Arc<Trust>,
    audit: Arc<Audit>,
    stop: watch::Sender<bool>,
}

impl ReadyListener {
    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Answers until `shutdown` resolves. Then no connection is taken and nothing more is read; what was admitted is
    /// answered, for some seconds, and each peer is told to go elsewhere.
    pub async fn serve(self, shutdown: impl Future<Output = ()>) {
        let Self { listener, doorstep, hall, own, bundle, trust, audit, stop, .. } = self;
        let mut connections = JoinSet::new();
        tokio::select! {
            () = shutdown => {}
            never = accept(&listener, &hall, &doorstep, &mut connections) => match never {},
            never = own.keep_fresh() => match never {},
            never = follow_trust(bundle, &trust) => match never {},
        }
        drop(listener);
        // Everyone who listens has it at once; who does not is gone.
        let _ = stop.send(true);
        let ending = async { while connections.join_next().await.is_some() {} };
        if tokio::time::timeout(GRACE, ending).await.is_err() {
            tracing::warn!("signing listener: streams did not end in time; they are cut off");
        }
        audit.close();
    }
}

/// What every connection has from the listener.
fn hall(
    services: SigningServices,
    own: &OwnIdentity,
    trust: &Arc<Trust>,
    audit: &Arc<Audit>,
    places: Arc<Places>,
    stopping: watch::Receiver<bool>,
) -> Result<Arc<Hall>, SigningError> {
    let (shown, within) = (Arc::clone(own.shown()), services.limits.handshake_within);
    let clock = Arc::clone(&services.clock);
    let acceptor = Acceptor::new(shown, Arc::clone(trust), clock, within)?;
    let gate = Arc::clone(&services.gate);
    let service = service(services, audit, stopping);
    Ok(Arc::new(Hall { acceptor, gate, places, service }))
}

/// What answers front ends, once they are let in.
fn service(
    services: SigningServices,
    audit: &Arc<Audit>,
    stopping: watch::Receiver<bool>,
) -> Arc<Service> {
    let SigningServices { pipeline, clock, gate: _, bundle, metrics, limits } = services;
    let control = Control::new(Arc::clone(&pipeline), Arc::clone(&clock), Arc::clone(audit));
    let workshop = Workshop { pipeline, metrics: metrics.clone(), audit: Arc::clone(audit) };
    let signing = Signing { workshop: Arc::new(workshop), bundle };
    let signing = SigningServer::new(signing)
        .max_decoding_message_size(LARGEST_MESSAGE)
        .max_encoding_message_size(LARGEST_ANSWER);
    let routes = Routes::new(signing).add_service(control.service());
    let routes = Routes::from(routes.into_axum_router().fallback(not_offered));
    let Limits { items_of_a_connection: items, message_within, taken_within, .. } = limits;
    let greeting_within = limits.handshake_within;
    let audit = Arc::clone(audit);
    Arc::new(Service {
        clock,
        routes,
        audit,
        metrics,
        items,
        greeting_within,
        message_within,
        taken_within,
        stopping,
    })
}

/// Takes connections, as many as may show who they are at once; each is served by a task that ends with the set.
async fn accept(
    listener: &tokio::net::TcpListener,
    hall: &Arc<Hall>,
    doorstep: &Arc<Doorstep>,
    connections: &mut JoinSet<()>,
) -> Infallible {
    loop {
        let room = doorstep.room().await;
        // What has ended leaves the set.
        while connections.try_join_next().is_some() {}
        match listener.accept().await {
            Ok((stream, from)) => match doorstep.step_on(from.ip(), room) {
                Ok(standing) => {
                    connections.spawn(Arc::clone(hall).serve(stream, from, standing));
                }
                Err(crowded) => hall.turned_away(from, &crowded),
            },
            Err(error) => {
                tracing::warn!(%error, "signing listener: a connection could not be accepted");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

/// Verifies peers by the bundle as it is.
async fn follow_trust(mut bundle: watch::Receiver<Arc<Bundle>>, trust: &Trust) -> Infallible {
    while bundle.changed().await.is_ok() {
        let fresh = Arc::clone(&bundle.borrow_and_update());
        if let Err(error) = trust.follow(&fresh) {
            tracing::error!(%error, "peers are verified by the bundle before this one");
        }
    }
    std::future::pending().await
}

fn system(address: SocketAddr, action: &'static str) -> impl FnOnce(io::Error) -> SigningError {
    move |source| SigningError::System { address, action, source }
}

/// `mintmark.signing.v1.Signing`.
struct Signing {
    workshop: Arc<Workshop>,
    bundle: watch::Receiver<Arc<Bundle>>,
}

#[tonic::async_trait]
impl signing_server::Signing for Signing {
    type MintStream = BoxStream<'static, Result<MintResponse, Status>>;
    type FollowStream = BoxStream<'static, Result<FollowResponse, Status>>;

    async fn mint(
        &self,
        request: Request<Streaming<MintRequest>>,
    ) -> Result<Response<Self::MintStream>, Status> {
        let seat = Seat::of(&request)?;
        let minting = Minting::new(Arc::clone(&self.workshop), seat, request.into_inner());
        Ok(Response::new(stream::unfold(minting, Minting::next).boxed()))
    }

    async fn follow(
        &self,
        request: Request<FollowRequest>,
    ) -> Result<Response<Self::FollowStream>, Status> {
        let seat = Seat::of(&request)?;
        let mint = Arc::clone(self.workshop.pipeline.mint());
        let following = Following::new(mint, self.bundle.clone(), seat.leaving.clone());
        Ok(Response::new(stream::unfold(following, Following::next).boxed()))
    }
}
