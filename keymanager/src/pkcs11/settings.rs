//! What an operator says about a token.

use std::fmt;
use std::path::PathBuf;

use ca_core::key::KeyError;

use crate::secret::SecretSource;

/// Which token to use and how.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Absolute path of the vendor's PKCS#11 library. Loading it runs its code in this process.
    pub module: PathBuf,
    /// Which of the module's tokens.
    pub token: TokenSelector,
    /// Where the user PIN is read from, once, when the store is opened.
    pub pin: SecretSource,
    /// Sessions per key, each with a thread of its own, 1 to 64. For a soft token the number of cores;
    /// for hardware the wanted rate times the time of one signature, and half as much again. Too few
    /// leave the device idle, too many only add waiting.
    pub sessions: usize,
    /// Jobs per key that may wait for a session, 1 to 65536. Signing is `Busy` beyond that. Holds as
    /// much as the device signs in the longest wait that is still useful, say 50 ms.
    pub queue: usize,
    /// Opens read-write sessions for signing too, for modules that know no others (AWS CloudHSM).
    pub read_write_sessions: bool,
}

impl Settings {
    /// Refuses what is out of bounds.
    pub(super) fn check(&self) -> Result<(), KeyError> {
        let setup = |reason: &str| KeyError::Setup {
            place: format!("PKCS#11 token {}", self.token),
            reason: reason.to_owned(),
        };
        if !(1..=64).contains(&self.sessions) {
            return Err(setup("1 to 64 sessions per key are possible"));
        }
        if !(1..=65_536).contains(&self.queue) {
            return Err(setup("a queue of 1 to 65536 jobs per key is possible"));
        }
        Ok(())
    }
}

/// Tells a token from the others of its module. Never by slot: slots are renumbered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TokenSelector {
    label: String,
    serial: Option<String>,
}

impl TokenSelector {
    /// The token with this label, as long as there is one only.
    #[must_use]
    pub fn label(label: &str) -> Self {
        Self { label: label.to_owned(), serial: None }
    }

    /// Of the tokens with that label, the one with this serial number.
    #[must_use]
    pub fn with_serial(self, serial: &str) -> Self {
        Self { serial: Some(serial.to_owned()), ..self }
    }

    /// Tokens pad both with blanks, some modules with NULs.
    pub(super) fn matches(&self, label: &str, serial: &str) -> bool {
        let same = |left: &str, right: &str| trim(left) == trim(right);
        same(&self.label, label) && self.serial.as_ref().is_none_or(|own| same(own, serial))
    }
}

/// `text` without the padding that tokens put at its end.
pub(super) fn trim(text: &str) -> &str {
    text.trim_end_matches([' ', '\0', '\n'])
}

impl fmt::Display for TokenSelector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\"{}\"", self.label)?;
        match &self.serial {
            Some(serial) => write!(f, " (serial {serial})"),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn padding_is_no_part_of_a_label_or_serial() {
        let selector = TokenSelector::label("ca").with_serial("12ab");
        assert!(selector.matches("ca                    ", "12ab\0\0"));
        assert!(!selector.matches("ca 2", "12ab"));
        assert!(!selector.matches("ca", "12ac"));
        assert!(TokenSelector::label("ca").matches("ca", "anything"));
    }
}
