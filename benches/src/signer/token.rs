//! A key of a token, opened as a server opens it.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use ca_core::key::{KeyName, KeyStore as _, KeyType, SigningKey, ToBeSigned};
use keymanager::metrics::StoreMetrics;
use keymanager::pkcs11::{Settings, TokenSelector};
use keymanager::{Oversight, Pkcs11Store, SecretSource, Verification};
use softhsm::Token;
use tokio::runtime::Runtime;

use super::bare::Bare;
use super::urgency;

const TRUST_DOMAIN: &str = "bench.test";

/// Where the token is.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Device {
    SoftHsm,
    /// SoftHSM behind the proxy.
    Proxy,
}

/// What is measured.
pub(crate) struct Setup {
    pub(crate) device: Device,
    pub(crate) key_type: KeyType,
    pub(crate) sessions: usize,
    pub(crate) verification: Verification,
    /// The threads that the callers share. Where there are as many sessions as cores, each further one only
    /// takes a core from a session's thread.
    pub(crate) runtime_threads: usize,
}

/// A key and the runtime of its callers.
pub(crate) struct Opened {
    pub(crate) key: Arc<dyn SigningKey>,
    /// Keeps the sessions.
    store: Pkcs11Store,
    runtime: Runtime,
    module: PathBuf,
    token: Token,
    name: KeyName,
    key_type: KeyType,
}

impl Setup {
    /// A new token with a key.
    pub(crate) fn open(&self) -> anyhow::Result<Opened> {
        let token = Token::fresh();
        let module = match self.device {
            Device::SoftHsm => token.module().to_owned(),
            Device::Proxy => pkcs11_proxy::module_path()?,
        };
        // The server's kind of runtime: how it is woken is part of the hand-over.
        let mut runtime = tokio::runtime::Builder::new_multi_thread();
        let runtime = runtime.worker_threads(self.runtime_threads).enable_time().build()?;
        let name = KeyName::parse(&format!("mintmark/{TRUST_DOMAIN}/x509/1"))?;
        let oversight =
            Oversight { verification: self.verification, metrics: StoreMetrics::default() };
        let selector = TokenSelector::label(token.label()).with_serial(token.serial());
        let pin = SecretSource::File(token.pin_file().to_owned());
        let settings = Settings {
            sessions: self.sessions,
            // No caller is refused: what is measured is the rate.
            queue_wait: Duration::from_secs(10),
            ..Settings::new(module.clone(), selector, pin, oversight)
        };
        let (store, key) = runtime.block_on(async {
            let store = Pkcs11Store::open(settings, TRUST_DOMAIN).await?;
            let key = store.create(&name, self.key_type).await?;
            anyhow::Ok((store, key))
        })?;
        let key_type = self.key_type;
        Ok(Opened { key, store, runtime, module, token, name, key_type })
    }
}

impl Opened {
    /// The key store that holds the key.
    pub(crate) fn store(&self) -> &Pkcs11Store {
        &self.store
    }

    /// The bare loop on the same key.
    pub(crate) fn bare(&self, sessions: usize) -> anyhow::Result<Bare> {
        let (serial, label) = (self.token.serial(), self.name.as_str());
        Bare::open(&self.module, serial, label, self.key_type, sessions).context("the bare loop")
    }

    /// Signs for that long with so many callers, and answers how often.
    pub(crate) fn sign_for(&self, callers: usize, slice: Duration) -> u64 {
        let end = Instant::now() + slice;
        let counts = self.on_each(callers, |key| async move {
            let (message, mut count) = (message(&*key), 0);
            while Instant::now() < end {
                sign(&*key, &message).await;
                count += 1;
            }
            count
        });
        counts.into_iter().sum()
    }

    /// Signs for that long with so many callers, and answers how long each signature took.
    pub(crate) fn times(&self, callers: usize, slice: Duration) -> Vec<Duration> {
        let end = Instant::now() + slice;
        self.on_each(callers, |key| async move {
            let (message, mut times) = (message(&*key), Vec::new());
            let mut before = Instant::now();
            while before < end {
                sign(&*key, &message).await;
                let now = Instant::now();
                times.push(now - before);
                before = now;
            }
            times
        })
        .concat()
    }

    fn on_each<T: Send + 'static, F: Future<Output = T> + Send + 'static>(
        &self,
        callers: usize,
        work: impl Fn(Arc<dyn SigningKey>) -> F,
    ) -> Vec<T> {
        self.runtime.block_on(async {
            let callers: Vec<_> =
                (0..callers).map(|_| tokio::spawn(work(Arc::clone(&self.key)))).collect();
            let mut results = Vec::with_capacity(callers.len());
            for caller in callers {
                results.push(caller.await.expect("a caller does not panic"));
            }
            results
        })
    }
}

/// A message to sign over and over: what is measured is the signature.
fn message(key: &dyn SigningKey) -> ToBeSigned {
    ToBeSigned::probe([7; 32], key.algorithm())
}

async fn sign(key: &dyn SigningKey, message: &ToBeSigned) {
    key.sign(message.clone(), urgency()).await.expect("the queue holds all callers");
}
