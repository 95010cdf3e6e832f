//! The signing listener as front ends meet it: over sockets and TLS, by code, text and content.

#![expect(clippy::unwrap_used, reason = "a test states its expectations by unwrapping")]

mod connection;
mod control;
#[path = "../../../transport/tests/support/credulous.rs"]
mod credulous;
#[path = "../support/held_store.rs"]
mod held_store;
mod hostile;
mod raw;
mod stage;

use std::collections::HashMap;
use std::time::Duration;

use ca_core::frontend::{PathScope, Wanted};
use ca_core::log::{Caller, Document};
use mintmark_proto::control::v1::ReportRequest;
use mintmark_proto::control::v1::control_client::ControlClient;
use mintmark_proto::signing::v1::failure::Code as Why;
use mintmark_proto::signing::v1::follow_response::Event;
use mintmark_proto::signing::v1::{
    Entry, FollowRequest, JwtItem, MintRequest, MintResponse, NamedJwt, NamedX509, Profile,
    X509Item, jwt_item, jwt_result, x509_item, x509_result,
};
use mintmark_signer::signing::Limits;
use rcgen::{CertificateParams, KeyPair, PublicKeyData as _};
use stage::{FRONT_END, Stage, eventually, leaf};
use tonic::Code;

fn spki() -> Vec<u8> {
    KeyPair::generate().unwrap().subject_public_key_info()
}

fn csr() -> Vec<u8> {
    // What it asks for is not looked at.
    let params = CertificateParams::new(vec!["elsewhere.test".to_owned()]).unwrap();
    params.serialize_request(&KeyPair::generate().unwrap()).unwrap().der().to_vec()
}

fn x509(request_id: u64, path: &str) -> X509Item {
    let named = NamedX509 { path: path.into(), ..NamedX509::default() };
    X509Item {
        request_id,
        key: Some(x509_item::Key::Spki(spki().into())),
        subject: Some(x509_item::Subject::Named(named)),
        ..X509Item::default()
    }
}

fn jwt(request_id: u64, path: &str, audience: &[&str]) -> JwtItem {
    JwtItem {
        request_id,
        audience: audience.iter().map(|&value| value.to_owned()).collect(),
        subject: Some(jwt_item::Subject::Named(NamedJwt { path: path.into(), ttl_seconds: 60 })),
        ..JwtItem::default()
    }
}

fn batch(x509: Vec<X509Item>) -> MintRequest {
    MintRequest { x509, ..MintRequest::default() }
}

fn entry() -> Entry {
    Entry { agent_path: "/spire/agent/a".into(), entry_id: "e".into() }
}

/// What became of each item: the leaf or the token, or the code.
fn outcomes(messages: &[MintResponse]) -> HashMap<u64, Result<Vec<u8>, Why>> {
    let mut outcomes = HashMap::new();
    for message in messages {
        for result in &message.x509 {
            let outcome = match result.outcome.as_ref().unwrap() {
                x509_result::Outcome::Svid(svid) => Ok(svid.leaf.to_vec()),
                x509_result::Outcome::Failure(failure) => Err(failure.code()),
            };
            assert!(outcomes.insert(result.request_id, outcome).is_none(), "answered twice");
        }
        for result in &message.jwt {
            let outcome = match result.outcome.as_ref().unwrap() {
                jwt_result::Outcome::Svid(svid) => Ok(svid.token.clone().into_bytes()),
                jwt_result::Outcome::Failure(failure) => Err(failure.code()),
            };
            assert!(outcomes.insert(result.request_id, outcome).is_none(), "answered twice");
        }
    }
    outcomes
}

fn holds(bytes: &[u8], part: &str) -> bool {
    bytes.windows(part.len()).any(|window| window == part.as_bytes())
}

#[tokio::test]
async fn good_items_are_minted_and_bad_ones_harm_no_neighbour() {
    let stage = Stage::start().await;
    let with_csr = X509Item { key: Some(x509_item::Key::Csr(csr().into())), ..x509(2, "/b") };
    let subject = Some(x509_item::Subject::Entry(entry()));
    let mut forged = csr();
    *forged.last_mut().unwrap() ^= 1;
    let named = |change: &dyn Fn(&mut NamedX509)| {
        let mut named = NamedX509 { path: "/a".into(), ..NamedX509::default() };
        change(&mut named);
        Some(x509_item::Subject::Named(named))
    };
    let request = MintRequest {
        x509: vec![
            x509(1, "/a"),
            X509Item { key: Some(x509_item::Key::Spki(vec![1; 9].into())), ..x509(10, "/a") },
            with_csr,
            X509Item { key: Some(x509_item::Key::Csr(forged.into())), ..x509(11, "/a") },
            X509Item { key: None, ..x509(12, "/a") },
            X509Item { subject: None, ..x509(13, "/a") },
            X509Item { subject, ..x509(14, "/a") },
            x509(15, "/mintmark/signer"),
            x509(16, "a"),
            X509Item { subject: named(&|named| named.ttl_seconds = u32::MAX), ..x509(17, "/a") },
            X509Item {
                subject: named(&|named| named.profile = Profile::DownstreamCa.into()),
                ..x509(18, "/a")
            },
            X509Item { subject: named(&|named| named.profile = 99), ..x509(19, "/a") },
            X509Item {
                subject: named(&|named| named.dns_names = vec!["a b".into()]),
                ..x509(20, "/a")
            },
            x509(3, "/c"),
        ],
        jwt: vec![jwt(4, "/d", &["x"]), jwt(21, "/d", &[]), jwt(22, "", &["x"])],
        instance_id: "i-1".into(),
        ..MintRequest::default()
    };
    let outcomes = outcomes(&stage.mint(request).await.unwrap());
    for (id, path) in [(1, "/a"), (2, "/b"), (3, "/c")] {
        let leaf = outcomes[&id].as_ref().unwrap();
        assert!(holds(leaf, &format!("spiffe://signer.test{path}")), "{id}");
        assert!(!holds(leaf, "elsewhere.test"), "{id}");
    }
    assert_eq!(outcomes[&4].as_ref().unwrap().split(|&byte| byte == b'.').count(), 3);
    for (id, why) in [
        (10, Why::Malformed),
        (11, Why::Malformed),
        (12, Why::Malformed),
        (13, Why::Malformed),
        (14, Why::NotOffered),
        (15, Why::Refused),
        (16, Why::Refused),
        (17, Why::Refused),
        (18, Why::Refused),
        (19, Why::Malformed),
        (20, Why::Refused),
        (21, Why::Refused),
        (22, Why::Refused),
    ] {
        assert_eq!(outcomes[&id], Err(why), "{id}");
    }
    assert_eq!(outcomes.len(), 17);
    let caller = Caller::FrontEnd { name: "one".into(), instance: "i-1".into() };
    let records = stage.log.records();
    assert_eq!(records.iter().filter(|record| record.caller == caller).count(), 4);
    assert!(stage.log_text().contains("caller=front end one instance i-1"));
}

#[tokio::test]
async fn the_signers_own_certificate_is_logged_like_any_other() {
    let stage = Stage::start().await;
    let records = stage.log.records();
    let [record] = &records[..] else { panic!("{records:?}") };
    assert_eq!(record.id.as_str(), "spiffe://signer.test/mintmark/signer");
    assert_eq!(record.caller, Caller::Signer);
    assert!(matches!(
        record.document,
        Document::X509 { profile: ca_core::profile::Profile::Server, .. }
    ));
}

#[tokio::test]
async fn many_messages_of_many_streams_are_answered_each_once() {
    let stage = Stage::start().await;
    let channel = stage.channel(stage.front_end().await).await.unwrap();
    let streams = (0..4).map(|stream| {
        let messages: Vec<_> = (0..5)
            .map(|message| {
                batch(
                    (0..100).map(|item| x509(stream * 1000 + message * 100 + item, "/a")).collect(),
                )
            })
            .collect();
        stage::mint_over(channel.clone(), messages)
    });
    for (stream, answers) in futures_util::future::join_all(streams).await.into_iter().enumerate() {
        let outcomes = outcomes(&answers.unwrap());
        assert_eq!(outcomes.len(), 500);
        assert!(
            outcomes.iter().all(|(id, outcome)| *id / 1000 == stream as u64 && outcome.is_ok())
        );
    }
}

#[tokio::test]
async fn a_message_of_too_many_items_ends_its_stream() {
    let stage = Stage::start().await;
    let item = X509Item::default();
    let error = stage.mint(batch(vec![item; 1025])).await.unwrap_err();
    assert_eq!(error.code(), Code::InvalidArgument, "{error}");
    assert!(error.message().contains("1025 items"), "{error}");
    let request = MintRequest { instance_id: "a b".into(), ..batch(vec![x509(1, "/a")]) };
    assert_eq!(stage.mint(request).await.unwrap_err().code(), Code::InvalidArgument);
    let lines = stage.log_text();
    assert!(lines.contains("1025 items") && lines.contains("no name of an instance"), "{lines}");
}

#[tokio::test]
async fn who_is_not_let_in_is_written_down_by_the_rule() {
    let stage = Stage::start().await;
    stage.front_end().await;
    let ended = {
        let mut params = leaf(FRONT_END);
        params.not_after = rcgen::date_time_ymd(2020, 1, 1);
        params.not_before = rcgen::date_time_ymd(2019, 1, 1);
        params
    };
    let mut two = leaf(FRONT_END);
    two.subject_alt_names.extend(leaf("spiffe://signer.test/b").subject_alt_names);
    for (params, reason) in [
        (leaf("spiffe://signer.test/frontend/one"), "/frontend/one is the ID of no front end"),
        (leaf("spiffe://signer.test/mintmark/frontend/two"), "there is no front end two"),
        (leaf("spiffe://other.test/mintmark/frontend/one"), "is of another trust domain"),
        // The name of one that is enrolled, and another key.
        (leaf(FRONT_END), "the key is not enrolled for front end one"),
        (two, "has 2 URI names"),
        (ended, "has ended at 2020-01-01"),
    ] {
        let outcome = stage.mint_as(stage.issue(params), batch(vec![x509(1, "/a")])).await;
        assert!(outcome.is_err(), "{reason}");
        eventually(|| stage.log_text().contains(reason), reason).await;
    }
    let lines = stage.log_text();
    assert_eq!(lines.matches("turned away").count(), 6, "{lines}");
}

#[tokio::test]
async fn nobody_is_answered_without_a_certificate() {
    let stage = Stage::start().await;
    let received = raw::without_certificate(stage.address).await;
    assert!(received.is_err() || received.is_ok_and(|bytes| bytes.is_empty()));
    eventually(|| stage.log_text().contains("shows no certificate"), "the line").await;
}

#[tokio::test]
async fn one_peer_has_so_many_connections_and_no_more() {
    let limits = Limits { connections_of_a_peer: 2, ..Limits::default() };
    let stage = Stage::start_with(limits).await;
    let mut kept = Vec::new();
    for at in 0..3 {
        let channel = stage.channel(stage.front_end().await).await;
        let minted = match &channel {
            Ok(channel) => {
                stage::mint_over(channel.clone(), vec![batch(vec![x509(1, "/a")])]).await.is_ok()
            }
            Err(_) => false,
        };
        assert_eq!(minted, at < 2, "connection {at}");
        kept.push(channel);
    }
    assert!(stage.log_text().contains("this peer has 2 connections open"));
}

#[tokio::test]
async fn a_front_end_that_is_withdrawn_is_cut_off_with_its_streams() {
    let stage = Stage::start().await;
    let (requests, mut answers) = stage.open().await;
    requests.send(batch(vec![x509(1, "/a")])).await.unwrap();
    assert_eq!(answers.message().await.unwrap().unwrap().x509.len(), 1);
    stage.withdraw().await;
    assert!(answers.message().await.is_err());
    let again = stage.mint_as(stage.issue(leaf(FRONT_END)), batch(vec![x509(2, "/a")])).await;
    assert!(again.is_err(), "nor does it come back");
    assert!(stage.log_text().contains("front end one was withdrawn"));
}

#[tokio::test]
async fn a_deadline_holds_while_the_log_is_waited_for() {
    let stage = Stage::start().await;
    stage.log.hold();
    let item = X509Item { deadline_ms: 200, ..x509(1, "/a") };
    let outcomes = outcomes(&stage.mint(batch(vec![item])).await.unwrap());
    assert_eq!(outcomes[&1], Err(Why::Late));
    stage.log.release();
}

#[tokio::test]
async fn a_front_end_gets_what_its_record_says_and_nothing_else() {
    let stage = Stage::start().await;
    let shown = stage.issue(leaf(FRONT_END));
    let terms = |wanted: &mut Wanted| {
        wanted.path_scopes = vec![PathScope::parse("/ns/prod").unwrap()];
        wanted.require_csr = true;
        wanted.max_ttl = Duration::from_secs(60);
        wanted.rates.total = Some("1/4".parse().unwrap());
    };
    stage.enrol_on(&shown, terms).await;
    let with_csr = |request_id, path: &str| X509Item {
        key: Some(x509_item::Key::Csr(csr().into())),
        ..x509(request_id, path)
    };
    let mut long = with_csr(3, "/ns/prod/web");
    if let Some(x509_item::Subject::Named(named)) = &mut long.subject {
        named.ttl_seconds = 61;
    }
    let wide = X509Item {
        key: Some(x509_item::Key::Csr(vec![0x30; 17_000].into())),
        ..x509(5, "/ns/prod")
    };
    let mut items = vec![
        with_csr(0, "/ns/prod/web"),
        with_csr(1, "/ns/production"),
        x509(2, "/ns/prod/web"),
        long,
        wide,
    ];
    // A budget of four at once: what was refused has not used it.
    items.extend((10..14).map(|request_id| with_csr(request_id, "/ns/prod/db")));
    let outcomes = outcomes(&stage.mint_as(shown, batch(items)).await.unwrap());
    for minted in [0, 10, 11, 12] {
        assert!(outcomes[&minted].is_ok(), "{minted}: {:?}", outcomes[&minted]);
    }
    for (refused, why) in [
        (1, Why::Refused),
        (2, Why::Refused),
        (3, Why::Refused),
        (5, Why::Malformed),
        (13, Why::Budget),
    ] {
        assert_eq!(outcomes[&refused], Err(why), "{refused}");
    }
    let lines = stage.log_text();
    for reason in
        ["outside the path scopes", "has to send CSRs", "longer than the 60 s", "budget is used up"]
    {
        assert!(lines.contains(reason), "{reason}: {lines}");
    }
}

#[tokio::test]
async fn other_terms_end_a_connection_and_another_instance_does_not() {
    let stage = Stage::start().await;
    let (requests, mut answers) = stage.open().await;
    requests.send(batch(vec![x509(1, "/a")])).await.unwrap();
    assert_eq!(answers.message().await.unwrap().unwrap().x509.len(), 1);
    let other = stage.front_end().await;
    requests.send(batch(vec![x509(2, "/a")])).await.unwrap();
    assert_eq!(answers.message().await.unwrap().unwrap().x509.len(), 1, "on the same stream");
    stage.enrol_on(&other, |wanted| wanted.require_csr = true).await;
    assert!(answers.message().await.is_err());
    assert!(stage.log_text().contains("has other terms now"));
}

#[tokio::test]
async fn a_connection_ends_with_the_certificate_of_its_peer() {
    let stage = Stage::start().await;
    let mut params = leaf(FRONT_END);
    stage::ends_after(&mut params, Duration::from_secs(3));
    let credential = stage.issue(params);
    stage.enrol(&credential).await;
    let channel = stage.channel(credential).await.unwrap();
    // Some seconds before its end it is told so, which is now.
    let (_requests, mut answers) = stage::open_over(channel.clone()).await.unwrap();
    let status = answers.message().await.unwrap_err();
    assert_eq!(status.code(), Code::Unavailable, "{status}");
    eventually(|| stage.connections_ended() == 1, "the connection ends").await;
    let late = stage::mint_over(channel, vec![batch(vec![x509(2, "/a")])]).await;
    assert!(late.is_err(), "the connection is gone");
}

#[tokio::test]
async fn what_was_admitted_is_answered_when_the_listener_stops() {
    let mut stage = Stage::start().await;
    let (requests, mut answers) = stage.open().await;
    stage.log.hold();
    requests.send(batch((0..100).map(|id| x509(id, "/a")).collect())).await.unwrap();
    eventually(|| stage.log.records().len() > 100, "all is signed, and waits for the log").await;
    stage.stop_listening();
    tokio::time::sleep(Duration::from_millis(50)).await;
    stage.log.release();
    let mut messages = Vec::new();
    let status = loop {
        match answers.message().await {
            Ok(Some(message)) => messages.push(message),
            Ok(None) => panic!("it ends with a reason"),
            Err(status) => break status,
        }
    };
    assert_eq!(status.code(), Code::Unavailable, "{status}");
    let outcomes = outcomes(&messages);
    assert_eq!(outcomes.len(), 100);
    assert!(outcomes.values().all(Result::is_ok));
    stage.stopped().await;
    assert!(stage.channel(stage.front_end().await).await.is_err(), "nobody listens");
}

#[tokio::test]
async fn a_stream_that_is_dropped_takes_its_unsigned_work_with_it() {
    let stage = Stage::start_idle().await;
    let (requests, answers) = stage.open().await;
    requests.send(batch((0..50).map(|id| x509(id, "/a")).collect())).await.unwrap();
    eventually(|| stage.admitted() == 50, "all waits").await;
    drop((requests, answers));
    eventually(|| stage.connections_ended() == 1, "the connection ends").await;
    tokio::time::sleep(Duration::from_millis(100)).await;
    stage.begin_minting();
    stage.mint(batch(vec![x509(99, "/z")])).await.unwrap();
    let minted: Vec<_> = stage.log.records().into_iter().map(|record| record.id).collect();
    assert_eq!(minted.len(), 2, "the signer's own, and the last: {minted:?}");
    assert_eq!(minted[1].path(), "/z");
}

#[tokio::test]
async fn an_item_whose_deadline_passes_is_answered_so() {
    let stage = Stage::start_idle().await;
    let (requests, mut answers) = stage.open().await;
    let late = X509Item { deadline_ms: 1, ..x509(1, "/a") };
    requests.send(batch(vec![late, x509(2, "/b")])).await.unwrap();
    eventually(|| stage.admitted() == 2, "both wait").await;
    tokio::time::sleep(Duration::from_millis(20)).await;
    stage.begin_minting();
    let mut messages = Vec::new();
    while outcomes(&messages).len() < 2 {
        messages.push(answers.message().await.unwrap().unwrap());
    }
    let outcomes = outcomes(&messages);
    assert_eq!(outcomes[&1], Err(Why::Late));
    assert!(outcomes[&2].is_ok());
}

#[tokio::test]
async fn the_bundle_is_told_at_once_and_when_it_changes() {
    let stage = Stage::start().await;
    let channel = stage.channel(stage.front_end().await).await.unwrap();
    let mut client = stage::client(channel);
    let mut events = client.follow(FollowRequest::default()).await.unwrap().into_inner();
    let mut next = async || events.message().await.unwrap().unwrap().event.unwrap();
    let Event::Bundle(bundle) = next().await else { panic!("the bundle comes first") };
    assert_eq!((bundle.trust_domain.as_str(), bundle.x509_authorities.len()), ("signer.test", 2));
    let Event::Authorities(authorities) = next().await else { panic!("then who signs") };
    assert_eq!(authorities.jwt_authority_id, bundle.jwt_authorities[0].key_id);
    assert!(matches!(next().await, Event::SnapshotEnd(_)));
    stage.publish(|bundle| bundle.sequence += 1);
    let Event::Bundle(changed) = next().await else { panic!("then what changes") };
    assert_eq!(changed.sequence, bundle.sequence + 1);
}

#[tokio::test]
async fn an_authority_that_leaves_the_bundle_vouches_for_nobody() {
    let stage = Stage::start().await;
    stage.mint(batch(vec![x509(1, "/a")])).await.unwrap();
    stage.publish(|bundle| drop(bundle.x509_authorities.pop()));
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert!(stage.mint(batch(vec![x509(2, "/a")])).await.is_err());
    eventually(
        || stage.log_text().contains("does not lead to an authority of the bundle"),
        "the line",
    )
    .await;
}

#[tokio::test]
async fn what_is_not_there_yet_is_said_to_be_not_offered() {
    let stage = Stage::start().await;
    let channel = stage.channel(stage.front_end().await).await.unwrap();
    let error = ControlClient::new(channel).report(ReportRequest::default()).await.unwrap_err();
    assert_eq!(error.code(), Code::Unimplemented, "{error}");
}
