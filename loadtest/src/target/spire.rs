//! SPIRE's API on a unix socket, as Mintmark and a SPIRE server serve it: one call for each SVID.

use std::error::Error;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use hyper_util::rt::TokioIo;
use mintmark_proto::spire::bundle::v1::GetBundleRequest;
use mintmark_proto::spire::bundle::v1::bundle_client::BundleClient;
use mintmark_proto::spire::svid::v1::svid_client::SvidClient;
use mintmark_proto::spire::svid::v1::{MintJwtsvidRequest, MintX509svidRequest};
use mintmark_proto::spire::types::Spiffeid;
use thiserror::Error as ThisError;
use tokio::net::UnixStream;
use tokio::runtime::Handle;
use tonic::transport::{Channel, Endpoint, Uri};
use tonic::{Code, Status};
use zeroize::Zeroizing;

use super::{Fault, Item, Svid, Target};
use crate::asks::{AUDIENCE, Ask, Asks};
use crate::check::{Bundle, BundleError};
use crate::ledger::Ledger;

/// How long a server may take to accept a connection, and to hand out its bundle.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// Connections to one server.
#[derive(Debug)]
pub struct Server {
    socket: PathBuf,
    channels: Vec<Channel>,
    process: Option<u32>,
}

/// A server with what it is to be asked.
#[derive(Debug)]
pub struct Spire {
    connections: Vec<SvidClient<Channel>>,
    process: Option<u32>,
    asks: Arc<Asks>,
    answer_within: Duration,
    runtime: Handle,
}

/// Why there is nobody to ask.
#[derive(Debug, ThisError)]
pub enum ConnectError {
    /// Nobody can be reached behind the socket.
    #[error("cannot reach a server at {}: {reason}", socket.display())]
    Unreachable {
        /// The socket.
        socket: PathBuf,
        /// Why, and what to do.
        reason: String,
    },
    /// Somebody is there and does not let us in.
    #[error("the server at {} refuses this client: {reason}", socket.display())]
    Refused {
        /// The socket.
        socket: PathBuf,
        /// Its words, and what to do.
        reason: String,
    },
    /// Without a bundle no answer can be checked.
    #[error("cannot get the bundle from {}: {reason}; --check 0 runs without checking answers", socket.display())]
    NoBundle {
        /// The socket.
        socket: PathBuf,
        /// Why.
        reason: String,
    },
}

impl Server {
    /// Opens `connections` connections to the server behind `socket`.
    pub async fn connect(socket: &Path, connections: u32) -> Result<Self, ConnectError> {
        let mut channels = Vec::new();
        for _ in 0..connections {
            channels.push(connect(socket).await?);
        }
        Ok(Self { socket: socket.to_owned(), channels, process: peer(socket).await })
    }

    /// The bundle that answers are to be checked with.
    pub async fn bundle(&self) -> Result<Bundle, ConnectError> {
        let mut client = BundleClient::new(self.channels[0].clone());
        let asking = client.get_bundle(GetBundleRequest { output_mask: None });
        let answer = tokio::time::timeout(CONNECT_TIMEOUT, asking)
            .await
            .map_err(|_| self.no_bundle(format!("no answer in {CONNECT_TIMEOUT:?}")))?
            .map_err(|status| self.refused(status))?;
        Bundle::try_from(answer.into_inner())
            .map_err(|error: BundleError| self.no_bundle(error.to_string()))
    }

    fn refused(&self, status: Status) -> ConnectError {
        let socket = self.socket.clone();
        let refused = matches!(status.code(), Code::PermissionDenied | Code::Unauthenticated);
        let Fault { code, message } = Fault::from(status);
        if refused {
            let reason = format!("{code}: {message}; run as a user whom its admin socket admits");
            ConnectError::Refused { socket, reason }
        } else {
            ConnectError::NoBundle { socket, reason: format!("{code}: {message}") }
        }
    }

    fn no_bundle(&self, reason: String) -> ConnectError {
        ConnectError::NoBundle { socket: self.socket.clone(), reason }
    }

    /// Ready to be asked `asks`, each to be answered within `answer_within`; calls wait on `runtime`.
    #[must_use]
    pub fn ready(self, asks: Arc<Asks>, answer_within: Duration, runtime: Handle) -> Spire {
        let connections = self.channels.into_iter().map(SvidClient::new).collect();
        Spire { connections, process: self.process, asks, answer_within, runtime }
    }
}

impl Target for Spire {
    fn send(&self, items: &[Item], ledger: &Arc<Ledger>) {
        for item in items {
            let place = usize::try_from(item.index % self.connections.len() as u64);
            let connection = self.connections[place.expect("below a length")].clone();
            let (item, asks, ledger) = (*item, self.asks.clone(), ledger.clone());
            let limit = self.answer_within;
            self.runtime.spawn(async move {
                let deadline = ledger.instant(item.intended + limit).into();
                let outcome =
                    tokio::time::timeout_at(deadline, mint(connection, asks.at(item.ask)))
                        .await
                        .unwrap_or_else(|_| Err(Fault::unanswered(limit)));
                ledger.deliver([(item, outcome)]);
            });
        }
    }

    fn server(&self) -> Option<u32> {
        self.process
    }
}

/// Asks once.
async fn mint(mut connection: SvidClient<Channel>, ask: &Ask) -> Result<Svid, Fault> {
    match &ask.key {
        Some(key) => {
            let request = MintX509svidRequest { csr: key.csr.clone(), ttl: 0 };
            let answer = connection.mint_x509svid(request).await?.into_inner();
            let chain = answer.svid.map(|svid| svid.cert_chain).unwrap_or_default();
            if chain.is_empty() { Err(Fault::unusable()) } else { Ok(Svid::X509(chain)) }
        }
        None => {
            let id =
                Spiffeid { trust_domain: ask.id.trust_domain.clone(), path: ask.id.path.clone() };
            let audience = vec![AUDIENCE.to_owned()];
            let request = MintJwtsvidRequest { id: Some(id), audience, ttl: 0 };
            let answer = connection.mint_jwtsvid(request).await?.into_inner();
            let token = Zeroizing::new(answer.svid.map(|svid| svid.token).unwrap_or_default());
            if token.is_empty() { Err(Fault::unusable()) } else { Ok(Svid::Jwt(token)) }
        }
    }
}

impl From<Status> for Fault {
    fn from(status: Status) -> Self {
        // A status with a cause was made on this side: the server sent none.
        match deepest(&status) {
            Some(cause) => Self { code: Self::BROKEN_OFF, message: cause },
            None => Self { code: name(status.code()), message: status.message().to_owned() },
        }
    }
}

/// The process at the other end of a connection (unix(7), `SO_PEERCRED`), if the system tells.
async fn peer(socket: &Path) -> Option<u32> {
    let stream = UnixStream::connect(socket).await.ok()?;
    // Zero is a process that this namespace does not know.
    u32::try_from(stream.peer_cred().ok()?.pid()?).ok().filter(|pid| *pid > 0)
}

async fn connect(socket: &Path) -> Result<Channel, ConnectError> {
    let path = socket.to_owned();
    let connector = tower::service_fn(move |_: Uri| {
        let path = path.clone();
        async move { UnixStream::connect(path).await.map(TokioIo::new) }
    });
    // The name is never resolved; HTTP/2 wants one.
    Endpoint::from_static("http://mintmark")
        .connect_timeout(CONNECT_TIMEOUT)
        .connect_with_connector(connector)
        .await
        .map_err(|error| unreachable(socket, &error))
}

fn unreachable(socket: &Path, error: &tonic::transport::Error) -> ConnectError {
    let reason = match system_error(error) {
        Some(io::ErrorKind::NotFound) => {
            "there is no such socket; start the server, or name another with --socket".to_owned()
        }
        Some(io::ErrorKind::PermissionDenied) => {
            let reason = "permission denied; run as a user whom its admin socket admits".to_owned();
            return ConnectError::Refused { socket: socket.to_owned(), reason };
        }
        Some(io::ErrorKind::ConnectionRefused) => {
            "nobody listens there; start the server".to_owned()
        }
        _ => {
            let cause = deepest(error).unwrap_or_else(|| error.to_string());
            format!("{cause}; name the admin socket of a running server with --socket")
        }
    };
    ConnectError::Unreachable { socket: socket.to_owned(), reason }
}

fn system_error(error: &dyn Error) -> Option<io::ErrorKind> {
    let mut cause = error.source();
    while let Some(inner) = cause {
        if let Some(system) = inner.downcast_ref::<io::Error>() {
            return Some(system.kind());
        }
        cause = inner.source();
    }
    None
}

/// What the innermost cause says; the outer ones say "transport error".
fn deepest(error: &dyn Error) -> Option<String> {
    let mut cause = error.source()?;
    while let Some(inner) = cause.source() {
        cause = inner;
    }
    Some(cause.to_string())
}

/// The code as gRPC spells it (gRPC, "Status codes and their use").
fn name(code: Code) -> &'static str {
    match code {
        Code::Ok => "OK",
        Code::Cancelled => "CANCELLED",
        Code::Unknown => "UNKNOWN",
        Code::InvalidArgument => "INVALID_ARGUMENT",
        Code::DeadlineExceeded => "DEADLINE_EXCEEDED",
        Code::NotFound => "NOT_FOUND",
        Code::AlreadyExists => "ALREADY_EXISTS",
        Code::PermissionDenied => "PERMISSION_DENIED",
        Code::ResourceExhausted => "RESOURCE_EXHAUSTED",
        Code::FailedPrecondition => "FAILED_PRECONDITION",
        Code::Aborted => "ABORTED",
        Code::OutOfRange => "OUT_OF_RANGE",
        Code::Unimplemented => "UNIMPLEMENTED",
        Code::Internal => "INTERNAL",
        Code::Unavailable => "UNAVAILABLE",
        Code::DataLoss => "DATA_LOSS",
        Code::Unauthenticated => "UNAUTHENTICATED",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_server_says_is_told_from_what_the_connection_says() {
        let said = Fault::from(Status::unavailable("every signing slot is taken"));
        assert_eq!((said.code, &*said.message), ("UNAVAILABLE", "every signing slot is taken"));
        let seen = Fault::from(Status::from_error(Box::new(io::Error::other("reset by peer"))));
        assert_eq!((seen.code, &*seen.message), ("broken_off", "reset by peer"));
    }
}
