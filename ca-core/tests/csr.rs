//! CSRs as other people's programs make them, and as an enemy would.

use ca_core::csr::Csr;
use ca_core::key::KeyKind;

/// Made by `openssl req` 3.0, subject `C=US, O=Acme, CN=web.example.test`, one URI and one DNS name.
const OPENSSL: [(&[u8], KeyKind); 5] = [
    (include_bytes!("corpus/csr/openssl-p256.der"), KeyKind::EcP256),
    (include_bytes!("corpus/csr/openssl-p384.der"), KeyKind::EcP384),
    (include_bytes!("corpus/csr/openssl-rsa2048.der"), KeyKind::Rsa { bits: 2048 }),
    (include_bytes!("corpus/csr/openssl-rsa4096.der"), KeyKind::Rsa { bits: 4096 }),
    (include_bytes!("corpus/csr/openssl-ed25519.der"), KeyKind::Ed25519),
];

#[test]
fn requests_of_openssl_are_read_and_verified() {
    for (der, kind) in OPENSSL {
        let csr = Csr::parse(der).unwrap().verify().unwrap();
        assert_eq!(csr.key.public_key().kind(), kind);
        assert_eq!(csr.requested.uris, ["spiffe://example.test/web"]);
        assert_eq!(csr.requested.dns_names, ["web.example.test"]);
        assert!(!csr.requested.ca && !csr.requested.other_names);
        let subject = csr.requested.subject().unwrap();
        assert_eq!(subject.to_string(), "CN=web.example.test,O=Acme,C=US");
    }
}
