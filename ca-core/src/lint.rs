//! The checks between encoding and signing: every rule of X509-SVID and RFC 5280 that applies to what
//! Mintmark signs, as one row each.
//!
//! The bytes are read anew by code that knows nothing of the encoder, so a fault in a template, a profile
//! or a grant shows here, before a key has touched it. [`Linted`] is the only way to have a certificate
//! signed, and only [`check`] makes one.

use thiserror::Error;

use crate::certificate::{
    BasicConstraints, CaCertificate, TbsView, key_usage, oid, subject_key_id,
};
use crate::clock::Timestamp;
use crate::der::{self, DerError, Reader, tag};
use crate::dns::DnsName;
use crate::id::{SpiffeId, TrustDomain};
use crate::key::{KeyKind, PublicKey, SignatureAlgorithm};
use crate::profile::Profile;

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
}

impl Linted {
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
        None => Ok(Linted { tbs }),
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
        holds: |subject, _| subject.extensions_are_known_and_single(),
    },
    Rule {
        clause: "RFC 5280 §4.2.1.1",
        requires: "a non-critical authority key identifier that is the issuer's, unless self-signed",
        holds: |subject, expected| match (expected.issuer, subject.authority_key_id) {
            (Some(ca), Some((false, id))) => id == ca.key_id().0,
            (None, None) => true,
            _ => false,
        },
    },
    Rule {
        clause: "RFC 5280 §4.2.1.2",
        requires: "a non-critical subject key identifier derived from the key",
        holds: |subject, expected| {
            let critical = subject.tbs.extension(oid::SUBJECT_KEY_ID).is_some_and(|e| e.critical);
            !critical && subject_key_id(&subject.tbs) == Some(expected.key.key_id())
        },
    },
    Rule {
        clause: "X509-SVID §4.3",
        requires: "a critical key usage with exactly the bits of its kind",
        holds: |subject, expected| {
            let wanted = expected.profile.key_usage(expected.key.kind());
            subject.tbs.extension(oid::KEY_USAGE).is_some_and(|extension| {
                extension.critical && key_usage(extension.value) == Some(wanted)
            })
        },
    },
    Rule {
        clause: "RFC 8813 §3",
        requires: "no keyEncipherment for a key that is not RSA",
        holds: |subject, expected| {
            use crate::profile::KeyUsage;
            matches!(expected.key.kind(), KeyKind::Rsa { .. })
                || subject.tbs.extension(oid::KEY_USAGE).is_none_or(|extension| {
                    key_usage(extension.value)
                        .is_some_and(|usage| !usage.contains(KeyUsage::KEY_ENCIPHERMENT))
                })
        },
    },
    Rule {
        clause: "X509-SVID §4.1",
        requires: "critical basic constraints, cA TRUE for a CA and FALSE for a leaf",
        holds: |subject, expected| {
            subject.basic_constraints.is_some_and(|(critical, constraints)| {
                critical && constraints.ca == expected.profile.is_ca()
            })
        },
    },
    Rule {
        clause: "RFC 5280 §4.2.1.9",
        requires: "no path length in a leaf",
        holds: |subject, expected| {
            expected.profile.is_ca()
                || subject.basic_constraints.is_none_or(|(_, constraints)| !constraints.path_length)
        },
    },
    Rule {
        clause: "X509-SVID §4.4",
        requires: "serverAuth and clientAuth in a leaf, no extended key usage in a CA",
        holds: |subject, expected| {
            let value = subject.tbs.extension(oid::EXTENDED_KEY_USAGE).map(|e| e.value);
            match value {
                Some(value) => !expected.profile.is_ca() && authenticates_both_ways(value),
                None => expected.profile.is_ca(),
            }
        },
    },
    Rule {
        clause: "X509-SVID §4.2",
        requires: "no name constraints: rustls and others refuse chains that constrain URIs",
        holds: |subject, _| subject.tbs.extension(oid::NAME_CONSTRAINTS).is_none(),
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

fn authenticates_both_ways(value: &[u8]) -> bool {
    let Ok(mut purposes) = der::sole(value, tag::SEQUENCE, "extended key usage") else {
        return false;
    };
    let (mut server, mut client) = (false, false);
    while let Ok(purpose) = purposes.expect(tag::OID, "key purpose") {
        server |= purpose.value == oid::SERVER_AUTH;
        client |= purpose.value == oid::CLIENT_AUTH;
    }
    server && client && purposes.is_empty()
}

/// The certificate under check, its extensions read.
struct Subject<'a> {
    tbs: TbsView<'a>,
    authority_key_id: Option<(bool, &'a [u8])>,
    basic_constraints: Option<(bool, BasicConstraints)>,
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
        let authority_key_id = match tbs.extension(oid::AUTHORITY_KEY_ID) {
            Some(extension) => {
                let mut fields =
                    der::sole(extension.value, tag::SEQUENCE, "authority key identifier")?;
                let id = fields.expect(tag::context(0), "authority key identifier")?;
                fields.finish("authority key identifier")?;
                Some((extension.critical, id.value))
            }
            None => None,
        };
        let basic_constraints = match tbs.extension(oid::BASIC_CONSTRAINTS) {
            Some(extension) => Some((extension.critical, BasicConstraints::read(extension.value)?)),
            None => None,
        };
        let names = match tbs.extension(oid::SUBJECT_ALT_NAME) {
            Some(extension) => Some(AlternativeNames::read(extension.critical, extension.value)?),
            None => None,
        };
        Ok(Self { tbs, authority_key_id, basic_constraints, names })
    }

    fn extensions_are_known_and_single(&self) -> bool {
        const KNOWN: [&[u8]; 7] = [
            oid::KEY_USAGE,
            oid::EXTENDED_KEY_USAGE,
            oid::BASIC_CONSTRAINTS,
            oid::AUTHORITY_KEY_ID,
            oid::SUBJECT_KEY_ID,
            oid::SUBJECT_ALT_NAME,
            oid::NAME_CONSTRAINTS,
        ];
        let mut seen = 0u8;
        self.tbs.extensions().all(|extension| {
            let place = KNOWN.iter().position(|&known| known == extension.oid);
            place.is_some_and(|place| {
                let fresh = seen & 1 << place == 0;
                seen |= 1 << place;
                fresh
            })
        })
    }
}

impl<'a> AlternativeNames<'a> {
    fn read(critical: bool, value: &'a [u8]) -> Result<Self, DerError> {
        let mut list: Reader<'a> = der::sole(value, tag::SEQUENCE, "subject alternative name")?;
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
