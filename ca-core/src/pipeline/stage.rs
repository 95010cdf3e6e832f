//! What is handed from stage to stage. Each type is made by the stage before, and by nothing else.

use futures_util::future::Shared;

use crate::clock::Timestamp;
use crate::csr::Csr;
use crate::issuer::{self, IssueError, X509Svid};
use crate::key::Urgency;
use crate::log::{Appending, Caller, Issuance, LogError};
use crate::mint::{MintError, Round};
use crate::policy::{self, JwtGrant, NameGrant, X509Grant};
use crate::token::{JwtSvid, PreparedToken, TokenError};

/// What somebody wants minted.
#[derive(Debug)]
pub enum Wish {
    /// A certificate that was granted.
    X509(X509Grant),
    /// The certificate that a CSR of an administrator of this machine asks for. The CSR is verified when its turn
    /// has come: that costs three times a signature.
    Csr {
        /// DER.
        der: bytes::Bytes,
        /// Zero for the default.
        ttl_seconds: i32,
    },
    /// The certificate of names that a front end was granted, for the key of a CSR. It is verified when its turn has
    /// come, and nothing else is taken from it.
    Proven {
        /// DER.
        csr: bytes::Bytes,
        /// What the certificate will say.
        names: NameGrant,
    },
    /// A token that was granted.
    Jwt(JwtGrant),
}

/// What was minted: signed, logged, and to be sent.
#[derive(Debug, Clone)]
pub enum Minted {
    /// A certificate and its chain.
    X509(X509Svid),
    /// A token.
    Jwt(JwtSvid),
}

/// Checked, and not signed.
pub(super) enum Prepared {
    X509(issuer::Prepared),
    Jwt(PreparedToken),
}

/// Signed, and not to be sent yet.
pub(super) struct Signed(Minted);

/// That what was signed is in the log.
pub(super) struct Logged(());

impl Wish {
    /// Verifies, decides and encodes.
    pub(super) fn prepare(self, round: &Round<'_>) -> Result<Prepared, MintError> {
        let grant = match self {
            Self::X509(grant) => grant,
            Self::Csr { der, ttl_seconds } => {
                let csr = Csr::parse(&der)?.verify()?;
                policy::mint_x509(round.trust_domain(), &csr, ttl_seconds)?
            }
            Self::Proven { csr, names } => names.proven(Csr::parse(&csr)?.verify()?)?,
            Self::Jwt(grant) => return Ok(Prepared::Jwt(round.jwt(grant)?)),
        };
        Ok(Prepared::X509(round.x509(grant)?))
    }

    /// Bytes that it holds.
    pub(super) fn size(&self) -> usize {
        size_of::<Self>()
            + match self {
                Self::X509(grant) => grant.size(),
                Self::Csr { der, .. } => der.len(),
                Self::Proven { csr, names } => csr.len() + names.size(),
                Self::Jwt(grant) => grant.size(),
            }
    }

    /// How many signatures' time preparing it takes.
    pub(super) fn work(&self) -> usize {
        match self {
            Self::Csr { .. } | Self::Proven { .. } => 3,
            Self::X509(_) | Self::Jwt(_) => 0,
        }
    }
}

impl Prepared {
    /// What the log keeps of it.
    pub(super) fn record<'a>(&'a self, caller: &'a Caller, now: Timestamp) -> Issuance<'a> {
        match self {
            Self::X509(prepared) => prepared.record(caller, now),
            Self::Jwt(prepared) => prepared.record(caller, now),
        }
    }

    /// Whether its key signs in this process.
    pub(super) fn is_signed_here(&self) -> bool {
        match self {
            Self::X509(prepared) => prepared.is_signed_here(),
            Self::Jwt(prepared) => prepared.is_signed_here(),
        }
    }

    /// Has it signed on this thread, by a key that signs here.
    pub(super) fn sign_here(self, urgency: Urgency) -> Result<Signed, MintError> {
        match self {
            Self::X509(prepared) => {
                let signed = prepared.sign_here(urgency);
                signed.map(Signed::x509).map_err(|error| IssueError::from(error).into())
            }
            Self::Jwt(prepared) => {
                let signed = prepared.sign_here(urgency);
                signed.map(Signed::jwt).map_err(|error| TokenError::from(error).into())
            }
        }
    }

    /// Has it signed wherever its key is. The key verifies, as its settings say, before it answers.
    pub(super) async fn sign(self, urgency: Urgency) -> Result<Signed, MintError> {
        match self {
            Self::X509(prepared) => {
                let signed = prepared.sign(urgency).await;
                signed.map(Signed::x509).map_err(|error| IssueError::from(error).into())
            }
            Self::Jwt(prepared) => {
                let signed = prepared.sign(urgency).await;
                signed.map(Signed::jwt).map_err(|error| TokenError::from(error).into())
            }
        }
    }
}

impl Signed {
    fn x509(svid: X509Svid) -> Self {
        Self(Minted::X509(svid))
    }

    fn jwt(svid: JwtSvid) -> Self {
        Self(Minted::Jwt(svid))
    }

    /// Nothing is released that is not logged.
    pub(super) fn release(self, _: &Logged) -> Minted {
        self.0
    }
}

impl Logged {
    /// Waits for the log's answer.
    pub(super) async fn from(appending: Shared<Appending>) -> Result<Self, LogError> {
        appending.await.map(Self)
    }
}
