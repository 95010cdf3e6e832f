//! The real binary, as a person or a script starts it: exit codes, texts and files.
#![expect(clippy::unwrap_used, reason = "tests state their expectations by unwrapping")]

use std::fs::{self, Permissions};
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use serde_json::Value;

/// What a run left behind.
struct Run {
    code: Option<i32>,
    out: String,
    err: String,
}

/// Runs the binary that this build made, without the caller's settings.
fn mintmark(arguments: &[&str]) -> Run {
    mintmark_with_input(arguments, b"")
}

fn mintmark_with_input(arguments: &[&str], input: &[u8]) -> Run {
    let mut child = Command::new(env!("CARGO_BIN_EXE_mintmark"))
        .args(arguments)
        .env_remove("MINTMARK_SOCKET")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(input).unwrap();
    let Output { status, stdout, stderr } = child.wait_with_output().unwrap();
    Run {
        code: status.code(),
        out: String::from_utf8(stdout).unwrap(),
        err: String::from_utf8(stderr).unwrap(),
    }
}

impl Run {
    /// Standard output, if the run ended with 0.
    fn succeeded(self) -> String {
        assert_eq!(self.code, Some(0), "{}{}", self.out, self.err);
        assert_eq!(self.err, "");
        self.out
    }

    /// Standard error, if the run ended with `code` and said nothing else.
    fn failed(self, code: i32) -> String {
        assert_eq!(self.code, Some(code), "{}{}", self.out, self.err);
        assert_eq!(self.out, "");
        assert!(!self.err.contains("panicked"), "{}", self.err);
        self.err
    }
}

fn json(text: &str) -> Value {
    serde_json::from_str(text).unwrap()
}

/// A configuration in `folder` that can be used, with the text it is made of.
fn write_configuration(folder: &Path, more: &str) -> String {
    fs::write(folder.join("seal.key"), [7; 32]).unwrap();
    fs::set_permissions(folder.join("seal.key"), Permissions::from_mode(0o600)).unwrap();
    let text = format!(
        "[trust_domain]\nname = \"example.org\"\n\
         [server.admin]\nsocket = \"run/admin.sock\"\n\
         [keys.main]\ntype = \"software\"\ndir = \"keys\"\nseal_key = {{ file = \"seal.key\" }}\n\
         [store]\ndir = \"store\"\n{more}"
    );
    let path = folder.join("mintmark.toml");
    fs::write(&path, text).unwrap();
    path.to_str().unwrap().to_owned()
}

#[test]
fn a_wrong_command_line_ends_with_2_and_names_the_argument() {
    for (arguments, said) in [
        (&["frobnicate"][..], "frobnicate"),
        (&["x509", "mint", "--write", "d"], "--csr <FILE>|--spiffe-id <ID>"),
        (
            &["x509", "mint", "--csr", "a", "--spiffe-id", "spiffe://a/b", "--write", "d"],
            "--spiffe-id",
        ),
        (&["x509", "mint", "--csr", "a", "--dns", "a.test", "--write", "d"], "--dns"),
        (&["x509", "mint", "--csr", "a", "--key-type", "ec-p384", "--write", "d"], "--key-type"),
        (&["x509", "mint", "--spiffe-id", "spiffe://Td/a", "--write", "d"], "must be lower case"),
        (
            &["x509", "mint", "--spiffe-id", "spiffe://a/b", "--key-type", "p256"],
            "unknown key type",
        ),
        (&["x509", "mint", "--spiffe-id", "spiffe://a/b", "--ttl", "60"], "write it like"),
        (&["x509", "mint", "--spiffe-id", "spiffe://a/b", "--ttl", "0s"], "leave --ttl out"),
        (&["x509", "mint", "--spiffe-id", "spiffe://a/b", "--ttl=-1h"], "write it like"),
        (&["x509", "mint", "--spiffe-id", "spiffe://a/b"], "--write DIR"),
        (
            &["x509", "mint", "--spiffe-id", "spiffe://a/b", "--dns", "a b", "--write", "d"],
            "--dns: ",
        ),
        (&["jwt", "mint", "--spiffe-id", "spiffe://a/b"], "--audience"),
        (&["key", "verify"], "<NAME|--all>"),
        (&["key", "show", "mintmark/x"], "is not of the form"),
        (&["key", "create", "--count", "0"], "1..=100"),
        (&["key", "create", "--type", "p256"], "unknown key type"),
        (&["key", "destroy", "--yes", "--dry-run"], "cannot be used with"),
        (&["key", "probe", "--seconds", "0"], "0.1 to 600"),
        (&["key", "list", "--socket", "s"], "with --config"),
        (&["bundle", "show", "--format", "der"], "possible values: spiffe, pem, jwks"),
    ] {
        let err = mintmark(arguments).failed(2);
        assert!(err.contains(said), "{arguments:?}: {err}");
    }
}

#[test]
fn without_arguments_the_commands_are_listed() {
    let err = mintmark(&[]).failed(2);
    for word in
        ["check", "x509", "jwt", "bundle", "key", "healthcheck", "version", "Exit codes: 0 done"]
    {
        assert!(err.contains(word), "{word}: {err}");
    }
}

#[test]
fn the_version_is_shown_to_people_and_programs() {
    assert!(mintmark(&["version"]).succeeded().contains(env!("CARGO_PKG_VERSION")));
    let out = mintmark(&["version", "--output", "json"]).succeeded();
    assert_eq!(json(&out)["version"], env!("CARGO_PKG_VERSION"));
}

#[test]
fn a_server_that_is_not_there_ends_with_4_and_says_how_to_start_one() {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("admin.sock");
    let socket = socket.to_str().unwrap();
    for command in [
        &["healthcheck"][..],
        &["bundle", "show"],
        &["jwt", "mint", "--spiffe-id", "spiffe://a/b", "--audience", "x"],
        &["x509", "mint", "--spiffe-id", "spiffe://a/b", "--write", "never-made"],
    ] {
        let err = mintmark(&[command, &["--socket", socket]].concat()).failed(4);
        assert!(err.contains(socket) && err.contains("no such socket"), "{err}");
        assert!(err.contains("MINTMARK_SOCKET") && err.contains("mintmark server"), "{err}");
    }
    assert!(!Path::new("never-made").exists());

    // A socket whose server is gone.
    drop(std::os::unix::net::UnixListener::bind(socket).unwrap());
    let err = mintmark(&["healthcheck", "--socket", socket]).failed(4);
    assert!(err.contains("nobody listens there any more"), "{err}");
}

#[test]
fn the_socket_can_be_named_by_the_environment() {
    let run = Command::new(env!("CARGO_BIN_EXE_mintmark"))
        .arg("healthcheck")
        .env("MINTMARK_SOCKET", "/nowhere/from-the-environment.sock")
        .output()
        .unwrap();
    assert_eq!(run.status.code(), Some(4));
    assert!(String::from_utf8(run.stderr).unwrap().contains("/nowhere/from-the-environment.sock"));
}

#[test]
fn a_configuration_that_can_be_used_checks_with_0() {
    let folder = tempfile::tempdir().unwrap();
    let path = write_configuration(folder.path(), "");
    let out = mintmark(&["check", "--config", &path]).succeeded();
    assert!(out.contains("can be used"), "{out}");
    let report = json(&mintmark(&["check", "--config", &path, "--output", "json"]).succeeded());
    assert_eq!(report["usable"], true);
    assert_eq!(report["findings"].as_array().unwrap().len(), 5);
}

#[test]
fn a_configuration_with_a_fault_checks_with_3_and_says_where() {
    let folder = tempfile::tempdir().unwrap();
    let path = write_configuration(folder.path(), "[issuing]\nca_tll = \"1h\"\n");
    let err = mintmark(&["check", "--config", &path]).failed(3);
    assert_eq!(
        err,
        format!("mintmark: {path}:12:1: unknown key \"ca_tll\"; did you mean \"ca_ttl\"?\n")
    );
    let run = mintmark(&["check", "--config", &path, "--output", "json"]);
    assert_eq!(run.code, Some(3));
    assert_eq!(json(&run.out)["faults"][0]["line"], 12);

    let err = mintmark(&["check", "--config", "/nowhere.toml"]).failed(3);
    assert!(err.contains("/nowhere.toml: no such file"), "{err}");
}

#[test]
fn a_key_store_on_the_network_is_checked_without_asking_it() {
    let folder = tempfile::tempdir().unwrap();
    let remote = "[keys.kms]\ntype = \"aws_kms\"\nregion = \"eu-central-1\"\n\
                  [keys.vault]\ntype = \"transit\"\naddress = \"https://vault.invalid:8200\"\n\
                  access_token = { file = \"token\" }\n[issuing]\nkeys = \"main\"\n";
    let path = write_configuration(folder.path(), remote);
    fs::write(folder.path().join("token"), "t").unwrap();
    fs::set_permissions(folder.path().join("token"), Permissions::from_mode(0o600)).unwrap();
    let out = mintmark(&["check", "--config", &path]).succeeded();
    assert!(out.contains("AWS KMS was not asked"), "{out}");
    assert!(out.contains("https://vault.invalid:8200 was not asked"), "{out}");

    let alias = "[keys.kms.arns]\n\"x509/1\" = \"alias/ca\"\n[keys.vault]";
    let clear = remote.replace("[keys.vault]", alias).replace("https", "http");
    let path = write_configuration(folder.path(), &clear);
    let run = mintmark(&["check", "--config", &path, "--output", "json"]);
    assert_eq!(run.code, Some(3));
    let report = json(&run.out);
    let faults = report["findings"].as_array().unwrap().iter();
    let faults: Vec<&Value> = faults.filter(|finding| finding["verdict"] == "fault").collect();
    assert_eq!(
        (&faults[0]["setting"], &faults[1]["setting"]),
        (&"[keys.kms]".into(), &"[keys.vault]".into())
    );
    assert!(faults[0]["detail"].as_str().unwrap().contains("an alias"), "{}", faults[0]);
    assert!(faults[1]["detail"].as_str().unwrap().contains("not encrypted"), "{}", faults[1]);
}

#[test]
fn a_secret_that_others_can_read_checks_with_3() {
    let folder = tempfile::tempdir().unwrap();
    let path = write_configuration(folder.path(), "");
    fs::set_permissions(folder.path().join("seal.key"), Permissions::from_mode(0o644)).unwrap();
    let run = mintmark(&["check", "--config", &path]);
    assert_eq!(run.code, Some(3));
    assert!(run.out.contains("[keys.main] seal_key"), "{}", run.out);
    assert!(run.out.contains("FAULT") && run.out.contains("chmod 600"), "{}", run.out);
}

/// A certificate made by another library.
fn foreign_certificate() -> rcgen::Certificate {
    let mut params = rcgen::CertificateParams::new(["web.example.org".to_owned()]).unwrap();
    let id = "spiffe://example.org/web".try_into().unwrap();
    params.subject_alt_names.push(rcgen::SanType::URI(id));
    params.distinguished_name.push(rcgen::DnType::CommonName, "web");
    params.serial_number = Some(rcgen::SerialNumber::from_slice(&[0x1f, 0x02]));
    params.key_usages.push(rcgen::KeyUsagePurpose::DigitalSignature);
    params.extended_key_usages.push(rcgen::ExtendedKeyUsagePurpose::ServerAuth);
    params.self_signed(&rcgen::KeyPair::generate().unwrap()).unwrap()
}

#[test]
fn a_certificate_is_shown_from_pem_der_and_standard_input() {
    let folder = tempfile::tempdir().unwrap();
    let certificate = foreign_certificate();
    let (pem, der) = (folder.path().join("c.pem"), folder.path().join("c.der"));
    fs::write(&pem, certificate.pem().repeat(2)).unwrap();
    fs::write(&der, certificate.der()).unwrap();

    let show =
        |file: &str| json(&mintmark(&["x509", "show", file, "--output", "json"]).succeeded());
    let shown = show(der.to_str().unwrap());
    assert_eq!(shown[0]["spiffe_id"], "spiffe://example.org/web");
    assert_eq!(shown[0]["dns_names"][0], "web.example.org");
    assert_eq!(shown[0]["serial_number"], "1f02");
    assert_eq!(shown[0]["key"], "EC P-256");
    assert_eq!(shown[0]["key_usage"][0], "digitalSignature");
    assert_eq!(shown[0]["extended_key_usage"][0], "serverAuth");
    let both = show(pem.to_str().unwrap());
    assert_eq!(both.as_array().unwrap().len(), 2);
    assert_eq!(both[1], shown[0]);

    let table = mintmark_with_input(&["x509", "show", "-"], certificate.pem().as_bytes());
    let table = table.succeeded();
    for text in ["spiffe://example.org/web", "web.example.org", "1f02", "CN=web", "left"] {
        assert!(table.contains(text), "{text}: {table}");
    }
}

#[test]
fn a_file_that_is_no_certificate_ends_with_1() {
    for (input, said) in [
        (&b"hello"[..], "no block BEGIN CERTIFICATE"),
        (b"\x30\x03\x02\x01\x00", "not a certificate"),
        (b"", "no block BEGIN CERTIFICATE"),
    ] {
        let err = mintmark_with_input(&["x509", "show", "-"], input).failed(1);
        assert!(err.contains(said), "{err}");
    }
    assert!(mintmark(&["x509", "show", "/nowhere"]).failed(1).contains("/nowhere"));
}

#[test]
fn a_csr_that_proves_nothing_is_refused_before_anyone_is_asked() {
    let mut csr = rcgen::CertificateParams::default()
        .serialize_request(&rcgen::KeyPair::generate().unwrap())
        .unwrap()
        .der()
        .to_vec();
    *csr.last_mut().unwrap() ^= 1;
    let run = mintmark_with_input(
        &["x509", "mint", "--csr", "-", "--output", "json", "--socket", "/nowhere"],
        &csr,
    );
    let err = run.failed(1);
    assert!(err.contains("signature"), "{err}");
}
