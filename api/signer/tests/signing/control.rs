//! What a front end asks beside minting, over sockets and TLS: its next certificate, and what is refused.

use std::time::Duration;

use bytes::Bytes;
use ca_core::clock::{Clock as _, SystemClock, Timestamp};
use ca_core::frontend::{Grants, Wanted};
use ca_core::log::{Caller, Document};
use ca_core::profile;
use mintmark_proto::control::v1::control_client::ControlClient;
use mintmark_proto::control::v1::{
    AttestNodeRequest, PromoteNodeRequest, PublishJwtAuthorityRequest, RedeemJoinTokenRequest,
    RenewFrontEndRequest, RenewNodeRequest, ReportRequest,
};
use mintmark_proto::signing::v1::failure::Code as Why;
use mintmark_proto::signing::v1::{MintRequest, Profile, X509Item, x509_item};
use rcgen::{
    CertificateParams, DistinguishedName, KeyPair, PublicKeyData as _, SanType, date_time_ymd,
};
use tonic::transport::Channel;
use tonic::{Code, Status};

use crate::stage::{self, FRONT_END, Shown, Stage, eventually, fingerprint, leaf};
use crate::{batch, csr, jwt, outcomes, x509};

/// A key, and a CSR for it that names these URIs.
fn key_and_csr(uris: &[&str]) -> (KeyPair, Vec<u8>) {
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.subject_alt_names =
        uris.iter().map(|&uri| SanType::URI(uri.try_into().unwrap())).collect();
    let csr = params.serialize_request(&key).unwrap().der().to_vec();
    (key, csr)
}

async fn renew(channel: &Channel, csr: &[u8]) -> Result<Vec<Bytes>, Status> {
    let request = RenewFrontEndRequest { csr: Bytes::copy_from_slice(csr) };
    let answer = ControlClient::new(channel.clone()).renew_front_end(request).await?;
    Ok(answer.into_inner().chain.unwrap().certificates)
}

async fn mints(channel: &Channel) -> bool {
    stage::mint_over(channel.clone(), vec![batch(vec![x509(1, "/a")])]).await.is_ok()
}

fn fingerprints(stage: &Stage) -> Vec<[u8; 32]> {
    stage.record().keys().iter().map(|key| key.fingerprint).collect()
}

fn own_certificates(stage: &Stage) -> usize {
    let is_own = |record: &&ca_core::log::IssuanceRecord| record.id.as_str() == FRONT_END;
    stage.log.records().iter().filter(is_own).count()
}

#[tokio::test]
async fn after_half_of_its_life_a_front_end_gets_its_next_certificate_and_is_let_in_with_it() {
    let stage = Stage::start().await;
    let channel = stage.channel(stage.front_end().await).await.unwrap();
    let (key, csr) = key_and_csr(&[FRONT_END]);
    let chain = renew(&channel, &csr).await.unwrap();

    // It was logged and recorded before it was answered.
    let record = stage.record();
    let [_, renewed] = record.keys() else { panic!("{record:?}") };
    assert_eq!(renewed.fingerprint, fingerprint(&key));
    // A week, but never beyond the end of the authority, which is a day away.
    assert!(renewed.not_after.since(SystemClock.now()) > Duration::from_secs(80_000));
    let records = stage.log.records();
    let logged = records.iter().find(|record| record.id.as_str() == FRONT_END).unwrap();
    assert_eq!(logged.caller, Caller::FrontEnd { name: "one".into(), instance: "".into() });
    let Document::X509 { profile, serial, key_digest } = &logged.document else {
        panic!("{logged:?}")
    };
    assert_eq!((*profile, serial), (profile::Profile::Server, &renewed.serial));
    assert_eq!(*key_digest, renewed.fingerprint);

    let next = stage.channel(Shown::minted(chain, &key)).await.unwrap();
    assert!(mints(&next).await);
    assert!(stage.log_text().contains("certificate of a front end renewed"));
    let early = renew(&next, &key_and_csr(&[]).1).await.unwrap_err();
    assert_eq!(early.code(), Code::FailedPrecondition, "{early}");
}

#[tokio::test]
async fn a_key_whose_successor_was_seen_ends_what_it_has_open_in_good_time_and_gets_nothing_more() {
    let stage = Stage::start().await;
    let (stolen, shown) = stage.issue_twice(leaf(FRONT_END));
    stage.enrol(&shown).await;
    let channel = stage.channel(shown).await.unwrap();
    let (requests, mut answers) = stage::open_over(channel.clone()).await.unwrap();
    let (key, csr) = key_and_csr(&[]);
    let chain = renew(&channel, &csr).await.unwrap();
    let before = stage.log.records().len();
    stage.log.hold();
    requests.send(batch((0..100).map(|id| x509(id, "/a")).collect())).await.unwrap();
    let is_signed = || stage.log.records().len() == before + 100;
    eventually(is_signed, "all is signed, and waits for the log").await;
    let next = stage.channel(Shown::minted(chain, &key)).await.unwrap();
    let is_replaced = || stage.record().keys().iter().any(|key| key.replaced_at.is_some());
    eventually(is_replaced, "the new key was seen").await;

    // What was admitted is answered; then the connection ends by itself, long before it is cut off.
    tokio::time::sleep(Duration::from_millis(50)).await;
    stage.log.release();
    let mut answered = 0;
    let status = loop {
        match answers.message().await {
            Ok(message) => answered += message.unwrap().x509.len(),
            Err(status) => break status,
        }
    };
    assert_eq!((answered, status.code()), (100, Code::Unavailable), "{status}");
    eventually(|| stage.connections_ended() == 1, "the connection ends").await;
    assert!(stage.audit_lines().is_empty(), "{:?}", stage.audit_lines());
    assert!(renew(&channel, &key_and_csr(&[]).1).await.is_err());
    assert!(fingerprints(&stage).contains(&fingerprint(&key)), "nor is the new one thrown out");
    // Whoever has a copy of it comes too late, and that is told.
    let copy = stage.channel(stolen).await;
    let let_in = match &copy {
        Ok(channel) => mints(channel).await,
        Err(_) => false,
    };
    assert!(!let_in);
    eventually(|| stage.log_text().contains("somebody else does"), "the line").await;
    assert!(mints(&next).await);
}

#[tokio::test]
async fn nothing_is_renewed_in_the_first_half_of_a_life() {
    let stage = Stage::start().await;
    let mut params = leaf(FRONT_END);
    let begin = SystemClock.now().minus(Duration::from_secs(600));
    params.not_before = date_time_ymd(1970, 1, 1) + begin.since(Timestamp::EPOCH);
    let shown = stage.issue(params);
    stage.enrol(&shown).await;
    let channel = stage.channel(shown).await.unwrap();
    let status = renew(&channel, &key_and_csr(&[]).1).await.unwrap_err();
    assert_eq!(status.code(), Code::FailedPrecondition, "{status}");
    // Ten minutes of seventy are over.
    let half = begin.plus(Duration::from_secs(2100)).to_string();
    let minute = half.rsplit_once(':').unwrap().0;
    assert!(status.message().contains("ask from") && status.message().contains(minute), "{status}");
    assert_eq!((own_certificates(&stage), fingerprints(&stage).len()), (0, 1));
    let line = "asked=\"renewal of its certificate\" id=\"key ";
    assert!(stage.log_text().contains(line), "{}", stage.log_text());
}

#[tokio::test]
async fn nothing_is_minted_for_a_key_that_is_not_proven() {
    let stage = Stage::start().await;
    let channel = stage.channel(stage.front_end().await).await.unwrap();
    // Another instance, whose key is known to all.
    let (other, other_key) = {
        let key = KeyPair::generate().unwrap();
        let certificate = stage.issue_for(leaf(FRONT_END), &key);
        (Shown::minted(vec![certificate], &key), key.subject_public_key_info())
    };
    stage.enrol(&other).await;
    let (own, good) = key_and_csr(&[]);
    let (own_key, mut foreign, mut forged) =
        (own.subject_public_key_info(), good.clone(), good.clone());
    let at = foreign.windows(own_key.len()).position(|window| window == own_key).unwrap();
    foreign[at..at + own_key.len()].copy_from_slice(&other_key);
    *forged.last_mut().unwrap() ^= 1;
    let unproven = "failed to verify CSR signature";
    for (csr, text) in [
        (Vec::new(), "missing CSR"),
        (b"no".to_vec(), "malformed CSR"),
        (vec![0x30; 17_000], "malformed CSR"),
        (forged, unproven),
        (foreign, unproven),
        (key_and_csr(&["spiffe://signer.test/mintmark/frontend/two"]).1, "CSR URI SAN is invalid"),
    ] {
        let before = stage.log_text().matches("renewal of its certificate").count();
        let status = renew(&channel, &csr).await.unwrap_err();
        assert_eq!(status.code(), Code::InvalidArgument, "{status}");
        assert!(status.message().contains(text), "{status}");
        let after = stage.log_text().matches("renewal of its certificate").count();
        assert_eq!(after, before + 1, "{text}");
    }
    let long = renew(&channel, &vec![0x30; 200 << 10]).await.unwrap_err();
    assert_eq!(long.code(), Code::OutOfRange, "{long}");
    assert_eq!((own_certificates(&stage), fingerprints(&stage).len()), (0, 2));
    assert!(mints(&stage.channel(other).await.unwrap()).await);
}

#[tokio::test]
async fn what_is_withdrawn_while_it_is_minted_is_not_renewed() {
    let stage = Stage::start().await;
    let channel = stage.channel(stage.front_end().await).await.unwrap();
    stage.log.hold();
    let (key, csr) = key_and_csr(&[]);
    let renewing = tokio::spawn(async move { renew(&channel, &csr).await });
    eventually(|| own_certificates(&stage) == 1, "it is signed, and waits for the log").await;
    stage.withdraw().await;
    stage.log.release();
    assert!(renewing.await.unwrap().is_err());
    eventually(|| stage.connections_ended() == 1, "the connection ends").await;
    assert!(!fingerprints(&stage).contains(&fingerprint(&key)));
    assert!(stage.record().withdrawn_at().is_some());
}

#[tokio::test]
async fn an_answer_that_was_lost_can_be_asked_for_again() {
    let stage = Stage::start().await;
    let channel = stage.channel(stage.front_end().await).await.unwrap();
    let (lost, key) = (key_and_csr(&[]), key_and_csr(&[]));
    let lost_chain = renew(&channel, &lost.1).await.unwrap();
    let chain = renew(&channel, &key.1).await.unwrap();
    assert_eq!(fingerprints(&stage)[1..], [fingerprint(&key.0)]);
    let next = stage.channel(Shown::minted(chain, &key.0)).await.unwrap();
    assert!(mints(&next).await);
    let lost = stage.channel(Shown::minted(lost_chain, &lost.0)).await;
    let let_in = match &lost {
        Ok(channel) => mints(channel).await,
        Err(_) => false,
    };
    assert!(!let_in, "what nobody got opens nothing");
}

#[tokio::test]
async fn a_renewal_ends_no_connection_of_another_instance() {
    let stage = Stage::start().await;
    let channel = stage.channel(stage.front_end().await).await.unwrap();
    let (_requests, mut own_answers) = stage::open_over(channel.clone()).await.unwrap();
    let (requests, mut answers) = stage.open().await;
    let (key, csr) = key_and_csr(&[]);
    let chain = renew(&channel, &csr).await.unwrap();
    let next = stage.channel(Shown::minted(chain, &key)).await.unwrap();
    assert!(mints(&next).await);
    assert_eq!(own_answers.message().await.unwrap_err().code(), Code::Unavailable);
    eventually(|| stage.connections_ended() == 1, "its own connection ends").await;
    requests.send(batch(vec![x509(1, "/a")])).await.unwrap();
    assert_eq!(answers.message().await.unwrap().unwrap().x509.len(), 1);
    assert!(mints(&next).await);
    assert_eq!(stage.connections_ended(), 1);
}

#[tokio::test]
async fn a_key_that_is_seen_while_the_store_fails_is_written_down_soon_after() {
    let stage = Stage::start().await;
    let channel = stage.channel(stage.front_end().await).await.unwrap();
    let (key, csr) = key_and_csr(&[]);
    let chain = renew(&channel, &csr).await.unwrap();
    stage.store().fail(2);
    let next = stage.channel(Shown::minted(chain, &key)).await.unwrap();
    assert!(mints(&next).await);
    let is_replaced = || stage.record().keys().iter().any(|key| key.replaced_at.is_some());
    let noted = eventually(is_replaced, "the new key was seen");
    assert!(tokio::time::timeout(Duration::from_secs(30), noted).await.is_ok());
    assert!(stage.log_text().contains("may still be renewed"));
}

#[tokio::test]
async fn a_renewal_whose_caller_leaves_during_its_commit_has_its_line() {
    let stage = Stage::start().await;
    let channel = stage.channel(stage.front_end().await).await.unwrap();
    for (fails, line) in
        [(0, "certificate of a front end renewed"), (1, "asked=\"renewal of its certificate\"")]
    {
        let before = stage.store().commits();
        stage.store().hold();
        stage.store().fail(fails);
        let (channel, (_, csr)) = (channel.clone(), key_and_csr(&[]));
        let renewing = tokio::spawn(async move { renew(&channel, &csr).await });
        eventually(|| stage.store().commits() > before, "it is minted, and is committed").await;
        renewing.abort();
        assert!(renewing.await.unwrap_err().is_cancelled());
        // Long enough for its reset to come.
        tokio::time::sleep(Duration::from_millis(200)).await;
        stage.store().release();
        eventually(|| stage.log_text().contains(line), line).await;
    }
    assert_eq!(fingerprints(&stage).len(), 2);
}

#[tokio::test]
async fn of_two_renewals_at_once_one_is_to_be_tried_again_and_what_the_other_gave_stays() {
    let stage = Stage::start().await;
    let channel = stage.channel(stage.front_end().await).await.unwrap();
    stage.log.hold();
    let keys = [key_and_csr(&[]), key_and_csr(&[])];
    let renewing = keys.each_ref().map(|(_, csr)| {
        let (channel, csr) = (channel.clone(), csr.clone());
        tokio::spawn(async move { renew(&channel, &csr).await })
    });
    eventually(|| own_certificates(&stage) == 2, "both are signed, and wait for the log").await;
    stage.log.release();
    let mut given = Vec::new();
    for (renewing, (key, _)) in renewing.into_iter().zip(&keys) {
        match renewing.await.unwrap() {
            Ok(_) => given.push(fingerprint(key)),
            Err(status) => assert_eq!(status.code(), Code::Aborted, "{status}"),
        }
    }
    assert_eq!(fingerprints(&stage)[1..], given[..], "what was given is there");
}

#[tokio::test]
async fn renewals_are_so_many_and_no_more() {
    let stage = Stage::start().await;
    let channel = stage.channel(stage.front_end().await).await.unwrap();
    let (_, csr) = key_and_csr(&[]);
    for _ in 0..128 {
        renew(&channel, &csr).await.unwrap();
    }
    let status = renew(&channel, &csr).await.unwrap_err();
    assert_eq!(status.code(), Code::ResourceExhausted, "{status}");
    assert!(status.metadata().contains_key("grpc-retry-pushback-ms"), "{status}");
    assert_eq!((own_certificates(&stage), fingerprints(&stage).len()), (128, 2));
}

#[tokio::test]
async fn what_is_not_there_yet_is_refused_by_name_and_written_down() {
    let stage = Stage::start().await;
    let channel = stage.channel(stage.front_end().await).await.unwrap();
    let client = || ControlClient::new(channel.clone());
    let statuses = [
        ("AttestNode", client().attest_node(AttestNodeRequest::default()).await.unwrap_err()),
        ("RenewNode", client().renew_node(RenewNodeRequest::default()).await.unwrap_err()),
        ("PromoteNode", client().promote_node(PromoteNodeRequest::default()).await.unwrap_err()),
        (
            "RedeemJoinToken",
            client().redeem_join_token(RedeemJoinTokenRequest::default()).await.unwrap_err(),
        ),
        ("Report", client().report(ReportRequest::default()).await.unwrap_err()),
    ];
    for (method, status) in statuses {
        assert_eq!(status.code(), Code::Unimplemented, "{status}");
        let text = format!("{method} is not offered by this server");
        assert!(status.message().contains(&text), "{status}");
        let line = format!("caller=front end one asked=\"{method}\"");
        assert!(stage.log_text().contains(&line), "{line}: {}", stage.log_text());
    }
}

/// What is asked for, in which a grant or a term has a say.
enum Asked {
    Items(MintRequest),
    Publish,
}

/// Whether it is let through.
async fn passes(stage: &Stage, change: fn(&mut Wanted), asked: &Asked) -> bool {
    let shown = stage.issue(leaf(FRONT_END));
    stage.enrol_on(&shown, change).await;
    match asked {
        Asked::Items(request) => {
            let answers = stage.mint_as(shown, request.clone()).await.unwrap();
            match outcomes(&answers).values().next().unwrap() {
                Ok(_) => true,
                Err(why) => {
                    assert_eq!(*why, Why::Refused);
                    false
                }
            }
        }
        Asked::Publish => {
            let mut client = ControlClient::new(stage.channel(shown).await.unwrap());
            let request = PublishJwtAuthorityRequest::default();
            let status = client.publish_jwt_authority(request).await.unwrap_err();
            let denied = status.code() == Code::PermissionDenied;
            assert!(denied || status.code() == Code::Unimplemented, "{status}");
            assert_eq!(denied, status.message().contains("--allow-publish"), "{status}");
            !denied
        }
    }
}

#[tokio::test]
async fn each_grant_is_asked_for_where_it_is_of_use() {
    let stage = Stage::start().await;
    let item = |item| Asked::Items(batch(vec![item]));
    let downstream = || {
        let mut item = x509(1, "");
        if let Some(x509_item::Subject::Named(named)) = &mut item.subject {
            named.profile = Profile::DownstreamCa.into();
        }
        item
    };
    let token = || MintRequest { jwt: vec![jwt(1, "/a", &["b"])], ..MintRequest::default() };
    let with_csr = X509Item { key: Some(x509_item::Key::Csr(csr().into())), ..x509(1, "/a") };
    let nothing: fn(&mut Wanted) = |wanted| wanted.grants = Grants::default();
    let all_but_named: fn(&mut Wanted) = |wanted| {
        wanted.grants = Grants { named: false, downstream: true, publish: true, admin: true };
    };
    let named: fn(&mut Wanted) = |_| {};
    let may_have_cas: fn(&mut Wanted) = |wanted| wanted.grants.downstream = true;
    let may_publish: fn(&mut Wanted) = |wanted| wanted.grants.publish = true;
    let all_but_publish: fn(&mut Wanted) = |wanted| {
        wanted.grants = Grants { named: true, downstream: true, publish: false, admin: true };
    };
    let all_but_cas: fn(&mut Wanted) = |wanted| {
        wanted.grants = Grants { named: true, downstream: false, publish: true, admin: true };
    };
    let must_prove: fn(&mut Wanted) = |wanted| wanted.require_csr = true;
    for (what, change, asked, expected) in [
        ("nothing", nothing, item(x509(1, "/a")), false),
        ("named", all_but_named, item(x509(1, "/a")), false),
        ("named", named, item(x509(1, "/a")), true),
        ("named, token", all_but_named, Asked::Items(token()), false),
        ("named, token", named, Asked::Items(token()), true),
        ("downstream", all_but_cas, item(downstream()), false),
        ("downstream", may_have_cas, item(downstream()), true),
        ("require-csr", must_prove, item(x509(1, "/a")), false),
        ("require-csr", must_prove, item(with_csr), true),
        ("publish", all_but_publish, Asked::Publish, false),
        ("publish", may_publish, Asked::Publish, true),
    ] {
        assert_eq!(passes(&stage, change, &asked).await, expected, "{what}");
    }
}
