//! `mintmark key` on sealed files, with a clock that a test sets.
#![expect(clippy::unwrap_used, reason = "tests state their expectations by unwrapping")]

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt as _;
use std::sync::Arc;
use std::time::{Duration, Instant};

use ca_core::authority::{Authorities, establish};
use ca_core::clock::{Clock, Timestamp};
use ca_core::key::{Priority, Urgency};
use ca_core::serial::RandomSerials;
use ca_core::store::Embedded;
use clap::Parser as _;
use keymanager::metrics::StoreMetrics;
use mintmark::cli::Cli;
use mintmark::exit::Failure;
use mintmark::server::{Role, Server, ServerError};
use mintmark::{config, keys};
use mintmark_signer::LogLevels;
use peers::openbao::OpenBao;
use serde_json::Value;
use tempfile::TempDir;
use tokio::runtime::Runtime;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tracing_subscriber::filter::LevelFilter;
use tracing_subscriber::{Registry, reload};

const DAY: Duration = Duration::from_secs(86_400);

#[derive(Clone, Copy)]
struct At(Timestamp);

impl Clock for At {
    fn now(&self) -> Timestamp {
        self.0
    }
}

fn start() -> Timestamp {
    Timestamp::from_unix(1_800_000_000)
}

/// A folder with a configuration, keys and state. An authority lives ten days.
struct Site(TempDir);

impl Site {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("seal.key"), [7; 32]).unwrap();
        fs::set_permissions(folder.path().join("seal.key"), Permissions::from_mode(0o600)).unwrap();
        let text = "[trust_domain]\nname = \"example.org\"\n\
                    [keys.main]\ntype = \"software\"\ndir = \"keys\"\nseal_key = { file = \"seal.key\" }\n\
                    [keys.spare]\ntype = \"software\"\ndir = \"spare\"\nseal_key = { file = \"seal.key\" }\n\
                    [server.admin]\nsocket = \"admin.sock\"\n[store]\ndir = \"store\"\n[issuing]\nkeys = \"main\"\nca_ttl = \"10d\"\n";
        fs::write(folder.path().join("mintmark.toml"), text).unwrap();
        Self(folder)
    }

    /// Moves `main` to the transit engine of a new server, with a token of these rules.
    fn use_transit(&self, rules: &str) -> OpenBao {
        let server = OpenBao::start().unwrap();
        let token = server.token(rules, Duration::from_secs(3600)).unwrap();
        let file = self.0.path().join("vault-token");
        fs::write(&file, token.expose()).unwrap();
        fs::set_permissions(file, Permissions::from_mode(0o600)).unwrap();
        let address = server.address();
        let section = format!(
            "type = \"transit\"\naddress = \"{address}\"\naccess_token = {{ file = \"vault-token\" }}"
        );
        let file = self.0.path().join("mintmark.toml");
        let software = "type = \"software\"\ndir = \"keys\"\nseal_key = { file = \"seal.key\" }";
        let text = fs::read_to_string(&file).unwrap().replace(software, &section);
        fs::write(file, text).unwrap();
        server
    }

    /// Runs `mintmark key` in this process at this time.
    fn key(&self, at: Timestamp, arguments: &[&str]) -> (Result<(), Failure>, String) {
        let config = self.0.path().join("mintmark.toml");
        let config = ["--config", config.to_str().unwrap()];
        let line = [&["mintmark", "key"], arguments, &config].concat();
        let mut out = Vec::new();
        let done = mintmark::run(Cli::try_parse_from(line).unwrap(), Arc::new(At(at)), &mut out);
        (done, String::from_utf8(out).unwrap())
    }

    fn succeeded(&self, at: Timestamp, arguments: &[&str]) -> String {
        let (done, out) = self.key(at, arguments);
        done.unwrap();
        out
    }

    /// The failure's exit code and text, and what was printed before it.
    fn failed(&self, at: Timestamp, arguments: &[&str]) -> (String, String, String) {
        let (done, out) = self.key(at, arguments);
        let failure = done.unwrap_err();
        (format!("{:?}", failure.exit_code()), failure.to_string(), out)
    }

    fn json(&self, at: Timestamp, arguments: &[&str]) -> Value {
        let out = self.succeeded(at, &[arguments, &["--output", "json"]].concat());
        serde_json::from_str(&out).unwrap()
    }

    /// What a server does when it starts at this time.
    fn serve(&self, at: Timestamp) -> Authorities {
        let runtime = Runtime::new().unwrap();
        runtime.block_on(async {
            let settings = config::load(&self.0.path().join("mintmark.toml")).unwrap();
            let main = &settings.keys["main"];
            let keys = keys::open(main, "example.org", StoreMetrics::default()).await.unwrap();
            let store = Embedded::open(&settings.store_dir).unwrap();
            let urgency = Urgency::within(Priority::New, DAY, Instant::now());
            let serials = RandomSerials::new();
            establish(&settings.authorities, &store, &*keys, &serials, at, urgency).await.unwrap()
        })
    }
}

/// A server that runs beside the commands of a test.
struct Running {
    stop: oneshot::Sender<()>,
    serving: JoinHandle<Result<(), ServerError>>,
    runtime: Runtime,
}

impl Running {
    /// Starts it, with a clock that stands at this time.
    fn start(site: &Site, at: Timestamp) -> Self {
        let runtime = Runtime::new().unwrap();
        let (_, handle) = reload::Layer::<LevelFilter, Registry>::new(LevelFilter::OFF);
        let levels = Arc::new(LogLevels::new(LevelFilter::OFF, handle));
        let settings = config::load(&site.0.path().join("mintmark.toml")).unwrap();
        let server = runtime
            .block_on(Server::start(Role::Server, &settings, Arc::new(At(at)), levels))
            .unwrap();
        let (stop, stopped) = oneshot::channel();
        let serving = runtime.spawn(server.serve(async { drop(stopped.await) }));
        Self { stop, serving, runtime }
    }

    fn stop(self) {
        drop(self.stop);
        self.runtime.block_on(self.serving).unwrap().unwrap();
    }
}

fn code(number: u8) -> String {
    format!("{:?}", std::process::ExitCode::from(number))
}

fn names(report: &Value) -> Vec<&str> {
    report["keys"].as_array().unwrap().iter().map(|key| key["name"].as_str().unwrap()).collect()
}

#[test]
fn keys_are_listed_with_what_the_record_says() {
    let site = Site::new();
    assert!(site.succeeded(start(), &["list"]).contains("no keys"));
    assert!(!site.0.path().join("store").exists(), "a list makes no state store");
    site.serve(start());
    site.succeeded(start(), &["create", "--count", "2"]);
    let listing = site.json(start(), &["list"]);
    assert_eq!(listing["store"]["name"], "main");
    assert_eq!(listing["record"], Value::Null);
    let expected = ["active", "active", "prepared", "prepared"];
    for (key, state) in listing["keys"].as_array().unwrap().iter().zip(expected) {
        assert_eq!((&key["state"], &key["key"]), (&state.into(), &"EC P-256".into()), "{key}");
        assert_eq!(key["authority"].is_string(), state == "active");
    }
    // Another store, by its section.
    site.succeeded(start(), &["create", "--keys", "spare", "--count", "1"]);
    let listing = site.json(start(), &["list", "--keys", "spare"]);
    assert_eq!(listing["store"]["name"], "spare");
    assert_eq!(listing["keys"][0]["state"], "prepared");
}

#[test]
fn a_key_store_that_is_not_described_is_wrong_usage() {
    let (code_said, text, out) = Site::new().failed(start(), &["list", "--keys", "hsm"]);
    assert_eq!((code_said, out.as_str()), (code(2), ""));
    assert!(text.contains("[keys.hsm]") && text.contains("main, spare"), "{text}");
}

#[test]
fn created_keys_follow_every_generation_that_was_used() {
    let site = Site::new();
    site.serve(start());
    let made = site.json(start(), &["create", "--count", "2"]);
    assert_eq!(names(&made), ["mintmark/example.org/x509/2", "mintmark/example.org/x509/3"]);
    assert_eq!(made["keys"][0]["key_id"].as_str().unwrap().len(), 40);
    assert!(made["notes"][0].as_str().unwrap().contains("create = \"never\""), "{made}");
    // What an authority took elsewhere counts too.
    let made = site.json(start(), &["create", "--keys", "spare"]);
    assert_eq!(names(&made), ["mintmark/example.org/x509/2"]);
    let made = site.json(start(), &["create", "--authority", "jwt", "--type", "rsa-2048"]);
    assert_eq!(
        (names(&made), &made["keys"][0]["key"]),
        (vec!["mintmark/example.org/jwt/2"], &"RSA-2048".into())
    );

    let (said, text, _) =
        site.failed(start(), &["create", "--authority", "jwt", "--type", "ed25519"]);
    assert!(said == code(2) && text.contains("JWT-SVID §3"), "{text}");
}

#[test]
fn only_what_has_ended_a_day_ago_is_destroyed() {
    let site = Site::new();
    site.serve(start());
    let after = start().plus(10 * DAY).plus(Duration::from_secs(1));
    site.serve(after);
    let all = ["destroy", "--yes"];
    let table = site.succeeded(after, &all);
    assert!(table.contains("nothing to destroy") && !table.contains("destroyable "), "{table}");

    let later = after.plus(DAY);
    let dry = site.json(later, &["destroy", "--dry-run"]);
    let destroyable = |report: &Value| -> Vec<String> {
        let keys = report["keys"].as_array().unwrap().iter();
        keys.filter(|key| key["destroyable"] == true)
            .map(|key| key["name"].as_str().unwrap().to_owned())
            .collect()
    };
    let first = ["mintmark/example.org/jwt/1", "mintmark/example.org/x509/1"];
    assert_eq!(
        (destroyable(&dry), &dry["dry_run"]),
        (first.map(str::to_owned).to_vec(), &true.into())
    );
    assert_eq!(names(&site.json(later, &["list"])).len(), 4, "a dry run changes nothing");

    // A name that stays is no success, and nothing else goes.
    let (said, text, out) =
        site.failed(later, &["destroy", "--yes", first[0], "mintmark/example.org/x509/2"]);
    assert!(said == code(1) && text.contains("nothing was destroyed"), "{text}");
    assert!(out.contains("signs with it"), "{out}");
    let table = site.succeeded(later, &["destroy", "--yes", first[0]]);
    assert!(table.contains("mintmark/example.org/jwt/1: removed"), "{table}");
    let report = site.json(later, &all);
    assert!(report["keys"][1]["destroyed"].as_str().unwrap().contains("removed"), "{report}");
    let left = site.json(later, &["list"]);
    assert_eq!(names(&left), ["mintmark/example.org/jwt/2", "mintmark/example.org/x509/2"]);
    site.serve(later);
}

#[test]
fn a_key_that_its_store_does_not_destroy_holds_up_no_other() {
    const KEPT: &str = "mintmark/example.org/jwt/1";
    const GONE: &str = "mintmark/example.org/x509/1";
    let site = Site::new();
    let server = site.use_transit(
        r#"path "transit/sign/mintmark.example.org.*" { capabilities = ["update"] }
           path "transit/keys/mintmark.example.org.*" { capabilities = ["read", "update", "delete"] }
           path "transit/keys/mintmark.example.org.jwt.1" { capabilities = ["read", "update"] }
           path "transit/keys" { capabilities = ["list"] }"#,
    );
    site.serve(start());
    let after = start().plus(10 * DAY).plus(Duration::from_secs(1));
    site.serve(after);
    let later = after.plus(DAY);
    let (said, text, out) = site.failed(later, &["destroy", "--yes", "--output", "json"]);
    assert_eq!(said, code(1), "{text}");
    for part in ["1 of 2 keys were not destroyed", "not delete"] {
        assert!(text.contains(part), "{text}");
    }
    let report: Value = serde_json::from_str(&out).unwrap();
    let key = |name: &str| {
        let mut keys = report["keys"].as_array().unwrap().iter();
        keys.find(|key| key["name"] == name).unwrap()
    };
    assert!(key(GONE)["destroyed"].is_string(), "{report}");
    assert!(key(KEPT)["destroyed"].is_null(), "{report}");
    assert!(key(KEPT)["not_destroyed"].as_str().unwrap().contains("not delete"), "{report}");
    let left = site.json(later, &["list"]);
    assert!(names(&left).contains(&KEPT) && !names(&left).contains(&GONE), "{left}");
    drop(server);
}

#[test]
fn nothing_is_destroyed_unasked() {
    let site = Site::new();
    site.serve(start());
    let late = start().plus(12 * DAY);
    site.serve(late);
    let (said, text, out) = site.failed(late, &["destroy", "--output", "json"]);
    assert_eq!((said, out.as_str()), (code(2), ""), "{text}");
    let (said, text, _) = site.failed(late, &["destroy", "--yes", "mintmark/example.org/x509/7"]);
    assert!(said == code(1) && text.contains("there is no key"), "{text}");
    assert_eq!(names(&site.json(late, &["list"])).len(), 4);
}

#[test]
fn a_retired_key_is_destroyed_a_life_and_a_day_later() {
    let site = Site::new();
    site.serve(start());
    site.succeeded(start(), &["create", "--count", "1"]);
    let name = "mintmark/example.org/x509/2";
    let retired = site.json(start(), &["retire", name]);
    assert_eq!(retired["certificates_end"], start().plus(10 * DAY).to_string());
    assert_eq!(retired["destroyable_after"], start().plus(11 * DAY).to_string());
    let (said, text, _) = site.failed(start().plus(11 * DAY), &["destroy", "--yes", name]);
    assert!(said == code(1) && text.contains("may be destroyed after"), "{text}");
    site.succeeded(
        start().plus(11 * DAY).plus(Duration::from_secs(1)),
        &["destroy", "--yes", name],
    );
    // The name is not used again.
    let made = site.json(start(), &["create"]);
    assert_eq!(names(&made), ["mintmark/example.org/x509/3"]);
}

#[test]
fn keys_are_retired_and_destroyed_beside_a_server_by_the_same_rules() {
    let site = Site::new();
    site.serve(start());
    site.succeeded(start(), &["create"]);
    let prepared = "mintmark/example.org/x509/2";
    let first = ["mintmark/example.org/jwt/1", "mintmark/example.org/x509/1"];
    let server = Running::start(&site, start());
    // Ten days by the settings of the server, from its clock on.
    let retired = site.json(start().plus(DAY), &["retire", prepared]);
    assert_eq!(retired["certificates_end"], start().plus(10 * DAY).to_string());
    let again = site.json(start().plus(DAY), &["retire", prepared]);
    assert_eq!(again, retired, "it stays as it is");
    let late = start().plus(11 * DAY).plus(Duration::from_secs(1));
    // The authorities have ended, but this server still signs with them.
    let (said, text, _) = site.failed(late, &["destroy", "--yes", first[0]]);
    assert!(said == code(1) && text.contains("signs with it"), "{text}");
    let (_, text, _) = site.failed(start().plus(11 * DAY), &["destroy", "--yes", prepared]);
    assert!(text.contains("may be destroyed after"), "{text}");
    let report = site.json(late, &["destroy", "--yes"]);
    let destroyed = |report: &Value| -> Vec<String> {
        let keys = report["keys"].as_array().unwrap().iter();
        let gone = keys.filter(|key| key["destroyed"].is_string());
        gone.map(|key| key["name"].as_str().unwrap().to_owned()).collect()
    };
    assert_eq!(destroyed(&report), [prepared]);
    server.stop();

    let server = Running::start(&site, late);
    let listing = site.json(late, &["list"]);
    let states: Vec<&str> = listing["keys"]
        .as_array()
        .unwrap()
        .iter()
        .map(|key| key["state"].as_str().unwrap())
        .collect();
    assert_eq!(states, ["old", "active", "log", "old", "active"]);
    assert_eq!(destroyed(&site.json(late, &["destroy", "--yes"])), first);
    server.stop();
}

#[test]
fn a_server_of_another_trust_domain_is_not_asked() {
    let site = Site::new();
    let server = Running::start(&site, start());
    let file = site.0.path().join("mintmark.toml");
    let text = fs::read_to_string(&file).unwrap();
    fs::write(&file, text.replace("example.org", "example.net")).unwrap();
    let (said, text, _) = site.failed(start(), &["destroy", "--yes"]);
    assert!(said == code(1) && text.contains("speaks for the trust domain example.org"), "{text}");
    server.stop();
}

#[test]
fn without_a_record_nothing_is_retired_or_destroyed() {
    let site = Site::new();
    site.succeeded(start(), &["create"]);
    for arguments in [&["retire", "mintmark/example.org/x509/1"][..], &["destroy", "--yes"]] {
        let (said, text, _) = site.failed(start(), arguments);
        assert!(said == code(1) && text.contains("there is no state store"), "{text}");
    }
    assert!(!site.0.path().join("store").exists());
}
