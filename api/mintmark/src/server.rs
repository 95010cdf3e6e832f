//! `mintmark server` and `mintmark signer`: from settings to a process that answers, and its end.
//!
//! Everything is built before the listeners are bound, so that whoever can connect gets answers. The
//! order of [`Server::start`] is the order of what can go wrong without consequences: the monitoring
//! listener first, where one is configured, since the rest may take a while; the store's lock next, so that
//! a second server on the same folder never tries a PIN; then the keys; then the authorities, which need
//! both; the listener for front ends and the admin socket last.

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use ca_core::authority::{
    AuthorityError, AuthorityKind, AuthoritySettings, PreparedKeys, establish, prepared_keys,
};
use ca_core::clock::Clock;
use ca_core::frontend::FrontEnds;
use ca_core::key::{KeyError, KeyStore, Priority, StoreDescription, StoreHealth, Urgency};
use ca_core::log::LogError;
use ca_core::mint::Mint;
use ca_core::pipeline::Pipeline;
use ca_core::serial::RandomSerials;
use ca_core::store::{Embedded, StateStore, StoreError};
use keymanager::metrics::StoreMetrics;
use mintmark_signer::signing::{Limits, ReadyListener, by_records};
use mintmark_signer::{
    AdminSocket, LogLevels, MonitorError, Services, SigningError, SigningListener, SigningServices,
    SocketError,
};
use sd_notify::NotifyState;
use thiserror::Error;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::config::Settings;
use crate::exit::Failure;
use crate::issuance_log::{IssuanceLog, IssuanceLogError};
use crate::issuing::{IssuingKeyError, IssuingKeys};
use crate::keys;
use crate::monitoring::{Monitoring, VERSION};

/// How long all signatures of a start may take together. The slowest HSM signs in a second.
const LONGEST_SIGNATURE: Duration = Duration::from_secs(60);

/// How often the keys that are prepared are counted. A KMS is asked as many questions as there are such keys,
/// and a few more.
const COUNT_EVERY: Duration = Duration::from_secs(30);

/// How long after a failure of the state store its front ends are read again.
const FOLLOW_AGAIN: Duration = Duration::from_secs(1);

/// Why the server does not start, or stopped by itself.
#[derive(Debug, Error)]
pub enum ServerError {
    /// The state store.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The key store.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// The authorities.
    #[error(transparent)]
    Authority(#[from] AuthorityError),
    /// The key that issues in the authority's stead.
    #[error(transparent)]
    IssuingKey(#[from] IssuingKeyError),
    /// The issuance log cannot be had.
    #[error(transparent)]
    Log(#[from] IssuanceLogError),
    /// The issuance log failed: what the disk holds is unknown until it is read anew.
    #[error("the server stopped, so that its issuance log can be opened anew: {0}")]
    LogFailed(LogError),
    /// The admin socket.
    #[error(transparent)]
    Socket(#[from] SocketError),
    /// The listener for front ends.
    #[error(transparent)]
    Signing(#[from] SigningError),
    /// `mintmark signer` without a place to serve.
    #[error(
        "mintmark signer serves front ends and does nothing without an address to do it at; set listen in [signer] of \
         the configuration, or run `mintmark server`"
    )]
    NowhereToServe,
    /// The monitoring listener.
    #[error(transparent)]
    Monitor(#[from] MonitorError),
    /// The key store cannot be brought back by this process; a new one may do better.
    #[error("the server stopped, so that its keys can be opened anew: {0}")]
    KeysStuck(String),
    /// The system refused a thread or a signal handler.
    #[error("the system refused what a server needs: {0}")]
    System(#[from] io::Error),
}

impl From<ServerError> for Failure {
    fn from(error: ServerError) -> Self {
        match error {
            ServerError::NowhereToServe
            | ServerError::Key(KeyError::Setup { .. } | KeyError::Credentials { .. }) => {
                Self::SetUp(error.into())
            }
            other => Self::failed(other),
        }
    }
}

/// What a process is started as.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// `mintmark server`: a signer, and what of a front end there is. It serves front ends elsewhere too, if the
    /// settings say where.
    Server,
    /// `mintmark signer`: for front ends elsewhere alone.
    Signer,
}

/// A server whose authorities are established and whose listeners are bound: calls wait in the
/// sockets until [`serve`](Self::serve).
pub struct Server {
    socket: AdminSocket,
    services: Services,
    signing: Option<ReadyListener>,
    monitoring: Monitoring,
    keys: Arc<dyn KeyStore>,
    issuing_keys: IssuingKeys,
    prepared: PreparedGauge,
    log: IssuanceLog,
    /// Holds the lock on the state for as long as the server runs.
    store: Arc<Embedded>,
}

impl Server {
    /// Builds everything that the settings name, in the order of the module's description.
    pub async fn start(
        role: Role,
        settings: &Settings,
        clock: Arc<dyn Clock>,
        log_levels: Arc<LogLevels>,
    ) -> Result<Self, ServerError> {
        if role == Role::Signer && settings.signing.is_none() {
            return Err(ServerError::NowhereToServe);
        }
        // Changes nothing, and finds a bad path before keys are made.
        AdminSocket::check(&settings.admin.socket, settings.admin.group.as_deref())?;
        let monitoring = Monitoring::start(settings.metrics, Arc::clone(&clock))?;
        let store = open_store(settings.store_dir.clone()).await?;
        // The others that are described are left alone.
        let chosen = settings.keys.get(&settings.authority_keys);
        let chosen = chosen.expect("the settings name a key store that they hold");
        let metrics = monitoring.keys.store(&settings.authority_keys);
        let trust_domain = settings.trust_domain.name();
        let keys = keys::open(chosen, trust_domain, metrics.clone()).await?;
        let serials = RandomSerials::new();
        let now = clock.now();
        let urgency = Urgency::within(Priority::Health, LONGEST_SIGNATURE, Instant::now());
        let authorities =
            establish(&settings.authorities, &*store, &*keys, &serials, now, urgency).await?;
        let prepared = PreparedGauge { settings: settings.authorities.clone(), metrics };
        if let Some(left @ PreparedKeys { x509, jwt }) = authorities.prepared {
            prepared.tell(left);
            tracing::info!(x509, jwt, "keys are prepared for the authorities to come");
        }
        tracing::info!(
            trust_domain,
            x509_authority = %authorities.x509.authority(),
            jwt_authority = %authorities.jwt.kid(),
            keys = keys.description().place,
            "authorities are established"
        );
        let mode = settings.issuing_mode.clone();
        let record: Arc<dyn StateStore> = store.clone();
        let front_ends = FrontEnds::load(Arc::clone(&record)).await?;
        let creation = settings.authorities.key_creation;
        let domain = &settings.trust_domain;
        let (counted, now) = (monitoring.log.clone(), clock.now());
        let log = IssuanceLog::open(&settings.log, domain, creation, record, &*keys, now, counted)
            .await?;
        let records = Arc::clone(log.log());
        let mint = Arc::new(Mint::new(authorities, mode, Box::new(serials), records));
        let service_metrics = monitoring.service.clone();
        let issuing_keys = IssuingKeys::new(Arc::clone(&mint), Arc::clone(&clock), service_metrics);
        issuing_keys.renew().await?;
        let counted = monitoring.pipeline.clone();
        let pipeline = Pipeline::new(mint, settings.queue, Arc::clone(&clock), counted)?;
        let services = Services {
            pipeline,
            clock,
            keys: Arc::clone(&keys),
            record: store.clone(),
            front_ends,
            ca_ttl: settings.authorities.ca_ttl,
            log: log.origin().clone(),
            log_levels,
            metrics: monitoring.service.clone(),
            version: VERSION,
        };
        let signing = match settings.signing {
            Some((address, limits)) => Some(front_end_listener(address, limits, &services).await?),
            None => None,
        };
        let socket = AdminSocket::bind(&settings.admin.socket, settings.admin.group.as_deref())?;
        Ok(Self { socket, services, signing, monitoring, keys, issuing_keys, prepared, log, store })
    }

    /// Where the authorities' keys are.
    #[must_use]
    pub fn key_store(&self) -> &StoreDescription {
        self.keys.description()
    }

    /// What it mints with.
    #[must_use]
    pub fn mint(&self) -> &Arc<Mint> {
        self.services.pipeline.mint()
    }

    /// Answers until `shutdown` resolves; then lets calls under way end, for some seconds.
    ///
    /// # Errors
    /// [`ServerError::KeysStuck`] if the keys are lost to this process, [`ServerError::LogFailed`] if it is unknown
    /// what the log's disk holds: a service manager starts the next process. Where
    /// a person has to help, as with a PIN that is refused, it stays and answers so: each start would cost
    /// another try of the PIN.
    pub async fn serve(self, shutdown: impl Future<Output = ()>) -> Result<(), ServerError> {
        let Self {
            socket,
            services,
            signing,
            monitoring,
            keys,
            issuing_keys,
            prepared,
            log,
            store,
        } = self;
        let pipeline = Arc::clone(&services.pipeline);
        let mint = Arc::clone(pipeline.mint());
        let front_ends = Arc::clone(&services.front_ends);
        let mut minting = Task::start(Arc::clone(&pipeline).run());
        let (stop, stopping) = watch::channel(false);
        let mut signing = Task::start(serve_front_ends(signing, stopping));
        monitoring.serving(&mint, &keys, log.log());
        tracing::info!(socket = %socket.path().display(), "serving");
        tell_service_manager(NotifyState::Ready);
        let mut failure = None;
        let shutdown = async {
            tokio::select! {
                () = shutdown => {}
                reason = stuck(&*keys) => failure = Some(ServerError::KeysStuck(reason)),
                error = log.keep_signed() => failure = Some(ServerError::LogFailed(error)),
                early = minting.ends_early() => failure = Some(ServerError::System(early)),
                early = signing.ends_early() => failure = Some(ServerError::System(early)),
                never = log.keep_indexed() => match never {},
                never = issuing_keys.keep_fresh() => match never {},
                never = keep_followed(&front_ends) => match never {},
                never = prepared.keep_right(&*store, &*keys) => match never {},
            }
            tell_service_manager(NotifyState::Stopping);
            monitoring.stopping();
            // Everyone who listens has it at once; who does not is gone.
            let _ = stop.send(true);
        };
        let served = socket.serve(services, shutdown).await;
        // The socket may have ended by itself.
        let _ = stop.send(true);
        let signed = signing.end().await;
        pipeline.close();
        let minted = minting.end().await;
        log.close().await;
        tracing::info!("stopped");
        // Closing waits: the monitor and the keys for their threads, the store for its file.
        let closed = tokio::task::spawn_blocking(move || {
            drop((monitoring, issuing_keys, pipeline, mint, keys, front_ends, store))
        })
        .await;
        closed.map_err(io::Error::other)?;
        served?;
        signed?;
        minted?;
        failure.map_or(Ok(()), Err)
    }
}

/// The listener for front ends, with a certificate of its own: it answers as soon as it is served.
async fn front_end_listener(
    address: SocketAddr,
    limits: Limits,
    services: &Services,
) -> Result<ReadyListener, SigningError> {
    let Services { pipeline, clock, front_ends, metrics, .. } = services;
    let mint = pipeline.mint();
    let signing = SigningServices {
        pipeline: Arc::clone(pipeline),
        clock: Arc::clone(clock),
        gate: by_records(Arc::clone(front_ends), mint, Arc::clone(clock)),
        // The authorities of a process are those of its start.
        bundle: watch::channel(Arc::clone(mint.bundle())).1,
        metrics: metrics.clone(),
        limits,
    };
    SigningListener::bind(address)?.prepare(signing).await
}

/// Serves front ends, where there is a listener for them, until it is told to stop and what was admitted is answered.
async fn serve_front_ends(listener: Option<ReadyListener>, mut stopping: watch::Receiver<bool>) {
    // A sender that is gone stops it too.
    let stopped = async { drop(stopping.wait_for(|stop| *stop).await) };
    match listener {
        Some(listener) => {
            tracing::info!(address = %listener.address(), "front ends are served");
            listener.serve(stopped).await;
        }
        None => stopped.await,
    }
}

/// A part of the server that runs beside the others until it is told to end. It is waited for once.
struct Task(Option<JoinHandle<()>>);

impl Task {
    fn start(work: impl Future<Output = ()> + Send + 'static) -> Self {
        Self(Some(tokio::spawn(work)))
    }

    /// Resolves if it ends though nobody has told it to.
    async fn ends_early(&mut self) -> io::Error {
        let Some(running) = &mut self.0 else { return std::future::pending().await };
        let ended = running.await;
        self.0 = None;
        ended.err().map_or(io::ErrorKind::Other.into(), io::Error::other)
    }

    /// Waits for its end, if that has not been told.
    async fn end(self) -> io::Result<()> {
        match self.0 {
            Some(running) => running.await.map_err(io::Error::other),
            None => Ok(()),
        }
    }
}

/// Tells systemd, if it started this process and waits for that.
fn tell_service_manager(state: NotifyState<'_>) {
    if let Err(error) = sd_notify::notify(&[state]) {
        tracing::warn!(%error, "the service manager cannot be told how the server is");
    }
}

/// How many keys are left for authorities to come, where an administrator makes them.
struct PreparedGauge {
    settings: AuthoritySettings,
    metrics: StoreMetrics,
}

impl PreparedGauge {
    fn tell(&self, left: PreparedKeys) {
        self.metrics.prepared(AuthorityKind::X509.key_part(), left.x509);
        self.metrics.prepared(AuthorityKind::Jwt.key_part(), left.jwt);
    }

    /// Counts them now and then: they are made, retired and deleted beside this process.
    async fn keep_right(&self, record: &dyn StateStore, keys: &dyn KeyStore) -> Infallible {
        loop {
            tokio::time::sleep(COUNT_EVERY).await;
            match prepared_keys(&self.settings, record, keys).await {
                Ok(Some(left)) => self.tell(left),
                Ok(None) => return std::future::pending().await,
                Err(error) => tracing::warn!(%error, "the prepared keys are not counted"),
            }
        }
    }
}

/// Takes in what other processes change of the front ends.
async fn keep_followed(front_ends: &FrontEnds) -> Infallible {
    loop {
        let error = front_ends.follow().await;
        tracing::error!(%error, "what others change of front ends, withdrawals too, is not seen here");
        tokio::time::sleep(FOLLOW_AGAIN).await;
    }
}

/// Resolves when the keys are lost to this process but not to the next, with the reason.
async fn stuck(keys: &dyn KeyStore) -> String {
    loop {
        if let StoreHealth::Stuck(reason) = keys.health() {
            return reason;
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
}

/// Resolves when the process is asked to end: SIGTERM from a service manager, SIGINT from a terminal.
pub fn shutdown_signal() -> io::Result<impl Future<Output = ()>> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    Ok(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    })
}

async fn open_store(directory: PathBuf) -> Result<Arc<Embedded>, ServerError> {
    let opened = tokio::task::spawn_blocking(move || Embedded::open(&directory)).await;
    Ok(Arc::new(opened.map_err(io::Error::other)??))
}
