//! The log of the process: what it does, for people. What it issues is in the issuance log.

use std::fs::File;
use std::io::IsTerminal as _;
use std::sync::{Arc, Mutex};

use mintmark_signer::{LogLevels, audit};
use tracing::Level;
use tracing::level_filters::LevelFilter;
use tracing_subscriber::filter::{FilterExt as _, filter_fn};
use tracing_subscriber::fmt::writer::BoxMakeWriter;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::{SubscriberInitExt as _, TryInitError};
use tracing_subscriber::{Layer as _, fmt, registry, reload};

use crate::config::{LogFormat, LogLevel, Logging};

/// The target under which the PKCS#11 binding calls each mechanism that it has no name for an error, by
/// the dozen at each start. What we need of a token is checked, and said, by `keymanager`.
const MECHANISMS: &str = "cryptoki::mechanism";

/// Whether events of this target speak of frames, connections and requests: at the finer levels they would
/// drown what Mintmark says itself, and AWS's crates write down whole requests, with the token of a web
/// identity.
fn is_wire(target: &str) -> bool {
    ["aws_", "h2::", "hyper::", "hyper_rustls::", "hyper_util::", "rustls::", "tonic::", "tower::"]
        .iter()
        .any(|prefix| target.starts_with(prefix))
}

/// Where the lines of the log go.
#[derive(Debug)]
pub enum Destination {
    /// Standard error, as service managers want it.
    StandardError,
    /// A file, at its end.
    File(File),
}

/// Starts the log of this process, once, and gives the handle that changes its level.
pub fn start(logging: Logging, destination: Destination) -> Result<Arc<LogLevels>, TryInitError> {
    let launch = level(logging.level);
    let (filter, handle) = reload::Layer::new(launch);
    let filter = filter
        .and(filter_fn(|metadata| metadata.target() != MECHANISMS))
        .and(filter_fn(|metadata| !is_wire(metadata.target()) || *metadata.level() <= Level::WARN))
        // What was refused is written down whatever else is wanted; it has its own bounds.
        .or(filter_fn(|metadata| metadata.target() == audit::TARGET));
    let (writer, colours) = match destination {
        Destination::StandardError => {
            (BoxMakeWriter::new(std::io::stderr), std::io::stderr().is_terminal())
        }
        Destination::File(file) => (BoxMakeWriter::new(Mutex::new(file)), false),
    };
    let lines = fmt::layer().with_writer(writer).with_ansi(colours);
    let lines = match logging.format {
        LogFormat::Text => lines.boxed(),
        LogFormat::Json => lines.json().flatten_event(true).boxed(),
    };
    registry().with(lines.with_filter(filter)).try_init()?;
    Ok(Arc::new(LogLevels::new(launch, handle)))
}

fn level(level: LogLevel) -> LevelFilter {
    match level {
        LogLevel::Error => LevelFilter::ERROR,
        LogLevel::Warn => LevelFilter::WARN,
        LogLevel::Info => LevelFilter::INFO,
        LogLevel::Debug => LevelFilter::DEBUG,
        LogLevel::Trace => LevelFilter::TRACE,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_carries_requests_is_heard_in_trouble_alone() {
        for target in [
            "aws_smithy_runtime::client::orchestrator",
            "aws_config::web_identity_token",
            "aws_sdk_sts::config",
            "h2::proto::connection",
            "hyper_util::client::legacy::pool",
            "rustls::client::hs",
        ] {
            assert!(is_wire(target), "{target}");
        }
        for target in ["keymanager::aws_kms", "mintmark_signer::audit", audit::TARGET, "mintmark"] {
            assert!(!is_wire(target), "{target}");
        }
    }
}
