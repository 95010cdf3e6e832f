//! Entries as lines: for people, as JSON, as CSV.

use std::ops::ControlFlow;

use ca_core::log::entry::Entry;
use ca_core::log::{Document, IssuanceRecord};
use serde::Serialize;

use crate::certificate::hexadecimal;
use crate::cli::{ExportFormat, Output};
use crate::exit::Failure;
use crate::output::Screen;

/// An entry as programs see it.
#[derive(Debug, Default, Serialize)]
pub(super) struct EntryView {
    index: u64,
    /// `opening`, `x509` or `jwt`.
    kind: &'static str,
    time: String,
    #[serde(flatten)]
    issued: Option<Issued>,
    #[serde(flatten)]
    run: Option<Run>,
}

#[derive(Debug, Serialize)]
struct Issued {
    spiffe_id: String,
    not_before: String,
    not_after: String,
    authority: String,
    issuing_key: Option<String>,
    caller: String,
    /// SHA-256 of what was signed.
    digest: String,
    #[serde(flatten)]
    document: DocumentView,
}

#[derive(Debug, Serialize)]
#[serde(untagged)]
enum DocumentView {
    X509 { profile: String, serial_number: String, key_digest: String },
    Jwt { audience: Vec<String> },
}

/// What the first entry of a run says.
#[derive(Debug, Serialize)]
struct Run {
    run: u32,
    continues_size: u64,
    continues_root: String,
    durability: String,
}

impl EntryView {
    pub(super) fn of(index: u64, entry: &Entry) -> Self {
        match entry {
            Entry::Issuance(record) => Self::of_record(index, record),
            Entry::Opening(opening) => Self {
                index,
                kind: "opening",
                time: opening.time.to_string(),
                issued: None,
                run: Some(Run {
                    run: opening.writer.number(),
                    continues_size: opening.continues.size,
                    continues_root: opening.continues.root.to_string(),
                    durability: opening.durability.to_string(),
                }),
            },
        }
    }

    pub(super) fn of_record(index: u64, record: &IssuanceRecord) -> Self {
        let (kind, document) = match &record.document {
            Document::X509 { profile, serial, key_digest } => {
                let (profile, serial_number) = (profile.to_string(), serial.to_string());
                let key_digest = hexadecimal(key_digest);
                ("x509", DocumentView::X509 { profile, serial_number, key_digest })
            }
            Document::Jwt { audience } => ("jwt", DocumentView::Jwt { audience: audience.clone() }),
        };
        let issued = Issued {
            spiffe_id: record.id.as_str().to_owned(),
            not_before: record.not_before.to_string(),
            not_after: record.not_after.to_string(),
            authority: record.authority.to_string(),
            issuing_key: record.issuing_key.as_deref().map(str::to_owned),
            caller: record.caller.to_string(),
            digest: hexadecimal(&record.digest),
            document,
        };
        Self { index, kind, time: record.time.to_string(), issued: Some(issued), run: None }
    }

    /// A line for people.
    fn line(&self) -> String {
        let Self { index, kind, time, issued, run } = self;
        let mut line = format!("{index:>10}  {time}  {kind:<7}  ");
        if let Some(issued) = issued {
            let of = match &issued.document {
                DocumentView::X509 { serial_number, .. } => serial_number.clone(),
                DocumentView::Jwt { audience } => format!("for {}", audience.join(", ")),
            };
            let Issued { not_after, spiffe_id, .. } = issued;
            line.push_str(&format!("{not_after}  {of:<40}  {spiffe_id}"));
        }
        if let Some(Run { run, continues_size, durability, .. }) = run {
            line.push_str(&format!("run {run} after {continues_size} entries, {durability}"));
        }
        printable(&line)
    }

    /// The columns of [`HEADINGS`].
    fn columns(&self) -> [String; HEADINGS.len()] {
        let mut columns = <[String; HEADINGS.len()]>::default();
        columns[0] = self.index.to_string();
        self.kind.clone_into(&mut columns[1]);
        columns[2].clone_from(&self.time);
        if let Some(issued) = &self.issued {
            columns[3].clone_from(&issued.spiffe_id);
            columns[4].clone_from(&issued.not_before);
            columns[5].clone_from(&issued.not_after);
            columns[6].clone_from(&issued.authority);
            columns[7] = issued.issuing_key.clone().unwrap_or_default();
            columns[8].clone_from(&issued.caller);
            columns[9].clone_from(&issued.digest);
            match &issued.document {
                DocumentView::X509 { profile, serial_number, key_digest } => {
                    columns[10].clone_from(profile);
                    columns[11].clone_from(serial_number);
                    columns[12].clone_from(key_digest);
                }
                DocumentView::Jwt { audience } => columns[13] = audience.join(" "),
            }
        }
        if let Some(run) = &self.run {
            columns[14] = run.run.to_string();
            columns[15] = run.continues_size.to_string();
            columns[16].clone_from(&run.continues_root);
            columns[17].clone_from(&run.durability);
        }
        columns
    }
}

/// Audiences are whatever was asked for: nothing of them reaches a terminal as a control.
fn printable(line: &str) -> String {
    line.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect()
}

const HEADINGS: [&str; 18] = [
    "index",
    "kind",
    "time",
    "spiffe_id",
    "not_before",
    "not_after",
    "authority",
    "issuing_key",
    "caller",
    "digest",
    "profile",
    "serial_number",
    "key_digest",
    "audience",
    "run",
    "continues_size",
    "continues_root",
    "durability",
];

/// The forms in which entries become lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Form {
    People,
    Json,
    Csv,
}

impl From<Output> for Form {
    fn from(output: Output) -> Self {
        match output {
            Output::Table => Self::People,
            Output::Json => Self::Json,
        }
    }
}

impl From<ExportFormat> for Form {
    fn from(format: ExportFormat) -> Self {
        match format {
            ExportFormat::Jsonl => Self::Json,
            ExportFormat::Csv => Self::Csv,
        }
    }
}

impl Form {
    /// The line before the first entry.
    fn heading(self) -> String {
        match self {
            Self::People => format!(
                "{:>10}  {:<20}  {:<7}  {:<20}  {:<40}  SPIFFE ID\n",
                "Entry", "Written", "Kind", "Ends", "Serial number or audience"
            ),
            Self::Json => String::new(),
            Self::Csv => csv_line(&HEADINGS),
        }
    }

    fn line(self, entry: &EntryView) -> Result<String, Failure> {
        Ok(match self {
            Self::People => entry.line() + "\n",
            Self::Json => serde_json::to_string(entry).map_err(Failure::failed)? + "\n",
            Self::Csv => csv_line(&entry.columns()),
        })
    }
}

/// RFC 4180 §2: values with commas, quotes or line ends are quoted.
fn csv_line(values: &[impl AsRef<str>]) -> String {
    let quoted = values.iter().map(|value| {
        let value = value.as_ref();
        if value.contains([',', '"', '\r', '\n']) {
            format!("\"{}\"", value.replace('"', "\"\""))
        } else {
            value.to_owned()
        }
    });
    quoted.collect::<Vec<_>>().join(",") + "\r\n"
}

/// Where lines of entries go: many at once, since there may be millions.
pub(super) struct Lines<'a, 'b> {
    screen: &'a mut Screen<'b>,
    form: Form,
    waiting: String,
    /// How many entries were given.
    pub(super) count: u64,
}

/// So many bytes are written at once.
const PIECE: usize = 64 * 1024;

impl<'a, 'b> Lines<'a, 'b> {
    pub(super) fn new(screen: &'a mut Screen<'b>, form: Form) -> Self {
        Self { screen, form, waiting: form.heading(), count: 0 }
    }

    /// Adds an entry; breaks when the reader has seen enough.
    pub(super) fn add(&mut self, entry: &EntryView) -> Result<ControlFlow<()>, Failure> {
        self.count += 1;
        self.waiting.push_str(&self.form.line(entry)?);
        if self.waiting.len() < PIECE { Ok(ControlFlow::Continue(())) } else { self.flush() }
    }

    /// Shows what was added.
    pub(super) fn flush(&mut self) -> Result<ControlFlow<()>, Failure> {
        let lines = std::mem::take(&mut self.waiting);
        if lines.is_empty() { Ok(ControlFlow::Continue(())) } else { self.screen.part(&lines) }
    }
}

#[cfg(test)]
mod tests {
    use ca_core::clock::Timestamp;
    use ca_core::id::SpiffeId;
    use ca_core::log::Caller;

    use super::*;

    fn token(audience: &[&str]) -> EntryView {
        let record = IssuanceRecord {
            document: Document::Jwt { audience: audience.iter().map(|&a| a.to_owned()).collect() },
            digest: [0x11; 32],
            id: SpiffeId::parse("spiffe://a.test/w").unwrap(),
            not_before: Timestamp::EPOCH,
            not_after: Timestamp::EPOCH,
            authority: "kid".into(),
            issuing_key: None,
            caller: Caller::Signer,
            time: Timestamp::EPOCH,
        };
        EntryView::of_record(7, &record)
    }

    #[test]
    fn an_audience_cannot_break_a_line() {
        let view = token(&["a,\"b\"", "\u{1b}[2J\nc"]);
        assert!(!view.line().contains(['\u{1b}', '\n']), "{}", view.line());
        let csv = Form::Csv.line(&view).unwrap();
        assert!(csv.contains(",\"a,\"\"b\"\" \u{1b}[2J\nc\","), "{csv}");
        let json = Form::Json.line(&view).unwrap();
        assert_eq!(json.matches('\n').count(), 1);
        let value: serde_json::Value = serde_json::from_str(&json).unwrap();
        assert_eq!((&value["index"], &value["kind"]), (&7.into(), &"jwt".into()));
        assert_eq!(value["audience"][0], "a,\"b\"");
    }
}
