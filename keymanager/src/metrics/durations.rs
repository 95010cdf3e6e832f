//! A histogram that threads count in without meeting.
//!
//! A signature of a soft token takes as long as a dozen cache lines need between cores. The library's
//! histogram is one mutex for all; here each thread counts in a shard that hardly another thread touches.

use std::cell::Cell;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use prometheus_client::encoding::{EncodeMetric, MetricEncoder, NoLabelSet};
use prometheus_client::metrics::{MetricType, TypedMetric};

/// The upper bound of the first bucket in nanoseconds; each next one is twice as wide.
const FIRST: u64 = 16_000;
/// Up to half a second: a soft token to an HSM in trouble.
const BUCKETS: usize = 16;
/// Enough that few signing threads share one.
pub(super) const SHARDS: usize = 16;

/// Counts durations. Clones share the counts.
#[derive(Debug, Clone, Default)]
pub(crate) struct Durations(Arc<[Shard; SHARDS]>);

/// Cores fetch lines of 64 bytes in pairs.
#[derive(Debug, Default)]
#[repr(align(128))]
struct Shard {
    /// The last counts what is beyond the widest.
    buckets: [AtomicU64; BUCKETS + 1],
    nanoseconds: AtomicU64,
}

impl Durations {
    /// Counts one.
    pub(crate) fn observe(&self, duration: Duration) {
        let nanoseconds = u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX);
        let shard = &self.0[this_thread()];
        shard.buckets[bucket(nanoseconds)].fetch_add(1, Ordering::Relaxed);
        shard.nanoseconds.fetch_add(nanoseconds, Ordering::Relaxed);
    }

    /// How many are in each bucket, and the sum in nanoseconds.
    fn sum(&self) -> ([u64; BUCKETS + 1], u64) {
        let mut counts = [0; BUCKETS + 1];
        let mut nanoseconds = 0_u64;
        for shard in &*self.0 {
            for (count, bucket) in counts.iter_mut().zip(&shard.buckets) {
                *count += bucket.load(Ordering::Relaxed);
            }
            nanoseconds = nanoseconds.wrapping_add(shard.nanoseconds.load(Ordering::Relaxed));
        }
        (counts, nanoseconds)
    }
}

/// The narrowest bucket that holds a duration.
fn bucket(nanoseconds: u64) -> usize {
    let times_first = nanoseconds.div_ceil(FIRST).max(1);
    let doublings = times_first.next_power_of_two().trailing_zeros();
    BUCKETS.min(doublings as usize)
}

/// The shard of this thread: threads take them in turn.
pub(super) fn this_thread() -> usize {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    thread_local! {
        static SHARD: Cell<usize> = Cell::new(NEXT.fetch_add(1, Ordering::Relaxed) % SHARDS);
    }
    SHARD.get()
}

impl TypedMetric for Durations {
    const TYPE: MetricType = MetricType::Histogram;
}

impl EncodeMetric for Durations {
    fn encode(&self, mut encoder: MetricEncoder<'_>) -> Result<(), fmt::Error> {
        let (counts, nanoseconds) = self.sum();
        let bounds = (0..BUCKETS).map(|doublings| (FIRST << doublings) as f64 / 1e9);
        let bounds = bounds.chain([f64::MAX]);
        let buckets: Vec<(f64, u64)> = bounds.zip(counts).collect();
        let sum = nanoseconds as f64 / 1e9;
        encoder.encode_histogram::<NoLabelSet>(sum, counts.iter().sum(), &buckets, None)
    }

    fn metric_type(&self) -> MetricType {
        Self::TYPE
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_duration_falls_in_the_narrowest_bucket_that_holds_it() {
        for (nanoseconds, expected) in [
            (0, 0),
            (1, 0),
            (16_000, 0),
            (16_001, 1),
            (32_000, 1),
            (32_001, 2),
            (FIRST << 15, 15),
            ((FIRST << 15) + 1, 16),
            (u64::MAX, 16),
        ] {
            assert_eq!(bucket(nanoseconds), expected, "{nanoseconds} ns");
        }
    }

    #[test]
    fn what_many_threads_count_is_all_there() {
        let durations = Durations::default();
        std::thread::scope(|scope| {
            for _ in 0..2 * SHARDS {
                scope
                    .spawn(|| (0..1000).for_each(|_| durations.observe(Duration::from_micros(20))));
            }
        });
        let (counts, nanoseconds) = durations.sum();
        assert_eq!((counts[1], counts.iter().sum::<u64>()), (32_000, 32_000));
        assert_eq!(nanoseconds, 32_000 * 20_000);
    }
}
