//! The command line: what a person may type. Defaults and bounds that one argument has on its own are
//! checked here, so that a typing error is told before anything is opened.

mod frontend;
mod key;
mod log;

use std::path::PathBuf;

use ca_core::id::{SpiffeId, TrustDomain};
use ca_core::key::KeyType;
use clap::error::ErrorKind;
use clap::parser::ValueSource;
use clap::{Args, CommandFactory as _, FromArgMatches as _, Parser, Subcommand, ValueEnum};

use crate::config::{DEFAULT_PATH, Period, PeriodError, Settings};
pub use frontend::{ClassBudget, EnrollFrontEnd, Frontend, NamedFrontEnd};
pub use key::{
    Authority, CreateKeys, DestroyKeys, Key, KeyPlace, ListKeys, ProbeKeys, RetireKey, ShowKey,
    VerifyKeys,
};
pub use log::{
    ExportFormat, ExportLog, Log, LogPlace, Moment, ProveLog, PruneLog, SearchLog, Span, TailLog,
    VerifyLog,
};

/// A certificate authority for workloads: SPIFFE SVIDs, signed by keys that stay in their token
#[derive(Debug, Parser)]
#[command(name = "mintmark", version, arg_required_else_help = true)]
#[command(after_help = "Exit codes: 0 done, 1 failed, 2 wrong usage, 3 wrong configuration, \
                        4 server unreachable or not healthy.")]
pub struct Cli {
    /// Admin socket of the server
    #[arg(long, global = true, env = "MINTMARK_SOCKET", value_name = "PATH")]
    #[arg(default_value = Settings::DEFAULT_SOCKET)]
    pub socket: PathBuf,

    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

impl Cli {
    /// What was typed; ends the process with exit code 2 if that makes no sense.
    #[must_use]
    pub fn from_arguments() -> Self {
        let matches = Self::command().get_matches();
        let cli = Self::from_arg_matches(&matches).unwrap_or_else(|error| error.exit());
        // The variable may be set for the other commands; the option was meant for this one.
        let typed = matches.value_source("socket") == Some(ValueSource::CommandLine);
        let instead = match cli.command {
            Command::Key(_) => "name the configuration of the key store with --config",
            Command::Log(_) => {
                "name the configuration with --config, or the log's folder with --dir"
            }
            Command::Server(_) | Command::Signer(_) | Command::Check(_) => {
                "set [server.admin] socket in the configuration"
            }
            Command::Dev(_) => "name a folder with --dir: its socket is DIR/admin.sock",
            _ => return cli,
        };
        if typed {
            let text =
                format!("--socket names a running server and has no meaning here; {instead}");
            Self::command().error(ErrorKind::ArgumentConflict, text).exit();
        }
        cli
    }
}

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Try it: a server with throw-away keys and state that mints, checks and shows what it made
    Dev(Dev),
    /// Run the server that a configuration describes
    Server(Configuration),
    /// Run a signer alone, for front ends elsewhere
    Signer(Configuration),
    /// Check a configuration and what it points at, and say what is wrong and where
    Check(Check),
    /// X.509-SVIDs
    #[command(subcommand)]
    X509(X509),
    /// JWT-SVIDs
    #[command(subcommand)]
    Jwt(Jwt),
    /// The trust bundle
    #[command(subcommand)]
    Bundle(Bundle),
    /// Front ends: who may ask this signer to mint for workloads
    #[command(subcommand)]
    Frontend(Frontend),
    /// The keys of a key store
    #[command(subcommand)]
    Key(Key),
    /// The issuance log: what was issued, to whom, by which key, and the proof of it
    #[command(subcommand)]
    Log(Box<Log>),
    /// Ask the server whether it can do its work
    Healthcheck(Shown),
    /// Say which version this is
    Version(Shown),
}

/// How a result is shown.
#[derive(Debug, Clone, Copy, Args)]
pub struct Shown {
    /// A table for people or JSON for programs
    #[arg(long, value_enum, default_value_t, value_name = "FORM")]
    pub output: Output,
}

/// The forms in which a result is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub enum Output {
    /// For people.
    #[default]
    Table,
    /// For programs.
    Json,
}

/// Which configuration is meant.
#[derive(Debug, Args)]
pub struct Configuration {
    /// Configuration file
    #[arg(long, value_name = "FILE", default_value = DEFAULT_PATH)]
    pub config: PathBuf,
}

/// `mintmark dev`
#[derive(Debug, Args)]
pub struct Dev {
    /// Trust domain to make up
    #[arg(long, value_name = "NAME", default_value = "dev.test", value_parser = TrustDomain::parse)]
    pub trust_domain: TrustDomain,
    /// Folder that keeps keys, state and socket; a temporary one, removed at the end, if it is not given
    #[arg(long, value_name = "DIR")]
    pub dir: Option<PathBuf>,
    /// Folder that receives the SVID's files; DIR/svid if it is not given
    #[arg(long, value_name = "DIR")]
    pub write: Option<PathBuf>,
    /// End after the first mint instead of serving on
    #[arg(long)]
    pub once: bool,
    /// How to show what was made.
    #[command(flatten)]
    pub shown: Shown,
}

/// `mintmark check`
#[derive(Debug, Args)]
pub struct Check {
    /// Which file to check.
    #[command(flatten)]
    pub configuration: Configuration,
    /// How to show what was found.
    #[command(flatten)]
    pub shown: Shown,
}

/// `mintmark x509 …`
#[derive(Debug, Subcommand)]
pub enum X509 {
    /// Mint an X.509-SVID for a CSR, or for a key made here
    Mint(MintX509),
    /// Show what a certificate file says
    Show(ShowX509),
}

/// `mintmark x509 mint`
#[derive(Debug, Args)]
#[group(id = "subject", required = true, multiple = false, args = ["csr", "spiffe_id"])]
pub struct MintX509 {
    /// CSR to mint for, PEM or DER; "-" reads standard input
    #[arg(long, value_name = "FILE")]
    pub csr: Option<PathBuf>,
    /// SPIFFE ID to mint for; key and CSR are made here
    #[arg(long, value_name = "ID", value_parser = SpiffeId::parse)]
    pub spiffe_id: Option<SpiffeId>,
    /// Kind of key to make: ec-p256, ec-p384, rsa-2048, rsa-3072, rsa-4096 or ed25519
    #[arg(long, value_name = "TYPE", default_value_t = KeyType::EcP256, conflicts_with = "csr")]
    pub key_type: KeyType,
    /// DNS name to put into the certificate; may be given several times
    #[arg(long, value_name = "NAME", conflicts_with = "csr")]
    pub dns: Vec<String>,
    /// Life of the SVID, such as "1h" or "90m"; the server's default if it is not given
    #[arg(long, value_name = "SPAN", value_parser = ttl)]
    pub ttl: Option<Ttl>,
    /// Folder that receives svid.pem, bundle.pem and, if the key was made here, key.pem
    #[arg(long, value_name = "DIR")]
    pub write: Option<PathBuf>,
    /// How to show the result; `json` carries the PEM texts if nothing is written.
    #[command(flatten)]
    pub shown: Shown,
}

/// `mintmark x509 show`
#[derive(Debug, Args)]
pub struct ShowX509 {
    /// Certificate file, PEM (one or several) or DER; "-" reads standard input
    #[arg(value_name = "FILE")]
    pub file: PathBuf,
    /// How to show it.
    #[command(flatten)]
    pub shown: Shown,
}

/// `mintmark jwt …`
#[derive(Debug, Subcommand)]
pub enum Jwt {
    /// Mint a JWT-SVID and print the token
    Mint(MintJwt),
}

/// `mintmark jwt mint`
#[derive(Debug, Args)]
pub struct MintJwt {
    /// SPIFFE ID to mint for
    #[arg(long, value_name = "ID", value_parser = SpiffeId::parse)]
    pub spiffe_id: SpiffeId,
    /// Whom the token is for; may be given several times
    #[arg(long, value_name = "NAME", required = true)]
    pub audience: Vec<String>,
    /// Life of the token, such as "5m"; the server's default if it is not given
    #[arg(long, value_name = "SPAN", value_parser = ttl)]
    pub ttl: Option<Ttl>,
    /// How to show the result; `table` is the token alone, on one line.
    #[command(flatten)]
    pub shown: Shown,
}

/// `mintmark bundle …`
#[derive(Debug, Subcommand)]
pub enum Bundle {
    /// Show the bundle of the server's trust domain
    Show(ShowBundle),
}

/// `mintmark bundle show`
#[derive(Debug, Args)]
pub struct ShowBundle {
    /// Print the bundle itself in this form, instead of what is in it
    #[arg(long, value_enum, value_name = "FORMAT", conflicts_with = "output")]
    pub format: Option<BundleFormat>,
    /// How to show what is in it.
    #[command(flatten)]
    pub shown: Shown,
}

/// The forms of a bundle.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum BundleFormat {
    /// The SPIFFE bundle: a JWKS with X.509 and JWT authorities.
    Spiffe,
    /// The X.509 authorities.
    Pem,
    /// The JWT authorities as a plain JWKS, for verifiers that know no SPIFFE.
    Jwks,
}

/// A life in a request: 1 second to 2^31-1 seconds, as the wire has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ttl(i32);

impl Ttl {
    /// Whole seconds; 0, which asks for the server's default, for `None`.
    #[must_use]
    pub fn seconds(ttl: Option<Self>) -> i32 {
        ttl.map_or(0, |Self(seconds)| seconds)
    }
}

fn ttl(text: &str) -> Result<Ttl, String> {
    life(text, "--ttl")
}

fn life(text: &str, option: &str) -> Result<Ttl, String> {
    let Period(span) = text.parse().map_err(|error: PeriodError| error.to_string())?;
    match i32::try_from(span.as_secs()) {
        Ok(0) => Err(format!("a life of nothing; leave {option} out for the server's default")),
        Ok(seconds) => Ok(Ttl(seconds)),
        Err(_) => Err("longer than 68 years, which the wire cannot carry".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn a_life_fits_the_wire() {
        assert_eq!(ttl("1h"), Ok(Ttl(3_600)));
        assert_eq!(ttl("2147483647s"), Ok(Ttl(i32::MAX)));
        assert!(ttl("2147483648s").unwrap_err().contains("68 years"));
        assert!(ttl("0s").unwrap_err().contains("server's default"));
        assert!(ttl("60").unwrap_err().contains("write it like"));
        assert_eq!(Ttl::seconds(None), 0);
    }
}
