//! What the state store keeps of authorities and bundle. Key material is never part of it.

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};

use super::AuthorityError;
use crate::bundle::{Bundle, JwtAuthority, X509Authority};
use crate::certificate::CaCertificate;
use crate::clock::Timestamp;
use crate::id::TrustDomain;
use crate::key::PublicKey;

/// The format of these records in their [envelope](crate::store::record).
pub(super) const FORMAT: u8 = 1;

/// Which authority of a trust domain acts, and which is in the making. One per kind; the only value that
/// a rotation compares and sets.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct SlotRecord {
    /// Counts the authorities of this kind, from 1.
    pub(super) generation: u64,
    /// The id of the authority that signs.
    pub(super) active: Option<String>,
    /// The name of the key of an authority that is being made, which may or may not exist yet. Written
    /// before the key is created, so that a crash in between leaves no key that nobody knows.
    pub(super) pending: Option<String>,
}

/// One authority.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct AuthorityRecord {
    /// `active` or `old`.
    pub(super) state: String,
    /// The name of its key in the key store.
    pub(super) key: String,
    /// The CA certificate, base64 DER; only of X.509 authorities.
    pub(super) certificate: Option<String>,
    /// `SubjectPublicKeyInfo`, base64 DER.
    pub(super) public_key: String,
    /// Unix seconds.
    pub(super) created_at: i64,
    /// Unix seconds.
    pub(super) not_after: i64,
}

/// A key that signs no more.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct RetirementRecord {
    /// The name of the key.
    pub(super) key: String,
    /// `SubjectPublicKeyInfo`, base64 DER, of the key that bore the name then; not of one that could not be
    /// read.
    pub(super) public_key: Option<String>,
    /// Unix seconds.
    pub(super) retired_at: i64,
    /// Unix seconds: whatever the key has signed has ended by then.
    pub(super) certificates_end: i64,
}

/// The bundle.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct BundleRecord {
    /// Whose bundle, and hence whose store, it is.
    pub(super) trust_domain: String,
    pub(super) sequence: u64,
    pub(super) refresh_hint: u64,
    pub(super) x509: Vec<X509Record>,
    pub(super) jwt: Vec<JwtRecord>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct X509Record {
    certificate: String,
    tainted: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct JwtRecord {
    kid: String,
    public_key: String,
    expires_at: i64,
    tainted: bool,
}

/// Base64 of DER, as records hold it.
pub(super) fn text(der: &[u8]) -> String {
    STANDARD.encode(der)
}

/// DER of what [`text`] made.
pub(super) fn bytes(text: &str, what: &str) -> Result<Vec<u8>, AuthorityError> {
    STANDARD.decode(text).map_err(|error| AuthorityError::Record {
        what: what.to_owned(),
        reason: error.to_string(),
    })
}

impl BundleRecord {
    pub(super) fn of(bundle: &Bundle) -> Self {
        Self {
            trust_domain: bundle.trust_domain.name().to_owned(),
            sequence: bundle.sequence,
            refresh_hint: bundle.refresh_hint.as_secs(),
            x509: bundle
                .x509_authorities
                .iter()
                .map(|authority| X509Record {
                    certificate: text(authority.certificate.der()),
                    tainted: authority.tainted,
                })
                .collect(),
            jwt: bundle
                .jwt_authorities
                .iter()
                .map(|authority| JwtRecord {
                    kid: authority.kid.clone(),
                    public_key: text(authority.key.spki()),
                    expires_at: authority.expires_at.unix(),
                    tainted: authority.tainted,
                })
                .collect(),
        }
    }

    pub(super) fn into_bundle(self, trust_domain: &TrustDomain) -> Result<Bundle, AuthorityError> {
        if self.trust_domain != trust_domain.name() {
            return Err(AuthorityError::OtherTrustDomain {
                expected: trust_domain.clone(),
                found: self.trust_domain,
            });
        }
        let what = "bundle";
        let corrupt = |reason: String| AuthorityError::Record { what: what.to_owned(), reason };
        let x509 = self.x509.into_iter().map(|record| {
            let certificate = CaCertificate::from_der(&bytes(&record.certificate, what)?)
                .map_err(|error| corrupt(error.to_string()))?;
            Ok(X509Authority { certificate, tainted: record.tainted })
        });
        let jwt = self.jwt.into_iter().map(|record| {
            let key = PublicKey::from_spki(&bytes(&record.public_key, what)?)
                .map_err(|error| corrupt(error.to_string()))?;
            Ok(JwtAuthority {
                kid: record.kid,
                key,
                expires_at: Timestamp::from_unix(record.expires_at),
                tainted: record.tainted,
            })
        });
        Ok(Bundle {
            trust_domain: trust_domain.clone(),
            x509_authorities: x509.collect::<Result<_, AuthorityError>>()?,
            jwt_authorities: jwt.collect::<Result<_, AuthorityError>>()?,
            sequence: self.sequence,
            refresh_hint: Duration::from_secs(self.refresh_hint),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use rcgen::{CertificateParams, IsCa, KeyPair, KeyUsagePurpose};

    fn trust_domain() -> TrustDomain {
        TrustDomain::parse("example.test").unwrap()
    }

    fn root() -> CaCertificate {
        let mut parameters = CertificateParams::default();
        parameters.is_ca = IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        parameters.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        let key = KeyPair::generate().unwrap();
        CaCertificate::from_der(parameters.self_signed(&key).unwrap().der()).unwrap()
    }

    fn key(byte: u8) -> PublicKey {
        PublicKey::from_ed25519(&[byte; 32]).unwrap()
    }

    prop_compose! {
        fn bundles()(
            roots in proptest::collection::vec(any::<bool>(), 0..4),
            keys in proptest::collection::vec((".{0,20}", 0..=i64::MAX, any::<bool>()), 0..4),
            sequence: u64,
            refresh_hint: u64,
        ) -> Bundle {
            let x509 = roots.into_iter().map(|tainted| X509Authority { certificate: root(), tainted });
            let jwt = keys.into_iter().map(|(kid, expires_at, tainted)| JwtAuthority {
                kid,
                key: key(7),
                expires_at: Timestamp::from_unix(expires_at),
                tainted,
            });
            Bundle {
                trust_domain: trust_domain(),
                x509_authorities: x509.collect(),
                jwt_authorities: jwt.collect(),
                sequence,
                refresh_hint: Duration::from_secs(refresh_hint),
            }
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn a_bundle_is_read_back_as_it_was_written(bundle in bundles()) {
            let json = serde_json::to_vec(&BundleRecord::of(&bundle)).unwrap();
            let record: BundleRecord = serde_json::from_slice(&json).unwrap();
            prop_assert_eq!(record.into_bundle(&trust_domain()).unwrap(), bundle);
        }
    }

    #[test]
    fn a_bundle_of_another_trust_domain_or_with_a_bad_part_is_refused() {
        let mut bundle = Bundle::empty(trust_domain(), Duration::ZERO);
        bundle.add_x509(root());
        bundle.add_jwt("kid", key(7), Timestamp::MAX);
        let other = TrustDomain::parse("other.test").unwrap();
        let refused = BundleRecord::of(&bundle).into_bundle(&other).unwrap_err();
        assert!(matches!(refused, AuthorityError::OtherTrustDomain { .. }), "{refused}");
        for harm in [
            (|record| record.x509[0].certificate.truncate(40)) as fn(&mut BundleRecord),
            |record| record.x509[0].certificate.insert(0, '!'),
            |record| record.jwt[0].public_key.clear(),
        ] {
            let mut record = BundleRecord::of(&bundle);
            harm(&mut record);
            let refused = record.into_bundle(&trust_domain()).unwrap_err();
            assert!(matches!(refused, AuthorityError::Record { .. }), "{refused}");
        }
    }
}
