//! What an operator says about a token.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use ca_core::key::KeyError;

use super::object::Template;
use crate::secret::SecretSource;
use crate::verification::Oversight;

/// Which token to use and how.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Absolute path of the vendor's PKCS#11 library. Loading it runs its code in this process.
    pub module: PathBuf,
    /// Which of the module's tokens.
    pub token: TokenSelector,
    /// Where the user PIN is read from, once, when the store is opened.
    pub pin: SecretSource,
    /// Sessions that sign, each with a thread of its own, 1 to 1024. For a soft token the number of cores;
    /// for hardware the wanted rate times the time of one signature (`mintmark key probe` measures it), and one
    /// in ten more. Too few leave the device idle, too many only add waiting.
    pub sessions: usize,
    /// Jobs that may wait for a session at most, 1 to 65536, however fast the device is: a bound on memory.
    pub queue: usize,
    /// How long jobs may wait: as many are let in as the device signs in that time (and 64 always), the rest
    /// is refused as `Busy` at once.
    pub queue_wait: Duration,
    /// A call that takes longer hangs: its caller is answered and another thread takes over.
    pub stall_limit: Duration,
    /// How often a probe is signed to see that the device works; at least a second.
    pub probe_interval: Duration,
    /// Who hashes.
    pub hashing: Hashing,
    /// Opens read-write sessions for signing too, for modules that know no others (AWS CloudHSM).
    pub read_write_sessions: bool,
    /// What is said of a new key.
    pub template: Template,
    /// How its keys are watched.
    pub oversight: Oversight,
}

/// Who computes the digest of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Hashing {
    /// This process; the device signs the digest (`CKM_ECDSA`, `CKM_RSA_PKCS`, `CKM_RSA_PKCS_PSS`).
    #[default]
    Host,
    /// The device (`CKM_ECDSA_SHA256` and the like), as some firmware in FIPS mode insists.
    Device,
}

impl Settings {
    /// The usual number of sessions.
    pub const SESSIONS: u16 = 4;
    /// The usual number of jobs that may wait.
    pub const QUEUE: u16 = 4096;
    /// How long jobs usually may wait.
    pub const QUEUE_WAIT: Duration = Duration::from_millis(50);
    /// After how long a call usually is said to hang.
    pub const STALL_LIMIT: Duration = Duration::from_secs(10);
    /// How often a probe is usually signed.
    pub const PROBE_INTERVAL: Duration = Duration::from_secs(5);

    /// As most tokens want it; the caller names module, token, PIN and oversight.
    #[must_use]
    pub fn new(
        module: PathBuf,
        token: TokenSelector,
        pin: SecretSource,
        oversight: Oversight,
    ) -> Self {
        Self {
            module,
            token,
            pin,
            sessions: Self::SESSIONS.into(),
            queue: Self::QUEUE.into(),
            queue_wait: Self::QUEUE_WAIT,
            stall_limit: Self::STALL_LIMIT,
            probe_interval: Self::PROBE_INTERVAL,
            hashing: Hashing::default(),
            read_write_sessions: false,
            template: Template::default(),
            oversight,
        }
    }

    /// Refuses what is out of bounds.
    pub(super) fn check(&self) -> Result<(), KeyError> {
        let setup = |reason: &str| KeyError::Setup {
            place: format!("PKCS#11 token {}", self.token),
            reason: reason.to_owned(),
        };
        if !(1..=1024).contains(&self.sessions) {
            return Err(setup("1 to 1024 sessions are possible"));
        }
        if !(1..=65_536).contains(&self.queue) {
            return Err(setup("a queue of 1 to 65536 jobs is possible"));
        }
        if self.queue_wait > Duration::from_secs(60) {
            return Err(setup("jobs may wait 60 s at most"));
        }
        if !(Duration::from_millis(100)..=Duration::from_secs(600)).contains(&self.stall_limit) {
            return Err(setup("a stall limit of 100 ms to 10 min is possible"));
        }
        if !(Duration::from_secs(1)..=Duration::from_secs(3600)).contains(&self.probe_interval) {
            return Err(setup("a probe every second to every hour is possible"));
        }
        if self.token.is_empty() {
            return Err(setup("nothing says which token; give its label or its serial number"));
        }
        Ok(())
    }
}

/// Tells a token from the others of its module, by all that is said. Never by slot: slots are renumbered.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct TokenSelector {
    label: Option<String>,
    serial: Option<String>,
    manufacturer: Option<String>,
    model: Option<String>,
}

/// What a token says of itself.
pub(super) struct TokenFacts<'a> {
    pub(super) label: &'a str,
    pub(super) serial: &'a str,
    pub(super) manufacturer: &'a str,
    pub(super) model: &'a str,
}

impl TokenSelector {
    /// The token with this label.
    #[must_use]
    pub fn label(label: &str) -> Self {
        Self { label: Some(label.to_owned()), ..Self::default() }
    }

    /// The token with this serial number.
    #[must_use]
    pub fn serial(serial: &str) -> Self {
        Self { serial: Some(serial.to_owned()), ..Self::default() }
    }

    /// Of those, the one with this serial number.
    #[must_use]
    pub fn with_serial(self, serial: &str) -> Self {
        Self { serial: Some(serial.to_owned()), ..self }
    }

    /// Of those, the one of this manufacturer.
    #[must_use]
    pub fn with_manufacturer(self, manufacturer: &str) -> Self {
        Self { manufacturer: Some(manufacturer.to_owned()), ..self }
    }

    /// Of those, the one of this model.
    #[must_use]
    pub fn with_model(self, model: &str) -> Self {
        Self { model: Some(model.to_owned()), ..self }
    }

    fn is_empty(&self) -> bool {
        self.label.is_none() && self.serial.is_none()
    }

    /// Tokens pad what they say with blanks, some modules with NULs.
    pub(super) fn matches(&self, token: &TokenFacts<'_>) -> bool {
        let same = |wanted: &Option<String>, found: &str| {
            wanted.as_ref().is_none_or(|wanted| trim(wanted) == trim(found))
        };
        same(&self.label, token.label)
            && same(&self.serial, token.serial)
            && same(&self.manufacturer, token.manufacturer)
            && same(&self.model, token.model)
    }
}

/// `text` without the padding that tokens put at its end.
pub(super) fn trim(text: &str) -> &str {
    text.trim_end_matches([' ', '\0', '\n'])
}

impl fmt::Display for TokenSelector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let said = [
            ("serial", &self.serial),
            ("manufacturer", &self.manufacturer),
            ("model", &self.model),
        ];
        match &self.label {
            Some(label) => write!(f, "\"{label}\"")?,
            None => write!(f, "of any label")?,
        }
        for (name, value) in said {
            if let Some(value) = value {
                write!(f, " ({name} {value})")?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_that_is_said_must_match_and_padding_is_no_part_of_it() {
        let token = TokenFacts {
            label: "ca                    ",
            serial: "12ab\0\0",
            manufacturer: "Acme ",
            model: "HSM 7",
        };
        let ca = || TokenSelector::label("ca");
        assert!(ca().matches(&token));
        assert!(
            ca().with_serial("12ab").with_manufacturer("Acme").with_model("HSM 7").matches(&token)
        );
        assert!(TokenSelector::serial("12ab").matches(&token));
        for other in [
            TokenSelector::label("ca 2"),
            ca().with_serial("12ac"),
            ca().with_manufacturer("Acme Inc."),
            ca().with_model("HSM"),
        ] {
            assert!(!other.matches(&token), "{other}");
        }
    }
}
