//! What is to be asked for: the command line and the plan's file, and the plan that they become once every
//! value is checked.

mod command_line;
mod settings;

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use serde::{Serialize, Serializer};
use thiserror::Error;

pub use command_line::{Arguments, Output, Outputs};
pub use settings::{Origin, PlanError, Settings};

use crate::shape::{Knee, Shape};

/// A run, every value within its bounds.
#[derive(Debug, Clone, Serialize)]
pub struct Plan {
    /// Whom to ask.
    pub target: TargetPlan,
    /// What is asked for.
    pub document: Document,
    /// For whom. With more than one of [`ids`](Self::ids), what each of them begins with.
    pub spiffe_id: SpiffeId,
    /// How many IDs take turns, at least 1: `spiffe_id` itself, or `spiffe_id/0`, `spiffe_id/1`, …
    pub ids: u32,
    /// When.
    #[serde(flatten)]
    pub shape: Shape,
    /// Sent before the clock starts, at the rate of the beginning; what comes of it is checked and not
    /// measured. Zero is none.
    #[serde(rename = "warm_up_seconds", serialize_with = "seconds")]
    pub warm_up: Duration,
    /// Requests without an answer at once, at least 1.
    pub max_in_flight: u32,
    /// How long after its intended time a request may be answered. Longer than a server of ours lets a mint
    /// last, so that its own word on the matter comes first.
    #[serde(rename = "answer_within_seconds", serialize_with = "seconds")]
    pub answer_within: Duration,
    /// Which part of the answers is checked, 0 to 1.
    pub check_share: f64,
    /// How long each window of the course over time lasts; none is chosen by the length of the run.
    #[serde(skip)]
    pub window: Option<Duration>,
}

/// Whom to ask.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum TargetPlan {
    /// A server that speaks SPIRE's API on a unix socket.
    Spire {
        /// Its socket.
        socket: PathBuf,
        /// Connections, at least 1.
        connections: u32,
        /// Its process, if not the one at the other end of the socket.
        server_pid: Option<u32>,
    },
    /// A signer's listener for front ends: items over `Mint` streams.
    Signer {
        /// Where it listens, `HOST:PORT`.
        address: String,
        /// The folder of a front end that is enrolled there, and may name IDs.
        credentials: PathBuf,
        /// Connections, at least 1.
        connections: u32,
        /// Streams in all, used in turn; at least one for each connection and at most [`STREAMS_OF_A_CONNECTION`].
        streams: u32,
        /// How an X509-SVID's key is told.
        key_form: KeyForm,
        /// Its process, if it is on this machine.
        server_pid: Option<u32>,
    },
    /// Nobody: each request is answered at once in this process.
    Empty,
    /// As `Empty`, but for a regular stall.
    Stall {
        /// From the beginning of one stall to that of the next; the first begins after `every` less `stall`.
        #[serde(rename = "every_seconds", serialize_with = "seconds")]
        every: Duration,
        /// How long each lasts.
        #[serde(rename = "stall_seconds", serialize_with = "seconds")]
        stall: Duration,
    },
}

/// How the key of an X509-SVID is told to a signer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum KeyForm {
    /// By itself: the front end has verified who holds it.
    Spki,
    /// In a CSR, which the signer verifies.
    Csr,
}

/// Streams that a signer takes on one connection, less one for what is not minting.
pub const STREAMS_OF_A_CONNECTION: u32 = 7;

impl TargetPlan {
    /// The server's process, as far as the plan says it.
    #[must_use]
    pub fn server_pid(&self) -> Option<u32> {
        match self {
            Self::Spire { server_pid, .. } | Self::Signer { server_pid, .. } => *server_pid,
            Self::Empty | Self::Stall { .. } => None,
        }
    }
}

impl Plan {
    /// Checks `settings`, all of them: what no part of a plan wants is an error.
    pub fn check(mut settings: Settings) -> Result<Self, PlanError> {
        let plan = Self {
            target: target(&mut settings)?,
            document: settings.one_of("ask.what", DOCUMENTS, Some(Document::X509Svid))?,
            spiffe_id: settings.parsed("ask.spiffe_id", None)?,
            ids: settings.count("ask.ids", 1..=100_000, Some(100))?,
            shape: shape(&mut settings)?,
            warm_up: settings.span("load.warm_up", Some(Duration::ZERO))?,
            max_in_flight: settings.count("load.max_in_flight", 1..=1_000_000, Some(1_000))?,
            answer_within: settings.span("load.answer_within", Some(Duration::from_secs(30)))?,
            check_share: settings.share("check.share", Some(1.0))?,
            window: settings.optional_span("report.window")?,
        };
        settings.finish()?;
        Ok(plan)
    }

    /// Requests without an answer at once: of a closed loop, its callers.
    #[must_use]
    pub fn most_in_flight(&self) -> u32 {
        match self.shape {
            Shape::Closed { callers, .. } => callers,
            Shape::Constant { .. } | Shape::Ramp { .. } | Shape::Knee(_) => self.max_in_flight,
        }
    }
}

fn target(settings: &mut Settings) -> Result<TargetPlan, PlanError> {
    #[derive(Clone, Copy)]
    enum Kind {
        Spire,
        Signer,
        Empty,
        Stall,
    }
    let kinds = &[
        ("spire", Kind::Spire),
        ("signer", Kind::Signer),
        ("empty", Kind::Empty),
        ("stall", Kind::Stall),
    ];
    Ok(match settings.one_of("target.kind", kinds, Some(Kind::Spire))? {
        Kind::Spire => TargetPlan::Spire {
            socket: settings.parsed("target.socket", Some("/run/mintmark/admin.sock".into()))?,
            connections: settings.count("target.connections", 1..=1_000, Some(2))?,
            server_pid: settings.optional_count("target.server_pid", 1..=u32::MAX)?,
        },
        Kind::Signer => signer(settings)?,
        Kind::Empty => TargetPlan::Empty,
        Kind::Stall => {
            let every = settings.positive("target.every", Some(Duration::from_secs(10)))?;
            let stall = settings.positive("target.stall", Some(Duration::from_secs(1)))?;
            if stall >= every {
                return Err(settings.fault("target.stall", "is not shorter than target.every"));
            }
            TargetPlan::Stall { every, stall }
        }
    })
}

fn signer(settings: &mut Settings) -> Result<TargetPlan, PlanError> {
    let forms = &[("spki", KeyForm::Spki), ("csr", KeyForm::Csr)];
    let connections = settings.count("target.connections", 1..=128, Some(2))?;
    let streams = settings.count("target.streams", 1..=1_000, Some(2 * connections))?;
    if streams < connections || streams > connections * STREAMS_OF_A_CONNECTION {
        return Err(settings.fault(
            "target.streams",
            "is not one to seven for each of target.connections, which is what a connection has room for",
        ));
    }
    Ok(TargetPlan::Signer {
        address: settings.parsed("target.address", Some("127.0.0.1:8443".to_owned()))?,
        credentials: settings.parsed("target.credentials", None)?,
        connections,
        streams,
        key_form: settings.one_of("target.key_form", forms, Some(KeyForm::Spki))?,
        server_pid: settings.optional_count("target.server_pid", 1..=u32::MAX)?,
    })
}

/// The fastest schedule: a request each 100 ns.
const FASTEST: u32 = 10_000_000;

fn shape(settings: &mut Settings) -> Result<Shape, PlanError> {
    #[derive(Clone, Copy)]
    enum Kind {
        Constant,
        Ramp,
        Knee,
        Closed,
    }
    const RATES: std::ops::RangeInclusive<u32> = 1..=FASTEST;
    let kinds = &[
        ("constant", Kind::Constant),
        ("ramp", Kind::Ramp),
        ("knee", Kind::Knee),
        ("closed", Kind::Closed),
    ];
    let kind = settings.one_of("load.shape", kinds, Some(Kind::Constant))?;
    let duration = settings.positive("load.duration", Some(Duration::from_secs(10)))?;
    if let Kind::Closed = kind {
        let callers = settings.count("load.callers", 1..=100_000, Some(16))?;
        return Ok(Shape::Closed { callers, duration });
    }
    let batch = settings.count("load.batch", 1..=10_000, Some(1))?;
    Ok(match kind {
        Kind::Constant | Kind::Closed => Shape::Constant {
            rate: settings.count("load.rate", RATES, Some(200))?,
            batch,
            duration,
        },
        Kind::Ramp => Shape::Ramp {
            from: settings.count("load.from", RATES, None)?,
            to: settings.count("load.to", RATES, None)?,
            batch,
            duration,
        },
        Kind::Knee => {
            let from = settings.count("load.from", RATES, None)?;
            let to = settings.count("load.to", RATES, Some(FASTEST))?;
            if to < from {
                return Err(settings.fault("load.to", "is below load.from"));
            }
            Shape::Knee(Knee {
                from,
                to,
                factor: settings.number("load.factor", 1.01..=10.0, Some(1.5))?,
                step: settings.positive("load.step", Some(Duration::from_secs(5)))?,
                short_by: settings.share("load.short_by", Some(0.02))?,
                p99: settings.positive("load.p99", Some(Duration::from_millis(100)))?,
                batch,
                duration,
            })
        }
    })
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { target, document, spiffe_id, ids, shape, max_in_flight, .. } = self;
        write!(f, "{document} for {spiffe_id}")?;
        if *ids > 1 {
            write!(f, "/0 to /{}", ids - 1)?;
        }
        write!(f, " from {target}; {shape}")?;
        if !shape.is_closed() {
            write!(f, ", at most {max_in_flight} in flight")?;
        }
        Ok(())
    }
}

impl fmt::Display for TargetPlan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Spire { socket, connections, .. } => {
                write!(f, "{} over {connections} connections", socket.display())
            }
            Self::Signer { address, connections, streams, key_form, .. } => {
                let form = match key_form {
                    KeyForm::Spki => "keys by themselves",
                    KeyForm::Csr => "keys in CSRs",
                };
                write!(
                    f,
                    "the signer at {address} over {streams} streams on {connections} connections, {form}"
                )
            }
            Self::Empty => f.write_str("nobody: the empty target answers at once"),
            Self::Stall { every, stall } => {
                write!(f, "nobody: the target that stalls for {stall:?} every {every:?}")
            }
        }
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

const DOCUMENTS: &[(&str, Document)] = &[("x509", Document::X509Svid), ("jwt", Document::JwtSvid)];

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

/// A span as JSON has it.
pub(crate) fn seconds<S: Serializer>(span: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_f64(span.as_secs_f64())
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::{CommandFactory, Parser as _};

    fn plan(line: &str) -> Result<Plan, String> {
        let arguments = Arguments::try_parse_from(line.split(' ')).map_err(|e| e.to_string())?;
        arguments.settings().and_then(Plan::check).map_err(|error| error.to_string())
    }

    /// A plan's file of these lines after those that every plan has.
    fn file(lines: &str) -> Result<Plan, String> {
        let text = format!("[ask]\nspiffe_id = \"spiffe://a.test/b\"\n{lines}");
        let mut settings = Settings::default();
        settings
            .read("p.toml".as_ref(), &text)
            .and_then(|()| Plan::check(settings))
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
        let duration = Duration::from_secs(10);
        assert_eq!(plan.shape, Shape::Constant { rate: 200, batch: 1, duration });
        let socket = "/s".into();
        let expected = TargetPlan::Spire { socket, connections: 2, server_pid: None };
        assert_eq!(plan.target, expected);
        assert_eq!((plan.max_in_flight, plan.ids, plan.warm_up), (1_000, 100, Duration::ZERO));
        assert!((plan.check_share - 1.0).abs() < f64::EPSILON);
    }

    #[test]
    fn values_out_of_bounds_are_refused_with_the_flag_and_the_reason() {
        let refused = |more: &str| {
            plan(&format!("mintmark-load jwt --spiffe-id spiffe://a.test/b {more}")).unwrap_err()
        };
        for (more, said) in [
            ("--rate 0", "--rate: load.rate is 0; it has to be from 1 to 10000000"),
            ("--rate x", "--rate: load.rate is \"x\"; it has to be a whole number"),
            ("--connections 0", "--connections: target.connections is 0"),
            ("--max-in-flight 0", "--max-in-flight: load.max_in_flight is 0"),
            ("--check 2", "--check: check.share is 2; it has to be from 0 to 1"),
            ("--shape round", "--shape: load.shape is \"round\"; it has to be \"constant\""),
            (
                "--duration 0s",
                "--duration: load.duration is \"0s\"; nothing can be done in no time",
            ),
            ("--duration 25h", "longer than 24 h"),
            ("--duration 99999999999999999999s", "longer than 24 h"),
            ("--set load.nothing=1", "--set load.nothing: no plan has the key load.nothing"),
            ("--set nothing", "nothing is not of the form KEY=VALUE"),
        ] {
            let found = refused(more);
            assert!(found.contains(said), "{more}: {found}");
        }
        for more in ["10", "s", "1.5s", "-1s", "1h30m", "1d", ""] {
            assert!(refused(&format!("--duration={more}")).contains("write it like"), "{more}");
        }
    }

    #[test]
    fn each_fault_of_a_file_is_one_sentence_with_file_line_and_key() {
        for (lines, said) in [
            ("rate = 3", "p.toml:3: no plan has the key ask.rate"),
            ("[load]\nrat = 3", "p.toml:4: no plan has the key load.rat; did you mean load.rate?"),
            ("[lod]\nrate = 3", "p.toml:4: no plan has the key lod.rate"),
            ("[load]\nrate = -3", "p.toml:4: load.rate is -3; it has to be from 1 to"),
            ("[load]\nrate = \"many\"", "p.toml:4: load.rate is \"many\"; it has to be a whole"),
            ("[load]\nrate = true", "p.toml:4: load.rate has to be a text or a number"),
            ("[load]\nrate = 3\nrate = 4", "p.toml:5: duplicate key"),
            ("[load]\nduration = 10", "p.toml:4: load.duration is 10; write it like \"500ms\""),
            (
                "[load]\nfrom = 10",
                "p.toml:4: load.from goes with another load.shape or target.kind",
            ),
            ("[load]\nshape = \"ramp\"", "load.from is missing; write it into the plan"),
            ("[load\n", "p.toml:3: "),
            ("[load]\nshape = \"closed\"\nrate = 1", "p.toml:5: load.rate goes with another"),
            ("[load]\nshape = \"knee\"\nfrom = 10\nto = 5", "p.toml:6: load.to is below load.from"),
            (
                "[target]\nkind = \"stall\"\nstall = \"20s\"",
                "p.toml:5: target.stall is not shorter than target.every",
            ),
            ("[target]\nkind = \"empty\"\nsocket = \"/s\"", "p.toml:5: target.socket goes with"),
            (
                "[target]\nkind = \"signer\"",
                "target.credentials is missing; write it into the plan",
            ),
            (
                "[target]\nkind = \"signer\"\ncredentials = \"c\"\nstreams = 15",
                "p.toml:6: target.streams is not one to seven for each of target.connections",
            ),
        ] {
            let found = file(lines).unwrap_err();
            assert!(found.contains(said), "{lines}: {found}");
            assert_eq!(found.lines().count(), 1, "{found}");
        }
    }

    #[test]
    fn a_flag_overrides_the_file() {
        let mut settings = Settings::default();
        let text = "[ask]\nspiffe_id = \"spiffe://a.test/b\"\n[load]\nrate = 7\nduration = \"2s\"";
        settings.read("p.toml".as_ref(), text).unwrap();
        settings.set("load.rate", "9", Origin::Flag("--rate".to_owned()));
        let plan = Plan::check(settings).unwrap();
        let duration = Duration::from_secs(2);
        assert_eq!(plan.shape, Shape::Constant { rate: 9, batch: 1, duration });
    }

    #[test]
    fn a_flag_that_chooses_another_shape_leaves_behind_what_the_file_has_for_its_own() {
        let read = |flags: &[(&str, &str)]| {
            let mut settings = Settings::default();
            let text = "[ask]\nspiffe_id = \"spiffe://a.test/b\"\n[load]\nrate = 7";
            settings.read("p.toml".as_ref(), text).unwrap();
            for (key, value) in flags {
                settings.set(key, value, Origin::Flag(format!("--set {key}")));
            }
            Plan::check(settings).map_err(|error| error.to_string())
        };
        assert!(read(&[("load.shape", "closed")]).unwrap().shape.is_closed());
        // Who types both has to mean one of them.
        let found = read(&[("load.shape", "closed"), ("load.rate", "9")]).unwrap_err();
        assert!(found.starts_with("--set load.rate: load.rate goes with another"), "{found}");
    }

    #[test]
    fn the_plans_that_come_with_the_program_are_good() {
        let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("plans");
        let mut names = Vec::new();
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            let mut settings = Settings::default();
            settings.read_file(&path).unwrap();
            Plan::check(settings).unwrap_or_else(|error| panic!("{error}"));
            names.push(path.file_stem().unwrap().to_str().unwrap().to_owned());
        }
        for name in
            ["quickstart", "constant", "ramp", "knee", "closed", "signer", "signer-constant"]
        {
            assert!(names.iter().any(|found| found == name), "{name} is not in {names:?}");
        }
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
