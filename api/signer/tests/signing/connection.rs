//! How much may be on its way to and from a front end, over sockets and TLS.

use std::time::Duration;

use mintmark_proto::signing::v1::failure::Code as Why;
use mintmark_proto::signing::v1::{MintRequest, X509Item, x509_item};
use mintmark_signer::signing::Limits;
use prost::Message as _;
use tonic::Code;

use crate::raw::{NO_WINDOW, WINDOW_OF_A_BYTE, framed};
use crate::stage::{FRONT_END, Stage, eventually};
use crate::{batch, outcomes, x509};

/// The largest message.
const LARGEST: usize = 1 << 20;

/// A message of so many bytes, in which a CSR is none.
fn message_of(bytes: usize) -> MintRequest {
    let of_csr = |csr: usize| {
        batch(vec![X509Item {
            key: Some(x509_item::Key::Csr(vec![0x30; csr].into())),
            ..x509(1, "/a")
        }])
    };
    let beside = of_csr(bytes).encoded_len() - bytes;
    let message = of_csr(bytes - beside);
    assert_eq!(message.encoded_len(), bytes);
    message
}

#[tokio::test]
async fn a_message_of_the_largest_size_is_read() {
    let stage = Stage::start().await;
    let answers = stage.mint(message_of(LARGEST)).await.unwrap();
    assert_eq!(outcomes(&answers)[&1], Err(Why::Malformed));
    let status = stage.mint(message_of(LARGEST + 1)).await.unwrap_err();
    assert_eq!(status.code(), Code::OutOfRange, "{status}");
}

#[tokio::test]
async fn streams_that_are_not_read_leave_room_for_a_message_on_another() {
    let stage = Stage::start().await;
    // Who takes no answers is not read from.
    let mut peer = stage.raw(stage.front_end().await, NO_WINDOW).await;
    let window = peer.window().await;
    let small = framed(&batch(vec![x509(1, "/a")]).encode_to_vec());
    let part = framed(&message_of(LARGEST).encode_to_vec());
    let streams = || (0..7).map(|at| 2 * at + 1);
    for stream in streams() {
        peer.call("Mint", stream).await;
        peer.say(stream, &small).await;
    }
    let is_signed = || stage.log.records().len() == 1 + streams().count();
    eventually(is_signed, "each has an answer").await;
    tokio::time::sleep(Duration::from_millis(200)).await;
    for stream in streams() {
        let mut left = window - small.len();
        while left > 0 {
            let bytes = &part[..left.min(part.len())];
            peer.say(stream, bytes).await;
            left -= bytes.len();
        }
    }
    peer.call("Mint", 15).await;
    peer.say(15, &framed(&message_of(LARGEST - 64).encode_to_vec())).await;
    stage.audited(&["front end one", "X509-SVID", "CSR"]).await;
    assert_eq!(stage.connections_ended(), 0);
}

#[tokio::test]
async fn who_begins_to_take_an_answer_and_goes_no_further_is_cut_off() {
    let limits = Limits { taken_within: Duration::from_millis(300), ..Limits::default() };
    let stage = Stage::start_with(limits).await;
    let mut peer = stage.raw(stage.front_end().await, WINDOW_OF_A_BYTE).await;
    peer.call("Mint", 1).await;
    peer.say(1, &framed(&batch(vec![x509(1, "/a")]).encode_to_vec())).await;
    assert_eq!(peer.answer().await.len(), 1);
    eventually(|| stage.connections_ended() == 1, "the connection ends").await;
    stage.audited(&["turned away", FRONT_END, "it takes no answers: none for 300 ms"]).await;
}
