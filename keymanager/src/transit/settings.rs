//! What an operator says about a Vault or OpenBao server.

use std::path::PathBuf;
use std::time::Duration;

use ca_core::key::KeyError;

use crate::remote::{Pace, endpoint};
use crate::secret::SecretSource;

/// Which transit engine to use and how.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// The server, such as `https://vault.example:8200`; `http://` on this machine alone.
    pub address: String,
    /// The certificates that the server's has to lead to, in PEM; the system's without one.
    pub ca_file: Option<PathBuf>,
    /// Where the engine is mounted; `transit` by default.
    pub mount: String,
    /// The namespace of the mount, where there are such.
    pub namespace: Option<String>,
    /// Where the token is read from: when the store is opened, halfway to its end, and when it is refused.
    pub token: SecretSource,
    /// How fast the server may be asked. It has no quota unless its operator sets one.
    pub pace: Pace,
}

impl Settings {
    /// The defaults for a server: the engine at `transit`, and more requests than one server signs.
    #[must_use]
    pub fn of_server(address: &str, token: SecretSource) -> Self {
        Self {
            address: address.to_owned(),
            ca_file: None,
            mount: "transit".to_owned(),
            namespace: None,
            token,
            pace: Pace {
                max_in_flight: 32,
                max_rate: 20_000,
                queue_wait: Duration::from_millis(500),
                attempt_timeout: Duration::from_secs(2),
            },
        }
    }

    /// The place, for people.
    pub(super) fn place(&self) -> String {
        let namespace = self.namespace.as_ref().map(|it| format!(", namespace {it}"));
        format!(
            "transit engine {} of {}{}",
            self.mount,
            self.address,
            namespace.unwrap_or_default()
        )
    }

    /// Refuses what cannot work. Asks nobody.
    ///
    /// # Errors
    /// [`KeyError::Setup`]: the setting, and what to write instead.
    pub fn check(&self) -> Result<(), KeyError> {
        let setup = |reason: String| Err(KeyError::Setup { place: self.place(), reason });
        if let Err(reason) = endpoint::check(&self.address) {
            return setup(reason);
        }
        if !is_path(&self.mount) {
            return setup(format!("{:?} is no path of a mount, such as transit", self.mount));
        }
        if let Some(namespace) = self.namespace.as_ref().filter(|it| !is_path(it)) {
            return setup(format!("{namespace:?} is no path of a namespace, such as team/ca"));
        }
        Ok(())
    }
}

/// Parts of letters, digits and a few marks, between slashes.
fn is_path(text: &str) -> bool {
    let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
    text.split('/')
        .all(|part| !part.is_empty() && part != "." && part != ".." && part.bytes().all(plain))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_work_is_refused_with_its_reason() {
        let token = SecretSource::Environment("TOKEN".to_owned());
        let good = Settings::of_server("https://vault.example:8200", token);
        assert_eq!(good.check(), Ok(()));
        let nested = Settings { mount: "team/transit-1".to_owned(), ..good.clone() };
        assert_eq!(nested.check(), Ok(()));
        for bad in [
            Settings { address: "http://vault.example:8200".to_owned(), ..good.clone() },
            Settings { mount: String::new(), ..good.clone() },
            Settings { mount: "/transit".to_owned(), ..good.clone() },
            Settings { mount: "a/../sys".to_owned(), ..good.clone() },
            Settings { mount: "a?b".to_owned(), ..good.clone() },
            Settings { namespace: Some("a b".to_owned()), ..good.clone() },
        ] {
            assert!(matches!(bad.check(), Err(KeyError::Setup { .. })), "{bad:?}");
        }
    }
}
