//! The errors of KMS as its JSON protocol carries them.

use hyper::StatusCode;
use serde_json::json;

/// An error answer: `{"__type": name, "message": message}`.
#[derive(Debug)]
pub(super) struct Exception {
    pub(super) status: StatusCode,
    pub(super) name: &'static str,
    pub(super) message: String,
}

impl Exception {
    /// The caller's fault: HTTP 400, which KMS uses for authentication and authorization too.
    pub(super) fn new(name: &'static str, message: impl Into<String>) -> Self {
        Self { status: StatusCode::BAD_REQUEST, name, message: message.into() }
    }

    /// A value that the API's own constraints exclude.
    pub(super) fn validation(message: impl Into<String>) -> Self {
        Self::new("ValidationException", message)
    }

    /// A value that breaks one constraint of the API's model.
    pub(super) fn constraint(field: &str, value: &str, constraint: &str) -> Self {
        Self::validation(format!(
            "1 validation error detected: Value {value} at '{field}' failed to satisfy constraint: {constraint}"
        ))
    }

    /// Something that is not there.
    pub(super) fn not_found(message: impl Into<String>) -> Self {
        Self::new("NotFoundException", message)
    }

    /// The key's state does not allow it.
    pub(super) fn invalid_state(message: impl Into<String>) -> Self {
        Self::new("KMSInvalidStateException", message)
    }

    /// Too many requests.
    pub(super) fn throttled() -> Self {
        Self::new(
            "ThrottlingException",
            "You have exceeded the rate at which you may call KMS. Reduce the frequency of your calls.",
        )
    }

    /// The service's own fault.
    pub(super) fn internal() -> Self {
        Self {
            status: StatusCode::INTERNAL_SERVER_ERROR,
            name: "KMSInternalException",
            message: "An internal error occurred; the request can be tried again.".into(),
        }
    }

    /// Something behind the service is slow.
    pub(super) fn dependency_timeout() -> Self {
        Self {
            status: StatusCode::SERVICE_UNAVAILABLE,
            name: "DependencyTimeoutException",
            message: "The system timed out while it tried to fulfil the request.".into(),
        }
    }

    /// The body of the answer.
    pub(super) fn body(&self) -> Vec<u8> {
        json!({ "__type": self.name, "message": self.message }).to_string().into_bytes()
    }
}
