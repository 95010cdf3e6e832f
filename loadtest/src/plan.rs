//! What is to be asked for: the command line, and the plan that it becomes once it is checked.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum, value_parser};
use serde::{Serialize, Serializer};
use thiserror::Error;

use crate::pace::Schedule;

/// Ask a server for SVIDs at a set rate, and say what became of each request
#[derive(Debug, Parser)]
#[command(name = "mintmark-load", version, arg_required_else_help = true)]
#[command(after_help = "Exit codes: 0 at least one SVID was minted, 1 none was, 2 wrong usage, \
                        4 server unreachable.")]
pub struct Arguments {
    /// Admin socket of the server
    #[arg(long, global = true, env = "MINTMARK_SOCKET", value_name = "PATH")]
    #[arg(default_value = "/run/mintmark/admin.sock")]
    socket: PathBuf,

    #[command(subcommand)]
    asked: Asked,
}

#[derive(Debug, Subcommand)]
enum Asked {
    /// X.509-SVIDs, each for a P-256 key whose CSR is made before the run
    X509(Load),
    /// JWT-SVIDs
    Jwt(Load),
}

#[derive(Debug, Args)]
struct Load {
    /// ID that every request names; what is minted for it is real
    #[arg(long, value_name = "ID")]
    spiffe_id: SpiffeId,
    /// Requests per second, sent at even intervals whether or not answers have come
    #[arg(long, value_name = "N", default_value_t = 200)]
    #[arg(value_parser = value_parser!(u32).range(1..=1_000_000))]
    rate: u32,
    /// How long to send: "500ms", "10s", "5m" or "1h"
    #[arg(long, value_name = "TIME", default_value = "10s", value_parser = span)]
    duration: Duration,
    /// Connections, used in turn
    #[arg(long, value_name = "N", default_value_t = 2)]
    #[arg(value_parser = value_parser!(u32).range(1..=1_000))]
    connections: u32,
    /// Requests without an answer at once; one that would be more is not sent and counts as dropped
    #[arg(long, value_name = "N", default_value_t = 1_000)]
    #[arg(value_parser = value_parser!(u32).range(1..=100_000))]
    max_in_flight: u32,
    /// A table for people or JSON for programs
    #[arg(long, value_enum, default_value_t, value_name = "FORM")]
    output: Output,
}

impl Arguments {
    /// The form in which the report is wanted.
    #[must_use]
    pub fn output(&self) -> Output {
        let (Asked::X509(load) | Asked::Jwt(load)) = &self.asked;
        load.output
    }
}

/// The forms in which a report is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub enum Output {
    /// For people.
    #[default]
    Table,
    /// For programs.
    Json,
}

/// A run, every value within its bounds.
#[derive(Debug, Clone, Serialize)]
pub struct Plan {
    /// The server's socket.
    pub socket: PathBuf,
    /// What is asked for.
    pub document: Document,
    /// For whom.
    pub spiffe_id: SpiffeId,
    /// Requests per second, at least 1.
    pub rate: u32,
    /// How long requests are sent.
    #[serde(rename = "duration_seconds", serialize_with = "seconds")]
    pub duration: Duration,
    /// Connections, at least 1.
    pub connections: u32,
    /// Requests without an answer at once, at least 1.
    pub max_in_flight: u32,
}

impl Plan {
    /// When each request is to be sent.
    #[must_use]
    pub fn schedule(&self) -> Schedule {
        Schedule::new(self.rate, self.duration)
    }
}

impl From<Arguments> for Plan {
    fn from(arguments: Arguments) -> Self {
        let (document, load) = match arguments.asked {
            Asked::X509(load) => (Document::X509Svid, load),
            Asked::Jwt(load) => (Document::JwtSvid, load),
        };
        Self {
            socket: arguments.socket,
            document,
            spiffe_id: load.spiffe_id,
            rate: load.rate,
            duration: load.duration,
            connections: load.connections,
            max_in_flight: load.max_in_flight,
        }
    }
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { document, spiffe_id, rate, duration, connections, max_in_flight, socket: _ } =
            self;
        write!(
            f,
            "{document} for {spiffe_id}, {rate}/s for {duration:?}, connections {connections}, \
             at most {max_in_flight} in flight"
        )
    }
}

/// What is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Document {
    /// By `MintX509SVID`.
    X509Svid,
    /// By `MintJWTSVID`.
    JwtSvid,
}

impl fmt::Display for Document {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::X509Svid => "X509-SVID",
            Self::JwtSvid => "JWT-SVID",
        })
    }
}

/// A SPIFFE ID taken apart as the wire wants it. Whether it is a good one is the server's to say: its
/// refusals belong to the report.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SpiffeId {
    /// The trust domain's name.
    pub trust_domain: String,
    /// The path, with its leading slash.
    pub path: String,
}

/// Why a text cannot be taken apart as a SPIFFE ID.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("no SPIFFE ID of a workload; write it like \"spiffe://example.org/load\"")]
pub struct SpiffeIdError;

impl FromStr for SpiffeId {
    type Err = SpiffeIdError;

    fn from_str(text: &str) -> Result<Self, SpiffeIdError> {
        let rest = text.strip_prefix("spiffe://").ok_or(SpiffeIdError)?;
        let (trust_domain, path) = rest.split_at(rest.find('/').ok_or(SpiffeIdError)?);
        // A URI in a CSR is an IA5String (RFC 5280 §4.2.1.6).
        if trust_domain.is_empty() || path.len() < 2 || !text.is_ascii() {
            return Err(SpiffeIdError);
        }
        Ok(Self { trust_domain: trust_domain.to_owned(), path: path.to_owned() })
    }
}

impl fmt::Display for SpiffeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "spiffe://{}{}", self.trust_domain, self.path)
    }
}

impl Serialize for SpiffeId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

fn seconds<S: Serializer>(span: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_f64(span.as_secs_f64())
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
        Duration::ZERO => Err("nothing can be sent in no time".to_owned()),
        span if span > LONGEST => Err("longer than 24 h".to_owned()),
        span => Ok(span),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    fn plan(line: &str) -> Result<Plan, String> {
        Arguments::try_parse_from(line.split(' '))
            .map(Plan::from)
            .map_err(|error| error.to_string())
    }

    #[test]
    fn the_command_line_is_consistent() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn a_plan_has_the_documented_defaults() {
        let plan = plan("mintmark-load --socket /s x509 --spiffe-id spiffe://a.test/b/c").unwrap();
        assert_eq!(plan.document, Document::X509Svid);
        assert_eq!((&*plan.spiffe_id.trust_domain, &*plan.spiffe_id.path), ("a.test", "/b/c"));
        assert_eq!((plan.rate, plan.duration.as_secs()), (200, 10));
        assert_eq!((plan.connections, plan.max_in_flight), (2, 1_000));
        assert_eq!(plan.schedule().count(), 2_000);
    }

    #[test]
    fn values_out_of_bounds_are_refused_with_the_reason() {
        let refused = |more: &str| {
            plan(&format!("mintmark-load jwt --spiffe-id spiffe://a.test/b {more}")).unwrap_err()
        };
        for more in ["--rate 0", "--rate 1000001", "--connections 0", "--max-in-flight 0"] {
            assert!(refused(more).contains("is not in"), "{more}");
        }
        for more in ["10", "s", "1.5s", "-1s", "1h30m", "1d", ""] {
            assert!(refused(&format!("--duration={more}")).contains("write it like"), "{more}");
        }
        assert!(refused("--duration 0s").contains("no time"));
        assert!(refused("--duration 25h").contains("24 h"));
        assert!(refused("--duration 99999999999999999999s").contains("24 h"));
    }

    #[test]
    fn an_id_is_taken_apart_and_not_judged() {
        let id: SpiffeId = "spiffe://UPPER.test/a/../b/".parse().unwrap();
        assert_eq!((&*id.trust_domain, &*id.path), ("UPPER.test", "/a/../b/"));
        assert_eq!(id.to_string(), "spiffe://UPPER.test/a/../b/");
        for text in
            ["", "a.test/b", "spiffe://a.test", "spiffe://a.test/", "spiffe:///b", "spiffe://é/b"]
        {
            assert_eq!(text.parse::<SpiffeId>(), Err(SpiffeIdError), "{text}");
        }
    }
}
