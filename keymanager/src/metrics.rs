//! What the key stores of a process count, for whoever watches it (Prometheus).
//!
//! `docs/keys.md` says of each figure what it means and when to act. No label carries a secret: stores go
//! by the name of their section, keys by their key name.

mod durations;
mod tally;

use std::time::Duration;

use ca_core::key::{KeyName, SignError};
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::{Registry, Unit};

use durations::Durations;
use tally::Tally;

/// The figures of all key stores. Clones share them.
#[derive(Debug, Clone, Default)]
pub struct Metrics {
    waited: Family<StoreLabel, Durations>,
    signed: Family<KeyLabel, Durations>,
    outcomes: Family<OutcomeLabel, Tally>,
    errors: Family<ErrorLabel, Counter>,
    retries: Family<StoreLabel, Counter>,
    wrong: Family<KeyLabel, Counter>,
    sessions: Family<StateLabel, Gauge>,
    opened: Family<StoreLabel, Counter>,
    generation: Family<StoreLabel, Gauge>,
    throttled: Family<StoreLabel, Counter>,
    rate: Family<StoreLabel, Gauge>,
    healthy: Family<StoreLabel, Gauge>,
    usable: Family<KeyLabel, Gauge>,
    prepared: Family<AuthorityLabel, Gauge>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct StoreLabel {
    store: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct KeyLabel {
    store: String,
    key: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OutcomeLabel {
    store: String,
    key: String,
    outcome: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ErrorLabel {
    store: String,
    class: &'static str,
    code: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct StateLabel {
    store: String,
    state: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct AuthorityLabel {
    store: String,
    authority: String,
}

impl Metrics {
    /// Adds the figures to what a process shows.
    pub fn register(&self, registry: &mut Registry) {
        let registry = registry.sub_registry_with_prefix("mintmark_key");
        let seconds = || Unit::Seconds;
        registry.register_with_unit(
            "queue",
            "time that a signature waited for the device",
            seconds(),
            self.waited.clone(),
        );
        registry.register_with_unit(
            "sign",
            "time that the device took for a signature",
            seconds(),
            self.signed.clone(),
        );
        registry.register("signatures", "signatures asked for, by outcome", self.outcomes.clone());
        registry.register(
            "errors",
            "errors of the device, by class and its own code",
            self.errors.clone(),
        );
        registry.register("retries", "signatures tried again", self.retries.clone());
        registry.register(
            "wrong_signatures",
            "signatures that did not verify and were not released",
            self.wrong.clone(),
        );
        registry.register("sessions", "sessions with the device, by state", self.sessions.clone());
        registry.register(
            "sessions_opened",
            "sessions opened, the first ones and those after a fault",
            self.opened.clone(),
        );
        registry.register(
            "generation",
            "how often the module was initialised; more than 1 after a recovery",
            self.generation.clone(),
        );
        registry.register("throttled", "requests that the KMS throttled", self.throttled.clone());
        registry.register(
            "rate_limit",
            "requests per second that we allow ourselves now",
            self.rate.clone(),
        );
        registry.register(
            "healthy",
            "1 if the last probe was signed and verified, 0 if not",
            self.healthy.clone(),
        );
        registry.register(
            "usable",
            "1 if the key's last probe was signed and verified, 0 if not",
            self.usable.clone(),
        );
        registry.register(
            "prepared",
            "keys that were prepared and not yet taken",
            self.prepared.clone(),
        );
    }

    /// The figures of one store, by the name of its section in the configuration.
    #[must_use]
    pub fn store(&self, name: &str) -> StoreMetrics {
        StoreMetrics { all: self.clone(), label: StoreLabel { store: name.to_owned() } }
    }
}

/// The figures of one store.
#[derive(Debug, Clone)]
pub struct StoreMetrics {
    all: Metrics,
    label: StoreLabel,
}

impl Default for StoreMetrics {
    /// Counted and shown nowhere: for tools and tests.
    fn default() -> Self {
        Metrics::default().store("")
    }
}

impl StoreMetrics {
    /// The figures of one key.
    pub(crate) fn key(&self, name: &KeyName) -> KeyMetrics {
        let label = KeyLabel { store: self.label.store.clone(), key: name.to_string() };
        let outcome = |outcome| {
            let (store, key) = (label.store.clone(), label.key.clone());
            self.all.outcomes.get_or_create_owned(&OutcomeLabel { store, key, outcome })
        };
        let usable = self.all.usable.get_or_create_owned(&label);
        // It is found by a signature; what comes of it, the probes tell.
        usable.set(1);
        KeyMetrics {
            usable,
            waited: self.all.waited.get_or_create_owned(&self.label),
            signed: self.all.signed.get_or_create_owned(&label),
            wrong: self.all.wrong.get_or_create_owned(&label),
            retries: self.all.retries.get_or_create_owned(&self.label),
            done: outcome("signed"),
            abandoned: outcome("abandoned"),
            busy: outcome("busy"),
            late: outcome("late"),
            unavailable: outcome("unavailable"),
            refused: outcome("refused"),
            wrong_twice: outcome("wrong"),
            malformed: outcome("malformed"),
        }
    }

    /// An error of the device, by its class (what helps against it) and its own code.
    pub(crate) fn error(&self, class: &'static str, code: &str) {
        let (store, code) = (self.label.store.clone(), code.to_owned());
        self.all.errors.get_or_create(&ErrorLabel { store, class, code }).inc();
    }

    /// Sessions in that state.
    pub(crate) fn sessions(&self, state: &'static str) -> Gauge {
        let store = self.label.store.clone();
        self.all.sessions.get_or_create_owned(&StateLabel { store, state })
    }

    /// A session was opened.
    pub(crate) fn session_opened(&self) {
        self.all.opened.get_or_create(&self.label).inc();
    }

    /// The module has been initialised so often.
    pub(crate) fn generation(&self, generation: u64) {
        let generation = i64::try_from(generation).unwrap_or(i64::MAX);
        self.all.generation.get_or_create(&self.label).set(generation);
    }

    /// The KMS throttled a request.
    #[cfg(any(feature = "aws-kms", feature = "transit"))]
    pub(crate) fn throttled(&self) {
        self.all.throttled.get_or_create(&self.label).inc();
    }

    /// So many requests per second are allowed now.
    #[cfg(any(feature = "aws-kms", feature = "transit"))]
    pub(crate) fn rate_limit(&self, per_second: u64) {
        let per_second = i64::try_from(per_second).unwrap_or(i64::MAX);
        self.all.rate.get_or_create(&self.label).set(per_second);
    }

    /// Whether the last probe was signed and verified.
    pub(crate) fn healthy(&self, healthy: bool) {
        self.all.healthy.get_or_create(&self.label).set(healthy.into());
    }

    /// How many keys of an authority (`x509` or `jwt`) are prepared and not yet taken.
    pub fn prepared(&self, authority: &str, count: usize) {
        let label =
            AuthorityLabel { store: self.label.store.clone(), authority: authority.to_owned() };
        self.all.prepared.get_or_create(&label).set(i64::try_from(count).unwrap_or(i64::MAX));
    }
}

/// The figures of one key, looked up once.
#[derive(Debug, Clone)]
pub(crate) struct KeyMetrics {
    usable: Gauge,
    waited: Durations,
    signed: Durations,
    wrong: Counter,
    retries: Counter,
    done: Tally,
    abandoned: Tally,
    busy: Tally,
    late: Tally,
    unavailable: Tally,
    refused: Tally,
    wrong_twice: Tally,
    malformed: Tally,
}

impl KeyMetrics {
    /// A job left the queue after so long.
    pub(crate) fn waited(&self, time: Duration) {
        self.waited.observe(time);
    }

    /// The device signed, and took so long.
    pub(crate) fn signed(&self, time: Duration) {
        self.signed.observe(time);
    }

    /// Whether its last probe was signed and verified.
    pub(crate) fn usable(&self, usable: bool) {
        self.usable.set(usable.into());
    }

    /// A signature did not verify.
    pub(crate) fn wrong(&self) {
        self.wrong.inc();
    }

    /// A signature is tried again.
    pub(crate) fn retried(&self) {
        self.retries.inc();
    }

    /// Nobody waited for a signature any more, and it was not made.
    pub(crate) fn abandoned(&self) {
        self.abandoned.inc();
    }

    /// What a caller got.
    pub(crate) fn answered<T>(&self, answer: &Result<T, SignError>) {
        match answer {
            Ok(_) => &self.done,
            Err(SignError::Busy { .. }) => &self.busy,
            Err(SignError::Late { .. }) => &self.late,
            Err(SignError::Unavailable { .. }) => &self.unavailable,
            Err(SignError::Refused { .. }) => &self.refused,
            Err(SignError::Wrong { .. }) => &self.wrong_twice,
            Err(SignError::Malformed { .. }) => &self.malformed,
        }
        .inc();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_figure_is_shown_with_its_store() {
        let (metrics, mut registry) = (Metrics::default(), Registry::default());
        metrics.register(&mut registry);
        let store = metrics.store("hsm");
        let key = store.key(&KeyName::parse("mintmark/a.test/x509/1").unwrap());
        key.answered(&Ok(()));
        key.waited(Duration::from_micros(20));
        store.error("session", "CKR_SESSION_HANDLE_INVALID");
        store.prepared("x509", 3);
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &registry).unwrap();
        for line in [
            "mintmark_key_signatures_total{store=\"hsm\",key=\"mintmark/a.test/x509/1\",outcome=\"signed\"} 1",
            "mintmark_key_queue_seconds_count{store=\"hsm\"} 1",
            "mintmark_key_errors_total{store=\"hsm\",class=\"session\",code=\"CKR_SESSION_HANDLE_INVALID\"} 1",
            "mintmark_key_prepared{store=\"hsm\",authority=\"x509\"} 3",
        ] {
            assert!(text.contains(line), "{line} is not in:\n{text}");
        }
    }
}
