//! The template encoder against `x509-cert`: two encoders that share no code must agree on every byte.

#![expect(clippy::unwrap_used, reason = "tests state their expectations by unwrapping")]

use std::time::Duration;

use ca_core::clock::Timestamp;
use ca_core::dns::DnsName;
use ca_core::id::{SpiffeId, TrustDomain};
use ca_core::key::{KeyId, KeyKind, PublicKey, Signature, SignatureAlgorithm};
use ca_core::name::{Attribute, Name};
use ca_core::profile::Profile;
use ca_core::serial::Serial;
use ca_core::template::{Fields, Template, assemble};
use der::asn1::{BitString, Ia5String, OctetString};
use der::{Decode, Encode, Sequence};
use proptest::prelude::*;
use x509_cert::certificate::Version;
use x509_cert::ext::Extension;
use x509_cert::ext::pkix::name::GeneralName;
use x509_cert::ext::pkix::{
    AuthorityKeyIdentifier, BasicConstraints, ExtendedKeyUsage, KeyUsage, KeyUsages,
    SubjectAltName, SubjectKeyIdentifier,
};
use x509_cert::serial_number::SerialNumber;
use x509_cert::spki::{AlgorithmIdentifierOwned, SubjectPublicKeyInfoOwned};
use x509_cert::time::{Time, Validity};

/// `TBSCertificate` of RFC 5280 §4.1, out of `x509-cert`'s own parts (its own struct has private fields).
#[derive(Sequence)]
struct Tbs {
    #[asn1(context_specific = "0", tag_mode = "EXPLICIT")]
    version: Version,
    serial: SerialNumber,
    signature: AlgorithmIdentifierOwned,
    issuer: x509_cert::name::Name,
    validity: Validity,
    subject: x509_cert::name::Name,
    spki: SubjectPublicKeyInfoOwned,
    #[asn1(context_specific = "3", tag_mode = "EXPLICIT")]
    extensions: Vec<Extension>,
}

#[derive(Sequence)]
struct Certificate {
    tbs: der::Any,
    algorithm: AlgorithmIdentifierOwned,
    signature: BitString,
}

/// Criticality is ours to decide; the content is theirs to encode.
fn extension<T: der::oid::AssociatedOid + Encode>(value: &T, critical: bool) -> Extension {
    let extn_value = OctetString::new(value.to_der().unwrap()).unwrap();
    Extension { extn_id: T::OID, critical, extn_value }
}

fn time(instant: Timestamp) -> Time {
    let unix = u64::try_from(instant.unix()).unwrap();
    Time::try_from(std::time::UNIX_EPOCH + Duration::from_secs(unix)).unwrap()
}

/// The same certificate by the other encoder.
fn reference(
    profile: Profile,
    algorithm: SignatureAlgorithm,
    issuer: &Name,
    authority_key: Option<KeyId>,
    fields: &Fields<'_>,
) -> Vec<u8> {
    let usages = match (profile.is_ca(), fields.key.kind()) {
        (true, _) => KeyUsages::KeyCertSign | KeyUsages::CRLSign,
        (false, KeyKind::Rsa { .. }) => KeyUsages::DigitalSignature | KeyUsages::KeyEncipherment,
        (false, _) => KeyUsages::DigitalSignature.into(),
    };
    let mut names: Vec<GeneralName> = fields
        .dns_names
        .iter()
        .map(|name| GeneralName::DnsName(Ia5String::new(name.as_str()).unwrap()))
        .collect();
    names.push(GeneralName::UniformResourceIdentifier(Ia5String::new(fields.id.as_str()).unwrap()));
    let spki = SubjectPublicKeyInfoOwned::from_der(fields.key.spki()).unwrap();
    let key_id = OctetString::new(fields.key.key_id().0).unwrap();

    let mut extensions = vec![extension(&KeyUsage(usages), true)];
    if !profile.is_ca() {
        let purposes =
            [der::oid::db::rfc5280::ID_KP_SERVER_AUTH, der::oid::db::rfc5280::ID_KP_CLIENT_AUTH];
        extensions.push(extension(&ExtendedKeyUsage(purposes.to_vec()), false));
    }
    let path_len_constraint = (profile == Profile::IssuingCa).then_some(0);
    let constraints = BasicConstraints { ca: profile.is_ca(), path_len_constraint };
    extensions.push(extension(&constraints, true));
    if let Some(KeyId(id)) = authority_key {
        let identifier = AuthorityKeyIdentifier {
            key_identifier: Some(OctetString::new(id).unwrap()),
            ..Default::default()
        };
        extensions.push(extension(&identifier, false));
    }
    extensions.push(extension(&SubjectKeyIdentifier(key_id), false));
    extensions.push(extension(&SubjectAltName(names), fields.subject.is_empty()));

    Tbs {
        version: Version::V3,
        serial: SerialNumber::new(fields.serial.bytes()).unwrap(),
        signature: AlgorithmIdentifierOwned::from_der(algorithm.identifier()).unwrap(),
        issuer: x509_cert::name::Name::from_der(issuer.der()).unwrap(),
        validity: Validity::new(time(fields.not_before), time(fields.not_after)),
        subject: x509_cert::name::Name::from_der(fields.subject.der()).unwrap(),
        spki,
        extensions,
    }
    .to_der()
    .unwrap()
}

fn key(kind: u8, seed: &[u8]) -> PublicKey {
    use aws_lc_rs::signature::{
        ECDSA_P256_SHA256_ASN1_SIGNING, ECDSA_P384_SHA384_ASN1_SIGNING, EcdsaKeyPair, KeyPair,
    };
    match kind {
        0 => {
            let pair = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_ASN1_SIGNING).unwrap();
            PublicKey::from_ec_point(pair.public_key().as_ref()).unwrap()
        }
        1 => {
            let pair = EcdsaKeyPair::generate(&ECDSA_P384_SHA384_ASN1_SIGNING).unwrap();
            PublicKey::from_ec_point(pair.public_key().as_ref()).unwrap()
        }
        2 => PublicKey::from_ed25519(seed.first_chunk().unwrap()).unwrap(),
        size => {
            let mut modulus = seed.repeat(if size == 3 { 4 } else { 8 });
            modulus[0] |= 0x80;
            *modulus.last_mut().unwrap() |= 1;
            PublicKey::from_rsa(&modulus, &[1, 0, 1]).unwrap()
        }
    }
}

fn label() -> impl Strategy<Value = String> {
    "[a-z0-9]{1,20}"
}

prop_compose! {
    fn names()(labels in proptest::collection::vec((label(), label()), 0..12)) -> Vec<DnsName> {
        let texts: Vec<String> = labels.into_iter().map(|(a, b)| format!("{a}.{b}.test")).collect();
        DnsName::list(texts.iter().map(String::as_str)).unwrap()
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn every_certificate_is_encoded_as_the_other_encoder_would(
        profile in proptest::sample::select(Profile::ALL.to_vec()),
        algorithm in proptest::sample::select(vec![
            SignatureAlgorithm::EcdsaP256Sha256,
            SignatureAlgorithm::EcdsaP384Sha384,
            SignatureAlgorithm::RsaPkcs1Sha256,
            SignatureAlgorithm::Ed25519,
        ]),
        kind in 0u8..5,
        seed in proptest::collection::vec(any::<u8>(), 64),
        serial in any::<[u8; 20]>(),
        authority_key in any::<Option<[u8; 20]>>(),
        // From 1970 to beyond 2050, so that both forms of time occur.
        not_before in 0i64..4_000_000_000,
        life in 0u64..100_000_000,
        path in proptest::collection::vec("[A-Za-z0-9._-]{1,120}x", 0..12),
        organization in proptest::option::of("[A-Za-z0-9 ]{1,40}[a-z]"),
        dns_names in names(),
        signature in proptest::collection::vec(1u8..0x7f, 64),
    ) {
        let trust_domain = TrustDomain::parse("example.test").unwrap();
        let path: String = path.iter().map(|segment| format!("/{segment}")).collect();
        let id = SpiffeId::from_parts(trust_domain.name(), &path).unwrap();
        let issuer = Name::from_attributes(&[
            (Attribute::Country, "CH"),
            (Attribute::Organization, "Mintmärk"),
            (Attribute::SerialNumber, "0123"),
        ]).unwrap();
        let subject = match &organization {
            Some(text) => Name::from_attributes(&[(Attribute::Organization, text)]).unwrap(),
            None => Name::empty(),
        };
        let key = key(kind, &seed);
        let fields = Fields {
            serial: &Serial::from_bytes(serial),
            not_before: Timestamp::from_unix(not_before),
            not_after: Timestamp::from_unix(not_before).plus(Duration::from_secs(life)),
            subject: &subject,
            key: &key,
            id: &id,
            dns_names: &dns_names,
        };
        let authority_key = authority_key.map(KeyId);
        let ours = Template::new(profile, algorithm, issuer.clone(), authority_key).tbs(&fields);
        let theirs = reference(profile, algorithm, &issuer, authority_key, &fields);
        prop_assert_eq!(&ours, &theirs);

        let signature =
            Signature::from_fixed(SignatureAlgorithm::EcdsaP256Sha256, &signature).unwrap();
        let theirs = Certificate {
            tbs: der::Any::from_der(&ours).unwrap(),
            algorithm: AlgorithmIdentifierOwned::from_der(signature.algorithm().identifier()).unwrap(),
            signature: BitString::from_bytes(&signature.x509()).unwrap(),
        };
        prop_assert_eq!(assemble(&ours, &signature), theirs.to_der().unwrap());
    }
}
