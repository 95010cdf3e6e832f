//! Each message has, byte for byte, the encoding that its clients know.

use std::fmt::Debug;

use bytes::Bytes;
use mintmark_proto::admin::v1::{
    Authority, ClassRate, EnrollFrontEndRequest, EnrollFrontEndResponse, FrontEnd, FrontEndKey,
    FrontEndTerms, GetAuthoritiesResponse, GetFrontEndRequest, GetKeyRecordResponse,
    GetLogHeadResponse, KeyStore, ListFrontEndsRequest, ListFrontEndsResponse, Rate, RecordedKey,
    RetireKeyRequest, RetireKeyResponse, WithdrawFrontEndRequest, authority::State, recorded_key,
};
use mintmark_proto::spire::bundle::v1::*;
use mintmark_proto::spire::debug::v1::{GetInfoResponse, get_info_response::Cert};
use mintmark_proto::spire::logger::v1::SetLogLevelRequest;
use mintmark_proto::spire::svid::v1::*;
use mintmark_proto::spire::types::*;
use prost::Message;

/// A number or truth value below 128: key with wire type 0, then the value.
fn number(field: u8, value: u8) -> Vec<u8> {
    vec![field << 3, value]
}

/// Text, bytes or a message: key with wire type 2, length, content.
fn content(field: u8, content: &[u8]) -> Vec<u8> {
    [&[field << 3 | 2, u8::try_from(content.len()).expect("content is short")], content].concat()
}

/// Both ways: encoding gives the bytes, and the bytes give the message back.
#[track_caller]
fn pinned<M: Message + Default + PartialEq + Debug>(message: M, parts: &[Vec<u8>]) {
    let expected = parts.concat();
    assert_eq!(message.encode_to_vec(), expected);
    assert_eq!(M::decode(&expected[..]).expect("the bytes are a message"), message);
}

fn id() -> Spiffeid {
    Spiffeid { trust_domain: "td".into(), path: "/a".into() }
}

const ID: &[u8] = b"\x0a\x02td\x12\x02/a";

fn status() -> Status {
    Status { code: 5, message: "m".into() }
}

const STATUS: &[u8] = b"\x08\x05\x12\x01m";

fn x509_svid() -> X509svid {
    X509svid { expires_at: 9, ..X509svid::default() }
}

const X509_SVID: &[u8] = b"\x18\x09";

fn mask() -> BundleMask {
    BundleMask { x509_authorities: true, wit_authorities: true, ..BundleMask::default() }
}

const MASK: &[u8] = b"\x10\x01\x30\x01";

fn jwt_key() -> JwtKey {
    JwtKey {
        public_key: Bytes::from_static(b"k"),
        key_id: "i".into(),
        expires_at: 7,
        tainted: true,
    }
}

fn wit_key() -> WitKey {
    WitKey {
        public_key: Bytes::from_static(b"k"),
        key_id: "i".into(),
        expires_at: 7,
        tainted: true,
    }
}

/// `jwt_key()` and `wit_key()`: both have the same fields.
const KEY: &[u8] = b"\x0a\x01k\x12\x01i\x18\x07\x20\x01";

fn certificate() -> X509Certificate {
    X509Certificate { asn1: Bytes::from_static(b"c"), tainted: true }
}

const CERTIFICATE: &[u8] = b"\x0a\x01c\x10\x01";

fn bundle() -> Bundle {
    Bundle { trust_domain: "td".into(), ..Bundle::default() }
}

const BUNDLE: &[u8] = b"\x0a\x02td";

#[test]
fn types_keep_their_numbers() {
    pinned(id(), &[content(1, b"td"), content(2, b"/a")]);
    pinned(status(), &[number(1, 5), content(2, b"m")]);
    pinned(certificate(), &[content(1, b"c"), number(2, 1)]);
    pinned(jwt_key(), &[content(1, b"k"), content(2, b"i"), number(3, 7), number(4, 1)]);
    pinned(wit_key(), &[content(1, b"k"), content(2, b"i"), number(3, 7), number(4, 1)]);
    pinned(
        X509svid {
            cert_chain: vec![Bytes::from_static(b"leaf"), Bytes::from_static(b"ca")],
            id: Some(id()),
            expires_at: 9,
            hint: "h".into(),
        },
        &[content(1, b"leaf"), content(1, b"ca"), content(2, ID), number(3, 9), content(4, b"h")],
    );
    let token = [content(1, b"t"), content(2, ID), number(3, 9), number(4, 8), content(5, b"h")];
    let (expires_at, issued_at, hint) = (9, 8, String::from("h"));
    pinned(
        Jwtsvid { token: "t".into(), id: Some(id()), expires_at, issued_at, hint: hint.clone() },
        &token,
    );
    pinned(Witsvid { token: "t".into(), id: Some(id()), expires_at, issued_at, hint }, &token);
}

#[test]
fn bundles_and_masks_keep_their_numbers() {
    pinned(
        Bundle {
            trust_domain: "td".into(),
            x509_authorities: vec![certificate()],
            jwt_authorities: vec![jwt_key()],
            refresh_hint: 60,
            sequence_number: 4,
            wit_authorities: vec![wit_key()],
        },
        &[
            content(1, b"td"),
            content(2, CERTIFICATE),
            content(3, KEY),
            number(4, 60),
            number(5, 4),
            content(6, KEY),
        ],
    );
    let none = BundleMask::default();
    pinned(BundleMask { x509_authorities: true, ..none }, &[number(2, 1)]);
    pinned(BundleMask { jwt_authorities: true, ..none }, &[number(3, 1)]);
    pinned(BundleMask { refresh_hint: true, ..none }, &[number(4, 1)]);
    pinned(BundleMask { sequence_number: true, ..none }, &[number(5, 1)]);
    pinned(BundleMask { wit_authorities: true, ..none }, &[number(6, 1)]);
}

#[test]
fn svid_calls_keep_their_numbers() {
    let csr = Bytes::from_static(b"csr");
    let audience = vec![String::from("x"), String::from("y")];
    pinned(MintX509svidRequest { csr: csr.clone(), ttl: 60 }, &[content(1, b"csr"), number(2, 60)]);
    pinned(MintX509svidResponse { svid: Some(x509_svid()) }, &[content(1, X509_SVID)]);
    pinned(
        MintJwtsvidRequest { id: Some(id()), audience: audience.clone(), ttl: 60 },
        &[content(1, ID), content(2, b"x"), content(2, b"y"), number(3, 60)],
    );
    let token = Jwtsvid { token: "t".into(), ..Jwtsvid::default() };
    pinned(MintJwtsvidResponse { svid: Some(token.clone()) }, &[content(1, b"\x0a\x01t")]);
    pinned(
        MintWitsvidRequest {
            id: Some(id()),
            public_key: Bytes::from_static(b"k"),
            ttl: 60,
            signing_algorithm: "ES256".into(),
        },
        &[content(1, ID), content(2, b"k"), number(3, 60), content(4, b"ES256")],
    );
    pinned(
        NewX509svidParams { entry_id: "e".into(), csr: csr.clone() },
        &[content(1, b"e"), content(2, b"csr")],
    );
    pinned(
        BatchNewX509svidResponse {
            results: vec![batch_new_x509svid_response::Result {
                status: Some(status()),
                svid: Some(x509_svid()),
            }],
        },
        &[content(1, &[content(1, STATUS), content(2, X509_SVID)].concat())],
    );
    pinned(
        NewJwtsvidRequest { entry_id: "e".into(), audience },
        &[content(1, b"e"), content(2, b"x"), content(2, b"y")],
    );
    pinned(NewJwtsvidResponse { svid: Some(token) }, &[content(1, b"\x0a\x01t")]);
    pinned(
        NewWitsvidParams {
            entry_id: "e".into(),
            public_key: Bytes::from_static(b"k"),
            signing_algorithm: "ES256".into(),
        },
        &[content(1, b"e"), content(2, b"k"), content(3, b"ES256")],
    );
    pinned(
        NewDownstreamX509caRequest { csr, preferred_ttl: 60 },
        &[content(1, b"csr"), number(2, 60)],
    );
    pinned(
        NewDownstreamX509caResponse {
            ca_cert_chain: vec![Bytes::from_static(b"ca")],
            x509_authorities: vec![Bytes::from_static(b"root")],
        },
        &[content(1, b"ca"), content(2, b"root")],
    );
}

#[test]
fn bundle_calls_keep_their_numbers() {
    pinned(CountBundlesResponse { count: 1 }, &[number(1, 1)]);
    pinned(GetBundleRequest { output_mask: Some(mask()) }, &[content(1, MASK)]);
    pinned(
        AppendBundleRequest {
            x509_authorities: vec![certificate()],
            jwt_authorities: vec![jwt_key()],
            output_mask: Some(mask()),
            wit_authorities: vec![wit_key()],
        },
        &[content(1, CERTIFICATE), content(2, KEY), content(3, MASK), content(4, KEY)],
    );
    pinned(PublishJwtAuthorityRequest { jwt_authority: Some(jwt_key()) }, &[content(1, KEY)]);
    pinned(PublishJwtAuthorityResponse { jwt_authorities: vec![jwt_key()] }, &[content(1, KEY)]);
    pinned(
        ListFederatedBundlesRequest {
            output_mask: Some(mask()),
            page_size: 9,
            page_token: "p".into(),
        },
        &[content(1, MASK), number(2, 9), content(3, b"p")],
    );
    pinned(
        ListFederatedBundlesResponse { bundles: vec![bundle()], next_page_token: "p".into() },
        &[content(1, BUNDLE), content(2, b"p")],
    );
    pinned(
        GetFederatedBundleRequest { trust_domain: "td".into(), output_mask: Some(mask()) },
        &[content(1, b"td"), content(2, MASK)],
    );
    pinned(
        BatchUpdateFederatedBundleRequest {
            bundle: vec![bundle()],
            input_mask: Some(mask()),
            output_mask: Some(mask()),
        },
        &[content(1, BUNDLE), content(2, MASK), content(3, MASK)],
    );
    pinned(
        BatchSetFederatedBundleRequest { bundle: vec![bundle()], output_mask: Some(mask()) },
        &[content(1, BUNDLE), content(2, MASK)],
    );
    pinned(
        BatchDeleteFederatedBundleRequest { trust_domains: vec!["td".into()], mode: 2 },
        &[content(1, b"td"), number(2, 2)],
    );
    pinned(
        BatchDeleteFederatedBundleResponse {
            results: vec![batch_delete_federated_bundle_response::Result {
                status: Some(status()),
                trust_domain: "td".into(),
            }],
        },
        &[content(1, &[content(1, STATUS), content(2, b"td")].concat())],
    );
}

#[test]
fn debug_and_logger_keep_their_numbers() {
    pinned(
        GetInfoResponse {
            svid_chain: vec![Cert { id: Some(id()), expires_at: 9, subject: "s".into() }],
            uptime: 5,
            agents_count: 4,
            federated_bundles_count: 3,
            entries_count: 2,
        },
        &[
            content(1, &[content(1, ID), number(2, 9), content(3, b"s")].concat()),
            number(2, 5),
            number(3, 4),
            number(4, 3),
            number(5, 2),
        ],
    );
    pinned(SetLogLevelRequest { new_level: LogLevel::Debug.into() }, &[number(1, 6)]);
    pinned(
        Logger { current_level: LogLevel::Trace.into(), launch_level: LogLevel::Panic.into() },
        &[number(1, 7), number(2, 1)],
    );
    let levels = [
        LogLevel::Unspecified,
        LogLevel::Panic,
        LogLevel::Fatal,
        LogLevel::Error,
        LogLevel::Warn,
        LogLevel::Info,
        LogLevel::Debug,
        LogLevel::Trace,
    ];
    assert_eq!(levels.map(i32::from), [0, 1, 2, 3, 4, 5, 6, 7]);
}

#[test]
fn admin_keeps_its_numbers() {
    let authority = Authority {
        authority_id: "i".into(),
        state: State::Active.into(),
        key_name: "n".into(),
        key_algorithm: "a".into(),
        key_store: Some(KeyStore { kind: "pkcs11".into(), place: "p".into(), hardware: true }),
        not_after: 9,
    };
    let encoded = [
        content(1, b"i"),
        number(2, 2),
        content(3, b"n"),
        content(4, b"a"),
        content(5, b"\x0a\x06pkcs11\x12\x01p\x18\x01"),
        number(6, 9),
    ]
    .concat();
    pinned(
        GetAuthoritiesResponse {
            trust_domain: "td".into(),
            server_version: "v".into(),
            x509_authorities: vec![authority.clone()],
            jwt_authorities: vec![authority],
        },
        &[content(1, b"td"), content(2, b"v"), content(3, &encoded), content(4, &encoded)],
    );
}

#[test]
fn the_record_of_keys_keeps_its_numbers() {
    let key = RecordedKey {
        name: "n".into(),
        state: recorded_key::State::Retired.into(),
        public_key: b"p".as_slice().into(),
        authority_id: "i".into(),
        certificates_end: 8,
        retired_at: 9,
    };
    let encoded = [
        content(1, b"n"),
        number(2, 4),
        content(3, b"p"),
        content(4, b"i"),
        number(5, 8),
        number(6, 9),
    ]
    .concat();
    pinned(
        GetKeyRecordResponse {
            trust_domain: "td".into(),
            x509_generation: 2,
            jwt_generation: 3,
            keys: vec![key],
        },
        &[content(1, b"td"), number(2, 2), number(3, 3), content(4, &encoded)],
    );
    pinned(
        RetireKeyRequest { name: "n".into(), public_key: b"p".as_slice().into() },
        &[content(1, b"n"), content(2, b"p")],
    );
    pinned(RetireKeyResponse { certificates_end: 8 }, &[number(1, 8)]);
    pinned(
        GetLogHeadResponse { origin: "o".into(), verifier_key: "v".into(), checkpoint: "c".into() },
        &[content(1, b"o"), content(2, b"v"), content(3, b"c")],
    );
}

#[test]
fn the_front_ends_of_the_admin_service() {
    let rate = Rate { per_second: 5, burst: 6 };
    let rate_bytes = [number(1, 5), number(2, 6)].concat();
    let terms = FrontEndTerms {
        path_scopes: vec!["/a".into(), "/b".into()],
        dns_scopes: vec!["d".into()],
        allow_named: true,
        allow_downstream: true,
        allow_publish: true,
        allow_admin: true,
        require_csr: true,
        max_ttl_seconds: 9,
        key_types: vec!["k".into()],
        budget: Some(rate),
        class_budgets: vec![ClassRate { class: "bulk".into(), rate: Some(rate) }],
    };
    let terms_parts = [
        content(1, b"/a"),
        content(1, b"/b"),
        content(2, b"d"),
        number(3, 1),
        number(4, 1),
        number(5, 1),
        number(6, 1),
        number(7, 1),
        number(8, 9),
        content(9, b"k"),
        content(10, &rate_bytes),
        content(11, &[content(1, b"bulk"), content(2, &rate_bytes)].concat()),
    ];
    pinned(terms.clone(), &terms_parts);
    let key = FrontEndKey {
        sha256: b"f".as_slice().into(),
        serial: b"s".as_slice().into(),
        not_after: 3,
        enrolled_at: 4,
        renewed_from: b"r".as_slice().into(),
    };
    let key_parts =
        [content(1, b"f"), content(2, b"s"), number(3, 3), number(4, 4), content(5, b"r")];
    pinned(key.clone(), &key_parts);
    let front_end = FrontEnd {
        name: "n".into(),
        terms: Some(FrontEndTerms::default()),
        keys: vec![key],
        enrolled_at: 4,
        withdrawn_at: 5,
        revision: 6,
        spiffe_id: "i".into(),
    };
    let front_end_parts = [
        content(1, b"n"),
        content(2, b""),
        content(3, &key_parts.concat()),
        number(4, 4),
        number(5, 5),
        number(6, 6),
        content(7, b"i"),
    ];
    pinned(front_end.clone(), &front_end_parts);
    let front_end_bytes = front_end_parts.concat();

    let request = EnrollFrontEndRequest {
        name: "n".into(),
        csr: b"c".as_slice().into(),
        terms: Some(FrontEndTerms::default()),
        replace: true,
        again: true,
    };
    let parts = [content(1, b"n"), content(2, b"c"), content(3, b""), number(4, 1), number(5, 1)];
    pinned(request, &parts);
    let cert_chain = vec![b"a".as_slice().into(), b"b".as_slice().into()];
    pinned(
        EnrollFrontEndResponse { front_end: Some(front_end.clone()), cert_chain },
        &[content(1, &front_end_bytes), content(2, b"a"), content(2, b"b")],
    );
    pinned(ListFrontEndsRequest { after: "n".into() }, &[content(1, b"n")]);
    pinned(
        ListFrontEndsResponse { front_ends: vec![front_end], more: true },
        &[content(1, &front_end_bytes), number(2, 1)],
    );
    pinned(GetFrontEndRequest { name: "n".into() }, &[content(1, b"n")]);
    pinned(WithdrawFrontEndRequest { name: "n".into() }, &[content(1, b"n")]);
}

#[test]
fn a_token_is_never_in_debug_output() {
    let svid = Jwtsvid { token: "secret".into(), id: Some(id()), ..Jwtsvid::default() };
    let response = MintJwtsvidResponse { svid: Some(svid) };
    assert!(!format!("{response:?}").contains("secret"));
    let svid = Witsvid { token: "secret".into(), id: Some(id()), ..Witsvid::default() };
    assert!(!format!("{:?}", MintWitsvidResponse { svid: Some(svid) }).contains("secret"));
}
