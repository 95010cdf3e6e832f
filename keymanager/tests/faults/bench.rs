//! The place where faults are tried: a store on a fresh token behind the fault-injecting proxy, and all
//! that it shows of itself.

use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use ca_core::key::{
    KeyName, KeyStore, KeyType, Priority, SignError, Signature, SigningKey, StoreHealth,
    ToBeSigned, Urgency,
};
use keymanager::metrics::Metrics;
use keymanager::pkcs11::{Settings, TokenSelector};
use keymanager::{Oversight, Pkcs11Store, SecretSource, Verification};
use pkcs11_proxy::testing::{Turn, device};
use pkcs11_proxy::{Effect, Function, Rule, RuleId, When};
use prometheus_client::registry::Registry;
use softhsm::Token;

use crate::log;

pub(crate) const DOMAIN: &str = "faults.test";

/// A fresh token behind the proxy, for one test at a time.
pub(crate) struct Bench {
    pub(crate) device: Turn,
    pub(crate) figures: Figures,
    pub(crate) token: Token,
}

/// A store with one key.
pub(crate) struct Opened {
    // Dropped in this order.
    pub(crate) key: Arc<dyn SigningKey>,
    pub(crate) store: Pkcs11Store,
}

impl Bench {
    pub(crate) fn new() -> Self {
        let device = device();
        // Made before the proxy is loaded for the first time, so that SoftHSM is not the proxy's to end.
        let token = Token::fresh();
        log::start(&pin(&token));
        Self { device, token, figures: Figures::new() }
    }

    /// As an operator would say it: four sessions, everything verified.
    pub(crate) fn settings(&self) -> Settings {
        let module = pkcs11_proxy::module_path().unwrap();
        settings(module, &self.token, &self.figures)
    }

    pub(crate) async fn open(&self) -> Opened {
        Opened::of(self.settings()).await
    }

    /// Sets a fault.
    pub(crate) fn fault(&self, function: Function, when: When, effect: Effect) -> RuleId {
        self.device.add(Rule { function, when, effect }).unwrap()
    }

    /// Sets a code that one call answers, the next of this function.
    pub(crate) fn fail_next(&self, function: Function, code: u64) -> RuleId {
        self.fault(function, When::Nth(1), Effect::Fail(code))
    }
}

impl Drop for Bench {
    /// What holds after every test.
    fn drop(&mut self) {
        if !std::thread::panicking() {
            assert_eq!(self.device.strays(), 0, "a handle of a past generation was used");
            assert_eq!(log::leak(), None, "the PIN was logged");
            assert!(!self.figures.text().contains(&pin(&self.token)), "the PIN is in a figure");
        }
    }
}

impl Opened {
    pub(crate) async fn of(settings: Settings) -> Self {
        let store = Pkcs11Store::open(settings, DOMAIN).await.unwrap();
        let key = store.create(&name("x509/1"), KeyType::EcP256).await.unwrap();
        Self { key, store }
    }

    pub(crate) async fn sign(&self, patience: Duration) -> Result<Signature, SignError> {
        sign(&*self.key, patience).await
    }

    /// Signs, and verifies by other means than the store's own.
    pub(crate) async fn signs(&self) {
        let probe = probe(&*self.key);
        let signature = self.key.sign(probe.clone(), within(LONG)).await.unwrap();
        assert!(self.key.public_key().verifies(probe.message(), &signature));
    }

    /// Has every session sign, so that nothing is opened or looked up any more.
    pub(crate) async fn warm_up(&self, sessions: usize) {
        for _ in 0..8 {
            // No more than always find a place in the queue.
            let calls = (0..(sessions * 4).min(60)).map(|_| {
                let key = Arc::clone(&self.key);
                tokio::spawn(async move { sign(&*key, LONG).await })
            });
            for call in calls.collect::<Vec<_>>() {
                call.await.unwrap().unwrap();
            }
        }
    }

    pub(crate) fn health(&self) -> StoreHealth {
        self.store.health()
    }
}

/// Longer than anything takes that comes back, on a busy machine.
pub(crate) const LONG: Duration = Duration::from_secs(30);

pub(crate) fn settings(module: PathBuf, token: &Token, figures: &Figures) -> Settings {
    let selector = TokenSelector::label(token.label()).with_serial(token.serial());
    let pin = SecretSource::File(token.pin_file().to_owned());
    let metrics = figures.metrics.store("hsm");
    let oversight = Oversight { verification: Verification::Always, metrics };
    let settings = Settings::new(module, selector, pin, oversight);
    // The shortest interval, so that a test may wait for a probe.
    Settings {
        stall_limit: Duration::from_secs(3),
        probe_interval: Duration::from_secs(1),
        ..settings
    }
}

pub(crate) fn name(text: &str) -> KeyName {
    KeyName::parse(&format!("mintmark/{DOMAIN}/{text}")).unwrap()
}

pub(crate) fn pin(token: &Token) -> String {
    std::fs::read_to_string(token.pin_file()).unwrap()
}

pub(crate) fn within(patience: Duration) -> Urgency {
    Urgency::within(Priority::New, patience, Instant::now())
}

pub(crate) fn probe(key: &dyn SigningKey) -> ToBeSigned {
    let mut nonce = [0; 32];
    aws_lc_rs::rand::fill(&mut nonce).unwrap();
    ToBeSigned::probe(nonce, key.algorithm())
}

pub(crate) async fn sign(key: &dyn SigningKey, patience: Duration) -> Result<Signature, SignError> {
    key.sign(probe(key), within(patience)).await
}

/// Waits for what has to come.
pub(crate) async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let end = Instant::now() + LONG;
    while !holds() {
        assert!(Instant::now() < end, "{what}: not within {LONG:?}");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

/// What a store counts, as an operator sees it.
pub(crate) struct Figures {
    pub(crate) metrics: Metrics,
    registry: Registry,
}

impl Figures {
    pub(crate) fn new() -> Self {
        let (metrics, mut registry) = (Metrics::default(), Registry::default());
        metrics.register(&mut registry);
        Self { metrics, registry }
    }

    pub(crate) fn text(&self) -> String {
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &self.registry).unwrap();
        text
    }

    /// The sum of all figures of that name whose labels hold all of these.
    pub(crate) fn sum(&self, name: &str, labels: &[&str]) -> u64 {
        let text = self.text();
        let start = format!("mintmark_key_{name}{{");
        let lines = text.lines().filter(|line| line.starts_with(&start));
        lines
            .filter(|line| labels.iter().all(|label| line.contains(label)))
            .map(|line| line.rsplit(' ').next().unwrap().parse::<u64>().unwrap())
            .sum()
    }

    /// The errors with this code.
    pub(crate) fn errors(&self, code: &str) -> u64 {
        self.sum("errors_total", &[&format!("code=\"{code}\"")])
    }

    /// The errors of this class.
    pub(crate) fn errors_of_class(&self, class: &str) -> u64 {
        self.sum("errors_total", &[&format!("class=\"{class}\"")])
    }

    /// The calls that ended so.
    pub(crate) fn outcomes(&self, outcome: &str) -> u64 {
        self.sum("signatures_total", &[&format!("outcome=\"{outcome}\"")])
    }

    pub(crate) fn generation(&self) -> u64 {
        self.sum("generation", &[])
    }

    pub(crate) fn sessions(&self, state: &str) -> u64 {
        self.sum("sessions", &[&format!("state=\"{state}\"")])
    }
}

/// The threads of this process whose name begins so.
pub(crate) fn threads(begin: &str) -> usize {
    let tasks = std::fs::read_dir("/proc/self/task").unwrap();
    let names = tasks.flatten().map(|task| std::fs::read_to_string(task.path().join("comm")));
    names.flatten().filter(|name| name.starts_with(begin)).count()
}

/// The threads that sign in this token.
pub(crate) fn signers(token: &Token) -> usize {
    threads(&format!("{:.10} #", token.label()))
}

/// The open files of this process.
pub(crate) fn descriptors() -> usize {
    std::fs::read_dir("/proc/self/fd").unwrap().count()
}

/// The memory of this process, in KiB.
pub(crate) fn resident() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

/// Tells a figure to whoever reads the run.
#[expect(clippy::print_stderr, reason = "figures are what a long run is made for")]
pub(crate) fn tell(figure: &str) {
    eprintln!("soak: {figure}");
}

/// A number that the long form of a run sets, or the one of the short form.
pub(crate) fn count(variable: &str, short: u64) -> u64 {
    match std::env::var(variable) {
        Ok(text) => text.parse().unwrap_or_else(|_| panic!("{variable}={text} is no number")),
        Err(_) => short,
    }
}

/// Whether this is a process in which no other test runs; if not, runs the test of that name in one. For
/// tests that do to SoftHSM what no other user of it in the process would survive.
pub(crate) fn is_alone(name: &str) -> bool {
    const ALONE: &str = "FAULT_TEST_ALONE";
    if std::env::var_os(ALONE).is_some() {
        return true;
    }
    let output = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", name, "--nocapture"])
        .env(ALONE, "1")
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    assert!(String::from_utf8_lossy(&output.stdout).contains("1 passed"), "{name} has not run");
    said.lines().filter_map(|line| line.strip_prefix("soak: ")).for_each(tell);
    false
}
