//! What a module's error means for us: whether another session, another time or a person helps.

use ca_core::key::{KeyError, SignError};
use cryptoki::error::{Error, RvError};

/// A failed call, sorted by what helps.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Fault {
    /// The session, its login or its handles are gone: a new session may work at once.
    Session(String),
    /// The device cannot work now: later may be better.
    Device(String),
    /// The PIN was refused: no second try, hardware locks after a few.
    Credentials(String),
    /// A setting, a key's usage or our own call is wrong: nothing changes by itself.
    Refused(String),
}

impl From<Error> for Fault {
    fn from(error: Error) -> Self {
        use RvError::{
            Cancel, CryptokiNotInitialized, DeviceError, DeviceMemory, DeviceRemoved,
            FunctionCanceled, FunctionFailed, FunctionRejected, GeneralError, HostMemory,
            KeyHandleInvalid, ObjectHandleInvalid, OperationActive, OperationNotInitialized,
            PinExpired, PinIncorrect, PinInvalid, PinLenRange, PinLocked, SessionClosed,
            SessionCount, SessionHandleInvalid, SlotIdInvalid, TokenNotPresent, TokenNotRecognized,
            UserNotLoggedIn, UserPinNotInitialized, VendorDefined,
        };
        let said = first_sentence(&error.to_string());
        let Error::Pkcs11(code, _) = error else { return Self::Refused(said) };
        match code {
            SessionHandleInvalid
            | SessionClosed
            | OperationActive
            | OperationNotInitialized
            | ObjectHandleInvalid
            | KeyHandleInvalid
            | UserNotLoggedIn
            | DeviceError
            | GeneralError
            | VendorDefined(_) => Self::Session(said),
            TokenNotPresent
            | DeviceRemoved
            | TokenNotRecognized
            | SlotIdInvalid
            | CryptokiNotInitialized
            | FunctionFailed
            | DeviceMemory
            | HostMemory
            | FunctionCanceled
            | Cancel
            | FunctionRejected => Self::Device(said),
            SessionCount => Self::Device(format!(
                "{said}; the token allows no more sessions, use fewer per key"
            )),
            PinIncorrect
            | PinInvalid
            | PinLenRange
            | PinExpired
            | PinLocked
            | UserPinNotInitialized => Self::Credentials(said),
            _ => Self::Refused(said),
        }
    }
}

/// cryptoki says of an error what the standard says, which may be paragraphs; the first sentence names it.
fn first_sentence(text: &str) -> String {
    let end = text.find(". ").unwrap_or(text.len());
    text[..end].trim_end_matches('.').to_owned()
}

impl Fault {
    fn reason(self) -> String {
        match self {
            Self::Session(said)
            | Self::Device(said)
            | Self::Credentials(said)
            | Self::Refused(said) => said,
        }
    }

    /// For who manages keys in `place`.
    pub(super) fn key_error(self, place: &str) -> KeyError {
        let place = place.to_owned();
        match self {
            Self::Session(reason) | Self::Device(reason) => KeyError::Unavailable { place, reason },
            Self::Credentials(said) => {
                let reason = format!(
                    "{said}; it is not tried again, since tokens lock after a few tries: correct \
                     the PIN and start again"
                );
                KeyError::Credentials { place, reason }
            }
            Self::Refused(reason) => KeyError::Setup { place, reason },
        }
    }

    /// For who wants a signature by `key`.
    pub(super) fn sign_error(self, key: String) -> SignError {
        match self {
            Self::Session(reason) | Self::Device(reason) => SignError::Unavailable { key, reason },
            refused => SignError::Refused { key, reason: refused.reason() },
        }
    }
}

/// What a failed look-up means for who wants a signature by `key`.
pub(super) fn sign_error(error: KeyError, key: String) -> SignError {
    match error {
        KeyError::Unavailable { reason, .. } => SignError::Unavailable { key, reason },
        other => SignError::Refused { key, reason: other.to_string() },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use cryptoki::context::Function;

    fn fault(code: RvError) -> Fault {
        Error::Pkcs11(code, Function::Sign).into()
    }

    #[test]
    fn only_a_lost_session_asks_for_another_one() {
        for code in [
            RvError::SessionHandleInvalid,
            RvError::ObjectHandleInvalid,
            RvError::UserNotLoggedIn,
            RvError::OperationActive,
            RvError::VendorDefined(0x8000_0001),
        ] {
            assert!(matches!(fault(code), Fault::Session(_)), "{code:?}");
        }
        for code in [RvError::DeviceRemoved, RvError::FunctionFailed, RvError::SessionCount] {
            assert!(matches!(fault(code), Fault::Device(_)), "{code:?}");
        }
        for code in [RvError::PinIncorrect, RvError::PinLocked] {
            assert!(matches!(fault(code), Fault::Credentials(_)), "{code:?}");
        }
        for code in
            [RvError::MechanismInvalid, RvError::KeyFunctionNotPermitted, RvError::DataLenRange]
        {
            assert!(matches!(fault(code), Fault::Refused(_)), "{code:?}");
        }
    }

    #[test]
    fn a_fault_is_told_in_one_sentence() {
        let Fault::Credentials(said) = fault(RvError::PinIncorrect) else { panic!() };
        assert!(said.ends_with("does not match the PIN stored on the token"), "{said}");
        for code in [RvError::DeviceError, RvError::SessionHandleInvalid, RvError::PinLocked] {
            let said = fault(code).reason();
            assert!(!said.contains(". ") && !said.ends_with('.'), "{said}");
        }
    }

    #[test]
    fn a_vendors_number_stays_in_the_message() {
        let Fault::Session(said) = fault(RvError::VendorDefined(0x8000_1234)) else { panic!() };
        assert!(said.contains(&0x8000_1234_u64.to_string()) || said.contains("80001234"), "{said}");
    }
}
