//! What the pipeline counts, for those who run it.

use std::time::Duration;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::{Registry, Unit};

use super::admission::{Class, Refused};

type Histograms<L> = Family<L, Histogram, fn() -> Histogram>;

/// The counters of a pipeline, one set for each of its queues. Clones share them.
#[derive(Debug, Clone)]
pub struct PipelineMetrics {
    asked: Family<Outcome, Counter>,
    waited: Histograms<Waited>,
    batches: Histograms<Signer>,
    under_way: Family<Signer, Gauge>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Signer {
    signer: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Waited {
    signer: &'static str,
    class: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Outcome {
    signer: &'static str,
    class: &'static str,
    outcome: &'static str,
}

impl Default for PipelineMetrics {
    fn default() -> Self {
        // From 50 µs to 26 s, and from 1 to 512.
        let waits: fn() -> Histogram = || Histogram::new(exponential_buckets(0.000_05, 2.0, 20));
        let sizes: fn() -> Histogram = || Histogram::new(exponential_buckets(1.0, 2.0, 10));
        Self {
            asked: Family::default(),
            waited: Family::new_with_constructor(waits),
            batches: Family::new_with_constructor(sizes),
            under_way: Family::default(),
        }
    }
}

impl PipelineMetrics {
    /// Adds the figures to what a process shows.
    pub fn register(&self, registry: &mut Registry) {
        let registry = registry.sub_registry_with_prefix("mintmark_mint");
        registry.register(
            "requests",
            "what was asked for, by the key that signs, by class and by what became of it",
            self.asked.clone(),
        );
        registry.register_with_unit(
            "queue",
            "time that a request waited for its turn",
            Unit::Seconds,
            self.waited.clone(),
        );
        registry.register("batch_size", "requests that were minted together", self.batches.clone());
        registry.register("under_way", "requests that are being minted", self.under_way.clone());
    }

    pub(super) fn lane(&self, signer: &'static str) -> LaneMetrics {
        let of_class = |class: Class| {
            let name = class.priority().name();
            let outcome = |outcome| {
                let label = Outcome { signer, class: name, outcome };
                self.asked.get_or_create(&label).clone()
            };
            ClassMetrics {
                admitted: outcome("admitted"),
                released: outcome("released"),
                failed: outcome("failed"),
                full: outcome("refused: full"),
                budget: outcome("refused: budget of the caller"),
                too_big: outcome("refused: too big"),
                late: outcome("refused: late"),
                closed: outcome("refused: stopping"),
                waited: self.waited.get_or_create(&Waited { signer, class: name }).clone(),
            }
        };
        LaneMetrics {
            signer,
            classes: Class::ALL.map(of_class),
            batches: self.batches.get_or_create(&Signer { signer }).clone(),
            under_way: self.under_way.get_or_create(&Signer { signer }).clone(),
        }
    }
}

/// The counters of one queue, found once.
#[derive(Debug)]
pub(super) struct LaneMetrics {
    signer: &'static str,
    classes: [ClassMetrics; Class::ALL.len()],
    batches: Histogram,
    under_way: Gauge,
}

#[derive(Debug)]
struct ClassMetrics {
    admitted: Counter,
    released: Counter,
    failed: Counter,
    full: Counter,
    budget: Counter,
    too_big: Counter,
    late: Counter,
    closed: Counter,
    waited: Histogram,
}

impl LaneMetrics {
    pub(super) fn signer(&self) -> &'static str {
        self.signer
    }

    pub(super) fn admitted(&self, class: Class, items: usize) {
        self.classes[class as usize].admitted.inc_by(items as u64);
    }

    pub(super) fn refused(&self, class: Class, refused: &Refused, items: usize) {
        let class = &self.classes[class as usize];
        let counter = match refused {
            Refused::Full(_) => &class.full,
            Refused::Budget(_) => &class.budget,
            Refused::TooBig => &class.too_big,
            Refused::Late => &class.late,
            Refused::Closed => &class.closed,
        };
        counter.inc_by(items as u64);
    }

    pub(super) fn waited(&self, class: Class, waited: Duration) {
        self.classes[class as usize].waited.observe(waited.as_secs_f64());
    }

    pub(super) fn batch(&self, items: usize) {
        self.batches.observe(items as f64);
    }

    pub(super) fn under_way(&self, items: usize) {
        self.under_way.set(i64::try_from(items).unwrap_or(i64::MAX));
    }

    pub(super) fn answered(&self, class: Class, released: usize, failed: usize) {
        let class = &self.classes[class as usize];
        class.released.inc_by(released as u64);
        class.failed.inc_by(failed as u64);
    }
}
