//! The services as a client meets them: over the socket, by code, text and content.

#![expect(clippy::unwrap_used, reason = "a test states its expectations by unwrapping")]

mod front_ends;
mod support;

use std::process;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use ca_core::clock::Timestamp;
use ca_core::key::{KeyName, KeyStore, KeyType};
use ca_core::log::Caller;
use mintmark_proto::admin::v1::admin_client::AdminClient;
use mintmark_proto::admin::v1::authority::State;
use mintmark_proto::admin::v1::{
    GetAuthoritiesRequest, GetKeyRecordRequest, RetireKeyRequest, recorded_key,
};
use mintmark_proto::spire::bundle::v1::bundle_client::BundleClient;
use mintmark_proto::spire::bundle::v1::{
    AppendBundleRequest, CountBundlesRequest, GetBundleRequest,
};
use mintmark_proto::spire::debug::v1::GetInfoRequest;
use mintmark_proto::spire::debug::v1::debug_client::DebugClient;
use mintmark_proto::spire::logger::v1::logger_client::LoggerClient;
use mintmark_proto::spire::logger::v1::{
    GetLoggerRequest, ResetLogLevelRequest, SetLogLevelRequest,
};
use mintmark_proto::spire::svid::v1::svid_client::SvidClient;
use mintmark_proto::spire::svid::v1::{
    BatchNewX509svidRequest, MintJwtsvidRequest, MintWitsvidRequest, MintX509svidRequest,
};
use mintmark_proto::spire::types::{BundleMask, LogLevel, Spiffeid, X509svid};
use prometheus_client::encoding::text::encode;
use prometheus_client::registry::Registry;
use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequest, DnType, IsCa, KeyPair, SanType,
};
use rustix::process::geteuid;
use support::{TRUST_DOMAIN, TestServer, now};
use tonic::{Code, Status};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;

/// A CSR with these URI and DNS names.
fn csr(uris: &[&str], dns_names: &[&str]) -> Vec<u8> {
    request(uris, dns_names, |_| {}).der().to_vec()
}

fn request(
    uris: &[&str],
    dns_names: &[&str],
    change: impl FnOnce(&mut CertificateParams),
) -> CertificateSigningRequest {
    let mut params = CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    let uris = uris.iter().map(|&uri| SanType::URI(uri.try_into().unwrap()));
    let names = dns_names.iter().map(|&name| SanType::DnsName(name.try_into().unwrap()));
    params.subject_alt_names = uris.chain(names).collect();
    change(&mut params);
    params.serialize_request(&KeyPair::generate().unwrap()).unwrap()
}

fn id(path: &str) -> Option<Spiffeid> {
    Some(Spiffeid { trust_domain: TRUST_DOMAIN.into(), path: path.into() })
}

async fn mint_x509(server: &TestServer, csr: Vec<u8>, ttl: i32) -> Result<X509svid, Status> {
    let request = MintX509svidRequest { csr: csr.into(), ttl };
    let response = SvidClient::new(server.channel.clone()).mint_x509svid(request).await?;
    Ok(response.into_inner().svid.unwrap())
}

async fn mint_jwt(
    server: &TestServer,
    id: Option<Spiffeid>,
    audience: &[&str],
) -> Result<mintmark_proto::spire::types::Jwtsvid, Status> {
    let audience = audience.iter().map(|&value| value.to_owned()).collect();
    let request = MintJwtsvidRequest { id, audience, ttl: 0 };
    let response = SvidClient::new(server.channel.clone()).mint_jwtsvid(request).await?;
    Ok(response.into_inner().svid.unwrap())
}

#[track_caller]
fn assert_refused<T>(outcome: Result<T, Status>, code: Code, start: &str) {
    let status = outcome.err().expect("it was not refused");
    assert_eq!(status.code(), code, "{status}");
    assert!(status.message().starts_with(start), "{:?} does not start so", status.message());
}

fn holds(bytes: &[u8], part: &[u8]) -> bool {
    bytes.windows(part.len()).any(|window| window == part)
}

#[tokio::test]
async fn an_x509_svid_names_the_id_and_lives_as_long_as_asked() {
    let server = TestServer::start().await;
    let uri = "spiffe://signer.test/ns/a/sa/b";
    let svid = mint_x509(&server, csr(&[uri], &["a.test"]), 600).await.unwrap();
    assert_eq!(svid.id, id("/ns/a/sa/b"));
    assert_eq!(svid.hint, "");
    assert!((svid.expires_at - now().unix() - 600).abs() <= 5);
    let [leaf] = &svid.cert_chain[..] else { panic!("a self-signed root is not in the chain") };
    assert!(holds(leaf, uri.as_bytes()) && holds(leaf, b"a.test"));
}

#[tokio::test]
async fn what_a_csr_asks_beyond_its_names_is_not_granted() {
    let server = TestServer::start().await;
    let request = request(&["spiffe://signer.test/a"], &[], |params| {
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, "mallory");
    });
    let svid = mint_x509(&server, request.der().to_vec(), 0).await.unwrap();
    // basicConstraints with CA:TRUE
    assert!(!holds(&svid.cert_chain[0], b"\x06\x03\x55\x1d\x13\x01\x01\xff\x04\x05\x30\x03\x01"));
}

#[tokio::test]
async fn a_jwt_svid_names_id_and_life() {
    let server = TestServer::start().await;
    let svid = mint_jwt(&server, id("/a"), &["x", "y"]).await.unwrap();
    assert_eq!(svid.id, id("/a"));
    assert_eq!(svid.token.split('.').count(), 3);
    assert_eq!(svid.expires_at - svid.issued_at, 300);
    assert!((svid.issued_at - now().unix()).abs() <= 5);
}

#[tokio::test]
async fn each_bad_csr_has_its_code_and_text() {
    let server = TestServer::start().await;
    let good = "spiffe://signer.test/a";
    let mut forged = csr(&[good], &[]);
    *forged.last_mut().unwrap() ^= 1;
    let trailing = [csr(&[good], &[]), vec![0]].concat();
    let long = "a".repeat(64);
    for (csr, text) in [
        (vec![], "missing CSR"),
        (b"no DER".to_vec(), "malformed CSR: "),
        (trailing, "malformed CSR: "),
        (forged, "failed to verify CSR signature: "),
        (csr(&[], &["a.test"]), "CSR URI SAN is required: "),
        (csr(&[good, good], &[]), "only one URI SAN is expected: "),
        (csr(&["spiffe://signer.test/a#"], &[]), "CSR URI SAN is invalid: "),
        (csr(&["spiffe://signer.test:80/a"], &[]), "CSR URI SAN is invalid: "),
        (csr(&["spiffe://signer.test"], &[]), "CSR URI SAN is invalid: "),
        (csr(&["spiffe://signer.test/spire/server"], &[]), "CSR URI SAN is invalid: "),
        (csr(&["spiffe://other.test/a"], &[]), "CSR URI SAN is invalid: "),
        (csr(&[good], &["a b.test"]), "CSR DNS name is invalid: "),
        (csr(&[good], &[&long]), "CSR DNS name is invalid: "),
        (
            csr(&[good], &["*.a.test", "b.a.test"]),
            "CSR DNS name contains a wildcard that covers another non-wildcard name: ",
        ),
    ] {
        assert_refused(mint_x509(&server, csr, 0).await, Code::InvalidArgument, text);
    }
    assert_refused(mint_x509(&server, csr(&[good], &[]), -1).await, Code::InvalidArgument, "TTL");
    assert!(server.issued.records.lock().unwrap().is_empty());
}

#[tokio::test]
async fn each_bad_token_request_has_its_code_and_text() {
    let server = TestServer::start().await;
    let foreign = Some(Spiffeid { trust_domain: "other.test".into(), path: "/a".into() });
    for (id, audience, text) in [
        (None, &["x"][..], "invalid SPIFFE ID: request must specify SPIFFE ID"),
        (Some(Spiffeid::default()), &["x"], "invalid SPIFFE ID: "),
        (id(""), &["x"], "invalid SPIFFE ID: "),
        (id("a"), &["x"], "invalid SPIFFE ID: "),
        (id("/spire/agent/x"), &["x"], "invalid SPIFFE ID: "),
        (foreign, &["x"], "invalid SPIFFE ID: "),
        (id("/a"), &[], "at least one audience is required: "),
        (id("/a"), &["", ""], "at least one audience is required: "),
    ] {
        assert_refused(mint_jwt(&server, id, audience).await, Code::InvalidArgument, text);
    }
    assert!(server.issued.records.lock().unwrap().is_empty());
}

#[tokio::test]
async fn the_kernel_names_the_caller_of_each_mint() {
    let server = TestServer::start().await;
    mint_x509(&server, csr(&["spiffe://signer.test/a"], &[]), 0).await.unwrap();
    let token = mint_jwt(&server, id("/a"), &["x"]).await.unwrap().token;
    assert_refused(mint_jwt(&server, None, &["x"]).await, Code::InvalidArgument, "invalid");
    let uid = geteuid().as_raw();
    let pid = i32::try_from(process::id()).unwrap();
    for record in server.issued.records.lock().unwrap().iter() {
        assert_eq!(record.caller, Caller::Local { uid, pid: Some(pid) });
    }
    let log = server.log_text();
    let refused = log.lines().find(|line| line.contains("mintmark::audit")).unwrap();
    assert!(refused.contains("refused") && refused.contains("asked=\"JWT-SVID\""), "{refused}");
    assert!(refused.contains(&format!("local uid {uid} pid {pid}")), "{refused}");
    assert!(!log.contains(&token));
}

#[tokio::test]
async fn a_flood_of_refusals_is_a_burst_of_lines_and_a_count() {
    let server = TestServer::start().await;
    let mut registry = Registry::default();
    server.metrics.register(&mut registry, "1.2.3", Timestamp::EPOCH);
    let foreign = csr(&["spiffe://other.test/a"], &[]);
    for _ in 0..200 {
        mint_x509(&server, foreign.clone(), 0).await.unwrap_err();
    }
    mint_x509(&server, vec![1, 2, 3], 0).await.unwrap_err();
    let text = server.log_text();
    let lines = |kind| {
        let kind = format!("kind=\"{kind}\"");
        text.lines().filter(|line| line.contains(&kind)).collect::<Vec<_>>()
    };
    let (policy, request) = (lines("policy"), lines("request"));
    assert!((50..200).contains(&policy.len()), "{}: {text}", policy.len());
    assert!(
        policy[0].contains("asked=\"X509-SVID\" id=\"spiffe://other.test/a\""),
        "{}",
        policy[0]
    );
    assert_eq!(request.len(), 1, "one kind does not hide another");
    let mut figures = String::new();
    encode(&mut figures, &registry).unwrap();
    let left = 200 - policy.len();
    let line = format!("mintmark_audit_suppressed_total{{kind=\"policy\"}} {left}\n");
    assert!(figures.contains(&line), "{line}: {figures}");

    let log = Arc::clone(&server.log);
    server.stop().await.unwrap();
    let log = String::from_utf8_lossy(&log.lock().unwrap()).into_owned();
    let told: usize = log
        .lines()
        .filter(|line| line.contains("kind=\"policy\""))
        .filter_map(|line| {
            line.split_once("suppressed=")?.1.split(' ').next()?.parse::<usize>().ok()
        })
        .sum();
    assert_eq!(told, left, "at the end all are told: {log}");
}

#[tokio::test]
async fn a_backend_failure_is_unavailable_and_its_detail_stays_in_the_log() {
    let server = TestServer::start().await;
    server.issued.full.store(true, Ordering::Relaxed);
    let minted = mint_jwt(&server, id("/a"), &["x"]).await;
    assert!(!minted.as_ref().unwrap_err().message().contains("secret-disk"));
    assert_refused(minted, Code::Unavailable, "failed to sign JWT-SVID: the issuance log");
    let minted = mint_x509(&server, csr(&["spiffe://signer.test/a"], &[]), 0).await;
    assert_refused(minted, Code::Unavailable, "failed to sign X509-SVID: the issuance log");
    assert!(server.log_text().contains("secret-disk"));
}

#[tokio::test]
async fn each_mint_is_counted_by_kind_and_by_how_it_ended() {
    let server = TestServer::start().await;
    let uri = format!("spiffe://{TRUST_DOMAIN}/w");
    mint_x509(&server, csr(&[&uri], &[]), 0).await.unwrap();
    for _ in 0..2 {
        mint_jwt(&server, id("/w"), &["a"]).await.unwrap();
    }
    mint_x509(&server, csr(&[], &[]), 0).await.unwrap_err();
    server.issued.full.store(true, Ordering::Relaxed);
    mint_jwt(&server, id("/w"), &["a"]).await.unwrap_err();

    let (mut registry, mut text) = (Registry::default(), String::new());
    server.metrics.register(&mut registry, "1.2.3", now());
    encode(&mut text, &registry).unwrap();
    for (kind, [minted, refused, failed]) in [("x509", [1, 1, 0]), ("jwt", [2, 0, 1])] {
        for (outcome, count) in [("minted", minted), ("refused", refused), ("failed", failed)] {
            let line =
                format!("mintmark_svids_total{{kind=\"{kind}\",outcome=\"{outcome}\"}} {count}\n");
            assert!(text.contains(&line), "{line:?} is not in {text}");
        }
    }
}

#[tokio::test]
async fn a_mint_that_hangs_ends_with_a_deadline() {
    let server = TestServer::start().await;
    server.issued.hanging.store(true, Ordering::Relaxed);
    mint_jwt(&server, None, &[]).await.unwrap_err();
    tokio::time::pause();
    let text = "failed to sign JWT-SVID: it took longer than 20 s";
    assert_refused(mint_jwt(&server, id("/a"), &["x"]).await, Code::DeadlineExceeded, text);
}

#[tokio::test]
async fn what_is_not_offered_says_so_by_name() {
    let server = TestServer::start().await;
    let mut svids = SvidClient::new(server.channel.clone());
    let outcome = svids.mint_witsvid(MintWitsvidRequest::default()).await;
    assert_refused(outcome, Code::Unimplemented, "MintWITSVID is not offered");
    let outcome = svids.batch_new_x509svid(BatchNewX509svidRequest::default()).await;
    assert_refused(outcome, Code::Unimplemented, "BatchNewX509SVID is not offered");
    let mut bundles = BundleClient::new(server.channel.clone());
    let outcome = bundles.append_bundle(AppendBundleRequest::default()).await;
    assert_refused(outcome, Code::Unimplemented, "AppendBundle is not offered");
    let mut entries = tonic::client::Grpc::new(server.channel.clone());
    entries.ready().await.unwrap();
    let path = "/spire.api.server.entry.v1.Entry/CountEntries".parse().unwrap();
    let codec = tonic_prost::ProstCodec::<GetInfoRequest, GetInfoRequest>::default();
    let outcome = entries.unary(tonic::Request::new(GetInfoRequest {}), path, codec).await;
    let text = "\"/spire.api.server.entry.v1.Entry/CountEntries\" is not offered";
    assert_refused(outcome, Code::Unimplemented, text);
}

#[tokio::test]
async fn a_request_beyond_64_kib_is_refused_unread() {
    let server = TestServer::start().await;
    let outcome = mint_x509(&server, vec![0; 70_000], 0).await;
    assert_eq!(outcome.unwrap_err().code(), Code::OutOfRange);
}

#[tokio::test]
async fn the_bundle_holds_what_the_mask_keeps() {
    let server = TestServer::start().await;
    let mut client = BundleClient::new(server.channel.clone());
    let mut get = async |output_mask| {
        client.get_bundle(GetBundleRequest { output_mask }).await.unwrap().into_inner()
    };
    let whole = get(None).await;
    let expected = &server.authorities.bundle;
    assert_eq!(whole.trust_domain, TRUST_DOMAIN);
    assert_eq!(whole.x509_authorities[0].asn1, expected.x509_authorities[0].certificate.der());
    assert!(!whole.x509_authorities[0].tainted);
    let key = &whole.jwt_authorities[0];
    assert_eq!(key.key_id, expected.jwt_authorities[0].kid);
    assert_eq!(&key.public_key[..], expected.jwt_authorities[0].key.spki());
    assert_eq!(key.expires_at, expected.jwt_authorities[0].expires_at.unix());
    assert_eq!(whole.sequence_number, expected.sequence);
    assert_eq!(whole.refresh_hint, 300);

    let name_alone = get(Some(BundleMask::default())).await;
    assert_eq!(name_alone.trust_domain, TRUST_DOMAIN);
    assert!(name_alone.x509_authorities.is_empty() && name_alone.jwt_authorities.is_empty());
    assert_eq!((name_alone.sequence_number, name_alone.refresh_hint), (0, 0));

    let none = BundleMask::default();
    let roots = get(Some(BundleMask { x509_authorities: true, ..none })).await;
    assert_eq!(roots.x509_authorities, whole.x509_authorities);
    assert!(roots.jwt_authorities.is_empty());
    let keys = get(Some(BundleMask { jwt_authorities: true, ..none })).await;
    assert_eq!(keys.jwt_authorities, whole.jwt_authorities);
    assert!(keys.x509_authorities.is_empty());
    let numbers = get(Some(BundleMask { refresh_hint: true, sequence_number: true, ..none })).await;
    assert_eq!(numbers.refresh_hint, whole.refresh_hint);
    assert_eq!(numbers.sequence_number, whole.sequence_number);
}

#[tokio::test]
async fn there_is_one_bundle_once_there_are_authorities() {
    let server = TestServer::start().await;
    let mut bundles = BundleClient::new(server.channel.clone());
    let count = bundles.count_bundles(CountBundlesRequest {}).await.unwrap().into_inner().count;
    assert_eq!(count, 1);
    let info = DebugClient::new(server.channel.clone()).get_info(GetInfoRequest {}).await;
    let info = info.unwrap().into_inner();
    assert_eq!(info.federated_bundles_count, 1);
    assert_eq!((info.agents_count, info.entries_count), (0, 0));
    assert!((0..60).contains(&info.uptime));

    let server = TestServer::start_without_bundle().await;
    let mut bundles = BundleClient::new(server.channel.clone());
    let outcome = bundles.get_bundle(GetBundleRequest::default()).await;
    assert_refused(outcome, Code::NotFound, "bundle not found");
    let count = bundles.count_bundles(CountBundlesRequest {}).await.unwrap().into_inner().count;
    assert_eq!(count, 0);
}

#[tokio::test]
async fn health_is_that_of_the_whole_server() {
    let check = async |server: &TestServer, service: &str| {
        let request = HealthCheckRequest { service: service.to_owned() };
        HealthClient::new(server.channel.clone()).check(request).await
    };
    let server = TestServer::start().await;
    let status = check(&server, "").await.unwrap().into_inner().status();
    assert_eq!(status, ServingStatus::Serving);
    let outcome = check(&server, "spire.api.server.svid.v1.SVID").await;
    assert_refused(outcome, Code::InvalidArgument, "per-service health is not supported");
    let outcome =
        HealthClient::new(server.channel.clone()).watch(HealthCheckRequest::default()).await;
    assert_refused(outcome, Code::Unimplemented, "Watch is not offered");

    let server = TestServer::start_without_bundle().await;
    let status = check(&server, "").await.unwrap().into_inner().status();
    assert_eq!(status, ServingStatus::NotServing);
}

#[tokio::test]
async fn the_log_level_is_told_changed_and_reset() {
    let server = TestServer::start().await;
    let mut client = LoggerClient::new(server.channel.clone());
    let logger = client.get_logger(GetLoggerRequest {}).await.unwrap().into_inner();
    assert_eq!((logger.current_level(), logger.launch_level()), (LogLevel::Info, LogLevel::Info));

    // PANIC and FATAL log as ERROR does, and are told as they were set.
    for level in [LogLevel::Debug, LogLevel::Panic, LogLevel::Trace, LogLevel::Fatal] {
        let request = SetLogLevelRequest { new_level: level.into() };
        let logger = client.set_log_level(request).await.unwrap().into_inner();
        assert_eq!((logger.current_level(), logger.launch_level()), (level, LogLevel::Info));
    }
    let quiet = server.log_text().len();
    mint_jwt(&server, id("/a"), &[]).await.unwrap_err();
    assert_eq!(server.log_text().len(), quiet, "INFO was logged at level FATAL");

    let logger = client.reset_log_level(ResetLogLevelRequest {}).await.unwrap().into_inner();
    assert_eq!(logger.current_level(), LogLevel::Info);
    mint_jwt(&server, id("/a"), &[]).await.unwrap_err();
    let log = server.log_text();
    assert!(log.contains("mintmark::audit: refused"), "{log}");
    // Both ways: each change is seen, whichever level is the more talkative.
    for change in ["from=\"INFO\" to=\"DEBUG\"", "from=\"DEBUG\" to=\"PANIC\""] {
        assert_eq!(log.matches(change).count(), 1, "{log}");
    }
}

#[tokio::test]
async fn a_log_level_that_is_none_is_refused() {
    let server = TestServer::start().await;
    let mut client = LoggerClient::new(server.channel.clone());
    for (new_level, text) in [
        (0, "newLevel value cannot be LogLevel_UNSPECIFIED"),
        (8, "unsupported log level"),
        (-1, "unsupported log level"),
    ] {
        let outcome = client.set_log_level(SetLogLevelRequest { new_level }).await;
        assert_refused(outcome, Code::InvalidArgument, text);
    }
}

#[tokio::test]
async fn authorities_are_told_with_the_place_of_their_keys() {
    let server = TestServer::start().await;
    let mut client = AdminClient::new(server.channel.clone());
    let answer = client.get_authorities(GetAuthoritiesRequest {}).await.unwrap().into_inner();
    assert_eq!(answer.trust_domain, TRUST_DOMAIN);
    assert_eq!(answer.server_version, "1.2.3");
    let ([x509], [jwt]) = (&answer.x509_authorities[..], &answer.jwt_authorities[..]) else {
        panic!("one of each kind")
    };
    assert_eq!(x509.authority_id, &**server.authorities.x509.authority());
    assert_eq!(x509.key_name, server.authorities.x509_key.as_str());
    assert_eq!(jwt.authority_id, &**server.authorities.jwt.kid());
    assert_eq!(jwt.key_name, server.authorities.jwt_key.as_str());
    for authority in [x509, jwt] {
        assert_eq!(authority.state(), State::Active);
        assert_eq!(authority.key_algorithm, "ecdsa-p256-sha256");
        assert!(authority.not_after > now().unix());
        let store = authority.key_store.as_ref().unwrap();
        assert_eq!((store.kind.as_str(), store.hardware), ("software", false));
        assert!(!store.place.is_empty());
    }
}

#[tokio::test]
async fn a_key_is_retired_in_the_record_and_in_the_process_that_has_it_open() {
    let server = TestServer::start().await;
    let mut client = AdminClient::new(server.channel.clone());
    let name = format!("mintmark/{TRUST_DOMAIN}/x509/2");
    let parsed = KeyName::parse(&name).unwrap();
    let key = server.keys.create(&parsed, KeyType::EcP256).await.unwrap();
    let spki = key.public_key().spki().to_vec();
    // Of a key of the same name elsewhere, only the record hears.
    let elsewhere = format!("mintmark/{TRUST_DOMAIN}/x509/3");
    server.keys.create(&KeyName::parse(&elsewhere).unwrap(), KeyType::EcP256).await.unwrap();

    let before = now().unix();
    for name in [&name, &elsewhere] {
        let request = RetireKeyRequest { name: name.clone(), public_key: spki.clone().into() };
        let end = client.retire_key(request).await.unwrap().into_inner().certificates_end;
        let life = before + 86_400..=now().unix() + 86_400;
        assert!(life.contains(&end), "{end} is not in {life:?}");
    }
    let left = server.keys.list().await.unwrap();
    assert!(!left.contains(&parsed) && left.iter().any(|left| left.as_str() == elsewhere));
    assert!(server.log_text().contains("key retired"), "{}", server.log_text());

    let record = client.get_key_record(GetKeyRecordRequest {}).await.unwrap().into_inner();
    assert_eq!(record.trust_domain, TRUST_DOMAIN);
    assert_eq!((record.x509_generation, record.jwt_generation), (1, 1));
    let states: Vec<_> = record.keys.iter().map(|key| (key.name.clone(), key.state())).collect();
    let active = |name: &KeyName| (name.to_string(), recorded_key::State::Active);
    let authorities = &server.authorities;
    let expected = [
        active(&authorities.jwt_key),
        active(&authorities.x509_key),
        (name, recorded_key::State::Retired),
        (elsewhere, recorded_key::State::Retired),
    ];
    assert_eq!(states, expected);
    assert_eq!(record.keys[1].authority_id, &**authorities.x509.authority());
    assert_eq!(&*record.keys[2].public_key, &spki[..]);
    assert!(record.keys[2].retired_at >= before);
}

#[tokio::test]
async fn a_key_that_signs_here_or_has_no_name_of_ours_is_not_retired() {
    let server = TestServer::start().await;
    let mut client = AdminClient::new(server.channel.clone());
    let in_use = server.authorities.x509_key.to_string();
    for (name, public_key, code, text) in [
        (&*in_use, &b""[..], Code::FailedPrecondition, "the active authority"),
        ("mintmark/other.test/x509/1", b"", Code::InvalidArgument, "no name of a key"),
        ("x509/2", b"", Code::InvalidArgument, "no name of a key"),
        (&*in_use, b"no key", Code::InvalidArgument, "malformed public key"),
    ] {
        let request = RetireKeyRequest { name: name.into(), public_key: public_key.into() };
        let status = client.retire_key(request).await.unwrap_err();
        assert_eq!(status.code(), code, "{status}");
        assert!(status.message().contains(text), "{status}");
    }
    mint_jwt(&server, id("/a"), &["x"]).await.unwrap();
}

#[tokio::test]
async fn the_socket_is_gone_when_the_server_has_stopped() {
    let server = TestServer::start().await;
    mint_jwt(&server, id("/a"), &["x"]).await.unwrap();
    let path = server.path.clone();
    assert!(path.exists());
    server.stop().await.unwrap();
    assert!(!path.exists());
}

#[tokio::test]
async fn connections_are_bounded_and_silent_ones_give_their_place_back() {
    let server = TestServer::start().await;
    let mut silent = Vec::new();
    for _ in 0..64 {
        silent.push(tokio::net::UnixStream::connect(&server.path).await.unwrap());
    }
    let one_more = mint_jwt(&server, id("/a"), &["x"]);
    tokio::time::timeout(Duration::from_millis(300), one_more).await.unwrap_err();
    tokio::time::pause();
    let later = mint_jwt(&server, id("/a"), &["x"]);
    tokio::time::timeout(Duration::from_secs(600), later).await.unwrap().unwrap();
}

#[tokio::test]
async fn a_client_that_never_speaks_does_not_hold_up_a_stop() {
    let server = TestServer::start().await;
    let _silent = tokio::net::UnixStream::connect(&server.path).await.unwrap();
    // An answer to another shows that the silent one was accepted before.
    mint_jwt(&server, id("/a"), &["x"]).await.unwrap();
    tokio::time::pause();
    tokio::time::timeout(Duration::from_secs(10), server.stop()).await.unwrap().unwrap();
}
