//! The report as one page of HTML that needs nothing else: no script, no font, no other file.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::Duration;

use super::chart::{Chart, Line, Scale, number};
use super::{Errors, Loop, Measured, Report, Step, float};
use crate::course::{Share, Window};

/// The page.
#[must_use]
pub fn page(report: &Report) -> String {
    let title = escaped(&format!("{}, {} loop", report.plan.document, report.kind));
    let sections = [
        heading(report),
        figures(report),
        knee(report),
        latency(report),
        over_time(report),
        machine(report),
        tables(report),
    ];
    format!(
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\
         <meta name=\"color-scheme\" content=\"light dark\">\
         <title>mintmark-load: {title}</title><style>{STYLE}</style></head>\n<body><main>\n{}\n</main></body></html>\n",
        sections.join("\n")
    )
}

const STYLE: &str = include_str!("page.css");

fn heading(report: &Report) -> String {
    let class = match report.kind {
        Loop::Open => "loop",
        Loop::Closed => "loop warn",
    };
    format!(
        "<h1>mintmark-load <span>{}</span></h1><p>{}</p><p class=\"{class}\">{}</p>",
        report.plan.document,
        escaped(&report.plan.to_string()),
        escaped(report.kind.meaning())
    )
}

/// What one wants to know first.
fn figures(report: &Report) -> String {
    let measured = &report.measured;
    let (latency, wrong) = (&measured.latency, report.wrong_answers());
    let alarm = |count: u64| if count > 0 { "bad" } else { "" };
    let cpu = |cpu: Option<f64>| cpu.map_or("–".to_owned(), |cpu| format!("{} µs", number(cpu)));
    let checked = report.checks.as_ref().map_or(0, |checks| checks.checked);
    let tiles = [
        (
            "SVIDs a second",
            number(measured.achieved_rate),
            format!("of {} offered", number(measured.offered_rate)),
            "",
        ),
        ("p50", span(latency.p50), "latency".to_owned(), ""),
        ("p99", span(latency.p99), "latency".to_owned(), ""),
        ("p99.9", span(latency.p999), "latency".to_owned(), ""),
        (
            "errors",
            measured.failures().to_string(),
            format!("of {} sent", measured.sent),
            alarm(measured.failures()),
        ),
        (
            "dropped",
            measured.dropped.to_string(),
            format!("of {} offered", measured.offered),
            alarm(measured.dropped),
        ),
        ("wrong", wrong.to_string(), format!("of {checked} checked"), alarm(wrong)),
        ("server CPU", cpu(measured.server_cpu_us_per_item), "per item".to_owned(), ""),
        ("client CPU", cpu(measured.client_cpu_us_per_item), "per item".to_owned(), ""),
    ];
    let tiles = tiles.map(|(name, value, more, class)| {
        format!("<div class=\"{class}\"><small>{name}</small><strong>{value}</strong><small>{more}</small></div>")
    });
    format!("<section class=\"tiles\">{}</section>", tiles.concat())
}

fn knee(report: &Report) -> String {
    let Some(knee) = &report.knee else { return String::new() };
    // Of a rate that was tried twice, the second counts.
    let steps: BTreeMap<u32, &Step> = knee.steps.iter().map(|step| (step.rate, step)).collect();
    let line = |name, class, value: &dyn Fn(&Measured) -> Option<f64>| Line {
        name,
        class,
        points: steps.values().map(|step| (f64::from(step.rate), value(&step.measured))).collect(),
    };
    let chart = |title, unit, scale, lines| {
        let along = "offered, requests per second";
        Chart { title, unit, along, scale, lines, places: Vec::new() }.html()
    };
    let charts = [
        chart(
            "Steps",
            "latency, ms, logarithmic",
            Scale::Log,
            vec![
                line("p50", "one", &|step| ms(step.latency.p50)),
                line("p99", "two", &|step| ms(step.latency.p99)),
            ],
        ),
        chart(
            "Steps",
            "per second",
            Scale::Linear,
            vec![
                line("offered", "quiet", &|step| Some(step.offered_rate)),
                line("SVIDs", "one", &|step| Some(step.achieved_rate)),
            ],
        ),
    ]
    .concat();
    let rows = knee.steps.iter().map(|step| {
        let Step { rate, measured, .. } = step;
        let late = span(measured.lateness.and_then(|lateness| lateness.p99));
        format!(
            "<tr><td>{rate}</td><td>{:.1}</td><td>{}</td><td>{}</td><td>{late}</td><td class=\"text\">{}</td></tr>",
            measured.achieved_rate,
            span(measured.latency.p50),
            span(measured.latency.p99),
            escaped(step.words().as_deref().unwrap_or("followed")),
        )
    });
    format!(
        "<h2>Knee: {}</h2>{}<table><tr><th>offered/s</th><th>achieved/s</th><th>p50</th><th>p99</th>\
         <th>sent late by, p99</th><th class=\"text\"></th></tr>{}</table>",
        escaped(&knee.verdict()),
        charts,
        rows.collect::<String>()
    )
}

/// The latency at ever rarer quantiles.
fn latency(report: &Report) -> String {
    let tenths = |quantile: f64| -(1.0 - quantile).log10();
    let points: Vec<_> = report
        .spectrum
        .iter()
        .map(|point| (tenths(point.quantile), Some(point.span.as_secs_f64() * 1e3)))
        .collect();
    let rarest = points.last().map_or(0.0, |(x, _)| *x);
    let names = ["0 %", "90 %", "99 %", "99.9 %", "99.99 %", "99.999 %", "99.9999 %", "99.99999 %"];
    let places = (0..).map(f64::from).zip(names.map(str::to_owned));
    let chart = Chart {
        title: "Latency",
        unit: "ms, logarithmic",
        along: "part of the requests that took no longer",
        scale: Scale::Log,
        lines: vec![Line { name: "latency", class: "one", points }],
        places: places.take_while(|(place, _)| *place <= rarest + 1e-9).collect(),
    };
    format!("<h2>Measurement</h2>{}", chart.html())
}

fn over_time(report: &Report) -> String {
    let windows = &report.windows;
    let line = |name, class, value: &dyn Fn(&Window) -> Option<f64>| Line {
        name,
        class,
        points: windows.iter().map(|window| (window.end.as_secs_f64(), value(window))).collect(),
    };
    let rate = |count: u64, window: &Window| {
        Some(float(count) / (window.end - window.start).as_secs_f64().max(1e-9))
    };
    let chart = |title, unit, scale, lines| {
        Chart { title, unit, along: "seconds", scale, lines, places: Vec::new() }.html()
    };
    [
        chart(
            "Throughput",
            "per second",
            Scale::Linear,
            vec![
                line("offered", "quiet", &|window| rate(window.offered, window)),
                line("SVIDs", "one", &|window| rate(window.ok, window)),
            ],
        ),
        chart(
            "Latency over time",
            "ms, logarithmic",
            Scale::Log,
            vec![
                line("p50", "one", &|window| ms(window.p50)),
                line("p99", "two", &|window| ms(window.p99)),
            ],
        ),
        chart(
            "Errors and drops",
            "per second",
            Scale::Linear,
            vec![
                line("errors", "two", &|window| rate(window.errors, window)),
                line("dropped", "quiet", &|window| rate(window.dropped, window)),
            ],
        ),
    ]
    .concat()
}

/// What generator and server took of the machine.
fn machine(report: &Report) -> String {
    let line = |name, class, value: &dyn Fn(&Window) -> Option<f64>| Line {
        name,
        class,
        points: report
            .windows
            .iter()
            .map(|window| (window.end.as_secs_f64(), value(window)))
            .collect(),
    };
    let cores = |share: Option<Share>| share.map(|share| share.cores);
    let memory =
        |share: Option<Share>| share.map(|share| float(share.resident_bytes) / 1_048_576.0);
    let chart = |title, unit, lines| {
        Chart { title, unit, along: "seconds", scale: Scale::Linear, lines, places: Vec::new() }
            .html()
    };
    [
        chart(
            "CPU",
            "cores; checks left out",
            vec![
                line("server", "one", &|window| cores(window.server)),
                line("client", "quiet", &|window| cores(window.client)),
            ],
        ),
        chart(
            "Memory",
            "MiB resident",
            vec![
                line("server", "one", &|window| memory(window.server)),
                line("client", "quiet", &|window| memory(window.client)),
            ],
        ),
    ]
    .concat()
}

fn tables(report: &Report) -> String {
    let measured = &report.measured;
    let mut out = String::new();
    let mut failures: Vec<[String; 3]> = Vec::new();
    for Errors { code, count, first } in &measured.errors {
        failures.push([(*code).to_owned(), count.to_string(), first.clone()]);
    }
    for wrong in report.checks.iter().flat_map(|checks| &checks.wrong) {
        failures.push([
            format!("wrong {}", wrong.what),
            wrong.count.to_string(),
            wrong.first.clone(),
        ]);
    }
    if !failures.is_empty() {
        out += "<h2>Errors</h2><table><tr><th class=\"text\">what</th><th>count</th><th class=\"text\">the first</th></tr>";
        for [what, count, first] in &failures {
            let (what, first) = (escaped(what), escaped(first));
            let _ = write!(
                out,
                "<tr><td class=\"text\">{what}</td><td>{count}</td><td class=\"text\">{first}</td></tr>"
            );
        }
        out += "</table>";
    }
    let calibration = &report.calibration;
    let checks = report.checks.as_ref().map_or("nothing was checked".to_owned(), |checks| {
        format!(
            "{} answers against the bundle fetched before the run, {} let go because too many waited; {:.1} s of CPU",
            checks.checked, checks.skipped, checks.cpu.as_secs_f64()
        )
    });
    let micro = |span: Duration| format!("{:.1} µs", span.as_secs_f64() * 1e6);
    let rows = [
        ("sent late by", measured.lateness.map_or("–".to_owned(), |late| late.to_string())),
        ("latency", measured.latency.to_string()),
        ("checked", checks),
        (
            "raw P-256 before",
            format!(
                "sign {}, verify {}",
                micro(calibration.before.sign),
                micro(calibration.before.verify)
            ),
        ),
        (
            "raw P-256 after",
            format!(
                "sign {}, verify {}",
                micro(calibration.after.sign),
                micro(calibration.after.verify)
            ),
        ),
    ];
    out += "<h2>Conditions</h2><table>";
    for (name, value) in
        rows.into_iter().map(|(name, value)| (name.to_owned(), value)).chain(plan(report))
    {
        let (name, value) = (escaped(&name), escaped(&value));
        let _ =
            write!(out, "<tr><th class=\"text\">{name}</th><td class=\"text\">{value}</td></tr>");
    }
    out + "</table>"
}

/// Every setting of the plan, as the JSON has it.
fn plan(report: &Report) -> Vec<(String, String)> {
    let mut rows = Vec::new();
    let plan = serde_json::to_value(&report.plan).unwrap_or_default();
    for (key, value) in plan.as_object().into_iter().flatten() {
        match value.as_object() {
            Some(inner) => rows.extend(
                inner.iter().map(|(name, value)| (format!("plan: {key} {name}"), plain(value))),
            ),
            None => rows.push((format!("plan: {key}"), plain(value))),
        }
    }
    rows.retain(|(_, value)| value != "null");
    rows
}

fn plain(value: &serde_json::Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

fn ms(span: Option<Duration>) -> Option<f64> {
    span.map(|span| span.as_secs_f64() * 1e3)
}

fn span(span: Option<Duration>) -> String {
    ms(span).map_or("–".to_owned(), |ms| format!("{} ms", number(ms)))
}

/// Text as HTML may hold it, whoever wrote it.
fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}
