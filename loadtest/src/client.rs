//! The asking side: connections to an admin socket, requests made before the run, and what became of
//! each.

use std::error::Error;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::Bytes;
use hyper_util::rt::TokioIo;
use mintmark_proto::spire::svid::v1::svid_client::SvidClient;
use mintmark_proto::spire::svid::v1::{MintJwtsvidRequest, MintX509svidRequest};
use mintmark_proto::spire::types::Spiffeid;
use rcgen::string::Ia5String;
use rcgen::{CertificateParams, DistinguishedName, KeyPair, SanType};
use thiserror::Error as ThisError;
use tokio::net::UnixStream;
use tonic::transport::{Channel, Endpoint, Uri};
use tonic::{Code, Status};
use zeroize::Zeroizing;

use crate::plan::{Document, Plan, SpiffeId};

/// How long a server may take to accept a connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Most CSRs of a run; longer runs begin again with the first. Enough that no cache of a server can take
/// one for another, few enough to be made in less than a second.
const MOST_CSRS: u64 = 1_000;
/// Whom the tokens are for: nobody.
const AUDIENCE: &str = "mintmark-load";

/// Connections to one server, and what is asked on them.
#[derive(Debug)]
pub struct MintClient {
    connections: Vec<SvidClient<Channel>>,
    requests: Requests,
}

#[derive(Debug)]
enum Requests {
    X509 { csrs: Vec<Bytes> },
    Jwt(MintJwtsvidRequest),
}

/// Why there is nobody to ask, or nothing to ask with.
#[derive(Debug, ThisError)]
pub enum ClientError {
    /// Nobody can be reached behind the socket.
    #[error("cannot reach a server at {}: {reason}", socket.display())]
    Unreachable {
        /// The socket.
        socket: PathBuf,
        /// Why, and what to do.
        reason: String,
    },
    /// A key or a CSR could not be made.
    #[error("cannot make a CSR for {id}: {source}")]
    Csr {
        /// The ID it was for.
        id: SpiffeId,
        /// What rcgen said.
        source: rcgen::Error,
    },
}

/// Why a request got no SVID.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// The name of the gRPC code that the server sent, such as `UNAVAILABLE`; or, in small letters, what
    /// this side saw: [`BROKEN_OFF`](Self::BROKEN_OFF), [`UNANSWERED`](Self::UNANSWERED) or
    /// [`UNUSABLE`](Self::UNUSABLE).
    pub code: &'static str,
    /// The server's or the connection's words.
    pub message: String,
}

impl Fault {
    /// The connection or the call ended before an answer.
    pub const BROKEN_OFF: &'static str = "broken_off";
    /// No answer came in time.
    pub const UNANSWERED: &'static str = "unanswered";
    /// The answer says OK and holds no SVID.
    pub const UNUSABLE: &'static str = "unusable";

    /// A request that has waited for `limit`.
    #[must_use]
    pub fn unanswered(limit: Duration) -> Self {
        Self { code: Self::UNANSWERED, message: format!("no answer in {limit:?}") }
    }

    fn unusable() -> Self {
        Self { code: Self::UNUSABLE, message: "the answer holds no SVID".to_owned() }
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

impl MintClient {
    /// Makes the requests of `plan` and opens its connections.
    pub async fn connect(plan: &Plan) -> Result<Self, ClientError> {
        // A server that cannot be reached is told before any key is made.
        let mut connections = Vec::new();
        for _ in 0..plan.connections {
            connections.push(SvidClient::new(connect(&plan.socket).await?));
        }
        Ok(Self { connections, requests: Requests::prepare(plan)? })
    }

    /// Sends request `index` and waits for its answer. Connections and CSRs take turns.
    pub async fn mint(&self, index: u64) -> Result<(), Fault> {
        let mut connection = turn(&self.connections, index).clone();
        match &self.requests {
            Requests::X509 { csrs } => {
                let request = MintX509svidRequest { csr: turn(csrs, index).clone(), ttl: 0 };
                let answer = connection.mint_x509svid(request).await?.into_inner();
                let chain = answer.svid.map(|svid| svid.cert_chain).unwrap_or_default();
                if chain.first().is_none_or(Bytes::is_empty) {
                    Err(Fault::unusable())
                } else {
                    Ok(())
                }
            }
            Requests::Jwt(request) => {
                let answer = connection.mint_jwtsvid(request.clone()).await?.into_inner();
                // A bearer token, and a good one.
                let token = Zeroizing::new(answer.svid.map(|svid| svid.token).unwrap_or_default());
                if token.is_empty() { Err(Fault::unusable()) } else { Ok(()) }
            }
        }
    }
}

impl Requests {
    fn prepare(plan: &Plan) -> Result<Self, ClientError> {
        let id = &plan.spiffe_id;
        match plan.document {
            Document::X509Svid => (0..plan.schedule().count().min(MOST_CSRS))
                .map(|_| csr(id))
                .collect::<Result<_, _>>()
                .map(|csrs| Self::X509 { csrs })
                .map_err(|source| ClientError::Csr { id: id.clone(), source }),
            Document::JwtSvid => Ok(Self::Jwt(MintJwtsvidRequest {
                id: Some(Spiffeid { trust_domain: id.trust_domain.clone(), path: id.path.clone() }),
                audience: vec![AUDIENCE.to_owned()],
                ttl: 0,
            })),
        }
    }
}

/// The DER of a CSR for `id` by a P-256 key that nobody keeps.
fn csr(id: &SpiffeId) -> Result<Bytes, rcgen::Error> {
    let pair = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256)?;
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.subject_alt_names.push(SanType::URI(Ia5String::try_from(id.to_string())?));
    Ok(params.serialize_request(&pair)?.der().to_vec().into())
}

/// The one of `items` whose turn it is; there is at least one.
fn turn<T>(items: &[T], index: u64) -> &T {
    let place = index % items.len() as u64;
    &items[usize::try_from(place).expect("a place is below a length")]
}

async fn connect(socket: &Path) -> Result<Channel, ClientError> {
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

fn unreachable(socket: &Path, error: &tonic::transport::Error) -> ClientError {
    let reason = match system_error(error) {
        Some(io::ErrorKind::NotFound) => {
            "there is no such socket; start the server, or name another with --socket".to_owned()
        }
        Some(io::ErrorKind::PermissionDenied) => {
            "permission denied; run as a user whom the server's admin socket admits".to_owned()
        }
        Some(io::ErrorKind::ConnectionRefused) => {
            "nobody listens there; start the server".to_owned()
        }
        _ => {
            let cause = deepest(error).unwrap_or_else(|| error.to_string());
            format!("{cause}; name the admin socket of a running server with --socket")
        }
    };
    ClientError::Unreachable { socket: socket.to_owned(), reason }
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
    use x509_cert::der::Decode;
    use x509_cert::request::CertReq;

    #[test]
    fn each_csr_names_the_id_and_has_a_key_of_its_own() {
        let id: SpiffeId = "spiffe://load.test/web".parse().unwrap();
        let (first, second) = (csr(&id).unwrap(), csr(&id).unwrap());
        let keys = [&first, &second].map(|der| {
            assert!(der.windows(22).any(|part| part == b"spiffe://load.test/web"));
            let info = CertReq::from_der(der).unwrap().info;
            assert!(info.subject.is_empty());
            info.public_key.subject_public_key
        });
        assert_ne!(keys[0], keys[1]);
    }

    #[test]
    fn what_the_server_says_is_told_from_what_the_connection_says() {
        let said = Fault::from(Status::unavailable("every signing slot is taken"));
        assert_eq!((said.code, &*said.message), ("UNAVAILABLE", "every signing slot is taken"));
        let seen = Fault::from(Status::from_error(Box::new(io::Error::other("reset by peer"))));
        assert_eq!((seen.code, &*seen.message), ("broken_off", "reset by peer"));
    }
}
