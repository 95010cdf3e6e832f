//! Connections to a signer, which come back by themselves.

use std::error::Error;
use std::io;
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::{Duration, Instant};

use ca_core::clock::Clock;
use ca_core::id::SpiffeId;
use hyper_util::rt::TokioIo;
use mintmark_proto::control::v1::control_client::ControlClient;
use mintmark_proto::signing::v1::follow_response::Event;
use mintmark_proto::signing::v1::signing_client::SigningClient;
use mintmark_proto::signing::v1::{Bundle, FollowRequest};
use mintmark_transport::{Connector, HandshakeError};
use thiserror::Error;
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;
use tonic::transport::{Channel, Endpoint, Uri};
use tonic::{Code, Status};
use tower::service_fn;

use crate::backoff::Backoff;
use crate::credentials::Credentials;

/// How long it may take to reach a signer, to know it, and to be let in.
const CONNECT_WITHIN: Duration = Duration::from_secs(5);
/// The pause before a connection that broke is opened again, at first and at most.
const PAUSE: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(5));
/// One that lasted so long was a good one: the next pause is the first again.
const STEADY: Duration = Duration::from_secs(30);
/// Largest message in bytes that a signer takes, and that it sends.
pub(crate) const LARGEST_MESSAGE: usize = 1 << 20;
const LARGEST_ANSWER: usize = 4 << 20;
/// So much of a stream, and of all streams, may be on its way to us: what the signer has for its side.
const STREAM_WINDOW: u32 = 2 << 20;
const CONNECTION_WINDOW: u32 = 8 << 20;
/// Largest frame in bytes.
const LARGEST_FRAME: u32 = 64 * 1024;
/// How often a silent signer is asked whether it is still there, and how long it has for an answer.
const KEEPALIVE: Duration = Duration::from_secs(30);

/// A signer that has let this front end in. Clones share its connection, which a call opens again where it broke,
/// with what the [`Credentials`] are by then. After a [renewal](crate::renewal) there is another one, for calls and
/// streams that begin from then on.
#[derive(Clone)]
pub struct Signer {
    way: Arc<Way>,
    connection: Arc<RwLock<Connection>>,
}

/// Why there is no signer.
#[derive(Debug, Error)]
pub enum ConnectError {
    /// Nobody can be reached there.
    #[error("cannot reach a signer at {address}: {reason}")]
    Unreachable {
        /// Where.
        address: String,
        /// Why, and what to do.
        reason: String,
    },
    /// Who answers is not the signer of this trust domain.
    #[error("who answers at {address} is not the signer {expected}: {reason}")]
    WrongServer {
        /// Where.
        address: String,
        /// Who was to answer.
        expected: SpiffeId,
        /// The rule that it breaks.
        reason: String,
    },
    /// The signer does not let this front end in.
    #[error(
        "the signer at {address} does not let {id} in ({reason}); its log says why, and `mintmark frontend show NAME` whether the front end is enrolled with this key"
    )]
    Refused {
        /// Where.
        address: String,
        /// As whom.
        id: SpiffeId,
        /// What the connection said.
        reason: String,
    },
    /// The signer lets this front end in, and does not say what it serves.
    #[error("the signer at {address} does not tell its bundle: {reason}")]
    NoBundle {
        /// Where.
        address: String,
        /// Its words.
        reason: String,
    },
}

/// A connection that a signer has let in.
struct Connection {
    /// Of the credentials that it was opened with, or of those before.
    edition: u64,
    channel: Channel,
}

/// How to get to a signer.
struct Way {
    address: String,
    credentials: Arc<Credentials>,
    connector: Connector,
    /// When it was gone last, and how long to wait before it is again.
    tried: Mutex<(Instant, Backoff)>,
}

impl Signer {
    /// Connects to the signer at `address`, `HOST:PORT`, and waits until it has let this front end in.
    ///
    /// # Errors
    /// Why there is no such signer, within five seconds. Afterwards a connection that breaks is opened again by the next
    /// call, after a pause that doubles from 0.1 s to 5 s while it goes on breaking; the call has the error.
    pub async fn connect(
        address: &str,
        credentials: Arc<Credentials>,
        clock: Arc<dyn Clock>,
    ) -> Result<Self, ConnectError> {
        let way = Arc::new(Way::new(address, credentials, clock)?);
        let connection = Arc::new(RwLock::new(way.open().await?));
        Ok(Self { way, connection })
    }

    /// Whether its connection was opened with what the credentials are now.
    pub(crate) fn is_current(&self) -> bool {
        let connection = self.connection.read().unwrap_or_else(PoisonError::into_inner);
        connection.edition == self.credentials().edition()
    }

    /// Opens a connection with what the credentials are now and, once it is let in, has what begins from then on go
    /// over it. What is under way ends on the one before, which closes behind it.
    ///
    /// # Errors
    /// As [`connect`](Self::connect); then the connection before stays in use.
    pub(crate) async fn reconnect(&self) -> Result<(), ConnectError> {
        let fresh = self.way.open().await?;
        *self.connection.write().unwrap_or_else(PoisonError::into_inner) = fresh;
        Ok(())
    }

    /// Its bundle, as it is now. [`follow`](crate::follow) keeps up with it.
    ///
    /// # Errors
    /// The signer's or the connection's.
    pub async fn bundle(&self) -> Result<Bundle, Status> {
        bundle(self.client()).await
    }

    /// Where it is, as it was given.
    #[must_use]
    pub fn address(&self) -> &str {
        &self.way.address
    }

    /// Who this front end is.
    #[must_use]
    pub fn credentials(&self) -> &Arc<Credentials> {
        &self.way.credentials
    }

    /// For calls of `mintmark.signing.v1`. One that is kept goes on with the connection of now.
    #[must_use]
    pub fn client(&self) -> SigningClient<Channel> {
        signing(self.channel())
    }

    /// For calls of `mintmark.control.v1`. One that is kept goes on with the connection of now.
    #[must_use]
    pub fn control(&self) -> ControlClient<Channel> {
        ControlClient::new(self.channel())
    }

    fn channel(&self) -> Channel {
        self.connection.read().unwrap_or_else(PoisonError::into_inner).channel.clone()
    }
}

impl std::fmt::Debug for Signer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Signer").field("address", &self.way.address).finish_non_exhaustive()
    }
}

impl Way {
    fn new(
        address: &str,
        credentials: Arc<Credentials>,
        clock: Arc<dyn Clock>,
    ) -> Result<Self, ConnectError> {
        let connector = Connector::new(
            Arc::clone(credentials.identity()),
            Arc::clone(credentials.trust()),
            credentials.trust_domain().signer_id(),
            clock,
            CONNECT_WITHIN,
        );
        let unreachable =
            |reason| ConnectError::Unreachable { address: address.to_owned(), reason };
        Ok(Self {
            address: address.to_owned(),
            connector: connector.map_err(|error| unreachable(error.to_string()))?,
            credentials,
            tried: Mutex::new((Instant::now(), Backoff::new(PAUSE.0, PAUSE.1))),
        })
    }

    /// A connection with what the credentials are now, which is let in.
    async fn open(self: &Arc<Self>) -> Result<Connection, ConnectError> {
        // Read first: an edition that is too old costs another connection, one that is too new hides that there has to
        // be one.
        let edition = self.credentials.edition();
        let Ok(channel) = tokio::time::timeout(CONNECT_WITHIN, self.channel()).await else {
            return Err(self.unreachable(format!("it says nothing in {CONNECT_WITHIN:?}")));
        };
        Ok(Connection { edition, channel: channel? })
    }

    async fn channel(self: &Arc<Self>) -> Result<Channel, ConnectError> {
        let mut first = Some(self.dial().await?);
        let again = Arc::clone(self);
        let connector = service_fn(move |_: Uri| {
            let (first, way) = (first.take(), Arc::clone(&again));
            async move {
                match first {
                    Some(stream) => Ok(TokioIo::new(stream)),
                    None => way.dial_again().await.map(TokioIo::new),
                }
            }
        });
        let channel = endpoint().connect_with_connector(connector).await;
        let channel = channel.map_err(|error| self.unreachable(deepest(&error)))?;
        // TLS 1.3 says last whether the other side lets us in: it shows when something is read.
        bundle(signing(channel.clone())).await.map_err(|status| self.not_let_in(&status))?;
        Ok(channel)
    }

    /// Goes there once more; not at once, since many may have lost it at the same time.
    async fn dial_again(&self) -> Result<TlsStream<TcpStream>, ConnectError> {
        let pause = {
            let mut tried = self.tried.lock().unwrap_or_else(PoisonError::into_inner);
            let (last, backoff) = &mut *tried;
            if last.elapsed() > STEADY {
                backoff.reset();
            }
            let pause = backoff.pause();
            *last = Instant::now() + pause;
            pause
        };
        tokio::time::sleep(pause).await;
        self.dial().await
    }

    async fn dial(&self) -> Result<TlsStream<TcpStream>, ConnectError> {
        let dialling = async {
            let stream =
                TcpStream::connect(&*self.address).await.map_err(|error| self.no_way(&error))?;
            // A batch is a message, and leaves as soon as it is written.
            let _ = stream.set_nodelay(true);
            self.connector.connect(stream).await.map_err(|error| self.not_known(error))
        };
        let Ok(dialled) = tokio::time::timeout(CONNECT_WITHIN, dialling).await else {
            return Err(self.unreachable(format!("nobody answers in {CONNECT_WITHIN:?}")));
        };
        dialled.map(|(stream, _)| stream)
    }

    fn no_way(&self, error: &io::Error) -> ConnectError {
        self.unreachable(match error.kind() {
            io::ErrorKind::ConnectionRefused => "nobody listens there; start the signer".to_owned(),
            io::ErrorKind::InvalidInput => format!("{error}; write it as HOST:PORT"),
            _ => error.to_string(),
        })
    }

    fn not_known(&self, error: HandshakeError) -> ConnectError {
        match error {
            HandshakeError::Rejected(rejected) => ConnectError::WrongServer {
                address: self.address.clone(),
                expected: self.credentials.trust_domain().signer_id(),
                reason: rejected.to_string(),
            },
            other => self.unreachable(format!("{other}; is it the address of [signer] listen?")),
        }
    }

    /// What the first call says of being let in.
    fn not_let_in(&self, status: &Status) -> ConnectError {
        let refused = matches!(status.code(), Code::PermissionDenied | Code::Unauthenticated);
        let address = self.address.clone();
        if status.source().is_some() || refused {
            // A status with a cause was made on this side: the connection was cut off.
            let id = self.credentials.id().clone();
            return ConnectError::Refused { address, id, reason: deepest(status) };
        }
        let reason = format!("{:?}: {}", status.code(), status.message());
        ConnectError::NoBundle { address, reason }
    }

    fn unreachable(&self, reason: String) -> ConnectError {
        ConnectError::Unreachable { address: self.address.clone(), reason }
    }
}

fn signing(channel: Channel) -> SigningClient<Channel> {
    SigningClient::new(channel)
        .max_encoding_message_size(LARGEST_MESSAGE)
        .max_decoding_message_size(LARGEST_ANSWER)
}

async fn bundle(mut client: SigningClient<Channel>) -> Result<Bundle, Status> {
    let mut events = client.follow(FollowRequest::default()).await?.into_inner();
    while let Some(message) = events.message().await? {
        if let Some(Event::Bundle(bundle)) = message.event {
            return Ok(bundle);
        }
    }
    Err(Status::internal("the signer told everything but its bundle"))
}

fn endpoint() -> Endpoint {
    // The name is never resolved; HTTP/2 wants one.
    Endpoint::from_static("http://signer")
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_frame_size(LARGEST_FRAME)
        .http2_keep_alive_interval(KEEPALIVE)
        .keep_alive_timeout(KEEPALIVE)
        .keep_alive_while_idle(true)
}

/// What the innermost cause says; the outer ones say "transport error".
fn deepest(error: &dyn Error) -> String {
    let mut cause = error;
    while let Some(inner) = cause.source() {
        cause = inner;
    }
    cause.to_string()
}
