//! A front end and a signer, over sockets and TLS.

#![expect(clippy::unwrap_used, reason = "a test states its expectations by unwrapping")]

mod control;
mod credentials;
mod stage;

use std::collections::HashMap;
use std::sync::Arc;

use ca_core::clock::{Clock as _, SystemClock};
use mintmark_client::mint::{Answers, Batch, NotMinted, Sender, Svid, Why};
use mintmark_client::{ConnectError, Credentials, Signer, follow, renewal};
use mintmark_proto::signing::v1::{
    JwtItem, NamedJwt, NamedX509, X509Item, failure, jwt_item, x509_item,
};
use mintmark_transport::Side;
use rcgen::{KeyPair, PublicKeyData as _};
use stage::{Ca, FRONT_END, LONG, Stage, eventually, leaf};
use tokio::sync::watch;
use tokio::time::timeout;

/// Time to do something, for what is to do nothing.
const SHORT: std::time::Duration = std::time::Duration::from_millis(50);

async fn connect(stage: &Stage, folder: &std::path::Path) -> Result<Signer, ConnectError> {
    let credentials = Arc::new(Credentials::load(folder, SystemClock.now()).unwrap());
    Signer::connect(&stage.address(), credentials, Arc::new(SystemClock)).await
}

async fn let_in(stage: &Stage) -> Signer {
    connect(stage, &stage.enrolled().await).await.unwrap()
}

fn spki() -> bytes::Bytes {
    KeyPair::generate().unwrap().subject_public_key_info().into()
}

fn x509(spki: &bytes::Bytes, path: &str) -> X509Item {
    let named = NamedX509 { path: path.into(), ..NamedX509::default() };
    X509Item {
        key: Some(x509_item::Key::Spki(spki.clone())),
        subject: Some(x509_item::Subject::Named(named)),
        ..X509Item::default()
    }
}

fn jwt(path: &str) -> JwtItem {
    JwtItem {
        audience: vec!["x".into()],
        subject: Some(jwt_item::Subject::Named(NamedJwt { path: path.into(), ttl_seconds: 60 })),
        ..JwtItem::default()
    }
}

/// Certificates for `/0`, `/1`, …, tagged with the number.
fn numbered(spki: &bytes::Bytes, numbers: std::ops::Range<usize>) -> Batch<usize> {
    let x509 = numbers.map(|number| (number, x509(spki, &format!("/{number}")))).collect();
    Batch { x509, jwt: Vec::new() }
}

async fn answers(
    answers: &mut Answers<usize>,
    count: usize,
) -> HashMap<usize, Result<Svid, NotMinted>> {
    let mut found = HashMap::new();
    while found.len() < count {
        let some = timeout(LONG, answers.next()).await.unwrap().unwrap();
        for answer in some {
            assert!(found.insert(answer.tag, answer.outcome).is_none(), "answered twice");
        }
    }
    found
}

fn holds(bytes: &[u8], part: &str) -> bool {
    bytes.windows(part.len()).any(|window| window == part.as_bytes())
}

#[tokio::test(flavor = "multi_thread")]
async fn each_item_of_many_batches_is_answered_with_its_own_tag() {
    let (stage, spki) = (Stage::start().await, spki());
    let signer = let_in(&stage).await;
    let (sender, mut out) = signer.mint("i-1", 10_000).await.unwrap();
    // More than one message takes.
    sender.try_send(numbered(&spki, 0..2_500)).unwrap();
    let tokens = (2_500..2_600).map(|number| (number, jwt(&format!("/{number}")))).collect();
    let mixed = Batch { jwt: tokens, ..numbered(&spki, 2_600..2_601) };
    sender.send(mixed).await.unwrap();
    sender.send(Batch::default()).await.unwrap();
    let found = answers(&mut out, 2_601).await;
    for (number, outcome) in &found {
        match outcome.as_ref().unwrap() {
            Svid::X509 { leaf, intermediates, expires_at } => {
                assert!(holds(leaf, &format!("spiffe://client.test/{number}")), "{number}");
                assert_eq!(intermediates.len(), 1);
                assert!(*expires_at > SystemClock.now());
            }
            Svid::Jwt { token, .. } => assert_eq!(token.split('.').count(), 3),
        }
    }
    drop(sender);
    assert!(timeout(LONG, out.next()).await.unwrap().is_none());
    assert!(out.ended().unwrap().to_string().contains("has ended the stream"));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_signers_refusals_come_with_their_code() {
    let (stage, spki) = (Stage::start().await, spki());
    let signer = let_in(&stage).await;
    let (sender, mut out) = signer.mint("", 10).await.unwrap();
    let x509 = vec![(0, x509(&spki, "/mintmark/signer")), (1, x509(&spki, "/a"))];
    sender.try_send(Batch { x509, jwt: Vec::new() }).unwrap();
    let found = answers(&mut out, 2).await;
    let Err(NotMinted::Failed(failure)) = &found[&0] else { panic!("{found:?}") };
    assert_eq!(failure.code(), failure::Code::Refused);
    assert!(found[&1].is_ok());
}

#[tokio::test(flavor = "multi_thread")]
async fn no_more_items_are_unanswered_than_may_be() {
    let (stage, spki) = (Stage::start().await, spki());
    let signer = let_in(&stage).await;
    let (sender, mut out) = signer.mint("", 10).await.unwrap();
    stage.log.hold();
    sender.try_send(numbered(&spki, 0..8)).unwrap();
    let error = sender.try_send(numbered(&spki, 8..11)).unwrap_err();
    assert_eq!((error.why, error.batch.len()), (Why::Full, 3));
    let error = sender.send(numbered(&spki, 0..11)).await.unwrap_err();
    assert_eq!(error.why, Why::TooMany);
    let mut waiting = std::pin::pin!(sender.send(numbered(&spki, 8..11)));
    assert!(timeout(SHORT, &mut waiting).await.is_err());
    stage.log.release();
    assert_eq!(answers(&mut out, 8).await.len(), 8);
    timeout(LONG, waiting).await.unwrap().unwrap();
    assert_eq!(answers(&mut out, 3).await.len(), 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_item_that_no_message_has_room_for_is_given_back() {
    let stage = Stage::start().await;
    let signer = let_in(&stage).await;
    let (sender, mut out) = signer.mint("", 100).await.unwrap();
    let huge = bytes::Bytes::from(vec![0x30; 1 << 20]);
    let error = sender.try_send(numbered(&huge, 0..1)).unwrap_err();
    assert_eq!(error.why, Why::TooLarge);
    // Those that have room one by one, and not together, go in several messages.
    let large = bytes::Bytes::from(vec![0x30; 100_000]);
    sender.try_send(numbered(&large, 0..100)).unwrap();
    let found = answers(&mut out, 100).await;
    assert!(found.values().all(|outcome| matches!(outcome, Err(NotMinted::Failed(_)))));
}

#[tokio::test(flavor = "multi_thread")]
async fn every_item_of_a_stream_that_is_cut_off_is_lost_and_says_so() {
    let (stage, spki) = (Stage::start().await, spki());
    let signer = let_in(&stage).await;
    let (sender, mut out) = signer.mint("", 100).await.unwrap();
    let before = stage.log.records();
    stage.log.hold();
    sender.try_send(numbered(&spki, 0..50)).unwrap();
    eventually(|| stage.log.records() > before, "they are under way").await;
    sender.try_send(numbered(&spki, 50..60)).unwrap();
    stage.withdraw().await;
    let found = answers(&mut out, 60).await;
    assert!(found.values().all(|outcome| matches!(outcome, Err(NotMinted::Lost(_)))), "{found:?}");
    assert!(out.next().await.is_none());
    assert_eq!(sender.try_send(numbered(&spki, 0..1)).unwrap_err().why, Why::Ended);
    assert_eq!(sender.send(numbered(&spki, 0..1)).await.unwrap_err().why, Why::Ended);
    stage.log.release();
}

#[tokio::test(flavor = "multi_thread")]
async fn who_waits_for_room_learns_that_the_stream_has_ended() {
    let (stage, spki) = (Stage::start().await, spki());
    let signer = let_in(&stage).await;
    let (sender, out): (Sender<usize>, _) = signer.mint("", 1).await.unwrap();
    stage.log.hold();
    sender.try_send(numbered(&spki, 0..1)).unwrap();
    let mut waiting = std::pin::pin!(sender.send(numbered(&spki, 1..2)));
    assert!(timeout(SHORT, &mut waiting).await.is_err());
    drop(out);
    assert_eq!(timeout(LONG, waiting).await.unwrap().unwrap_err().why, Why::Ended);
    stage.log.release();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_signer_that_cannot_be_reached_is_told_from_others_and_from_one_that_refuses() {
    let stage = Stage::start().await;
    let sentence = |outcome: Result<Signer, ConnectError>| outcome.unwrap_err().to_string();
    let said = sentence(connect(&stage, &stage.unknown().0).await);
    assert!(said.contains(&format!("does not let {FRONT_END} in")), "{said}");

    // Another trust domain's front end knows another signer.
    let other = tempfile::tempdir().unwrap();
    Ca::new().folder(other.path(), leaf("spiffe://other.test/mintmark/frontend/one"));
    let said = sentence(connect(&stage, other.path()).await);
    assert!(said.contains("is not the signer spiffe://other.test/mintmark/signer"), "{said}");

    // Who listens there is no server of TLS, and says nothing.
    let folder = stage.enrolled().await;
    let credentials = Arc::new(Credentials::load(&folder, SystemClock.now()).unwrap());
    let at = |address: String| {
        let credentials = credentials.clone();
        async move { Signer::connect(&address, credentials, Arc::new(SystemClock)).await }
    };
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = silent.local_addr().unwrap().to_string();
    let said = sentence(at(address.clone()).await);
    assert!(said.contains(&format!("cannot reach a signer at {address}: ")), "{said}");
    drop(silent);
    assert!(sentence(at(address).await).contains("nobody listens there; start the signer"));
    assert!(sentence(at("nonsense".into()).await).contains("write it as HOST:PORT"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_that_broke_is_opened_again() {
    let (mut stage, spki) = (Stage::start().await, spki());
    let signer = let_in(&stage).await;
    stage.stop().await;
    // Nobody is there, and a call says so.
    assert!(signer.bundle().await.is_err());
    stage.listen();
    let minted = async {
        loop {
            if let Ok((sender, mut out)) = signer.mint("", 10).await {
                sender.try_send(numbered(&spki, 0..1)).unwrap();
                return answers(&mut out, 1).await;
            }
        }
    };
    assert!(timeout(LONG, minted).await.unwrap()[&0].is_ok());
}

#[tokio::test(flavor = "multi_thread")]
async fn another_bundle_is_told_and_kept() {
    let stage = Stage::start().await;
    let signer = let_in(&stage).await;
    let first = follow::bundle(&signer.bundle().await.unwrap()).unwrap();
    assert_eq!(first, **stage.bundle.borrow());
    let (told, mut changes) = watch::channel(Arc::new(first));
    let following = {
        let signer = signer.clone();
        tokio::spawn(async move { follow::keep(&signer, &told).await })
    };
    let root = Ca::new().root();
    let added = ca_core::certificate::CaCertificate::from_der(&root).unwrap();
    stage.bundle.send_modify(|bundle| Arc::make_mut(bundle).add_x509(added));
    let changed = changes.wait_for(|bundle| bundle.x509_authorities.len() == 3);
    drop(timeout(LONG, changed).await.unwrap().unwrap());
    let (place, wanted) =
        (signer.credentials().folder().join("bundle.pem"), stage.bundle.borrow().pem());
    let is_kept = || std::fs::read_to_string(&place).unwrap() == wanted;
    eventually(is_kept, "it is kept").await;
    following.abort();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bundle_that_cannot_be_written_is_trusted_at_once_and_written_later() {
    let stage = Stage::start().await;
    let signer = let_in(&stage).await;
    let place = |name: &str| signer.credentials().folder().join(name);
    std::fs::create_dir_all(place(".bundle.pem.next").join("in the way")).unwrap();
    let first = Arc::clone(&stage.bundle.borrow());
    let (told, mut changes) = watch::channel(Arc::clone(&first));
    let following = {
        let signer = signer.clone();
        tokio::spawn(async move { follow::keep(&signer, &told).await })
    };
    let added = Ca::new();
    let root = ca_core::certificate::CaCertificate::from_der(&added.root()).unwrap();
    stage.bundle.send_modify(|bundle| Arc::make_mut(bundle).add_x509(root));
    let changed = changes.wait_for(|bundle| bundle.x509_authorities.len() == 3);
    drop(timeout(LONG, changed).await.unwrap().unwrap());
    let chain = [added.issue(&leaf(FRONT_END), &KeyPair::generate().unwrap()).into()];
    signer.credentials().trust().verify(&chain, Side::Client, SystemClock.now()).unwrap();
    let kept = || std::fs::read_to_string(place("bundle.pem")).unwrap();
    assert_eq!(kept(), first.pem());
    std::fs::remove_dir_all(place(".bundle.pem.next")).unwrap();
    let wanted = stage.bundle.borrow().pem();
    eventually(|| kept() == wanted, "it is written in the end").await;
    following.abort();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_copy_from_before_a_renewal_opens_nothing_after_it() {
    let stage = Stage::start().await;
    let mut past_half = leaf(FRONT_END);
    past_half.not_before = rcgen::date_time_ymd(2020, 1, 1);
    let folder = stage.enrolled_with(past_half).await;
    let signer = connect(&stage, &folder).await.unwrap();
    let stolen = Credentials::load(&folder, SystemClock.now()).unwrap();
    renewal::renew(&signer, &SystemClock).await.unwrap();
    let (address, stolen) = (stage.address(), Arc::new(stolen));
    // The signer writes down that the new key was shown beside letting it in.
    let refused = async {
        loop {
            let thief = Signer::connect(&address, stolen.clone(), Arc::new(SystemClock)).await;
            if let Err(error) = thief {
                return error;
            }
        }
    };
    let error = timeout(LONG, refused).await.unwrap();
    assert!(matches!(error, ConnectError::Refused { .. }), "{error}");
    signer.bundle().await.unwrap();
    connect(&stage, &folder).await.unwrap();
}
