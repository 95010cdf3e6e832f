//! The command line: flags are settings of a plan by another name.

use std::env;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

use super::settings::{Origin, PlanError, Settings};

/// Ask a CA for SVIDs by a plan, check every answer, and say what became of each request
#[derive(Debug, Parser)]
#[command(name = "mintmark-load", version, arg_required_else_help = true)]
#[command(
    after_help = "Exit codes: 0 SVIDs were minted and those checked were right, 1 none was minted \
                        or the generator failed, 2 wrong usage, 3 the plan has a fault, 4 server \
                        unreachable, 5 an answer was wrong, 6 the server refused the credentials."
)]
pub struct Arguments {
    #[command(subcommand)]
    asked: Asked,
    #[command(flatten)]
    flags: Flags,
}

#[derive(Debug, Subcommand)]
enum Asked {
    /// What the plan in a file says; flags override it
    Run {
        /// A plan, such as loadtest/plans/quickstart.toml
        #[arg(value_name = "PLAN")]
        plan: PathBuf,
    },
    /// X.509-SVIDs, each for a P-256 key whose CSR is made before the run
    X509,
    /// JWT-SVIDs
    Jwt,
}

#[derive(Debug, Args)]
#[command(next_help_heading = "Of every plan")]
struct Flags {
    /// Whom to ask: "spire" (SPIRE's API on a socket), "signer" (a signer's listener for front ends), "empty" or "stall"
    /// (nobody, in this process) [default: "signer" with --signer, else "spire"]
    #[arg(long, global = true, value_name = "KIND")]
    target: Option<String>,
    /// Admin socket of the server [default: $MINTMARK_SOCKET, else
    /// /run/mintmark/admin.sock]
    #[arg(long, global = true, value_name = "PATH")]
    socket: Option<String>,
    /// Where a signer listens for front ends; its process may be named with --server-pid [default: 127.0.0.1:8443]
    #[arg(long, global = true, value_name = "HOST:PORT")]
    signer: Option<String>,
    /// Folder of a front end that is enrolled there, from `mintmark frontend enroll --allow-named --write DIR`
    #[arg(long, global = true, value_name = "DIR")]
    credentials: Option<String>,
    /// Streams to the signer, used in turn [default: two for each connection]
    #[arg(long, global = true, value_name = "N")]
    streams: Option<String>,
    /// How keys are told to the signer: "spki" (verified here) or "csr" (verified there) [default: spki]
    #[arg(long, global = true, value_name = "FORM")]
    key_form: Option<String>,
    /// Connections, used in turn [default: 2]
    #[arg(long, global = true, value_name = "N")]
    connections: Option<String>,
    /// Process whose CPU and memory are the server's [default: the one behind the socket]
    #[arg(long, global = true, value_name = "PID")]
    server_pid: Option<String>,
    /// ID that requests name, with /0, /1, … after it; what is minted for it is real
    #[arg(long, global = true, value_name = "ID")]
    spiffe_id: Option<String>,
    /// How many such IDs take turns; of 1, the ID is named as it is [default: 100]
    #[arg(long, global = true, value_name = "N")]
    ids: Option<String>,
    /// "constant", "ramp", "knee" or "closed" [default: constant]
    #[arg(long, global = true, value_name = "SHAPE")]
    shape: Option<String>,
    /// Requests per second, sent at their times whether or not answers have come [default: 200]
    #[arg(long, global = true, value_name = "N")]
    rate: Option<String>,
    /// First rate of a ramp or a search for the knee
    #[arg(long, global = true, value_name = "N")]
    from: Option<String>,
    /// Last rate of a ramp or a search for the knee
    #[arg(long, global = true, value_name = "N")]
    to: Option<String>,
    /// Callers of a closed loop, each of which waits for its answer before it asks again [default: 16]
    #[arg(long, global = true, value_name = "N")]
    callers: Option<String>,
    /// Requests that come at the same time, together [default: 1]
    #[arg(long, global = true, value_name = "N")]
    batch: Option<String>,
    /// How long to measure: "500ms", "10s", "5m" or "1h" [default: 10s]
    #[arg(long, global = true, value_name = "TIME")]
    duration: Option<String>,
    /// How long to ask before that [default: 0s]
    #[arg(long, global = true, value_name = "TIME")]
    warm_up: Option<String>,
    /// Requests without an answer at once; one more is not sent and counts as dropped [default: 1000]
    #[arg(long, global = true, value_name = "N")]
    max_in_flight: Option<String>,
    /// Which part of the answers is checked, 0 to 1 [default: 1]
    #[arg(long, global = true, value_name = "SHARE")]
    check: Option<String>,
    /// Any other setting of a plan, such as load.p99=50ms
    #[arg(long, global = true, value_name = "KEY=VALUE")]
    set: Vec<String>,
    #[command(flatten)]
    outputs: Outputs,
}

/// The environment's word on the socket, for all of Mintmark's commands.
const SOCKET: &str = "MINTMARK_SOCKET";

/// Where the report goes.
#[derive(Debug, Clone, Args)]
pub struct Outputs {
    /// On standard output: a summary for people or JSON for programs
    #[arg(long, global = true, value_enum, default_value_t, value_name = "FORM")]
    pub output: Output,
    /// Also write the JSON to this file
    #[arg(long, global = true, value_name = "FILE")]
    pub json: Option<PathBuf>,
    /// Also write the report as one HTML page to this file
    #[arg(long, global = true, value_name = "FILE")]
    pub report: Option<PathBuf>,
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

impl Arguments {
    /// Where the report is wanted.
    #[must_use]
    pub fn outputs(&self) -> &Outputs {
        &self.flags.outputs
    }

    /// What the file says, and over it what was typed.
    pub fn settings(&self) -> Result<Settings, PlanError> {
        let mut settings = Settings::default();
        if let Ok(socket) = env::var(SOCKET) {
            settings.offer("target.socket", &socket, Origin::Flag(SOCKET.to_owned()));
        }
        if self.flags.signer.is_some() {
            settings.offer("target.kind", "signer", Origin::Flag("--signer".to_owned()));
        }
        match &self.asked {
            Asked::Run { plan } => settings.read_file(plan)?,
            Asked::X509 => settings.set("ask.what", "x509", Origin::Flag("x509".to_owned())),
            Asked::Jwt => settings.set("ask.what", "jwt", Origin::Flag("jwt".to_owned())),
        }
        for (flag, key, value) in self.flags.named() {
            if let Some(value) = value {
                settings.set(key, value, Origin::Flag(flag.to_owned()));
            }
        }
        for pair in &self.flags.set {
            let (key, value) = pair.split_once('=').ok_or_else(|| PlanError::Fault {
                origin: Origin::Flag("--set".to_owned()),
                sentence: format!("{pair} is not of the form KEY=VALUE"),
            })?;
            settings.set(key, value, Origin::Flag(format!("--set {key}")));
        }
        Ok(settings)
    }
}

impl Flags {
    /// Each flag with the key it sets.
    fn named(&self) -> [(&str, &str, Option<&String>); 20] {
        [
            ("--target", "target.kind", self.target.as_ref()),
            ("--socket", "target.socket", self.socket.as_ref()),
            ("--signer", "target.address", self.signer.as_ref()),
            ("--credentials", "target.credentials", self.credentials.as_ref()),
            ("--streams", "target.streams", self.streams.as_ref()),
            ("--key-form", "target.key_form", self.key_form.as_ref()),
            ("--connections", "target.connections", self.connections.as_ref()),
            ("--server-pid", "target.server_pid", self.server_pid.as_ref()),
            ("--spiffe-id", "ask.spiffe_id", self.spiffe_id.as_ref()),
            ("--ids", "ask.ids", self.ids.as_ref()),
            ("--shape", "load.shape", self.shape.as_ref()),
            ("--rate", "load.rate", self.rate.as_ref()),
            ("--from", "load.from", self.from.as_ref()),
            ("--to", "load.to", self.to.as_ref()),
            ("--callers", "load.callers", self.callers.as_ref()),
            ("--batch", "load.batch", self.batch.as_ref()),
            ("--duration", "load.duration", self.duration.as_ref()),
            ("--warm-up", "load.warm_up", self.warm_up.as_ref()),
            ("--max-in-flight", "load.max_in_flight", self.max_in_flight.as_ref()),
            ("--check", "check.share", self.check.as_ref()),
        ]
    }
}
