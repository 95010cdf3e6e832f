//! What was refused, to whom and why: a line each, as long as they are few.
//!
//! A client in a loop is refused thousands of times a second. So each kind of reason has its own bound: what is
//! beyond it is counted, and the count is told with the next line of that kind, at shutdown, and as a metric.

use std::fmt::Display;
use std::net::SocketAddr;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use ca_core::excerpt::Excerpt;
use ca_core::id::SpiffeId;
use ca_core::log::Caller;

use crate::metrics::ServiceMetrics;
use crate::status::{Failure, Kind};

/// The target of the lines: whoever filters the log lets it pass at every level.
pub const TARGET: &str = "mintmark::audit";

/// Once a burst is over, a line of a kind is let through this often.
const EVERY: Duration = Duration::from_millis(100);
/// So many lines of a kind may come at once.
const BURST: u32 = 50;

/// Writes down what was refused, and what failed.
pub(crate) struct Audit {
    /// By [`Kind`].
    buckets: [Mutex<Bucket>; Kind::ALL.len()],
    metrics: ServiceMetrics,
}

impl Audit {
    pub(crate) fn new(metrics: ServiceMetrics, now: Instant) -> Self {
        Self { buckets: Kind::ALL.map(|_| Mutex::new(Bucket::full(now))), metrics }
    }

    /// That `what` was not done for a caller. `id` says whom or what it was to be for, if that is known; it is
    /// asked only if there will be a line.
    pub(crate) fn refused(
        &self,
        caller: &Caller,
        what: &str,
        id: impl FnOnce() -> Option<Excerpt>,
        failure: &Failure,
        now: Instant,
    ) {
        let kind = failure.kind();
        let Some(suppressed) = self.bucket(kind, |bucket| bucket.take(now)) else {
            return self.metrics.suppressed(kind);
        };
        let id = id().map(tracing::field::display);
        let (kind, name) = (kind, kind.name());
        if kind == Kind::Failure {
            tracing::error!(%caller, asked = what, id, error = %failure, suppressed, "failed");
        } else {
            tracing::info!(
                target: TARGET, %caller, asked = what, id, kind = name, reason = %failure, suppressed, "refused"
            );
        }
    }

    /// That a peer of the signing listener was not let in, or was cut off. `id` is what its certificate says, once that
    /// is verified. Whoever shows none, or that of a workload, is a stranger: whatever they do, and anybody can do much,
    /// hides nothing of what front ends do.
    pub(crate) fn turned_away(
        &self,
        from: SocketAddr,
        id: Option<&SpiffeId>,
        reason: &dyn Display,
        now: Instant,
    ) {
        let kind = match id {
            Some(id) if id.is_of_service() => Kind::Connection,
            _ => Kind::Stranger,
        };
        self.metrics.turned_away(kind);
        let Some(suppressed) = self.bucket(kind, |bucket| bucket.take(now)) else {
            return self.metrics.suppressed(kind);
        };
        let id = id.map(|id| tracing::field::display(Excerpt::of(id.as_str())));
        tracing::info!(
            target: TARGET, %from, id, kind = kind.name(), %reason, suppressed, "turned away"
        );
    }

    /// Tells what was counted and has not been told.
    pub(crate) fn close(&self) {
        for kind in Kind::ALL {
            match self.bucket(kind, |bucket| std::mem::take(&mut bucket.suppressed)) {
                0 => {}
                suppressed if kind == Kind::Failure => {
                    tracing::error!(suppressed, "more has failed than there are lines of it");
                }
                suppressed => tracing::info!(
                    target: TARGET, kind = kind.name(), suppressed, "more was refused than there are lines of it"
                ),
            }
        }
    }

    fn bucket<T>(&self, kind: Kind, use_it: impl FnOnce(&mut Bucket) -> T) -> T {
        let bucket = &self.buckets[kind as usize];
        use_it(&mut bucket.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// How many lines of a kind may still come.
#[derive(Debug)]
struct Bucket {
    /// When a whole burst may come again, if nothing comes until then.
    full_at: Instant,
    /// Lines that were not written since the last that was.
    suppressed: u64,
}

impl Bucket {
    fn full(now: Instant) -> Self {
        Self { full_at: now, suppressed: 0 }
    }

    /// Whether a line may be written; how many were not before it.
    fn take(&mut self, now: Instant) -> Option<u64> {
        let full_at = self.full_at.max(now) + EVERY;
        if full_at.duration_since(now) > EVERY * BURST {
            self.suppressed += 1;
            return None;
        }
        self.full_at = full_at;
        Some(std::mem::take(&mut self.suppressed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_is_let_through_and_then_ten_lines_a_second() {
        let start = Instant::now();
        let mut bucket = Bucket::full(start);
        let mut through = |from: u64, count: u64| {
            let times =
                (from..from + count).map(|millisecond| start + Duration::from_millis(millisecond));
            let told: Vec<u64> = times.filter_map(|now| bucket.take(now)).collect();
            (told.len(), told.iter().sum::<u64>())
        };
        assert_eq!(through(0, 1), (1, 0));
        assert_eq!(through(0, 99), (49, 0), "the rest of the burst");
        assert_eq!(
            through(100, 1000),
            (10, 50 + 999 - 9 - 99),
            "the last hundred are not told yet"
        );
        assert_eq!(through(60_000, 1), (1, 99), "told with the next line, however late");
        assert_eq!(through(60_000, 100), (49, 0), "a whole burst again");
    }

    #[test]
    fn one_kind_does_not_hide_another() {
        let (metrics, now) = (ServiceMetrics::default(), Instant::now());
        let audit = Audit::new(metrics.clone(), now);
        for _ in 0..1000 {
            audit.refused(&Caller::Signer, "X509-SVID", || None, &Failure::CsrMissing, now);
        }
        let count = |kind| audit.bucket(kind, |bucket| bucket.suppressed);
        assert_eq!(count(Kind::Request), 950);
        for kind in Kind::ALL.into_iter().filter(|kind| *kind != Kind::Request) {
            assert_eq!(audit.bucket(kind, |bucket| bucket.take(now)), Some(0), "{kind:?}");
        }
        audit.close();
        assert_eq!(count(Kind::Request), 0, "told at the end");
    }

    #[test]
    fn a_flood_of_strangers_hides_no_front_end() {
        let now = Instant::now();
        let audit = Audit::new(ServiceMetrics::default(), now);
        let from = SocketAddr::from(([192, 0, 2, 1], 443));
        let id = |path: &str| SpiffeId::parse(&format!("spiffe://td.test{path}")).unwrap();
        let turn_away = |id: Option<&SpiffeId>| audit.turned_away(from, id, &"why", now);
        let count = |kind| audit.bucket(kind, |bucket| bucket.suppressed);
        for _ in 0..100 {
            turn_away(None);
            turn_away(Some(&id("/ns/web")));
        }
        assert_eq!((count(Kind::Stranger), count(Kind::Connection)), (150, 0));
        for _ in 0..50 {
            turn_away(Some(&id("/mintmark/frontend/one")));
        }
        assert_eq!(count(Kind::Connection), 0, "each has its line");
    }
}
