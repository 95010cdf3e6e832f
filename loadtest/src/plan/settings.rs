//! Values by key, each with the place it comes from, so that a fault can be said in one sentence whether
//! it stands in a file or was typed.

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use thiserror::Error;
use toml::de::{DeTable, DeValue};

/// Every key that a plan can have; which of them it may depends on its shape and target.
const KEYS: &[&str] = &[
    "target.kind",
    "target.socket",
    "target.address",
    "target.credentials",
    "target.connections",
    "target.streams",
    "target.key_form",
    "target.server_pid",
    "target.every",
    "target.stall",
    "ask.what",
    "ask.spiffe_id",
    "ask.ids",
    "load.shape",
    "load.rate",
    "load.from",
    "load.to",
    "load.duration",
    "load.callers",
    "load.batch",
    "load.factor",
    "load.step",
    "load.short_by",
    "load.p99",
    "load.warm_up",
    "load.max_in_flight",
    "load.answer_within",
    "check.share",
    "report.window",
];

/// What a plan is made of. What is set later wins.
#[derive(Debug, Default)]
pub struct Settings {
    values: BTreeMap<String, Value>,
    /// What stands in for keys without a value, if the plan wants them at all.
    offered: BTreeMap<String, Value>,
    /// Where keys stood that were taken already.
    taken: BTreeMap<String, Origin>,
}

#[derive(Debug)]
struct Value {
    /// As it was written, without the quotes.
    text: String,
    /// Whether it may be a text. What is typed may be anything.
    quoted: bool,
    origin: Origin,
}

/// Where a value was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// In a file.
    File {
        /// Which.
        path: PathBuf,
        /// Counted from 1.
        line: usize,
    },
    /// After this flag.
    Flag(String),
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File { path, line } => write!(f, "{}:{line}", path.display()),
            Self::Flag(name) => f.write_str(name),
        }
    }
}

/// Why there is no plan.
#[derive(Debug, Error)]
pub enum PlanError {
    /// The file cannot be read.
    #[error("cannot read the plan {}: {source}", path.display())]
    Unreadable {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Something in it is wrong.
    #[error("{origin}: {sentence}")]
    Fault {
        /// Where.
        origin: Origin,
        /// What, with the key.
        sentence: String,
    },
    /// Something is missing.
    #[error("{0} is missing; write it into the plan, or add --set {0}=…")]
    Missing(&'static str),
}

impl PlanError {
    /// Whether a file has the fault, and not what was typed.
    #[must_use]
    pub fn is_of_a_file(&self) -> bool {
        match self {
            Self::Unreadable { .. } => true,
            Self::Fault { origin, .. } => matches!(origin, Origin::File { .. }),
            Self::Missing(_) => false,
        }
    }
}

impl Settings {
    /// Takes in the file at `path`.
    pub fn read_file(&mut self, path: &Path) -> Result<(), PlanError> {
        let text = std::fs::read_to_string(path)
            .map_err(|source| PlanError::Unreadable { path: path.to_owned(), source })?;
        self.read(path, &text)
    }

    /// Takes in `text`, which stands in the file at `path`.
    pub fn read(&mut self, path: &Path, text: &str) -> Result<(), PlanError> {
        let origin = |offset: usize| {
            let line = 1 + text.bytes().take(offset).filter(|byte| *byte == b'\n').count();
            Origin::File { path: path.to_owned(), line }
        };
        let table = DeTable::parse(text).map_err(|error| PlanError::Fault {
            origin: origin(error.span().map_or(0, |span| span.start)),
            sentence: error.message().lines().collect::<Vec<_>>().join(", "),
        })?;
        for (section, values) in table.get_ref() {
            let place = origin(section.span().start);
            let DeValue::Table(values) = values.get_ref() else {
                return Err(unknown(section.get_ref(), place));
            };
            for (name, value) in values {
                let key = format!("{}.{}", section.get_ref(), name.get_ref());
                let place = origin(name.span().start);
                let (text, quoted) = match value.get_ref() {
                    DeValue::String(text) => (text.to_string(), true),
                    DeValue::Integer(number) => (number.to_string().replace('_', ""), false),
                    DeValue::Float(number) => (number.to_string().replace('_', ""), false),
                    _ if !KEYS.contains(&&*key) => return Err(unknown(&key, place)),
                    _ => return Err(fault(place, format!("{key} has to be a text or a number"))),
                };
                self.values.insert(key, Value { text, quoted, origin: place });
            }
        }
        Ok(())
    }

    /// Sets `key` to what was typed.
    pub fn set(&mut self, key: &str, text: &str, origin: Origin) {
        self.values.insert(key.to_owned(), Value { text: text.to_owned(), quoted: false, origin });
    }

    /// Stands in for `key` where a plan wants it and nothing sets it.
    pub fn offer(&mut self, key: &str, text: &str, origin: Origin) {
        self.offered.insert(key.to_owned(), Value { text: text.to_owned(), quoted: false, origin });
    }

    /// Whatever was not taken has no place in the plan. Where a flag chose another shape or target than the
    /// file has, the file's settings of its own one are left behind.
    pub(super) fn finish(self) -> Result<(), PlanError> {
        let chosen = |key: &str| matches!(self.taken.get(key), Some(Origin::Flag(_)));
        for (key, Value { origin, .. }) in self.values {
            let typed = matches!(origin, Origin::Flag(_));
            match key.split_once('.') {
                _ if !KEYS.contains(&&*key) => return Err(unknown(&key, origin)),
                Some(("load", _)) if !typed && chosen("load.shape") => {}
                Some(("target", _)) if !typed && chosen("target.kind") => {}
                _ => {
                    let what = "goes with another load.shape or target.kind than this plan has";
                    return Err(fault(origin, format!("{key} {what}")));
                }
            }
        }
        Ok(())
    }

    /// A fault of a key that was taken, or of the plan as a whole.
    pub(super) fn fault(&self, key: &'static str, what: &str) -> PlanError {
        match self.taken.get(key) {
            Some(origin) => fault(origin.clone(), format!("{key} {what}")),
            None => PlanError::Missing(key),
        }
    }

    /// One of the words of `choices`.
    pub(super) fn one_of<T: Copy>(
        &mut self,
        key: &'static str,
        choices: &[(&str, T)],
        default: Option<T>,
    ) -> Result<T, PlanError> {
        self.take(key, default, |text, _| {
            choices.iter().find(|(word, _)| *word == text).map(|(_, choice)| *choice).ok_or_else(
                || {
                    let words: Vec<_> =
                        choices.iter().map(|(word, _)| format!("{word:?}")).collect();
                    format!("it has to be {}", words.join(" or "))
                },
            )
        })
    }

    /// What a text says.
    pub(super) fn parsed<T>(
        &mut self,
        key: &'static str,
        default: Option<T>,
    ) -> Result<T, PlanError>
    where
        T: FromStr,
        T::Err: fmt::Display,
    {
        self.take(key, default, |text, _| {
            text.parse().map_err(|error: T::Err| format!("it is {error}"))
        })
    }

    /// A whole number within `bounds`.
    pub(super) fn count(
        &mut self,
        key: &'static str,
        bounds: RangeInclusive<u32>,
        default: Option<u32>,
    ) -> Result<u32, PlanError> {
        self.take(key, default, |text, quoted| {
            let number: i128 = match text.parse() {
                Ok(number) if !quoted => number,
                _ => return Err("it has to be a whole number".to_owned()),
            };
            let (least, most) = (bounds.start(), bounds.end());
            u32::try_from(number)
                .ok()
                .filter(|number| bounds.contains(number))
                .ok_or_else(|| format!("it has to be from {least} to {most}"))
        })
    }

    /// The same, if there is one.
    pub(super) fn optional_count(
        &mut self,
        key: &'static str,
        bounds: RangeInclusive<u32>,
    ) -> Result<Option<u32>, PlanError> {
        if self.values.contains_key(key) {
            self.count(key, bounds, None).map(Some)
        } else {
            Ok(None)
        }
    }

    /// A number within `bounds`.
    pub(super) fn number(
        &mut self,
        key: &'static str,
        bounds: RangeInclusive<f64>,
        default: Option<f64>,
    ) -> Result<f64, PlanError> {
        self.take(key, default, |text, quoted| match text.parse() {
            Ok(number) if !quoted && bounds.contains(&number) => Ok(number),
            _ => Err(format!("it has to be from {} to {}", bounds.start(), bounds.end())),
        })
    }

    /// A part of a whole, 0 to 1.
    pub(super) fn share(
        &mut self,
        key: &'static str,
        default: Option<f64>,
    ) -> Result<f64, PlanError> {
        self.number(key, 0.0..=1.0, default)
    }

    /// A span, zero included.
    pub(super) fn span(
        &mut self,
        key: &'static str,
        default: Option<Duration>,
    ) -> Result<Duration, PlanError> {
        self.take(key, default, |text, _| span(text))
    }

    /// A span of some length.
    pub(super) fn positive(
        &mut self,
        key: &'static str,
        default: Option<Duration>,
    ) -> Result<Duration, PlanError> {
        self.take(key, default, |text, _| match span(text)? {
            Duration::ZERO => Err("nothing can be done in no time".to_owned()),
            span => Ok(span),
        })
    }

    /// The same, if there is one.
    pub(super) fn optional_span(
        &mut self,
        key: &'static str,
    ) -> Result<Option<Duration>, PlanError> {
        if self.values.contains_key(key) { self.positive(key, None).map(Some) } else { Ok(None) }
    }

    fn take<T>(
        &mut self,
        key: &'static str,
        default: Option<T>,
        read: impl FnOnce(&str, bool) -> Result<T, String>,
    ) -> Result<T, PlanError> {
        let value = self.values.remove(key).or_else(|| self.offered.remove(key));
        let Some(Value { text, quoted, origin }) = value else {
            return default.ok_or(PlanError::Missing(key));
        };
        self.taken.insert(key.to_owned(), origin.clone());
        read(&text, quoted).map_err(|reason| {
            let number = !quoted && text.parse::<f64>().is_ok();
            let shown = if number { text.clone() } else { format!("{text:?}") };
            fault(origin, format!("{key} is {shown}; {reason}"))
        })
    }
}

fn fault(origin: Origin, sentence: String) -> PlanError {
    PlanError::Fault { origin, sentence }
}

fn unknown(key: &str, origin: Origin) -> PlanError {
    let near = KEYS.iter().map(|known| (strsim::damerau_levenshtein(key, known), known)).min();
    let hint = match near {
        Some((distance, known)) if distance <= 2 => format!("; did you mean {known}?"),
        _ => String::new(),
    };
    fault(origin, format!("no plan has the key {key}{hint}"))
}

/// Longest run; what takes more belongs to a monitoring system.
const LONGEST: Duration = Duration::from_secs(24 * 3_600);

fn span(text: &str) -> Result<Duration, String> {
    let form = || "write it like \"500ms\", \"10s\", \"5m\" or \"1h\"".to_owned();
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (count, unit) = text.split_at(digits);
    let milliseconds: u64 = match unit {
        "ms" => 1,
        "s" => 1_000,
        "m" => 60_000,
        "h" => 3_600_000,
        _ => return Err(form()),
    };
    if count.is_empty() {
        return Err(form());
    }
    let count = count.parse().unwrap_or(u64::MAX);
    match Duration::from_millis(milliseconds.saturating_mul(count)) {
        span if span > LONGEST => Err("it is longer than 24 h".to_owned()),
        span => Ok(span),
    }
}
