//! What the command line mints and shows, and what the server writes down of it.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;

use aws_lc_rs::digest::{SHA256, digest};
use ca_core::log::entry::Entry;
use ca_core::log::{Caller, Document};

use crate::site::{Run, Site, WORKLOAD, entries, json};
use crate::token::openssl;

const DNS_NAME: &str = "web.example.org";

#[track_caller]
fn assert_verified(site: &Site, folder: &str) {
    let [bundle, svid] = ["bundle.pem", "svid.pem"].map(|name| site.path(folder).join(name));
    let [bundle, svid] = [&bundle, &svid].map(|path| path.to_str().unwrap());
    openssl(&["verify", "-x509_strict", "-CAfile", bundle, "-untrusted", svid, svid]);
}

#[test]
fn a_key_made_here_is_certified_and_delivered() {
    let site = Site::with_sealed_keys();
    let server = site.start();
    for key_type in ["ec-p256", "ec-p384", "rsa-2048", "ed25519"] {
        let subject = ["x509", "mint", "--spiffe-id", WORKLOAD, "--dns", DNS_NAME, "--ttl", "10m"];
        let made = ["--key-type", key_type, "--write", "svid"];
        let table = site.mintmark(&[&subject[..], &made].concat()).succeeded();
        assert!(table.contains(WORKLOAD) && table.contains("svid/key.pem"), "{table}");
        assert_verified(&site, "svid");
        let [key, svid] = ["svid/key.pem", "svid/svid.pem"].map(|name| site.path(name));
        assert_eq!(fs::metadata(&key).unwrap().permissions().mode() & 0o777, 0o600);
        let public = openssl(&["pkey", "-in", key.to_str().unwrap(), "-pubout"]);
        let certified = openssl(&["x509", "-in", svid.to_str().unwrap(), "-noout", "-pubkey"]);
        assert_eq!(public, certified);
        let shown = json(
            &site.mintmark(&["x509", "show", "svid/svid.pem", "--output", "json"]).succeeded(),
        );
        assert_eq!(shown[0]["dns_names"][0], DNS_NAME);
        assert!(shown[0]["remaining_seconds"].as_u64().unwrap() <= 600);
    }
    server.stop();
}

#[test]
fn a_csr_is_taken_as_pem_and_as_der() {
    let site = Site::with_sealed_keys();
    let server = site.start();
    let files = ["key", "csr.pem", "csr.der"].map(|name| site.path(name));
    let [key, pem, der] = files.each_ref().map(|path| path.to_str().unwrap());
    let names = format!("subjectAltName=URI:{WORKLOAD},DNS:{DNS_NAME}");
    openssl(&["genpkey", "-algorithm", "ed25519", "-out", key]);
    openssl(&["req", "-new", "-key", key, "-subj", "/O=Example", "-addext", &names, "-out", pem]);
    openssl(&["req", "-in", pem, "-outform", "DER", "-out", der]);
    for csr in [pem, der] {
        let mint = ["x509", "mint", "--csr", csr, "--output", "json"];
        let minted = json(&site.mintmark(&[&mint[..], &["--write", "out"]].concat()).succeeded());
        assert_eq!(minted["certificate"]["spiffe_id"], WORKLOAD);
        assert_eq!(minted["files"]["svid"], "out/svid.pem");
        assert_eq!(minted["files"].get("key"), None);
        assert!(!site.path("out/key.pem").exists());
        assert_verified(&site, "out");

        let texts = json(&site.mintmark(&mint).succeeded());
        for text in ["svid", "bundle"] {
            assert!(texts[text].as_str().unwrap().starts_with("-----BEGIN CERTIFICATE-----"));
        }
        assert_eq!(texts.get("key"), None);
    }
    server.stop();
}

#[test]
fn a_token_is_printed_alone_and_kept_out_of_the_log() {
    let site = Site::with_sealed_keys();
    let server = site.start();
    let mint = ["jwt", "mint", "--spiffe-id", WORKLOAD, "--audience", "a", "--audience", "b"];
    let token = site.mintmark(&mint).succeeded();
    assert_eq!(token.matches('\n').count(), 1);
    let parts: Vec<&str> = token.trim_end().split('.').collect();
    let [header, claims, signature] = parts[..] else { panic!("{token}") };
    let minted = site.mintmark(&[&mint[..], &["--ttl", "1m", "--output", "json"]].concat());
    assert_eq!(json(&minted.succeeded())["spiffe_id"], WORKLOAD);
    let log = server.stop();
    for part in [header, claims, signature] {
        assert!(!log.contains(part), "{log}");
    }
    let minted = entries(&site.path("store/log")).into_iter().filter_map(|entry| match entry {
        Entry::Issuance(record) if matches!(record.document, Document::Jwt { .. }) => Some(record),
        _ => None,
    });
    let minted: Vec<_> = minted.collect();
    assert_eq!(minted.len(), 2);
    assert!(minted.iter().all(|record| record.id.as_str() == WORKLOAD), "{minted:?}");
    let signed = digest(&SHA256, format!("{header}.{claims}").as_bytes());
    assert_eq!(minted[0].digest, signed.as_ref());
}

#[test]
fn each_svid_is_in_the_issuance_log_with_the_key_that_signed_it() {
    let mut site = Site::with_sealed_keys();
    site.set("log_level = \"trace\"", "log_level = \"error\"\nlog_format = \"json\"");
    let server = site.start();
    site.mintmark(&["x509", "mint", "--spiffe-id", WORKLOAD, "--write", "svid"]).succeeded();
    let shown = site.mintmark(&["x509", "show", "svid/svid.pem", "--output", "json"]).succeeded();
    assert_eq!(server.stop(), "", "nothing went wrong");
    let logged = entries(&site.path("store/log"));
    let [Entry::Opening(_), Entry::Issuance(certificate), Entry::Issuance(svid)] = &logged[..]
    else {
        panic!("{logged:?}")
    };
    assert_eq!(certificate.caller, Caller::Signer);
    assert_eq!(certificate.id.as_str(), "spiffe://example.org");
    assert!(matches!(svid.caller, Caller::Local { pid: Some(_), .. }), "{svid:?}");
    assert_eq!(svid.id.as_str(), WORKLOAD);
    assert!(svid.issuing_key.is_some(), "the key that issues is named");
    assert_eq!(certificate.issuing_key, None, "the authority's own signed that");
    let shown = json(&shown);
    for (record, shown) in [(svid, &shown[0]), (certificate, &shown[1])] {
        let Document::X509 { serial, .. } = &record.document else { panic!("{record:?}") };
        assert_eq!(shown["serial_number"], serial.to_string());
    }
}

#[test]
fn the_bundle_is_shown_in_every_form() {
    let site = Site::with_sealed_keys();
    let server = site.start();
    let show =
        |arguments: &[&str]| -> Run { site.mintmark(&[&["bundle", "show"], arguments].concat()) };
    let table = show(&[]).succeeded();
    for word in ["X.509", "JWT", "trusted"] {
        assert!(table.contains(word), "{table}");
    }
    let contents = site.bundle();
    assert_eq!(contents["trust_domain"], "example.org");
    assert_eq!(contents["refresh_hint_seconds"], 300);

    let spiffe = json(&show(&["--format", "spiffe"]).succeeded());
    assert_eq!(spiffe["spiffe_sequence"], contents["sequence_number"]);
    let uses: Vec<_> = spiffe["keys"].as_array().unwrap().iter().map(|key| &key["use"]).collect();
    assert_eq!(uses, ["x509-svid", "jwt-svid"]);
    let jwks = json(&show(&["--format", "jwks"]).succeeded());
    assert_eq!(jwks["keys"].as_array().unwrap().len(), 1);
    assert_eq!(jwks["keys"][0]["kid"], contents["jwt_authorities"][0]["id"]);
    assert_eq!(show(&["--format", "pem"]).succeeded().matches("BEGIN CERTIFICATE").count(), 1);
    server.stop();
}
