//! What a failure looks like to a gRPC client: the only place that makes a [`Status`].
//!
//! Codes and the beginnings of texts are SPIRE's, because people and scripts look for them; our reason
//! follows after a colon. Devices' and disks' own words go to the log and not to the client.

use std::fmt;
use std::time::Duration;

use ca_core::authority::AuthorityError;
use ca_core::csr::CsrError;
use ca_core::dns::DnsError;
use ca_core::excerpt::Excerpt;
use ca_core::frontend::{
    FrontEndError, FrontEndName, NameError, OverBudget, RateError, ScopeError, TermsError,
};
use ca_core::id::IdError;
use ca_core::issuer::IssueError;
use ca_core::key::{PublicKeyError, SignError};
use ca_core::log::LogError;
use ca_core::log::identity::IdentityError;
use ca_core::mint::MintError;
use ca_core::pipeline::admission::Refused;
use ca_core::policy::Refusal;
use ca_core::token::TokenError;
use thiserror::Error;
use tonic::{Code, Status};

use crate::log_levels::LogLevelError;
use crate::signing::{VERSION, authorise};

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
    /// A front end may not have what it asks for.
    #[error(transparent)]
    Item(authorise::Refusal),
    /// A front end asks for more than its record allows it.
    #[error(transparent)]
    OverBudget(OverBudget),
    /// What a peer has sent ends its call: it cannot be read, is more than may be, or did not come to its end.
    #[error("{}", .0.message())]
    Unreadable(Box<Status>),
    /// A front end relies on a later version of the contract.
    #[error(
        "the front end relies on version {0} of mintmark.signing.v1, and this signer has version {VERSION}; upgrade the signer first"
    )]
    Version(u32),
    /// The name of an instance that cannot be written down.
    #[error("{0} is no name of an instance: at most 64 of A-Z a-z 0-9 . _ -")]
    InstanceId(Excerpt),
    /// The signer lets a stream end.
    #[error("the signer is stopping, or the connection has to be made anew; connect again")]
    Stopping,
    /// A granted document was not made.
    #[error("{1}")]
    Mint(Document, MintError),
    /// A granted document took too long to make.
    #[error("{document} took longer than {} s", limit.as_secs())]
    TooSlow { document: Document, limit: Duration },
    /// There are no authorities yet.
    #[error("there is no bundle yet")]
    BundleMissing,
    /// The record of keys was not read or written.
    #[error(transparent)]
    KeyRecord(#[from] AuthorityError),
    /// The key to retire has no name that a key of ours can have.
    #[error(
        "{0} is no name of a key of this trust domain: mintmark/<trust domain>/<authority>/<generation>"
    )]
    KeyName(Excerpt),
    /// The public half of the key to retire is none.
    #[error("public key: {0}")]
    PublicKey(#[from] PublicKeyError),
    /// The record of the issuance log was not read.
    #[error(transparent)]
    LogRecord(#[from] IdentityError),
    /// No issuance log was begun.
    #[error("the state store knows of no issuance log")]
    LogMissing,
    /// A front end was not enrolled or withdrawn.
    #[error(transparent)]
    FrontEnd(#[from] FrontEndError),
    /// There is no front end of that name.
    #[error("there is no front end {0}; `mintmark frontend list` shows those that there are")]
    FrontEndMissing(FrontEndName),
    /// The name of a front end is none.
    #[error(transparent)]
    FrontEndName(#[from] NameError),
    /// A scope of a front end is none.
    #[error(transparent)]
    Scope(#[from] ScopeError),
    /// A front end cannot have these terms.
    #[error(transparent)]
    Terms(#[from] TermsError),
    /// A budget of a front end is none.
    #[error(transparent)]
    Rate(#[from] RateError),
    /// A type of key that does not exist.
    #[error("{0} is no type of key; use ec-p256, ec-p384, ed25519, rsa-2048, rsa-3072 or rsa-4096")]
    KeyTypeUnknown(Excerpt),
    /// A class that does not exist, or is there twice.
    #[error("{0} is no class, or is given twice; use expiring, new, refresh and bulk, each once")]
    ClassUnknown(Excerpt),
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
    /// A service that does not answer here; by its path.
    #[error("{0} is not offered")]
    ServiceNotOffered(Excerpt),
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

impl Document {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::X509Svid => "X509-SVID",
            Self::JwtSvid => "JWT-SVID",
        }
    }
}

impl fmt::Display for Document {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// What kind of reason a failure is, for those who count and bound what is written of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// The request cannot be read, or proves nothing.
    Request,
    /// It was understood, and may not be.
    Policy,
    /// There is more to do than can be done now.
    Overload,
    /// A fault of ours.
    Failure,
    /// A front end, or who holds the certificate of one, was not let in, or was cut off.
    Connection,
    /// Anybody else was not let in.
    Stranger,
}

impl Kind {
    /// All, each at its number.
    pub(crate) const ALL: [Self; 6] = [
        Self::Request,
        Self::Policy,
        Self::Overload,
        Self::Failure,
        Self::Connection,
        Self::Stranger,
    ];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Request => "request",
            Self::Policy => "policy",
            Self::Overload => "overload",
            Self::Failure => "failure",
            Self::Connection => "connection",
            Self::Stranger => "stranger",
        }
    }
}

impl Failure {
    /// That a document was not made; what is wrong with the request is told as that.
    pub(crate) fn of_mint(document: Document, error: MintError) -> Self {
        match error {
            MintError::Csr(error) => Self::Csr(error),
            MintError::Refused(refusal) => Self::Refused(refusal),
            other => Self::Mint(document, other),
        }
    }

    /// Whether it asks for what this server does not have.
    pub(crate) fn is_not_offered(&self) -> bool {
        matches!(
            self,
            Self::NotOffered(_)
                | Self::ServiceNotOffered(_)
                | Self::Item(authorise::Refusal::EntryNotOffered)
        )
    }

    /// Whether a device or a disk is away, and may be back, or be there for another server.
    pub(crate) fn is_away(&self) -> bool {
        let Self::Mint(_, error) = self else { return false };
        let signing = match error {
            MintError::X509(IssueError::Sign(error)) | MintError::Jwt(TokenError::Sign(error)) => {
                error
            }
            MintError::Log(_) => return true,
            _ => return false,
        };
        matches!(signing, SignError::Unavailable { .. } | SignError::Late { .. })
    }

    /// When it may help to ask again, if that is known.
    pub(crate) fn retry_after(&self) -> Option<Duration> {
        let error = match self {
            Self::OverBudget(OverBudget::Used { after }) => return Some(*after),
            Self::Mint(_, error) => error,
            _ => return None,
        };
        match error {
            MintError::NotAdmitted(Refused::Full(again) | Refused::Budget(again)) => Some(*again),
            MintError::X509(IssueError::Sign(SignError::Busy { retry_after, .. }))
            | MintError::Jwt(TokenError::Sign(SignError::Busy { retry_after, .. })) => {
                Some(*retry_after)
            }
            _ => None,
        }
    }

    /// What kind of reason it is.
    pub(crate) fn kind(&self) -> Kind {
        match self {
            Self::Mint(
                _,
                MintError::NotAdmitted(_)
                | MintError::Log(LogError::Busy)
                | MintError::X509(IssueError::Sign(SignError::Busy { .. }))
                | MintError::Jwt(TokenError::Sign(SignError::Busy { .. })),
            ) => Kind::Overload,
            _ if self.is_ours() => Kind::Failure,
            Self::OverBudget(_) | Self::FrontEnd(FrontEndError::Contended(_)) => Kind::Overload,
            Self::Item(authorise::Refusal::Policy(_)) => Kind::Policy,
            Self::Refused(_) | Self::Mint(..) | Self::KeyRecord(_) | Self::FrontEnd(_) => {
                Kind::Policy
            }
            _ => Kind::Request,
        }
    }

    /// Whether the server is at fault, and not what it was asked for.
    pub(crate) fn is_ours(&self) -> bool {
        match self {
            Self::KeyRecord(AuthorityError::KeyInUse { .. })
            | Self::Mint(_, MintError::X509(IssueError::LongTtl { .. }))
            | Self::Mint(_, MintError::NotAdmitted(_)) => false,
            // Others were quicker: to be tried again, and nobody's fault.
            Self::FrontEnd(error) => matches!(error, FrontEndError::Store(_)),
            Self::Mint(..)
            | Self::TooSlow { .. }
            | Self::KeyRecord(_)
            | Self::LogRecord(_)
            | Self::LogLevel(_)
            | Self::CallerUnknown => true,
            Self::CsrMissing
            | Self::Csr(_)
            | Self::IdMissing
            | Self::Id(_)
            | Self::Refused(_)
            | Self::Item(_)
            | Self::OverBudget(_)
            | Self::Unreadable(_)
            | Self::Version(_)
            | Self::InstanceId(_)
            | Self::Stopping
            | Self::BundleMissing
            | Self::LogMissing
            | Self::KeyName(_)
            | Self::PublicKey(_)
            | Self::FrontEndMissing(_)
            | Self::FrontEndName(_)
            | Self::Scope(_)
            | Self::Terms(_)
            | Self::Rate(_)
            | Self::KeyTypeUnknown(_)
            | Self::ClassUnknown(_)
            | Self::LogLevelUnspecified
            | Self::LogLevelUnknown
            | Self::HealthOfService
            | Self::NotOffered(_)
            | Self::ServiceNotOffered(_) => false,
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
            Failure::Refused(refusal) => refused(&refusal),
            Failure::Item(refusal) => invalid(refusal.to_string()),
            Failure::OverBudget(_) => {
                let text = failure.to_string();
                match failure.retry_after() {
                    Some(again) => pushed_back(Code::ResourceExhausted, text, again),
                    None => Self::resource_exhausted(text),
                }
            }
            Failure::Unreadable(status) => *status,
            Failure::Version(_) => Self::failed_precondition(failure.to_string()),
            Failure::InstanceId(_) => invalid(failure.to_string()),
            Failure::Stopping => Self::unavailable(failure.to_string()),
            Failure::Mint(document, error) => not_minted(document, error),
            Failure::TooSlow { document, limit } => Self::deadline_exceeded(format!(
                "failed to sign {document}: it took longer than {} s; try again",
                limit.as_secs()
            )),
            Failure::BundleMissing => Self::not_found("bundle not found"),
            Failure::KeyRecord(error) => key_record(&error),
            Failure::LogRecord(_) => Self::unavailable(
                "the record of the issuance log cannot be read; the server's log says why",
            ),
            Failure::LogMissing => Self::not_found(failure.to_string()),
            Failure::KeyName(_) => invalid(failure.to_string()),
            Failure::PublicKey(error) => invalid(format!("malformed public key: {error}")),
            Failure::FrontEnd(error) => front_end(&error),
            Failure::FrontEndMissing(_) => Self::not_found(failure.to_string()),
            Failure::FrontEndName(_)
            | Failure::Scope(_)
            | Failure::Terms(_)
            | Failure::Rate(_)
            | Failure::KeyTypeUnknown(_)
            | Failure::ClassUnknown(_) => invalid(failure.to_string()),
            Failure::LogLevelUnspecified => {
                invalid("newLevel value cannot be LogLevel_UNSPECIFIED".to_owned())
            }
            Failure::LogLevelUnknown => invalid("unsupported log level".to_owned()),
            Failure::LogLevel(error) => Self::internal(error.to_string()),
            Failure::HealthOfService => invalid("per-service health is not supported".to_owned()),
            Failure::NotOffered(method) => {
                Self::unimplemented(format!("{method} is not offered by this server"))
            }
            Failure::ServiceNotOffered(path) => {
                Self::unimplemented(format!("{path} is not offered by this server"))
            }
            Failure::CallerUnknown => Self::internal("caller is unknown; see the server's log"),
        }
    }
}

/// What is in use is told as it is; what devices and disks say is for the log.
fn key_record(error: &AuthorityError) -> Status {
    match error {
        AuthorityError::KeyInUse { .. } => Status::failed_precondition(error.to_string()),
        AuthorityError::Contended(_) => {
            Status::aborted("the record of keys was changed in between; try again")
        }
        _ => Status::unavailable(
            "the record of keys, or the key store, cannot be used; the server's log says why",
        ),
    }
}

/// What does not fit the record is told as it is; what disks say is for the log.
fn front_end(error: &FrontEndError) -> Status {
    match error {
        FrontEndError::OtherTerms { .. }
        | FrontEndError::Withdrawn { .. }
        | FrontEndError::TooManyKeys(_)
        | FrontEndError::TooEarly { .. }
        | FrontEndError::TooMany => Status::failed_precondition(error.to_string()),
        FrontEndError::HandingOver(_) => Status::resource_exhausted(error.to_string()),
        FrontEndError::Unknown(_) => Status::not_found(error.to_string()),
        FrontEndError::NotAdmitted(_) => Status::permission_denied(error.to_string()),
        FrontEndError::Contended(_) => Status::aborted(error.to_string()),
        FrontEndError::Store(_) => Status::unavailable(
            "the record of front ends cannot be read or written; the server's log says why",
        ),
    }
}

/// What the policy refuses: what can be asked for in another way is an invalid argument, what this caller may not
/// have is not permitted.
fn refused(refusal: &Refusal) -> Status {
    let text = match refusal {
        Refusal::UriMissing => format!("CSR URI SAN is required: {refusal}"),
        Refusal::UriNotSingle(_) => format!("only one URI SAN is expected: {refusal}"),
        Refusal::Uri(reason) => format!("CSR URI SAN is invalid: {reason}"),
        Refusal::Dns(reason @ (DnsError::Malformed { .. } | DnsError::TooMany)) => {
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
        Refusal::Ttl(_) | Refusal::TtlBeyond { .. } => {
            format!("TTL is invalid: {refusal}")
        }
        Refusal::CsrOfOther { .. } => format!("CSR URI SAN is invalid: {refusal}"),
        Refusal::CsrRequired(_) | Refusal::DownstreamNames(_) | Refusal::ProfileNotOffered(_) => {
            refusal.to_string()
        }
        Refusal::Withdrawn { .. }
        | Refusal::NamedNotGranted(_)
        | Refusal::DownstreamNotGranted(_)
        | Refusal::PublishNotGranted(_)
        | Refusal::OutsidePathScope { .. }
        | Refusal::OutsideDnsScope { .. }
        | Refusal::KeyKind { .. } => return Status::permission_denied(refusal.to_string()),
    };
    Status::invalid_argument(text)
}

fn not_minted(document: Document, error: MintError) -> Status {
    match error {
        MintError::X509(IssueError::Sign(error)) | MintError::Jwt(TokenError::Sign(error)) => {
            not_signed(document, &error)
        }
        MintError::X509(error @ IssueError::OutsideValidity { .. }) => {
            Status::internal(format!("failed to sign {document}: {error}"))
        }
        MintError::X509(error @ IssueError::LongTtl { .. }) => {
            Status::invalid_argument(format!("TTL is invalid: {error}"))
        }
        MintError::X509(
            IssueError::Serial(_)
            | IssueError::Lint(_)
            | IssueError::Subject(_)
            | IssueError::Certificate(_),
        ) => Status::internal(format!("failed to sign {document}; the server's log says why")),
        MintError::Jwt(
            error @ (TokenError::Ended { .. } | TokenError::Algorithm(_) | TokenError::Random),
        ) => Status::internal(format!("failed to sign {document}: {error}")),
        MintError::Csr(error) => Failure::Csr(error).into(),
        MintError::Refused(refusal) => Failure::Refused(refusal).into(),
        MintError::NotAdmitted(refused) => not_admitted(document, &refused),
        MintError::BrokenOff => {
            Status::internal(format!("failed to sign {document}; the server's log says why"))
        }
        MintError::Log(LogError::Busy) => {
            Status::unavailable(format!("failed to sign {document}: {}", LogError::Busy))
        }
        MintError::Log(_) => Status::unavailable(format!(
            "failed to sign {document}: the issuance log cannot be written; the server's log says why"
        )),
    }
}

fn not_admitted(document: Document, refused: &Refused) -> Status {
    let text = format!("failed to sign {document}: {refused}");
    match refused {
        Refused::Full(again) => pushed_back(Code::Unavailable, text, *again),
        Refused::Budget(again) => pushed_back(Code::ResourceExhausted, text, *again),
        Refused::TooBig => Status::resource_exhausted(text),
        Refused::Late => Status::deadline_exceeded(text),
        Refused::Closed => Status::unavailable(text),
    }
}

fn not_signed(document: Document, error: &SignError) -> Status {
    match error {
        SignError::Busy { retry_after, .. } => busy(document, *retry_after),
        SignError::Unavailable { .. } => Status::unavailable(format!(
            "failed to sign {document}: the key is unavailable; the server's log says why"
        )),
        SignError::Late { .. } => Status::deadline_exceeded(format!(
            "failed to sign {document}: the key did not sign in time; the server's log says why"
        )),
        SignError::Refused { .. } | SignError::Wrong { .. } | SignError::Malformed { .. } => {
            Status::internal(format!(
                "failed to sign {document}: the key failed; the server's log says why"
            ))
        }
    }
}

fn busy(document: Document, retry_after: Duration) -> Status {
    let milliseconds = retry_after.as_millis();
    let text = format!(
        "failed to sign {document}: every signing slot is taken; try again in {milliseconds} ms"
    );
    pushed_back(Code::Unavailable, text, retry_after)
}

/// `UNAVAILABLE` is what gRPC clients try again; `grpc-retry-pushback-ms` tells them when.
fn pushed_back(code: Code, text: String, retry_after: Duration) -> Status {
    let mut status = Status::new(code, text);
    if let Ok(value) = retry_after.as_millis().to_string().parse() {
        status.metadata_mut().insert("grpc-retry-pushback-ms", value);
    }
    status
}

#[cfg(test)]
mod tests {
    use super::*;
    use ca_core::clock::Timestamp;
    use ca_core::key::SignatureError;

    /// Words that only the log may hold.
    const DETAIL: &str = "slot 3 of /usr/lib/vendor.so";

    fn status(error: impl Into<MintError>, document: Document) -> Status {
        Failure::Mint(document, error.into()).into()
    }

    fn sign_errors() -> [(SignError, Code); 4] {
        let (key, reason) = ("mintmark/td/x509/1".to_owned(), DETAIL.to_owned());
        let retry_after = Duration::from_millis(250);
        let source = SignatureError::Range;
        [
            (SignError::Busy { key: key.clone(), retry_after }, Code::Unavailable),
            (
                SignError::Unavailable { key: key.clone(), reason: reason.clone() },
                Code::Unavailable,
            ),
            (SignError::Refused { key: key.clone(), reason }, Code::Internal),
            (SignError::Malformed { key, source }, Code::Internal),
        ]
    }

    #[test]
    fn a_key_that_does_not_sign_is_told_by_code_and_without_its_own_words() {
        for (error, code) in sign_errors() {
            for status in [
                status(IssueError::Sign(error.clone()), Document::X509Svid),
                status(TokenError::Sign(error.clone()), Document::JwtSvid),
            ] {
                assert_eq!(status.code(), code, "{error}");
                assert!(status.message().starts_with("failed to sign "), "{status}");
                assert!(!status.message().contains(DETAIL), "{status}");
                assert!(!status.message().contains("mintmark/td"), "{status}");
            }
        }
    }

    #[test]
    fn a_busy_key_says_when_to_come_back() {
        let [(busy, _), ..] = sign_errors();
        let status = status(IssueError::Sign(busy), Document::X509Svid);
        assert!(status.message().ends_with("try again in 250 ms"), "{status}");
        assert_eq!(status.metadata().get("grpc-retry-pushback-ms").unwrap(), "250");
    }

    #[test]
    fn an_authority_that_has_ended_is_named() {
        let authority = "abcd".into();
        let (not_before, not_after) = (Timestamp::EPOCH, Timestamp::EPOCH);
        let error =
            IssueError::OutsideValidity { authority, not_before, not_after, now: Timestamp::MAX };
        let text = "failed to sign X509-SVID: authority abcd is valid from 1970-01-01T00:00:00Z";
        let status = status(error, Document::X509Svid);
        assert_eq!(status.code(), Code::Internal);
        assert!(status.message().starts_with(text), "{status}");
    }

    #[test]
    fn faults_of_ours_are_told_apart_from_bad_requests() {
        assert!(
            Failure::Mint(Document::JwtSvid, LogError::Unwritable("full".to_owned()).into())
                .is_ours()
        );
        assert!(!Failure::Refused(Refusal::AudienceMissing).is_ours());
    }
}
