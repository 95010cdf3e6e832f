//! What a server shows to those who watch it: what it counts, and whether it is ready.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use ca_core::clock::{Clock, Timestamp};
use ca_core::key::{KeyStore, StoreHealth};
use ca_core::log::local::LocalLog;
use ca_core::log::metrics::LogMetrics;
use ca_core::mint::Mint;
use ca_core::pipeline::metrics::PipelineMetrics;
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
    /// What the pipeline counts.
    pub pipeline: PipelineMetrics,
    /// What the issuance log counts.
    pub log: LogMetrics,
    stage: Arc<Mutex<Stage>>,
    /// Answers for as long as it is held.
    _listener: Option<RunningMonitor>,
}

/// How far a server has come.
#[derive(Debug)]
enum Stage {
    /// It is on its way to its keys and authorities.
    Starting,
    /// It answers, from these authorities, by the keys in this store, and writes this log.
    Serving { mint: Arc<Mint>, keys: Arc<dyn KeyStore>, log: Arc<LocalLog> },
    /// It lets calls under way end.
    Stopping,
}

impl Monitoring {
    /// Begins to count, and to tell it at `address`. Bound before keys are opened: a token that is slow or
    /// away at a start can be told from a process that hangs.
    pub fn start(address: Option<SocketAddr>, clock: Arc<dyn Clock>) -> Result<Self, MonitorError> {
        let (keys, service) = (KeyMetrics::default(), ServiceMetrics::default());
        let (pipeline, log) = (PipelineMetrics::default(), LogMetrics::default());
        let stage = Arc::new(Mutex::new(Stage::Starting));
        let asked = Arc::clone(&stage);
        let listener = address.map(|address| {
            let monitor = Monitor::bind(address)?;
            let mut registry = Registry::default();
            service.register(&mut registry, VERSION, clock.now());
            keys.register(&mut registry);
            pipeline.register(&mut registry);
            log.register(&mut registry);
            monitor.start(registry, Box::new(move || locked(&asked).obstacles(clock.now())))
        });
        let listener = listener.transpose()?;
        if let Some(listener) = &listener {
            tracing::info!(address = %listener.address(), "metrics and health are told");
        }
        Ok(Self { keys, service, pipeline, log, stage, _listener: listener })
    }

    /// From now on the server is ready, as long as its keys, authorities and log are good.
    pub fn serving(&self, mint: &Arc<Mint>, keys: &Arc<dyn KeyStore>, log: &Arc<LocalLog>) {
        let (mint, keys, log) = (Arc::clone(mint), Arc::clone(keys), Arc::clone(log));
        *locked(&self.stage) = Stage::Serving { mint, keys, log };
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
        match self {
            Self::Starting => vec!["starting: keys and authorities are not ready".to_owned()],
            Self::Stopping => vec!["stopping".to_owned()],
            Self::Serving { mint, keys, log } => {
                let authorities = mint.authorities();
                let x509 = authorities.x509.certificate().not_after();
                let ends = [("X.509", x509), ("JWT", authorities.jwt.not_after())];
                let of_log = log.obstacles(Instant::now());
                ailment(keys.health()).into_iter().chain(ended(ends, now)).chain(of_log).collect()
            }
        }
    }
}

fn ailment(health: StoreHealth) -> Option<String> {
    match health {
        StoreHealth::Good => None,
        StoreHealth::Ailing(reason) => Some(format!("the keys cannot be used now: {reason}")),
        StoreHealth::Stuck(reason) => {
            Some(format!("the keys cannot be used until this process is started anew: {reason}"))
        }
        StoreHealth::Lost(reason) => {
            Some(format!("the keys cannot be used until somebody helps: {reason}"))
        }
    }
}

/// Those of the authorities that have ended.
fn ended(ends: [(&str, Timestamp); 2], now: Timestamp) -> impl Iterator<Item = String> {
    ends.into_iter().filter(move |(_, end)| *end < now).map(|(kind, end)| {
        format!("the {kind} authority ended at {end}; start the server again to make a new one")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_that_cannot_be_used_are_an_obstacle_with_its_reason() {
        assert_eq!(ailment(StoreHealth::Good), None);
        let away = || "token away".to_owned();
        let now = ailment(StoreHealth::Ailing(away())).unwrap();
        let lost = ailment(StoreHealth::Lost(away())).unwrap();
        assert!(now.contains("now: token away") && lost.contains("somebody helps: token away"));
    }

    #[test]
    fn an_authority_that_has_ended_is_an_obstacle_and_one_that_ends_now_is_none() {
        let [past, now, later] = [1, 2, 3].map(Timestamp::from_unix);
        assert_eq!(ended([("X.509", now), ("JWT", later)], now).count(), 0);
        let told: Vec<String> = ended([("X.509", past), ("JWT", later)], now).collect();
        assert_eq!(told.len(), 1, "{told:?}");
        assert!(told[0].starts_with("the X.509 authority ended at 1970-01-01T00:00:01Z"));
    }
}
