//! A counter that threads count in without meeting, for what happens with every signature.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use prometheus_client::encoding::{EncodeMetric, MetricEncoder, NoLabelSet};
use prometheus_client::metrics::{MetricType, TypedMetric};

use super::durations::{SHARDS, this_thread};

/// Counts. Clones share the count.
#[derive(Debug, Clone, Default)]
pub(crate) struct Tally(Arc<[Shard; SHARDS]>);

/// Cores fetch lines of 64 bytes in pairs.
#[derive(Debug, Default)]
#[repr(align(128))]
struct Shard(AtomicU64);

impl Tally {
    /// Counts one.
    pub(crate) fn inc(&self) {
        self.0[this_thread()].0.fetch_add(1, Ordering::Relaxed);
    }

    fn sum(&self) -> u64 {
        self.0.iter().map(|shard| shard.0.load(Ordering::Relaxed)).sum()
    }
}

impl TypedMetric for Tally {
    const TYPE: MetricType = MetricType::Counter;
}

impl EncodeMetric for Tally {
    fn encode(&self, mut encoder: MetricEncoder<'_>) -> Result<(), fmt::Error> {
        encoder.encode_counter::<NoLabelSet, _, u64>(&self.sum(), None)
    }

    fn metric_type(&self) -> MetricType {
        Self::TYPE
    }
}
