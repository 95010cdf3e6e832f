//! Front ends that somebody has taken over, and strangers: each is refused or bounded, others are served meanwhile,
//! and the audit log says what was refused.

use std::net::Ipv4Addr;
use std::process::{Command, Output};
use std::time::{Duration, Instant};

use ca_core::der::{self, tag};
use ca_core::frontend::{Grants, Wanted};
use mintmark_proto::signing::v1::failure::Code as Why;
use mintmark_proto::signing::v1::{JwtItem, MintRequest, X509Item, x509_item};
use mintmark_signer::signing::Limits;
use prost::Message as _;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tonic::Code;

use crate::raw::{self, NO_WINDOW, framed};
use crate::stage::{self, FRONT_END, Stage, eventually, leaf};
use crate::{batch, csr, jwt, outcomes, x509};

/// Long enough for the busiest machine.
const LONG: Duration = Duration::from_secs(60);
const SOON: Duration = Duration::from_millis(300);

/// That somebody else is served as if nothing were.
async fn others_are_served(stage: &Stage) {
    let answers = stage.mint(batch(vec![x509(77, "/other")])).await.unwrap();
    assert!(outcomes(&answers)[&77].is_ok());
}

#[tokio::test]
async fn a_front_end_without_the_grant_names_nobody() {
    let stage = Stage::start().await;
    let shown = stage.issue(leaf(FRONT_END));
    stage.enrol_on(&shown, |wanted: &mut Wanted| wanted.grants = Grants::default()).await;
    let request = MintRequest { jwt: vec![jwt(2, "/a", &["x"])], ..batch(vec![x509(1, "/a")]) };
    let outcomes = outcomes(&stage.mint_as(shown, request).await.unwrap());
    assert_eq!((&outcomes[&1], &outcomes[&2]), (&Err(Why::Refused), &Err(Why::Refused)));
    stage.audited(&["front end one", "X509-SVID", "may not name IDs itself"]).await;
    stage.audited(&["front end one", "JWT-SVID", "may not name IDs itself"]).await;
    assert_eq!(stage.log.records().len(), 1, "the signer's own");
}

#[tokio::test]
async fn a_ca_below_the_authority_makes_no_front_end_even_of_a_key_that_is_enrolled() {
    let stage = Stage::start().await;
    let shown = stage.issue_below(leaf(FRONT_END));
    stage.enrol(&shown).await;
    assert!(stage.mint_as(shown, batch(vec![x509(1, "/a")])).await.is_err());
    stage
        .audited(&["turned away", FRONT_END, "not signed by an authority of the bundle itself"])
        .await;
    others_are_served(&stage).await;
}

#[tokio::test]
async fn a_workload_whose_path_looks_like_a_front_ends_is_none() {
    let stage = Stage::start().await;
    stage.front_end().await;
    for (path, reason) in [
        ("/mintmark/frontend/one/x", "is the ID of no front end"),
        ("/mintmark/frontend/x/y", "is the ID of no front end"),
        ("/mintmark/frontend/ONE", "is the ID of no front end"),
        ("/mintmark/frontend", "is the ID of no front end"),
        ("/mintmark/signer", "is the ID of no front end"),
        ("/mintmark/frontend/one", "the key is not enrolled for front end one"),
    ] {
        let id = format!("spiffe://signer.test{path}");
        let shown = stage.issue(leaf(&id));
        assert!(stage.mint_as(shown, batch(vec![x509(1, "/a")])).await.is_err(), "{id}");
        stage.audited(&["turned away", &format!("{id:?}"), reason, "kind=\"connection\""]).await;
    }
    let shown = stage.issue_below(leaf("spiffe://signer.test/frontend/one"));
    assert!(stage.mint_as(shown, batch(vec![x509(1, "/a")])).await.is_err());
    stage.audited(&["/frontend/one", "is the ID of no front end", "kind=\"stranger\""]).await;
}

#[tokio::test]
async fn no_session_of_a_front_end_is_resumed() {
    let stage = Stage::start().await;
    let shown = stage.front_end().await;
    assert_eq!(raw::eager(stage.address, &shown).await, [(true, 0), (true, 0)]);
}

/// The SPKI of an RSA key whose modulus has so many bytes.
fn giant(bytes: usize) -> Vec<u8> {
    let mut modulus = vec![0xff; bytes];
    modulus[0] = 0x80;
    let mut numbers = Vec::new();
    der::write_unsigned(&mut numbers, &modulus);
    der::write_unsigned(&mut numbers, &[1, 0, 1]);
    let key = der::encode(tag::SEQUENCE, &[&numbers]);
    // rsaEncryption, with NULL.
    let algorithm = b"\x30\x0d\x06\x09\x2a\x86\x48\x86\xf7\x0d\x01\x01\x01\x05\x00";
    let bits = der::encode(tag::BIT_STRING, &[&[0], &key]);
    der::encode(tag::SEQUENCE, &[algorithm, &bits])
}

#[tokio::test]
async fn an_rsa_modulus_of_a_megabyte_is_refused_by_its_size() {
    let stage = Stage::start().await;
    let with = |key| batch(vec![X509Item { key: Some(key), ..x509(1, "/a") }]);
    let begun = Instant::now();
    for (bytes, reason) in [(1_000_000, "RSA modulus has 8000000 bits"), (4096, "32768 bits")] {
        let key = x509_item::Key::Spki(giant(bytes).into());
        let answers = stage.mint(with(key)).await.unwrap();
        assert_eq!(outcomes(&answers)[&1], Err(Why::Malformed));
        stage.audited(&["front end one", "X509-SVID", reason]).await;
    }
    for (bytes, reason) in [(1_000_000, "the CSR has 1000"), (4096, "32768 bits")] {
        let key = x509_item::Key::Csr(giant_csr(bytes).into());
        let answers = stage.mint(with(key)).await.unwrap();
        assert_eq!(outcomes(&answers)[&1], Err(Why::Malformed));
        stage.audited(&["front end one", "X509-SVID", reason]).await;
    }
    // One that makes the message too large is not even read.
    let error = stage.mint(with(x509_item::Key::Spki(giant(1 << 20).into()))).await.unwrap_err();
    assert_eq!(error.code(), Code::OutOfRange, "{error}");
    stage.audited(&["front end one", "Mint stream", "message length too large"]).await;
    assert!(begun.elapsed() < LONG / 2, "{:?}", begun.elapsed());
}

/// A CSR for such a key, with a signature that nobody has made.
fn giant_csr(bytes: usize) -> Vec<u8> {
    let spki = giant(bytes);
    let version: &[u8] = b"\x02\x01\x00";
    let info = der::encode(tag::SEQUENCE, &[version, b"\x30\x00", &spki, b"\xa0\x00"]);
    // sha256WithRSAEncryption
    let algorithm = b"\x30\x0d\x06\x09\x2a\x86\x48\x86\xf7\x0d\x01\x01\x0b\x05\x00";
    let signature = der::encode(tag::BIT_STRING, &[&[0; 257]]);
    der::encode(tag::SEQUENCE, &[&info, algorithm, &signature])
}

#[tokio::test]
async fn a_message_that_would_grow_is_not_decoded() {
    let stage = Stage::start().await;
    let item = X509Item::default();
    let error = stage.mint(batch(vec![item; 500_000])).await.unwrap_err();
    assert_eq!(error.code(), Code::InvalidArgument, "{error}");
    stage.audited(&["front end one", "Mint stream", "500000 items"]).await;
    let item = JwtItem { audience: vec![String::new(); 500_000], ..JwtItem::default() };
    let request = MintRequest { jwt: vec![item], ..MintRequest::default() };
    assert_eq!(stage.mint(request).await.unwrap_err().code(), Code::InvalidArgument);
    stage.audited(&["front end one", "Mint stream", "500000 DNS names and audiences"]).await;
}

#[tokio::test]
async fn a_message_that_does_not_come_to_its_end_ends_its_stream() {
    let limits = Limits { message_within: SOON, ..Limits::default() };
    let stage = Stage::start_with(limits).await;
    let mut peer = stage.raw(stage.front_end().await, &[]).await;
    // One says nothing, one less than a head, one trickles, one is in time and goes on.
    let message = framed(&batch(vec![x509(1, "/a")]).encode_to_vec());
    let (first, second) = message.split_at(60);
    for stream in [1, 3, 5, 7] {
        peer.call("Mint", stream).await;
    }
    peer.say(3, &[0]).await;
    peer.say(5, &[0, 0, 16, 0, 0]).await;
    peer.say(7, first).await;
    for _ in 0..10 {
        peer.say(5, &[0]).await;
        tokio::time::sleep(SOON / 20).await;
    }
    peer.say(7, second).await;
    assert!(!peer.answer().await.is_empty());
    for _ in 0..3 {
        peer.say(5, &[0]).await;
        tokio::time::sleep(SOON / 6).await;
    }
    let within_the_message = "is not there as a whole after 300 ms";
    eventually(|| stage.log_text().matches(within_the_message).count() == 2, "both end").await;
    stage.audited(&["front end one", "Mint stream", within_the_message]).await;
    // The one that is silent, and the one that was in time, are still open.
    peer.say(1, &message).await;
    assert!(!peer.answer().await.is_empty());
    peer.say(7, &message).await;
    assert!(!peer.answer().await.is_empty());
}

#[tokio::test]
async fn what_a_peer_breaks_on_a_stream_is_written_down() {
    let stage = Stage::start().await;
    let mut peer = stage.raw(stage.front_end().await, &[]).await;
    // A varint that does not end, a flag that is none, a compressed message, and a reset.
    for (stream, bytes, reason) in [
        (1, framed(&[0xff; 11]), "varint"),
        (3, vec![7, 0, 0, 0, 0], "invalid compression flag: 7"),
        (5, vec![1, 0, 0, 0, 0], "compressed-flag"),
    ] {
        peer.call("Mint", stream).await;
        peer.say(stream, &bytes).await;
        assert!(peer.ends(stream, LONG).await, "{reason}");
        stage.audited(&["front end one", "Mint stream", reason]).await;
    }
}

#[tokio::test]
async fn a_flood_of_resets_ends_its_connection() {
    let stage = Stage::start().await;
    let mut peer = stage.raw(stage.front_end().await, &[]).await;
    assert!(peer.resets(10_000).await);
    stage.audited(&["turned away", FRONT_END, "what HTTP/2 does not allow"]).await;
    others_are_served(&stage).await;
}

#[tokio::test]
async fn a_call_that_no_service_has_seen_is_written_down() {
    let stage = Stage::start().await;
    let mut peer = stage.raw(stage.front_end().await, &[]).await;
    peer.call("Follow", 1).await;
    peer.say(1, &framed(&[0xff; 11])).await;
    assert!(peer.ends(1, LONG).await);
    stage.audited(&["front end one", "call", "Signing/Follow", "varint"]).await;
    peer.call("Anything", 3).await;
    assert!(peer.ends(3, LONG).await);
    stage.audited(&["front end one", "call", "Signing/Anything"]).await;
}

#[tokio::test]
async fn a_front_end_that_relies_on_a_later_contract_is_told_so() {
    let stage = Stage::start().await;
    let request = |least_version| MintRequest { least_version, ..batch(vec![x509(1, "/a")]) };
    for version in [0, 1] {
        assert!(outcomes(&stage.mint(request(version)).await.unwrap())[&1].is_ok());
    }
    let error = stage.mint(request(2)).await.unwrap_err();
    assert_eq!(error.code(), Code::FailedPrecondition, "{error}");
    stage.audited(&["front end one", "Mint stream", "relies on version 2"]).await;
}

#[tokio::test]
async fn who_takes_no_answers_is_cut_off() {
    let limits = Limits { taken_within: SOON, ..Limits::default() };
    let stage = Stage::start_with(limits).await;
    let mut peer = stage.raw(stage.front_end().await, NO_WINDOW).await;
    peer.call("Mint", 1).await;
    peer.say(1, &framed(&batch(vec![x509(1, "/a")]).encode_to_vec())).await;
    eventually(|| stage.connections_ended() == 1, "the connection ends").await;
    stage.audited(&["turned away", FRONT_END, "it takes no answers: none for 300 ms"]).await;
    // Nothing to take is no fault.
    let (requests, mut answers) = stage.open().await;
    tokio::time::sleep(3 * SOON).await;
    requests.send(batch(vec![x509(2, "/a")])).await.unwrap();
    assert!(answers.message().await.unwrap().is_some());
}

#[tokio::test]
async fn who_says_nothing_after_the_handshake_gives_its_place_back() {
    let limits = Limits { handshake_within: Duration::from_secs(2), ..Limits::default() };
    let stage = Stage::start_with(limits).await;
    let mut silent = stage.connect(stage.front_end().await, Ipv4Addr::LOCALHOST).await.unwrap();
    silent.write_all(b"PRI * HTTP/2.0\r\n").await.unwrap();
    eventually(|| stage.connections_ended() == 1, "the connection ends").await;
    stage.audited(&["turned away", FRONT_END, "it has not begun HTTP/2 within 2000 ms"]).await;
    // A whole connection, begun byte by byte, is none of these.
    let mut slow = stage.raw_in_pieces(stage.front_end().await).await;
    slow.call("Mint", 1).await;
    slow.say(1, &framed(&batch(vec![x509(1, "/a")]).encode_to_vec())).await;
    assert!(!slow.answer().await.is_empty());
}

#[tokio::test]
async fn one_address_cannot_take_all_handshakes() {
    let limits = Limits { handshakes: 3, handshakes_of_an_address: 2, ..Limits::default() };
    let stage = Stage::start_with(limits).await;
    let mut kept = Vec::new();
    for _ in 0..2 {
        kept.push(TcpStream::connect(stage.address).await.unwrap());
    }
    let mut third = TcpStream::connect(stage.address).await.unwrap();
    let received = tokio::time::timeout(LONG, third.read(&mut [0])).await.unwrap();
    assert!(matches!(received, Ok(0) | Err(_)), "it is closed: {received:?}");
    stage.audited(&["turned away", "2 handshakes of this address are under way"]).await;
    let other = stage.channel_from(stage.front_end().await, Ipv4Addr::new(127, 0, 0, 2)).await;
    let answers = stage::mint_over(other.unwrap(), vec![batch(vec![x509(1, "/a")])]).await;
    assert!(outcomes(&answers.unwrap())[&1].is_ok());
    drop(kept);
    eventually(|| stage.log_text().matches("turned away").count() >= 3, "they are gone").await;
    others_are_served(&stage).await;
}

#[tokio::test]
async fn a_flood_of_strangers_hides_no_front_end() {
    let stage = Stage::start().await;
    stage.front_end().await;
    for _ in 0..60 {
        let mut stranger = TcpStream::connect(stage.address).await.unwrap();
        stranger.write_all(b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
        let _ = stranger.read(&mut [0; 64]).await;
    }
    let strangers = || {
        let lines = stage.audit_lines();
        lines.into_iter().filter(|line| line.contains("kind=\"stranger\"")).count()
    };
    eventually(|| strangers() >= 50, "their lines").await;
    let shown = stage.issue(leaf(FRONT_END));
    assert!(stage.mint_as(shown, batch(vec![x509(1, "/a")])).await.is_err());
    stage.audited(&["kind=\"connection\"", FRONT_END, "the key is not enrolled"]).await;
    let turned_away =
        |kind| stage.figure(&format!("mintmark_signing_turned_away_total{{kind=\"{kind}\"}}"));
    assert_eq!((turned_away("stranger"), turned_away("connection")), (60, 1));
}

#[tokio::test]
async fn connections_are_counted_while_they_are_open() {
    let stage = Stage::start().await;
    let open = || stage.figure("mintmark_signing_connections");
    assert_eq!(open(), 0);
    let streams = (stage.open().await, stage.open().await);
    assert_eq!(open(), 2);
    drop(streams.0);
    eventually(|| open() == 1, "one has left").await;
    stage.withdraw().await;
    eventually(|| open() == 0, "the other was cut off").await;
}

#[tokio::test]
async fn an_endless_header_block_ends_its_connection() {
    let stage = Stage::start().await;
    let mut peer = stage.raw(stage.front_end().await, &[]).await;
    let sent = peer.endless_headers(64 << 20).await;
    assert!(sent < 8 << 20, "{sent} bytes were taken");
    stage.audited(&["turned away", FRONT_END, "what HTTP/2 does not allow"]).await;
    others_are_served(&stage).await;
}

#[tokio::test]
async fn ten_thousand_idle_streams_are_few() {
    let stage = Stage::start().await;
    let mut peer = stage.raw(stage.front_end().await, &[]).await;
    let refused = peer.idle_streams(10_000).await;
    assert!(refused, "streams beyond the bound are refused, or the connection ends");
    others_are_served(&stage).await;
}

/// Names the process that this test starts; only there.
const CHILD: &str = "FLAT_MEMORY_TEST_CHILD";

#[test]
fn memory_stays_flat_under_what_one_front_end_sends() {
    const NAME: &str = "hostile::memory_stays_flat_under_what_one_front_end_sends";
    if std::env::var_os(CHILD).is_some() {
        let runtime = tokio::runtime::Runtime::new().unwrap();
        return runtime.block_on(send_much());
    }
    // In a process of its own: other tests take memory too.
    let mut child = Command::new(std::env::current_exe().unwrap());
    child.args(["--exact", NAME, "--nocapture"]).env(CHILD, "1");
    let Output { status, stdout, stderr } = child.output().unwrap();
    let said = String::from_utf8([stdout, stderr].concat()).unwrap();
    assert!(status.success() && said.contains("1 passed"), "{said}");
}

async fn send_much() {
    let stage = Stage::start().await;
    others_are_served(&stage).await;
    let before = resident_mib();
    let mut peers = Vec::new();
    for _ in 0..8 {
        let mut peer = stage.raw(stage.front_end().await, &[]).await;
        assert!(peer.idle_streams(10_000).await);
        peers.push(peer);
        let mut peer = stage.raw(stage.front_end().await, &[]).await;
        peer.endless_headers(4 << 20).await;
        peers.push(peer);
        let error = stage.mint(batch(vec![X509Item::default(); 500_000])).await.unwrap_err();
        assert_eq!(error.code(), Code::InvalidArgument);
        others_are_served(&stage).await;
    }
    let (after, csr) = (resident_mib(), csr());
    // The client of 500,000 items is in this process too, and takes 60 MiB of it for a moment.
    assert!(after < before + 128, "{before} MiB became {after} MiB; a CSR has {}", csr.len());
}

fn resident_mib() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").trim().parse::<usize>().unwrap() / 1024
}

/// Each is two bytes to the peer and some two hundred here, once it is refused.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flood_of_what_is_refused_is_answered_in_turns() {
    const MESSAGES: u64 = 20_000;
    let stage = Stage::start().await;
    let (requests, mut answers) = stage.open().await;
    let flood = tokio::spawn(async move {
        for request_id in 0..MESSAGES {
            let nothing = JwtItem { request_id, ..JwtItem::default() };
            let request = MintRequest { jwt: vec![nothing], ..MintRequest::default() };
            requests.send(request).await.unwrap();
        }
    });
    let (mut answered, mut largest) = (0, 0);
    while answered < MESSAGES {
        let message = answers.message().await.unwrap().unwrap();
        answered += message.jwt.len() as u64;
        largest = largest.max(message.jwt.len());
    }
    flood.await.unwrap();
    assert!(largest <= 64, "{largest} in one message");
    others_are_served(&stage).await;
}
