//! What the log counts, for those who run it: at each flush, never at each record.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use prometheus_client::encoding::{EncodeLabelSet, EncodeMetric, MetricEncoder};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::{Registry, Unit};

use super::tree::Head;
use super::{Durability, LogError};

/// The counters of a log. Clones share them.
#[derive(Debug, Clone)]
pub struct LogMetrics {
    entries: Gauge,
    unsigned: Unsigned,
    flushes: Histogram,
    flushed: Histogram,
    written: Counter,
    refused: Family<Reason, Counter>,
    durability: Family<Mode, Gauge>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Reason {
    reason: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Mode {
    mode: &'static str,
    /// How much may be lost; 0 if nothing.
    window_ms: u32,
}

const BUSY: &str = "busy";
const UNWRITABLE: &str = "unwritable";
const FAILED: &str = "failed";

impl Default for LogMetrics {
    fn default() -> Self {
        let refused = Family::<Reason, Counter>::default();
        // From the first scrape on, so that the first refusal is an increase.
        for reason in [BUSY, UNWRITABLE, FAILED] {
            drop(refused.get_or_create(&Reason { reason }));
        }
        Self {
            entries: Gauge::default(),
            unsigned: Unsigned::default(),
            // From 50 µs to 26 s, and from 1 to 32,768.
            flushes: Histogram::new(exponential_buckets(0.000_05, 2.0, 20)),
            flushed: Histogram::new(exponential_buckets(1.0, 2.0, 16)),
            written: Counter::default(),
            refused,
            durability: Family::default(),
        }
    }
}

impl LogMetrics {
    /// Adds the figures to what a process shows.
    pub fn register(&self, registry: &mut Registry) {
        let registry = registry.sub_registry_with_prefix("mintmark_log");
        registry.register(
            "entries",
            "entries of the newest tree whose records and hashes are on the disk",
            self.entries.clone(),
        );
        registry.register_with_unit(
            "unsigned",
            "for how long entries have waited for a signed head; 0 if none wait",
            Unit::Seconds,
            self.unsigned.clone(),
        );
        registry.register_with_unit(
            "flush",
            "time that the disk took for a flush",
            Unit::Seconds,
            self.flushes.clone(),
        );
        registry.register("flush_entries", "entries that a flush was for", self.flushed.clone());
        registry.register_with_unit(
            "written",
            "bytes of records",
            Unit::Bytes,
            self.written.clone(),
        );
        registry.register(
            "refused",
            "appends that were refused: the log was behind, the disk did not take them, or the log has failed",
            self.refused.clone(),
        );
        registry.register(
            "durability",
            "what it means that a record is taken, and after how many milliseconds it is on the disk; always 1",
            self.durability.clone(),
        );
    }

    /// For how long entries have waited for a signed head.
    #[must_use]
    pub fn unsigned_for(&self, now: Instant) -> Duration {
        self.unsigned.waited(now)
    }

    pub(super) fn opened(&self, durability: Durability) {
        let mode = match durability {
            Durability::Durable => Mode { mode: "durable", window_ms: 0 },
            Durability::Relaxed { window_ms } => Mode { mode: "relaxed", window_ms },
        };
        self.durability.get_or_create(&mode).set(1);
    }

    pub(super) fn kept(&self, head: Head) {
        self.entries.set(i64::try_from(head.size).unwrap_or(i64::MAX));
    }

    pub(super) fn wrote(&self, bytes: usize) {
        self.written.inc_by(bytes as u64);
    }

    /// A flush that began at `start` is done; the disk holds `size` entries, `entries` of them by this flush.
    pub(super) fn flushed(&self, start: Instant, now: Instant, entries: u64, size: u64) {
        self.flushes.observe(now.duration_since(start).as_secs_f64());
        self.flushed.observe(entries as f64);
        self.unsigned.flushed(size, now);
    }

    pub(super) fn signed(&self, size: u64, now: Instant) {
        self.unsigned.signed(size, now);
    }

    pub(super) fn refused(&self, error: &LogError, appends: usize) {
        let reason = match error {
            LogError::Busy => BUSY,
            LogError::Unwritable(_) => UNWRITABLE,
            // The server is stopping.
            LogError::Closed => return,
            LogError::Failed(_) => FAILED,
        };
        self.refused.get_or_create(&Reason { reason }).inc_by(appends as u64);
    }
}

/// Since when there are entries on the disk that no signed head covers. As a figure, the seconds since then.
#[derive(Debug, Clone, Default)]
struct Unsigned(Arc<Mutex<Waiting>>);

#[derive(Debug, Default)]
struct Waiting {
    flushed: u64,
    signed: u64,
    since: Option<Instant>,
}

impl Unsigned {
    fn flushed(&self, size: u64, now: Instant) {
        let mut waiting = self.lock();
        waiting.flushed = size;
        if size > waiting.signed {
            waiting.since.get_or_insert(now);
        }
    }

    /// Those that it does not cover came after the head before it, and count from now.
    fn signed(&self, size: u64, now: Instant) {
        let mut waiting = self.lock();
        waiting.signed = size;
        waiting.since = (waiting.flushed > size).then_some(now);
    }

    fn waited(&self, now: Instant) -> Duration {
        self.lock().since.map_or(Duration::ZERO, |since| now.saturating_duration_since(since))
    }

    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl EncodeMetric for Unsigned {
    fn encode(&self, mut encoder: MetricEncoder<'_>) -> fmt::Result {
        encoder.encode_gauge(&self.waited(Instant::now()).as_secs_f64())
    }

    fn metric_type(&self) -> MetricType {
        MetricType::Gauge
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_wait_from_their_flush_until_a_head_covers_them() {
        let (metrics, start) = (LogMetrics::default(), Instant::now());
        let at = |second| start + Duration::from_secs(second);
        let waited = |second| metrics.unsigned_for(at(second)).as_secs();
        assert_eq!(waited(5), 0, "nothing is there");
        metrics.flushed(at(5), at(10), 3, 3);
        metrics.flushed(at(11), at(12), 2, 5);
        assert_eq!(waited(15), 5, "since the first of them");
        metrics.signed(4, at(20));
        assert_eq!(waited(21), 1, "the fifth waits");
        metrics.signed(5, at(30));
        assert_eq!(waited(90), 0);
    }

    #[test]
    fn every_figure_is_described_and_there_from_the_start() {
        let (metrics, mut registry) = (LogMetrics::default(), Registry::default());
        metrics.register(&mut registry);
        metrics.opened(Durability::Relaxed { window_ms: 100 });
        metrics.wrote(7);
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &registry).unwrap();
        for line in [
            "mintmark_log_entries 0\n",
            "mintmark_log_unsigned_seconds 0.0\n",
            "mintmark_log_flush_seconds_count 0\n",
            "mintmark_log_flush_entries_sum 0",
            "mintmark_log_written_bytes_total 7\n",
            "mintmark_log_refused_total{reason=\"busy\"} 0\n",
            "mintmark_log_durability{mode=\"relaxed\",window_ms=\"100\"} 1\n",
        ] {
            assert!(text.contains(line), "{line} is not in {text}");
        }
    }
}
