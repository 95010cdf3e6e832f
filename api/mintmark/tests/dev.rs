//! `mintmark dev` as the README starts it, with a token and without.
#![expect(clippy::unwrap_used, reason = "tests state their expectations by unwrapping")]

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::{Command, Stdio};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

/// `mintmark dev` with temporary folders below `scratch`.
fn dev(scratch: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_mintmark"));
    command.arg("dev").args(arguments).env("TMPDIR", scratch).env_remove("SOFTHSM2_CONF");
    command
}

/// The same on a machine without SoftHSM.
fn dev_without_token(scratch: &Path, arguments: &[&str]) -> Command {
    let mut command = dev(scratch, arguments);
    command.env("SOFTHSM2_MODULE", "/nowhere/libsofthsm2.so");
    command
}

/// Standard output of a run that succeeds.
fn succeeds(command: &mut Command) -> String {
    let output = command.output().unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(0), "{said}");
    String::from_utf8(output.stdout).unwrap()
}

/// What a shell says to a line that `dev` printed, which must succeed.
fn pasted(line: &str) -> String {
    let output = Command::new("sh").args(["-c", line]).output().unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.success(), "{line}: {said}");
    String::from_utf8(output.stdout).unwrap()
}

fn line_with<'a>(text: &'a str, word: &str) -> &'a str {
    text.lines().find(|line| line.contains(word)).unwrap_or_else(|| panic!("{word} in: {text}"))
}

#[test]
fn one_run_shows_a_verified_svid_and_leaves_nothing() {
    let scratch = tempfile::tempdir().unwrap();
    let shown = succeeds(&mut dev(scratch.path(), &["--once"]));
    assert!(shown.contains("spiffe://dev.test/workload"), "{shown}");
    assert_eq!(shown.matches("accepted: ").count(), 2, "{shown}");
    assert!(line_with(&shown, "X.509 authority").contains("token \"mintmark dev\""), "{shown}");
    assert_eq!(fs::read_dir(scratch.path()).unwrap().count(), 0);
}

#[test]
fn what_to_try_next_can_be_pasted_and_the_pin_is_not_shown() {
    let scratch = tempfile::tempdir().unwrap();
    let folder = scratch.path().join("kept here");
    let shown = succeeds(&mut dev(scratch.path(), &["--once", "--dir", folder.to_str().unwrap()]));
    let verified = pasted(line_with(&shown, "openssl verify"));
    assert!(verified.contains("svid.pem: OK"), "{verified}");

    let pin_file = folder.join("pin");
    let pin = fs::read_to_string(&pin_file).unwrap();
    assert!(!shown.contains(pin.trim()), "the PIN is shown");
    let log = fs::read_to_string(folder.join("server.log")).unwrap();
    assert!(!log.contains(pin.trim()) && !log.contains("eyJ"), "{log}");
    assert_eq!(fs::metadata(&pin_file).unwrap().permissions().mode() & 0o777, 0o600);
    let objects = pasted(line_with(&shown, "pkcs11-tool"));
    for word in ["Private Key Object", "mintmark/dev.test/x509/1", "never extractable", "local"] {
        assert!(objects.contains(word), "{word} in: {objects}");
    }
}

#[test]
fn a_folder_keeps_its_authorities() {
    let scratch = tempfile::tempdir().unwrap();
    let folder = scratch.path().join("state");
    let folder = folder.to_str().unwrap();
    let bundle = |out: &str| {
        let out = scratch.path().join(out);
        let out = out.to_str().unwrap();
        succeeds(&mut dev(scratch.path(), &["--once", "--dir", folder, "--write", out]));
        fs::read_to_string(Path::new(out).join("bundle.pem")).unwrap()
    };
    assert_eq!(bundle("first"), bundle("second"));
}

#[test]
fn without_softhsm_the_first_line_says_so_and_how_to_get_a_token() {
    let scratch = tempfile::tempdir().unwrap();
    let out = scratch.path().join("out");
    let arguments = ["--once", "--trust-domain", "a.test", "--write", out.to_str().unwrap()];
    let shown = succeeds(&mut dev_without_token(scratch.path(), &arguments));
    let first = shown.lines().next().unwrap();
    assert!(first.contains("software keys sealed under"), "{first}");
    assert!(first.contains("protects a copied key file only"), "{first}");
    assert!(first.contains("apt-get install softhsm2"), "{first}");
    assert!(shown.contains("spiffe://a.test/workload"), "{shown}");
    assert_eq!(shown.matches("accepted: ").count(), 2, "{shown}");
    // The files outlast the folder.
    pasted(line_with(&shown, "openssl verify"));
    assert_eq!(fs::read_dir(scratch.path()).unwrap().count(), 1);
}

#[test]
fn a_folder_whose_token_cannot_be_reached_is_not_given_other_keys() {
    let scratch = tempfile::tempdir().unwrap();
    let folder = scratch.path().join("state");
    let arguments = ["--once", "--dir", folder.to_str().unwrap()];
    succeeds(&mut dev(scratch.path(), &arguments));
    let output = dev_without_token(scratch.path(), &arguments).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(said.contains("SoftHSM is not installed here"), "{said}");
}

#[test]
fn programs_get_json_without_secrets() {
    let scratch = tempfile::tempdir().unwrap();
    let out = scratch.path().join("out");
    let arguments = ["--once", "--output", "json", "--write", out.to_str().unwrap()];
    for mut command in
        [dev(scratch.path(), &arguments), dev_without_token(scratch.path(), &arguments)]
    {
        let shown = succeeds(&mut command);
        let report: Value = serde_json::from_str(&shown).unwrap();
        assert_eq!(report["x509"]["spiffe_id"], "spiffe://dev.test/workload");
        assert_eq!(report["keys"].as_array().unwrap().len(), 3);
        assert!(!shown.contains("PRIVATE KEY") && !shown.contains("eyJ"), "{shown}");
    }
}

#[test]
fn it_serves_on_until_it_is_interrupted_and_removes_its_folder() {
    let scratch = tempfile::tempdir().unwrap();
    let mut child = dev(scratch.path(), &[]).stdout(Stdio::piped()).spawn().unwrap();
    let mut shown = String::new();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    while !shown.contains("end it with Ctrl-C") {
        shown.push_str(&lines.next().unwrap().unwrap());
        shown.push('\n');
    }
    let mint = line_with(&shown, "x509 mint");
    let out = scratch.path().join("web");
    pasted(&format!("{} ", mint.replace("--write web", &format!("--write {}", out.display()))));
    assert!(out.join("svid.pem").exists());
    fs::remove_dir_all(out).unwrap();

    kill_process(Pid::from_child(&child), Signal::INT).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(0));
    assert_eq!(fs::read_dir(scratch.path()).unwrap().count(), 0);
}

/// A configuration for the token and the state that a `dev` has left in `folder`.
fn configuration_for(folder: &Path, label: &str, pin: &str) -> String {
    let path = folder.join("mintmark.toml");
    let module = softhsm::find_module().unwrap();
    let text = format!(
        "[trust_domain]\nname = \"dev.test\"\n[server.admin]\nsocket = \"admin.sock\"\n\
         [keys.token]\ntype = \"pkcs11\"\nmodule = {module:?}\ntoken = \"{label}\"\n\
         pin = {{ file = \"{pin}\" }}\n[store]\ndir = \"state\"\n"
    );
    fs::write(&path, text).unwrap();
    path.to_str().unwrap().to_owned()
}

/// Runs a command on the tokens of `folder`: exit code, and everything it said.
fn on_token(folder: &Path, arguments: &[&str]) -> (Option<i32>, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_mintmark"))
        .args(arguments)
        .env("SOFTHSM2_CONF", folder.join("softhsm2.conf"))
        .output()
        .unwrap();
    let said = [output.stdout, output.stderr].concat();
    (output.status.code(), String::from_utf8(said).unwrap())
}

#[test]
fn a_configured_token_is_checked_without_its_pin_and_a_wrong_pin_is_told() {
    let scratch = tempfile::tempdir().unwrap();
    let folder = scratch.path().join("state");
    succeeds(&mut dev(scratch.path(), &["--once", "--dir", folder.to_str().unwrap()]));

    let config = configuration_for(&folder, "mintmark dev", "pin");
    let (code, said) = on_token(&folder, &["check", "--config", &config]);
    assert_eq!(code, Some(0), "{said}");
    assert!(line_with(&said, "[keys.token] token").contains("its PIN was not tried"), "{said}");

    let config = configuration_for(&folder, "another", "pin");
    let (code, said) = on_token(&folder, &["check", "--config", &config]);
    assert_eq!(code, Some(3), "{said}");
    assert!(line_with(&said, "[keys.token] token").contains("no such token"), "{said}");
    let (code, said) = on_token(&folder, &["server", "--config", &config]);
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("no such token") && said.contains("mintmark dev"), "{said}");

    fs::write(folder.join("wrong"), "0000").unwrap();
    fs::set_permissions(folder.join("wrong"), fs::Permissions::from_mode(0o600)).unwrap();
    let config = configuration_for(&folder, "mintmark dev", "wrong");
    let (code, said) = on_token(&folder, &["server", "--config", &config]);
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("refused the PIN") && !said.contains("0000"), "{said}");
}
