//! The command line: what a person may type. Defaults and bounds that one argument has on its own are
//! checked here, so that a typing error is told before anything is opened.

use std::path::PathBuf;
use std::time::Duration;

use ca_core::clock::Timestamp;
use ca_core::frontend::{DnsScope, FrontEndName, PathScope, Rate};
use ca_core::id::{SpiffeId, TrustDomain};
use ca_core::key::{KeyName, KeyType};
use ca_core::log::search::IdQuery;
use ca_core::log::tree::LogKey;
use ca_core::pipeline::admission::Class;
use ca_core::serial::Serial;
use clap::error::ErrorKind;
use clap::parser::ValueSource;
use clap::{Args, CommandFactory as _, FromArgMatches as _, Parser, Subcommand, ValueEnum};
use x509_cert::der::DateTime;

use crate::config::{DEFAULT_PATH, Period, PeriodError, Settings};

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
            Command::Server(_) | Command::Check(_) => {
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

/// `mintmark frontend …`
#[derive(Debug, Subcommand)]
pub enum Frontend {
    /// Take in a front end, or a further instance of one: mint its SVID, and record its key and what it may do
    Enroll(Box<EnrollFrontEnd>),
    /// List the front ends, withdrawn ones too
    List(Shown),
    /// Show what a front end may do, and its keys
    Show(NamedFrontEnd),
    /// End a front end: none of its keys is accepted any more
    Withdraw(NamedFrontEnd),
}

impl Frontend {
    /// How the result is shown.
    #[must_use]
    pub fn shown(&self) -> Shown {
        match self {
            Self::Enroll(arguments) => arguments.shown,
            Self::List(shown) => *shown,
            Self::Show(arguments) | Self::Withdraw(arguments) => arguments.shown,
        }
    }
}

/// `mintmark frontend enroll`
#[derive(Debug, Args)]
#[group(id = "delivered", required = true, multiple = true, args = ["csr", "write"])]
pub struct EnrollFrontEnd {
    /// Name of the front end; its instances share it
    #[arg(value_name = "NAME", value_parser = FrontEndName::parse)]
    pub name: FrontEndName,
    /// Path of the SPIFFE IDs that it may ask for, with all below it; / for all; may be given several times
    #[arg(long, value_name = "/PATH", required = true, value_parser = PathScope::parse)]
    pub path_scope: Vec<PathScope>,
    /// DNS name that it may ask for, or *.DOMAIN for all below that; may be given several times
    #[arg(long, value_name = "NAME", value_parser = DnsScope::parse)]
    pub dns_scope: Vec<DnsScope>,
    /// Let it name the IDs that it asks for itself
    #[arg(long)]
    pub allow_named: bool,
    /// Let it ask for CA certificates of downstream servers, which can issue any ID; needs --path-scope /
    #[arg(long)]
    pub allow_downstream: bool,
    /// Let it publish JWT authorities
    #[arg(long)]
    pub allow_publish: bool,
    /// Let it do what can be done over the admin socket
    #[arg(long)]
    pub allow_admin: bool,
    /// Want a CSR for each key, which the signer verifies, instead of its word
    #[arg(long)]
    pub require_csr: bool,
    /// Longest life of what it asks for, such as "1h"; a day if it is not given
    #[arg(long, value_name = "SPAN", value_parser = max_ttl)]
    pub max_ttl: Option<Ttl>,
    /// Kind of key that it may ask for: ec-p256, ec-p384, ed25519, or rsa-2048, rsa-3072, rsa-4096 for that size and
    /// larger ones; may be given several times; all if it is not given
    #[arg(long, value_name = "TYPE")]
    pub allow_key: Vec<KeyType>,
    /// How much it may ask for: items a second, and how many at once
    #[arg(long, value_name = "RATE[/BURST]")]
    pub budget: Option<Rate>,
    /// How much of a class (expiring, new, refresh or bulk) it may ask for; may be given several times
    #[arg(long, value_name = "CLASS=RATE[/BURST]", value_parser = class_budget)]
    pub class_budget: Vec<ClassBudget>,
    /// Change the terms of a front end that is there, for all of its instances
    #[arg(long)]
    pub replace: bool,
    /// Take in a front end again that was withdrawn
    #[arg(long)]
    pub again: bool,
    /// CSR of the front end's key, PEM or DER; "-" reads standard input; without it a key is made here
    #[arg(long, value_name = "FILE")]
    pub csr: Option<PathBuf>,
    /// Kind of key to make: ec-p256, ec-p384, rsa-2048, rsa-3072, rsa-4096 or ed25519
    #[arg(long, value_name = "TYPE", default_value_t = KeyType::EcP256, conflicts_with = "csr")]
    pub key_type: KeyType,
    /// Folder that receives svid.pem, bundle.pem and, if the key was made here, key.pem
    #[arg(long, value_name = "DIR")]
    pub write: Option<PathBuf>,
    /// How to show the result; `json` carries the PEM texts if nothing is written.
    #[command(flatten)]
    pub shown: Shown,
}

/// `mintmark frontend show` and `withdraw`
#[derive(Debug, Args)]
pub struct NamedFrontEnd {
    /// Name of the front end
    #[arg(value_name = "NAME", value_parser = FrontEndName::parse)]
    pub name: FrontEndName,
    /// How to show it.
    #[command(flatten)]
    pub shown: Shown,
}

/// The budget of a class.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ClassBudget {
    /// Of which class.
    pub class: Class,
    /// How much.
    pub rate: Rate,
}

fn class_budget(text: &str) -> Result<ClassBudget, String> {
    let wanted =
        "write it like bulk=100 or new=1000/2000; classes are expiring, new, refresh and bulk";
    let (class, rate) = text.split_once('=').ok_or(wanted)?;
    let class = Class::ALL.into_iter().find(|known| known.name() == class).ok_or(wanted)?;
    let rate = rate.parse().map_err(|error: ca_core::frontend::RateError| error.to_string())?;
    Ok(ClassBudget { class, rate })
}

/// `mintmark key …`
#[derive(Debug, Subcommand)]
pub enum Key {
    /// List the keys of the trust domain, and what our record says of each
    List(ListKeys),
    /// Make keys for authorities to come
    Create(CreateKeys),
    /// Show what the store tells of a key
    Show(ShowKey),
    /// Have keys sign a probe, and verify it
    Verify(VerifyKeys),
    /// Record that a key signs no more
    Retire(RetireKey),
    /// Destroy keys that nothing needs any more
    Destroy(DestroyKeys),
    /// Measure how many signatures at once the device can use
    Probe(ProbeKeys),
}

/// Which key store is meant.
#[derive(Debug, Args)]
pub struct KeyPlace {
    /// Which file describes it.
    #[command(flatten)]
    pub configuration: Configuration,
    /// The store's section [keys.NAME]; by default the one that issuing.keys names
    #[arg(long, value_name = "NAME")]
    pub keys: Option<String>,
}

/// `mintmark key list`
#[derive(Debug, Args)]
pub struct ListKeys {
    /// Of which store.
    #[command(flatten)]
    pub place: KeyPlace,
    /// How to show them.
    #[command(flatten)]
    pub shown: Shown,
}

/// `mintmark key create`
#[derive(Debug, Args)]
pub struct CreateKeys {
    /// In which store.
    #[command(flatten)]
    pub place: KeyPlace,
    /// Kind of authority to make keys for
    #[arg(long, value_enum, default_value_t, value_name = "KIND")]
    pub authority: Authority,
    /// Kind of key: ec-p256, ec-p384, rsa-2048, rsa-3072, rsa-4096, ed25519, ml-dsa-44 or ml-dsa-65; as
    /// configured if it is not given
    #[arg(long = "type", value_name = "TYPE")]
    pub key_type: Option<KeyType>,
    /// How many; 1 to 100
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u8).range(1..=100))]
    pub count: u8,
    /// How to show what was made.
    #[command(flatten)]
    pub shown: Shown,
}

/// What has keys of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub enum Authority {
    /// Signs X.509-SVIDs.
    #[default]
    X509,
    /// Signs JWT-SVIDs.
    Jwt,
    /// Signs the heads of the issuance log.
    Log,
}

/// `mintmark key show`
#[derive(Debug, Args)]
pub struct ShowKey {
    /// Name of the key
    #[arg(value_name = "NAME", value_parser = KeyName::parse)]
    pub name: KeyName,
    /// Of which store.
    #[command(flatten)]
    pub place: KeyPlace,
    /// How to show it.
    #[command(flatten)]
    pub shown: Shown,
}

/// `mintmark key verify`
#[derive(Debug, Args)]
#[group(id = "which", required = true, multiple = false, args = ["name", "all"])]
pub struct VerifyKeys {
    /// Name of the key
    #[arg(value_name = "NAME", value_parser = KeyName::parse)]
    pub name: Option<KeyName>,
    /// Every key of the trust domain
    #[arg(long)]
    pub all: bool,
    /// Of which store.
    #[command(flatten)]
    pub place: KeyPlace,
    /// How to show what was found.
    #[command(flatten)]
    pub shown: Shown,
}

/// `mintmark key retire`
#[derive(Debug, Args)]
pub struct RetireKey {
    /// Name of the key
    #[arg(value_name = "NAME", value_parser = KeyName::parse)]
    pub name: KeyName,
    /// Of which store.
    #[command(flatten)]
    pub place: KeyPlace,
    /// How to show what was done.
    #[command(flatten)]
    pub shown: Shown,
}

/// `mintmark key destroy`
#[derive(Debug, Args)]
pub struct DestroyKeys {
    /// Names of the keys; every key that may be destroyed if none is given
    #[arg(value_name = "NAME", value_parser = KeyName::parse)]
    pub names: Vec<KeyName>,
    /// Show what would be destroyed, and why the others stay
    #[arg(long, conflicts_with = "yes")]
    pub dry_run: bool,
    /// Do not ask
    #[arg(long)]
    pub yes: bool,
    /// Of which store.
    #[command(flatten)]
    pub place: KeyPlace,
    /// How to show what was done.
    #[command(flatten)]
    pub shown: Shown,
}

/// `mintmark key probe`
#[derive(Debug, Args)]
pub struct ProbeKeys {
    /// Key to sign with; the first one that can be used if it is not given
    #[arg(long, value_name = "NAME", value_parser = KeyName::parse)]
    pub key: Option<KeyName>,
    /// How long each step lasts, in seconds; 0.1 to 600
    #[arg(long, value_name = "N", default_value = "3", value_parser = step)]
    pub seconds: Duration,
    /// The highest number of signatures at once to try; 1 to 1024
    #[arg(long, value_name = "N", default_value_t = 256, value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub sessions: u16,
    /// Of which store.
    #[command(flatten)]
    pub place: KeyPlace,
    /// How to show what was measured.
    #[command(flatten)]
    pub shown: Shown,
}

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

fn step(text: &str) -> Result<Duration, String> {
    let seconds = text.parse::<f64>().ok().filter(|seconds| (0.1..=600.0).contains(seconds));
    let seconds = seconds.ok_or("a number of seconds from 0.1 to 600 is wanted")?;
    Ok(Duration::from_secs_f64(seconds))
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

fn max_ttl(text: &str) -> Result<Ttl, String> {
    life(text, "--max-ttl")
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
