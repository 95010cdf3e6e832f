//! A server as it ships, on a configuration of its own, used by the command line as it ships.
#![expect(clippy::unwrap_used, reason = "tests state their expectations by unwrapping")]

mod judges;
mod site;

use std::fs;
use std::os::unix::fs::PermissionsExt as _;

use rustix::process::Signal;
use serde_json::Value;
use site::{ID, Site, openssl, text};

#[test]
fn a_key_made_here_is_certified_and_delivered() {
    let site = Site::new();
    let _server = site.start();
    for key_type in ["ec-p256", "ec-p384", "rsa-2048", "ed25519"] {
        let table = site.succeeds(&[
            "x509",
            "mint",
            "--spiffe-id",
            ID,
            "--key-type",
            key_type,
            "--dns",
            "web.example.org",
            "--ttl",
            "10m",
            "--write",
            "svid",
        ]);
        assert!(table.contains(ID) && table.contains("svid/key.pem"), "{table}");
        let (svid, bundle) = (site.path("svid/svid.pem"), site.path("svid/bundle.pem"));
        openssl(&["verify", "-x509_strict", "-CAfile", text(&bundle), text(&svid)]);
        let key = site.path("svid/key.pem");
        assert_eq!(fs::metadata(&key).unwrap().permissions().mode() & 0o777, 0o600);
        let public = openssl(&["pkey", "-in", text(&key), "-pubout"]);
        assert_eq!(public, openssl(&["x509", "-in", text(&svid), "-noout", "-pubkey"]));
        let shown = site.json(&["x509", "show", text(&svid), "--output", "json"]);
        assert_eq!(shown[0]["dns_names"][0], "web.example.org");
        assert!(shown[0]["remaining_seconds"].as_u64().unwrap() <= 600);
    }
}

#[test]
fn a_csr_of_another_program_is_certified_from_pem_and_der() {
    let site = Site::new();
    let _server = site.start();
    let (key, pem, der) = (site.path("key.pem"), site.path("csr.pem"), site.path("csr.der"));
    let san = format!("subjectAltName=URI:{ID},DNS:web.example.org");
    openssl(&[
        "req",
        "-new",
        "-newkey",
        "ec",
        "-pkeyopt",
        "ec_paramgen_curve:P-256",
        "-nodes",
        "-keyout",
        text(&key),
        "-subj",
        "/O=Example",
        "-addext",
        &san,
        "-out",
        text(&pem),
    ]);
    openssl(&["req", "-in", text(&pem), "-outform", "DER", "-out", text(&der)]);
    for csr in [&pem, &der] {
        let minted =
            site.json(&["x509", "mint", "--csr", text(csr), "--write", "out", "--output", "json"]);
        assert_eq!(minted["certificate"]["spiffe_id"], ID);
        assert_eq!(minted["files"]["svid"], "out/svid.pem");
        assert_eq!(minted["files"].get("key"), None);
        assert!(!site.path("out/key.pem").exists());
        let (svid, bundle) = (site.path("out/svid.pem"), site.path("out/bundle.pem"));
        openssl(&["verify", "-x509_strict", "-CAfile", text(&bundle), text(&svid)]);
    }
    let texts = site.json(&["x509", "mint", "--csr", text(&pem), "--output", "json"]);
    assert!(texts["svid"].as_str().unwrap().starts_with("-----BEGIN CERTIFICATE-----"));
    assert!(texts["bundle"].as_str().unwrap().starts_with("-----BEGIN CERTIFICATE-----"));
    assert_eq!(texts.get("key"), None);
}

#[test]
fn what_the_server_refuses_ends_with_1_and_its_own_words() {
    let site = Site::new();
    let _server = site.start();
    for id in ["spiffe://elsewhere.org/web", "spiffe://example.org", "spiffe://example.org/spire/x"]
    {
        let said = site.fails(1, &["x509", "mint", "--spiffe-id", id, "--write", "d"]);
        assert!(said.contains("cannot mint an X.509-SVID: CSR URI SAN is invalid"), "{said}");
        assert!(said.contains("InvalidArgument"), "{said}");
        let said = site.fails(1, &["jwt", "mint", "--spiffe-id", id, "--audience", "a"]);
        assert!(said.contains("cannot mint a JWT-SVID: invalid SPIFFE ID"), "{said}");
    }
    assert!(!site.path("d").exists());
}

#[test]
fn a_token_is_printed_alone_and_kept_out_of_the_log() {
    let site = Site::new();
    let server = site.start();
    let token =
        site.succeeds(&["jwt", "mint", "--spiffe-id", ID, "--audience", "a", "--audience", "b"]);
    assert_eq!(token.trim_end().split('.').count(), 3);
    assert_eq!(token.matches('\n').count(), 1);
    let minted = site.json(&[
        "jwt",
        "mint",
        "--spiffe-id",
        ID,
        "--audience",
        "a",
        "--ttl",
        "1m",
        "--output",
        "json",
    ]);
    assert_eq!(minted["spiffe_id"], ID);
    let (code, log) = server.terminate();
    assert_eq!(code, Some(0));
    let signature = token.trim_end().rsplit('.').next().unwrap();
    assert!(!log.contains(signature), "{log}");
    assert!(log.contains("JWT-SVID") && log.contains(ID), "{log}");
}

#[test]
fn each_svid_is_in_the_log_at_every_level() {
    let site = Site::with("[server]\nlog_level = \"error\"\nlog_format = \"json\"\n");
    let server = site.start();
    site.succeeds(&["x509", "mint", "--spiffe-id", ID, "--write", "d"]);
    let shown = site.json(&["x509", "show", "d/svid.pem", "--output", "json"]);
    let (_, log) = server.terminate();
    let lines: Vec<Value> = log.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(lines.len(), 1, "{log}");
    assert_eq!(lines[0]["serial"], shown[0]["serial_number"]);
    assert_eq!(lines[0]["id"], ID);
}

#[test]
fn the_bundle_is_shown_in_every_form() {
    let site = Site::new();
    let _server = site.start();
    let table = site.succeeds(&["bundle", "show"]);
    assert!(
        table.contains("X.509") && table.contains("JWT") && table.contains("trusted"),
        "{table}"
    );
    let contents = site.json(&["bundle", "show", "--output", "json"]);
    assert_eq!(contents["trust_domain"], "example.org");
    assert_eq!(contents["refresh_hint_seconds"], 300);

    let spiffe = site.json(&["bundle", "show", "--format", "spiffe"]);
    assert_eq!(spiffe["spiffe_sequence"], contents["sequence_number"]);
    let uses: Vec<_> = spiffe["keys"].as_array().unwrap().iter().map(|key| &key["use"]).collect();
    assert_eq!(uses, ["x509-svid", "jwt-svid"]);
    let jwks = site.json(&["bundle", "show", "--format", "jwks"]);
    assert_eq!(jwks["keys"].as_array().unwrap().len(), 1);
    assert_eq!(jwks["keys"][0]["kid"], contents["jwt_authorities"][0]["id"]);
    let pem = site.succeeds(&["bundle", "show", "--format", "pem"]);
    assert_eq!(pem.matches("BEGIN CERTIFICATE").count(), 1);
}

#[test]
fn a_restart_keeps_authorities_and_bundle_and_an_end_leaves_no_socket() {
    let site = Site::new();
    let server = site.start();
    let before = site.succeeds(&["bundle", "show", "--format", "spiffe"]);
    let (code, log) = server.terminate();
    assert_eq!(code, Some(0), "{log}");
    assert!(!site.socket().exists());
    site.fails(4, &["healthcheck"]);

    let _server = site.start();
    assert_eq!(site.succeeds(&["bundle", "show", "--format", "spiffe"]), before);
}

#[test]
fn an_interrupted_server_ends_with_0() {
    let site = Site::new();
    let mut server = site.start();
    server.signal(Signal::INT);
    assert_eq!(server.0.wait().unwrap().code(), Some(0));
}

#[test]
fn a_killed_server_leaves_nothing_that_hinders_the_next() {
    let site = Site::new();
    let mut server = site.start();
    let before = site.succeeds(&["bundle", "show", "--format", "spiffe"]);
    server.signal(Signal::KILL);
    server.0.wait().unwrap();
    let _server = site.start();
    assert_eq!(site.succeeds(&["bundle", "show", "--format", "spiffe"]), before);
}

#[test]
fn a_second_server_on_the_same_state_is_refused_in_words() {
    let site = Site::new();
    let _server = site.start();
    let second = site.server().output().unwrap();
    assert_eq!(second.status.code(), Some(1));
    let said = String::from_utf8(second.stderr).unwrap();
    assert!(said.contains(text(&site.path("store"))), "{said}");
    assert!(said.contains("has it open; stop that process"), "{said}");
    site.succeeds(&["healthcheck"]);
}

#[test]
fn a_server_that_cannot_start_says_why() {
    let site = Site::new();
    fs::remove_file(site.path("seal.key")).unwrap();
    let output = site.server().output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(said.contains("seal.key") && said.contains("mode 0600"), "{said}");
    assert!(!site.socket().exists());

    let site = Site::with("[frontend]\n");
    let output = site.server().output().unwrap();
    assert_eq!(output.status.code(), Some(3));
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(said.contains("section [frontend] is reserved"), "{said}");
}
