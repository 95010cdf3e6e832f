//! Whose key signs leaves, from the configuration to the chain that a workload gets.

use std::thread::sleep;
use std::time::{Duration, Instant};

use crate::site::{Site, WORKLOAD, json};
use crate::token::openssl;
use crate::watching::{await_answer, failing, get, watched};

/// The certificates of an SVID that is minted now and verifies, the leaf first.
fn mint(site: &Site, ttl: &str) -> Vec<serde_json::Value> {
    let mint = ["x509", "mint", "--spiffe-id", WORKLOAD, "--ttl", ttl, "--write", "svid"];
    site.mintmark(&mint).succeeded();
    let [bundle, svid] = ["svid/bundle.pem", "svid/svid.pem"].map(|name| site.path(name));
    let [bundle, svid] = [&bundle, &svid].map(|path| path.to_str().unwrap());
    openssl(&["verify", "-x509_strict", "-CAfile", bundle, "-untrusted", svid, svid]);
    let shown = site.mintmark(&["x509", "show", "svid/svid.pem", "--output", "json"]).succeeded();
    json(&shown).as_array().unwrap().clone()
}

#[test]
fn the_authoritys_own_key_signs_leaves_where_that_is_configured() {
    let mut site = Site::with_token();
    site.configuration.push_str("[issuing]\nmode = \"direct\"\n");
    let server = site.start();
    let chain = mint(&site, "1h");
    assert_eq!(chain.len(), 1);
    assert!(!server.stop().contains("CA certificate"), "nothing else was certified");
}

#[test]
fn an_issuing_key_is_followed_by_the_next_after_half_of_its_life() {
    let mut site = Site::with_token();
    site.configuration.push_str("[issuing]\nissuing_key_life = \"16s\"\n");
    let server = site.start();
    let first = mint(&site, "3s");
    assert_eq!(first.len(), 2);
    let limit = Instant::now() + Duration::from_secs(30);
    let second = loop {
        let chain = mint(&site, "3s");
        if chain[1]["serial_number"] != first[1]["serial_number"] {
            break chain;
        }
        assert!(Instant::now() < limit, "no second issuing key");
        sleep(Duration::from_millis(200));
    };
    assert_ne!(first[1]["subject"], second[1]["subject"]);
    assert_eq!(site.token().private_keys().len(), 3, "issuing keys are in no token");
    server.stop();
}

#[test]
fn a_life_beyond_the_issuing_certificate_is_signed_by_the_authority_and_counted() {
    let mut site = Site::with_sealed_keys();
    let port = watched(&mut site);
    site.configuration.push_str("[issuing]\nissuing_key_life = \"1h\"\n");
    let server = site.start();
    assert_eq!(mint(&site, "30m").len(), 2);
    assert_eq!(mint(&site, "2h").len(), 1);
    await_answer(port, "/metrics", "mintmark_signed_by_authority 1\n");
    assert!(!get(port, "/metrics").unwrap().contains("mintmark_issuing_key_end_seconds 0\n"));
    server.stop();
}

#[test]
fn a_life_beyond_the_issuing_certificate_is_refused_where_that_is_configured() {
    let mut site = Site::with_sealed_keys();
    let told = "[issuing]\nissuing_key_life = \"1h\"\nlong_ttl = \"refuse\"\n";
    site.configuration.push_str(told);
    let server = site.start();
    assert_eq!(mint(&site, "30m").len(), 2);
    let long = ["x509", "mint", "--spiffe-id", WORKLOAD, "--ttl", "2h", "--write", "never"];
    site.mintmark(&long)
        .failed_saying(1, &["TTL is invalid", "issuing key", "ask for a shorter one"]);
    assert!(!site.path("never").exists());
    server.stop();
}

#[test]
fn while_the_token_is_away_the_issuing_key_goes_on() {
    let mut site = Site::with_token();
    let (port, device) = (watched(&mut site), failing(&mut site));
    let server = site.start();
    device.remove_device(Duration::MAX);
    await_answer(port, "/ready", "HTTP/1.1 503");
    assert_eq!(mint(&site, "1h").len(), 2);
    device.restore_device();
    server.stop();
}
