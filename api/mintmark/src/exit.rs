//! How a command ends: an exit code that means something, and an error that says what to do.

use std::error::Error;
use std::process::ExitCode;

use thiserror::Error as ThisError;

use crate::client::ClientError;
use crate::config::ConfigError;

/// Why a command did not do what it was asked for. Each kind has an exit code of its own, so that a
/// script need not read the text; `docs/cli.md` lists them.
#[derive(Debug, ThisError)]
pub enum Failure {
    /// The work was tried and failed.
    #[error("{0}")]
    Failed(Box<dyn Error + Send + Sync>),
    /// The command makes no sense as it was typed.
    #[error("{0}")]
    Usage(String),
    /// The configuration cannot be used.
    #[error("{0}")]
    Configuration(#[from] ConfigError),
    /// What the configuration names cannot be used as it is set up, and trying again would not help: a PIN that
    /// was refused, for one, which costs one of the tries that a token allows.
    #[error("{0}")]
    SetUp(Box<dyn Error + Send + Sync>),
    /// `mintmark check` has told what is wrong; nothing is left to say.
    #[error("the configuration has faults")]
    Checked,
    /// No server answers on the socket, or it cannot do its work.
    #[error("{0}")]
    Unreachable(ClientError),
}

impl Failure {
    /// Wraps an error of the work itself.
    pub fn failed(error: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self::Failed(error.into())
    }

    /// The exit code: 1 failed, 2 usage, 3 configuration, 4 unreachable or not healthy.
    #[must_use]
    pub fn exit_code(&self) -> ExitCode {
        ExitCode::from(match self {
            Self::Failed(_) => 1,
            Self::Usage(_) => 2,
            Self::Configuration(_) | Self::SetUp(_) | Self::Checked => 3,
            Self::Unreachable(_) => 4,
        })
    }
}

impl From<ClientError> for Failure {
    fn from(error: ClientError) -> Self {
        match error {
            ClientError::Refused { .. }
            | ClientError::Untimely(_)
            | ClientError::Unusable { .. } => Self::failed(error),
            ClientError::Socket { .. }
            | ClientError::Lost { .. }
            | ClientError::NotServing { .. } => Self::Unreachable(error),
        }
    }
}
