//! `mintmark key` on a token, beside a server and without one.

use std::fs;
use std::io::Read as _;
use std::process::{Child, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use pkcs11_proxy::{Control, Effect, Function, Rule, When};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use crate::site::{Site, json, write_private};
use crate::token::{CA_KEY, openssl};
use crate::watching::{await_answer, watched};

const JWT_KEY: &str = "mintmark/example.org/jwt/1";
const LOG_KEY: &str = "mintmark/example.org/log/1";

/// A token whose keys an administrator makes.
fn site_without_leave() -> Site {
    let mut site = Site::with_token();
    site.set("type = \"pkcs11\"\n", "type = \"pkcs11\"\ncreate = \"never\"\n");
    site
}

/// The keys of `key list`, by name: state and problem.
fn listed(site: &Site) -> Vec<(String, String, Value)> {
    let listing = json(&site.key(&["list", "--output", "json"]).succeeded());
    let keys = listing["keys"].as_array().unwrap().iter();
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    keys.map(|key| (text(&key["name"]), text(&key["state"]), key["problem"].clone())).collect()
}

fn states(site: &Site) -> Vec<(String, String)> {
    listed(site).into_iter().map(|(name, state, _)| (name, state)).collect()
}

#[test]
fn an_administrator_prepares_keys_and_the_server_takes_them() {
    let site = site_without_leave();
    let texts = ["no key is prepared", "mintmark key create --authority x509"];
    site.refused_start().failed_saying(1, &texts);
    assert_eq!(site.token().private_keys().len(), 0, "the server makes none");

    let made = site.key(&["create", "--count", "2"]).succeeded();
    assert!(made.contains(CA_KEY) && made.contains("mintmark/example.org/x509/2"), "{made}");
    let made = site.key(&["create", "--authority", "jwt", "--output", "json"]).succeeded();
    assert_eq!(json(&made)["keys"][0]["name"], JWT_KEY);
    let texts = [LOG_KEY, "mintmark key create --authority log"];
    site.refused_start().failed_saying(1, &texts);
    site.key(&["create", "--authority", "log"]).succeeded();
    let server = site.start();
    assert!(server.log().contains("keys are prepared"), "{}", server.log());
    site.key(&["verify", "--all"]).succeeded();
    let expected = [
        (JWT_KEY, "active"),
        (LOG_KEY, "log"),
        (CA_KEY, "active"),
        ("mintmark/example.org/x509/2", "prepared"),
    ];
    let expected = expected.map(|(name, state)| (name.to_owned(), state.to_owned()));
    assert_eq!(states(&site), expected, "beside the server");
    server.stop();
    assert_eq!(states(&site), expected, "without it");
}

#[test]
fn half_a_key_in_the_token_is_passed_over_when_keys_are_made() {
    let site = site_without_leave();
    site.token().plant(CA_KEY, &[]);
    site.token().tool(&["--delete-object", "--type", "privkey", "--label", CA_KEY]);
    let made = json(&site.key(&["create", "--output", "json"]).succeeded());
    assert_eq!(made["keys"][0]["name"], "mintmark/example.org/x509/2");
    let notes = made["notes"].to_string();
    assert!(notes.contains(&format!("{CA_KEY} is passed over")), "{notes}");

    // A second key of a log would never be taken.
    site.token().plant(LOG_KEY, &[]);
    site.token().tool(&["--delete-object", "--type", "privkey", "--label", LOG_KEY]);
    site.key(&["create", "--authority", "log"]).failed_saying(1, &[LOG_KEY, "is incomplete"]);
}

#[test]
fn a_unit_is_started_again_as_the_docs_say_for_however_long_a_token_is_away() {
    let docs = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs");
    let page = fs::read_to_string(format!("{docs}/keys.md")).unwrap();
    let (_, snippet) = page.split_once("```ini\n").unwrap();
    let (snippet, _) = snippet.split_once("```").unwrap();
    let needed = ["Restart=on-failure", "RestartPreventExitStatus=2 3", "StartLimitIntervalSec=0"];
    for line in needed {
        assert!(snippet.lines().any(|said| said == line), "{line}: {snippet}");
    }
    for role in ["signer", "server"] {
        let unit = fs::read_to_string(format!("{docs}/systemd/mintmark-{role}.service")).unwrap();
        for line in snippet.lines() {
            assert!(unit.lines().any(|said| said == line), "{role}: {line}");
        }
    }
}

#[test]
fn every_way_in_which_a_signature_fails_is_alerted() {
    let page = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/keys.md");
    let page = fs::read_to_string(page).unwrap();
    let rules = page.split_once("```yaml\n").unwrap().1.split_once("```").unwrap().0;
    let outcomes = rules.split("mintmark_key_signatures_total{outcome=~\"").skip(1);
    let mut alerted: Vec<&str> =
        outcomes.flat_map(|rest| rest.split('"').next().unwrap().split('|')).collect();
    alerted.sort_unstable();
    assert_eq!(alerted, ["busy", "late", "malformed", "refused", "unavailable", "wrong"]);
}

#[test]
fn keys_are_retired_beside_a_server_as_without_one() {
    const SECOND: &str = "mintmark/example.org/x509/2";
    const THIRD: &str = "mintmark/example.org/x509/3";
    let mut site = site_without_leave();
    site.key(&["create", "--count", "3"]).succeeded();
    site.key(&["create", "--authority", "jwt"]).succeeded();
    site.key(&["create", "--authority", "log"]).succeeded();
    let port = watched(&mut site);
    let server = site.start();
    let prepared = |count| format!("prepared{{store=\"hsm\",authority=\"x509\"}} {count}");
    await_answer(port, "/metrics", &prepared(2));

    let refused = |site: &Site| site.key(&["retire", CA_KEY]).failed(1);
    let beside = refused(&site);
    assert!(beside.contains(CA_KEY) && beside.contains("the active authority"), "{beside}");
    let retired = site.key(&["retire", SECOND]).succeeded();
    assert!(retired.contains("May be destroyed after"), "{retired}");
    let log = server.log();
    assert!(log.contains("key retired") && log.contains("local uid"), "{log}");
    // The record has it at once, for every command.
    assert!(states(&site).contains(&(SECOND.to_owned(), "retired".to_owned())));
    let shown = json(&site.key(&["show", SECOND, "--output", "json"]).succeeded());
    assert_eq!(shown["state"], "retired");
    let dry =
        |site: &Site| json(&site.key(&["destroy", "--dry-run", "--output", "json"]).succeeded());
    let judged = dry(&site);
    assert_eq!(judged["keys"].as_array().unwrap().len(), 5, "{judged}");
    assert!(judged["keys"][3]["destroyable_after"].is_string(), "{judged}");
    let stays = site.key(&["destroy", "--yes", SECOND]);
    assert!(stays.code == Some(1) && stays.err.contains("nothing was destroyed"), "{stays:?}");
    let stays = site.key(&["destroy", "--yes", CA_KEY]);
    assert!(stays.err.contains("signs with it"), "{stays:?}");
    // A name that was used is not used again, whether its key is there or not.
    let made = json(&site.key(&["create", "--output", "json"]).succeeded());
    assert_eq!(made["keys"][0]["name"], "mintmark/example.org/x509/4");
    site.key(&["retire", THIRD]).succeeded();
    await_answer(port, "/metrics", &prepared(1));
    site.jwt("shop");
    server.stop();

    assert_eq!(refused(&site), beside);
    let alone = dry(&site);
    assert_eq!(alone["keys"][2], judged["keys"][2]);
    site.key(&["retire", "mintmark/example.org/x509/4"]).succeeded();
}

#[test]
fn beside_a_server_that_cannot_be_asked_nothing_is_retired_or_destroyed() {
    let mut site = Site::with_token();
    let server = site.start();
    site.set("socket = \"admin.sock\"", "socket = \"other.sock\"");
    let texts = [&format!("process {}", server.pid()), "other.sock", "[server.admin] socket"];
    site.key(&["retire", CA_KEY]).failed_saying(1, &texts);
    site.key(&["destroy", "--dry-run"]).failed_saying(1, &texts);
    let listing = json(&site.key(&["list", "--output", "json"]).succeeded());
    assert!(listing["record"].as_str().unwrap().contains("other.sock"), "{listing}");
    assert_eq!(listing["keys"][0]["state"], "unknown");
    server.stop();
}

#[test]
fn a_key_is_shown_as_other_programs_see_it() {
    let site = Site::with_token();
    site.start().stop();
    let shown = json(&site.key(&["show", CA_KEY, "--output", "json"]).succeeded());
    assert_eq!((&shown["state"], &shown["key"]), (&"active".into(), &"EC P-256".into()));
    let public = site.path("public.pem");
    fs::write(&public, shown["public_key"].as_str().unwrap()).unwrap();
    let der = openssl(&["pkey", "-pubin", "-in", public.to_str().unwrap(), "-outform", "DER"]);
    let of_token = site.token().tool(&["--read-object", "--type", "pubkey", "--label", CA_KEY]);
    assert_eq!(der, of_token);
    let table = site.key(&["show", CA_KEY]).succeeded();
    assert!(table.contains("BEGIN PUBLIC KEY") && table.contains("token \"mintmark\""), "{table}");

    let missing = "mintmark/example.org/x509/9";
    site.key(&["show", missing]).failed_saying(1, &[missing, "mintmark key list"]);
}

#[test]
fn a_key_that_does_not_keep_its_promises_is_listed_with_the_reason_and_fails_the_check() {
    let site = Site::with_token();
    site.start().stop();
    let bad = "mintmark/example.org/x509/2";
    site.token().plant(bad, &["--extractable"]);
    let keys = listed(&site);
    let problem = keys.iter().find(|(name, ..)| name == bad).unwrap().2.as_str().unwrap();
    assert!(problem.contains("it can be exported"), "{problem}");
    assert!(site.key(&["list"]).succeeded().contains("REFUSED: it can be exported"));

    let run = site.key(&["verify", "--all"]);
    assert_eq!(run.code, Some(1), "{}{}", run.out, run.err);
    assert!(run.out.contains("BAD") && run.out.contains("ok"), "{}", run.out);
    assert!(run.err.contains("1 of 4 keys cannot be used"), "{}", run.err);
    site.key(&["verify", CA_KEY]).succeeded();
    assert_eq!(site.key(&["verify", bad]).code, Some(1));
    site.key(&["show", bad]).failed_saying(1, &[bad, "is refused"]);
}

#[test]
fn a_key_command_tries_a_wrong_pin_once() {
    let mut site = Site::with_token();
    write_private(&site.path("wrong"), b"0000-wrong-0000");
    site.keep_secret("0000-wrong-0000");
    site.set("token/pin", "wrong");
    let texts = ["refused the PIN", "it is not tried again"];
    site.key(&["list"]).failed_saying(1, &texts);
    assert!(site.token().remembers_a_wrong_pin());
}

#[test]
fn a_probe_names_a_number_and_says_how_it_came_to_it() {
    let site = Site::with_token();
    site.start().stop();
    let run = site.key(&["probe", "--seconds", "0.2", "--sessions", "4", "--output", "json"]);
    assert_eq!(run.code, Some(0), "{}", run.err);
    assert!(run.err.starts_with("1 at once: "), "{}", run.err);
    let report = json(&run.out);
    let steps = report["steps"].as_array().unwrap();
    assert!(steps.len() >= 2, "{report}");
    for step in steps {
        assert_eq!(step["errors"], 0);
        assert!(step["per_second"].as_f64().unwrap() > 1.0, "{step}");
        assert!(step["p50_ms"].as_f64() <= step["p99_ms"].as_f64(), "{step}");
    }
    let (at, beyond) = (&report["saturated_by"], &report["not_saturated_by"]);
    assert!(at.is_u64() != beyond.is_u64(), "{report}");
    assert_eq!(report["interrupted"], false);
    let missing = ["probe", "--key", "mintmark/example.org/x509/9"];
    site.key(&missing).failed_saying(1, &["there is no key"]);
}

#[test]
fn a_probe_names_as_many_as_the_device_has_slots() {
    let (site, device) = site_behind_a_proxy();
    // A device of 30 slots that takes 20 ms for a signature: slow enough that no processor matters.
    device.set_slots(30);
    device.set_latency(Function::Sign, Duration::from_millis(20));

    let run = site.key(&["probe", "--seconds", "0.8", "--sessions", "128", "--output", "json"]);
    assert_eq!(run.code, Some(0), "{}", run.err);
    let found = json(&run.out)["saturated_by"].as_u64().unwrap_or_default();
    assert!((27..=33).contains(&found), "{}{}", run.err, run.out);
}

#[test]
fn a_device_that_hangs_holds_up_no_command() {
    let (mut site, device) = site_behind_a_proxy();
    site.set("type = \"pkcs11\"\n", "type = \"pkcs11\"\nstall_limit = \"100ms\"\n");
    for (function, said) in [
        (Function::OpenSession, "has not answered for 3 s; look at the device"),
        (Function::FindObjectsInit, "has not answered yet"),
    ] {
        let effect = Effect::Hang(Duration::MAX);
        let hang = device.add(Rule { function, when: When::Every(1), effect }).unwrap();
        for arguments in [&["list"][..], &["probe"]] {
            let mut command = site.key_command(arguments);
            let command = command.stdout(Stdio::piped()).stderr(Stdio::piped());
            let mut child = command.spawn().unwrap();
            assert!(ends_within(&mut child, Duration::from_secs(20)), "{function:?} {arguments:?}");
            site.run(child.wait_with_output().unwrap()).failed_saying(1, &[said]);
        }
        device.remove(hang);
    }
}

#[test]
fn an_interrupted_probe_shows_what_it_has_found() {
    let site = Site::with_token();
    site.start().stop();
    let mut command = site.key_command(&["probe", "--seconds", "0.5", "--output", "json"]);
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut first = [0; 9];
    child.stderr.as_mut().unwrap().read_exact(&mut first).unwrap();
    kill_process(Pid::from_child(&child), Signal::INT).unwrap();
    assert!(ends_within(&mut child, Duration::from_secs(20)));
    let run = site.run(child.wait_with_output().unwrap());
    assert_eq!(run.code, Some(0), "{}", run.err);
    let report = json(&run.out);
    assert_eq!((&report["interrupted"], &report["saturated_by"]), (&true.into(), &Value::Null));
    assert!(!report["steps"].as_array().unwrap().is_empty());
}

/// A token with the keys of a server, behind a device that does as it is told.
fn site_behind_a_proxy() -> (Site, Control) {
    let mut site = Site::with_token();
    site.start().stop();
    let control = site.path("control");
    let device = Control::create(&control).unwrap();
    let (module, proxy) = (site.token().module.clone(), pkcs11_proxy::module_path().unwrap());
    site.set(&module, proxy.to_str().unwrap());
    site.variables.push((pkcs11_proxy::MODULE_VARIABLE, module));
    site.variables.push((pkcs11_proxy::CONTROL_VARIABLE, control.to_str().unwrap().to_owned()));
    (site, device)
}

fn ends_within(child: &mut Child, patience: Duration) -> bool {
    let limit = Instant::now() + patience;
    while Instant::now() < limit {
        if child.try_wait().unwrap().is_some() {
            return true;
        }
        sleep(Duration::from_millis(10));
    }
    false
}
