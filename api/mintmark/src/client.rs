//! The other end of the admin socket: a client that says what to do when nobody answers.

use std::collections::BTreeMap;
use std::error::Error;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use ca_core::authority::{AuthorityKind, KnownKey, Ledger, Retirement, Standing};
use ca_core::bundle::{Bundle, JwtAuthority, X509Authority};
use ca_core::certificate::CaCertificate;
use ca_core::clock::Timestamp;
use ca_core::frontend::FrontEndName;
use ca_core::id::{SpiffeId, TrustDomain};
use ca_core::key::{KeyName, PublicKey};
use ca_core::log::tree::{Checkpoint, LogKey};
use hyper_util::rt::TokioIo;
use mintmark_proto::admin::v1 as admin;
use mintmark_proto::spire::bundle::v1::GetBundleRequest;
use mintmark_proto::spire::bundle::v1::bundle_client::BundleClient;
use mintmark_proto::spire::svid::v1::svid_client::SvidClient;
use mintmark_proto::spire::svid::v1::{MintJwtsvidRequest, MintX509svidRequest};
use mintmark_proto::spire::types::{self, Jwtsvid, Spiffeid, X509svid};
use thiserror::Error as ThisError;
use tokio::net::UnixStream;
use tonic::transport::{Channel, Endpoint, Uri};
use tonic::{Code, Status};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;

use crate::cli::Ttl;

/// How long a server may take to accept the connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// How long it may take to answer; a token that makes an RSA signature under load needs a while.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);

/// Why the server did not do what it was asked.
#[derive(Debug, ThisError)]
pub enum ClientError {
    /// Nobody can be reached behind the socket.
    #[error("cannot reach a server at {}: {reason}", socket.display())]
    Socket {
        /// The socket.
        socket: PathBuf,
        /// Why, and what to do.
        reason: String,
    },
    /// The server was reached and gave no answer.
    #[error("the server at {} did not answer: {reason}; its log says why", socket.display())]
    Lost {
        /// The socket.
        socket: PathBuf,
        /// What the connection said.
        reason: String,
    },
    /// The server answers and says that it cannot do its work.
    #[error("the server at {} is not serving: {reason}; its log says why", socket.display())]
    NotServing {
        /// The socket.
        socket: PathBuf,
        /// What it said of itself.
        reason: String,
    },
    /// The answer cannot be what the protocol says.
    #[error(
        "the answer of the server at {} cannot be used: {reason}; use a client of its version",
        socket.display()
    )]
    Unusable {
        /// The socket.
        socket: PathBuf,
        /// What is wrong with the answer.
        reason: String,
    },
    /// The server was asked, and the state of things does not allow it: its own words say why.
    #[error("{0}")]
    Untimely(String),
    /// The server was asked and said no.
    #[error("cannot {action}: {message} ({code:?})")]
    Refused {
        /// What was asked for.
        action: &'static str,
        /// The gRPC code.
        code: Code,
        /// What the server said.
        message: String,
    },
}

/// What a server's state store says of its issuance log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogHead {
    /// By what heads are verified; its name is the log's.
    pub key: LogKey,
    /// The newest head that was signed.
    pub newest: Option<Checkpoint>,
}

/// A connection to the admin socket of a server.
#[derive(Debug, Clone)]
pub struct AdminClient {
    channel: Channel,
    socket: PathBuf,
}

impl AdminClient {
    /// Connects to the server behind `socket`.
    pub async fn connect(socket: &Path) -> Result<Self, ClientError> {
        let path = socket.to_owned();
        let connector = tower::service_fn(move |_: Uri| {
            let path = path.clone();
            async move { UnixStream::connect(path).await.map(TokioIo::new) }
        });
        // The name is never resolved; HTTP/2 wants one.
        let channel = Endpoint::from_static("http://mintmark")
            .connect_timeout(CONNECT_TIMEOUT)
            .timeout(ANSWER_TIMEOUT)
            .connect_with_connector(connector)
            .await
            .map_err(|error| unreachable_socket(socket, &error))?;
        Ok(Self { channel, socket: socket.to_owned() })
    }

    /// Mints an X.509-SVID for a DER CSR.
    pub async fn mint_x509(&self, csr: Vec<u8>, ttl: Option<Ttl>) -> Result<X509svid, ClientError> {
        const ACTION: &str = "mint an X.509-SVID";
        let request = MintX509svidRequest { csr: csr.into(), ttl: Ttl::seconds(ttl) };
        let answer = SvidClient::new(self.channel.clone())
            .mint_x509svid(request)
            .await
            .map_err(|status| self.refusal(ACTION, &status))?;
        answer.into_inner().svid.ok_or_else(|| self.unusable("it holds no SVID"))
    }

    /// Mints a JWT-SVID.
    pub async fn mint_jwt(
        &self,
        id: &SpiffeId,
        audience: Vec<String>,
        ttl: Option<Ttl>,
    ) -> Result<Jwtsvid, ClientError> {
        const ACTION: &str = "mint a JWT-SVID";
        let id = Spiffeid {
            trust_domain: id.trust_domain_name().to_owned(),
            path: id.path().to_owned(),
        };
        let request = MintJwtsvidRequest { id: Some(id), audience, ttl: Ttl::seconds(ttl) };
        let answer = SvidClient::new(self.channel.clone())
            .mint_jwtsvid(request)
            .await
            .map_err(|status| self.refusal(ACTION, &status))?;
        answer.into_inner().svid.ok_or_else(|| self.unusable("it holds no SVID"))
    }

    /// The bundle of the server's trust domain.
    pub async fn bundle(&self) -> Result<Bundle, ClientError> {
        const ACTION: &str = "get the bundle";
        let answer = BundleClient::new(self.channel.clone())
            .get_bundle(GetBundleRequest::default())
            .await
            .map_err(|status| self.refusal(ACTION, &status))?;
        read_bundle(answer.into_inner()).map_err(|reason| self.unusable(&reason))
    }

    /// Asks the server whether it can do its work; everything but a plain yes is an error.
    pub async fn check_health(&self) -> Result<(), ClientError> {
        const ACTION: &str = "ask for the server's health";
        let answer = HealthClient::new(self.channel.clone())
            .check(HealthCheckRequest::default())
            .await
            .map_err(|status| self.refusal(ACTION, &status))?;
        let reason = match answer.into_inner().status() {
            ServingStatus::Serving => return Ok(()),
            ServingStatus::NotServing => "it reports NOT_SERVING",
            ServingStatus::Unknown | ServingStatus::ServiceUnknown => "it does not know its state",
        };
        Err(ClientError::NotServing { socket: self.socket.clone(), reason: reason.to_owned() })
    }

    /// What the server's record says of keys, and its trust domain.
    pub async fn key_record(&self) -> Result<(String, Ledger), ClientError> {
        const ACTION: &str = "get the record of keys";
        let answer = admin::admin_client::AdminClient::new(self.channel.clone())
            .get_key_record(admin::GetKeyRecordRequest {})
            .await
            .map_err(|status| self.refusal(ACTION, &status))?
            .into_inner();
        let trust_domain = answer.trust_domain.clone();
        let ledger = read_ledger(answer).map_err(|reason| self.unusable(&reason))?;
        Ok((trust_domain, ledger))
    }

    /// Has the server record that a key signs no more; gives the end of what it may have signed.
    pub async fn retire_key(&self, retirement: &Retirement) -> Result<Timestamp, ClientError> {
        const ACTION: &str = "retire the key";
        let public_key = retirement.public_key.as_ref();
        let request = admin::RetireKeyRequest {
            name: retirement.key.to_string(),
            public_key: public_key.map(|key| key.spki().to_vec().into()).unwrap_or_default(),
        };
        let answer = admin::admin_client::AdminClient::new(self.channel.clone())
            .retire_key(request)
            .await
            .map_err(|status| self.refusal(ACTION, &status))?;
        Ok(Timestamp::from_unix(answer.into_inner().certificates_end))
    }

    /// What the server's state store says of its issuance log, each part checked.
    pub async fn log_head(&self) -> Result<LogHead, ClientError> {
        const ACTION: &str = "get the head of the issuance log";
        let answer = admin::admin_client::AdminClient::new(self.channel.clone())
            .get_log_head(admin::GetLogHeadRequest {})
            .await
            .map_err(|status| self.refusal(ACTION, &status))?;
        read_log_head(&answer.into_inner()).map_err(|reason| self.unusable(&reason))
    }

    /// Has the server take in a front end.
    pub async fn enroll_front_end(
        &self,
        request: admin::EnrollFrontEndRequest,
    ) -> Result<admin::EnrollFrontEndResponse, ClientError> {
        const ACTION: &str = "enrol the front end";
        let answer = admin::admin_client::AdminClient::new(self.channel.clone())
            .enroll_front_end(request)
            .await
            .map_err(|status| self.refusal(ACTION, &status))?;
        Ok(answer.into_inner())
    }

    /// Every front end, in the order of their names.
    pub async fn front_ends(&self) -> Result<Vec<admin::FrontEnd>, ClientError> {
        const ACTION: &str = "list the front ends";
        let mut client = admin::admin_client::AdminClient::new(self.channel.clone());
        let mut found: Vec<admin::FrontEnd> = Vec::new();
        loop {
            let after = found.last().map(|last| last.name.clone()).unwrap_or_default();
            let page = client
                .list_front_ends(admin::ListFrontEndsRequest { after: after.clone() })
                .await
                .map_err(|status| self.refusal(ACTION, &status))?
                .into_inner();
            found.extend(page.front_ends);
            if !page.more {
                return Ok(found);
            }
            if found.last().is_none_or(|last| last.name <= after) {
                return Err(self.unusable("its list of front ends does not go on"));
            }
        }
    }

    /// The front end of that name.
    pub async fn front_end(&self, name: &FrontEndName) -> Result<admin::FrontEnd, ClientError> {
        const ACTION: &str = "show the front end";
        let answer = admin::admin_client::AdminClient::new(self.channel.clone())
            .get_front_end(admin::GetFrontEndRequest { name: name.to_string() })
            .await
            .map_err(|status| self.refusal(ACTION, &status))?;
        Ok(answer.into_inner())
    }

    /// Has the server end a front end.
    pub async fn withdraw_front_end(
        &self,
        name: &FrontEndName,
    ) -> Result<admin::FrontEnd, ClientError> {
        const ACTION: &str = "withdraw the front end";
        let answer = admin::admin_client::AdminClient::new(self.channel.clone())
            .withdraw_front_end(admin::WithdrawFrontEndRequest { name: name.to_string() })
            .await
            .map_err(|status| self.refusal(ACTION, &status))?;
        Ok(answer.into_inner())
    }

    fn refusal(&self, action: &'static str, status: &Status) -> ClientError {
        // Codes that the connection makes up itself: nobody has looked at the request, or nobody knows.
        if status.source().is_some() || matches!(status.code(), Code::DeadlineExceeded) {
            let reason = deepest(status).unwrap_or_else(|| status.message().to_owned());
            return ClientError::Lost { socket: self.socket.clone(), reason };
        }
        if status.code() == Code::FailedPrecondition {
            return ClientError::Untimely(status.message().to_owned());
        }
        ClientError::Refused { action, code: status.code(), message: status.message().to_owned() }
    }

    fn unusable(&self, reason: &str) -> ClientError {
        ClientError::Unusable { socket: self.socket.clone(), reason: reason.to_owned() }
    }
}

fn unreachable_socket(socket: &Path, error: &tonic::transport::Error) -> ClientError {
    let mut cause: Option<&(dyn Error + 'static)> = Some(error);
    let mut kind = None;
    while let Some(inner) = cause {
        kind = inner.downcast_ref::<io::Error>().map(io::Error::kind).or(kind);
        cause = inner.source();
    }
    let reason = match kind {
        Some(io::ErrorKind::NotFound) => {
            "no such socket; start one with `mintmark server` or `mintmark dev`, or name another with \
             --socket or MINTMARK_SOCKET"
                .to_owned()
        }
        Some(io::ErrorKind::PermissionDenied) => {
            "permission denied; run as the server's user, or as a member of its [server.admin] group"
                .to_owned()
        }
        Some(io::ErrorKind::ConnectionRefused) => {
            "nobody listens there any more; start the server with `mintmark server`".to_owned()
        }
        _ => deepest(error).unwrap_or_else(|| error.to_string()),
    };
    ClientError::Socket { socket: socket.to_owned(), reason }
}

/// What the innermost cause says; the outer ones say "transport error".
fn deepest(error: &dyn Error) -> Option<String> {
    let mut cause = error.source()?;
    while let Some(inner) = cause.source() {
        cause = inner;
    }
    Some(cause.to_string())
}

/// The bundle of a message, each certificate and key checked.
fn read_bundle(message: types::Bundle) -> Result<Bundle, String> {
    let trust_domain =
        TrustDomain::parse(&message.trust_domain).map_err(|error| error.to_string())?;
    let x509_authorities = message
        .x509_authorities
        .into_iter()
        .map(|root| {
            let certificate = CaCertificate::from_der(&root.asn1)?;
            Ok(X509Authority { certificate, tainted: root.tainted })
        })
        .collect::<Result<_, ca_core::certificate::CaCertificateError>>()
        .map_err(|error| error.to_string())?;
    let jwt_authorities = message
        .jwt_authorities
        .into_iter()
        .map(|authority| {
            Ok(JwtAuthority {
                kid: authority.key_id,
                key: PublicKey::from_spki(&authority.public_key)?,
                expires_at: Timestamp::from_unix(authority.expires_at),
                tainted: authority.tainted,
            })
        })
        .collect::<Result<_, ca_core::key::PublicKeyError>>()
        .map_err(|error| error.to_string())?;
    Ok(Bundle {
        trust_domain,
        x509_authorities,
        jwt_authorities,
        sequence: message.sequence_number,
        refresh_hint: Duration::from_secs(u64::try_from(message.refresh_hint).unwrap_or(0)),
    })
}

/// The record of keys of a message, each name and key checked.
fn read_ledger(message: admin::GetKeyRecordResponse) -> Result<Ledger, String> {
    let generations = BTreeMap::from([
        (AuthorityKind::X509, message.x509_generation),
        (AuthorityKind::Jwt, message.jwt_generation),
    ]);
    let known = message.keys.into_iter().map(read_known_key).collect::<Result<_, _>>()?;
    Ok(Ledger::of_parts(generations, known))
}

/// The head of a message, signed by the key beside it.
fn read_log_head(message: &admin::GetLogHeadResponse) -> Result<LogHead, String> {
    let key = LogKey::parse(&message.verifier_key).map_err(|error| error.to_string())?;
    if key.name().as_str() != message.origin {
        return Err("its verifier key is that of another log".to_owned());
    }
    let checkpoint = Some(&message.checkpoint).filter(|text| !text.is_empty());
    let newest = checkpoint.map(|text| Checkpoint::parse(text)).transpose();
    let newest = newest.map_err(|error| error.to_string())?;
    if let Some(checkpoint) = &newest {
        key.verify(checkpoint).map_err(|error| error.to_string())?;
    }
    Ok(LogHead { key, newest })
}

fn read_known_key(key: admin::RecordedKey) -> Result<(KeyName, KnownKey), String> {
    use admin::recorded_key::State;
    let name = KeyName::parse(&key.name).map_err(|error| error.to_string())?;
    let (state, authority) = (key.state(), key.authority_id);
    let certificates_end = Timestamp::from_unix(key.certificates_end);
    let standing = match state {
        State::Active => Standing::Active { authority },
        State::Log => Standing::OfLog,
        State::Pending => Standing::Pending,
        State::Old => Standing::Old { authority, certificates_end },
        State::Retired => {
            let retired_at = Timestamp::from_unix(key.retired_at);
            Standing::Retired { retired_at, certificates_end }
        }
        State::Unspecified => return Err(format!("the state of key {name} is none that we know")),
    };
    let spki = Some(key.public_key).filter(|spki| !spki.is_empty());
    let public_key = spki.map(|spki| PublicKey::from_spki(&spki)).transpose();
    let public_key = public_key.map_err(|error| format!("key {name}: {error}"))?;
    Ok((name, KnownKey { standing, public_key }))
}
