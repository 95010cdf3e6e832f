//! A server as it ships, on a socket of its own, with keys in memory.

mod held_store;

use std::io;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use ca_core::authority::{self, Authorities, AuthoritySettings, CaSubject, KeyCreation};
use ca_core::bundle::Bundle;
use ca_core::clock::{Clock, SystemClock, Timestamp};
use ca_core::frontend::FrontEnds;
use ca_core::id::TrustDomain;
use ca_core::issuer::Lifetimes;
use ca_core::issuing::IssuingMode;
use ca_core::key::{KeyType, Priority, RsaScheme, Urgency};
use ca_core::log::tree::Origin;
use ca_core::log::{Appending, Issuance, IssuanceLog, IssuanceRecord, LogError};
use ca_core::mint::Mint;
use ca_core::pipeline::Pipeline;
use ca_core::pipeline::admission::Bounds;
use ca_core::pipeline::metrics::PipelineMetrics;
use ca_core::serial::RandomSerials;
use ca_core::token::TokenSettings;
use keymanager::SoftwareStore;
use mintmark_signer::{AdminSocket, LogLevels, ServiceMetrics, Services, SocketError};
use tempfile::TempDir;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tonic::transport::{Channel, Endpoint};
use tracing::subscriber::DefaultGuard;
use tracing_subscriber::filter::LevelFilter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::{Registry, fmt, reload};

use held_store::HeldStore;

/// The trust domain of every server here.
pub(crate) const TRUST_DOMAIN: &str = "signer.test";
/// The name of its issuance log.
pub(crate) const LOG: &str = "signer.test/mintmark/signer";

/// A running server. Its log is the test's: run it on the test's own thread.
pub(crate) struct TestServer {
    pub(crate) path: PathBuf,
    pub(crate) channel: Channel,
    pub(crate) authorities: Authorities,
    /// What was issued.
    pub(crate) issued: Arc<Issued>,
    /// What was counted.
    pub(crate) metrics: ServiceMetrics,
    /// Where the keys are.
    pub(crate) keys: Arc<SoftwareStore>,
    /// The front ends, as the server sees them.
    pub(crate) front_ends: Arc<FrontEnds>,
    /// Where front ends and keys are recorded.
    pub(crate) record: Arc<HeldStore>,
    /// What was logged, as text.
    pub(crate) log: Arc<Mutex<Vec<u8>>>,
    stop: oneshot::Sender<()>,
    serving: JoinHandle<Result<(), SocketError>>,
    _log: DefaultGuard,
    _directory: TempDir,
}

impl TestServer {
    /// Serves a trust domain with fresh authorities.
    pub(crate) async fn start() -> Self {
        let founded = Founded::new().await;
        Self::start_with(founded).await
    }

    /// Serves the same before it has published anything.
    pub(crate) async fn start_without_bundle() -> Self {
        let mut founded = Founded::new().await;
        let trust_domain = founded.authorities.bundle.trust_domain.clone();
        founded.authorities.bundle = Arc::new(Bundle::empty(trust_domain, Duration::ZERO));
        Self::start_with(founded).await
    }

    async fn start_with(founded: Founded) -> Self {
        let Founded { authorities, keys, record } = founded;
        let directory = TempDir::new().expect("a temporary directory");
        let path = directory.path().join("admin.sock");
        let (filter, handle) = reload::Layer::new(LevelFilter::INFO);
        let log = Arc::new(Mutex::new(Vec::new()));
        let writer = SharedLog(log.clone());
        let subscriber = Registry::default()
            .with(filter)
            .with(fmt::layer().with_ansi(false).with_writer(move || writer.clone()));
        let guard = tracing::subscriber::set_default(subscriber);

        let issued = Arc::new(Issued::default());
        let metrics = ServiceMetrics::default();
        let mint = Mint::new(
            authorities.clone(),
            IssuingMode::Direct,
            Box::new(RandomSerials::new()),
            issued.clone(),
        );
        let bounds = Bounds { memory: 1 << 20, wait: Duration::from_secs(5), caller_percent: 100 };
        let clock = Arc::new(SystemClock);
        let counted = PipelineMetrics::default();
        let pipeline =
            Pipeline::new(Arc::new(mint), bounds, clock, counted).expect("there are threads");
        tokio::spawn(Arc::clone(&pipeline).run());
        let front_ends = FrontEnds::load(record.clone()).await.expect("a store in memory");
        let services = Services {
            pipeline,
            clock: Arc::new(SystemClock),
            keys: keys.clone(),
            record: record.clone(),
            front_ends: Arc::clone(&front_ends),
            ca_ttl: LIFE,
            log: Origin::parse(LOG).expect("a name"),
            log_levels: Arc::new(LogLevels::new(LevelFilter::INFO, handle)),
            metrics: metrics.clone(),
            version: "1.2.3",
        };
        let socket = AdminSocket::bind(&path, None).expect("a free path");
        let (stop, stopped) = oneshot::channel();
        let serving = tokio::spawn(socket.serve(services, async { drop(stopped.await) }));
        let channel = Endpoint::try_from(format!("unix://{}", path.display()))
            .expect("a path in a URI")
            .connect_lazy();
        let (_log, _directory) = (guard, directory);
        Self {
            path,
            channel,
            authorities,
            issued,
            metrics,
            keys,
            front_ends,
            record,
            log,
            stop,
            serving,
            _log,
            _directory,
        }
    }

    /// What has been logged so far.
    pub(crate) fn log_text(&self) -> String {
        String::from_utf8_lossy(&self.log.lock().expect("no test panics while it writes")).into()
    }

    /// Stops as a signal would, and gives the outcome.
    pub(crate) async fn stop(self) -> Result<(), SocketError> {
        drop(self.stop);
        self.serving.await.expect("the server does not panic")
    }
}

/// The life of an authority.
pub(crate) const LIFE: Duration = Duration::from_secs(86_400);

/// Fresh authorities, with what they were made in.
struct Founded {
    authorities: Authorities,
    keys: Arc<SoftwareStore>,
    record: Arc<HeldStore>,
}

impl Founded {
    async fn new() -> Self {
        let settings = AuthoritySettings {
            trust_domain: TrustDomain::parse(TRUST_DOMAIN).expect("a name"),
            ca_key_type: KeyType::EcP256,
            jwt_key_type: KeyType::EcP256,
            key_creation: KeyCreation::Auto,
            rsa_scheme: RsaScheme::Pkcs1,
            ca_ttl: LIFE,
            ca_subject: CaSubject::default(),
            lifetimes: Lifetimes::default(),
            tokens: TokenSettings::default(),
            refresh_hint: Duration::from_secs(300),
        };
        let keys = Arc::new(SoftwareStore::in_memory(TRUST_DOMAIN));
        let record = Arc::new(HeldStore::default());
        let serials = RandomSerials::new();
        let authorities =
            authority::establish(&settings, &*record, &*keys, &serials, now(), urgency());
        let authorities = authorities.await.expect("fresh authorities");
        Self { authorities, keys, record }
    }
}

/// The time, as the server reads it.
pub(crate) fn now() -> Timestamp {
    SystemClock.now()
}

/// A log that keeps what it is given, refuses it, or does not answer.
#[derive(Default)]
pub(crate) struct Issued {
    pub(crate) records: Mutex<Vec<IssuanceRecord>>,
    pub(crate) full: AtomicBool,
    pub(crate) hanging: Arc<AtomicBool>,
}

impl IssuanceLog for Issued {
    fn append(&self, issued: &[Issuance<'_>]) -> Appending {
        if self.full.load(Ordering::Relaxed) {
            let error = LogError::Unwritable("no space left on /dev/secret-disk".to_owned());
            return Box::pin(std::future::ready(Err(error)));
        }
        let mut kept = self.records.lock().expect("no test panics while it writes");
        kept.extend(issued.iter().map(Issuance::to_record));
        let hanging = Arc::clone(&self.hanging);
        Box::pin(async move {
            while hanging.load(Ordering::Relaxed) {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            Ok(())
        })
    }
}

#[derive(Clone)]
struct SharedLog(Arc<Mutex<Vec<u8>>>);

impl io::Write for SharedLog {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().expect("no test panics while it writes").extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn urgency() -> Urgency {
    Urgency::within(Priority::New, Duration::from_secs(60), Instant::now())
}
