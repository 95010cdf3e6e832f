//! `mintmark log verify`

use std::io::{self, IsTerminal as _, Write as _};
use std::time::{Duration, Instant};

use ca_core::log::tree::Head;
use ca_core::log::verify::{Finding, KnownHead, Report, verify as verify_log};
use serde::Serialize;

use super::{Place, Verifier, read_checkpoint};
use crate::cli::{Output, VerifyLog};
use crate::exit::Failure;
use crate::output::Screen;

/// What was found, as programs see it.
#[derive(Serialize)]
struct Shown<'a> {
    log: String,
    /// Whether the log is as it was signed.
    good: bool,
    key: String,
    /// Where the key is from.
    key_from: &'a str,
    /// How many entries the signed tree has.
    tree_size: u64,
    /// The first entry whose record is kept.
    first_record: u64,
    /// How many entries there are.
    entries: u64,
    runs: u64,
    heads: Vec<ShownHead>,
    /// A block at the end that is being written, or was torn.
    unfinished: Option<String>,
    findings: Vec<String>,
    /// How many findings there are beyond those.
    more_findings: u64,
    notes: &'a [String],
}

/// A head that the log agrees with.
#[derive(Serialize)]
struct ShownHead {
    size: u64,
    root: String,
    from: String,
}

/// Verifies all of a log, and ends with 1 if something is not as it was signed.
pub(super) async fn verify(arguments: &VerifyLog, screen: &mut Screen<'_>) -> Result<(), Failure> {
    let place = Place::open(&arguments.place)?;
    let mut verifier = place.verifier().await?;
    let mut known: Vec<KnownHead> = verifier.recorded.take().into_iter().collect();
    for file in &arguments.head {
        let from = file.display().to_string();
        known.push(KnownHead { checkpoint: read_checkpoint(file)?, from });
    }
    if known.is_empty() {
        verifier.notes.push(
            "no head from outside the log's own directory was compared: an older copy, or a log made anew by \
             who has its key, would look the same; give heads kept elsewhere with --head"
                .to_owned(),
        );
    }
    let report = verify_log(&place.log, &verifier.key, &known, &mut progress())?;
    let findings = report.findings.count();
    show(&report, &verifier, screen)?;
    match findings {
        0 => Ok(()),
        1 => Err(Failure::failed("the issuance log is not as it was signed: 1 finding")),
        _ => Err(Failure::failed(format!(
            "the issuance log is not as it was signed: {findings} findings"
        ))),
    }
}

fn show(report: &Report, verifier: &Verifier, screen: &mut Screen<'_>) -> Result<(), Failure> {
    let head = |(head, from): &(Head, String)| ShownHead {
        size: head.size,
        root: head.root.to_string(),
        from: from.clone(),
    };
    let shown = Shown {
        log: verifier.key.name().to_string(),
        good: report.findings.is_empty(),
        key: verifier.key.vkey(),
        key_from: &verifier.from,
        tree_size: report.size,
        first_record: report.pruned,
        entries: report.end,
        runs: report.runs,
        heads: report.agreeing.iter().map(head).collect(),
        unfinished: report.unfinished.as_ref().map(ToString::to_string),
        findings: report.findings.listed.iter().map(Finding::to_string).collect(),
        more_findings: report.findings.more,
        notes: &verifier.notes,
    };
    if screen.form() == Output::Json { screen.json(&shown) } else { show_table(&shown, screen) }
}

fn show_table(shown: &Shown<'_>, screen: &mut Screen<'_>) -> Result<(), Failure> {
    let records = match shown.first_record {
        0 => String::new(),
        first => format!(", records from entry {first} on"),
    };
    let unsigned = match shown.entries.saturating_sub(shown.tree_size) {
        0 => String::new(),
        more => format!(", {more} of them after the newest signed head"),
    };
    let heads = shown.heads.iter().map(|head| format!("{} entries, {}", head.size, head.from));
    let heads: Vec<_> = heads.collect();
    let mut rows = vec![
        ("Log", shown.log.clone()),
        ("Entries", format!("{}{unsigned}{records}", shown.entries)),
        ("Runs", shown.runs.to_string()),
        ("Verifier key", shown.key.clone()),
        ("Key from", shown.key_from.to_owned()),
        ("Agrees with", if heads.is_empty() { "no head".to_owned() } else { heads.join("\n") }),
    ];
    if let Some(unfinished) = &shown.unfinished {
        rows.push(("Unfinished", format!("{unfinished}; being written, or torn by a crash")));
    }
    let verdict = if shown.good { "as it was signed" } else { "NOT as it was signed" };
    rows.push(("Verdict", verdict.to_owned()));
    screen.show(shown, rows)?;
    let mut text = String::new();
    for finding in &shown.findings {
        text.push_str(&format!("\nFINDING: {finding}"));
    }
    if shown.more_findings > 0 {
        text.push_str(&format!("\n... and {} findings more", shown.more_findings));
    }
    for note in shown.notes {
        text.push_str(&format!("\nnote: {note}"));
    }
    if text.is_empty() { Ok(()) } else { screen.text(&format!("{text}\n")) }
}

/// How often a person is told how far it is.
const TELL_EVERY: Duration = Duration::from_secs(2);

/// Tells a person at a terminal how far it is.
fn progress() -> impl FnMut(&'static str, u64, u64) {
    let (mut told, is_seen) = (Instant::now(), io::stderr().is_terminal());
    move |what, done, all| {
        if is_seen && told.elapsed() >= TELL_EVERY {
            told = Instant::now();
            // Nobody misses it.
            let _ = writeln!(io::stderr(), "{what}: {done} of {all} entries");
        }
    }
}
