//! What became of each request: counted while a run lasts, shown when it is over.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use hdrhistogram::Histogram;
use serde::{Serialize, Serializer};

use crate::client::Fault;
use crate::pace::Departure;
use crate::plan::Plan;

/// What the sending side did.
#[derive(Debug)]
pub struct Departures {
    offered: u64,
    dropped: u64,
    lateness: Histogram<u64>,
}

impl Departures {
    /// Nothing has left.
    #[must_use]
    pub fn new() -> Self {
        Self { offered: 0, dropped: 0, lateness: spans() }
    }

    /// Counts a request whose time has come; if not `sent`, there was no slot for it.
    pub fn record(&mut self, departure: &Departure, sent: bool) {
        self.offered += 1;
        self.dropped += u64::from(!sent);
        record(&mut self.lateness, departure.actual.saturating_sub(departure.intended));
    }
}

impl Default for Departures {
    fn default() -> Self {
        Self::new()
    }
}

/// What came back.
#[derive(Debug)]
pub struct Answers {
    latency: Histogram<u64>,
    last: Duration,
    errors: BTreeMap<&'static str, (u64, String)>,
}

impl Answers {
    /// Nothing has come back.
    #[must_use]
    pub fn new() -> Self {
        Self { latency: spans(), last: Duration::ZERO, errors: BTreeMap::new() }
    }

    /// Counts the end at `now` of a request that should have been sent at `intended`.
    pub fn record(&mut self, intended: Duration, now: Duration, outcome: Result<(), Fault>) {
        match outcome {
            Ok(()) => {
                record(&mut self.latency, now.saturating_sub(intended));
                self.last = self.last.max(now);
            }
            Err(Fault { code, message }) => {
                self.errors.entry(code).or_insert_with(|| (0, one_line(&message))).0 += 1;
            }
        }
    }
}

impl Default for Answers {
    fn default() -> Self {
        Self::new()
    }
}

/// The result of a run. `offered = sent + dropped` and `sent = ok + errors`.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    /// What was to be done.
    pub plan: Plan,
    /// Requests whose time came.
    pub offered: u64,
    /// Those that were sent.
    pub sent: u64,
    /// Those that were not, because as many as allowed were under way.
    pub dropped: u64,
    /// Those that were answered with an SVID.
    pub ok: u64,
    /// Those that were sent and got none, by code.
    pub errors: Vec<Errors>,
    /// SVIDs per second, from the start to the last of them or to the planned end, whichever is later.
    pub achieved_rate: f64,
    /// From the intended time of a request to its SVID. What was dropped or failed is not in it.
    #[serde(rename = "latency_ms")]
    pub latency: Spread,
    /// How long after its intended time the generator came to each request, sent or dropped. It is part
    /// of the latency, and the generator's own doing.
    #[serde(rename = "lateness_ms")]
    pub lateness: Spread,
}

/// Requests that failed alike.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Errors {
    /// [`Fault::code`].
    pub code: &'static str,
    /// How many.
    pub count: u64,
    /// What was said of the first.
    pub first: String,
}

/// Where the spans of a run lie. A quantile is absent when there are too few of them to tell it from the
/// maximum: p99.9 takes a thousand.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Spread {
    /// Half are no longer.
    #[serde(serialize_with = "milliseconds")]
    pub p50: Option<Duration>,
    /// Nine of ten are no longer.
    #[serde(serialize_with = "milliseconds")]
    pub p90: Option<Duration>,
    /// All but one of a hundred are no longer.
    #[serde(serialize_with = "milliseconds")]
    pub p99: Option<Duration>,
    /// All but one of a thousand are no longer.
    #[serde(rename = "p99.9", serialize_with = "milliseconds")]
    pub p999: Option<Duration>,
    /// The longest.
    #[serde(serialize_with = "milliseconds")]
    pub max: Option<Duration>,
}

impl Report {
    /// Adds up a run in which nothing is under way any more.
    #[must_use]
    pub fn new(plan: &Plan, departures: &Departures, answers: &Answers) -> Self {
        let ok = answers.latency.len();
        Self {
            plan: plan.clone(),
            offered: departures.offered,
            sent: departures.offered - departures.dropped,
            dropped: departures.dropped,
            ok,
            errors: answers
                .errors
                .iter()
                .map(|(code, (count, first))| Errors { code, count: *count, first: first.clone() })
                .collect(),
            achieved_rate: rate(ok, answers.last.max(plan.duration)),
            latency: Spread::of(&answers.latency),
            lateness: Spread::of(&departures.lateness),
        }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut row = |name: &str, value: &dyn fmt::Display| writeln!(f, "{name:<20}{value}");
        row("Asked for", &self.plan)?;
        row("Offered", &self.offered)?;
        row("Sent", &self.sent)?;
        row("Dropped", &self.dropped)?;
        row("Ok", &self.ok)?;
        row("Errors", &self.errors.iter().map(|errors| errors.count).sum::<u64>())?;
        for Errors { code, count, first } in &self.errors {
            row(&format!("  {code}"), &format_args!("{count}, the first: {first}"))?;
        }
        row("Achieved rate", &format_args!("{:.1}/s", self.achieved_rate))?;
        row("Latency", &self.latency)?;
        row("Sent late by", &self.lateness)
    }
}

impl Spread {
    fn of(spans: &Histogram<u64>) -> Self {
        let count = spans.len();
        let quantile = |quantile: f64, least: u64| {
            (count >= least).then(|| Duration::from_nanos(spans.value_at_quantile(quantile)))
        };
        Self {
            p50: quantile(0.5, 2),
            p90: quantile(0.9, 10),
            p99: quantile(0.99, 100),
            p999: quantile(0.999, 1_000),
            max: quantile(1.0, 1),
        }
    }
}

impl fmt::Display for Spread {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { p50, p90, p99, p999, max } = self;
        for (name, span) in [("p50", p50), ("p90", p90), ("p99", p99), ("p99.9", p999)] {
            write!(f, "{name} {}, ", Milliseconds(*span))?;
        }
        write!(f, "max {}", Milliseconds(*max))
    }
}

/// A span for people, to the microsecond.
struct Milliseconds(Option<Duration>);

impl fmt::Display for Milliseconds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(span) => write!(f, "{:.3} ms", span.as_secs_f64() * 1e3),
            None => f.write_str("-"),
        }
    }
}

/// To the microsecond, as people see it.
fn milliseconds<S: Serializer>(span: &Option<Duration>, serializer: S) -> Result<S::Ok, S::Error> {
    span.map(|span| (span.as_secs_f64() * 1e6).round() / 1e3).serialize(serializer)
}

/// Nanoseconds, with an error of at most a thousandth, up to [`LONGEST`].
fn spans() -> Histogram<u64> {
    Histogram::new_with_bounds(1, LONGEST, 3).expect("the bounds are in order")
}

/// Longer spans count as this: one hour, far beyond what any request may take.
const LONGEST: u64 = 3_600_000_000_000;

fn record(spans: &mut Histogram<u64>, span: Duration) {
    spans.saturating_record(u64::try_from(span.as_nanos()).unwrap_or(LONGEST));
}

#[expect(clippy::cast_precision_loss, reason = "a rate is shown with one decimal")]
fn rate(count: u64, span: Duration) -> f64 {
    count as f64 / span.as_secs_f64()
}

/// Most characters of a message that are kept.
const LONGEST_MESSAGE: usize = 200;

/// A message as one line of a table, whatever a server puts into it.
fn one_line(message: &str) -> String {
    message
        .chars()
        .take(LONGEST_MESSAGE)
        .map(|character| if character.is_control() { ' ' } else { character })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::Document;

    fn plan() -> Plan {
        Plan {
            socket: "/run/load.sock".into(),
            document: Document::JwtSvid,
            spiffe_id: "spiffe://load.test/web".parse().unwrap(),
            rate: 100,
            duration: Duration::from_secs(10),
            connections: 1,
            max_in_flight: 5,
        }
    }

    fn fault(code: &'static str, message: &str) -> Result<(), Fault> {
        Err(Fault { code, message: message.to_owned() })
    }

    fn milliseconds(count: u64) -> Duration {
        Duration::from_millis(count)
    }

    /// A thousand requests, 10 ms apart: 3 dropped, 7 failed, the rest answered after 1 to 990 ms.
    fn report() -> Report {
        let (mut departures, mut answers) = (Departures::new(), Answers::new());
        for index in 0..1_000 {
            let intended = milliseconds(10 * index);
            let actual = intended + milliseconds(u64::from(index == 500) * 40);
            departures.record(&Departure { index, intended, actual }, index < 997);
            match index {
                0..990 => answers.record(intended, intended + milliseconds(index + 1), Ok(())),
                990 => {
                    answers.record(intended, actual, fault("INTERNAL", "first\nof \u{1b}[31mone"))
                }
                991..997 => answers.record(intended, actual, fault("UNAVAILABLE", "busy")),
                _ => {}
            }
        }
        Report::new(&plan(), &departures, &answers)
    }

    #[test]
    fn every_request_is_accounted_for() {
        let report = report();
        assert_eq!((report.offered, report.sent, report.dropped, report.ok), (1_000, 997, 3, 990));
        let errors = report.errors.iter().map(|errors| (errors.code, errors.count));
        assert_eq!(errors.collect::<Vec<_>>(), [("INTERNAL", 1), ("UNAVAILABLE", 6)]);
        assert_eq!(report.errors[0].first, "first of  [31mone");
    }

    #[test]
    fn quantiles_are_right_to_a_thousandth() {
        let latency = report().latency;
        for (span, expected) in [(latency.p50, 495.0), (latency.p90, 891.0), (latency.max, 990.0)] {
            let found = span.unwrap().as_secs_f64() * 1e3;
            assert!((found / expected - 1.0).abs() <= 0.001, "{found} instead of {expected}");
        }
    }

    #[test]
    fn a_quantile_of_too_few_spans_is_absent() {
        let report = report();
        assert_eq!(report.latency.p999, None);
        assert!(report.lateness.p999.is_some());
        let nothing = Report::new(&plan(), &Departures::new(), &Answers::new());
        assert_eq!((nothing.latency.p50, nothing.latency.max), (None, None));
        assert!(nothing.to_string().contains("p50 -, p90 -, p99 -, p99.9 -, max -"));
    }

    #[test]
    fn the_achieved_rate_counts_the_wait_for_the_last_svid() {
        // The last is asked for at 9.89 s and answered 0.99 s later.
        assert!((report().achieved_rate - 990.0 / 10.88).abs() < 1e-9);
        let mut answers = Answers::new();
        answers.record(Duration::ZERO, milliseconds(1), Ok(()));
        // Answers that come early do not make a run shorter than planned.
        let short = Report::new(&plan(), &Departures::new(), &answers);
        assert!((short.achieved_rate - 0.1).abs() < 1e-9);
    }

    #[test]
    fn errors_are_not_in_the_latency() {
        let mut answers = Answers::new();
        answers.record(Duration::ZERO, milliseconds(30_000), fault("unanswered", "no answer"));
        let report = Report::new(&plan(), &Departures::new(), &answers);
        assert_eq!((report.ok, report.latency.max, report.errors[0].count), (0, None, 1));
    }

    #[test]
    fn a_span_beyond_all_bounds_is_kept_at_the_bound() {
        let mut answers = Answers::new();
        answers.record(Duration::ZERO, Duration::MAX, Ok(()));
        let report = Report::new(&plan(), &Departures::new(), &answers);
        assert!(report.latency.max.unwrap() >= Duration::from_nanos(LONGEST));
    }

    #[test]
    fn people_and_programs_read_the_same_figures() {
        let report = report();
        let table = report.to_string();
        assert!(table.contains("Dropped             3\n"), "{table}");
        assert!(table.contains("  UNAVAILABLE       6, the first: busy\n"), "{table}");
        assert!(table.contains("p99.9 -, max 990."), "{table}");
        let json = serde_json::to_value(&report).unwrap();
        assert_eq!(json["plan"]["spiffe_id"], "spiffe://load.test/web");
        assert_eq!(json["plan"]["duration_seconds"], 10.0);
        assert_eq!((&json["dropped"], &json["ok"]), (&3.into(), &990.into()));
        assert!(json["latency_ms"]["p99.9"].is_null());
        assert!((json["lateness_ms"]["max"].as_f64().unwrap() / 40.0 - 1.0).abs() <= 0.001);
    }
}
