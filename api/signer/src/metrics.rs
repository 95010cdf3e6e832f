//! What the service counts, and says of itself, for whoever watches it (Prometheus).

use std::sync::atomic::AtomicU64;

use ca_core::clock::Timestamp;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::{Registry, Unit};

use crate::status::{Document, Failure, Kind};

/// The figures of the service. Clones share them; no label tells who asked, or for what.
#[derive(Debug, Clone)]
pub struct ServiceMetrics {
    svids: Family<SvidLabel, Counter>,
    issuing_key_end: Gauge,
    signed_by_authority: Gauge,
    suppressed: Family<KindLabel, Counter>,
    connections: Gauge,
    turned_away: Family<KindLabel, Counter>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct KindLabel {
    kind: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct SvidLabel {
    kind: &'static str,
    outcome: &'static str,
}

const MINTED: &str = "minted";
const REFUSED: &str = "refused";
const FAILED: &str = "failed";

impl Default for ServiceMetrics {
    fn default() -> Self {
        let svids = Family::<SvidLabel, Counter>::default();
        // From the first scrape on, so that the first failure is an increase.
        for document in [Document::X509Svid, Document::JwtSvid] {
            for outcome in [MINTED, REFUSED, FAILED] {
                drop(svids.get_or_create(&SvidLabel { kind: kind(document), outcome }));
            }
        }
        let suppressed = Family::<KindLabel, Counter>::default();
        for kind in Kind::ALL {
            drop(suppressed.get_or_create(&KindLabel { kind: kind.name() }));
        }
        let turned_away = Family::<KindLabel, Counter>::default();
        for kind in [Kind::Connection, Kind::Stranger] {
            drop(turned_away.get_or_create(&KindLabel { kind: kind.name() }));
        }
        Self {
            svids,
            issuing_key_end: Gauge::default(),
            signed_by_authority: Gauge::default(),
            suppressed,
            connections: Gauge::default(),
            turned_away,
        }
    }
}

impl ServiceMetrics {
    /// Adds the figures to what a process shows: its version, since when it runs, and what it minted.
    pub fn register(&self, registry: &mut Registry, version: &'static str, started: Timestamp) {
        registry.register(
            "mintmark_build",
            "the version of the program",
            Info::new([("version", version)]),
        );
        let start = Gauge::<u64, AtomicU64>::default();
        start.set(u64::try_from(started.unix()).unwrap_or_default());
        registry.register_with_unit(
            "process_start_time",
            "when the process started, since 1970 in UTC",
            Unit::Seconds,
            start,
        );
        registry.register(
            "mintmark_svids",
            "SVIDs asked for, by kind, and whether they were minted, refused to the caller, or failed \
             by our fault",
            self.svids.clone(),
        );
        registry.register(
            "mintmark_issuing_key_end_seconds",
            "until when the issuing key's certificate is valid, since 1970 in UTC; 0 if the authority's own key issues",
            self.issuing_key_end.clone(),
        );
        registry.register(
            "mintmark_signed_by_authority",
            "X509-SVIDs since the start that the authority's own key has signed because they live longer than \
             the issuing key's certificate",
            self.signed_by_authority.clone(),
        );
        registry.register(
            "mintmark_audit_suppressed",
            "refusals and failures of which no line was written because there were too many, by kind of reason",
            self.suppressed.clone(),
        );
        registry.register(
            "mintmark_signing_connections",
            "connections of front ends that are open at the signing listener",
            self.connections.clone(),
        );
        registry.register(
            "mintmark_signing_turned_away",
            "peers of the signing listener that were not let in, or cut off: those with the certificate of a front \
             end (connection), and all others (stranger)",
            self.turned_away.clone(),
        );
    }

    /// Until when the certificate of the key that issues is valid.
    pub fn issuing_key_until(&self, end: Timestamp) {
        self.issuing_key_end.set(end.unix());
    }

    /// How many SVIDs of a delegated server the authority's own key has signed so far.
    pub fn signed_by_authority(&self, count: u64) {
        self.signed_by_authority.set(i64::try_from(count).unwrap_or(i64::MAX));
    }

    /// An SVID was made and is handed over.
    pub(crate) fn minted(&self, document: Document) {
        self.count(document, MINTED);
    }

    /// So many SVIDs were made and are handed over.
    pub(crate) fn minted_many(&self, document: Document, count: u64) {
        if count > 0 {
            let label = SvidLabel { kind: kind(document), outcome: MINTED };
            self.svids.get_or_create(&label).inc_by(count);
        }
    }

    /// An SVID was not made.
    pub(crate) fn not_minted(&self, document: Document, failure: &Failure) {
        self.count(document, if failure.is_ours() { FAILED } else { REFUSED });
    }

    /// Something was refused, or failed, and no line is written of it.
    pub(crate) fn suppressed(&self, kind: Kind) {
        self.suppressed.get_or_create(&KindLabel { kind: kind.name() }).inc();
    }

    /// A front end was not let in or was cut off, or anybody else was not let in.
    pub(crate) fn turned_away(&self, kind: Kind) {
        self.turned_away.get_or_create(&KindLabel { kind: kind.name() }).inc();
    }

    /// A connection of a front end is open until that is dropped.
    pub(crate) fn connected(&self) -> Connected {
        self.connections.inc();
        Connected(self.connections.clone())
    }

    fn count(&self, document: Document, outcome: &'static str) {
        self.svids.get_or_create(&SvidLabel { kind: kind(document), outcome }).inc();
    }
}

/// A connection that is counted.
#[must_use]
pub(crate) struct Connected(Gauge);

impl Drop for Connected {
    fn drop(&mut self) {
        self.0.dec();
    }
}

fn kind(document: Document) -> &'static str {
    match document {
        Document::X509Svid => "x509",
        Document::JwtSvid => "jwt",
    }
}
