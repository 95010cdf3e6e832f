//! The bytes of each message between front end and signer, written out: what one release sends, every other reads.

use std::fmt::Debug;

use bytes::Bytes;
use mintmark_proto::control::v1::*;
use mintmark_proto::signing::v1::*;
use prost::Message;

/// The bytes of hexadecimal digits, spaces between them.
fn hex(text: &str) -> Vec<u8> {
    let digits: Vec<u8> = text.bytes().filter(u8::is_ascii_hexdigit).collect();
    assert!(text.bytes().all(|byte| byte == b' ' || byte.is_ascii_hexdigit()), "{text}");
    assert!(digits.len().is_multiple_of(2), "{text}");
    let value = |digit: u8| char::from(digit).to_digit(16).expect("a digit") as u8;
    digits.chunks(2).map(|pair| value(pair[0]) << 4 | value(pair[1])).collect()
}

/// A field with a number that no release has given away yet: 1,000, the bytes "later".
const LATER: &str = "c23e 05 6c61746572";

/// Both ways: encoding gives the bytes, and the bytes give the message back, also with a field more.
#[track_caller]
fn golden<M: Message + Default + PartialEq + Debug>(message: M, parts: &[&str]) {
    let expected = hex(&parts.concat());
    assert_eq!(message.encode_to_vec(), expected);
    let decoded = |bytes: &[u8]| M::decode(bytes).expect("the bytes are a message");
    assert_eq!(decoded(&expected), message);
    assert_eq!(decoded(&[expected, hex(LATER)].concat()), message, "a field that is not known");
}

fn text(text: &'static str) -> Bytes {
    Bytes::from_static(text.as_bytes())
}

fn x509_item(key: x509_item::Key, subject: x509_item::Subject) -> X509Item {
    let priority = Priority::Expiring.into();
    X509Item {
        request_id: 300,
        deadline_ms: 1000,
        priority,
        key: Some(key),
        subject: Some(subject),
    }
}

/// `x509_item` of SPKI "k" and the name below.
const X509_ITEM: &[&str] = &[
    "08 ac02",        // 1 request_id: 300
    "10 e807",        // 2 deadline_ms: 1000
    "18 01",          // 3 priority: expiring
    "22 01 6b",       // 4 spki: "k"
    "32 0d",          // 6 named
    "  0a 02 2f61",   //   1 path: "/a"
    "  12 03 642e65", // 2 dns_names: "d.e"
    "  18 3c",        //     3 ttl_seconds: 60
    "  20 01",        //     4 profile: workload
];

fn named() -> NamedX509 {
    NamedX509 {
        path: "/a".into(),
        dns_names: vec!["d.e".into()],
        ttl_seconds: 60,
        profile: Profile::Workload.into(),
    }
}

fn entry() -> Entry {
    Entry { agent_path: "/n".into(), entry_id: "e".into() }
}

#[test]
fn an_item_of_a_key_and_a_name_has_these_bytes() {
    let item = x509_item(x509_item::Key::Spki(text("k")), x509_item::Subject::Named(named()));
    golden(item, X509_ITEM);
}

#[test]
fn an_item_of_a_csr_and_an_entry_has_these_bytes() {
    let item = x509_item(x509_item::Key::Csr(text("c")), x509_item::Subject::Entry(entry()));
    golden(
        item,
        &[
            "08 ac02",      // 1 request_id: 300
            "10 e807",      // 2 deadline_ms: 1000
            "18 01",        // 3 priority: expiring
            "2a 01 63",     // 5 csr: "c"
            "3a 07",        // 7 entry
            "  0a 02 2f6e", // 1 agent_path: "/n"
            "  12 01 65",   // 2 entry_id: "e"
        ],
    );
}

#[test]
fn an_item_of_a_token_has_these_bytes() {
    let item = |subject| JwtItem {
        request_id: 1,
        deadline_ms: 2,
        priority: Priority::Bulk.into(),
        audience: vec!["x".into(), "y".into()],
        subject: Some(subject),
    };
    let head = [
        "08 01",    // 1 request_id: 1
        "10 02",    // 2 deadline_ms: 2
        "18 04",    // 3 priority: bulk
        "22 01 78", // 4 audience: "x"
        "22 01 79", //             "y"
    ]
    .concat();
    let named = NamedJwt { path: "/a".into(), ttl_seconds: 60 };
    golden(
        item(jwt_item::Subject::Named(named)),
        &[
            &head,
            "32 06",        // 6 named
            "  0a 02 2f61", //   1 path: "/a"
            "  18 3c",      //   3 ttl_seconds: 60
        ],
    );
    golden(item(jwt_item::Subject::Entry(entry())), &[&head, "3a 07", "0a 02 2f6e", "12 01 65"]);
}

#[test]
fn a_request_has_these_bytes() {
    let item = x509_item(x509_item::Key::Spki(text("k")), x509_item::Subject::Named(named()));
    let jwt = JwtItem { request_id: 7, ..JwtItem::default() };
    golden(
        MintRequest { x509: vec![item], jwt: vec![jwt], least_version: 2, instance_id: "i".into() },
        &[
            "0a 1a", // 1 x509
            &X509_ITEM.concat(),
            "12 02",    // 2 jwt
            "  08 07",  //   1 request_id: 7
            "70 02",    // 14 least_version: 2
            "7a 01 69", // 15 instance_id: "i"
        ],
    );
}

#[test]
fn an_answer_has_these_bytes() {
    let failure =
        Failure { code: failure::Code::Overload.into(), text: "t".into(), retry_after_ms: 250 };
    let x509 = |request_id, outcome| X509Result { request_id, outcome: Some(outcome) };
    let jwt = |request_id, outcome| JwtResult { request_id, outcome: Some(outcome) };
    let svid = X509Svid { leaf: text("l"), expires_at: 9 };
    let token = JwtSvid { token: "t".into(), expires_at: 9, issued_at: 8 };
    golden(
        MintResponse {
            x509: vec![
                x509(1, x509_result::Outcome::Svid(svid)),
                x509(2, x509_result::Outcome::Failure(failure.clone())),
            ],
            jwt: vec![
                jwt(3, jwt_result::Outcome::Svid(token)),
                jwt(4, jwt_result::Outcome::Failure(failure)),
            ],
            intermediates: vec![text("ca")],
        },
        &[
            "0a 09",                      // 1 x509
            "  08 01",                    //   1 request_id: 1
            "  12 05",                    //   2 svid
            "    0a 01 6c",               //     1 leaf: "l"
            "    10 09",                  //     2 expires_at: 9
            "0a 0c",                      // 1 x509
            "  08 02",                    //   1 request_id: 2
            "  1a 08",                    //   3 failure
            "    08 04",                  //     1 code: overload
            "    12 01 74",               //     2 text: "t"
            "    18 fa01",                //     3 retry_after_ms: 250
            "12 0b",                      // 2 jwt
            "  08 03",                    //   1 request_id: 3
            "  12 07",                    //   2 svid
            "    0a 01 74",               //     1 token: "t"
            "    10 09",                  //     2 expires_at: 9
            "    18 08",                  //     3 issued_at: 8
            "12 0c",                      // 2 jwt
            "  08 04",                    //   1 request_id: 4
            "  1a 08 0804 120174 18fa01", // 3 failure
            "22 02 6361",                 // 4 intermediates: "ca"
        ],
    );
}

#[test]
fn what_is_followed_has_these_bytes() {
    golden(FollowRequest { instance_id: "i".into() }, &["7a 01 69"]);
    let event = |event| FollowResponse { event: Some(event) };
    let x509 = X509Authority { certificate: text("c"), tainted: true };
    let jwt =
        JwtAuthority { key_id: "k".into(), public_key: text("p"), expires_at: 9, tainted: true };
    golden(
        event(follow_response::Event::Bundle(Bundle {
            trust_domain: "td".into(),
            sequence: 4,
            refresh_hint_seconds: 60,
            x509_authorities: vec![x509],
            jwt_authorities: vec![jwt],
        })),
        &[
            "0a 1b",        // 1 bundle
            "  0a 02 7464", //   1 trust_domain: "td"
            "  10 04",      //   2 sequence: 4
            "  18 3c",      //   3 refresh_hint_seconds: 60
            "  22 05",      //   4 x509_authorities
            "    0a 01 63", //     1 certificate: "c"
            "    10 01",    //     2 tainted
            "  2a 0a",      //   5 jwt_authorities
            "    0a 01 6b", //     1 key_id: "k"
            "    12 01 70", //     2 public_key: "p"
            "    18 09",    //     3 expires_at: 9
            "    20 01",    //     4 tainted
        ],
    );
    golden(
        event(follow_response::Event::Authorities(Authorities {
            x509_authority_id: "a".into(),
            issuing_key_id: "b".into(),
            jwt_authority_id: "c".into(),
        })),
        &["12 09", "0a 01 61", "12 01 62", "1a 01 63"], // 2 authorities: 1, 2, 3
    );
    golden(event(follow_response::Event::SnapshotEnd(SnapshotEnd {})), &["1a 00"]);
}

#[test]
fn an_event_of_a_later_release_is_none_of_those_that_are_known() {
    let later = FollowResponse::decode(&hex("22 03 0a 01 61")[..]).expect("a message");
    assert_eq!(later, FollowResponse { event: None });
}

#[test]
fn values_that_are_not_known_are_kept_as_numbers() {
    let item = X509Item::decode(&hex("18 63")[..]).expect("a message");
    assert_eq!(item.priority, 99);
    assert!(Priority::try_from(item.priority).is_err());
}

#[test]
fn what_is_asked_beside_minting_has_these_bytes() {
    let chain = Some(Chain { certificates: vec![text("c")] });
    let selector = Selector { r#type: "t".into(), value: "v".into() };
    golden(
        AttestNodeRequest {
            method: "m".into(),
            agent_path: "/n".into(),
            selectors: vec![selector],
            reattestable: true,
            csr: text("c"),
            evidence: text("e"),
        },
        &["0a 01 6d", "12 02 2f6e", "1a 06 0a0174 120176", "20 01", "2a 01 63", "32 01 65"],
    );
    golden(AttestNodeResponse { chain: chain.clone() }, &["0a 03 0a0163"]);
    golden(
        RenewNodeRequest { agent_path: "/n".into(), certificate: text("x"), csr: text("c") },
        &["0a 02 2f6e", "12 01 78", "1a 01 63"],
    );
    golden(RenewNodeResponse { chain: chain.clone() }, &["0a 03 0a0163"]);
    golden(
        PromoteNodeRequest { agent_path: "/n".into(), serial_number: text("s") },
        &["0a 02 2f6e", "12 01 73"],
    );
    golden(PromoteNodeResponse {}, &[]);
    golden(RedeemJoinTokenRequest { token: "t".into() }, &["0a 01 74"]);
    golden(RedeemJoinTokenResponse { agent_path: "/n".into() }, &["0a 02 2f6e"]);
    golden(
        PublishJwtAuthorityRequest {
            server_path: "/s".into(),
            key_id: "k".into(),
            public_key: text("p"),
            expires_at: 9,
            proof: text("f"),
            ca_certificate: text("c"),
        },
        &["0a 02 2f73", "12 01 6b", "1a 01 70", "20 09", "2a 01 66", "32 01 63"],
    );
    golden(PublishJwtAuthorityResponse { bundle_sequence: 4 }, &["08 04"]);
    golden(RenewFrontEndRequest { csr: text("c") }, &["0a 01 63"]);
    golden(RenewFrontEndResponse { chain }, &["0a 03 0a0163"]);
    golden(
        ReportRequest {
            instance_id: "i".into(),
            version: "v".into(),
            bundle_sequence: 4,
            agents: 2,
        },
        &["0a 01 69", "12 01 76", "18 04", "20 02"],
    );
    golden(
        ReportResponse { next_within_ms: 5, passed_over_after_ms: 6, bundle_sequence: 4 },
        &["08 05", "10 06", "18 04"],
    );
}

#[test]
fn a_secret_is_not_shown() {
    let token = JwtSvid { token: "hidden".into(), ..JwtSvid::default() };
    let redeem = RedeemJoinTokenRequest { token: "hidden".into() };
    assert!(!format!("{token:?}{redeem:?}").contains("hidden"));
}
