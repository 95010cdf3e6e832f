//! OpenBao's own server: it signs, it can be sealed, and it ends with its owner.

#![expect(clippy::unwrap_used, reason = "a test: the message is the line")]

use std::net::TcpStream;
use std::time::{Duration, Instant};

use aws_lc_rs::digest::{SHA256, digest};
use aws_lc_rs::signature::{ECDSA_P256_SHA256_ASN1, UnparsedPublicKey};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use peers::openbao::{OpenBao, OpenBaoError, Secret, signer_rules};
use serde_json::{Value, json};

const MESSAGE: &[u8] = b"what is signed";

fn to_sign() -> Value {
    json!({
        "input": STANDARD.encode(digest(&SHA256, MESSAGE)),
        "prehashed": true,
        "hash_algorithm": "sha2-256",
        "marshaling_algorithm": "asn1",
        "key_version": 1,
    })
}

fn sign(server: &OpenBao, token: &Secret, key: &str) -> (u16, String) {
    let path = format!("transit/sign/{key}");
    let answer = server.request_as(token, "POST", &path, to_sign()).unwrap();
    (answer.status, answer.errors())
}

#[test]
fn a_signature_verifies_with_the_key_that_is_shown() {
    let server = OpenBao::start().unwrap();
    server.create_key("ca", "ecdsa-p256").unwrap();
    let token = server.token(&signer_rules("ca", false), Duration::from_secs(60)).unwrap();
    let shown = server.request_as(&token, "GET", "transit/keys/ca", Value::Null).unwrap();
    let pem = shown.body["data"]["keys"]["1"]["public_key"].as_str().unwrap().to_owned();
    let base64: String = pem.lines().filter(|line| !line.starts_with("-----")).collect();
    let key = UnparsedPublicKey::new(&ECDSA_P256_SHA256_ASN1, STANDARD.decode(base64).unwrap());

    let signed = server.request_as(&token, "POST", "transit/sign/ca", to_sign()).unwrap();
    let signature = signed.body["data"]["signature"].as_str().unwrap().to_owned();
    let signature = STANDARD.decode(signature.strip_prefix("vault:v1:").unwrap()).unwrap();
    key.verify(MESSAGE, &signature).unwrap();
}

#[test]
fn a_seal_stops_signatures_and_its_end_heals_them() {
    let server = OpenBao::start().unwrap();
    server.create_key("ca", "ecdsa-p256").unwrap();
    let token = server.token(&signer_rules("ca", false), Duration::from_secs(60)).unwrap();
    assert_eq!(sign(&server, &token, "ca").0, 200);
    for _ in 0..3 {
        server.seal().unwrap();
        assert_eq!(sign(&server, &token, "ca"), (503, "Vault is sealed".to_owned()));
        server.unseal().unwrap();
        assert_eq!(sign(&server, &token, "ca").0, 200);
    }
}

#[test]
fn a_token_does_what_its_rules_say_until_it_is_revoked() {
    let server = OpenBao::start().unwrap();
    server.create_key("ours.1", "ecdsa-p256").unwrap();
    server.create_key("theirs.1", "ecdsa-p256").unwrap();
    let token = server.token(&signer_rules("ours.", false), Duration::from_secs(60)).unwrap();
    assert_eq!(sign(&server, &token, "ours.1").0, 200);
    assert_eq!(sign(&server, &token, "theirs.1").0, 403);
    let make = |token: &Secret| {
        let wanted = json!({ "type": "ed25519" });
        server.request_as(token, "POST", "transit/keys/ours.2", wanted).unwrap().status
    };
    assert_eq!(make(&token), 403);
    let maker = server.token(&signer_rules("ours.", true), Duration::from_secs(60)).unwrap();
    assert_eq!(make(&maker), 200);
    server.revoke(&token).unwrap();
    assert_eq!(sign(&server, &token, "ours.1"), (403, "permission denied".to_owned()));
}

#[test]
fn a_short_token_ends_by_itself_unless_it_is_renewed() {
    let server = OpenBao::start().unwrap();
    server.create_key("ca", "ecdsa-p256").unwrap();
    let short = |seconds| server.token(&signer_rules("ca", false), Duration::from_secs(seconds));
    let (left, renewed) = (short(1).unwrap(), short(1).unwrap());
    let increment = json!({ "increment": "60s" });
    let answer = server.request_as(&renewed, "POST", "auth/token/renew-self", increment).unwrap();
    assert_eq!((answer.status, &answer.body["auth"]["lease_duration"]), (200, &json!(60)));
    let deadline = Instant::now() + Duration::from_secs(20);
    while sign(&server, &left, "ca").0 != 403 {
        assert!(Instant::now() < deadline, "a token of one second still signs");
        std::thread::sleep(Duration::from_millis(50));
    }
    assert_eq!(sign(&server, &renewed, "ca").0, 200);
}

#[test]
fn a_version_that_was_trimmed_signs_no_more() {
    let server = OpenBao::start().unwrap();
    server.create_key("ca", "ecdsa-p256").unwrap();
    server.rotate_key("ca").unwrap();
    assert_eq!(sign(&server, server.root_token(), "ca").0, 200);
    server.trim_key("ca", 2).unwrap();
    let (status, errors) = sign(&server, server.root_token(), "ca");
    assert_eq!(status, 500);
    assert!(errors.contains("less than the minimum encryption key version"), "{errors}");
}

#[test]
fn no_secret_is_shown() {
    let server = OpenBao::start().unwrap();
    let token = server.token(&signer_rules("ca", false), Duration::from_secs(60)).unwrap();
    let own = server.request_as(&token, "GET", "auth/token/lookup-self", Value::Null).unwrap();
    assert_eq!(own.body["data"]["id"], token.expose());
    let shown = format!("{server:?} {token:?} {own:?} {:?}", server.root_token());
    assert!(!shown.contains(token.expose()), "{shown}");
    assert!(!shown.contains(server.root_token().expose()), "{shown}");
    let refused = server.request("GET", "nothing/there", Value::Null).unwrap_err();
    assert!(matches!(refused, OpenBaoError::Refused { status: 404, .. }), "{refused}");
}

#[test]
fn the_server_ends_with_its_owner() {
    let server = OpenBao::start().unwrap();
    let address = server.address().strip_prefix("http://").unwrap().to_owned();
    TcpStream::connect(&address).unwrap();
    drop(server);
    TcpStream::connect(&address).unwrap_err();
}
