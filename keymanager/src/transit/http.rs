//! Requests to a Vault or OpenBao server, and what its answers mean.

use std::fmt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use ca_core::key::KeyError;
use http_body_util::{BodyExt, Full, Limited};
use hyper::header::{CONTENT_TYPE, HeaderName, HeaderValue};
use hyper::{Method, Request, StatusCode};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use rustls::ClientConfig;
use rustls::crypto::aws_lc_rs;
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use serde::Deserialize;
use serde_json::Value;
use tokio::time::timeout;
use zeroize::Zeroizing;

use super::Settings;
use crate::remote::wire::{Class, WireError};

/// The longest that a connection may take.
const CONNECT: Duration = Duration::from_secs(1);
/// The longest that a request may take with all that belongs to it. Longer than callers with a limit of their
/// own allow, so that theirs counts.
const REQUEST: Duration = Duration::from_secs(12);
/// The longest answer that is read, in bytes: a list of some ten thousand keys.
const LONGEST_ANSWER: usize = 4 << 20;
/// The longest part of the server's words in an error of ours, in characters.
const LONGEST_WORDS: usize = 300;
const TOKEN: HeaderName = HeaderName::from_static("x-vault-token");
const NAMESPACE: HeaderName = HeaderName::from_static("x-vault-namespace");

/// The way to one server.
pub(super) struct Server {
    client: Client<HttpsConnector<HttpConnector>, Full<Bytes>>,
    address: String,
    namespace: Option<HeaderValue>,
}

/// What the server said, whatever its status. Wiped when it is dropped: it may hold a token.
pub(super) struct Answer {
    pub(super) status: StatusCode,
    body: Zeroizing<Vec<u8>>,
}

impl Server {
    /// Nothing is sent yet. Blocks on files.
    pub(super) fn new(settings: &Settings) -> Result<Self, KeyError> {
        let setup = |reason: String| KeyError::Setup { place: settings.place(), reason };
        let tls = tls(settings.ca_file.as_deref()).map_err(setup)?;
        let mut tcp = HttpConnector::new();
        tcp.set_connect_timeout(Some(CONNECT));
        tcp.set_nodelay(true);
        tcp.enforce_http(false);
        let connector = HttpsConnectorBuilder::new().with_tls_config(tls).https_or_http();
        let client = Client::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .build(connector.enable_http1().wrap_connector(tcp));
        let namespace = settings.namespace.as_deref().map(HeaderValue::from_str).transpose();
        let namespace = namespace.map_err(|error| setup(error.to_string()))?;
        let address = settings.address.trim_end_matches('/').to_owned();
        Ok(Self { client, address, namespace })
    }

    /// One request; `path` begins after `/v1/`. Ends within 12 s.
    pub(super) async fn ask(
        &self,
        method: Method,
        path: &str,
        token: Option<&HeaderValue>,
        body: Option<&Value>,
    ) -> Result<Answer, WireError> {
        let mut request = Request::builder()
            .method(method)
            .uri(format!("{}/v1/{path}", self.address))
            .header(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        if let Some(token) = token {
            request = request.header(TOKEN, token);
        }
        // The state of the server is asked for outside of any namespace.
        if let Some(namespace) = self.namespace.as_ref().filter(|_| token.is_some()) {
            request = request.header(NAMESPACE, namespace);
        }
        let body = body.map_or_else(Bytes::new, |body| Bytes::from(body.to_string()));
        let request = request.body(Full::new(body));
        let request = request
            .map_err(|error| WireError::new(Class::Refused, "request", error.to_string()))?;
        timeout(REQUEST, self.exchange(request)).await.unwrap_or_else(|_| {
            let reason = format!("it did not answer within {} s", REQUEST.as_secs());
            Err(WireError::transient("timeout", reason))
        })
    }

    async fn exchange(&self, request: Request<Full<Bytes>>) -> Result<Answer, WireError> {
        let answer = self.client.request(request).await.map_err(|error| not_reached(&error))?;
        let status = answer.status();
        let body = Limited::new(answer.into_body(), LONGEST_ANSWER).collect().await;
        let body = body.map_err(|error| {
            WireError::transient("response", format!("its answer was cut short: {error}"))
        })?;
        Ok(Answer { status, body: Zeroizing::new(body.to_bytes().to_vec()) })
    }
}

impl fmt::Debug for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Server({})", self.address)
    }
}

/// One cryptographic library and protocol versions from 1.2 on, whatever else the process links.
fn tls(ca_file: Option<&Path>) -> Result<ClientConfig, String> {
    let mut roots = rustls::RootCertStore::empty();
    match ca_file {
        Some(file) => {
            let failed = |error: &dyn fmt::Display| format!("{}: {error}", file.display());
            let pem = std::fs::read(file).map_err(|error| failed(&error))?;
            for certificate in CertificateDer::pem_slice_iter(&pem) {
                let certificate = certificate.map_err(|error| failed(&error))?;
                roots.add(certificate).map_err(|error| failed(&error))?;
            }
            if roots.is_empty() {
                return Err(failed(&"it holds no certificate"));
            }
        }
        None => {
            // Some of the system's may be beyond us; none at all shows when the server is asked.
            roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        }
    }
    let config = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?;
    Ok(config.with_root_certificates(roots).with_no_client_auth())
}

fn not_reached(error: &hyper_util::client::legacy::Error) -> WireError {
    let mut text = error.to_string();
    let mut source = std::error::Error::source(error);
    while let Some(error) = source {
        text = format!("{text}: {error}");
        source = error.source();
    }
    if is_of_certificate(error) {
        let hint = "ca_file has to name the certificate of the authority that issued the server's, and address a \
                    name that is in the latter";
        return WireError::new(Class::Refused, "certificate", format!("{text}; {hint}"));
    }
    WireError::transient("connection", text)
}

/// Whether the certificate of the server was refused, by us. An `io::Error` hides what it wraps from `source`.
fn is_of_certificate(error: &(dyn std::error::Error + 'static)) -> bool {
    let wrapped = error.downcast_ref::<std::io::Error>().and_then(std::io::Error::get_ref);
    let inner = wrapped.map(|inner| inner as &(dyn std::error::Error + 'static));
    matches!(error.downcast_ref(), Some(rustls::Error::InvalidCertificate(_)))
        || inner.or_else(|| error.source()).is_some_and(is_of_certificate)
}

#[derive(Deserialize)]
struct Good<T> {
    data: T,
}

#[derive(Deserialize, Default)]
struct Errors {
    #[serde(default)]
    errors: Vec<String>,
}

impl Answer {
    /// The whole body of a good answer, which begins elsewhere than at `data`.
    pub(super) fn whole<T: for<'de> Deserialize<'de>>(&self, what: &str) -> Result<T, WireError> {
        if !self.status.is_success() {
            return Err(self.error(what));
        }
        // The reason is not told: it may quote what was read.
        serde_json::from_slice(&self.body).map_err(|_| {
            WireError::transient("response", format!("{what}: its answer made no sense"))
        })
    }

    /// The `data` of a good answer.
    pub(super) fn data<T: for<'de> Deserialize<'de>>(&self, what: &str) -> Result<T, WireError> {
        self.whole::<Good<T>>(what).map(|good| good.data)
    }

    /// Whether the server says that there is nothing of that name, without more.
    pub(super) fn is_nothing(&self) -> bool {
        self.status == StatusCode::NOT_FOUND && self.words().is_empty()
    }

    /// The server's own words for what went wrong, in one line.
    pub(super) fn words(&self) -> String {
        let said: Errors = serde_json::from_slice(&self.body).unwrap_or_default();
        let lines = said.errors.iter().flat_map(|text| text.lines()).map(str::trim);
        let words: Vec<&str> = lines.filter(|line| !line.is_empty()).collect();
        words.join(" ").chars().take(LONGEST_WORDS).collect()
    }

    /// What a bad answer means.
    pub(super) fn error(&self, what: &str) -> WireError {
        let (class, hint) = meaning(self.status.as_u16(), &self.words());
        let status = self.status.as_u16();
        let reason = format!("{what}: {status} {}{hint}", self.words());
        WireError::new(class, status.to_string(), reason)
    }
}

/// Refusals that Vault answers with 500 and that no other try changes.
const REFUSED: [&str; 7] = [
    "soft-deleted key",
    "requested version for signing",
    "unsupported rsa signature algorithm",
    "missing 'context'",
    "input must be hashed",
    "hash cannot be empty",
    "unsupported path",
];

/// The class of a status with the server's words, and what an operator can do.
fn meaning(status: u16, words: &str) -> (Class, &'static str) {
    match status {
        307 | 308 => (
            Class::Transient,
            "; it is a standby that forwards nothing: name the active node, or what leads to it",
        ),
        403 => (Class::Credentials, ""),
        412 => (Class::Transient, "; the node is behind the active one"),
        429 => (
            Class::Throttled { retry_after: None },
            "; a rate limit quota of the server's is used up",
        ),
        472 => (Class::Transient, "; it is a secondary for disaster recovery: name the primary"),
        473 => (Class::Transient, "; it is a performance standby that does not forward"),
        501 => (Class::Refused, "; the server is not initialised"),
        503 if words.contains("sealed") => (Class::Transient, "; unseal it"),
        404 if words.contains("no handler") => {
            (Class::Refused, "; enable transit there, or correct the mount")
        }
        500 if REFUSED.iter().any(|text| words.contains(text)) => (Class::Refused, ""),
        500..=599 => (Class::Transient, ""),
        _ => (Class::Refused, ""),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_status_alone_does_not_class_an_answer() {
        let class = |status, words| meaning(status, words).0;
        assert_eq!(class(503, "Vault is sealed"), Class::Transient);
        assert_eq!(class(500, "refusing to use soft-deleted key"), Class::Refused);
        assert_eq!(
            class(
                500,
                "requested version for signing is less than the minimum encryption key version"
            ),
            Class::Refused
        );
        assert_eq!(class(500, "internal error"), Class::Transient);
        assert_eq!(class(502, ""), Class::Transient);
        assert_eq!(class(429, "rate limit quota exceeded"), Class::Throttled { retry_after: None });
        assert_eq!(class(403, "permission denied"), Class::Credentials);
        assert_eq!(class(400, "signing key not found"), Class::Refused);
        for standby in [307, 412, 472, 473] {
            assert_eq!(class(standby, ""), Class::Transient);
        }
    }

    #[test]
    fn the_words_of_an_answer_are_one_line() {
        let body = br#"{"errors":["1 error occurred:\n\t* permission denied\n\n"]}"#;
        let answer = Answer { status: StatusCode::FORBIDDEN, body: Zeroizing::new(body.to_vec()) };
        assert_eq!(answer.words(), "1 error occurred: * permission denied");
        let nothing = Answer {
            status: StatusCode::NOT_FOUND,
            body: Zeroizing::new(br#"{"errors":[]}"#.to_vec()),
        };
        assert!(nothing.is_nothing());
    }
}
