//! The module in a process that the test steers from outside.

use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

use pkcs11_proxy::cryptoki_sys::CKR_PIN_LOCKED;
use pkcs11_proxy::{
    CONTROL_VARIABLE, Control, ControlError, Effect, Function, MODULE_VARIABLE, Rule, When,
};
use softhsm::Token;

use crate::client::{Client, pin, until};

/// OpenSC's tool with the proxy under `control`.
fn tool(control: &Control) -> Command {
    let mut command = Command::new("pkcs11-tool");
    command.arg("--module").arg(pkcs11_proxy::module_path().unwrap());
    command.env(CONTROL_VARIABLE, control.path());
    command.env(MODULE_VARIABLE, softhsm::find_module().unwrap());
    command.stdout(Stdio::piped()).stderr(Stdio::piped()).stdin(Stdio::null());
    command
}

fn own_control(directory: &tempfile::TempDir) -> Control {
    Control::create(&directory.path().join("control")).unwrap()
}

fn printed(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

/// A signature with the client's key.
fn signing(control: &Control, token: &Token) -> Child {
    let digest = control.path().with_file_name("digest");
    std::fs::write(&digest, [7; 32]).unwrap();
    let mut command = tool(control);
    command.args(["--login", "--pin", "env:PIN", "--token-label", token.label()]);
    command.args(["--sign", "--mechanism", "ECDSA", "--id", "6b6579", "--input-file"]);
    command.arg(digest).args(["--output-file", "/dev/null"]);
    command.env("PIN", pin(token)).spawn().expect("pkcs11-tool is installed by `make test`")
}

#[test]
fn an_unrelated_client_lists_tokens_and_mechanisms() {
    let client = Client::new();
    let directory = tempfile::tempdir().unwrap();
    let control = own_control(&directory);
    let listed = tool(&control).arg("-L").output().unwrap();
    assert!(listed.status.success(), "{}", printed(&listed));
    assert!(printed(&listed).contains(client.token.label()), "{}", printed(&listed));
    let label = client.token.label();
    let mechanisms = tool(&control).args(["-M", "--token-label", label]).output().unwrap();
    assert!(printed(&mechanisms).contains("ECDSA"), "{}", printed(&mechanisms));
    assert_eq!(control.calls(Function::Initialize), 2, "one in each process");
    assert_eq!(control.calls(Function::Finalize), 2);
    assert_eq!(control.sessions_open(), 0);
    assert_eq!(client.device.calls(Function::Initialize), 0, "another file, another device");
}

#[test]
fn without_a_control_file_nothing_is_changed() {
    let client = Client::new();
    client.device.remove_device(Duration::MAX);
    let directory = tempfile::tempdir().unwrap();
    let mut free = tool(&own_control(&directory));
    let listed = free.arg("-L").env_remove(CONTROL_VARIABLE).env_remove(MODULE_VARIABLE).output();
    assert!(printed(&listed.unwrap()).contains(client.token.label()));
}

#[test]
fn a_running_process_is_held_and_let_go_from_outside() {
    let client = Client::new();
    let directory = tempfile::tempdir().unwrap();
    let control = own_control(&directory);
    let hang = Effect::Hang(Duration::MAX);
    control.add(Rule { function: Function::Sign, when: When::Nth(1), effect: hang }).unwrap();
    let mut child = signing(&control, &client.token);
    until(|| control.hanging() == 1);
    assert_eq!((control.signing(), control.sessions_open()), (1, 1));
    assert!(child.try_wait().unwrap().is_none(), "it waits");
    control.release();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{}", printed(&output));
    assert_eq!((control.signing(), control.sessions_open()), (0, 0));
}

#[test]
fn a_fault_set_outside_is_seen_inside() {
    let client = Client::new();
    let directory = tempfile::tempdir().unwrap();
    let control = own_control(&directory);
    let locked = Effect::Fail(CKR_PIN_LOCKED);
    control.add(Rule { function: Function::Login, when: When::Nth(1), effect: locked }).unwrap();
    let output = signing(&control, &client.token).wait_with_output().unwrap();
    assert!(printed(&output).contains("CKR_PIN_LOCKED"), "{}", printed(&output));
    assert_eq!(control.calls(Function::Login), 1);
    assert_eq!(control.calls(Function::Sign), 0);
}

#[test]
fn what_was_open_in_a_killed_process_is_not_counted_in_the_next() {
    let client = Client::new();
    let directory = tempfile::tempdir().unwrap();
    let control = own_control(&directory);
    let hang = Effect::Hang(Duration::MAX);
    control.add(Rule { function: Function::Sign, when: When::Nth(1), effect: hang }).unwrap();
    let mut child = signing(&control, &client.token);
    until(|| control.hanging() == 1);
    child.kill().unwrap();
    child.wait().unwrap();
    assert_eq!(control.sessions_open(), 1);
    let output = signing(&control, &client.token).wait_with_output().unwrap();
    assert!(output.status.success(), "{}", printed(&output));
    assert_eq!((control.sessions_open(), control.signing(), control.hanging()), (0, 0, 0));
}

#[test]
fn a_wrong_set_up_is_refused_with_its_reason() {
    let directory = tempfile::tempdir().unwrap();
    let control = own_control(&directory);
    let said = |variable: &str, value: &std::path::Path| {
        let output = tool(&control).arg("-L").env(variable, value).output().unwrap();
        assert!(!output.status.success(), "{variable}={}", value.display());
        printed(&output)
    };
    let nowhere = directory.path().join("nowhere");
    assert!(said(CONTROL_VARIABLE, &nowhere).contains("cannot use the control file"));
    assert!(said(MODULE_VARIABLE, &nowhere).contains("cannot load"));
    let itself = pkcs11_proxy::module_path().unwrap();
    assert!(said(MODULE_VARIABLE, &itself).contains("the proxy itself"));
    std::fs::write(&nowhere, "something else").unwrap();
    assert!(matches!(Control::open(&nowhere), Err(ControlError::OtherLayout(_))));
    assert!(said(CONTROL_VARIABLE, &nowhere).contains("not a control file"));
}
