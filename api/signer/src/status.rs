//! What a failure looks like to a gRPC client: the only place that makes a [`Status`].
//!
//! Codes and the beginnings of texts are SPIRE's, because people and scripts look for them; our reason
//! follows after a colon. Devices' and disks' own words go to the log and not to the client.

use std::fmt;
use std::time::Duration;

use ca_core::csr::CsrError;
use ca_core::dns::DnsError;
use ca_core::id::IdError;
use ca_core::issuer::IssueError;
use ca_core::key::SignError;
use ca_core::mint::MintError;
use ca_core::policy::Refusal;
use ca_core::token::TokenError;
use thiserror::Error;
use tonic::{Code, Status};

use crate::log_levels::LogLevelError;

/// Why a call fails. Shows everything, for the log; [`Status`] is what the client gets.
#[derive(Debug, Error)]
pub(crate) enum Failure {
    /// A mint request without a CSR.
    #[error("missing CSR")]
    CsrMissing,
    /// The CSR cannot be read, or does not prove possession of its key.
    #[error("CSR: {0}")]
    Csr(#[from] CsrError),
    /// A mint request without an ID.
    #[error("missing SPIFFE ID")]
    IdMissing,
    /// The text of the ID is not one.
    #[error(transparent)]
    Id(IdError),
    /// The policy says no.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// A granted document was not made.
    #[error("{1}")]
    Mint(Document, MintError),
    /// There are no authorities yet.
    #[error("there is no bundle yet")]
    BundleMissing,
    /// The new log level is the one that means none.
    #[error("log level is unspecified")]
    LogLevelUnspecified,
    /// The new log level is no level.
    #[error("log level is unknown")]
    LogLevelUnknown,
    /// The log level could not be changed.
    #[error(transparent)]
    LogLevel(#[from] LogLevelError),
    /// Health was asked of one service.
    #[error("health of one service is not told")]
    HealthOfService,
    /// A method that exists in the protocol and not here.
    #[error("{0} is not offered")]
    NotOffered(&'static str),
    /// The connection carries no caller; only a mistake in our own wiring can do that.
    #[error("the connection names no caller")]
    CallerUnknown,
}

/// What was being made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Document {
    X509Svid,
    JwtSvid,
}

impl fmt::Display for Document {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::X509Svid => "X509-SVID",
            Self::JwtSvid => "JWT-SVID",
        })
    }
}

impl Failure {
    /// Whether the server is at fault, and not what it was asked for.
    pub(crate) fn is_ours(&self) -> bool {
        match self {
            Self::Mint(..) | Self::LogLevel(_) | Self::CallerUnknown => true,
            Self::CsrMissing
            | Self::Csr(_)
            | Self::IdMissing
            | Self::Id(_)
            | Self::Refused(_)
            | Self::BundleMissing
            | Self::LogLevelUnspecified
            | Self::LogLevelUnknown
            | Self::HealthOfService
            | Self::NotOffered(_) => false,
        }
    }
}

impl From<Failure> for Status {
    fn from(failure: Failure) -> Self {
        let invalid = |text: String| Self::invalid_argument(text);
        match failure {
            Failure::CsrMissing => invalid("missing CSR".to_owned()),
            Failure::Csr(CsrError::Malformed(reason)) => {
                invalid(format!("malformed CSR: {reason}"))
            }
            Failure::Csr(
                reason @ (CsrError::Key(_)
                | CsrError::UnknownAlgorithm
                | CsrError::Algorithm { .. }
                | CsrError::Signature),
            ) => invalid(format!("failed to verify CSR signature: {reason}")),
            Failure::IdMissing => {
                invalid("invalid SPIFFE ID: request must specify SPIFFE ID".to_owned())
            }
            Failure::Id(reason) => invalid(format!("invalid SPIFFE ID: {reason}")),
            Failure::Refused(refusal) => invalid(refused(&refusal)),
            Failure::Mint(document, error) => not_minted(document, error),
            Failure::BundleMissing => Self::not_found("bundle not found"),
            Failure::LogLevelUnspecified => {
                invalid("newLevel value cannot be LogLevel_UNSPECIFIED".to_owned())
            }
            Failure::LogLevelUnknown => invalid("unsupported log level".to_owned()),
            Failure::LogLevel(error) => Self::internal(error.to_string()),
            Failure::HealthOfService => invalid("per-service health is not supported".to_owned()),
            Failure::NotOffered(method) => {
                Self::unimplemented(format!("{method} is not offered by this server"))
            }
            Failure::CallerUnknown => Self::internal("caller is unknown; see the server's log"),
        }
    }
}

/// The text for what the policy refuses; each is an invalid argument.
fn refused(refusal: &Refusal) -> String {
    match refusal {
        Refusal::UriMissing => format!("CSR URI SAN is required: {refusal}"),
        Refusal::UriNotSingle(_) => format!("only one URI SAN is expected: {refusal}"),
        Refusal::Uri(reason) => format!("CSR URI SAN is invalid: {reason}"),
        Refusal::Dns(reason @ DnsError::Malformed { .. }) => {
            format!("CSR DNS name is invalid: {reason}")
        }
        Refusal::Dns(reason @ DnsError::Overlap { .. }) => {
            format!(
                "CSR DNS name contains a wildcard that covers another non-wildcard name: {reason}"
            )
        }
        Refusal::Subject(reason) => format!("CSR subject is invalid: {reason}"),
        Refusal::Id(reason) => format!("invalid SPIFFE ID: {reason}"),
        Refusal::AudienceMissing => format!("at least one audience is required: {refusal}"),
        Refusal::AudienceTooLong(_) => format!("audience is invalid: {refusal}"),
        Refusal::Ttl(_) => format!("TTL is invalid: {refusal}"),
    }
}

fn not_minted(document: Document, error: MintError) -> Status {
    match error {
        MintError::X509(IssueError::Sign(error)) | MintError::Jwt(TokenError::Sign(error)) => {
            not_signed(document, &error)
        }
        MintError::X509(error @ IssueError::OutsideValidity { .. }) => {
            Status::internal(format!("failed to sign {document}: {error}"))
        }
        MintError::X509(
            IssueError::Serial(_) | IssueError::Lint(_) | IssueError::Certificate(_),
        ) => Status::internal(format!("failed to sign {document}; the server's log says why")),
        MintError::Jwt(
            error @ (TokenError::Ended { .. } | TokenError::Algorithm(_) | TokenError::Random),
        ) => Status::internal(format!("failed to sign {document}: {error}")),
        MintError::Log(_) => Status::unavailable(format!(
            "failed to sign {document}: the issuance log cannot be written; the server's log says why"
        )),
    }
}

fn not_signed(document: Document, error: &SignError) -> Status {
    match error {
        SignError::Busy { retry_after, .. } => busy(document, *retry_after),
        SignError::Unavailable { .. } => Status::unavailable(format!(
            "failed to sign {document}: the key is unavailable; the server's log says why"
        )),
        SignError::Refused { .. } | SignError::Malformed { .. } => Status::internal(format!(
            "failed to sign {document}: the key failed; the server's log says why"
        )),
    }
}

/// `UNAVAILABLE` is what gRPC clients try again; `grpc-retry-pushback-ms` tells them when.
fn busy(document: Document, retry_after: Duration) -> Status {
    let milliseconds = retry_after.as_millis();
    let mut status = Status::new(
        Code::Unavailable,
        format!(
            "failed to sign {document}: every signing slot is taken; try again in {milliseconds} ms"
        ),
    );
    if let Ok(value) = milliseconds.to_string().parse() {
        status.metadata_mut().insert("grpc-retry-pushback-ms", value);
    }
    status
}
