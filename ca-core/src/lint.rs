//! The checks between encoding and signing: every rule of X509-SVID and RFC 5280 that applies to what
//! Mintmark signs, as one row each.
//!
//! The bytes are read anew by code that knows nothing of the encoder, so a fault in a template, a profile
//! or a grant shows here, before a key has touched it. [`Linted`] is the only way to have a certificate
//! signed, and only [`check`] makes one.

use thiserror::Error;

use crate::certificate::{CaCertificate, Extensions, TbsView, oid};
use crate::clock::Timestamp;
use crate::der::{DerError, Reader, tag};
use crate::dns::DnsName;
use crate::id::{SpiffeId, TrustDomain};
use crate::key::{KeyKind, PublicKey, SignatureAlgorithm};
use crate::profile::{KeyUsage, Profile};

/// What a certificate is held against.
#[derive(Debug, Clone, Copy)]
pub struct Expectation<'a> {
    /// What kind of certificate it is to be.
    pub profile: Profile,
    /// The trust domain that signs.
    pub trust_domain: &'a TrustDomain,
    /// The SPIFFE ID that was granted.
    pub id: &'a SpiffeId,
    /// The key that was granted.
    pub key: &'a PublicKey,
    /// How the issuing key signs.
    pub algorithm: SignatureAlgorithm,
    /// The issuing certificate; `None` for a self-signed one.
    pub issuer: Option<&'a CaCertificate>,
}

/// A `TBSCertificate` that keeps every rule. Lacks only its signature.
#[derive(Debug, Clone)]
#[must_use]
pub struct Linted {
    tbs: Vec<u8>,
    algorithm: SignatureAlgorithm,
    is_ca: bool,
}

impl Linted {
    /// How it says that it is signed.
    pub(crate) fn algorithm(&self) -> SignatureAlgorithm {
        self.algorithm
    }

    /// Whether it is a CA certificate.
    pub(crate) fn is_ca(&self) -> bool {
        self.is_ca
    }

    /// The bytes that were checked.
    pub(crate) fn into_tbs(self) -> Vec<u8> {
        self.tbs
    }
}

/// A rule that a certificate would have broken. It is our fault, never the caller's.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum Violation {
    /// Not the DER of a `TBSCertificate`, or of one of its parts.
    #[error("certificate to be signed is malformed: {0}")]
    Malformed(#[from] DerError),
    /// A rule does not hold.
    #[error("certificate to be signed breaks {clause}: {requires}")]
    Rule {
        /// Where the rule stands.
        clause: &'static str,
        /// What it wants.
        requires: &'static str,
    },
}

/// One rule: its source, what it wants, and the test.
struct Rule {
    clause: &'static str,
    requires: &'static str,
    holds: fn(&Subject<'_>, &Expectation<'_>) -> bool,
}

/// Checks the bytes against every rule.
pub fn check(tbs: Vec<u8>, expected: &Expectation<'_>) -> Result<Linted, Violation> {
    let subject = Subject::read(&tbs)?;
    match RULES.iter().find(|rule| !(rule.holds)(&subject, expected)) {
        Some(rule) => Err(Violation::Rule { clause: rule.clause, requires: rule.requires }),
        None => {
            let (algorithm, is_ca) = (expected.algorithm, expected.profile.is_ca());
            Ok(Linted { tbs, algorithm, is_ca })
        }
    }
}

/// The rules in the order of the fields they speak of.
static RULES: &[Rule] = &[
    Rule {
        clause: "RFC 5280 §4.1.2.1",
        requires: "version 3, since there are extensions",
        holds: |subject, _| subject.tbs.version == 2,
    },
    Rule {
        clause: "RFC 5280 §4.1.2.2",
        requires: "a positive serial number of at most 20 octets, in Mintmark always 20",
        holds: |subject, _| {
            subject.tbs.serial.len() == 20 && (0x01..=0x7f).contains(&subject.tbs.serial[0])
        },
    },
    Rule {
        clause: "RFC 5280 §4.1.2.3",
        requires: "the signature algorithm of the issuing key",
        holds: |subject, expected| subject.tbs.algorithm == expected.algorithm.identifier(),
    },
    Rule {
        clause: "RFC 5280 §4.1.2.4",
        requires: "a non-empty issuer name",
        holds: |subject, _| !is_empty_name(subject.tbs.issuer),
    },
    Rule {
        clause: "RFC 5280 §6.1.3 (a)(4)",
        requires: "the issuer's subject as issuer name, or the own one when self-signed",
        holds: |subject, expected| {
            let issuer = expected.issuer.map_or(subject.tbs.subject, |ca| ca.subject().der());
            subject.tbs.issuer == issuer
        },
    },
    Rule {
        clause: "RFC 5280 §4.1.2.5",
        requires: "UTCTime through 2049 and GeneralizedTime after, in seconds and with Z",
        holds: |subject, _| subject.tbs.not_before.1 && subject.tbs.not_after.1,
    },
    Rule {
        clause: "RFC 5280 §4.1.2.5",
        requires: "a validity that does not end before it begins",
        holds: |subject, _| subject.tbs.not_before.0 <= subject.tbs.not_after.0,
    },
    Rule {
        clause: "RFC 5280 §6.1.3 (a)(2)",
        requires: "a validity within the issuer's, so that the chain is valid as long as the leaf",
        holds: |subject, expected| {
            expected.issuer.is_none_or(|ca| {
                within(ca, subject.tbs.not_before.0) && within(ca, subject.tbs.not_after.0)
            })
        },
    },
    Rule {
        clause: "RFC 5280 §4.1.2.6",
        requires: "a non-empty subject in a CA certificate",
        holds: |subject, expected| !expected.profile.is_ca() || !is_empty_name(subject.tbs.subject),
    },
    Rule {
        clause: "RFC 5280 §4.1.2.7",
        requires: "the public key that was granted, byte for byte",
        holds: |subject, expected| subject.tbs.spki == expected.key.spki(),
    },
    Rule {
        clause: "RFC 5280 §4.2",
        requires: "each extension once, and none that Mintmark does not know",
        holds: |subject, _| {
            !subject.extensions().repeated && subject.extensions().unknown.is_none()
        },
    },
    Rule {
        clause: "RFC 5280 §4.2.1.1",
        requires: "a non-critical authority key identifier that is the issuer's, unless self-signed",
        holds: |subject, expected| match (expected.issuer, subject.extensions().authority_key_id) {
            (Some(ca), Some((false, id))) => id == ca.key_id().0,
            (None, None) => true,
            _ => false,
        },
    },
    Rule {
        clause: "RFC 5280 §4.2.1.2",
        requires: "a non-critical subject key identifier derived from the key",
        holds: |subject, expected| {
            subject.extensions().subject_key_id == Some((false, &expected.key.key_id().0[..]))
        },
    },
    Rule {
        clause: "X509-SVID §4.3",
        requires: "a critical key usage with exactly the bits of its kind",
        holds: |subject, expected| {
            let usage = expected.profile.key_usage(expected.key.kind());
            subject.extensions().key_usage == Some((true, Some(usage)))
        },
    },
    Rule {
        clause: "RFC 8813 §3",
        requires: "no keyEncipherment for a key that is not RSA",
        holds: |subject, expected| {
            let enciphers = matches!(subject.extensions().key_usage, Some((_, Some(usage)))
                if usage.contains(KeyUsage::KEY_ENCIPHERMENT));
            matches!(expected.key.kind(), KeyKind::Rsa { .. }) || !enciphers
        },
    },
    Rule {
        clause: "X509-SVID §4.1",
        requires: "critical basic constraints, cA TRUE for a CA and FALSE for a leaf",
        holds: |subject, expected| {
            subject.extensions().basic_constraints.is_some_and(|(critical, constraints)| {
                critical && constraints.ca == expected.profile.is_ca()
            })
        },
    },
    Rule {
        clause: "RFC 5280 §4.2.1.9",
        requires: "the path length of its kind: none in a leaf, zero in an issuing CA",
        holds: |subject, expected| {
            let constraints = subject.extensions().basic_constraints;
            let path_length = constraints.and_then(|(_, value)| value.path_length);
            path_length == expected.profile.path_length()
        },
    },
    Rule {
        clause: "RFC 5280 §6.1.4 (l)",
        requires: "no CA certificate under an issuer whose path length is zero",
        holds: |_, expected| {
            let last = expected.issuer.and_then(CaCertificate::path_length) == Some(0);
            !(last && expected.profile.is_ca())
        },
    },
    Rule {
        clause: "X509-SVID §4.4",
        requires: "serverAuth and clientAuth alone in a leaf, no extended key usage in a CA",
        holds: |subject, expected| match subject.extensions().extended_key_usage {
            Some((_, purposes)) => !expected.profile.is_ca() && authenticates_both_ways(purposes),
            None => expected.profile.is_ca(),
        },
    },
    Rule {
        clause: "X509-SVID §4.2",
        requires: "no name constraints: rustls and others refuse chains that constrain URIs",
        holds: |subject, _| !subject.extensions().name_constraints,
    },
    Rule {
        clause: "RFC 5280 §4.2.1.6",
        requires: "a subject alternative name, critical exactly when the subject is empty",
        holds: |subject, _| {
            subject.names.is_some_and(|names| names.critical == is_empty_name(subject.tbs.subject))
        },
    },
    Rule {
        clause: "X509-SVID §2",
        requires: "exactly one URI name, and it is the SPIFFE ID that was granted",
        holds: |subject, expected| {
            subject.names.is_some_and(|names| {
                names.uris == 1 && names.uri == expected.id.as_str().as_bytes()
            })
        },
    },
    Rule {
        clause: "SPIFFE-ID §2",
        requires: "a SPIFFE ID of this trust domain",
        holds: |_, expected| expected.id.is_member_of(expected.trust_domain),
    },
    Rule {
        clause: "X509-SVID §2",
        requires: "a path in a leaf's SPIFFE ID and none in a CA's",
        holds: |_, expected| expected.id.path().is_empty() == expected.profile.is_ca(),
    },
    Rule {
        clause: "RFC 5280 §4.2.1.6",
        requires: "only DNS names in preferred syntax beside the URI, and none in a CA",
        holds: |subject, expected| {
            subject
                .names
                .is_some_and(|names| !names.others && (names.dns == 0 || !expected.profile.is_ca()))
        },
    },
];

fn within(ca: &CaCertificate, instant: Timestamp) -> bool {
    (ca.not_before()..=ca.not_after()).contains(&instant)
}

fn is_empty_name(name: &[u8]) -> bool {
    name == [tag::SEQUENCE, 0]
}

/// Whether the content of an extended key usage names both purposes of TLS and no other: a leaf that may
/// answer for revocations, say, would be worth more than what was granted.
fn authenticates_both_ways(purposes: &[u8]) -> bool {
    let mut purposes = Reader::new(purposes);
    let (mut server, mut client) = (false, false);
    while let Ok(purpose) = purposes.expect(tag::OID, "key purpose") {
        match purpose.value {
            oid::SERVER_AUTH => server = true,
            oid::CLIENT_AUTH => client = true,
            _ => return false,
        }
    }
    server && client && purposes.is_empty()
}

/// The certificate under check, its names read.
struct Subject<'a> {
    tbs: TbsView<'a>,
    names: Option<AlternativeNames<'a>>,
}

#[derive(Clone, Copy)]
struct AlternativeNames<'a> {
    critical: bool,
    uris: usize,
    /// The last URI name.
    uri: &'a [u8],
    dns: usize,
    /// Whether there is a name of another kind, or a DNS name in bad syntax.
    others: bool,
}

impl<'a> Subject<'a> {
    fn read(tbs: &'a [u8]) -> Result<Self, DerError> {
        let tbs = TbsView::read(tbs)?;
        let names = match tbs.extensions.subject_alt_name {
            Some((critical, names)) => Some(AlternativeNames::read(critical, names)?),
            None => None,
        };
        Ok(Self { tbs, names })
    }

    fn extensions(&self) -> &Extensions<'a> {
        &self.tbs.extensions
    }
}

impl<'a> AlternativeNames<'a> {
    fn read(critical: bool, names: &'a [u8]) -> Result<Self, DerError> {
        let mut list = Reader::new(names);
        let mut names = Self { critical, uris: 0, uri: &[], dns: 0, others: false };
        while !list.is_empty() {
            let name = list.any("subject alternative name")?;
            if name.tag == tag::context(6) {
                names.uris += 1;
                names.uri = name.value;
            } else if name.tag == tag::context(2) {
                names.dns += 1;
                let text = std::str::from_utf8(name.value).unwrap_or_default();
                names.others |= DnsName::parse(text).is_err();
            } else {
                names.others = true;
            }
        }
        Ok(names)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::der;
    use crate::name::{Attribute, Name};

    /// A certificate in pieces, so that each can be broken.
    #[derive(Clone)]
    struct Pieces {
        version: Vec<u8>,
        serial: Vec<u8>,
        algorithm: Vec<u8>,
        issuer: Vec<u8>,
        validity: Vec<u8>,
        subject: Vec<u8>,
        spki: Vec<u8>,
        extensions: Vec<(Vec<u8>, bool, Vec<u8>)>,
    }

    impl Pieces {
        fn tbs(&self) -> Vec<u8> {
            let extensions: Vec<u8> = self
                .extensions
                .iter()
                .flat_map(|(oid, critical, value)| {
                    let critical: &[u8] = if *critical { &[1, 1, 0xff] } else { &[] };
                    let oid = der::encode(tag::OID, &[oid]);
                    let value = der::encode(tag::OCTET_STRING, &[value]);
                    der::encode(tag::SEQUENCE, &[&oid, critical, &value])
                })
                .collect();
            let extensions = der::encode(tag::SEQUENCE, &[&extensions]);
            der::encode(
                tag::SEQUENCE,
                &[
                    &self.version,
                    &der::encode(tag::INTEGER, &[&self.serial]),
                    &self.algorithm,
                    &self.issuer,
                    &self.validity,
                    &self.subject,
                    &self.spki,
                    &der::encode(tag::context_constructed(3), &[&extensions]),
                ],
            )
        }

        fn extension(&mut self, oid: &[u8]) -> &mut (Vec<u8>, bool, Vec<u8>) {
            self.extensions.iter_mut().find(|(found, ..)| found == oid).unwrap()
        }

        fn without(&mut self, oid: &[u8]) {
            self.extensions.retain(|(found, ..)| found != oid);
        }

        fn utc(&mut self, not_before: &[u8], not_after: &[u8]) {
            let time = |text| der::encode(tag::UTC_TIME, &[text]);
            self.validity = der::encode(tag::SEQUENCE, &[&time(not_before), &time(not_after)]);
        }
    }

    struct Case {
        trust_domain: TrustDomain,
        id: SpiffeId,
        key: PublicKey,
        issuer: CaCertificate,
        profile: Profile,
    }

    impl Case {
        fn leaf() -> Self {
            let trust_domain = TrustDomain::parse("example.test").unwrap();
            Self {
                id: SpiffeId::from_parts("example.test", "/web").unwrap(),
                trust_domain,
                key: PublicKey::from_ed25519(&[9; 32]).unwrap(),
                issuer: ca(),
                profile: Profile::Workload,
            }
        }

        fn ca() -> Self {
            let leaf = Self::leaf();
            Self { id: leaf.trust_domain.id(), profile: Profile::DownstreamCa, ..leaf }
        }

        fn issuing() -> Self {
            Self { profile: Profile::IssuingCa, ..Self::ca() }
        }

        fn good(&self) -> Pieces {
            let key_id = self.issuer.key_id().0;
            let uri = der::encode(tag::context(6), &[self.id.as_str().as_bytes()]);
            let ca = self.profile.is_ca();
            let usage = self.profile.key_usage(self.key.kind()).bit_string();
            let purpose = |oid| der::encode(tag::OID, &[oid]);
            let purposes = [purpose(oid::SERVER_AUTH), purpose(oid::CLIENT_AUTH)].concat();
            let constraints: &[u8] = match self.profile {
                Profile::IssuingCa => &[1, 1, 0xff, 2, 1, 0],
                _ if ca => &[1, 1, 0xff],
                _ => &[],
            };
            let mut pieces = Pieces {
                version: b"\xa0\x03\x02\x01\x02".to_vec(),
                serial: vec![0x11; 20],
                algorithm: self.issuer.key().kind().usual_algorithm().identifier().to_vec(),
                issuer: self.issuer.subject().der().to_vec(),
                validity: Vec::new(),
                subject: if ca { named("sub").der().to_vec() } else { vec![0x30, 0] },
                spki: self.key.spki().to_vec(),
                extensions: vec![
                    (oid::KEY_USAGE.into(), true, der::encode(tag::BIT_STRING, &[&usage])),
                    (oid::BASIC_CONSTRAINTS.into(), true, der::encode(0x30, &[constraints])),
                    (
                        oid::AUTHORITY_KEY_ID.into(),
                        false,
                        der::encode(0x30, &[&der::encode(0x80, &[&key_id])]),
                    ),
                    (
                        oid::SUBJECT_KEY_ID.into(),
                        false,
                        der::encode(tag::OCTET_STRING, &[&self.key.key_id().0]),
                    ),
                    (oid::SUBJECT_ALT_NAME.into(), !ca, der::encode(0x30, &[&uri])),
                ],
            };
            if !ca {
                let purposes = der::encode(0x30, &[&purposes]);
                pieces.extensions.push((oid::EXTENDED_KEY_USAGE.into(), false, purposes));
            }
            pieces.utc(b"260101000000Z", b"260101010000Z");
            pieces
        }

        fn check(&self, pieces: &Pieces) -> Result<(), Violation> {
            let expected = Expectation {
                profile: self.profile,
                trust_domain: &self.trust_domain,
                id: &self.id,
                key: &self.key,
                algorithm: self.issuer.key().kind().usual_algorithm(),
                issuer: Some(&self.issuer),
            };
            check(pieces.tbs(), &expected).map(|_| ())
        }

        fn breaks(&self, clause: &str, harm: impl FnOnce(&mut Pieces)) {
            let mut pieces = self.good();
            harm(&mut pieces);
            match self.check(&pieces) {
                Err(Violation::Rule { clause: found, .. }) => assert_eq!(found, clause),
                other => panic!("{clause} should be broken, but: {other:?}"),
            }
        }
    }

    fn named(text: &str) -> Name {
        Name::from_attributes(&[(Attribute::CommonName, text)]).unwrap()
    }

    /// A CA certificate valid in 2026, not self-signed so that no key is needed.
    fn ca() -> CaCertificate {
        let key = PublicKey::from_ed25519(&[7; 32]).unwrap();
        let mut pieces = Pieces {
            version: b"\xa0\x03\x02\x01\x02".to_vec(),
            serial: vec![1],
            algorithm: SignatureAlgorithm::Ed25519.identifier().to_vec(),
            issuer: named("above").der().to_vec(),
            validity: Vec::new(),
            subject: named("ca").der().to_vec(),
            spki: key.spki().to_vec(),
            extensions: vec![
                (oid::KEY_USAGE.into(), true, vec![3, 2, 1, 6]),
                (oid::BASIC_CONSTRAINTS.into(), true, vec![0x30, 3, 1, 1, 0xff]),
                (oid::SUBJECT_KEY_ID.into(), false, der::encode(4, &[&key.key_id().0])),
            ],
        };
        pieces.utc(b"260101000000Z", b"261231235959Z");
        let signature = der::encode(tag::BIT_STRING, &[&[0; 65]]);
        let whole = der::encode(tag::SEQUENCE, &[&pieces.tbs(), &pieces.algorithm, &signature]);
        CaCertificate::from_der(&whole).unwrap()
    }

    #[test]
    fn a_right_leaf_and_right_ca_certificates_pass() {
        for case in [Case::leaf(), Case::ca(), Case::issuing()] {
            assert_eq!(case.check(&case.good()), Ok(()));
        }
    }

    #[test]
    fn every_broken_field_is_found_by_its_rule() {
        let leaf = Case::leaf();
        leaf.breaks("RFC 5280 §4.1.2.1", |p| p.version = b"\xa0\x03\x02\x01\x01".to_vec());
        leaf.breaks("RFC 5280 §4.1.2.1", |p| p.version.clear());
        for serial in [vec![0; 20], vec![0xff; 20], vec![1; 21], vec![1; 19]] {
            leaf.breaks("RFC 5280 §4.1.2.2", |p| p.serial = serial);
        }
        leaf.breaks("RFC 5280 §4.1.2.3", |p| {
            p.algorithm = SignatureAlgorithm::EcdsaP256Sha256.identifier().to_vec();
        });
        leaf.breaks("RFC 5280 §4.1.2.4", |p| p.issuer = vec![0x30, 0]);
        leaf.breaks("RFC 5280 §6.1.3 (a)(4)", |p| p.issuer = named("other").der().to_vec());
        leaf.breaks("RFC 5280 §4.1.2.7", |p| {
            p.spki = PublicKey::from_ed25519(&[8; 32]).unwrap().spki().to_vec();
        });
        Case::ca().breaks("RFC 5280 §4.1.2.6", |p| p.subject = vec![0x30, 0]);
    }

    #[test]
    fn every_broken_validity_is_found_by_its_rule() {
        let leaf = Case::leaf();
        leaf.breaks("RFC 5280 §4.1.2.5", |p| p.utc(b"260101010001Z", b"260101010000Z"));
        leaf.breaks("RFC 5280 §4.1.2.5", |p| {
            let time = der::encode(tag::GENERALIZED_TIME, &[b"20260101000000Z"]);
            p.validity = der::encode(tag::SEQUENCE, &[&time, &time]);
        });
        leaf.breaks("RFC 5280 §6.1.3 (a)(2)", |p| p.utc(b"251231235959Z", b"260101010000Z"));
        leaf.breaks("RFC 5280 §6.1.3 (a)(2)", |p| p.utc(b"260101000000Z", b"270101000000Z"));
        for text in ["260230000000Z", "260101240000Z", "2601010000Z", "260101000000+0100"] {
            let mut pieces = leaf.good();
            pieces.utc(text.as_bytes(), b"260101010000Z");
            assert!(matches!(leaf.check(&pieces), Err(Violation::Malformed(_))), "{text}");
        }
    }

    #[test]
    fn every_broken_extension_is_found_by_its_rule() {
        let (leaf, ca) = (Case::leaf(), Case::ca());
        leaf.breaks("RFC 5280 §4.2", |p| p.extensions.push(p.extensions[0].clone()));
        leaf.breaks("RFC 5280 §4.2", |p| p.extensions.push((vec![0x2a, 3], false, vec![5, 0])));
        leaf.breaks("RFC 5280 §4.2.1.1", |p| p.without(oid::AUTHORITY_KEY_ID));
        leaf.breaks("RFC 5280 §4.2.1.1", |p| p.extension(oid::AUTHORITY_KEY_ID).1 = true);
        leaf.breaks("RFC 5280 §4.2.1.1", |p| p.extension(oid::AUTHORITY_KEY_ID).2[4] ^= 1);
        leaf.breaks("RFC 5280 §4.2.1.1", |p| {
            let key_id = der::encode(tag::context(0), &[&leaf.issuer.key_id().0]);
            let serial = der::encode(tag::context(2), &[&[1]]);
            p.extension(oid::AUTHORITY_KEY_ID).2 = der::encode(0x30, &[&key_id, &serial]);
        });
        leaf.breaks("RFC 5280 §4.2.1.2", |p| p.without(oid::SUBJECT_KEY_ID));
        leaf.breaks("RFC 5280 §4.2.1.2", |p| p.extension(oid::SUBJECT_KEY_ID).1 = true);
        leaf.breaks("RFC 5280 §4.2.1.2", |p| p.extension(oid::SUBJECT_KEY_ID).2[2] ^= 1);
        for case in [&leaf, &ca] {
            case.breaks("X509-SVID §4.3", |p| p.without(oid::KEY_USAGE));
            case.breaks("X509-SVID §4.3", |p| p.extension(oid::KEY_USAGE).1 = false);
            case.breaks("X509-SVID §4.3", |p| p.extension(oid::KEY_USAGE).2 = vec![3, 2, 1, 0x86]);
            case.breaks("X509-SVID §4.3", |p| p.extension(oid::KEY_USAGE).2 = vec![3, 2, 0, 0x80]);
            case.breaks("X509-SVID §4.1", |p| p.without(oid::BASIC_CONSTRAINTS));
            case.breaks("X509-SVID §4.1", |p| p.extension(oid::BASIC_CONSTRAINTS).1 = false);
        }
        leaf.breaks("X509-SVID §4.1", |p| {
            p.extension(oid::BASIC_CONSTRAINTS).2 = vec![0x30, 3, 1, 1, 0xff];
        });
        ca.breaks("X509-SVID §4.1", |p| p.extension(oid::BASIC_CONSTRAINTS).2 = vec![0x30, 0]);
        leaf.breaks("RFC 5280 §4.2.1.9", |p| {
            p.extension(oid::BASIC_CONSTRAINTS).2 = vec![0x30, 3, 2, 1, 0];
        });
        let (unbounded, one) = (vec![0x30, 3, 1, 1, 0xff], vec![0x30, 6, 1, 1, 0xff, 2, 1, 1]);
        for constraints in [unbounded, one.clone()] {
            Case::issuing().breaks("RFC 5280 §4.2.1.9", |p| {
                p.extension(oid::BASIC_CONSTRAINTS).2 = constraints;
            });
        }
        ca.breaks("RFC 5280 §4.2.1.9", |p| p.extension(oid::BASIC_CONSTRAINTS).2 = one);
        leaf.breaks("X509-SVID §4.4", |p| p.without(oid::EXTENDED_KEY_USAGE));
        leaf.breaks("X509-SVID §4.4", |p| {
            let purpose = der::encode(tag::OID, &[oid::SERVER_AUTH]);
            p.extension(oid::EXTENDED_KEY_USAGE).2 = der::encode(0x30, &[&purpose]);
        });
        leaf.breaks("X509-SVID §4.4", |p| {
            let purpose = |oid| der::encode(tag::OID, &[oid]);
            let signs_revocations = b"\x2b\x06\x01\x05\x05\x07\x03\x09";
            let purposes =
                [oid::SERVER_AUTH, oid::CLIENT_AUTH, signs_revocations].map(purpose).concat();
            p.extension(oid::EXTENDED_KEY_USAGE).2 = der::encode(0x30, &[&purposes]);
        });
        let purposes = leaf.good().extension(oid::EXTENDED_KEY_USAGE).clone();
        ca.breaks("X509-SVID §4.4", |p| p.extensions.push(purposes));
        ca.breaks("X509-SVID §4.2", |p| {
            p.extensions.push((oid::NAME_CONSTRAINTS.into(), true, vec![0x30, 0]));
        });
    }

    #[test]
    fn every_broken_name_is_found_by_its_rule() {
        let leaf = Case::leaf();
        let names = |names: &[(u8, &str)]| {
            let list: Vec<u8> = names
                .iter()
                .flat_map(|(number, text)| der::encode(tag::context(*number), &[text.as_bytes()]))
                .collect();
            der::encode(tag::SEQUENCE, &[&list])
        };
        let id = "spiffe://example.test/web";
        leaf.breaks("RFC 5280 §4.2.1.6", |p| p.without(oid::SUBJECT_ALT_NAME));
        leaf.breaks("RFC 5280 §4.2.1.6", |p| p.extension(oid::SUBJECT_ALT_NAME).1 = false);
        leaf.breaks("RFC 5280 §4.2.1.6", |p| p.subject = named("x").der().to_vec());
        for list in [
            names(&[]),
            names(&[(2, "web.test")]),
            names(&[(6, id), (6, id)]),
            names(&[(6, "https://example.test"), (6, id)]),
            names(&[(6, "spiffe://example.test/db")]),
        ] {
            leaf.breaks("X509-SVID §2", |p| p.extension(oid::SUBJECT_ALT_NAME).2 = list);
        }
        for list in [names(&[(2, "-web.test"), (6, id)]), names(&[(7, "abcd"), (6, id)])] {
            leaf.breaks("RFC 5280 §4.2.1.6", |p| p.extension(oid::SUBJECT_ALT_NAME).2 = list);
        }
        let trust_domain = TrustDomain::parse("other.test").unwrap();
        Case { trust_domain, ..Case::leaf() }.breaks("SPIFFE-ID §2", |_| {});
        Case { id: Case::leaf().trust_domain.id(), ..Case::leaf() }.breaks("X509-SVID §2", |_| {});
        Case { id: Case::leaf().id, ..Case::ca() }.breaks("X509-SVID §2", |_| {});
    }

    #[test]
    fn an_elliptic_key_never_enciphers() {
        // The exact comparison above catches it first; this row stands alone so that a changed profile
        // cannot lift it.
        let usage = Profile::Workload.key_usage(KeyKind::EcP256);
        assert!(!usage.contains(KeyUsage::KEY_ENCIPHERMENT));
        let rule = RULES.iter().find(|rule| rule.clause == "RFC 8813 §3").unwrap();
        let case = Case::leaf();
        let mut pieces = case.good();
        pieces.extension(oid::KEY_USAGE).2 = vec![3, 2, 5, 0xa0];
        let tbs = pieces.tbs();
        let expected = Expectation {
            profile: case.profile,
            trust_domain: &case.trust_domain,
            id: &case.id,
            key: &case.key,
            algorithm: case.issuer.key().kind().usual_algorithm(),
            issuer: Some(&case.issuer),
        };
        assert!(!(rule.holds)(&Subject::read(&tbs).unwrap(), &expected));
    }

    #[test]
    fn a_self_signed_certificate_has_no_authority_key_identifier() {
        let case = Case { issuer: ca(), ..Case::ca() };
        let mut pieces = case.good();
        pieces.issuer.clone_from(&pieces.subject);
        let expected = |issuer| Expectation {
            profile: Profile::Root,
            trust_domain: &case.trust_domain,
            id: &case.id,
            key: &case.key,
            algorithm: SignatureAlgorithm::Ed25519,
            issuer,
        };
        assert!(check(pieces.tbs(), &expected(None)).is_err());
        pieces.without(oid::AUTHORITY_KEY_ID);
        assert!(check(pieces.tbs(), &expected(None)).is_ok());
    }
}
