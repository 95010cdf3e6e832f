//! A stand-in of AWS KMS: its JSON protocol over plain HTTP on the loopback, with real keys.
//!
//! It keeps KMS's own rules (SigV4, key states, digest lengths, quotas, pages) and can be told, while it
//! runs, to be slow, to throttle and to fail in each way that a client has to live with ([`Knobs`]).
//! Keys sign for real, so whatever it answers can be verified; nothing outlives the process.
//!
//! Left out: symmetric keys, grants, policies, other accounts and regions, HTTP/2 and TLS.

mod account;
mod aliases;
mod authentication;
mod counters;
mod exception;
mod fault;
mod identity;
mod key_pair;
mod knobs;
mod latency;
mod managing;
mod operation;
mod quota;
mod request;
mod server;
mod service;
mod signing;
mod tags;

pub use authentication::Credentials;
pub use counters::{Counters, Outcome};
pub use fault::{Fault, Faults};
pub use key_pair::{KeySpec, UnknownKeySpec};
pub use knobs::Knobs;
pub use latency::Latency;
pub use operation::Operation;
pub use quota::Quota;

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::sync::oneshot;

use service::Service;

/// The one region that the stand-in has; a client has to sign for it.
pub const REGION: &str = "eu-central-1";

/// Why there is no stand-in, or not the key that was asked for.
#[derive(Debug, thiserror::Error)]
pub enum FakeKmsError {
    /// The system gives no socket, thread or event queue.
    #[error("the stand-in of KMS cannot start: {0}; free the port or choose another")]
    Start(#[from] std::io::Error),
    /// The system gives no random bytes, or the library refuses to make a key.
    #[error("no key could be made; look for a system without random bytes")]
    Random,
    /// No key has this id or ARN.
    #[error("the stand-in of KMS has no key {0}; name one by its id or ARN")]
    NoKey(String),
}

/// A running stand-in, on a thread and a runtime of its own. Dropping it ends it, with what it was doing.
#[derive(Debug)]
pub struct FakeKms {
    address: SocketAddr,
    service: Arc<Service>,
    credentials: Credentials,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl FakeKms {
    /// Starts one on a free port of the loopback.
    ///
    /// # Errors
    /// [`FakeKmsError::Start`] or [`FakeKmsError::Random`].
    pub fn start(knobs: Knobs) -> Result<Self, FakeKmsError> {
        Self::start_on(0, knobs)
    }

    /// Starts one on this port of the loopback; 0 takes a free one.
    ///
    /// # Errors
    /// [`FakeKmsError::Start`] or [`FakeKmsError::Random`].
    pub fn start_on(port: u16, knobs: Knobs) -> Result<Self, FakeKmsError> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port))?;
        let address = listener.local_addr()?;
        let service = Arc::new(Service::new(knobs));
        let credentials = service.authority().permanent()?;
        let (stop, stopped) = oneshot::channel();
        let thread = server::spawn(listener, Arc::clone(&service), stopped)?;
        Ok(Self { address, service, credentials, stop: Some(stop), thread: Some(thread) })
    }

    /// Where it listens, as a URL for an SDK's endpoint setting.
    #[must_use]
    pub fn endpoint(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Credentials that never expire.
    #[must_use]
    pub fn credentials(&self) -> &Credentials {
        &self.credentials
    }

    /// Credentials with a session token that expire after `lifetime`: from then on each request with
    /// them is answered with `ExpiredTokenException`.
    ///
    /// # Errors
    /// [`FakeKmsError::Random`].
    pub fn temporary_credentials(&self, lifetime: Duration) -> Result<Credentials, FakeKmsError> {
        self.service.authority().temporary(lifetime)
    }

    /// The settings now.
    #[must_use]
    pub fn knobs(&self) -> Knobs {
        self.service.knobs()
    }

    /// Changes settings; requests that arrive from now on go by them.
    pub fn change(&self, change: impl FnOnce(&mut Knobs)) {
        self.service.change(change);
    }

    /// The next request of this operation that passes authentication and quota meets `fault`, whatever
    /// the probabilities; said n times, the next n do.
    pub fn inject(&self, operation: Operation, fault: Fault) {
        self.service.inject(operation, fault);
    }

    /// What was asked and what became of it, since the start or the last [`reset_counters`](Self::reset_counters).
    #[must_use]
    pub fn counters(&self) -> Counters {
        self.service.counters()
    }

    /// Starts counting anew.
    pub fn reset_counters(&self) {
        self.service.reset_counters();
    }

    /// Makes a signing key without a request, and gives its ARN.
    ///
    /// # Errors
    /// [`FakeKmsError::Random`].
    pub fn create_key(&self, spec: KeySpec) -> Result<String, FakeKmsError> {
        self.service.create_key(spec)
    }

    /// Ends the waiting period of a key at once, as if its deletion had been scheduled long ago: it is
    /// gone for good, with its aliases.
    ///
    /// # Errors
    /// [`FakeKmsError::NoKey`].
    pub fn destroy_key(&self, key: &str) -> Result<(), FakeKmsError> {
        self.service.destroy_key(key)
    }
}

impl Drop for FakeKms {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            // A panic of the thread has been printed where it happened.
            let _ = thread.join();
        }
    }
}
