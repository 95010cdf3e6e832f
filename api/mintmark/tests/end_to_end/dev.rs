//! `mintmark dev`, as a person tries it.

use std::fs::{self, File};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process_group};
use serde_json::Value;
use tempfile::TempDir;

use crate::site::{BINARY, json, wait, write_private};
use crate::token::openssl;

/// Hides SoftHSM: the variable names the library, and there is none.
const HIDDEN: (&str, &str) = ("SOFTHSM2_MODULE", "/nowhere/libsofthsm2.so");

/// A folder to work in, and to make temporary folders in.
fn folder() -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    fs::create_dir(folder.path().join("tmp")).unwrap();
    folder
}

fn shell(folder: &Path, text: &str) -> Command {
    let mut command = Command::new("sh");
    command
        .args(["-c", text])
        .current_dir(folder)
        .env("TMPDIR", folder.join("tmp"))
        .env_remove("SOFTHSM2_CONF")
        .env_remove("MINTMARK_SOCKET")
        .stdin(Stdio::null());
    command
}

fn dev(folder: &Path, arguments: &str) -> Command {
    shell(folder, &format!("exec {BINARY} dev {arguments}"))
}

#[track_caller]
fn succeeded(output: Output) -> String {
    let (out, err) = (String::from_utf8(output.stdout).unwrap(), output.stderr);
    assert!(output.status.success(), "{out}{}", String::from_utf8_lossy(&err));
    assert!(!out.contains("PRIVATE KEY"), "{out}");
    out
}

/// The commands below "Try next:".
fn commands(report: &str) -> Vec<String> {
    let (_, next) = report.split_once("Try next:\n").expect("the report ends with what to try");
    let commands: Vec<String> = next
        .lines()
        .take_while(|line| !line.is_empty())
        .map(|line| line.trim().to_owned())
        .collect();
    assert!(commands.len() >= 3, "{report}");
    commands
}

#[track_caller]
fn assert_delivered(folder: &Path) {
    let mut names: Vec<_> =
        fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    names.sort();
    assert_eq!(names, ["bundle.pem", "key.pem", "svid.pem"]);
    let mode = |name| fs::metadata(folder.join(name)).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode("key.pem"), 0o600);
    let [bundle, svid] = ["bundle.pem", "svid.pem"].map(|name| folder.join(name));
    let [bundle, svid] = [&bundle, &svid].map(|path| path.to_str().unwrap());
    openssl(&["verify", "-x509_strict", "-CAfile", bundle, "-untrusted", svid, svid]);
}

#[test]
fn once_with_a_token_leaves_a_verified_svid_and_nothing_else() {
    let folder = folder();
    let report = succeeded(dev(folder.path(), "--once --write out").output().unwrap());
    assert!(report.contains("SoftHSM") && report.contains("never"), "{report}");
    assert!(!report.contains("note:"), "{report}");
    assert_eq!(report.matches("accepted: ").count(), 2, "{report}");
    assert_delivered(&folder.path().join("out"));
    assert_eq!(fs::read_dir(folder.path().join("tmp")).unwrap().count(), 0);
}

#[test]
fn once_without_softhsm_says_so_first_and_how_to_get_a_token() {
    let folder = folder();
    let mut command = dev(folder.path(), "--once --write out --trust-domain try.test");
    let report = succeeded(command.env(HIDDEN.0, HIDDEN.1).output().unwrap());
    let first = report.lines().next().unwrap();
    assert!(
        first.contains("software keys") && first.contains("apt-get install softhsm2"),
        "{first}"
    );
    assert!(first.contains("protects a copied key file only"), "{first}");
    assert!(report.contains("spiffe://try.test/workload"), "{report}");
    assert_delivered(&folder.path().join("out"));
    assert_eq!(fs::read_dir(folder.path().join("tmp")).unwrap().count(), 0);
}

#[test]
fn programs_get_json_without_secrets() {
    for hidden in [None, Some(HIDDEN)] {
        let folder = folder();
        let mut command = dev(folder.path(), "--once --output json --write out");
        let shown = succeeded(command.envs(hidden).output().unwrap());
        let report = json(&shown);
        assert_eq!(report["x509"]["spiffe_id"], "spiffe://dev.test/workload");
        assert_eq!(report["keys"].as_array().unwrap().len(), 3);
        assert!(!shown.contains("eyJ"), "a JWT is in: {shown}");
    }
}

#[test]
fn a_kept_folder_keeps_authority_and_kid() {
    for hidden in [None, Some(HIDDEN)] {
        let folder = folder();
        let bundle = || {
            let mut command = dev(folder.path(), "--dir kept");
            command.envs(hidden);
            let running = Serving::start(command, folder.path());
            let show = format!("{BINARY} bundle show --output json --socket kept/admin.sock");
            let bundle = succeeded(shell(folder.path(), &show).output().unwrap());
            running.end();
            json(&bundle)
        };
        let first: Value = bundle();
        assert_eq!(first["x509_authorities"].as_array().unwrap().len(), 1);
        assert_eq!(bundle(), first);
        let kept = folder.path().join("kept");
        assert_eq!(fs::metadata(&kept).unwrap().permissions().mode() & 0o777, 0o700);
        let secret = if hidden.is_some() { "seal.key" } else { "pin" };
        assert_eq!(fs::metadata(kept.join(secret)).unwrap().permissions().mode() & 0o777, 0o600);
    }
}

#[test]
fn keys_in_a_token_are_not_replaced_when_softhsm_is_gone() {
    let folder = folder();
    succeeded(dev(folder.path(), "--dir kept --once").output().unwrap());
    let mut command = dev(folder.path(), "--dir kept --once");
    let output = command.env(HIDDEN.0, HIDDEN.1).output().unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(
        said.contains("SoftHSM is not installed") && said.contains("apt-get install"),
        "{said}"
    );
}

#[test]
fn what_a_serving_dev_prints_can_be_pasted() {
    for (arguments, expected) in [("", 4), ("--dir 'it'\\''s kept'", 4)] {
        let folder = folder();
        let running = Serving::start(dev(folder.path(), arguments), folder.path());
        let commands = commands(&running.report());
        assert_eq!(commands.len(), expected, "{commands:?}");
        for command in &commands {
            let shown = succeeded(shell(folder.path(), command).output().unwrap());
            if command.contains("pkcs11-tool") {
                assert!(shown.contains("never extractable"), "{shown}");
            }
        }
        assert_delivered(&folder.path().join("web"));
        running.end();
        assert_eq!(fs::read_dir(folder.path().join("tmp")).unwrap().count(), 0);
    }
}

#[test]
fn what_dev_once_prints_can_be_pasted() {
    let folder = folder();
    let report = succeeded(dev(folder.path(), "--once --write out").output().unwrap());
    for command in commands(&report) {
        if command.contains(" dev") {
            // Serves on until it is ended.
            Serving::start(shell(folder.path(), &command), folder.path()).end();
        } else {
            succeeded(shell(folder.path(), &command).output().unwrap());
        }
    }
}

#[test]
fn the_pin_is_in_its_file_and_nowhere_else() {
    let folder = folder();
    let running = Serving::start(dev(folder.path(), "--dir kept"), folder.path());
    let pin = fs::read_to_string(folder.path().join("kept/pin")).unwrap();
    for output in
        [running.report(), fs::read_to_string(folder.path().join("kept/server.log")).unwrap()]
    {
        assert!(!output.contains(&pin) && !output.contains("eyJ"), "{output}");
    }
    // A folder that another dev has open is refused; so is a wrong PIN, and neither is told the PIN.
    for wrong in [false, true] {
        if wrong {
            write_private(&folder.path().join("kept/pin"), b"0000-wrong-0000");
        }
        let output = dev(folder.path(), "--dir kept --once").output().unwrap();
        let said = String::from_utf8([output.stdout, output.stderr].concat()).unwrap();
        assert_eq!(output.status.code(), Some(1), "{said}");
        assert!(!said.contains(&pin) && !said.contains("0000-wrong-0000"), "{said}");
    }
    running.end();
}

/// A `dev` that serves on, in a process group of its own.
struct Serving {
    child: Child,
    out: std::path::PathBuf,
}

impl Serving {
    /// Waits until it says that it serves.
    fn start(mut command: Command, folder: &Path) -> Self {
        let out = folder.join("serving.out");
        let file = File::create(&out).unwrap();
        let err = file.try_clone().unwrap();
        let child = command.process_group(0).stdout(file).stderr(err).spawn().unwrap();
        let mut serving = Self { child, out };
        let limit = Instant::now() + Duration::from_secs(60);
        while !serving.report().contains("Serving; ") {
            let ended = serving.child.try_wait().unwrap();
            assert!(ended.is_none() && Instant::now() < limit, "{ended:?}: {}", serving.report());
            sleep(Duration::from_millis(10));
        }
        serving
    }

    fn report(&self) -> String {
        fs::read_to_string(&self.out).unwrap()
    }

    /// Ctrl-C.
    fn end(mut self) {
        kill_process_group(Pid::from_child(&self.child), Signal::INT).unwrap();
        assert!(wait(&mut self.child).is_some(), "dev ends when it is asked to");
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        // It has ended already where the test has come to its end.
        let _ = kill_process_group(Pid::from_child(&self.child), Signal::KILL);
        let _ = self.child.wait();
    }
}
