//! What became of each request, for people and for programs.

mod chart;
mod page;

use std::fmt;
use std::time::Duration;

use hdrhistogram::Histogram;
use serde::{Serialize, Serializer};

use crate::calibration::Calibration;
use crate::check::Findings;
use crate::course::Window;
use crate::plan::Plan;
use crate::run::Part;
use crate::shape::{Knee, Verdict};
use crate::target::Fault;

pub use page::page;

/// The result of a run.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    /// What was to be done.
    pub plan: Plan,
    /// Which loop it was: what the latency means hangs on it.
    #[serde(rename = "loop")]
    pub kind: Loop,
    /// The measurement; after a search for the knee, the one at half of it.
    #[serde(flatten)]
    pub measured: Measured,
    /// How the knee was looked for.
    pub knee: Option<KneeReport>,
    /// What the checks of all answers found, those of a warm-up and of steps included; none if nothing was
    /// to be checked.
    pub checks: Option<Findings>,
    /// How fast this machine signed and verified.
    pub calibration: Calibrations,
    /// The latency at ever rarer quantiles.
    pub spectrum: Vec<Point>,
    /// The measurement over time.
    pub windows: Vec<Window>,
}

/// When the next request is sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Loop {
    /// At its time.
    Open,
    /// When an earlier one is answered.
    Closed,
}

impl Loop {
    /// What the latency of this loop is, and is not.
    #[must_use]
    pub fn meaning(self) -> &'static str {
        match self {
            Self::Open => {
                "open loop: requests leave at fixed times whether or not earlier ones were answered; \
                 latency is from the intended time"
            }
            Self::Closed => {
                "closed loop: each caller waits for its answer before it asks again, so a stall is \
                 met by few requests and mostly hidden; latency is from the actual time"
            }
        }
    }
}

impl fmt::Display for Loop {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Open => "open",
            Self::Closed => "closed",
        })
    }
}

/// The figures of a part of a run. `offered = sent + dropped` and `sent = ok + errors`.
#[derive(Debug, Clone, Serialize)]
pub struct Measured {
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
    /// Requests per second whose time came.
    pub offered_rate: f64,
    /// SVIDs per second, from the start to the last of them or to the planned end, whichever is later.
    pub achieved_rate: f64,
    /// From the intended time of a request to its SVID. What was dropped or failed is not in it.
    #[serde(rename = "latency_ms")]
    pub latency: Spread,
    /// p99 of all whose time came, those that were dropped or failed being late for ever; absent if it is one of those.
    #[serde(rename = "offered_p99_ms", serialize_with = "milliseconds")]
    pub offered_p99: Option<Duration>,
    /// How long after its intended time the generator came to each request, sent or dropped. It is part
    /// of the latency, and the generator's own doing. None of a closed loop.
    #[serde(rename = "lateness_ms")]
    pub lateness: Option<Spread>,
    /// CPU time of the generator for each request that was sent, µs; checks left out.
    pub client_cpu_us_per_item: Option<f64>,
    /// CPU time of the server for each of them, µs; known on the same machine.
    pub server_cpu_us_per_item: Option<f64>,
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

/// The latency at one quantile.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Point {
    /// The part of the requests that took no longer.
    pub quantile: f64,
    /// How long.
    #[serde(rename = "ms", serialize_with = "millisecond")]
    pub span: Duration,
}

/// How the knee was looked for, and what was found.
#[derive(Debug, Clone, Serialize)]
pub struct KneeReport {
    /// The highest rate that the server followed; none if even the first was too high.
    pub knee: Option<u32>,
    /// Whether any rate was too high: if none was, the knee is higher than what was found.
    pub bounded: bool,
    /// The rate at which the search ended because the generator itself came too late, if it did: that is no limit of the
    /// server.
    pub generator_limit: Option<u32>,
    /// In the order in which they were tried.
    pub steps: Vec<Step>,
}

/// One rate that was tried.
#[derive(Debug, Clone, Serialize)]
pub struct Step {
    /// Requests per second.
    pub rate: u32,
    /// Why it was too high, if it was.
    pub too_high: Option<String>,
    /// Why it says nothing of the server, if it does not: then it was not too high either.
    pub void: Option<String>,
    /// What was measured.
    #[serde(flatten)]
    pub measured: Measured,
}

/// The speed of this machine before and after the run. If the two are far apart, the figures between them
/// are of a machine that did something else.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Calibrations {
    /// Before the first request.
    pub before: Calibration,
    /// After the last answer.
    pub after: Calibration,
}

impl Report {
    /// Adds up a run that is over.
    #[must_use]
    pub fn new(
        plan: &Plan,
        knee: Option<KneeReport>,
        part: Part,
        checks: Option<Findings>,
        calibration: Calibrations,
    ) -> Self {
        Self {
            plan: plan.clone(),
            kind: if plan.shape.is_closed() { Loop::Closed } else { Loop::Open },
            measured: Measured::of(&part),
            knee,
            checks,
            calibration,
            spectrum: spectrum(&part.course.total.latency),
            windows: part.course.windows,
        }
    }

    /// How many answers were found to be wrong.
    #[must_use]
    pub fn wrong_answers(&self) -> u64 {
        self.checks.as_ref().map_or(0, Findings::wrong_answers)
    }
}

impl Measured {
    /// The figures of `part`.
    #[must_use]
    pub fn of(part: &Part) -> Self {
        let (counts, total) = (part.counts, &part.course.total);
        let (ok, sent) = (total.latency.len(), counts.offered - counts.dropped);
        let mut errors: Vec<_> = total
            .errors
            .iter()
            .map(|(code, (count, first))| Errors { code, count: *count, first: first.clone() })
            .collect();
        // Whatever a target never came back with.
        let lost = sent.saturating_sub(ok + total.failures());
        if lost > 0 {
            let first = "the target said nothing until the end of the run".to_owned();
            errors.push(Errors { code: Fault::UNANSWERED, count: lost, first });
        }
        let per_item = |cpu: Option<Duration>| {
            cpu.filter(|_| sent > 0)
                .map(|cpu| (cpu.as_secs_f64() * 1e8 / float(sent)).round() / 1e2)
        };
        Self {
            offered: counts.offered,
            sent,
            dropped: counts.dropped,
            ok,
            errors,
            offered_rate: rate(counts.offered, part.planned),
            achieved_rate: rate(ok, total.last.max(part.planned)),
            latency: Spread::of(&total.latency),
            offered_p99: offered_p99(&total.latency, counts.offered),
            lateness: part.lateness.as_ref().map(Spread::of),
            client_cpu_us_per_item: per_item(part.course.client),
            server_cpu_us_per_item: per_item(part.course.server),
        }
    }

    /// How many got no SVID.
    #[must_use]
    pub fn failures(&self) -> u64 {
        self.errors.iter().map(|errors| errors.count).sum()
    }
}

impl Step {
    /// Whether `measured` is beyond what `knee` allows.
    #[must_use]
    pub fn judge(rate: u32, measured: Measured, knee: &Knee) -> Self {
        let mut too_high = too_high(&measured, knee);
        // What left late by so much would be slow, short or dropped whatever the server does.
        let late = measured.lateness.and_then(|late| late.p99.or(late.max)).unwrap_or_default();
        let void = too_high.take_if(|_| late >= knee.p99 / 2).map(|why| {
            let late = late.as_secs_f64() * 1e3;
            format!("the generator itself was late, p99 {late:.1} ms; {why}")
        });
        Self { rate, too_high, void, measured }
    }

    /// What the search makes of it.
    #[must_use]
    pub fn verdict(&self) -> Verdict {
        match (&self.void, &self.too_high) {
            (Some(_), _) => Verdict::Void,
            (None, Some(_)) => Verdict::TooHigh,
            (None, None) => Verdict::Followed,
        }
    }

    /// The same in words.
    #[must_use]
    pub fn words(&self) -> Option<String> {
        let void = self.void.as_deref().map(|why| format!("void, {why}"));
        void.or_else(|| self.too_high.as_deref().map(|why| format!("too high, {why}")))
    }
}

/// Why a rate was more than was followed: of what was asked for too much came late, and what never came is latest.
fn too_high(measured: &Measured, knee: &Knee) -> Option<String> {
    let short = 1.0 - measured.achieved_rate / measured.offered_rate;
    if short > knee.short_by {
        return Some(format!("{:.1} % short of what was offered", short * 100.0));
    }
    match measured.offered_p99 {
        Some(p99) if p99 <= knee.p99 => None,
        Some(p99) => Some(format!("p99 {:.1} ms is above {:?}", p99.as_secs_f64() * 1e3, knee.p99)),
        None => {
            let (dropped, failed) = (measured.dropped, measured.failures());
            Some(format!("p99 has no bound: {dropped} were dropped and {failed} failed"))
        }
    }
}

/// The hundredth part of `offered` may be later than this; of fewer than a hundred, none. What is not among `answered`
/// is later than all that is.
fn offered_p99(answered: &Histogram<u64>, offered: u64) -> Option<Duration> {
    let rank = offered - offered / 100;
    if rank == 0 || rank > answered.len() {
        return None;
    }
    // The middle of its place, so that rounding leads to no other.
    let quantile = (float(rank) - 0.5) / float(answered.len());
    Some(Duration::from_nanos(answered.value_at_quantile(quantile)))
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        row(f, "Asked for", &self.plan)?;
        row(f, "Loop", &self.kind.meaning())?;
        if let Some(knee) = &self.knee {
            write!(f, "{knee}")?;
        }
        write!(f, "{}", self.measured)?;
        match &self.checks {
            Some(checks) => write!(f, "{checks}")?,
            None => row(f, "Checked", &"nothing")?,
        }
        write!(f, "{}", self.calibration)
    }
}

fn row(f: &mut fmt::Formatter<'_>, name: &str, value: &dyn fmt::Display) -> fmt::Result {
    writeln!(f, "{name:<20}{value}")
}

impl fmt::Display for Measured {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        row(f, "Offered", &format_args!("{} ({:.1}/s)", self.offered, self.offered_rate))?;
        row(f, "Sent", &self.sent)?;
        row(f, "Dropped", &self.dropped)?;
        row(f, "Ok", &self.ok)?;
        row(f, "Errors", &self.failures())?;
        for Errors { code, count, first } in &self.errors {
            row(f, &format!("  {code}"), &format_args!("{count}, the first: {first}"))?;
        }
        row(f, "Achieved rate", &format_args!("{:.1}/s", self.achieved_rate))?;
        row(f, "Latency", &self.latency)?;
        match &self.lateness {
            Some(lateness) => row(f, "Sent late by", lateness)?,
            None => row(f, "Sent late by", &"-, a closed loop has no times to keep")?,
        }
        let (client, server) = (self.client_cpu_us_per_item, self.server_cpu_us_per_item);
        row(f, "CPU per item", &format_args!("client {}, server {}", Cpu(client), Cpu(server)))
    }
}

struct Cpu(Option<f64>);

impl fmt::Display for Cpu {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(cpu) => write!(f, "{cpu:.2} µs"),
            None => f.write_str("-"),
        }
    }
}

impl fmt::Display for KneeReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for step in &self.steps {
            let Step { rate, measured, .. } = step;
            let verdict = step.words().map(|words| format!(": {words}"));
            let p99 = Milliseconds(measured.latency.p99.or(measured.latency.max));
            row(
                f,
                &format!("Step {rate}/s"),
                &format_args!(
                    "achieved {:.1}/s, p99 {p99}{}",
                    measured.achieved_rate,
                    verdict.unwrap_or_default()
                ),
            )?;
        }
        row(f, "Knee", &self.verdict())
    }
}

impl KneeReport {
    /// What was found, in a few words.
    #[must_use]
    pub fn verdict(&self) -> String {
        if let Some(rate) = self.generator_limit {
            let knee = self.knee.map_or("not found".to_owned(), |knee| format!("above {knee}/s"));
            return format!(
                "{knee}; at {rate}/s the generator itself came too late, three times, which is its limit and not the \
                 server's; what follows is at half of what was followed"
            );
        }
        match (self.knee, self.bounded) {
            (Some(knee), true) => format!("{knee}/s; what follows is at half of it"),
            (Some(knee), false) => {
                format!(
                    "above {knee}/s, the highest that was tried; what follows is at half of that"
                )
            }
            (None, _) => "below the first step; what follows is at half of that".to_owned(),
        }
    }
}

impl fmt::Display for Findings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (checked, wrong) = (self.checked, self.wrong_answers());
        row(f, "Checked", &format_args!("{checked} answers, {wrong} of them wrong"))?;
        for wrong in &self.wrong {
            let name = format!("  wrong {}", wrong.what);
            row(f, &name, &format_args!("{}, the first: {}", wrong.count, wrong.first))?;
        }
        if self.skipped > 0 {
            row(f, "  not checked", &format_args!("{}, because too many waited", self.skipped))?;
        }
        Ok(())
    }
}

impl fmt::Display for Calibrations {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (name, Calibration { sign, verify }) in
            [("Raw P-256 before", self.before), ("Raw P-256 after", self.after)]
        {
            let (sign, verify) = (sign.as_secs_f64() * 1e6, verify.as_secs_f64() * 1e6);
            row(f, name, &format_args!("sign {sign:.1} µs, verify {verify:.1} µs"))?;
        }
        Ok(())
    }
}

impl Spread {
    /// Where `spans` lie, which are nanoseconds.
    #[must_use]
    pub fn of(spans: &Histogram<u64>) -> Self {
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

/// The quantiles at which a tenth, a hundredth, … of the requests is left, with some between them, as far as
/// there are requests to know them by.
fn spectrum(spans: &Histogram<u64>) -> Vec<Point> {
    const PER_TENTH: i32 = 8;
    let point = |quantile| Point {
        quantile,
        span: Duration::from_nanos(spans.value_at_quantile(quantile)),
    };
    let rarest = float(spans.len()).log10();
    (0..)
        .map(|place: i32| f64::from(place) / f64::from(PER_TENTH))
        .take_while(|tenths| *tenths <= rarest && !spans.is_empty())
        .map(|tenths| point(1.0 - 10_f64.powf(-tenths)))
        .collect()
}

/// To the microsecond, as people see it.
pub(crate) fn milliseconds<S: Serializer>(
    span: &Option<Duration>,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    span.map(|span| (span.as_secs_f64() * 1e6).round() / 1e3).serialize(serializer)
}

fn millisecond<S: Serializer>(span: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    milliseconds(&Some(*span), serializer)
}

fn rate(count: u64, span: Duration) -> f64 {
    float(count) / span.as_secs_f64()
}

#[expect(clippy::cast_precision_loss, reason = "shown with a few digits")]
fn float(count: u64) -> f64 {
    count as f64
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::course::Course;
    use crate::ledger::{Counts, Page, record, spans};
    use crate::plan::Settings;

    fn plan() -> Plan {
        let mut settings = Settings::default();
        let text =
            "[ask]\nwhat = \"jwt\"\nspiffe_id = \"spiffe://load.test/web\"\n[load]\nrate = 100";
        settings.read("p.toml".as_ref(), text).unwrap();
        Plan::check(settings).unwrap()
    }

    fn fault(code: &'static str, message: &str) -> Fault {
        Fault { code, message: message.to_owned() }
    }

    fn milliseconds(count: u64) -> Duration {
        Duration::from_millis(count)
    }

    /// What came of requests of which `dropped` were not sent, in 10 s.
    fn part(offered: u64, dropped: u64, total: Page) -> Part {
        let mut lateness = spans();
        for index in 0..offered {
            record(&mut lateness, milliseconds(u64::from(index == 500) * 40));
        }
        let counts = Counts { offered, dropped, in_flight: 0 };
        let (client, server) = (Some(milliseconds(50)), None);
        let course = Course { windows: Vec::new(), total, client, server };
        Part { counts, course, lateness: Some(lateness), planned: Duration::from_secs(10) }
    }

    /// A thousand requests, 10 ms apart: 3 dropped, 6 failed, 1 never answered, the rest answered after
    /// 1 to 990 ms.
    fn report() -> Report {
        let mut total = Page::new();
        for index in 0..990 {
            let intended = milliseconds(10 * index);
            total.answered(intended, intended + milliseconds(index + 1));
        }
        total.failed(fault("INTERNAL", "first\nof \u{1b}[31mone"));
        for _ in 0..5 {
            total.failed(fault("UNAVAILABLE", "busy"));
        }
        reported(part(1_000, 3, total))
    }

    fn reported(part: Part) -> Report {
        let speed =
            Calibration { sign: Duration::from_micros(12), verify: Duration::from_micros(36) };
        let calibration = Calibrations { before: speed, after: speed };
        Report::new(&plan(), None, part, None, calibration)
    }

    #[test]
    fn every_request_is_accounted_for() {
        let found = report().measured;
        assert_eq!((found.offered, found.sent, found.dropped, found.ok), (1_000, 997, 3, 990));
        let errors = found.errors.iter().map(|errors| (errors.code, errors.count));
        let expected = [("INTERNAL", 1), ("UNAVAILABLE", 5), ("unanswered", 1)];
        assert_eq!(errors.collect::<Vec<_>>(), expected);
        assert_eq!(found.errors[0].first, "first of  [31mone");
    }

    #[test]
    fn quantiles_are_right_to_a_thousandth() {
        let latency = report().measured.latency;
        for (span, expected) in [(latency.p50, 495.0), (latency.p90, 891.0), (latency.max, 990.0)] {
            let found = span.unwrap().as_secs_f64() * 1e3;
            assert!((found / expected - 1.0).abs() <= 0.001, "{found} instead of {expected}");
        }
    }

    #[test]
    fn a_quantile_of_too_few_spans_is_absent() {
        let found = report();
        assert_eq!(found.measured.latency.p999, None);
        assert!(found.measured.lateness.unwrap().p999.is_some());
        assert!(found.spectrum.last().unwrap().quantile <= 1.0 - 1.0 / 990.0);
        let nothing = reported(part(0, 0, Page::new()));
        assert_eq!((nothing.measured.latency.p50, nothing.measured.latency.max), (None, None));
        assert!(nothing.to_string().contains("p50 -, p90 -, p99 -, p99.9 -, max -"));
        assert!(nothing.spectrum.is_empty());
    }

    #[test]
    fn the_achieved_rate_counts_the_wait_for_the_last_svid() {
        // The last is asked for at 9.89 s and answered 0.99 s later.
        assert!((report().measured.achieved_rate - 990.0 / 10.88).abs() < 1e-9);
        // Answers that come early do not make a run shorter than planned.
        let mut total = Page::new();
        total.answered(Duration::ZERO, milliseconds(1));
        assert!((reported(part(1, 0, total)).measured.achieved_rate - 0.1).abs() < 1e-9);
    }

    #[test]
    fn people_and_programs_read_the_same_figures() {
        let report = report();
        let table = report.to_string();
        assert!(table.contains("Dropped             3\n"), "{table}");
        assert!(table.contains("  UNAVAILABLE       5, the first: busy\n"), "{table}");
        assert!(table.contains("p99.9 -, max 990."), "{table}");
        assert!(table.contains("CPU per item        client 50.15 µs, server -\n"), "{table}");
        let json = serde_json::to_value(&report).unwrap();
        assert_eq!(json["plan"]["spiffe_id"], "spiffe://load.test/web");
        assert_eq!(json["plan"]["duration_seconds"], 10.0);
        assert_eq!((&json["dropped"], &json["ok"]), (&3.into(), &990.into()));
        assert!(json["latency_ms"]["p99.9"].is_null());
        assert!((json["lateness_ms"]["max"].as_f64().unwrap() / 40.0 - 1.0).abs() <= 0.001);
    }

    fn knee() -> Knee {
        Knee {
            from: 100,
            to: 1_000,
            factor: 2.0,
            step: Duration::from_secs(10),
            short_by: 0.02,
            p99: milliseconds(100),
            batch: 1,
            duration: milliseconds(1),
        }
    }

    #[test]
    fn a_step_is_too_high_if_it_falls_short_or_is_slow() {
        let knee = knee();
        let judged = |svids: u64, latency: u64| step(svids, latency, 0, &knee).too_high;
        assert_eq!(judged(1_000, 50), None);
        assert_eq!(judged(970, 50).unwrap(), "3.0 % short of what was offered");
        assert!(judged(1_000, 150).unwrap().starts_with("p99 150."));
    }

    /// How a step of 1,000 requests went: so many were answered, each after that many milliseconds; of the others, so
    /// many were dropped and the rest failed.
    fn step(svids: u64, latency: u64, dropped: u64, knee: &Knee) -> Step {
        let mut total = Page::new();
        for _ in 0..svids {
            total.answered(Duration::ZERO, milliseconds(latency));
        }
        for _ in 0..1_000 - svids - dropped {
            total.failed(fault("LATE", "late"));
        }
        Step::judge(100, Measured::of(&part(1_000, dropped, total)), knee)
    }

    #[test]
    fn what_was_dropped_or_failed_is_later_than_all_that_was_answered() {
        // Nothing is short by so much; a hundredth may be late.
        let knee = Knee { short_by: 0.5, ..knee() };
        for (svids, dropped) in [(990, 0), (990, 10), (990, 5)] {
            let step = step(svids, 50, dropped, &knee);
            assert_eq!(step.too_high, None, "{svids} {dropped}");
            assert_eq!(step.measured.offered_p99.unwrap().as_millis(), 50);
        }
        for (svids, dropped, said) in [
            (989, 11, "p99 has no bound: 11 were dropped and 0 failed"),
            (989, 0, "p99 has no bound: 0 were dropped and 11 failed"),
            (985, 7, "p99 has no bound: 7 were dropped and 8 failed"),
        ] {
            let step = step(svids, 1, dropped, &knee);
            assert_eq!(step.too_high.as_deref(), Some(said));
            assert_eq!((step.verdict(), step.measured.offered_p99), (Verdict::TooHigh, None));
        }
    }

    #[test]
    fn the_p99_of_all_is_the_answer_at_its_rank() {
        let mut spans = spans();
        for index in 1..=99 {
            record(&mut spans, milliseconds(index));
        }
        let found = |offered| offered_p99(&spans, offered).map(|span| span.as_millis());
        // The 99th of 99, of 100; 198 of 200 are not there.
        assert_eq!(
            (found(99), found(100), found(101), found(200)),
            (Some(99), Some(99), None, None)
        );
        assert_eq!((found(0), found(50)), (None, Some(50)));
    }

    #[test]
    fn a_step_that_the_generator_was_late_for_is_void_and_not_the_servers() {
        let judged = |late: u64, latency: u64| {
            let mut total = Page::new();
            for _ in 0..1_000 {
                total.answered(Duration::ZERO, milliseconds(latency));
            }
            let mut part = part(1_000, 0, total);
            let lateness = part.lateness.insert(spans());
            for _ in 0..1_000 {
                record(lateness, milliseconds(late));
            }
            Step::judge(100, Measured::of(&part), &knee())
        };
        let void = judged(60, 150);
        assert_eq!((void.verdict(), &void.too_high), (Verdict::Void, &None));
        assert!(void.words().unwrap().starts_with("void, the generator itself was late, p99 60."));
        assert_eq!(judged(5, 150).verdict(), Verdict::TooHigh);
        // Good in spite of it.
        assert_eq!(judged(60, 90).verdict(), Verdict::Followed);
    }
}
