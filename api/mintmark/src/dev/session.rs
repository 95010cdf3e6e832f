//! One `dev`: a server as it ships, used through its admin socket like any other.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use ca_core::authority::Authorities;
use ca_core::bundle::{Surface, certificate_pem};
use ca_core::clock::{Clock, Timestamp};
use ca_core::id::{IdError, SpiffeId, TrustDomain};
use ca_core::key::{KeyType, StoreDescription};
use mintmark_signer::LogLevels;
use softhsm::Token;
use thiserror::Error;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use zeroize::Zeroizing;

use super::report::{HeldKey, Minted, Report};
use super::{DevKeyError, Home, KeyKind};
use crate::certificate::{CertificateError, CertificateView};
use crate::client::{AdminClient, ClientError};
use crate::config::{
    Admin, DEFAULT_QUEUE, IssuanceLogSettings, IssuingKeySettings, Logging, Settings,
    default_authorities,
};
use crate::delivery::{Delivery, DeliveryError};
use crate::pem::{self, FileError};
use crate::server::{Role, Server, ServerError};
use crate::stranger::{Doubt, verify_jwt, verify_x509};
use crate::workload::{WorkloadKey, WorkloadKeyError};

/// For whom the token of `dev` is.
const AUDIENCE: &str = "mintmark-dev";
/// The path of the workload that the SVIDs are for.
const WORKLOAD: &str = "/workload";

/// Why a `dev` ended without what it was to show.
#[derive(Debug, Error)]
pub enum DevError {
    /// The keys' place cannot be had.
    #[error(transparent)]
    Keys(#[from] DevKeyError),
    /// The server does not start, or ended by itself.
    #[error(transparent)]
    Server(#[from] ServerError),
    /// The trust domain makes no SPIFFE ID.
    #[error(transparent)]
    Id(#[from] IdError),
    /// The workload's key cannot be made.
    #[error(transparent)]
    Workload(#[from] WorkloadKeyError),
    /// The server did not do what it was asked.
    #[error(transparent)]
    Client(#[from] ClientError),
    /// The files cannot be written.
    #[error(transparent)]
    Delivery(#[from] DeliveryError),
    /// The files that were written cannot be read.
    #[error(transparent)]
    File(#[from] FileError),
    /// The SVID that was minted cannot be read.
    #[error(transparent)]
    Certificate(#[from] CertificateError),
    /// What was minted convinces nobody.
    #[error("a stranger does not accept what was minted: {0}")]
    Stranger(#[from] Doubt),
    /// The server's task is gone.
    #[error("the server ended early")]
    Ended,
}

/// A running server of `dev`.
pub struct Session {
    home: PathBuf,
    temporary: bool,
    settings: Settings,
    token: Option<Token>,
    authorities: Authorities,
    key_store: StoreDescription,
    stop: oneshot::Sender<()>,
    serving: JoinHandle<Result<(), ServerError>>,
}

impl Session {
    /// Makes keys and state in `home`, or finds them there, and starts the server.
    pub async fn start(
        home: &Home,
        kind: KeyKind,
        trust_domain: &TrustDomain,
        clock: Arc<dyn Clock>,
        log_levels: Arc<LogLevels>,
    ) -> Result<Self, DevError> {
        let (keys, token) = kind.settings(home).await?;
        let name = "dev".to_owned();
        let authorities = default_authorities(trust_domain.clone());
        let settings = Settings {
            trust_domain: trust_domain.clone(),
            logging: Logging::default(),
            admin: Admin { socket: home.path().join("admin.sock"), group: None },
            keys: BTreeMap::from([(name.clone(), keys)]),
            store_dir: home.path().join("state"),
            authority_keys: name,
            issuing_mode: IssuingKeySettings::default().mode(&authorities),
            queue: DEFAULT_QUEUE,
            signing: None,
            log: IssuanceLogSettings::beside(&home.path().join("state")),
            authorities,
            metrics: None,
        };
        let server = Server::start(Role::Server, &settings, clock, log_levels).await?;
        let authorities = server.mint().authorities().clone();
        let key_store = server.key_store().clone();
        let (stop, stopped) = oneshot::channel();
        // Owned by this session, which stops it and waits for it.
        let serving = tokio::spawn(server.serve(async {
            // A session that is gone stops its server too.
            stopped.await.unwrap_or(());
        }));
        Ok(Self {
            home: home.path().to_owned(),
            temporary: home.is_temporary(),
            settings,
            token,
            authorities,
            key_store,
            stop,
            serving,
        })
    }

    /// Mints an X.509-SVID and a JWT-SVID for one workload, writes the former, and has both judged from
    /// what was handed over.
    pub async fn mint(&self, write: Option<&Path>, clock: &dyn Clock) -> Result<Report, DevError> {
        let id = SpiffeId::from_parts(self.settings.trust_domain.name(), WORKLOAD)?;
        let client = AdminClient::connect(&self.settings.admin.socket).await?;
        let bundle = client.bundle().await?;

        let key = WorkloadKey::generate(KeyType::EcP256)?;
        let chain = client.mint_x509(key.request(&id, &[])?, None).await?.cert_chain;
        let delivery = Delivery {
            svid: chain.iter().map(|der| certificate_pem(der)).collect(),
            bundle: bundle.pem(),
            key: Some(key.into_pem()),
        };
        let folder = write.map_or_else(|| self.home.join("svid"), Path::to_owned);
        let files = delivery.write(&folder)?;
        let chain = pem::read(&files.svid, pem::CERTIFICATE)?;
        let roots = pem::read(&files.bundle, pem::CERTIFICATE)?;
        let now = clock.now();
        verify_x509(&chain, &roots, id.as_str(), now)?;
        let certificate = CertificateView::of(&chain[0], now)?;

        let jwt = client.mint_jwt(&id, vec![AUDIENCE.to_owned()], None).await?;
        let token = Zeroizing::new(jwt.token);
        verify_jwt(&token, &bundle.jwks(Surface::Jwt), id.as_str(), AUDIENCE, clock.now())?;

        let expires_at = Timestamp::from_unix(jwt.expires_at).to_string();
        Ok(Report {
            trust_domain: self.settings.trust_domain.name().to_owned(),
            folder: self.home.clone(),
            temporary: self.temporary,
            socket: self.settings.admin.socket.clone(),
            keys: self.held_keys(&certificate.key, files.key.as_deref()),
            x509: Minted { spiffe_id: id.as_str().to_owned(), expires_at: certificate.not_after },
            jwt: Minted { spiffe_id: id.as_str().to_owned(), expires_at },
            files_stay: write.is_some(),
            files,
            token: self.token.as_ref().map(super::report::TokenAccess::of),
        })
    }

    /// What holds which key.
    fn held_keys(&self, workload_key: &str, workload_file: Option<&Path>) -> Vec<HeldKey> {
        let StoreDescription { place, .. } = &self.key_store;
        let leaves = if self.token.is_some() { "never" } else { "only sealed" };
        let authority = |purpose, algorithm: &dyn ToString, name: &dyn ToString| HeldKey {
            purpose,
            kind: algorithm.to_string(),
            name: Some(name.to_string()),
            place: place.clone(),
            leaves,
        };
        let Authorities { x509, jwt, x509_key, jwt_key, .. } = &self.authorities;
        let ca_kind = x509.certificate().key().kind();
        let workload_place = workload_file.map_or(String::new(), |path| path.display().to_string());
        vec![
            authority("X.509 authority", &ca_kind, x509_key),
            authority("JWT authority", &jwt.key().public_key().kind(), jwt_key),
            HeldKey {
                purpose: "workload",
                kind: workload_key.to_owned(),
                name: None,
                place: workload_place,
                leaves: "as a file, mode 0600",
            },
        ]
    }

    /// Waits for the request to end, or for the server to end by itself.
    pub async fn outlast(&mut self, shutdown: impl Future<Output = ()>) {
        tokio::select! {
            () = shutdown => {}
            () = self.stop.closed() => {}
        }
    }

    /// Stops the server and waits until it is gone.
    pub async fn stop(self) -> Result<(), DevError> {
        // Nobody listens if the server has ended already; its result says why.
        let _ = self.stop.send(());
        self.serving.await.map_err(|_| DevError::Ended)?.map_err(DevError::from)
    }
}
