//! What is counted in the bytes of a message is what decoding it makes, and bounds the memory that this takes.

use std::mem::size_of;

use mintmark_proto::bounds::{Bounded as _, MOST_ITEMS, MOST_NAMES};
use mintmark_proto::signing::v1::{JwtItem, MintRequest, NamedX509, X509Item, x509_item};
use prost::Message as _;

const LARGEST_MESSAGE: usize = 1 << 20;

fn with_names(dns_names: Vec<String>) -> X509Item {
    let named = NamedX509 { dns_names, ..NamedX509::default() };
    X509Item { subject: Some(x509_item::Subject::Named(named)), ..X509Item::default() }
}

fn empty(count: usize) -> Vec<String> {
    vec![String::new(); count]
}

/// What the signer says of the encoded message.
fn refusal(message: &MintRequest) -> Option<String> {
    MintRequest::check(&message.encode_to_vec()).err().map(|status| status.message().to_owned())
}

/// The memory that a decoded message has taken, beside the buffer that it came in, which keys and CSRs point into.
fn memory(message: &MintRequest) -> usize {
    let texts = |texts: &Vec<String>| {
        texts.capacity() * size_of::<String>() + texts.iter().map(String::capacity).sum::<usize>()
    };
    let x509 = message.x509.iter().map(|item| match &item.subject {
        Some(x509_item::Subject::Named(named)) => named.path.capacity() + texts(&named.dns_names),
        _ => 0,
    });
    let jwt = message.jwt.iter().map(|item| texts(&item.audience));
    message.x509.capacity() * size_of::<X509Item>()
        + message.jwt.capacity() * size_of::<JwtItem>()
        + x509.sum::<usize>()
        + jwt.sum::<usize>()
}

#[test]
fn items_of_both_kinds_are_counted_together() {
    let half = MOST_ITEMS / 2;
    let of = |x509, jwt| MintRequest {
        x509: vec![X509Item::default(); x509],
        jwt: vec![JwtItem::default(); jwt],
        ..MintRequest::default()
    };
    assert_eq!(refusal(&of(half, half)), None);
    for (x509, jwt) in [(half, half + 1), (0, MOST_ITEMS + 1), (MOST_ITEMS + 1, 0)] {
        let text = refusal(&of(x509, jwt)).expect("one too many");
        assert!(text.contains("1025 items"), "{text}");
    }
}

#[test]
fn names_of_all_items_are_counted_together() {
    let of = |dns_names, audience| MintRequest {
        x509: vec![with_names(empty(dns_names)), with_names(empty(5))],
        jwt: vec![JwtItem { audience: empty(audience), ..JwtItem::default() }],
        ..MintRequest::default()
    };
    assert_eq!(refusal(&of(MOST_NAMES - 15, 10)), None);
    for (dns_names, audience) in [(MOST_NAMES - 14, 10), (MOST_NAMES - 15, 11)] {
        let text = refusal(&of(dns_names, audience)).expect("one too many");
        assert!(text.contains("16385 DNS names and audiences"), "{text}");
    }
}

#[test]
fn names_of_a_field_that_comes_many_times_are_counted_too() {
    let once = with_names(empty(1)).encode_to_vec();
    let item = once.repeat(MOST_NAMES + 1);
    assert_eq!(X509Item::decode(&item[..]), Ok(with_names(empty(MOST_NAMES + 1))), "merged");
    let mut message = Vec::new();
    prost::encoding::bytes::encode(1, &item, &mut message);
    assert!(MintRequest::check(&message).is_err());
}

#[test]
fn half_a_million_empty_items_are_refused_unread() {
    let message = [0x0a, 0].repeat(LARGEST_MESSAGE / 2);
    let decoded = MintRequest::decode(&message[..]).expect("it is a message");
    assert!(memory(&decoded) > 40 * message.len(), "{} bytes", memory(&decoded));
    assert!(MintRequest::check(&message).is_err());
}

#[test]
fn a_message_that_may_be_takes_four_times_its_bytes_at_most() {
    let mut names = MintRequest {
        x509: vec![with_names(empty(MOST_NAMES / MOST_ITEMS)); MOST_ITEMS],
        ..MintRequest::default()
    };
    let short = vec!["a".to_owned(); MOST_NAMES];
    let long = vec!["a.example.org".to_owned(); MOST_NAMES];
    let of_jwt = |audience| MintRequest {
        jwt: vec![JwtItem { audience, ..JwtItem::default() }],
        ..MintRequest::default()
    };
    let path = "/a".repeat((LARGEST_MESSAGE - names.encoded_len()) / 2 - 8);
    if let Some(x509_item::Subject::Named(named)) = &mut names.x509[0].subject {
        named.path = path;
    }
    for message in [names, of_jwt(short), of_jwt(long)] {
        assert_eq!(refusal(&message), None);
        let bytes = message.encode_to_vec();
        assert!(bytes.len() <= LARGEST_MESSAGE);
        let taken = memory(&MintRequest::decode(&bytes[..]).expect("it is a message"));
        // Small ones may take more than four times, and stay small.
        assert!(taken <= 4 * bytes.len().max(LARGEST_MESSAGE / 4), "{taken} of {}", bytes.len());
    }
}

#[test]
fn what_is_no_message_is_left_to_the_decoder() {
    for bytes in [&b"\x0a"[..], b"\x0a\x05\x08", b"\x0a\xff\xff\xff\xff\xff", b"\xff\xff", b"\x0c"]
    {
        assert!(MintRequest::check(bytes).is_ok() && MintRequest::decode(bytes).is_err());
    }
}
