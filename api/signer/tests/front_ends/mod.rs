//! The admin service's calls about front ends, as a client meets them.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use aws_lc_rs::digest::{SHA256, digest};
use ca_core::frontend::FrontEndName;
use ca_core::log::{Caller, Document};
use ca_core::profile::Profile;
use mintmark_proto::admin::v1::admin_client::AdminClient;
use mintmark_proto::admin::v1::{
    ClassRate, EnrollFrontEndRequest, EnrollFrontEndResponse, FrontEndTerms, GetFrontEndRequest,
    ListFrontEndsRequest, Rate, WithdrawFrontEndRequest,
};
use rcgen::{CertificateParams, DistinguishedName, KeyPair, PublicKeyData as _};
use tonic::{Code, Status};

use crate::support::{TestServer, now};

/// A key, and a CSR for it that names nobody.
fn key_and_csr() -> (KeyPair, Vec<u8>) {
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    let csr = params.serialize_request(&key).unwrap().der().to_vec();
    (key, csr)
}

fn terms(paths: &[&str]) -> FrontEndTerms {
    let path_scopes = paths.iter().map(|&path| path.to_owned()).collect();
    FrontEndTerms { path_scopes, ..FrontEndTerms::default() }
}

fn request(name: &str, terms: FrontEndTerms) -> EnrollFrontEndRequest {
    EnrollFrontEndRequest {
        name: name.into(),
        csr: key_and_csr().1.into(),
        terms: Some(terms),
        ..EnrollFrontEndRequest::default()
    }
}

async fn enroll(
    server: &TestServer,
    request: EnrollFrontEndRequest,
) -> Result<EnrollFrontEndResponse, Status> {
    let mut client = AdminClient::new(server.channel.clone());
    client.enroll_front_end(request).await.map(|answer| answer.into_inner())
}

fn issued(server: &TestServer) -> usize {
    server.issued.records.lock().unwrap().len()
}

#[tokio::test]
async fn an_enrolled_key_is_recorded_with_the_svid_that_was_minted_and_logged_for_it() {
    let server = TestServer::start().await;
    let (key, csr) = key_and_csr();
    let before = now().unix();
    let answer = enroll(
        &server,
        EnrollFrontEndRequest { csr: csr.into(), ..request("edge", terms(&["/ns"])) },
    );
    let answer = answer.await.unwrap();
    let front_end = answer.front_end.unwrap();
    assert_eq!(front_end.spiffe_id, "spiffe://signer.test/mintmark/frontend/edge");
    assert_eq!((front_end.revision, front_end.withdrawn_at), (1, 0));
    let [enrolled] = &front_end.keys[..] else { panic!("one key") };
    assert_eq!(enrolled.sha256, digest(&SHA256, &key.subject_public_key_info()).as_ref());
    assert!(enrolled.renewed_from.is_empty() && enrolled.enrolled_at >= before);
    assert!(enrolled.not_after > before && !answer.cert_chain.is_empty());

    let records = server.issued.records.lock().unwrap().clone();
    let [record] = &records[..] else { panic!("{records:?}") };
    let Document::X509 { profile, serial, key_digest } = &record.document else {
        panic!("{record:?}")
    };
    assert_eq!((*profile, &serial.bytes()[..]), (Profile::Server, &enrolled.serial[..]));
    assert_eq!(&key_digest[..], &enrolled.sha256[..]);
    assert!(matches!(record.caller, Caller::Local { .. }));
    let known = server.front_ends.get(&FrontEndName::parse("edge").unwrap()).unwrap();
    assert_eq!(known.keys()[0].fingerprint, *key_digest);
    assert!(server.log_text().contains("key of a front end enrolled"), "{}", server.log_text());
}

#[tokio::test]
async fn nothing_is_minted_for_an_enrolment_that_is_refused() {
    let server = TestServer::start().await;
    let edge = || request("edge", terms(&["/ns"]));
    let with = |change: fn(&mut FrontEndTerms)| {
        let mut wanted = terms(&["/ns"]);
        change(&mut wanted);
        request("edge", wanted)
    };
    let class = |class: &str| ClassRate {
        class: class.into(),
        rate: Some(Rate { per_second: 1, burst: 1 }),
    };
    let mut twice = terms(&["/ns"]);
    twice.class_budgets = vec![class("bulk"), class("bulk")];
    for (refused, text) in [
        (EnrollFrontEndRequest { name: "Edge".into(), ..edge() }, "no name of a front end"),
        (EnrollFrontEndRequest { name: String::new(), ..edge() }, "no name of a front end"),
        (EnrollFrontEndRequest { terms: None, ..edge() }, "needs a path scope"),
        (request("edge", terms(&[])), "needs a path scope"),
        (request("edge", terms(&["/ns/"])), "must not end with a slash"),
        (request("edge", terms(&["/mintmark"])), "reserved"),
        (EnrollFrontEndRequest { csr: Vec::new().into(), ..edge() }, "missing CSR"),
        (EnrollFrontEndRequest { csr: b"no".to_vec().into(), ..edge() }, "malformed CSR"),
        (with(|terms| terms.dns_scopes.push("*".into())), "DNS scope"),
        (with(|terms| terms.allow_downstream = true), "can issue any ID"),
        (with(|terms| terms.max_ttl_seconds = u32::MAX), "68 years"),
        (with(|terms| terms.key_types.push("dsa".into())), "no type of key"),
        (with(|terms| terms.key_types.push("ml-dsa-65".into())), "not certified"),
        (with(|terms| terms.budget = Some(Rate::default())), "1000/2000"),
        (with(|terms| terms.class_budgets.push(ClassRate::default())), "no class"),
        (request("edge", twice), "given twice"),
    ] {
        let status = enroll(&server, refused).await.unwrap_err();
        assert_eq!(status.code(), Code::InvalidArgument, "{status}");
        assert!(status.message().contains(text), "{status}");
    }
    enroll(&server, edge()).await.unwrap();
    let status = enroll(&server, request("edge", terms(&["/other"]))).await.unwrap_err();
    assert_eq!(status.code(), Code::FailedPrecondition, "{status}");
    assert_eq!(issued(&server), 1);
    assert!(server.log_text().contains("asked=\"enrolment of a front end\""));
}

#[tokio::test]
async fn nothing_is_recorded_of_a_key_whose_svid_was_not_logged() {
    let server = TestServer::start().await;
    server.issued.full.store(true, Ordering::Relaxed);
    let status = enroll(&server, request("edge", terms(&["/ns"]))).await.unwrap_err();
    assert_eq!(status.code(), Code::Unavailable, "{status}");
    assert_eq!(server.front_ends.get(&FrontEndName::parse("edge").unwrap()), None);
}

#[tokio::test]
async fn a_withdrawal_while_an_svid_is_minted_is_not_undone_by_the_enrolment_that_wanted_it() {
    let server = TestServer::start().await;
    let again =
        EnrollFrontEndRequest { again: true, replace: true, ..request("edge", terms(&["/ns"])) };
    enroll(&server, again.clone()).await.unwrap();
    server.issued.hanging.store(true, Ordering::Relaxed);
    let mut client = AdminClient::new(server.channel.clone());
    let enrolling = tokio::spawn(async move { client.enroll_front_end(again).await });
    while issued(&server) < 2 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let name = FrontEndName::parse("edge").unwrap();
    server.front_ends.withdraw(&name, now()).await.unwrap();
    server.issued.hanging.store(false, Ordering::Relaxed);
    let status = enrolling.await.unwrap().unwrap_err();
    assert_eq!(status.code(), Code::FailedPrecondition, "{status}");
    assert!(status.message().contains("front end edge was withdrawn at"), "{status}");
    assert!(server.front_ends.get(&name).unwrap().withdrawn_at().is_some());
}

#[tokio::test]
async fn a_withdrawal_is_told_at_once_to_whoever_holds_the_front_end() {
    let server = TestServer::start().await;
    enroll(&server, request("edge", terms(&["/ns"]))).await.unwrap();
    let known = server.front_ends.get(&FrontEndName::parse("edge").unwrap()).unwrap();
    let front_ends = Arc::clone(&server.front_ends);
    let told = tokio::spawn(async move { front_ends.changed(&known).await });
    let mut client = AdminClient::new(server.channel.clone());
    let withdraw = WithdrawFrontEndRequest { name: "edge".into() };
    let withdrawn = client.withdraw_front_end(withdraw.clone()).await.unwrap().into_inner();
    assert!(withdrawn.withdrawn_at > 0);
    assert!(told.await.unwrap().unwrap().withdrawn_at().is_some());
    let again = client.withdraw_front_end(withdraw).await.unwrap().into_inner();
    assert_eq!(again, withdrawn);
    let get = GetFrontEndRequest { name: "edge".into() };
    assert_eq!(client.get_front_end(get).await.unwrap().into_inner(), withdrawn);
}

#[tokio::test]
async fn front_ends_that_are_not_there_are_not_found() {
    let server = TestServer::start().await;
    let mut client = AdminClient::new(server.channel.clone());
    let get = client.get_front_end(GetFrontEndRequest { name: "edge".into() }).await;
    let withdraw = client.withdraw_front_end(WithdrawFrontEndRequest { name: "edge".into() }).await;
    for status in [get.unwrap_err(), withdraw.unwrap_err()] {
        assert_eq!(status.code(), Code::NotFound, "{status}");
        assert!(status.message().contains("no front end edge"), "{status}");
    }
    let name = "../edge".to_owned();
    let status = client.get_front_end(GetFrontEndRequest { name }).await.unwrap_err();
    assert_eq!(status.code(), Code::InvalidArgument, "{status}");
}

#[tokio::test]
async fn a_long_list_comes_in_pages() {
    let server = TestServer::start().await;
    // As large as terms can be, so that not all of them fit into one answer.
    let label = "a".repeat(60);
    let large = FrontEndTerms {
        dns_scopes: (10..74)
            .map(|number| format!("{label}{number}.{label}.{label}.test"))
            .collect(),
        ..terms(&["/ns"])
    };
    let names: Vec<String> = (100..200).map(|number| format!("edge-{number}")).collect();
    for name in &names {
        enroll(&server, request(name, large.clone())).await.unwrap();
    }
    let mut client = AdminClient::new(server.channel.clone());
    let (mut listed, mut pages) = (Vec::new(), 0);
    loop {
        let after = listed.last().cloned().unwrap_or_default();
        let page =
            client.list_front_ends(ListFrontEndsRequest { after }).await.unwrap().into_inner();
        listed.extend(page.front_ends.into_iter().map(|front_end| front_end.name));
        pages += 1;
        if !page.more {
            break;
        }
    }
    assert_eq!(listed, names);
    assert!(pages > 1);
}

#[tokio::test]
async fn what_is_changed_for_a_client_that_leaves_meanwhile_has_its_line() {
    let server = TestServer::start().await;
    let name = || "edge".to_owned();
    for (fails, line) in [(1, "enrolment of a front end"), (0, "key of a front end enrolled")] {
        let enrolment = request(&name(), terms(&["/edge"]));
        let mut client = AdminClient::new(server.channel.clone());
        let asking = async move { client.enroll_front_end(enrolment).await.map(drop) };
        leaves_during_the_commit(&server, fails, asking).await;
        eventually(|| server.log_text().contains(line), line).await;
    }
    let mut client = AdminClient::new(server.channel.clone());
    let withdrawal = WithdrawFrontEndRequest { name: name() };
    let asking = async move { client.withdraw_front_end(withdrawal).await.map(drop) };
    leaves_during_the_commit(&server, 0, asking).await;
    eventually(|| server.log_text().contains("front end withdrawn"), "withdrawn").await;
}

/// Asks for something and breaks off while it is being committed, after which so many commits fail.
async fn leaves_during_the_commit(
    server: &TestServer,
    fails: usize,
    asking: impl Future<Output = Result<(), Status>> + Send + 'static,
) {
    let before = server.record.commits();
    server.record.hold();
    server.record.fail(fails);
    let asking = tokio::spawn(asking);
    eventually(|| server.record.commits() > before, "it is committed").await;
    asking.abort();
    assert!(asking.await.unwrap_err().is_cancelled());
    // Long enough for its reset to come.
    tokio::time::sleep(Duration::from_millis(200)).await;
    server.record.release();
}

async fn eventually(holds: impl Fn() -> bool, what: &str) {
    for _ in 0..500 {
        if holds() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("never: {what}");
}
