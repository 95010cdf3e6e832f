//! `mintmark log …`, as it is typed.

use std::path::PathBuf;
use std::time::Duration;

use ca_core::clock::Timestamp;
use ca_core::log::search::IdQuery;
use ca_core::log::tree::LogKey;
use ca_core::serial::Serial;
use clap::{Args, Subcommand, ValueEnum};
use x509_cert::der::DateTime;

use super::{Configuration, Shown};
use crate::config::Period;

/// `mintmark log …`
#[derive(Debug, Subcommand)]
pub enum Log {
    /// Show the newest entries
    Tail(TailLog),
    /// Find what was issued
    Search(SearchLog),
    /// Prove that something is in the log, or that the log has only grown
    Prove(ProveLog),
    /// Read all of the log, and say what is not as it was signed
    Verify(VerifyLog),
    /// Remove old records of what has ended; their hashes stay
    Prune(PruneLog),
    /// Write the entries as text, or a copy of the log for others' tools
    Export(ExportLog),
}

/// Which log is meant.
#[derive(Debug, Args)]
pub struct LogPlace {
    /// Which file describes it.
    #[command(flatten)]
    pub configuration: Configuration,
    /// Folder of a log, or of a copy of one; no configuration is read then
    #[arg(long, value_name = "DIR", conflicts_with = "config")]
    pub dir: Option<PathBuf>,
    /// Verifier key of the log, name+id+key; otherwise the state store's, or the file vkey of the log itself
    #[arg(long, value_name = "VKEY", value_parser = LogKey::parse)]
    pub key: Option<LogKey>,
}

/// `mintmark log tail`
#[derive(Debug, Args)]
pub struct TailLog {
    /// How many entries; 0 to 100000
    #[arg(short = 'n', long, value_name = "N", default_value_t = 10)]
    #[arg(value_parser = clap::value_parser!(u32).range(0..=100_000))]
    pub number: u32,
    /// Go on with what comes, until Ctrl-C
    #[arg(short, long)]
    pub follow: bool,
    /// Of which log.
    #[command(flatten)]
    pub place: LogPlace,
    /// How to show them; `json` is one object a line.
    #[command(flatten)]
    pub shown: Shown,
}

/// `mintmark log search`
#[derive(Debug, Args)]
pub struct SearchLog {
    /// SPIFFE ID, or the beginning of several: spiffe://example.org/shop/*
    #[arg(long, value_name = "ID", value_parser = IdQuery::parse)]
    pub id: Option<IdQuery>,
    /// Serial number of a certificate, in hexadecimal
    #[arg(long, value_name = "HEX", value_parser = serial)]
    pub serial: Option<Serial>,
    /// Authority or issuing key that signed: subject key identifier, or kid
    #[arg(long, value_name = "ID")]
    pub authority: Option<String>,
    /// Written then.
    #[command(flatten)]
    pub period: Span,
    /// What is valid at this time
    #[arg(long, value_name = "TIME", value_parser = moment)]
    pub valid_at: Option<Moment>,
    /// Read every record, and neither use nor make an index
    #[arg(long)]
    pub no_index: bool,
    /// Of which log.
    #[command(flatten)]
    pub place: LogPlace,
    /// How to show them; `json` is one object a line.
    #[command(flatten)]
    pub shown: Shown,
}

/// When records were written.
#[derive(Debug, Args)]
pub struct Span {
    /// Written at this time or later: 2026-11-24T11:06:43Z, 2026-11-24, or "2h" for two hours ago
    #[arg(long, value_name = "TIME", value_parser = moment)]
    pub since: Option<Moment>,
    /// Written at this time or before
    #[arg(long, value_name = "TIME", value_parser = moment)]
    pub until: Option<Moment>,
}

/// `mintmark log prove`
#[derive(Debug, Args)]
#[group(id = "what", required = true, multiple = false)]
#[group(args = ["certificate", "token", "serial", "index", "from"])]
pub struct ProveLog {
    /// Certificate that is in the log, PEM or DER; of several the first. "-" reads standard input
    #[arg(long, value_name = "FILE")]
    pub certificate: Option<PathBuf>,
    /// Token that is in the log; "-" reads standard input
    #[arg(long, value_name = "FILE")]
    pub token: Option<PathBuf>,
    /// Serial number of a certificate that is in the log, in hexadecimal
    #[arg(long, value_name = "HEX", value_parser = serial)]
    pub serial: Option<Serial>,
    /// Number of the entry in the log, from 0
    #[arg(long, value_name = "N")]
    pub index: Option<u64>,
    /// Older checkpoint: prove that the log has only grown since
    #[arg(long, value_name = "FILE")]
    pub from: Option<PathBuf>,
    /// File that receives the proof, instead of standard output
    #[arg(long, value_name = "FILE")]
    pub write: Option<PathBuf>,
    /// File that receives the entry, as its leaf hash is over it
    #[arg(long, value_name = "FILE", conflicts_with = "from")]
    pub entry: Option<PathBuf>,
    /// Of which log.
    #[command(flatten)]
    pub place: LogPlace,
    /// How to show what was proven.
    #[command(flatten)]
    pub shown: Shown,
}

/// `mintmark log verify`
#[derive(Debug, Args)]
pub struct VerifyLog {
    /// Checkpoint that was kept elsewhere; may be given several times
    #[arg(long, value_name = "FILE")]
    pub head: Vec<PathBuf>,
    /// Which log.
    #[command(flatten)]
    pub place: LogPlace,
    /// How to show what was found.
    #[command(flatten)]
    pub shown: Shown,
}

/// `mintmark log prune`
#[derive(Debug, Args)]
pub struct PruneLog {
    /// Remove what was written before: 2026-11-24, or "90d" for ninety days ago
    #[arg(long, value_name = "TIME", value_parser = moment)]
    pub before: Moment,
    /// Show what would be removed
    #[arg(long)]
    pub dry_run: bool,
    /// Of which log.
    #[command(flatten)]
    pub place: LogPlace,
    /// How to show what was done.
    #[command(flatten)]
    pub shown: Shown,
}

/// `mintmark log export`
#[derive(Debug, Args)]
pub struct ExportLog {
    /// Form of the entries
    #[arg(long, value_enum, value_name = "FORMAT", default_value_t)]
    pub format: ExportFormat,
    /// Written then.
    #[command(flatten)]
    pub period: Span,
    /// File that receives the entries, instead of standard output
    #[arg(long, value_name = "FILE")]
    pub write: Option<PathBuf>,
    /// Folder that receives a copy of hashes, entries and head as C2SP tlog-tiles has them, instead
    #[arg(long, value_name = "DIR", conflicts_with_all = ["format", "since", "until", "write"])]
    pub tiles: Option<PathBuf>,
    /// Of which log.
    #[command(flatten)]
    pub place: LogPlace,
    /// How to show what was written to DIR.
    #[command(flatten)]
    pub shown: Shown,
}

/// The forms of entries as text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub enum ExportFormat {
    /// A JSON object a line.
    #[default]
    Jsonl,
    /// Comma-separated values, with a line of headings (RFC 4180).
    Csv,
}

/// A time that was typed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Moment {
    /// This one.
    At(Timestamp),
    /// So long ago.
    Ago(Duration),
}

impl Moment {
    /// Which time that is.
    #[must_use]
    pub fn at(self, now: Timestamp) -> Timestamp {
        match self {
            Self::At(time) => time,
            Self::Ago(span) => now.minus(span),
        }
    }
}

fn moment(text: &str) -> Result<Moment, String> {
    if let Ok(Period(span)) = text.parse() {
        return Ok(Moment::Ago(span));
    }
    let midnight = if text.len() == 10 { "T00:00:00Z" } else { "" };
    let time: Result<DateTime, _> = format!("{text}{midnight}").parse();
    let time = time.map_err(|_| {
        "neither a time such as 2026-11-24T11:06:43Z or 2026-11-24, nor a span such as \"2h\" or \"90d\""
    })?;
    Ok(Moment::At(Timestamp::EPOCH.plus(time.unix_duration())))
}

/// As `x509 show`, OpenSSL or a log prints it.
fn serial(text: &str) -> Result<Serial, String> {
    let digits: String = text.chars().filter(|&c| c != ':').collect();
    let number =
        |at: usize| digits.get(at..at + 2).and_then(|two| u8::from_str_radix(two, 16).ok());
    let bytes: Option<Vec<u8>> = (0..digits.len()).step_by(2).map(number).collect();
    let bytes: Option<[u8; Serial::LENGTH]> = bytes.and_then(|bytes| bytes.try_into().ok());
    bytes
        .map(|bytes| (bytes, Serial::from_bytes(bytes)))
        .filter(|(bytes, serial)| serial.bytes() == bytes)
        .map(|(_, serial)| serial)
        .ok_or_else(|| {
            "ours have 40 hexadecimal digits, of which the first are 01 to 7f".to_owned()
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_is_typed_as_such_or_as_so_long_ago() {
        let noon = Timestamp::from_unix(1_795_608_403);
        assert_eq!(moment("2026-11-25T12:06:43Z"), Ok(Moment::At(noon)));
        assert_eq!(moment("1970-01-02"), Ok(Moment::At(Timestamp::from_unix(86_400))));
        assert_eq!(moment("2h").unwrap().at(noon).unix(), noon.unix() - 7_200);
        for text in ["", "yesterday", "2026-13-01", "2026-11-25T12:06:43", "12"] {
            assert!(moment(text).unwrap_err().contains("2026-11-24"), "{text}");
        }
    }

    #[test]
    fn a_serial_number_is_typed_with_or_without_colons() {
        let plain = format!("1A{}", "ff".repeat(19));
        let wanted = Serial::from_bytes([&[0x1a][..], &[0xff; 19]].concat().try_into().unwrap());
        assert_eq!(serial(&plain), Ok(wanted));
        assert_eq!(serial(&format!("1a{}", ":ff".repeat(19))), Ok(wanted));
        for text in ["", "1a", &"ff".repeat(20), &"0".repeat(40), &"1g".repeat(20), "äöü"] {
            assert!(serial(text).is_err(), "{text}");
        }
    }
}
