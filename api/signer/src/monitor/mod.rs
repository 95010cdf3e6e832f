//! The monitoring listener: figures for Prometheus, and whether the process lives and is ready.
//!
//! | path | answer |
//! |---|---|
//! | `/metrics` | the figures, as OpenMetrics text |
//! | `/live`, `/healthz` | 200 while the process answers |
//! | `/ready`, `/readyz` | 200 when the server can do its work, else 503 with a line for each obstacle |
//!
//! It asks nobody who they are, so it tells nothing secret. It has a thread and a runtime of its own: a
//! slow scrape takes no time from a mint, and a server that is busy still says how busy it is.

mod answer;
mod connection;

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::thread::{self, JoinHandle};

use prometheus_client::registry::Registry;
use thiserror::Error;
use tokio::runtime::{self, Runtime};
use tokio::sync::oneshot;

use answer::Answers;

/// Says what keeps the server from its work, a line each; nothing when it is ready. Asked once for each
/// `/ready`, on the monitor's thread, so it answers from memory.
pub type Readiness = Box<dyn Fn() -> Vec<String> + Send + Sync>;

/// Why there is no monitoring listener.
#[derive(Debug, Error)]
pub enum MonitorError {
    /// Somebody else listens there.
    #[error(
        "metrics address {0} is in use; stop what listens there, or choose another with \
         [metrics] listen"
    )]
    InUse(SocketAddr),
    /// The machine has no such address.
    #[error(
        "metrics address {0} is none of this machine's; choose another with [metrics] listen, such as \
         127.0.0.1:{port}", port = .0.port()
    )]
    Elsewhere(SocketAddr),
    /// The system failed.
    #[error("metrics address {address}: cannot {action}: {source}")]
    System {
        /// Where to listen.
        address: SocketAddr,
        /// What was tried.
        action: &'static str,
        /// What the system said.
        source: io::Error,
    },
}

/// A listener that is bound and not served yet.
#[derive(Debug)]
pub struct Monitor {
    listener: TcpListener,
    address: SocketAddr,
}

impl Monitor {
    /// Takes the address. Port 0 takes a free one.
    ///
    /// # Errors
    /// [`MonitorError`] if the address is taken, not ours, or refused.
    pub fn bind(address: SocketAddr) -> Result<Self, MonitorError> {
        let listener = TcpListener::bind(address).map_err(|source| match source.kind() {
            io::ErrorKind::AddrInUse => MonitorError::InUse(address),
            io::ErrorKind::AddrNotAvailable => MonitorError::Elsewhere(address),
            _ => MonitorError::System { address, action: "listen", source },
        })?;
        let address = listener.local_addr().map_err(system(address, "tell the port"))?;
        Ok(Self { listener, address })
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Answers on a thread of its own, until what is returned is dropped.
    ///
    /// # Errors
    /// [`MonitorError::System`] if the system gives no thread.
    pub fn start(
        self,
        registry: Registry,
        readiness: Readiness,
    ) -> Result<RunningMonitor, MonitorError> {
        let Self { listener, address } = self;
        let runtime = runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(system(address, "start"))?;
        let listener = adopt(&runtime, listener).map_err(system(address, "listen"))?;
        let answers = Arc::new(Answers::new(registry, readiness));
        let (stop, stopped) = oneshot::channel::<()>();
        let thread = thread::Builder::new()
            .name("monitor".to_owned())
            .spawn(move || {
                runtime.block_on(async {
                    tokio::select! {
                        never = connection::accept(listener, answers) => match never {},
                        _ = stopped => {}
                    }
                });
            })
            .map_err(system(address, "start a thread"))?;
        Ok(RunningMonitor { address, stop: Some(stop), thread: Some(thread) })
    }
}

/// A monitoring listener that answers. Dropping it ends its connections and waits for its thread, which
/// takes as long as writing the figures once.
#[derive(Debug)]
pub struct RunningMonitor {
    address: SocketAddr,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl RunningMonitor {
    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

impl Drop for RunningMonitor {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(Err(_)) = self.thread.take().map(JoinHandle::join) {
            tracing::error!(address = %self.address, "the monitoring listener has panicked");
        }
    }
}

/// Hands a listener of the standard library over to a runtime.
fn adopt(runtime: &Runtime, listener: TcpListener) -> io::Result<tokio::net::TcpListener> {
    listener.set_nonblocking(true)?;
    let _context = runtime.enter();
    tokio::net::TcpListener::from_std(listener)
}

fn system(address: SocketAddr, action: &'static str) -> impl FnOnce(io::Error) -> MonitorError {
    move |source| MonitorError::System { address, action, source }
}
