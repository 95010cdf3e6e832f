//! Who may ask a signer to mint: front ends enrolled, shown, and withdrawn at the command line.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;

use aws_lc_rs::digest::{SHA256, digest};
use ca_core::log::Document;
use ca_core::log::entry::Entry;
use ca_core::profile::Profile;
use serde_json::{Value, json};
use x509_cert::Certificate;
use x509_cert::der::{Decode as _, Encode as _};

use crate::site::{Site, entries, json as parsed};
use crate::token::openssl;

const ID: &str = "spiffe://example.org/mintmark/frontend/edge";

fn enroll(site: &Site, more: &[&str]) -> crate::site::Run {
    let start = ["frontend", "enroll", "edge", "--path-scope", "/ns/prod"];
    site.mintmark(&[&start[..], more].concat())
}

fn shown(site: &Site, name: &str) -> Value {
    parsed(&site.mintmark(&["frontend", "show", name, "--output", "json"]).succeeded())
}

/// A key of `openssl`'s, and a CSR for it with these names.
fn csr(site: &Site, name: &str, names: &str) -> String {
    let files = ["key", "csr"].map(|kind| site.path(&format!("{name}.{kind}")));
    let [key, csr] = files.each_ref().map(|path| path.to_str().unwrap());
    openssl(&["genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-384", "-out", key]);
    openssl(&["req", "-new", "-key", key, "-subj", "/CN=x", "-addext", names, "-out", csr]);
    csr.to_owned()
}

#[test]
fn a_front_end_gets_a_key_and_an_svid_that_others_verify_and_the_log_has() {
    let site = Site::with_sealed_keys();
    let server = site.start();
    let table = enroll(&site, &["--write", "edge"]).succeeded();
    assert!(table.contains(ID) && table.contains("edge/key.pem"), "{table}");

    let [key, svid, bundle] =
        ["key.pem", "svid.pem", "bundle.pem"].map(|name| site.path("edge").join(name));
    assert_eq!(fs::metadata(&key).unwrap().permissions().mode() & 0o777, 0o600);
    let [key, svid, bundle] = [&key, &svid, &bundle].map(|path| path.to_str().unwrap());
    for purpose in ["sslclient", "sslserver"] {
        let strict = ["verify", "-x509_strict", "-purpose", purpose, "-CAfile", bundle];
        openssl(&[&strict[..], &["-untrusted", svid, svid]].concat());
    }
    let public = openssl(&["pkey", "-in", key, "-pubout"]);
    assert_eq!(public, openssl(&["x509", "-in", svid, "-noout", "-pubkey"]));

    let leaf = Certificate::from_der(&pem_der(svid)).unwrap();
    let validity = leaf.tbs_certificate().validity();
    let life = validity.not_after.to_unix_duration() - validity.not_before.to_unix_duration();
    assert!((7 * 86_400..=7 * 86_400 + 60).contains(&life.as_secs()), "{life:?}");
    let certificate =
        parsed(&site.mintmark(&["x509", "show", svid, "--output", "json"]).succeeded());
    assert_eq!(certificate[0]["spiffe_id"], ID);
    assert_eq!(certificate[0]["ca"], false);
    assert_eq!(certificate[0]["dns_names"], json!([]));

    let front_end = shown(&site, "edge");
    assert_eq!(front_end["keys"][0]["serial_number"], certificate[0]["serial_number"]);
    let spki = leaf.tbs_certificate().subject_public_key_info().to_der().unwrap();
    let fingerprint: String =
        digest(&SHA256, &spki).as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
    assert_eq!(front_end["keys"][0]["sha256"], fingerprint);
    let log = server.stop();
    assert!(log.contains("key of a front end enrolled"), "{log}");
    let logged = entries(&site.path("store/log")).into_iter().any(|entry| {
        matches!(entry, Entry::Issuance(record)
            if record.id.as_str() == ID
                && matches!(record.document, Document::X509 { profile: Profile::Server, .. }))
    });
    assert!(logged);
}

/// The first certificate of a PEM file.
fn pem_der(path: &str) -> Vec<u8> {
    use base64::Engine as _;
    let text = fs::read_to_string(path).unwrap();
    let body = text.split("-----").nth(2).unwrap().replace('\n', "");
    base64::engine::general_purpose::STANDARD.decode(body).unwrap()
}

#[test]
fn everything_is_off_until_it_is_granted_and_shown_as_it_is() {
    let site = Site::with_sealed_keys();
    let server = site.start();
    enroll(&site, &["--write", "edge"]).succeeded();
    let front_end = shown(&site, "edge");
    assert_eq!(front_end["state"], "enrolled");
    assert_eq!(front_end["grants"], json!([]));
    assert_eq!(front_end["dns_scopes"], json!([]));
    assert_eq!(front_end["require_csr"], false);
    assert_eq!(front_end["max_ttl_seconds"], 86_400);
    assert_eq!(front_end["key_types"], json!(["ec-p256", "ec-p384", "ed25519", "rsa-2048"]));
    assert_eq!(front_end["budget"], Value::Null);

    let wide = [
        "frontend",
        "enroll",
        "wide",
        "--path-scope",
        "/",
        "--path-scope",
        "/a",
        "--dns-scope",
        "*.Example.org",
        "--allow-named",
        "--allow-downstream",
        "--allow-publish",
        "--allow-admin",
        "--require-csr",
        "--max-ttl",
        "1h",
        "--allow-key",
        "rsa-3072",
        "--budget",
        "100/200",
        "--class-budget",
        "bulk=5",
        "--write",
        "wide",
    ];
    site.mintmark(&wide).succeeded();
    let front_end = shown(&site, "wide");
    assert_eq!(front_end["path_scopes"], json!(["/", "/a"]));
    assert_eq!(front_end["dns_scopes"], json!(["*.example.org"]));
    assert_eq!(front_end["grants"], json!(["named", "downstream", "publish", "admin"]));
    assert_eq!(front_end["require_csr"], true);
    assert_eq!(front_end["max_ttl_seconds"], 3_600);
    assert_eq!(front_end["key_types"], json!(["rsa-3072"]));
    assert_eq!(front_end["budget"], "100/200");
    assert_eq!(front_end["class_budgets"], json!({ "bulk": "5/5" }));

    let table = site.mintmark(&["frontend", "list"]).succeeded();
    let lines: Vec<&str> = table.lines().collect();
    assert_eq!(lines.len(), 3, "{table}");
    assert!(lines[1].starts_with("edge") && lines[1].contains("/ns/prod"), "{table}");
    assert!(lines[2].contains("named, downstream, publish, admin"), "{table}");
    let list = parsed(&site.mintmark(&["frontend", "list", "--output", "json"]).succeeded());
    assert_eq!(list[1], front_end);
    let table = site.mintmark(&["frontend", "show", "wide"]).succeeded();
    assert!(table.contains("a CSR for each key") && table.contains("bulk 5/5"), "{table}");
    server.stop();
}

#[test]
fn a_csr_made_elsewhere_is_taken_if_it_is_for_this_front_end_or_for_nobody() {
    let site = Site::with_sealed_keys();
    let server = site.start();
    for (name, names) in
        [("own", &*format!("subjectAltName=URI:{ID}")), ("none", "subjectAltName=DNS:x.test")]
    {
        let csr = csr(&site, name, names);
        let json_only = ["--csr", &csr, "--output", "json"];
        let enrolled = parsed(&enroll(&site, &json_only).succeeded());
        assert_eq!(enrolled["certificate"]["spiffe_id"], ID);
        assert_eq!(enrolled["certificate"]["subject"], "");
        assert!(enrolled["svid"].as_str().unwrap().starts_with("-----BEGIN CERTIFICATE-----"));
        assert_eq!(enrolled.get("key"), None);
    }
    let csr =
        csr(&site, "other", "subjectAltName=URI:spiffe://example.org/mintmark/frontend/other");
    enroll(&site, &["--csr", &csr, "--write", "x"])
        .failed_saying(1, &["frontend/other", "InvalidArgument"]);
    assert!(!site.path("x").exists());
    // Two instances by now, and the key of nobody else.
    assert_eq!(shown(&site, "edge")["keys"].as_array().unwrap().len(), 2);
    assert!(server.stop().contains("enrolment of a front end"));
}

#[test]
fn other_terms_and_withdrawn_names_are_taken_only_where_that_is_said() {
    let site = Site::with_sealed_keys();
    let server = site.start();
    enroll(&site, &["--write", "1"]).succeeded();
    enroll(&site, &["--write", "2"]).succeeded();
    enroll(&site, &["--allow-named", "--write", "3"])
        .failed_saying(1, &["differ in allow-named", "--replace"]);
    assert!(!site.path("3").exists());
    enroll(&site, &["--allow-named", "--replace", "--write", "3"]).succeeded();
    let front_end = shown(&site, "edge");
    assert_eq!(front_end["grants"], json!(["named"]));
    assert_eq!(front_end["keys"].as_array().unwrap().len(), 3);

    let table = site.mintmark(&["frontend", "withdraw", "edge"]).succeeded();
    assert!(table.contains("withdrawn"), "{table}");
    let withdrawn = shown(&site, "edge");
    assert_eq!(withdrawn["state"], "withdrawn");
    assert!(withdrawn["keys"].as_array().unwrap().iter().all(|key| key["live"] == false));
    // Again, it stays as it is.
    site.mintmark(&["frontend", "withdraw", "edge"]).succeeded();
    assert_eq!(shown(&site, "edge"), withdrawn);
    for flags in [&[][..], &["--replace"]] {
        enroll(&site, &[&["--allow-named", "--write", "4"], flags].concat())
            .failed_saying(1, &["was withdrawn at", "--again"]);
    }
    enroll(&site, &["--again", "--write", "4"]).succeeded();
    let again = shown(&site, "edge");
    assert_eq!((&again["state"], &again["grants"]), (&json!("enrolled"), &json!([])));
    assert_eq!(again["keys"].as_array().unwrap().len(), 1, "old keys do not come back");
    assert!(server.stop().contains("front end withdrawn"));
}

#[test]
fn front_ends_outlive_the_server() {
    let site = Site::with_sealed_keys();
    let server = site.start();
    enroll(&site, &["--write", "edge"]).succeeded();
    let before = shown(&site, "edge");
    server.kill();
    let server = site.start();
    assert_eq!(shown(&site, "edge"), before);
    server.stop();
}

#[test]
fn a_front_ends_svid_does_not_hang_on_a_short_lived_issuing_key() {
    let mut site = Site::with_sealed_keys();
    site.configuration.push_str("[issuing]\nissuing_key_life = \"1h\"\nlong_ttl = \"refuse\"\n");
    let server = site.start();
    let enrolled = parsed(&enroll(&site, &["--write", "edge", "--output", "json"]).succeeded());
    assert!(enrolled["certificate"]["remaining_seconds"].as_u64().unwrap() > 6 * 86_400);
    server.stop();
}

#[test]
fn what_makes_no_sense_is_told_before_a_server_is_asked() {
    let site = Site::with_sealed_keys();
    for (arguments, text) in [
        (&["enroll", "edge", "--write", "x"][..], "--path-scope"),
        (&["enroll", "edge", "--path-scope", "/a"], "--csr"),
        (&["enroll", "Edge", "--path-scope", "/a", "--write", "x"], "no name of a front end"),
        (&["enroll", "edge", "--path-scope", "/a/../b", "--write", "x"], "segment '.' or '..'"),
        (&["enroll", "edge", "--path-scope", "/spire", "--write", "x"], "reserved"),
        (
            &["enroll", "edge", "--path-scope", "/a", "--dns-scope", "*", "--write", "x"],
            "DNS scope",
        ),
        (&["enroll", "edge", "--path-scope", "/a", "--budget", "0", "--write", "x"], "1000/2000"),
        (
            &["enroll", "edge", "--path-scope", "/a", "--class-budget", "x=1", "--write", "x"],
            "bulk=100",
        ),
        (
            &["enroll", "edge", "--path-scope", "/a", "--max-ttl", "0s", "--write", "x"],
            "life of nothing",
        ),
        (&["enroll", "edge", "--path-scope", "/a", "--csr", "x"], "--write"),
        (&["show"], "NAME"),
    ] {
        let run = site.mintmark(&[&["frontend"], arguments].concat());
        run.failed_saying(2, &[text]);
    }
    site.mintmark(&["frontend", "list"]).failed_saying(4, &["no such socket"]);
}

#[test]
fn what_a_server_refuses_is_told_with_the_next_step() {
    let site = Site::with_sealed_keys();
    let server = site.start();
    for command in ["show", "withdraw"] {
        site.mintmark(&["frontend", command, "nobody"])
            .failed_saying(1, &["no front end nobody", "frontend list"]);
    }
    enroll(&site, &["--allow-downstream", "--write", "x"])
        .failed_saying(1, &["can issue any ID", "path scope /"]);
    enroll(&site, &["--allow-key", "ml-dsa-44", "--write", "x"])
        .failed_saying(1, &["ml-dsa-44 are not certified"]);
    assert_eq!(site.mintmark(&["frontend", "list", "--output", "json"]).succeeded().trim(), "[]");
    let log = server.stop();
    assert!(log.contains("withdrawal of a front end") && log.contains("refused"), "{log}");
}
