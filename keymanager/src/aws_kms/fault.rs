//! AWS KMS's errors, classed by what helps against them.

use std::error::Error;

use aws_credential_types::provider::error::CredentialsError;
use aws_sdk_kms::config::http::HttpResponse;
use aws_sdk_kms::error::{ProvideErrorMetadata, SdkError};

use crate::remote::wire::{Class, WireError};

/// Asking more slowly helps.
const THROTTLED: [&str; 5] = [
    "ThrottlingException",
    "Throttling",
    "TooManyRequestsException",
    "RequestLimitExceeded",
    "LimitExceededException",
];
/// New credentials help, or the right time.
const CREDENTIALS: [&str; 8] = [
    "ExpiredTokenException",
    "ExpiredToken",
    "UnrecognizedClientException",
    "InvalidClientTokenId",
    "InvalidSignatureException",
    "SignatureDoesNotMatch",
    "MissingAuthenticationTokenException",
    "IncompleteSignatureException",
];
/// Another try helps.
const TRANSIENT: [&str; 6] = [
    "KMSInternalException",
    "DependencyTimeoutException",
    "KeyUnavailableException",
    "InternalFailure",
    "ServiceUnavailable",
    "RequestTimeout",
];
/// The longest part of somebody else's words in an error of ours, in characters.
const LONGEST: usize = 300;

/// What an error of an operation means.
pub(super) fn classify<E>(operation: &str, error: &SdkError<E, HttpResponse>) -> WireError
where
    E: ProvideErrorMetadata + Error + 'static,
    SdkError<E, HttpResponse>: Error,
{
    match error {
        SdkError::ServiceError(refusal) => {
            let metadata = refusal.err().meta();
            let status = refusal.raw().status().as_u16();
            of_service(operation, metadata.code(), metadata.message(), status)
        }
        SdkError::TimeoutError(_) => WireError::transient("timeout", "it did not answer in time"),
        SdkError::DispatchFailure(failure) if failure.is_timeout() => {
            WireError::transient("timeout", "no connection in time")
        }
        SdkError::ResponseError(_) => {
            WireError::transient("response", "its answer made no sense or was cut short")
        }
        _ => of_client(error),
    }
}

/// Nothing was answered: there may be no credentials to sign the request with, or none for now.
fn of_client(error: &(dyn Error + 'static)) -> WireError {
    let mut behind = Some(error);
    while let Some(cause) = behind {
        match cause.downcast_ref() {
            Some(
                CredentialsError::CredentialsNotLoaded(_)
                | CredentialsError::InvalidConfiguration(_),
            ) => return WireError::new(Class::Credentials, "no credentials", chain(error)),
            // Who gives them, such as STS or the instance's metadata, is slow or away.
            Some(_) => return WireError::transient("credentials provider", chain(error)),
            None => behind = cause.source(),
        }
    }
    WireError::transient("connection", chain(error))
}

fn of_service(
    operation: &str,
    code: Option<&str>,
    message: Option<&str>,
    status: u16,
) -> WireError {
    let name = code.unwrap_or("no code");
    let class = match name {
        _ if THROTTLED.contains(&name) || status == 429 => Class::Throttled { retry_after: None },
        _ if CREDENTIALS.contains(&name) => Class::Credentials,
        _ if TRANSIENT.contains(&name) || status >= 500 || code.is_none() => Class::Transient,
        _ => Class::Refused,
    };
    let said: String = message.unwrap_or("no message").chars().take(LONGEST).collect();
    let reason = format!("{operation}: {name}: {said}{}", hint(name, operation));
    WireError::new(class, name, reason)
}

/// What an operator can do about it.
fn hint(code: &str, operation: &str) -> String {
    match code {
        "AccessDeniedException" => {
            format!("; allow kms:{operation} on the key, in the role's policy and the key's own")
        }
        "DisabledException" => "; enable the key in KMS, or rotate the authority".to_owned(),
        "KMSInvalidStateException" => {
            "; look at the key's state in KMS: pending deletion can be cancelled".to_owned()
        }
        "NotFoundException" => "; look for the key in this account and region".to_owned(),
        "ExpiredTokenException" | "ExpiredToken" => "; renew the credentials".to_owned(),
        "UnrecognizedClientException" | "InvalidClientTokenId" => {
            "; these credentials do not exist (any more): give others".to_owned()
        }
        "InvalidSignatureException" | "SignatureDoesNotMatch" => {
            "; look at this machine's clock first, then at the secret key".to_owned()
        }
        _ => String::new(),
    }
}

/// An error and what is behind it, in one line.
fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        text = format!("{text}: {error}");
        source = error.source();
    }
    text.chars().take(LONGEST).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_provider_that_fails_may_do_better_and_one_that_has_nothing_may_not() {
        use std::time::Duration;

        use aws_sdk_kms::operation::sign::SignError;
        let of = |error: CredentialsError| {
            let error = SdkError::<SignError, HttpResponse>::construction_failure(error);
            let error = classify("Sign", &error);
            (error.class, error.code)
        };
        let slow = CredentialsError::provider_timed_out(Duration::from_secs(5));
        for passing in [
            slow,
            CredentialsError::provider_error("STS answered 503"),
            CredentialsError::unhandled("no JSON"),
        ] {
            assert_eq!(of(passing), (Class::Transient, "credentials provider".to_owned()));
        }
        for lasting in [
            CredentialsError::not_loaded("no provider"),
            CredentialsError::invalid_configuration("a role that names itself"),
        ] {
            assert_eq!(of(lasting), (Class::Credentials, "no credentials".to_owned()));
        }
    }

    #[test]
    fn each_code_has_the_class_that_helps_against_it() {
        let class = |code, status| of_service("Sign", Some(code), None, status).class;
        assert_eq!(class("ThrottlingException", 400), Class::Throttled { retry_after: None });
        assert_eq!(class("KMSInternalException", 500), Class::Transient);
        assert_eq!(class("DependencyTimeoutException", 503), Class::Transient);
        assert_eq!(class("SomethingNew", 503), Class::Transient);
        assert_eq!(class("ExpiredTokenException", 400), Class::Credentials);
        assert_eq!(class("InvalidSignatureException", 400), Class::Credentials);
        for code in [
            "AccessDeniedException",
            "DisabledException",
            "KMSInvalidStateException",
            "NotFoundException",
            "InvalidKeyUsageException",
            "ValidationException",
        ] {
            assert_eq!(class(code, 400), Class::Refused, "{code}");
        }
        assert_eq!(of_service("Sign", None, None, 400).class, Class::Transient);
    }
}
