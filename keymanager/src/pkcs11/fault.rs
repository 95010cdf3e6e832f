//! What a module's error means for us: what helps against it.

use ca_core::key::{KeyError, SignError};
use cryptoki::error::{Error, RvError};
use cryptoki_sys::CKR_TOKEN_RESOURCE_EXCEEDED;

/// What helps against a failed call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Class {
    /// Another session, at once: this one, its login or its handles are gone.
    Session,
    /// Another session; if that happens several times in a row, the library has lost its device.
    Device,
    /// The library has to be initialised anew, now and again until its device is back.
    Library,
    /// The same thing a little later: the device is busy or short of something.
    Later,
    /// Fewer sessions: the token allows no more.
    Sessions,
    /// Nothing: the PIN was refused, and hardware locks after a few tries.
    Credentials,
    /// Nothing: a setting, a key's usage or our own call is wrong.
    Refused,
    /// Handles of the present: those used are of a generation of the module that has ended or is about to.
    /// Nothing has failed.
    Past,
    /// Nothing but the end of calls that hang in the module, which forbid to initialise it anew.
    Hangs,
}

impl Class {
    /// The name in metrics.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Session => "session",
            Self::Device => "device",
            Self::Library => "library",
            Self::Later => "later",
            Self::Sessions => "sessions",
            Self::Credentials => "credentials",
            Self::Refused => "refused",
            Self::Past => "past",
            Self::Hangs => "hangs",
        }
    }

    /// Sorts a return code (PKCS#11 3.0 §5.1.6). Vendors' own codes are mostly about connections.
    pub(super) fn of(code: RvError) -> Self {
        use RvError::{
            Cancel, CryptokiNotInitialized, DeviceError, DeviceMemory, DeviceRemoved,
            FunctionCanceled, FunctionFailed, GeneralError, HostMemory, KeyHandleInvalid,
            ObjectHandleInvalid, OperationActive, OperationNotInitialized, PinExpired,
            PinIncorrect, PinInvalid, PinLenRange, PinLocked, SessionClosed, SessionCount,
            SessionHandleInvalid, SlotIdInvalid, TokenNotPresent, TokenNotRecognized,
            UnknownErrorCode, UserNotLoggedIn, UserPinNotInitialized, VendorDefined,
        };
        match code {
            SessionHandleInvalid
            | SessionClosed
            | OperationActive
            | OperationNotInitialized
            | ObjectHandleInvalid
            | KeyHandleInvalid
            | UserNotLoggedIn => Self::Session,
            DeviceError | GeneralError | VendorDefined(_) => Self::Device,
            TokenNotPresent
            | DeviceRemoved
            | TokenNotRecognized
            | SlotIdInvalid
            | CryptokiNotInitialized => Self::Library,
            FunctionFailed
            | DeviceMemory
            | HostMemory
            | UnknownErrorCode(CKR_TOKEN_RESOURCE_EXCEEDED)
            | FunctionCanceled
            | Cancel => Self::Later,
            SessionCount => Self::Sessions,
            PinIncorrect
            | PinInvalid
            | PinLenRange
            | PinExpired
            | PinLocked
            | UserPinNotInitialized => Self::Credentials,
            // Among them CKR_FUNCTION_REJECTED, by which a YubiHSM says that a permission is missing.
            _ => Self::Refused,
        }
    }
}

/// A failed call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Fault {
    /// What helps.
    pub(super) class: Class,
    /// The module's return code by its name in the standard, or what else it is about.
    pub(super) code: String,
    /// For people.
    pub(super) said: String,
}

impl From<Error> for Fault {
    fn from(error: Error) -> Self {
        match error {
            Error::Pkcs11(code, function) => {
                let name = name(code);
                let meaning = first_sentence(&code.to_string());
                let said = format!("{name} from C_{function:?}: {meaning}");
                Self { class: Class::of(code), code: name, said }
            }
            other => {
                let said = first_sentence(&other.to_string());
                Self { class: Class::Refused, code: "binding".to_owned(), said }
            }
        }
    }
}

/// `CKR_DEVICE_REMOVED` of `DeviceRemoved`; a vendor's own code by its number.
fn name(code: RvError) -> String {
    if let RvError::VendorDefined(number) | RvError::UnknownErrorCode(number) = code {
        return format!("CKR_{number:#010x}");
    }
    let mut name = "CKR".to_owned();
    for letter in format!("{code:?}").chars() {
        if letter.is_ascii_uppercase() {
            name.push('_');
        }
        name.push(letter.to_ascii_uppercase());
    }
    name
}

/// cryptoki says of an error what the standard says, which may be paragraphs; the first sentence names it.
fn first_sentence(text: &str) -> String {
    let end = text.find(". ").unwrap_or(text.len());
    text[..end].trim_end_matches('.').to_owned()
}

impl Fault {
    /// A fault that no return code stands for.
    pub(super) fn new(class: Class, code: &str, said: &str) -> Self {
        Self { class, code: code.to_owned(), said: said.to_owned() }
    }

    /// The library has to be initialised anew.
    pub(super) fn library(said: &str) -> Self {
        Self::new(Class::Library, "library", said)
    }

    /// [`Class::Past`].
    pub(super) fn past() -> Self {
        Self::new(Class::Past, "past generation", "the module has been initialised anew since")
    }

    /// For who manages keys in `place`.
    pub(super) fn key_error(self, place: &str) -> KeyError {
        let (place, reason) = (place.to_owned(), self.said);
        match self.class {
            Class::Session
            | Class::Device
            | Class::Library
            | Class::Later
            | Class::Past
            | Class::Hangs => KeyError::Unavailable { place, reason },
            Class::Sessions => {
                let reason = format!("{reason}; the token allows no more sessions, use fewer");
                KeyError::Unavailable { place, reason }
            }
            Class::Credentials => {
                let reason = format!(
                    "{reason}; it is not tried again, since tokens lock after a few tries: correct \
                     the PIN and start again"
                );
                KeyError::Credentials { place, reason }
            }
            Class::Refused => KeyError::Setup { place, reason },
        }
    }

    /// For who wants a signature by `key`.
    pub(super) fn sign_error(self, key: String) -> SignError {
        let reason = self.said;
        match self.class {
            Class::Credentials | Class::Refused => SignError::Refused { key, reason },
            _ => SignError::Unavailable { key, reason },
        }
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
    fn each_code_is_sorted_by_what_helps() {
        for (codes, class) in [
            (
                &[
                    RvError::SessionHandleInvalid,
                    RvError::ObjectHandleInvalid,
                    RvError::UserNotLoggedIn,
                    RvError::OperationActive,
                ][..],
                Class::Session,
            ),
            (
                &[RvError::DeviceError, RvError::GeneralError, RvError::VendorDefined(0x8000_0001)],
                Class::Device,
            ),
            (
                &[
                    RvError::DeviceRemoved,
                    RvError::TokenNotPresent,
                    RvError::SlotIdInvalid,
                    RvError::CryptokiNotInitialized,
                ],
                Class::Library,
            ),
            (&[RvError::FunctionFailed, RvError::DeviceMemory, RvError::Cancel], Class::Later),
            (&[RvError::SessionCount], Class::Sessions),
            (&[RvError::PinIncorrect, RvError::PinLocked], Class::Credentials),
            (
                &[
                    RvError::MechanismInvalid,
                    RvError::KeyFunctionNotPermitted,
                    RvError::FunctionRejected,
                    RvError::DataLenRange,
                    RvError::FipsSelfTestFailed,
                ],
                Class::Refused,
            ),
        ] {
            for &code in codes {
                assert_eq!(fault(code).class, class, "{code:?}");
            }
        }
    }

    #[test]
    fn a_fault_is_told_by_code_call_and_one_sentence() {
        let told = fault(RvError::PinIncorrect);
        assert_eq!(told.code, "CKR_PIN_INCORRECT");
        assert!(told.said.starts_with("CKR_PIN_INCORRECT from C_Sign: "), "{}", told.said);
        assert!(told.said.ends_with("does not match the PIN stored on the token"), "{}", told.said);
        for code in [RvError::DeviceError, RvError::SessionHandleInvalid, RvError::PinLocked] {
            let said = fault(code).said;
            assert!(!said.contains(". ") && !said.ends_with('.'), "{said}");
        }
    }

    #[test]
    fn a_vendors_number_stays_in_the_message() {
        assert!(fault(RvError::VendorDefined(0x8000_1234)).said.contains("CKR_0x80001234"));
    }
}
