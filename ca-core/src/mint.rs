//! The road of one mint inside the process: prepare, sign and log side by side, release.

use std::sync::Arc;

use futures_util::future::join;
use thiserror::Error;

use crate::authority::Authorities;
use crate::bundle::Bundle;
use crate::clock::Timestamp;
use crate::id::TrustDomain;
use crate::issuer::{IssueError, X509Svid};
use crate::key::{SignError, Urgency};
use crate::log::{Caller, IssuanceLog, LogError};
use crate::policy::{JwtGrant, X509Grant};
use crate::serial::SerialSource;
use crate::token::{JwtSvid, TokenError};

/// Mints under the authorities of one trust domain.
pub struct Mint {
    authorities: Authorities,
    serials: Box<dyn SerialSource>,
    log: Arc<dyn IssuanceLog>,
}

/// Why a grant did not become an SVID. None of it is the caller's fault.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum MintError {
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
    /// A mint over the authorities, serial numbers and log of a process.
    #[must_use]
    pub fn new(
        authorities: Authorities,
        serials: Box<dyn SerialSource>,
        log: Arc<dyn IssuanceLog>,
    ) -> Self {
        Self { authorities, serials, log }
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
        let serial = self.serials.next().map_err(IssueError::from)?;
        let prepared = self.authorities.x509.prepare(grant, serial, now)?;
        let record = prepared.record(caller, now);
        let (signed, logged) = join(prepared.sign(urgency), self.log.append(record)).await;
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
        let prepared = self.authorities.jwt.prepare(grant, now)?;
        let record = prepared.record(caller, now);
        let (signed, logged) = join(prepared.sign(urgency), self.log.append(record)).await;
        logged?;
        signed.map_err(|error: SignError| TokenError::from(error).into())
    }
}

impl std::fmt::Debug for Mint {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Mint").field("authorities", &self.authorities).finish_non_exhaustive()
    }
}
