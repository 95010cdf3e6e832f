//! One CA certificate with its key, and the two steps of issuing under it: prepare, then sign.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use thiserror::Error;

use crate::certificate::{CaCertificate, CaCertificateError};
use crate::clock::Timestamp;
use crate::id::{SpiffeId, TrustDomain};
use crate::key::{
    Reach, SignError, Signature, SignatureAlgorithm, SigningKey, ToBeSigned, Urgency,
};
use crate::lint::{self, Expectation, Violation};
use crate::log::{Caller, Issuance, Issued};
use crate::name::{Name, NameError};
use crate::policy::X509Grant;
use crate::profile::Profile;
use crate::serial::{Serial, SerialError};
use crate::template::{Fields, Template, assemble};

/// How long certificates live and how far back they begin.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lifetimes {
    /// The life of a certificate for which no other was asked.
    pub default_ttl: Duration,
    /// Taken off the start, so that a peer whose clock is slow accepts a certificate at once. Longer only
    /// widens the window in which a certificate of a stolen key is believed.
    pub backdate: Duration,
}

impl Default for Lifetimes {
    /// One hour, from ten seconds ago: SPIRE's defaults.
    fn default() -> Self {
        Self { default_ttl: Duration::from_secs(3600), backdate: Duration::from_secs(10) }
    }
}

/// A CA certificate with its signing key.
#[derive(Debug)]
pub struct Issuer {
    trust_domain: TrustDomain,
    certificate: CaCertificate,
    /// The certificates that follow a leaf, root excluded; empty under a self-signed certificate.
    chain: Vec<Bytes>,
    key: Arc<dyn SigningKey>,
    /// How the key signs; what is signed names it.
    algorithm: SignatureAlgorithm,
    authority: Arc<str>,
    /// Its key's id, if it issues in the stead of the authority.
    issuing_key: Option<Arc<str>>,
    templates: [Template; Profile::ALL.len()],
    lifetimes: Lifetimes,
}

/// Why a certificate could not be issued.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum IssueError {
    /// The CA certificate has ended or has not begun.
    #[error("authority {authority} is valid from {not_before} to {not_after}, and it is {now}")]
    OutsideValidity {
        /// The authority.
        authority: Arc<str>,
        /// Its first second.
        not_before: Timestamp,
        /// Its last second.
        not_after: Timestamp,
        /// The time of the request.
        now: Timestamp,
    },
    /// The life that was asked for is longer than that of the key that issues, and the authority's own key is
    /// not to sign instead.
    #[error(
        "a life until {wanted} is not possible: issuing key {issuing_key} ends at {not_after}; ask for a \
         shorter one"
    )]
    LongTtl {
        /// The key that issues.
        issuing_key: Arc<str>,
        /// Its last second.
        not_after: Timestamp,
        /// The last second that was asked for.
        wanted: Timestamp,
    },
    /// No serial number could be drawn.
    #[error(transparent)]
    Serial(#[from] SerialError),
    /// A fault of ours, found before it was signed.
    #[error(transparent)]
    Lint(#[from] Violation),
    /// The key did not sign.
    #[error(transparent)]
    Sign(#[from] SignError),
    /// The subject of an issuing key's certificate is not acceptable.
    #[error("subject of an issuing key: {0}")]
    Subject(#[from] NameError),
    /// A CA certificate of ours came out unusable: its signature does not verify, for one.
    #[error("new CA certificate is refused: {0}")]
    Certificate(#[from] CaCertificateError),
}

/// An issuer as one batch has it. What its certificates share is counted in memory of the batch: where cores that
/// mint at the same time count it in the same place, they wait for each other several times a certificate.
#[derive(Debug, Clone)]
pub(crate) struct BatchIssuer(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    issuer: Arc<Issuer>,
    /// As [`Issuer::chain`], in bytes of the batch.
    chain: Arc<[Bytes]>,
}

/// A certificate that passed every check and lacks only its signature. [`Issuer::prepare`] alone makes
/// one, and only the issuer that made it can sign it.
#[derive(Debug)]
#[must_use]
pub struct Prepared {
    issuer: BatchIssuer,
    tbs: ToBeSigned,
    profile: Profile,
    id: SpiffeId,
    serial: Serial,
    key_digest: [u8; 32],
    not_before: Timestamp,
    not_after: Timestamp,
}

/// A signed X509-SVID and its chain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct X509Svid {
    /// The identity it gives.
    pub id: SpiffeId,
    /// DER of the certificate.
    pub leaf: Bytes,
    /// DER of the intermediates that follow it.
    pub intermediates: Arc<[Bytes]>,
    /// The leaf's serial number.
    pub serial: Serial,
    /// The last second in which the leaf is valid.
    pub expires_at: Timestamp,
}

impl X509Svid {
    /// DER, leaf first, then intermediates; no root (X509-SVID §3, Workload API).
    pub fn chain(&self) -> impl Iterator<Item = &Bytes> {
        std::iter::once(&self.leaf).chain(&*self.intermediates)
    }
}

impl Issuer {
    /// An issuer over a CA certificate and the key that belongs to it, which signs by `algorithm`.
    ///
    /// # Errors
    /// [`SignError::Refused`] if the key is not the certificate's, or cannot sign so.
    pub fn new(
        trust_domain: TrustDomain,
        certificate: CaCertificate,
        chain: Vec<Bytes>,
        key: Arc<dyn SigningKey>,
        algorithm: SignatureAlgorithm,
        lifetimes: Lifetimes,
    ) -> Result<Self, SignError> {
        let refused =
            |reason| SignError::Refused { key: key.public_key().key_id().to_string(), reason };
        if key.public_key() != certificate.key() {
            let reason = format!("it is not the key of CA certificate {}", certificate.key_id());
            return Err(refused(reason));
        }
        if !key.algorithms().contains(&algorithm) {
            return Err(refused(format!("it does not sign by {algorithm}")));
        }
        let templates = Profile::ALL.map(|profile| {
            let subject = certificate.subject().clone();
            Template::new(profile, algorithm, subject, Some(certificate.key_id()))
        });
        let authority = certificate.key_id().to_string().into();
        Ok(Self {
            trust_domain,
            certificate,
            chain,
            key,
            algorithm,
            authority,
            issuing_key: None,
            templates,
            lifetimes,
        })
    }

    /// An issuer in the stead of this one: over a certificate that this one has issued for `key`.
    ///
    /// # Errors
    /// [`SignError::Refused`] if the key is not the certificate's.
    pub fn delegate(
        &self,
        certificate: CaCertificate,
        key: Arc<dyn SigningKey>,
    ) -> Result<Self, SignError> {
        let chain = std::iter::once(certificate.der()).chain(&self.chain).cloned().collect();
        let algorithm = key.public_key().kind().usual_algorithm();
        let trust_domain = self.trust_domain.clone();
        let issuer = Self::new(trust_domain, certificate, chain, key, algorithm, self.lifetimes)?;
        let own = Some(Arc::clone(&issuer.authority));
        Ok(Self { authority: Arc::clone(&self.authority), issuing_key: own, ..issuer })
    }

    /// The id of the short-lived key that issues in the authority's stead, if this is one.
    #[must_use]
    pub fn issuing_key(&self) -> Option<&Arc<str>> {
        self.issuing_key.as_ref()
    }

    /// The life of certificates for which no other was asked.
    #[must_use]
    pub fn usual_ttl(&self) -> Duration {
        self.lifetimes.default_ttl
    }

    /// Until when a certificate is wanted that is asked for now.
    pub(crate) fn wanted_end(&self, ttl: Option<Duration>, now: Timestamp) -> Timestamp {
        now.plus(ttl.unwrap_or(self.lifetimes.default_ttl))
    }

    /// Its CA certificate.
    #[must_use]
    pub fn certificate(&self) -> &CaCertificate {
        &self.certificate
    }

    /// Its key.
    #[must_use]
    pub fn key(&self) -> &dyn SigningKey {
        &*self.key
    }

    /// How it signs.
    #[must_use]
    pub fn algorithm(&self) -> SignatureAlgorithm {
        self.algorithm
    }

    /// Its authority id: the subject key identifier in hexadecimal, as SPIRE names authorities.
    #[must_use]
    pub fn authority(&self) -> &Arc<str> {
        &self.authority
    }

    /// Encodes and checks the certificate that a grant allows. Pure: the same inputs give the same bytes.
    ///
    /// The end is the granted one or the issuer's, whichever comes first; so is SPIRE's.
    pub fn prepare(
        self: &Arc<Self>,
        grant: X509Grant,
        serial: Serial,
        now: Timestamp,
    ) -> Result<Prepared, IssueError> {
        BatchIssuer::of(self).prepare(grant, serial, now)
    }

    fn validity(
        &self,
        ttl: Option<Duration>,
        now: Timestamp,
    ) -> Result<(Timestamp, Timestamp), IssueError> {
        let (first, last) = (self.certificate.not_before(), self.certificate.not_after());
        if now < first || now >= last {
            return Err(IssueError::OutsideValidity {
                authority: Arc::clone(&self.authority),
                not_before: first,
                not_after: last,
                now,
            });
        }
        let not_before = now.minus(self.lifetimes.backdate).max(first);
        let not_after = self.wanted_end(ttl, now).min(last);
        Ok((not_before, not_after))
    }
}

impl BatchIssuer {
    /// The issuer, for one batch.
    pub(crate) fn of(issuer: &Arc<Issuer>) -> Self {
        let chain = issuer.chain.iter().map(|der| Bytes::copy_from_slice(der)).collect();
        Self(Arc::new(Shared { issuer: Arc::clone(issuer), chain }))
    }

    /// The issuer itself.
    pub(crate) fn issuer(&self) -> &Issuer {
        &self.0.issuer
    }

    /// As [`Issuer::prepare`].
    pub(crate) fn prepare(
        &self,
        grant: X509Grant,
        serial: Serial,
        now: Timestamp,
    ) -> Result<Prepared, IssueError> {
        let issuer = self.issuer();
        let (not_before, not_after) = issuer.validity(grant.ttl(), now)?;
        let profile = grant.profile();
        let key = grant.key();
        let tbs = issuer.templates[profile as usize].tbs(&Fields {
            serial: &serial,
            not_before,
            not_after,
            subject: grant.subject(),
            key,
            id: grant.id(),
            dns_names: grant.dns_names(),
        });
        let linted = lint::check(
            tbs,
            &Expectation {
                profile,
                trust_domain: &issuer.trust_domain,
                id: grant.id(),
                key,
                algorithm: issuer.algorithm,
                issuer: Some(&issuer.certificate),
            },
        )?;
        Ok(Prepared {
            issuer: self.clone(),
            tbs: ToBeSigned::certificate(linted),
            profile,
            serial,
            key_digest: *key.fingerprint(),
            not_before,
            not_after,
            id: grant.into_id(),
        })
    }
}

impl Prepared {
    /// What the issuance log keeps of it.
    #[must_use]
    pub fn record<'a>(&'a self, caller: &'a Caller, now: Timestamp) -> Issuance<'a> {
        Issuance {
            document: Issued::X509 {
                profile: self.profile,
                serial: &self.serial,
                key_digest: &self.key_digest,
            },
            digest: self.tbs.sha256(),
            id: &self.id,
            not_before: self.not_before,
            not_after: self.not_after,
            authority: &self.issuer().authority,
            issuing_key: self.issuer().issuing_key.as_ref(),
            caller,
            time: now,
        }
    }

    /// Has it signed by the key of the issuer that prepared it.
    pub async fn sign(self, urgency: Urgency) -> Result<X509Svid, SignError> {
        let signature = self.issuer().key.sign_checked(self.tbs.clone(), urgency).await?;
        Ok(self.signed(&signature))
    }

    /// Whether its key signs in this process.
    #[must_use]
    pub fn is_signed_here(&self) -> bool {
        matches!(self.issuer().key.reach(), Reach::Here(_))
    }

    /// [`sign`](Self::sign) on this thread, by a key that [signs here](Self::is_signed_here).
    pub fn sign_here(self, urgency: Urgency) -> Result<X509Svid, SignError> {
        let signature = self.issuer().key.sign_here_checked(&self.tbs, urgency)?;
        Ok(self.signed(&signature))
    }

    fn issuer(&self) -> &Issuer {
        self.issuer.issuer()
    }

    fn signed(self, signature: &Signature) -> X509Svid {
        let leaf = assemble(self.tbs.message(), signature).into();
        let intermediates = Arc::clone(&self.issuer.0.chain);
        let Self { id, serial, not_after, .. } = self;
        X509Svid { id, leaf, intermediates, serial, expires_at: not_after }
    }
}

/// Makes the self-signed certificate of a trust domain's authority (X509-SVID §4; the trust domain's own
/// ID is its URI name), signed by `algorithm`, and verifies it.
pub async fn self_sign(
    trust_domain: &TrustDomain,
    subject: &Name,
    key: &dyn SigningKey,
    algorithm: SignatureAlgorithm,
    serial: Serial,
    (not_before, not_after): (Timestamp, Timestamp),
    urgency: Urgency,
) -> Result<CaCertificate, IssueError> {
    let template = Template::new(Profile::Root, algorithm, subject.clone(), None);
    let id = trust_domain.id();
    let public_key = key.public_key();
    let tbs = template.tbs(&Fields {
        serial: &serial,
        not_before,
        not_after,
        subject,
        key: public_key,
        id: &id,
        dns_names: &[],
    });
    let linted = lint::check(
        tbs,
        &Expectation {
            profile: Profile::Root,
            trust_domain,
            id: &id,
            key: public_key,
            algorithm,
            issuer: None,
        },
    )?;
    let tbs = ToBeSigned::certificate(linted);
    let signature = key.sign_checked(tbs.clone(), urgency).await?;
    Ok(CaCertificate::from_der(&assemble(tbs.message(), &signature))?)
}
