//! The login to a token: one at a time, and never again once the PIN was refused.

use std::sync::{Mutex, PoisonError};

use ca_core::key::KeyError;
use cryptoki::error::{Error, Result, RvError};
use cryptoki::types::AuthPin;

use super::fault::{Class, Fault};
use crate::secret::{SecretSource, trim_line_end};

/// Knows where the PIN is, since a token that lost its sessions wants it again. The PIN itself is in this
/// process's memory for as long as a login takes.
pub(super) struct Login {
    source: SecretSource,
    past: Mutex<Past>,
}

/// What became of earlier logins.
#[derive(Default)]
struct Past {
    /// Why the PIN was refused, if it was.
    refused: Option<Fault>,
    /// Failures in a row of which nobody knows whether the token counts them as a wrong PIN.
    unclear: u8,
}

/// So many unclear failures in a row are taken as a refusal: tokens lock after three to ten.
const MOST_UNCLEAR: u8 = 3;

/// What a token says of its PIN: whether there was a wrong one, one more would lock it, it is locked.
pub(super) type PinState = [bool; 3];

impl Login {
    /// Shows that there is a PIN.
    pub(super) fn with(source: &SecretSource) -> std::result::Result<Self, KeyError> {
        read(source)?;
        Ok(Self { source: source.clone(), past: Mutex::default() })
    }

    /// Makes sure that the token is logged in to. Callers wait for each other, so that the threads of a
    /// token that lost its login offer the PIN once and not each.
    pub(super) fn ensure(
        &self,
        logged_in: impl FnOnce() -> Result<bool>,
        log_in: impl FnOnce(&AuthPin) -> Result<()>,
        pin_state: impl Fn() -> Option<PinState>,
    ) -> std::result::Result<(), Fault> {
        let mut past = self.past.lock().unwrap_or_else(PoisonError::into_inner);
        if logged_in()? {
            return Ok(());
        }
        if let Some(fault) = &past.refused {
            return Err(fault.clone());
        }
        let pin = read(&self.source).map_err(|error| unreadable(&error))?;
        let before = pin_state();
        match log_in(&pin) {
            Ok(()) | Err(Error::Pkcs11(RvError::UserAlreadyLoggedIn, _)) => {
                past.unclear = 0;
                Ok(())
            }
            Err(error) => Err(past.failed(error, before, pin_state())),
        }
    }
}

/// The PIN, wiped when dropped.
fn read(source: &SecretSource) -> std::result::Result<AuthPin, KeyError> {
    let bytes = source.read()?;
    let pin = std::str::from_utf8(trim_line_end(&bytes))
        .map_err(|_| source.unusable("the PIN in it is not UTF-8".to_owned()))?;
    if pin.is_empty() {
        return Err(source.unusable("it is empty; write the user PIN there".to_owned()));
    }
    Ok(AuthPin::from(pin))
}

/// The PIN was there at the start. It may be put back, so it is looked for again.
fn unreadable(error: &KeyError) -> Fault {
    Fault::new(Class::Later, "PIN", &error.to_string())
}

impl Past {
    /// A login failed. Whatever the token has against the PIN, it would have against it at the next try,
    /// and may count it.
    fn failed(&mut self, error: Error, before: Option<PinState>, after: Option<PinState>) -> Fault {
        let meaning = Meaning::of(&error);
        let mut fault = Fault::from(error);
        self.unclear += u8::from(meaning == Meaning::Unclear);
        if meaning == Meaning::Refused || self.unclear >= MOST_UNCLEAR || is_worse(before, after) {
            fault.class = Class::Credentials;
            self.refused = Some(fault.clone());
        }
        fault
    }
}

/// Whether the token has counted a wrong PIN.
fn is_worse(before: Option<PinState>, after: Option<PinState>) -> bool {
    let (Some(before), Some(after)) = (before, after) else { return false };
    before.iter().zip(after).any(|(before, after)| after && !before)
}

/// What a failed login says of the PIN.
#[derive(PartialEq, Eq)]
enum Meaning {
    /// The token does not take it, or us: trying again may lock it. Vendors' own codes may mean that.
    Refused,
    /// The PIN has not come to be looked at: device, connection or session failed. That heals.
    NotAsked,
    /// Nobody knows.
    Unclear,
}

impl Meaning {
    fn of(error: &Error) -> Self {
        use RvError::{
            DeviceError, DeviceMemory, FunctionFailed, GeneralError, HostMemory, SessionClosed,
            SessionCount, SessionHandleInvalid, UnknownErrorCode, VendorDefined,
        };
        let Error::Pkcs11(code, _) = error else { return Self::Refused };
        match (code, Class::of(*code)) {
            (VendorDefined(_), _) | (_, Class::Refused | Class::Credentials) => Self::Refused,
            (_, Class::Library)
            | (
                DeviceError | GeneralError | FunctionFailed | DeviceMemory | HostMemory
                | UnknownErrorCode(_) | SessionClosed | SessionHandleInvalid | SessionCount,
                _,
            ) => Self::NotAsked,
            _ => Self::Unclear,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use cryptoki::context::Function;
    use std::cell::{Cell, RefCell};
    use std::io::Write as _;
    use tempfile::NamedTempFile;

    /// A login and the file of its PIN.
    fn with_file() -> (Login, NamedTempFile) {
        let mut file = NamedTempFile::new().unwrap();
        file.write_all(b"4711\n").unwrap();
        let source = SecretSource::File(file.path().to_owned());
        (Login::with(&source).unwrap(), file)
    }

    fn answer(code: RvError) -> Result<()> {
        Err(Error::Pkcs11(code, Function::Login))
    }

    /// How often the PIN is offered to a token that answers this to it, ever.
    fn offers(code: RvError, states: &[PinState]) -> usize {
        let ((login, _file), tries) = (with_file(), Cell::new(0));
        let states = RefCell::new(states.iter());
        for _ in 0..20 {
            let result = login.ensure(
                || Ok(false),
                |_| {
                    tries.set(tries.get() + 1);
                    answer(code)
                },
                || states.borrow_mut().next().copied(),
            );
            assert!(result.is_err());
        }
        tries.get()
    }

    #[test]
    fn a_refused_pin_is_offered_once_and_never_again() {
        for code in [
            RvError::PinIncorrect,
            RvError::PinLocked,
            RvError::ArgumentsBad,
            RvError::VendorDefined(0x8000_0001),
        ] {
            assert_eq!(offers(code, &[]), 1, "{code:?}");
        }
    }

    #[test]
    fn a_failure_of_which_nobody_knows_is_tried_three_times_in_a_row() {
        for code in
            [RvError::ObjectHandleInvalid, RvError::OperationActive, RvError::FunctionCanceled]
        {
            assert_eq!(offers(code, &[]), 3, "{code:?}");
        }
        let (login, _file) = with_file();
        for _ in 0..5 {
            for _ in 0..2 {
                let failed = answer(RvError::ObjectHandleInvalid);
                let failed = login.ensure(|| Ok(false), |_| failed, || None).unwrap_err();
                assert_eq!(failed.class, Class::Session);
            }
            assert_eq!(login.ensure(|| Ok(false), |_| Ok(()), || None), Ok(()), "in a row");
        }
    }

    #[test]
    fn a_failing_device_may_be_asked_again_and_again() {
        for code in [
            RvError::FunctionFailed,
            RvError::DeviceError,
            RvError::DeviceRemoved,
            RvError::SessionHandleInvalid,
            RvError::SessionCount,
        ] {
            assert_eq!(offers(code, &[]), 20, "{code:?}");
        }
    }

    #[test]
    fn a_wrong_pin_that_the_token_counts_is_one_whatever_the_code_says() {
        let (well, low, last) = ([false; 3], [true, false, false], [true, true, false]);
        assert_eq!(offers(RvError::FunctionFailed, &[well, low]), 1);
        assert_eq!(offers(RvError::FunctionFailed, &[low, low, low, last]), 2);
        assert_eq!(offers(RvError::FunctionFailed, &[low; 40]), 20, "it was another's");
    }

    #[test]
    fn the_pin_is_read_for_each_login_and_may_be_away_meanwhile() {
        let (login, file) = with_file();
        let ensure = || login.ensure(|| Ok(false), |_| Ok(()), || None);
        ensure().unwrap();
        let away = file.path().with_extension("away");
        std::fs::rename(file.path(), &away).unwrap();
        let fault = ensure().unwrap_err();
        assert!(fault.class == Class::Later && fault.said.contains("No such file"), "{fault:?}");
        std::fs::rename(&away, file.path()).unwrap();
        ensure().unwrap();
    }

    #[test]
    fn a_login_by_someone_else_is_as_good() {
        let ((login, _file), already) = (with_file(), || answer(RvError::UserAlreadyLoggedIn));
        assert_eq!(login.ensure(|| Ok(false), |_| already(), || None), Ok(()));
        let unneeded = |_: &AuthPin| panic!("no need to log in");
        assert_eq!(login.ensure(|| Ok(true), unneeded, || None), Ok(()));
    }
}
