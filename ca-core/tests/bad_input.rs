//! What a person is told about each bad CSR and id: what is wrong, and what to do where that is not
//! plain.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use ca_core::csr::Csr;
use ca_core::id::{SpiffeId, TrustDomain, WorkloadId};

/// By file of the fuzz corpus.
const CSRS: [(&str, &str); 16] = [
    (
        "bad-algorithm-of-another-family",
        "signature algorithm sha256WithRSAEncryption does not go with a key of kind EC P-256; sign with ecdsa-with-SHA256",
    ),
    ("bad-empty", "CertificationRequest is cut short"),
    ("bad-extension-twice", "an extension is given twice"),
    ("bad-length-indefinite", "CertificationRequest has a length that is not minimal DER"),
    ("bad-length-not-minimal", "CertificationRequest has a length that is not minimal DER"),
    ("bad-name-not-ascii", "subject alternative name is not valid DER"),
    (
        "bad-p256-with-sha384",
        "signature algorithm ecdsa-with-SHA384 does not go with a key of kind EC P-256; sign with ecdsa-with-SHA256",
    ),
    ("bad-point-off-curve", "public key is not a point on its curve"),
    ("bad-rsa-1024", "RSA modulus has 1024 bits; 2048 to 4096 are accepted"),
    ("bad-rsa-16384", "RSA modulus has 16384 bits; 2048 to 4096 are accepted"),
    ("bad-rsa-exponent-1", "RSA exponent must be odd, at least 65537 and at most 33 bits"),
    (
        "bad-sha1",
        "signature algorithm is not supported; sign with ECDSA or RSA (PKCS#1 v1.5) and SHA-256, SHA-384 or (RSA) SHA-512, or with Ed25519",
    ),
    (
        "bad-signature-of-another-key",
        "signature does not verify with the key in the CSR; sign with its private half and send the bytes unchanged",
    ),
    ("bad-trailing", "CertificationRequest is followed by trailing bytes"),
    ("bad-truncated", "CertificationRequest is cut short"),
    ("bad-version", "version is not 0"),
];

#[test]
fn every_bad_csr_is_refused_with_its_reason() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/corpus/csr");
    let mut found = BTreeMap::new();
    for entry in fs::read_dir(folder).unwrap() {
        let entry = entry.unwrap();
        let name = entry.file_name().into_string().unwrap();
        if name.starts_with("bad-") {
            let der = fs::read(entry.path()).unwrap();
            let error = Csr::parse(&der).and_then(|csr| csr.verify()).unwrap_err();
            found.insert(name, error.to_string());
        }
    }
    let expected = CSRS.map(|(name, text)| (name.to_owned(), text.to_owned()));
    assert_eq!(found, BTreeMap::from(expected));
}

#[test]
fn every_bad_id_is_refused_with_its_reason() {
    let ours = TrustDomain::parse("example.org").unwrap();
    for (text, reason) in [
        ("spiffe://example.org:8080/a", "a port (':') is not allowed"),
        ("spiffe://example.org/a?", "a query ('?') is not allowed"),
        ("spiffe://example.org/a#", "a fragment ('#') is not allowed"),
        ("spiffe://example.org/%41", "percent-encoding is not allowed"),
        ("spiffe://Example.org/a", "trust domain must be lower case"),
        ("SPIFFE://example.org/a", "the scheme must be lower case: spiffe://"),
        ("spiffe://example.org/a/../b", "path has a segment '.' or '..'"),
        ("spiffe://example.org/a/", "path must not end with a slash"),
        (
            "spiffe://example.org/a b",
            "path has the character ' '; only letters, digits, '.', '-' and '_' are allowed",
        ),
        ("https://example.org/a", "it must start with spiffe://"),
    ] {
        let error = SpiffeId::parse(text).unwrap_err().to_string();
        assert_eq!(error, format!("\"{text}\" is not a SPIFFE ID: {reason}"));
    }
    let long = SpiffeId::parse(&format!("spiffe://example.org/{}", "a".repeat(2028))).unwrap_err();
    let end = "is not a SPIFFE ID: it has 2049 bytes; at most 2048 are allowed";
    assert!(long.to_string().ends_with(end), "{long}");
    for (text, reason) in [
        (
            "spiffe://other.test/a",
            "is in trust domain \"other.test\"; this server speaks for \"example.org\" only",
        ),
        ("spiffe://example.org", "has no path; a workload's SPIFFE ID needs one"),
        (
            "spiffe://example.org/spire/server",
            "is reserved: paths under /spire name servers and agents; choose another",
        ),
    ] {
        let id = SpiffeId::parse(text).unwrap();
        let error = WorkloadId::new(id, &ours).unwrap_err().to_string();
        assert_eq!(error, format!("\"{text}\" {reason}"));
    }
}
