//! The login to a token: one at a time, and never again once the PIN was refused.

use std::sync::{Mutex, PoisonError};

use ca_core::key::KeyError;
use cryptoki::error::{Error, Result, RvError};
use cryptoki::types::AuthPin;

use super::fault::{Class, Fault};
use crate::secret::{SecretSource, trim_line_end};

/// Holds the PIN, since a token that lost its sessions wants it again. Wiped when dropped.
pub(super) struct Login {
    pin: AuthPin,
    /// Why the PIN was refused, if it was.
    refused: Mutex<Option<Fault>>,
}

impl Login {
    /// Reads the PIN.
    pub(super) fn read(source: &SecretSource) -> std::result::Result<Self, KeyError> {
        let bytes = source.read()?;
        let pin = std::str::from_utf8(trim_line_end(&bytes))
            .map_err(|_| source.unusable("the PIN in it is not UTF-8".to_owned()))?;
        if pin.is_empty() {
            return Err(source.unusable("it is empty; write the user PIN there".to_owned()));
        }
        Ok(Self { pin: AuthPin::from(pin), refused: Mutex::default() })
    }

    /// Makes sure that the token is logged in to. Callers wait for each other, so that the threads of a
    /// token that lost its login offer the PIN once and not each.
    pub(super) fn ensure(
        &self,
        logged_in: impl FnOnce() -> Result<bool>,
        log_in: impl FnOnce(&AuthPin) -> Result<()>,
    ) -> std::result::Result<(), Fault> {
        let mut refused = self.refused.lock().unwrap_or_else(PoisonError::into_inner);
        if logged_in()? {
            return Ok(());
        }
        if let Some(fault) = &*refused {
            return Err(fault.clone());
        }
        match log_in(&self.pin) {
            Ok(()) | Err(Error::Pkcs11(RvError::UserAlreadyLoggedIn, _)) => Ok(()),
            Err(error) => {
                let mut fault = Fault::from(error);
                // Whatever the token has against this login, it would have against the next, and may count it.
                if fault.class == Class::Refused {
                    fault.class = Class::Credentials;
                }
                if fault.class == Class::Credentials {
                    *refused = Some(fault.clone());
                }
                Err(fault)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use cryptoki::context::Function;
    use std::cell::Cell;

    fn login() -> Login {
        Login { pin: AuthPin::from("4711"), refused: Mutex::default() }
    }

    fn answer(code: RvError) -> Result<()> {
        Err(Error::Pkcs11(code, Function::Login))
    }

    #[test]
    fn a_refused_pin_is_offered_once_and_never_again() {
        let (login, tries) = (login(), Cell::new(0));
        for _ in 0..5 {
            let result = login.ensure(
                || Ok(false),
                |_| {
                    tries.set(tries.get() + 1);
                    answer(RvError::PinIncorrect)
                },
            );
            assert_eq!(result.unwrap_err().class, Class::Credentials);
        }
        assert_eq!(tries.get(), 1);
    }

    #[test]
    fn a_failing_device_may_be_asked_again() {
        let login = login();
        let failed = login.ensure(|| Ok(false), |_| answer(RvError::FunctionFailed));
        assert_eq!(failed.unwrap_err().class, Class::Later);
        assert_eq!(login.ensure(|| Ok(false), |_| Ok(())), Ok(()));
    }

    #[test]
    fn a_login_by_someone_else_is_as_good() {
        let login = login();
        assert_eq!(login.ensure(|| Ok(false), |_| answer(RvError::UserAlreadyLoggedIn)), Ok(()));
        assert_eq!(login.ensure(|| Ok(true), |_| panic!("no need to log in")), Ok(()));
    }
}
