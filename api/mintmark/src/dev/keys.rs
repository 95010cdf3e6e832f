//! Which keys `dev` uses: a throw-away token where SoftHSM is installed, sealed files otherwise.

use std::path::PathBuf;

use ca_core::key::KeyError;
use keymanager::pkcs11::TokenSelector;
use keymanager::{SealKey, SecretSource};
use softhsm::{SoftHsmError, Token};
use thiserror::Error;

use super::Home;
use crate::config::{Backend, KeySettings, Pkcs11Settings, SoftwareSettings};

/// The label of the token.
const LABEL: &str = "mintmark dev";

/// Where the keys of `dev` live.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeyKind {
    /// In a SoftHSM token in the folder.
    Token,
    /// In sealed files in the folder, with the key that seals them.
    Software,
}

/// Why there are no keys to try it with.
#[derive(Debug, Error)]
pub enum DevKeyError {
    /// SoftHSM is there and does not work.
    #[error(transparent)]
    Token(#[from] SoftHsmError),
    /// The sealed files do not work.
    #[error(transparent)]
    Software(#[from] KeyError),
    /// The folder's keys are in a token that cannot be reached any more.
    #[error(
        "the keys of {} are in a SoftHSM token, and SoftHSM is not installed here; run: apt-get install \
         softhsm2, or name another folder with --dir",
        folder.display()
    )]
    LibraryGone {
        /// The folder.
        folder: PathBuf,
    },
    /// A thread ended early.
    #[error("making the token was interrupted")]
    Interrupted,
}

impl KeyKind {
    /// Takes the kind that the folder has, or the best one that this machine can make. Called while the
    /// process has one thread: the token is named in the environment.
    pub fn choose(home: &Home) -> Result<Self, DevKeyError> {
        if home.path().join("seal.key").exists() {
            return Ok(Self::Software);
        }
        if softhsm::find_module().is_some() {
            softhsm::environment::configure(home.path())?;
            return Ok(Self::Token);
        }
        if home.path().join("pin").exists() {
            return Err(DevKeyError::LibraryGone { folder: home.path().to_owned() });
        }
        Ok(Self::Software)
    }

    /// What a person must know who tries it without a token.
    #[must_use]
    pub fn note(self, home: &Home) -> Option<String> {
        let seal_key = home.path().join("seal.key");
        (self == Self::Software).then(|| {
            format!(
                "note: no token; software keys sealed under {} are used, which protects a copied key \
                 file only. For a token: apt-get install softhsm2, then start again with a new folder",
                seal_key.display()
            )
        })
    }

    /// Makes the keys' place, or finds it, and says how a server uses it.
    pub(super) async fn settings(
        self,
        home: &Home,
    ) -> Result<(KeySettings, Option<Token>), DevKeyError> {
        match self {
            Self::Software => Ok((software(home).await?, None)),
            Self::Token => {
                let folder = home.path().to_owned();
                let made = tokio::task::spawn_blocking(move || match Token::open(&folder)? {
                    Some(token) => Ok(token),
                    None => Token::create(&folder, LABEL),
                });
                let token = made.await.map_err(|_| DevKeyError::Interrupted)??;
                Ok((pkcs11(&token), Some(token)))
            }
        }
    }
}

async fn software(home: &Home) -> Result<KeySettings, KeyError> {
    let seal_key = home.path().join("seal.key");
    if !seal_key.exists() {
        SealKey::create_file(&seal_key).await?;
    }
    let dir = home.path().join("keys");
    let seal_key = SecretSource::File(seal_key);
    Ok(KeySettings::of(Backend::Software(SoftwareSettings { dir, seal_key })))
}

fn pkcs11(token: &Token) -> KeySettings {
    let selector = TokenSelector::label(token.label()).with_serial(token.serial());
    let pin = SecretSource::File(token.pin_file().to_owned());
    let token = Pkcs11Settings::of(token.module().to_owned(), selector, pin);
    KeySettings::of(Backend::Pkcs11(Pkcs11Settings { sessions: 2, ..token }))
}
