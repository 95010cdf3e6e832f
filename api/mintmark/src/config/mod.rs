//! `mintmark.toml`: read once, refused early.
//!
//! A configuration passes three types: the text, a [`File`] (what a person may write; unknown keys are
//! errors), and [`Settings`] (what the program will do: checked, with absolute paths and every default
//! in place). `docs/mintmark.toml` describes each key.

mod fault;
mod file;
mod key_store;
mod period;
mod settings;
mod wait;

use std::io::Read;
use std::path::{Path, PathBuf};
use std::{fmt, fs, io};

use thiserror::Error;

pub use file::{
    AdminSection, Create, File, Hash, IssuingSection, KeySection, KeyStoreType, LogFormat,
    LogLevel, LogSection, MetricsSection, Secret, ServerSection, SignerSection, StoreSection,
    StoreType, SubjectSection, TemplateSection, TrustDomainSection,
};
pub use key_store::{
    AwsKmsSettings, Backend, KeySettings, PaceSettings, Pkcs11Settings, SoftwareSettings,
    TransitSettings,
};
pub use period::{Period, PeriodError};
pub use settings::{
    Admin, DEFAULT_QUEUE, IssuanceLogSettings, IssuingKeySettings, Logging, Settings,
    default_authorities,
};
pub use wait::{Wait, WaitError};

/// Where the configuration is looked for when nobody says otherwise.
pub const DEFAULT_PATH: &str = "/etc/mintmark/mintmark.toml";

/// Longest configuration file in bytes; the annotated sample has under a tenth of this.
const LONGEST_FILE: u64 = 256 * 1024;

/// Why a configuration cannot be used.
#[derive(Debug, Error)]
pub enum ConfigError {
    /// The file cannot be read at all.
    #[error("cannot read configuration {}: {reason}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What the system said, and what to do.
        reason: String,
    },
    /// The file is read and says something wrong.
    #[error("{}", Lines(.0))]
    Invalid(Vec<Fault>),
}

/// One thing that is wrong in a configuration file, and where.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{}:{line}:{column}: {problem}", path.display())]
pub struct Fault {
    /// The file.
    pub path: PathBuf,
    /// Line, counted from 1.
    pub line: usize,
    /// Column in characters, counted from 1.
    pub column: usize,
    /// What is wrong and what to write instead.
    pub problem: String,
}

/// Reads and checks the configuration at `path`. Relative paths in it start at the folder of the file,
/// so that what they mean does not depend on where the program is started.
///
/// Touches no other file: whether the key store and the folders exist is for those who use them, and
/// for `mintmark check`.
pub fn load(path: &Path) -> Result<Settings, ConfigError> {
    let path = std::path::absolute(path).map_err(|error| unreadable(path, &error))?;
    let text = read(&path)?;
    parse(&text, &path)
}

/// Checks a configuration that has been read from `path`, which must be absolute.
pub fn parse(text: &str, path: &Path) -> Result<Settings, ConfigError> {
    let located = |misfits: Vec<fault::Misfit>| {
        ConfigError::Invalid(misfits.into_iter().map(|misfit| misfit.locate(text, path)).collect())
    };
    let file: File =
        toml::from_str(text).map_err(|error| located(vec![fault::Misfit::of_toml(&error)]))?;
    let base = path.parent().unwrap_or(Path::new("/"));
    Settings::new(file, base).map_err(located)
}

fn read(path: &Path) -> Result<String, ConfigError> {
    let mut text = String::new();
    let file = fs::File::open(path).map_err(|error| unreadable(path, &error))?;
    let length = file
        .take(LONGEST_FILE + 1)
        .read_to_string(&mut text)
        .map_err(|error| unreadable(path, &error))?;
    if length as u64 > LONGEST_FILE {
        let reason = format!("it is longer than {LONGEST_FILE} bytes; this is no configuration");
        return Err(ConfigError::Unreadable { path: path.to_owned(), reason });
    }
    Ok(text)
}

fn unreadable(path: &Path, error: &io::Error) -> ConfigError {
    let reason = match error.kind() {
        io::ErrorKind::NotFound => {
            "no such file; name another with --config, or start from docs/mintmark.toml".to_owned()
        }
        io::ErrorKind::PermissionDenied => {
            "permission denied; run as the user that owns it".to_owned()
        }
        io::ErrorKind::InvalidData => "it is not UTF-8 text".to_owned(),
        _ => error.to_string(),
    };
    ConfigError::Unreadable { path: path.to_owned(), reason }
}

/// Faults one below the other.
struct Lines<'a>(&'a [Fault]);

impl fmt::Display for Lines<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, fault) in self.0.iter().enumerate() {
            let separator = if index == 0 { "" } else { "\n" };
            write!(f, "{separator}{fault}")?;
        }
        Ok(())
    }
}
