//! CSRs as other people's programs make them, as an enemy would, and as we make them ourselves.

#![expect(clippy::unwrap_used, reason = "a test states what it expects by unwrapping")]

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::KeySize;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_ASN1_SIGNING, ECDSA_P384_SHA384_ASN1_SIGNING, EcdsaKeyPair,
    EcdsaSigningAlgorithm, Ed25519KeyPair, KeyPair, RSA_PKCS1_SHA256, RSA_PKCS1_SHA384,
    RSA_PKCS1_SHA512, RsaEncoding, RsaKeyPair,
};
use ca_core::csr::{Csr, CsrError, Malformed, Request, RequestAlgorithm};
use ca_core::der::{DerError, encode, tag};
use ca_core::id::SpiffeId;
use ca_core::key::{KeyKind, PublicKey, PublicKeyError, Signature, SignatureAlgorithm};
use ca_core::name::{Attribute, Name};
use proptest::prelude::*;
use x509_cert::der::{Decode, Encode};

// ---- what other programs make ----

/// Each for one URI and one DNS name, subject `C=US, O=Acme, CN=web.example.test`: by `openssl req` 3.0,
/// Go 1.26, Python's `cryptography` 48 and Java's `keytool` 17.
const GOOD: [(&[u8], KeyKind); 13] = [
    (include_bytes!("corpus/csr/openssl-p256.der"), KeyKind::EcP256),
    (include_bytes!("corpus/csr/openssl-p384.der"), KeyKind::EcP384), // with SHA-256, its default
    (include_bytes!("corpus/csr/openssl-p384-sha384.der"), KeyKind::EcP384),
    (include_bytes!("corpus/csr/openssl-rsa2048.der"), KeyKind::Rsa { bits: 2048 }),
    (include_bytes!("corpus/csr/openssl-rsa4096.der"), KeyKind::Rsa { bits: 4096 }),
    (include_bytes!("corpus/csr/openssl-ed25519.der"), KeyKind::Ed25519),
    (include_bytes!("corpus/csr/go-p256.der"), KeyKind::EcP256),
    (include_bytes!("corpus/csr/go-p384.der"), KeyKind::EcP384),
    (include_bytes!("corpus/csr/go-rsa2048.der"), KeyKind::Rsa { bits: 2048 }),
    (include_bytes!("corpus/csr/go-ed25519.der"), KeyKind::Ed25519),
    (include_bytes!("corpus/csr/python-p256.der"), KeyKind::EcP256),
    (include_bytes!("corpus/csr/python-rsa3072-sha512.der"), KeyKind::Rsa { bits: 3072 }),
    (include_bytes!("corpus/csr/keytool-p256.der"), KeyKind::EcP256),
];

#[test]
fn requests_of_other_programs_are_read_and_verified() {
    for (der, kind) in GOOD {
        let csr = Csr::parse(der).unwrap().verify().unwrap();
        assert_eq!(csr.key.public_key().kind(), kind);
        assert_eq!(csr.requested.uris, ["spiffe://example.test/web"]);
        assert_eq!(csr.requested.dns_names, ["web.example.test"]);
        assert!(!csr.requested.ca && !csr.requested.other_names);
        let subject = csr.requested.subject().unwrap();
        assert_eq!(subject.to_string(), "CN=web.example.test,O=Acme,C=US");
    }
}

/// Go leaves the attributes empty then; SPIRE's agents ask like this.
#[test]
fn a_request_for_nothing_but_a_key_is_verified() {
    let bare = include_bytes!("corpus/csr/go-bare.der");
    let requested = Csr::parse(bare).unwrap().verify().unwrap().requested;
    assert_eq!(requested.subject().unwrap(), Name::empty());
    assert!(requested.uris.is_empty() && requested.dns_names.is_empty());
}

#[test]
fn requests_of_rcgen_are_read_and_verified() {
    for (algorithm, kind) in [
        (&rcgen::PKCS_ECDSA_P256_SHA256, KeyKind::EcP256),
        (&rcgen::PKCS_ECDSA_P384_SHA384, KeyKind::EcP384),
        (&rcgen::PKCS_ED25519, KeyKind::Ed25519),
    ] {
        let key = rcgen::KeyPair::generate_for(algorithm).unwrap();
        let mut params =
            rcgen::CertificateParams::new(vec!["web.example.test".to_owned()]).unwrap();
        params
            .subject_alt_names
            .push(rcgen::SanType::URI("spiffe://example.test/web".try_into().unwrap()));
        params.subject_alt_names.push(rcgen::SanType::IpAddress([192, 0, 2, 1].into()));
        let request = params.serialize_request(&key).unwrap();
        let csr = Csr::parse(request.der()).unwrap().verify().unwrap();
        assert_eq!(csr.key.public_key().kind(), kind);
        assert_eq!(csr.requested.uris, ["spiffe://example.test/web"]);
        assert_eq!(csr.requested.dns_names, ["web.example.test"]);
        assert!(csr.requested.other_names);
    }
}

#[test]
fn every_algorithm_that_goes_with_a_key_is_verified() {
    let rsa = Rsa::new();
    for draft in [
        Ec::new(&ECDSA_P256_SHA256_ASN1_SIGNING).signs(2),
        Ec::new(&ECDSA_P384_SHA384_ASN1_SIGNING).signs(3),
        rsa.signs(&RSA_PKCS1_SHA256, 11),
        rsa.signs(&RSA_PKCS1_SHA384, 12),
        rsa.signs(&RSA_PKCS1_SHA512, 13),
    ] {
        assert_eq!(draft.outcome(), Ok(()));
    }
    // RFC 4055 §5: the parameters may be absent, though they should not be.
    let mut bare = rsa.signs(&RSA_PKCS1_SHA256, 11);
    bare.algorithm = encode(tag::SEQUENCE, &[&encode(tag::OID, &[RSA_ENCRYPTION, &[11]])]);
    assert_eq!(bare.outcome(), Ok(()));
}

// ---- what an enemy makes ----

#[test]
fn a_request_cut_anywhere_is_malformed() {
    for (der, _) in GOOD {
        for end in 0..der.len() {
            let error = Csr::parse(&der[..end]).unwrap_err();
            assert!(matches!(error, CsrError::Malformed(Malformed::Der(_))), "{end}: {error}");
        }
    }
}

#[test]
fn a_request_with_any_bit_changed_is_refused() {
    for (der, kind) in GOOD {
        // One bit of each byte of the long ones: each try is a signature verification.
        let bits: &[u8] = if kind == KeyKind::EcP256 { &[0, 1, 2, 3, 4, 5, 6, 7] } else { &[3] };
        for at in 0..der.len() {
            for bit in bits {
                let mut changed = der.to_vec();
                changed[at] ^= 1 << bit;
                let outcome = Csr::parse(&changed).and_then(|csr| csr.verify());
                assert!(outcome.is_err(), "{kind}: bit {bit} of byte {at}");
            }
        }
    }
}

#[test]
fn trailing_bytes_are_refused_wherever_they_are() {
    let good = GOOD[0].0;
    let trailing = |der: &[u8]| Csr::parse(der).map(|_| ()).map_err(|error| error.to_string());
    assert_eq!(
        trailing(&[good, &[0]].concat()),
        Err("CertificationRequest is followed by trailing bytes".to_owned())
    );
    let mut draft = draft();
    draft.attributes.extend_from_slice(&[5, 0]);
    assert_eq!(
        trailing(&draft.der()),
        Err("CertificationRequestInfo is followed by trailing bytes".to_owned())
    );
}

#[test]
fn lengths_and_numbers_that_are_not_minimal_are_refused() {
    let good = GOOD[0].0;
    assert_eq!(good[..2], [0x30, 0x82]);
    let padded = [&[0x30, 0x83, 0], &good[2..]].concat();
    assert_eq!(refusal(&padded), malformed(DerError::Length("CertificationRequest")));
    let indefinite = [&[0x30, 0x80], &good[4..], &[0, 0]].concat();
    assert_eq!(refusal(&indefinite), malformed(DerError::Length("CertificationRequest")));
    let mut version = draft();
    version.version = vec![2, 2, 0, 0];
    assert_eq!(version.outcome(), Err(malformed(DerError::Value("version"))));
}

#[test]
fn another_version_is_refused() {
    let mut draft = draft();
    draft.version = vec![2, 1, 2];
    assert_eq!(draft.outcome(), Err(CsrError::Malformed(Malformed::Version)));
}

#[test]
fn a_signature_by_another_key_or_over_other_bytes_is_refused() {
    let mut other_key = draft();
    other_key.spki = Ec::new(&ECDSA_P256_SHA256_ASN1_SIGNING).spki();
    assert_eq!(other_key.outcome(), Err(CsrError::Signature));
    for signature in [vec![], vec![0], vec![0; 64], vec![0x30, 6, 2, 1, 0, 2, 1, 0]] {
        let draft = draft();
        assert_eq!(refusal(&draft.assemble(&signature)), CsrError::Signature);
    }
}

/// The certificate would carry the key as it is, so this is refused and not relabelled.
#[test]
fn a_p256_key_signed_with_sha384_is_refused() {
    assert_eq!(
        refusal(include_bytes!("corpus/csr/openssl-p256-sha384.der")),
        CsrError::Algorithm {
            key: KeyKind::EcP256,
            algorithm: RequestAlgorithm::EcdsaSha384,
            usual: RequestAlgorithm::EcdsaSha256,
        }
    );
}

#[test]
fn a_signature_algorithm_of_another_family_is_refused() {
    let ec = |number: u8| encode(tag::SEQUENCE, &[&encode(tag::OID, &[ECDSA_WITH, &[number]])]);
    let rsa = rsa_algorithm;
    let ed25519 = SignatureAlgorithm::Ed25519.identifier().to_vec();
    let (p256, p384) = (&ECDSA_P256_SHA256_ASN1_SIGNING, &ECDSA_P384_SHA384_ASN1_SIGNING);
    let rsa_key = || Rsa::new().signs(&RSA_PKCS1_SHA256, 11);
    for (draft, identifier, algorithm) in [
        (Ec::new(p256).signs(2), rsa(11), RequestAlgorithm::RsaSha256),
        (Ec::new(p256).signs(2), ec(4), RequestAlgorithm::EcdsaSha512),
        (Ec::new(p256).signs(2), ed25519.clone(), RequestAlgorithm::Ed25519),
        (Ec::new(p384).signs(3), ec(4), RequestAlgorithm::EcdsaSha512),
        (rsa_key(), ec(2), RequestAlgorithm::EcdsaSha256),
        (rsa_key(), ed25519, RequestAlgorithm::Ed25519),
    ] {
        let draft = Draft { algorithm: identifier, ..draft };
        let refused = draft.outcome();
        let Err(CsrError::Algorithm { key, algorithm: found, .. }) = refused else {
            panic!("{algorithm}: {refused:?}");
        };
        assert_eq!(key, PublicKey::from_spki(&draft.spki).unwrap().kind());
        assert_eq!(found, algorithm);
    }
}

#[test]
fn weak_unknown_and_misspelt_signature_algorithms_are_refused() {
    for identifier in [
        rsa_algorithm(5),                                                          // SHA-1
        rsa_algorithm(10), // RSASSA-PSS, without its parameters
        rsa_algorithm(14), // SHA-224
        encode(tag::SEQUENCE, &[&encode(tag::OID, &[ECDSA_WITH, &[1]])]), // SHA-224
        encode(tag::SEQUENCE, &[&encode(tag::OID, &[ECDSA_WITH, &[2]]), &[5, 0]]), // with NULL
        encode(tag::SEQUENCE, &[b"\x06\x03\x2b\x65\x71"]), // Ed448
        encode(tag::SEQUENCE, &[]),
    ] {
        let draft = Draft { algorithm: identifier, ..draft() };
        assert_eq!(draft.outcome(), Err(CsrError::UnknownAlgorithm));
    }
}

#[test]
fn a_point_off_its_curve_is_refused_as_such() {
    let mut draft = draft();
    *draft.spki.last_mut().unwrap() ^= 1;
    assert_eq!(draft.outcome(), Err(CsrError::Key(PublicKeyError::OffCurve)));
}

/// `identity` and zero make a signature over everything.
#[test]
fn an_ed25519_key_of_small_order_is_refused() {
    let mut identity = [0; 32];
    identity[0] = 1;
    let draft = Draft {
        spki: encode(tag::SEQUENCE, &[b"\x30\x05\x06\x03\x2b\x65\x70\x03\x21\x00", &identity]),
        algorithm: SignatureAlgorithm::Ed25519.identifier().to_vec(),
        ..draft()
    };
    let forged = draft.assemble(&[&identity[..], &[0; 32]].concat());
    assert_eq!(refusal(&forged), CsrError::Key(PublicKeyError::SmallOrder));
}

#[test]
fn rsa_keys_out_of_bounds_are_refused_before_any_arithmetic() {
    let modulus = |bytes: usize| [vec![0xc1], vec![0xa5; bytes - 1]].concat();
    for (modulus, exponent, expected) in [
        (modulus(128), &[1, 0, 1][..], PublicKeyError::ModulusSize(1024)),
        (modulus(255), &[1, 0, 1], PublicKeyError::ModulusSize(2040)),
        (modulus(513), &[1, 0, 1], PublicKeyError::ModulusSize(4104)),
        (modulus(2048), &[1, 0, 1], PublicKeyError::ModulusSize(16384)),
        (modulus(15_000), &[1, 0, 1], PublicKeyError::ModulusSize(120_000)),
        (modulus(256), &[1], PublicKeyError::Exponent),
        (modulus(256), &[3], PublicKeyError::Exponent),
        (modulus(256), &[1, 0, 0], PublicKeyError::Exponent),
        (modulus(256), &[0xa5; 256], PublicKeyError::Exponent),
    ] {
        let draft =
            Draft { spki: rsa_spki(&modulus, exponent), algorithm: rsa_algorithm(11), ..draft() };
        assert_eq!(refusal(&draft.assemble(&[0xa5; 256])), CsrError::Key(expected));
    }
}

#[test]
fn a_request_beyond_16_kib_is_not_looked_at() {
    let megabyte = vec![0x30; 1 << 20];
    let error = Csr::parse(&megabyte).unwrap_err();
    assert_eq!(error, CsrError::Malformed(Malformed::Size(1 << 20)));
    assert_eq!(error.to_string(), "it has 1048576 bytes; at most 16384 are accepted");
}

// ---- attributes, extensions and names ----

#[test]
fn a_request_without_attributes_asks_for_nothing() {
    let requested = Csr::parse(&draft().der()).unwrap().verify().unwrap().requested;
    assert!(requested.uris.is_empty() && requested.dns_names.is_empty());
    assert_eq!(requested.subject().unwrap(), Name::empty());
}

#[test]
fn what_is_unknown_is_passed_over() {
    let challenge = attribute(b"\x2a\x86\x48\x86\xf7\x0d\x01\x09\x07", &[&[0x0c, 2, b'h', b'i']]);
    let wishes = extension_request(&[
        extension(b"\x55\x1d\x0f", true, &[3, 2, 1, 6]), // key usage: certificate signing
        extension(b"\x2a\x03\x04", true, b"anything"),
        extension(SUBJECT_ALT_NAME, false, &names(&[uri("spiffe://td/a")])),
    ]);
    let draft = draft().with_attributes(&[challenge, wishes]);
    let requested = Csr::parse(&draft.der()).unwrap().verify().unwrap().requested;
    assert_eq!(requested.uris, ["spiffe://td/a"]);
}

#[test]
fn a_request_for_a_ca_is_noted_and_nothing_else() {
    let wish = |value: &[u8]| {
        let draft = draft().with_extensions(&[extension(BASIC_CONSTRAINTS, true, value)]);
        draft.csr_outcome().map(|requested| requested.ca)
    };
    assert_eq!(wish(&[0x30, 3, 1, 1, 0xff]), Ok(true));
    assert_eq!(wish(&[0x30, 6, 1, 1, 0xff, 2, 1, 0]), Ok(true));
    assert_eq!(wish(&[0x30, 0]), Ok(false));
    assert_eq!(wish(&[0x30, 3, 1, 1, 0]), Err(malformed(DerError::Value("cA"))));
    assert_eq!(wish(&[0x30, 3, 1, 1, 1]), Err(malformed(DerError::Value("cA"))));
}

#[test]
fn ten_uris_are_read_for_the_caller_to_refuse() {
    let ten: Vec<Vec<u8>> = (0..10).map(|n| uri(&format!("spiffe://td/{n}"))).collect();
    let requested = draft().with_names(&ten).csr_outcome().unwrap();
    assert_eq!(requested.uris.len(), 10);
    assert_eq!(requested.uris[9], "spiffe://td/9");
}

#[test]
fn names_are_bounded_and_of_their_type() {
    let dns = |text: &[u8]| encode(0x82, &[text]);
    let outcome = |names: &[Vec<u8>]| draft().with_names(names).csr_outcome().map(|_| ());
    let bad_name = Err(malformed(DerError::Value("subject alternative name")));
    assert_eq!(outcome(&vec![dns(b"a.test"); 100]), Ok(()));
    assert_eq!(
        outcome(&vec![dns(b"a.test"); 101]).unwrap_err().to_string(),
        "there are too many subject alternative names; at most 100 are accepted"
    );
    assert_eq!(outcome(&[]), Err(malformed(DerError::Value("subjectAltName"))));
    assert_eq!(outcome(&[dns("bücher.test".as_bytes())]), bad_name);
    assert_eq!(outcome(&[encode(0x86, &[b"spiffe://td/\xff"])]), bad_name);
    assert_eq!(outcome(&[encode(0x87, &[&[1; 5]])]), bad_name);
    assert_eq!(outcome(&[encode(0x89, &[&[1]])]), bad_name);
    assert_eq!(outcome(&[encode(0xa6, &[b"spiffe://td/a"])]), bad_name);
    for other in [0x81u8, 0x87, 0x88, 0xa0, 0xa4] {
        let names = [encode(other, &[&[4; 4]]), uri("spiffe://td/a")];
        let requested = draft().with_names(&names).csr_outcome().unwrap();
        assert!(requested.other_names && requested.uris.len() == 1, "{other:#x}");
    }
}

#[test]
fn what_can_be_meant_once_only_is_refused_twice() {
    let san = extension(SUBJECT_ALT_NAME, false, &names(&[uri("spiffe://td/a")]));
    let unknown = extension(b"\x2a\x03\x04", false, b"");
    let request = extension_request(std::slice::from_ref(&san));
    let list = encode(tag::SEQUENCE, &[&san]);
    let repeated = |what| Err(CsrError::Malformed(Malformed::Repeated(what)));
    let outcome = |attributes: &[Vec<u8>]| draft().with_attributes(attributes).outcome();
    assert_eq!(outcome(&[request.clone(), request]), repeated("extensionRequest"));
    assert_eq!(outcome(&[extension_request(&[san.clone(), san])]), repeated("an extension"));
    assert_eq!(
        outcome(&[extension_request(&[unknown.clone(), unknown])]),
        repeated("an extension")
    );
    assert_eq!(
        outcome(&[attribute(EXTENSION_REQUEST, &[&list, &list])]),
        Err(malformed(DerError::Trailing("extensionRequest")))
    );
    assert_eq!(
        outcome(&[attribute(EXTENSION_REQUEST, &[])]),
        Err(malformed(DerError::Truncated("extensionRequest")))
    );
}

#[test]
fn parts_are_bounded_in_number() {
    let many = |what| Err(CsrError::Malformed(Malformed::TooMany { what, most: 32 }));
    let extensions: Vec<Vec<u8>> =
        (0..33).map(|number| extension(&[0x2a, number], false, b"")).collect();
    assert_eq!(draft().with_extensions(&extensions[..32]).outcome(), Ok(()));
    assert_eq!(draft().with_extensions(&extensions).outcome(), many("extensions"));
    let attributes = vec![attribute(&[0x2a, 3], &[&[5, 0]]); 33];
    assert_eq!(draft().with_attributes(&attributes[..32]).outcome(), Ok(()));
    assert_eq!(draft().with_attributes(&attributes).outcome(), many("attributes"));
}

#[test]
fn a_default_that_is_written_out_is_not_der() {
    let critical_false = encode(
        tag::SEQUENCE,
        &[&encode(tag::OID, &[&[0x2a, 3]]), &[1, 1, 0], &encode(tag::OCTET_STRING, &[])],
    );
    assert_eq!(
        draft().with_extensions(&[critical_false]).outcome(),
        Err(malformed(DerError::Value("critical")))
    );
}

// ---- our own ----

#[test]
fn our_own_requests_are_read_by_us_and_by_others() {
    let uri = SpiffeId::parse("spiffe://example.test").unwrap();
    let named =
        Name::from_attributes(&[(Attribute::Country, "US"), (Attribute::Organization, "Acme")]);
    for subject in [Name::empty(), named.unwrap()] {
        for (key, sign) in signers() {
            let request = Request::prepare(&subject, &uri, &key);
            let signature = sign(request.to_be_signed(key.kind().usual_algorithm()).message());
            let der = request.assemble(&signature);

            let csr = Csr::parse(&der).unwrap().verify().unwrap();
            assert_eq!(csr.key.public_key(), &key);
            assert_eq!(csr.requested.uris, ["spiffe://example.test"]);
            assert_eq!(csr.requested.subject().unwrap(), subject);

            let theirs = x509_cert::request::CertReq::from_der(&der).unwrap();
            assert_eq!(theirs.to_der().unwrap(), der);
            assert_eq!(theirs.info.subject.to_der().unwrap(), subject.der());
            let extension = request_extensions(&theirs).pop().unwrap();
            assert_eq!(extension.critical, subject.is_empty());
        }
    }
}

fn request_extensions(request: &x509_cert::request::CertReq) -> Vec<x509_cert::ext::Extension> {
    let value = request.info.attributes.get(0).unwrap().values.get(0).unwrap();
    value.decode_as().unwrap()
}

type Sign = Box<dyn Fn(&[u8]) -> Signature>;

/// A key of each kind, with what signs for it.
fn signers() -> Vec<(PublicKey, Sign)> {
    let mut signers: Vec<(PublicKey, Sign)> = Vec::new();
    for (kind, algorithm) in [
        (&ECDSA_P256_SHA256_ASN1_SIGNING, SignatureAlgorithm::EcdsaP256Sha256),
        (&ECDSA_P384_SHA384_ASN1_SIGNING, SignatureAlgorithm::EcdsaP384Sha384),
    ] {
        let pair = Ec::new(kind);
        let key = PublicKey::from_spki(&pair.spki()).unwrap();
        let sign =
            move |message: &[u8]| Signature::from_x509(algorithm, &pair.sign(message)).unwrap();
        signers.push((key, Box::new(sign)));
    }
    let rsa = Rsa::new();
    let key = PublicKey::from_spki(&rsa.spki()).unwrap();
    let sign = move |message: &[u8]| {
        Signature::from_fixed(
            SignatureAlgorithm::RsaPkcs1Sha256,
            &rsa.sign(&RSA_PKCS1_SHA256, message),
        )
        .unwrap()
    };
    signers.push((key, Box::new(sign)));
    let pair = Ed25519KeyPair::generate().unwrap();
    let key = PublicKey::from_ed25519(pair.public_key().as_ref().try_into().unwrap()).unwrap();
    let sign = move |message: &[u8]| {
        Signature::from_fixed(SignatureAlgorithm::Ed25519, pair.sign(message).as_ref()).unwrap()
    };
    signers.push((key, Box::new(sign)));
    signers
}

proptest! {
    #[test]
    fn no_bytes_make_the_reading_panic(bytes in proptest::collection::vec(any::<u8>(), 0..512)) {
        prop_assert!(Csr::parse(&bytes).and_then(|csr| csr.verify()).is_err());
    }

    /// Several changes at once: bytes replaced, pieces cut out, pieces doubled.
    #[test]
    fn a_mangled_request_neither_panics_nor_verifies(
        which in 0..GOOD.len(),
        changes in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>(), 0..3u8), 1..8),
    ) {
        let good = GOOD[which].0;
        let mut der = good.to_vec();
        for (at, byte, how) in changes {
            let at = at.index(der.len());
            let end = der.len().min(at + usize::from(byte % 16));
            match how {
                0 => der[at] = byte,
                1 => drop(der.drain(at..end)),
                _ => der.extend_from_within(at..end),
            }
            if der.is_empty() {
                break;
            }
        }
        let outcome = Csr::parse(&der).and_then(|csr| csr.verify());
        prop_assert_eq!(outcome.is_ok(), der == good);
    }

    /// Whatever is asked for comes back as it was asked, and nothing more.
    #[test]
    fn wishes_are_handed_on_unchanged(
        uris in proptest::collection::vec("[ -~]{0,40}", 0..5),
        dns_names in proptest::collection::vec("[ -~]{0,40}", 0..5),
    ) {
        let names: Vec<Vec<u8>> = uris
            .iter()
            .map(|text| uri(text))
            .chain(dns_names.iter().map(|text| encode(0x82, &[text.as_bytes()])))
            .collect();
        if !names.is_empty() {
            let requested = draft().with_names(&names).csr_outcome().unwrap();
            prop_assert_eq!(requested.uris, uris);
            prop_assert_eq!(requested.dns_names, dns_names);
        }
    }
}

// ---- making requests, piece by piece ----

type SignBytes = dyn Fn(&[u8]) -> Vec<u8>;

/// The parts of a request, and a signer that signs whatever they are in the end.
struct Draft {
    version: Vec<u8>,
    subject: Vec<u8>,
    spki: Vec<u8>,
    attributes: Vec<u8>,
    algorithm: Vec<u8>,
    sign: Box<SignBytes>,
}

/// A good request of a new P-256 key that asks for nothing.
fn draft() -> Draft {
    Ec::new(&ECDSA_P256_SHA256_ASN1_SIGNING).signs(2)
}

impl Draft {
    fn info(&self) -> Vec<u8> {
        encode(tag::SEQUENCE, &[&self.version, &self.subject, &self.spki, &self.attributes])
    }

    fn der(&self) -> Vec<u8> {
        self.assemble(&(self.sign)(&self.info()))
    }

    fn assemble(&self, signature: &[u8]) -> Vec<u8> {
        let bits = encode(tag::BIT_STRING, &[&[0], signature]);
        encode(tag::SEQUENCE, &[&self.info(), &self.algorithm, &bits])
    }

    fn csr_outcome(&self) -> Result<ca_core::csr::Requested, CsrError> {
        Csr::parse(&self.der())?.verify().map(|csr| csr.requested)
    }

    fn outcome(&self) -> Result<(), CsrError> {
        self.csr_outcome().map(|_| ())
    }

    fn with_attributes(mut self, attributes: &[Vec<u8>]) -> Self {
        self.attributes = encode(0xa0, &[&attributes.concat()]);
        self
    }

    fn with_extensions(self, extensions: &[Vec<u8>]) -> Self {
        self.with_attributes(&[extension_request(extensions)])
    }

    fn with_names(self, general_names: &[Vec<u8>]) -> Self {
        self.with_extensions(&[extension(SUBJECT_ALT_NAME, false, &names(general_names))])
    }
}

fn refusal(der: &[u8]) -> CsrError {
    Csr::parse(der).and_then(|csr| csr.verify()).unwrap_err()
}

fn malformed(error: DerError) -> CsrError {
    CsrError::Malformed(error.into())
}

const EXTENSION_REQUEST: &[u8] = b"\x2a\x86\x48\x86\xf7\x0d\x01\x09\x0e";
const SUBJECT_ALT_NAME: &[u8] = b"\x55\x1d\x11";
const BASIC_CONSTRAINTS: &[u8] = b"\x55\x1d\x13";
/// ecdsa-with-SHA2, without its last arc.
const ECDSA_WITH: &[u8] = b"\x2a\x86\x48\xce\x3d\x04\x03";
/// pkcs-1, without its last arc.
const RSA_ENCRYPTION: &[u8] = b"\x2a\x86\x48\x86\xf7\x0d\x01\x01";

fn rsa_algorithm(number: u8) -> Vec<u8> {
    encode(tag::SEQUENCE, &[&encode(tag::OID, &[RSA_ENCRYPTION, &[number]]), &[5, 0]])
}

fn rsa_spki(modulus: &[u8], exponent: &[u8]) -> Vec<u8> {
    let mut numbers = Vec::new();
    ca_core::der::write_unsigned(&mut numbers, modulus);
    ca_core::der::write_unsigned(&mut numbers, exponent);
    let key = encode(tag::SEQUENCE, &[&numbers]);
    encode(tag::SEQUENCE, &[&rsa_algorithm(1), &encode(tag::BIT_STRING, &[&[0], &key])])
}

fn attribute(kind: &[u8], values: &[&[u8]]) -> Vec<u8> {
    encode(tag::SEQUENCE, &[&encode(tag::OID, &[kind]), &encode(tag::SET, values)])
}

fn extension_request(extensions: &[Vec<u8>]) -> Vec<u8> {
    attribute(EXTENSION_REQUEST, &[&encode(tag::SEQUENCE, &[&extensions.concat()])])
}

fn extension(kind: &[u8], critical: bool, value: &[u8]) -> Vec<u8> {
    let critical: &[u8] = if critical { &[1, 1, 0xff] } else { &[] };
    encode(
        tag::SEQUENCE,
        &[&encode(tag::OID, &[kind]), critical, &encode(tag::OCTET_STRING, &[value])],
    )
}

fn names(names: &[Vec<u8>]) -> Vec<u8> {
    encode(tag::SEQUENCE, &[&names.concat()])
}

fn uri(text: &str) -> Vec<u8> {
    encode(0x86, &[text.as_bytes()])
}

/// An EC key pair; its curve and digest are those of the algorithm.
struct Ec(EcdsaKeyPair);

impl Ec {
    fn new(algorithm: &'static EcdsaSigningAlgorithm) -> Self {
        Self(EcdsaKeyPair::generate(algorithm).unwrap())
    }

    fn spki(&self) -> Vec<u8> {
        PublicKey::from_ec_point(self.0.public_key().as_ref()).unwrap().spki().to_vec()
    }

    fn sign(&self, message: &[u8]) -> Vec<u8> {
        self.0.sign(&SystemRandom::new(), message).unwrap().as_ref().to_vec()
    }

    /// A draft signed by this key with ecdsa-with-SHA2 of that number.
    fn signs(self, number: u8) -> Draft {
        Draft {
            version: vec![2, 1, 0],
            subject: vec![0x30, 0],
            spki: self.spki(),
            attributes: vec![0xa0, 0],
            algorithm: encode(tag::SEQUENCE, &[&encode(tag::OID, &[ECDSA_WITH, &[number]])]),
            sign: Box::new(move |message| self.sign(message)),
        }
    }
}

/// An RSA-2048 key pair.
#[derive(Clone)]
struct Rsa(std::sync::Arc<RsaKeyPair>);

impl Rsa {
    fn new() -> Self {
        Self(std::sync::Arc::new(RsaKeyPair::generate(KeySize::Rsa2048).unwrap()))
    }

    fn spki(&self) -> Vec<u8> {
        let key = encode(tag::BIT_STRING, &[&[0], self.0.public_key().as_ref()]);
        encode(tag::SEQUENCE, &[&rsa_algorithm(1), &key])
    }

    fn sign(&self, padding: &'static dyn RsaEncoding, message: &[u8]) -> Vec<u8> {
        let mut signature = vec![0; self.0.public_modulus_len()];
        self.0.sign(padding, &SystemRandom::new(), message, &mut signature).unwrap();
        signature
    }

    fn signs(&self, padding: &'static dyn RsaEncoding, number: u8) -> Draft {
        let key = self.clone();
        Draft {
            spki: self.spki(),
            algorithm: rsa_algorithm(number),
            sign: Box::new(move |message| key.sign(padding, message)),
            ..draft()
        }
    }
}
