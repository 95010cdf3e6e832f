//! The course of a part of a run: what happened in each window of it, gathered while it lasts.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::Duration;

use serde::Serialize;

use crate::check::Checker;
use crate::ledger::{Counts, Ledger, Page};
use crate::report::milliseconds;
use crate::usage::{Process, Usage};

/// What happened between two moments. Answers count where they came, not where they were asked for.
#[derive(Debug, Clone, Serialize)]
pub struct Window {
    /// From the start of the part.
    #[serde(rename = "start_seconds", serialize_with = "crate::plan::seconds")]
    pub start: Duration,
    /// The next one begins here.
    #[serde(rename = "end_seconds", serialize_with = "crate::plan::seconds")]
    pub end: Duration,
    /// Requests whose time came.
    pub offered: u64,
    /// Those that were not sent.
    pub dropped: u64,
    /// SVIDs that came.
    pub ok: u64,
    /// Requests that ended without one.
    pub errors: u64,
    /// The median of the latencies.
    #[serde(rename = "p50_ms", serialize_with = "milliseconds")]
    pub p50: Option<Duration>,
    /// All but one of a hundred were no longer; of fewer, the longest.
    #[serde(rename = "p99_ms", serialize_with = "milliseconds")]
    pub p99: Option<Duration>,
    /// The longest.
    #[serde(rename = "max_ms", serialize_with = "milliseconds")]
    pub max: Option<Duration>,
    /// The generator's share of the machine.
    pub client: Option<Share>,
    /// The server's.
    pub server: Option<Share>,
}

/// What a process had in a window.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Share {
    /// Cores that it kept busy.
    pub cores: f64,
    /// Memory at the end, bytes.
    pub resident_bytes: u64,
}

/// A part of a run from its first request to its last answer.
#[derive(Debug)]
pub struct Course {
    /// In order.
    pub windows: Vec<Window>,
    /// All that came back.
    pub total: Page,
    /// CPU time of the generator, checks left out.
    pub client: Option<Duration>,
    /// CPU time of the server.
    pub server: Option<Duration>,
}

/// Who looks at a part while it lasts.
#[derive(Debug)]
pub struct Watcher<'a> {
    /// The account that is watched.
    pub ledger: &'a Ledger,
    /// How long a window lasts.
    pub window: Duration,
    /// Whose CPU time is not the generator's.
    pub checker: Option<&'a Arc<Checker>>,
    /// The server, if it is on this machine.
    pub server: Option<&'a Process>,
}

/// What processes have taken so far.
#[derive(Debug, Clone, Copy)]
struct Readings {
    client: Option<Usage>,
    checks: Duration,
    server: Option<Usage>,
}

impl Watcher<'_> {
    /// Gathers windows and shows each to `glance`, until `over` closes.
    #[must_use]
    pub fn watch(&self, over: &Receiver<()>, mut glance: impl FnMut(&Window)) -> Course {
        let first = self.readings();
        let (mut before, mut counts) = (first, Counts::default());
        let (mut windows, mut total) = (Vec::<Window>::new(), Page::new());
        let (mut page, mut spare) = (Page::new(), Page::new());
        let mut start = Duration::ZERO;
        loop {
            let left = (start + self.window).saturating_sub(self.ledger.now());
            let open = matches!(over.recv_timeout(left), Err(RecvTimeoutError::Timeout));
            page.clear();
            self.ledger.gather(&mut spare, &mut page);
            let (readings, now) = (self.readings(), self.ledger.counts());
            // A late watcher makes a longer window; the rates in it stay right.
            let end =
                if open { self.ledger.now().max(start + self.window) } else { self.ledger.now() };
            let window = window(start..end, &page, (counts, now), (&before, &readings));
            glance(&window);
            windows.push(window);
            total.add(&page);
            (start, before, counts) = (end, readings, now);
            if !open {
                break;
            }
        }
        let (client, server) = spent(&first, &before);
        Course { windows, total, client, server }
    }

    fn readings(&self) -> Readings {
        Readings {
            client: Process::this().usage(),
            checks: self.checker.map_or(Duration::ZERO, |checker| checker.cpu()),
            server: self.server.and_then(Process::usage),
        }
    }
}

fn window(
    span: std::ops::Range<Duration>,
    page: &Page,
    (was, is): (Counts, Counts),
    (before, after): (&Readings, &Readings),
) -> Window {
    let quantile = |quantile| {
        (!page.latency.is_empty())
            .then(|| Duration::from_nanos(page.latency.value_at_quantile(quantile)))
    };
    let length = (span.end - span.start).as_secs_f64().max(1e-9);
    let (client, server) = spent(before, after);
    let share = |spent: Option<Duration>, usage: Option<Usage>| {
        let (spent, usage) = (spent?, usage?);
        let cores = (spent.as_secs_f64() / length * 1e3).round() / 1e3;
        Some(Share { cores, resident_bytes: usage.resident })
    };
    Window {
        start: span.start,
        end: span.end,
        offered: is.offered - was.offered,
        dropped: is.dropped - was.dropped,
        ok: page.latency.len(),
        errors: page.failures(),
        p50: quantile(0.5),
        p99: quantile(0.99),
        max: quantile(1.0),
        client: share(client, after.client),
        server: share(server, after.server),
    }
}

/// CPU time of generator and server between two moments.
fn spent(before: &Readings, after: &Readings) -> (Option<Duration>, Option<Duration>) {
    let between = |was: Option<Usage>, is: Option<Usage>| Some(is?.cpu.saturating_sub(was?.cpu));
    let checks = after.checks.saturating_sub(before.checks);
    let client = between(before.client, after.client).map(|cpu| cpu.saturating_sub(checks));
    (client, between(before.server, after.server))
}
