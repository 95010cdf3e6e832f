//! What a server shows to those who watch it: what it counts, and whether it is ready.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use ca_core::clock::{Clock, Timestamp};
use ca_core::mint::Mint;
use keymanager::metrics::Metrics as KeyMetrics;
use mintmark_signer::{Monitor, MonitorError, RunningMonitor, ServiceMetrics};
use prometheus_client::registry::Registry;

/// The version of the program, as it is told everywhere.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");

/// The figures of one server, and the listener that tells them, where one is configured.
#[derive(Debug)]
pub struct Monitoring {
    /// What the key stores count.
    pub keys: KeyMetrics,
    /// What the services count.
    pub service: ServiceMetrics,
    stage: Arc<Mutex<Stage>>,
    /// Answers for as long as it is held.
    _listener: Option<RunningMonitor>,
}

/// How far a server has come.
#[derive(Debug)]
enum Stage {
    /// It is on its way to its keys and authorities.
    Starting,
    /// It answers, from these authorities.
    Serving(Arc<Mint>),
    /// It lets calls under way end.
    Stopping,
}

impl Monitoring {
    /// Begins to count, and to tell it at `address`. Bound before keys are opened: a token that is slow or
    /// away at a start can be told from a process that hangs.
    pub fn start(address: Option<SocketAddr>, clock: Arc<dyn Clock>) -> Result<Self, MonitorError> {
        let (keys, service) = (KeyMetrics::default(), ServiceMetrics::default());
        let stage = Arc::new(Mutex::new(Stage::Starting));
        let asked = Arc::clone(&stage);
        let listener = address.map(|address| {
            let monitor = Monitor::bind(address)?;
            let mut registry = Registry::default();
            service.register(&mut registry, VERSION, clock.now());
            keys.register(&mut registry);
            monitor.start(registry, Box::new(move || locked(&asked).obstacles(clock.now())))
        });
        let listener = listener.transpose()?;
        if let Some(listener) = &listener {
            tracing::info!(address = %listener.address(), "metrics and health are told");
        }
        Ok(Self { keys, service, stage, _listener: listener })
    }

    /// From now on the server is ready, as long as its authorities are good.
    pub fn serving(&self, mint: &Arc<Mint>) {
        *locked(&self.stage) = Stage::Serving(Arc::clone(mint));
    }

    /// From now on it is not.
    pub fn stopping(&self) {
        *locked(&self.stage) = Stage::Stopping;
    }
}

/// A stage is replaced whole, so a panic elsewhere leaves a whole one.
fn locked(stage: &Mutex<Stage>) -> MutexGuard<'_, Stage> {
    stage.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Stage {
    /// What keeps the server from minting, a line each.
    fn obstacles(&self, now: Timestamp) -> Vec<String> {
        let mint = match self {
            Self::Starting => {
                return vec!["starting: keys and authorities are not ready".to_owned()];
            }
            Self::Stopping => return vec!["stopping".to_owned()],
            Self::Serving(mint) => mint,
        };
        let authorities = mint.authorities();
        let ends = [
            ("X.509", authorities.x509.certificate().not_after()),
            ("JWT", authorities.jwt.not_after()),
        ];
        let ended = ends.into_iter().filter(|(_, end)| *end < now).map(|(kind, end)| {
            format!("the {kind} authority ended at {end}; start the server again to make a new one")
        });
        ended.collect()
    }
}
