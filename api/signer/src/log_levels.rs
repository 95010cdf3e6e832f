//! How much the process logs, and its change while it runs.

use std::fmt;
use std::sync::{Mutex, PoisonError};

use mintmark_proto::spire::types::LogLevel;
use thiserror::Error;
use tracing_subscriber::filter::LevelFilter;
use tracing_subscriber::reload;

/// The level at which the process was launched and the one that holds now.
pub struct LogLevels {
    launch: LogLevel,
    current: Mutex<LogLevel>,
    filter: Box<dyn Fn(LevelFilter) -> Result<(), reload::Error> + Send + Sync>,
}

/// The level cannot be changed: the process has no log any more.
#[derive(Debug, Error)]
#[error("log level cannot be changed: {0}")]
pub struct LogLevelError(#[from] reload::Error);

impl LogLevels {
    /// Levels over the filter behind `handle`, which lets `launch` through.
    #[must_use]
    pub fn new<S: 'static>(launch: LevelFilter, handle: reload::Handle<LevelFilter, S>) -> Self {
        let launch = level(launch);
        let filter = Box::new(move |filter| handle.reload(filter));
        Self { launch, current: Mutex::new(launch), filter }
    }

    /// The level of the configuration.
    pub(crate) fn launch(&self) -> LogLevel {
        self.launch
    }

    /// The level that holds now.
    pub(crate) fn current(&self) -> LogLevel {
        *self.current.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lets `level` and all that is graver through, from now on.
    pub(crate) fn set(&self, level: LogLevel) -> Result<(), LogLevelError> {
        let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        (self.filter)(filter(level))?;
        *current = level;
        Ok(())
    }
}

impl fmt::Debug for LogLevels {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LogLevels")
            .field("launch", &self.launch)
            .field("current", &self.current())
            .finish_non_exhaustive()
    }
}

/// What is let through at a level. Panics and fatal errors are logged as errors here.
fn filter(level: LogLevel) -> LevelFilter {
    match level {
        LogLevel::Unspecified => LevelFilter::OFF,
        LogLevel::Panic | LogLevel::Fatal | LogLevel::Error => LevelFilter::ERROR,
        LogLevel::Warn => LevelFilter::WARN,
        LogLevel::Info => LevelFilter::INFO,
        LogLevel::Debug => LevelFilter::DEBUG,
        LogLevel::Trace => LevelFilter::TRACE,
    }
}

/// The name of a filter among SPIRE's levels, which have none for silence.
fn level(filter: LevelFilter) -> LogLevel {
    if filter == LevelFilter::TRACE {
        LogLevel::Trace
    } else if filter == LevelFilter::DEBUG {
        LogLevel::Debug
    } else if filter == LevelFilter::INFO {
        LogLevel::Info
    } else if filter == LevelFilter::WARN {
        LogLevel::Warn
    } else if filter == LevelFilter::ERROR {
        LogLevel::Error
    } else {
        LogLevel::Unspecified
    }
}
