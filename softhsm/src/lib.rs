//! A throw-away SoftHSM token for tests and `mintmark dev`. Never part of a production path.
//!
//! SoftHSM finds its tokens by a configuration file, and that file by the variable `SOFTHSM2_CONF`,
//! which it reads when the library is initialised: once per process. So a process has one directory of
//! tokens. `mintmark dev` names it with [`environment::configure`] first thing in `main`; a test binary
//! says [`test_process!`](crate::test_process) once and then takes a [`Token::fresh`] in each test.
//!
//! `token.sh` beside this crate makes a token for people.

pub mod environment;
mod module;
pub mod testing;
mod token;

pub use module::find_module;
pub use token::Token;

use std::path::PathBuf;

/// Why there is no token.
#[derive(Debug, thiserror::Error)]
pub enum SoftHsmError {
    /// The library is not installed.
    #[error(
        "SoftHSM is not installed; run: apt-get install softhsm2 (or set SOFTHSM2_MODULE to the \
         path of libsofthsm2.so)"
    )]
    NoModule,
    /// The environment can be changed safely by the only thread of a process alone.
    #[error("SOFTHSM2_CONF has to be set before the process starts its first thread")]
    TooLate,
    /// The process looks for tokens elsewhere.
    #[error(
        "this process uses {0} for SoftHSM; call softhsm::environment::configure first in main"
    )]
    OtherConfiguration(String),
    /// A file or directory failed.
    #[error("cannot use {path}: {source}")]
    File {
        /// Which one.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// SoftHSM failed.
    #[error("SoftHSM failed: {0}")]
    Library(#[from] cryptoki::error::Error),
    /// The directory holds something else than the one token that [`Token::create`] makes.
    #[error("{path} holds {count} tokens instead of one; use an empty directory")]
    Tokens {
        /// The directory.
        path: PathBuf,
        /// How many there are.
        count: usize,
    },
    /// The system gives no random bytes.
    #[error("the system gives no random bytes for a PIN")]
    Random,
}
