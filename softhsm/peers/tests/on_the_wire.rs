//! The stand-in of AWS KMS as bytes on a connection: what no client of good manners would send.

#![expect(clippy::unwrap_used, reason = "a test: the message is the line")]

use std::io::{Read as _, Write as _};
use std::net::TcpStream;

use aws_lc_rs::digest::{SHA256, digest};
use aws_lc_rs::hmac::{self, HMAC_SHA256};
use peers::fake_kms::{FakeKms, Knobs, REGION};
use serde_json::{Value, json};

/// An answer.
#[derive(Debug)]
struct Answer {
    status: u16,
    head: String,
    body: String,
}

impl Answer {
    fn header(&self, name: &str) -> Option<&str> {
        let prefix = format!("{name}: ");
        self.head.lines().find_map(|line| line.strip_prefix(&*prefix))
    }

    fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap()
    }

    fn refusal(&self) -> String {
        let body = self.json();
        assert!(body["message"].is_string(), "{self:?}");
        assert_eq!(self.header("content-type"), Some("application/x-amz-json-1.1"));
        body["__type"].as_str().unwrap().to_owned()
    }
}

fn send(kms: &FakeKms, head: &str, body: &[u8]) -> Answer {
    let mut stream = TcpStream::connect(host(kms)).unwrap();
    let length = body.len();
    write!(stream, "{head}Content-Length: {length}\r\nConnection: close\r\n\r\n").unwrap();
    // A server that has refused the head reads no further.
    let _ = stream.write_all(body);
    let mut answer = String::new();
    let _ = stream.read_to_string(&mut answer);
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or_default();
    let status = head.split(' ').nth(1).unwrap_or("0").parse().unwrap();
    Answer { status, head: head.to_owned(), body: body.to_owned() }
}

fn host(kms: &FakeKms) -> String {
    kms.endpoint().trim_start_matches("http://").to_owned()
}

/// A request's headers by name, in order.
type Headers = Vec<(&'static str, String)>;

/// A request as a client of good manners signs it.
fn signed(kms: &FakeKms, operation: &str, body: &[u8]) -> Headers {
    let mut headers = vec![
        ("content-type", "application/x-amz-json-1.1".to_owned()),
        ("host", host(kms)),
        ("x-amz-date", date(kms)),
        ("x-amz-target", format!("TrentService.{operation}")),
    ];
    let names = headers.iter().map(|(name, _)| *name).collect::<Vec<_>>().join(";");
    let lines: String = headers.iter().map(|(name, value)| format!("{name}:{value}\n")).collect();
    let canonical = format!("POST\n/\n\n{lines}\n{names}\n{}", sha256(body));
    let date = headers[2].1.clone();
    let scope = format!("{}/{REGION}/kms/aws4_request", &date[..8]);
    let text = format!("AWS4-HMAC-SHA256\n{date}\n{scope}\n{}", sha256(canonical.as_bytes()));
    let mut key = format!("AWS4{}", kms.credentials().secret_access_key()).into_bytes();
    for part in scope.split('/').chain([&*text]) {
        key = hmac::sign(&hmac::Key::new(HMAC_SHA256, &key), part.as_bytes()).as_ref().to_vec();
    }
    let credential = format!("{}/{scope}", kms.credentials().access_key_id());
    headers.push((
        "authorization",
        format!(
            "AWS4-HMAC-SHA256 Credential={credential}, SignedHeaders={names}, Signature={}",
            hex(&key)
        ),
    ));
    headers
}

fn head(headers: &Headers) -> String {
    let lines = headers.iter().map(|(name, value)| format!("{name}: {value}\r\n"));
    format!("POST / HTTP/1.1\r\n{}", lines.collect::<String>())
}

fn call(kms: &FakeKms, operation: &str, body: &[u8]) -> Answer {
    send(kms, &head(&signed(kms, operation, body)), body)
}

/// The service's own clock (`Tue, 03 Nov 2026 08:09:10 GMT`), in the form that SigV4 has.
fn date(kms: &FakeKms) -> String {
    const MONTHS: &str = "JanFebMarAprMayJunJulAugSepOctNovDec";
    let answer = send(kms, &head(&vec![("host", host(kms))]), b"");
    let date = answer.header("date").unwrap();
    let parts: Vec<&str> = date.split(' ').collect();
    let month = MONTHS.find(parts[2]).unwrap() / 3 + 1;
    format!("{}{month:02}{}T{}Z", parts[3], parts[1], parts[4].replace(':', ""))
}

fn sha256(bytes: &[u8]) -> String {
    hex(digest(&SHA256, bytes).as_ref())
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn started() -> FakeKms {
    FakeKms::start(Knobs::default()).unwrap()
}

#[test]
fn an_answer_carries_a_request_id_and_its_media_type() {
    let kms = started();
    let answer = call(&kms, "ListKeys", b"{}");
    assert_eq!(answer.status, 200, "{answer:?}");
    assert_eq!(answer.json(), json!({ "Keys": [], "Truncated": false }));
    assert_eq!(answer.header("content-type"), Some("application/x-amz-json-1.1"));
    assert_eq!(answer.header("x-amzn-requestid").unwrap().len(), 36);
}

#[test]
fn a_request_changed_after_it_was_signed_is_refused() {
    let kms = started();
    let change = |index: usize, value: &str| {
        let mut headers = signed(&kms, "ListKeys", b"{}");
        headers[index].1 = value.to_owned();
        send(&kms, &head(&headers), b"{}").refusal()
    };
    assert_eq!(change(0, "application/json"), "InvalidSignatureException");
    assert_eq!(change(1, "elsewhere.test"), "InvalidSignatureException");
    assert_eq!(change(3, "TrentService.ListAliases"), "InvalidSignatureException");
    let headers = signed(&kms, "ListKeys", b"{}");
    let other_body = send(&kms, &head(&headers), br#"{"Limit": 1}"#);
    assert_eq!((other_body.status, &*other_body.refusal()), (400, "InvalidSignatureException"));
}

#[test]
fn a_request_without_a_whole_signature_is_refused() {
    let kms = started();
    let without = |change: &dyn Fn(&mut Headers)| {
        let mut headers = signed(&kms, "ListKeys", b"{}");
        change(&mut headers);
        send(&kms, &head(&headers), b"{}").refusal()
    };
    let replace = |from: &'static str, to: &'static str| {
        without(&move |headers| headers[4].1 = headers[4].1.replace(from, to))
    };
    assert_eq!(without(&|headers| drop(headers.pop())), "MissingAuthenticationTokenException");
    assert_eq!(without(&|headers| drop(headers.remove(2))), "IncompleteSignatureException");
    assert_eq!(replace("AWS4-HMAC-SHA256 ", "Bearer "), "IncompleteSignatureException");
    assert_eq!(replace("Signature=", "Other="), "IncompleteSignatureException");
    assert_eq!(replace("/aws4_request", ""), "IncompleteSignatureException");
    assert_eq!(replace("/kms/", "/sts/"), "InvalidSignatureException");
    assert_eq!(replace(REGION, "us-east-1"), "InvalidSignatureException");
    assert_eq!(replace(";x-amz-target", ""), "InvalidSignatureException");
    assert_eq!(replace(";host", ";absent"), "InvalidSignatureException");
    assert_eq!(replace("Signature=", "Signature=0"), "InvalidSignatureException");
    let token = |headers: &mut Headers| headers.push(("x-amz-security-token", "a".into()));
    assert_eq!(without(&token), "UnrecognizedClientException");
}

#[test]
fn what_is_no_request_of_the_api_is_refused() {
    let kms = started();
    assert_eq!(call(&kms, "Encrypt", b"{}").refusal(), "UnknownOperationException");
    assert_eq!(call(&kms, "ListKeys", b"{").refusal(), "SerializationException");
    assert_eq!(call(&kms, "ListKeys", b"\xff").refusal(), "SerializationException");
    assert_eq!(call(&kms, "DescribeKey", b"{}").refusal(), "ValidationException");
    let no_base64 = br#"{"KeyId": "a", "Message": "!", "SigningAlgorithm": "ECDSA_SHA_256"}"#;
    assert_eq!(call(&kms, "Sign", no_base64).refusal(), "SerializationException");
    let large = vec![b' '; 1 << 20];
    assert_eq!(call(&kms, "ListKeys", &large).status, 0, "a request without end is not read");
    assert_eq!(call(&kms, "ListKeys", b"{}").status, 200, "and harms no other");
}
