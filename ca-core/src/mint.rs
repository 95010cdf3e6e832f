//! What a process mints with: authorities, issuing keys, serial numbers and the log. Many at once, and all that
//! others ask for, go through the [`pipeline`](crate::pipeline).

use std::cell::OnceCell;
use std::sync::Arc;

use futures_util::future::join;
use thiserror::Error;

use crate::authority::Authorities;
use crate::bundle::Bundle;
use crate::certificate::CaCertificate;
use crate::clock::Timestamp;
use crate::csr::{CsrError, VerifiedKey};
use crate::id::TrustDomain;
use crate::issuer::{BatchIssuer, IssueError, Issuer, Prepared, X509Svid};
use crate::issuing::{Delegation, IssuingMode};
use crate::key::{SignError, SigningKey, Urgency};
use crate::log::{Caller, IssuanceLog, LogError};
use crate::pipeline::admission::Refused;
use crate::policy::{self, JwtGrant, Refusal, X509Grant};
use crate::serial::SerialSource;
use crate::token::{BatchTokenIssuer, JwtSvid, PreparedToken, TokenError};

/// Mints under the authorities of one trust domain.
pub struct Mint {
    authorities: Authorities,
    /// `None` where the authority's own key signs leaves.
    delegation: Option<Delegation>,
    serials: Box<dyn SerialSource>,
    log: Arc<dyn IssuanceLog>,
}

/// Why there is no SVID.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum MintError {
    /// The CSR cannot be read, or does not prove possession of its key.
    #[error("CSR: {0}")]
    Csr(#[from] CsrError),
    /// The policy says no.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// It was not let in, or its turn came too late.
    #[error(transparent)]
    NotAdmitted(#[from] Refused),
    /// A fault of ours ended the batch that it was in.
    #[error("minting was broken off; the server's log says why")]
    BrokenOff,
    /// The certificate could not be issued.
    #[error(transparent)]
    X509(#[from] IssueError),
    /// The token could not be issued.
    #[error(transparent)]
    Jwt(#[from] TokenError),
    /// The record could not be written, so nothing is released.
    #[error(transparent)]
    Log(#[from] LogError),
}

impl Mint {
    /// A mint over the authorities, serial numbers and log of a process. A delegated one signs with the
    /// authority's own key until it has [one of its own](Self::delegate).
    #[must_use]
    pub fn new(
        authorities: Authorities,
        mode: IssuingMode,
        serials: Box<dyn SerialSource>,
        log: Arc<dyn IssuanceLog>,
    ) -> Self {
        let delegation = match mode {
            IssuingMode::Direct => None,
            IssuingMode::Delegated(settings) => Some(Delegation::new(settings)),
        };
        Self { authorities, delegation, serials, log }
    }

    /// The trust domain whose SVIDs it mints.
    #[must_use]
    pub fn trust_domain(&self) -> &TrustDomain {
        &self.authorities.bundle.trust_domain
    }

    /// What others verify its SVIDs by.
    #[must_use]
    pub fn bundle(&self) -> &Arc<Bundle> {
        &self.authorities.bundle
    }

    /// The authorities under which it mints.
    #[must_use]
    pub fn authorities(&self) -> &Authorities {
        &self.authorities
    }

    /// Mints the X509-SVID of a grant. It is released when it is both signed and logged.
    pub async fn x509(
        &self,
        grant: X509Grant,
        caller: Caller,
        now: Timestamp,
        urgency: Urgency,
    ) -> Result<X509Svid, MintError> {
        self.release(self.round(now).x509(grant)?, caller, now, urgency).await
    }

    /// What all that is prepared at one time shares.
    pub(crate) fn round(&self, now: Timestamp) -> Round<'_> {
        let issuing = self.delegation.as_ref().and_then(Delegation::present);
        let issuing = issuing.map(|issuer| BatchIssuer::of(&issuer));
        Round { mint: self, issuing, authority: OnceCell::new(), tokens: OnceCell::new(), now }
    }

    /// Where its records go.
    pub(crate) fn log(&self) -> &dyn IssuanceLog {
        &*self.log
    }

    /// The issuing key of this process, where leaves are not signed by the authority's own.
    #[must_use]
    pub fn delegation(&self) -> Option<&Delegation> {
        self.delegation.as_ref()
    }

    /// Has the authority certify a fresh key, which issues from then on. Its CA certificate is logged like any
    /// other before it is used.
    ///
    /// # Errors
    /// Those of a mint. The last key goes on issuing then.
    pub async fn delegate(
        &self,
        delegation: &Delegation,
        key: Arc<dyn SigningKey>,
        now: Timestamp,
        urgency: Urgency,
    ) -> Result<CaCertificate, MintError> {
        let settings = delegation.settings();
        let verified = VerifiedKey::of_ours(&*key, urgency).await.map_err(IssueError::from)?;
        let serial = self.serials.next().map_err(IssueError::from)?;
        let subject = settings.subject.name(&serial).map_err(IssueError::from)?;
        let grant = policy::issuing_key(self.trust_domain(), verified, subject, settings.life);
        let authority: &Arc<Issuer> = &self.authorities.x509;
        let prepared = authority.prepare(grant, serial, now)?;
        let signed = self.release(prepared, Caller::Signer, now, urgency).await?;
        let certificate = CaCertificate::from_der(&signed.leaf).map_err(IssueError::from)?;
        let issuer = authority.delegate(certificate.clone(), key).map_err(IssueError::from)?;
        delegation.adopt(issuer);
        Ok(certificate)
    }

    /// Signs and logs, side by side.
    async fn release(
        &self,
        prepared: Prepared,
        caller: Caller,
        now: Timestamp,
        urgency: Urgency,
    ) -> Result<X509Svid, MintError> {
        let appending = self.log.append(&[prepared.record(&caller, now)]);
        let (signed, logged) = join(prepared.sign(urgency), appending).await;
        logged?;
        signed.map_err(|error: SignError| IssueError::from(error).into())
    }

    /// Mints the JWT-SVID of a grant. It is released when it is both signed and logged.
    pub async fn jwt(
        &self,
        grant: JwtGrant,
        caller: Caller,
        now: Timestamp,
        urgency: Urgency,
    ) -> Result<JwtSvid, MintError> {
        let prepared = self.round(now).jwt(grant)?;
        let appending = self.log.append(&[prepared.record(&caller, now)]);
        let (signed, logged) = join(prepared.sign(urgency), appending).await;
        logged?;
        signed.map_err(|error: SignError| TokenError::from(error).into())
    }
}

/// Preparing, at one time: who issues is looked up once for many.
pub(crate) struct Round<'a> {
    mint: &'a Mint,
    /// The issuing key of this process, if it has one.
    issuing: Option<BatchIssuer>,
    authority: OnceCell<BatchIssuer>,
    tokens: OnceCell<BatchTokenIssuer>,
    now: Timestamp,
}

impl Round<'_> {
    /// When it is.
    pub(crate) fn now(&self) -> Timestamp {
        self.now
    }

    /// The trust domain that is minted for.
    pub(crate) fn trust_domain(&self) -> &TrustDomain {
        self.mint.trust_domain()
    }

    /// The certificate of a grant, checked and not signed. CA certificates, and those of the service itself, are the
    /// authority's own to sign.
    pub(crate) fn x509(&self, grant: X509Grant) -> Result<Prepared, IssueError> {
        let serial = self.mint.serials.next()?;
        let authority = &self.mint.authorities.x509;
        let own = match (&self.mint.delegation, &self.issuing) {
            (Some(delegation), Some(issuing)) if !grant.profile().is_of_authority() => delegation
                .issues(issuing.issuer(), authority, grant.ttl(), self.now)?
                .then_some(issuing),
            _ => None,
        };
        let issuer =
            own.unwrap_or_else(|| self.authority.get_or_init(|| BatchIssuer::of(authority)));
        issuer.prepare(grant, serial, self.now)
    }

    /// The token of a grant, not signed.
    pub(crate) fn jwt(&self, grant: JwtGrant) -> Result<PreparedToken, TokenError> {
        let issuer = &self.mint.authorities.jwt;
        self.tokens.get_or_init(|| BatchTokenIssuer::of(issuer)).prepare(grant, self.now)
    }
}

impl std::fmt::Debug for Mint {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Mint").field("authorities", &self.authorities).finish_non_exhaustive()
    }
}
