//! Answers on their way back: what is ready goes together, the chain once.

use std::sync::Arc;

use bytes::Bytes;
use ca_core::pipeline::Minted;
use ca_core::pipeline::admission::Refused;
use ca_core::{log::LogError, mint::MintError};
use mintmark_proto::signing::v1::failure::Code;
use mintmark_proto::signing::v1::{
    Failure as FailureMessage, JwtResult, JwtSvid, MintResponse, X509Result, X509Svid, jwt_result,
    x509_result,
};
use tonic::Status;

use crate::status::{Document, Failure, Kind};

/// A message is sent when it has so many answers, or so many bytes of them: what clients take is 4 MiB, and answers
/// come up to 64 at a time.
const ENOUGH: (usize, usize) = (256, 1 << 20);

/// Messages that are being filled, at most one for each chain.
#[derive(Default)]
pub(super) struct Outbox {
    messages: Vec<(Arc<[Bytes]>, MintResponse)>,
    items: usize,
    bytes: usize,
}

impl Outbox {
    /// Whether there is enough to send.
    pub(super) fn is_full(&self) -> bool {
        self.items >= ENOUGH.0 || self.bytes >= ENOUGH.1
    }

    /// The next message, of those that are there.
    pub(super) fn next(&mut self) -> Option<MintResponse> {
        let (chain, mut message) = self.messages.pop()?;
        if self.messages.is_empty() {
            (self.items, self.bytes) = (0, 0);
        }
        message.intermediates = chain.to_vec();
        Some(message)
    }

    pub(super) fn minted(&mut self, request_id: u64, minted: Minted) {
        match minted {
            Minted::X509(svid) => {
                self.count(svid.leaf.len());
                let outcome = x509_result::Outcome::Svid(X509Svid {
                    leaf: svid.leaf,
                    expires_at: svid.expires_at.unix(),
                });
                let result = X509Result { request_id, outcome: Some(outcome) };
                self.with_chain(&svid.intermediates).x509.push(result);
            }
            Minted::Jwt(svid) => {
                self.count(svid.token().len());
                let outcome = jwt_result::Outcome::Svid(JwtSvid {
                    token: svid.token().to_owned(),
                    expires_at: svid.expires_at().unix(),
                    issued_at: svid.issued_at().unix(),
                });
                self.any().jwt.push(JwtResult { request_id, outcome: Some(outcome) });
            }
        }
    }

    pub(super) fn failed(&mut self, request_id: u64, document: Document, failure: Failure) {
        let failure = message(failure);
        self.count(failure.text.len());
        match document {
            Document::X509Svid => {
                let outcome = Some(x509_result::Outcome::Failure(failure));
                self.any().x509.push(X509Result { request_id, outcome });
            }
            Document::JwtSvid => {
                let outcome = Some(jwt_result::Outcome::Failure(failure));
                self.any().jwt.push(JwtResult { request_id, outcome });
            }
        }
    }

    fn count(&mut self, bytes: usize) {
        self.items += 1;
        self.bytes += bytes;
    }

    /// The message whose leaves have that chain.
    fn with_chain(&mut self, chain: &Arc<[Bytes]>) -> &mut MintResponse {
        let same = |(known, _): &(Arc<[Bytes]>, _)| Arc::ptr_eq(known, chain) || known == chain;
        let at = self.messages.iter().position(same).unwrap_or_else(|| {
            self.messages.push((Arc::clone(chain), MintResponse::default()));
            self.messages.len() - 1
        });
        &mut self.messages[at].1
    }

    /// A message for what has no chain.
    fn any(&mut self) -> &mut MintResponse {
        if self.messages.is_empty() {
            self.messages.push((Arc::default(), MintResponse::default()));
        }
        &mut self.messages[0].1
    }
}

/// What a front end is told. The text is that of every other caller, without what devices and disks say.
fn message(failure: Failure) -> FailureMessage {
    let code = code(&failure);
    let retry_after_ms = retry_after(&failure);
    let text = Status::from(failure).message().to_owned();
    FailureMessage { code: code.into(), text, retry_after_ms }
}

fn code(failure: &Failure) -> Code {
    match failure {
        Failure::Mint(_, MintError::NotAdmitted(refused)) => match refused {
            Refused::Full(_) => Code::Overload,
            Refused::Budget(_) => Code::Budget,
            Refused::TooBig => Code::Refused,
            Refused::Late => Code::Late,
            Refused::Closed => Code::Stopping,
        },
        Failure::OverBudget(_) => Code::Budget,
        Failure::Mint(_, MintError::Log(LogError::Closed)) => Code::Stopping,
        failure if failure.is_not_offered() => Code::NotOffered,
        failure => match failure.kind() {
            Kind::Overload => Code::Overload,
            Kind::Policy => Code::Refused,
            Kind::Request | Kind::Connection | Kind::Stranger => Code::Malformed,
            Kind::Failure if failure.is_away() => Code::Unavailable,
            Kind::Failure => Code::Internal,
        },
    }
}

fn retry_after(failure: &Failure) -> u32 {
    let wait = failure.retry_after().unwrap_or_default();
    u32::try_from(wait.as_millis()).unwrap_or(u32::MAX)
}
