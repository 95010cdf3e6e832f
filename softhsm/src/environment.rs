//! The one variable that SoftHSM reads; the only module that may change the environment.

#![expect(unsafe_code, reason = "std::env::set_var is unsafe beside other threads; see `set`")]

use std::path::{Path, PathBuf};

use crate::SoftHsmError;

const VARIABLE: &str = "SOFTHSM2_CONF";

/// Makes this process look for its tokens in `directory`. Called by `main` before anything else: once
/// a second thread runs, it refuses.
///
/// # Errors
/// [`SoftHsmError::TooLate`], or [`SoftHsmError::File`] if `directory` is not a possible path.
pub fn configure(directory: &Path) -> Result<(), SoftHsmError> {
    let absolute = std::path::absolute(directory)
        .map_err(|source| SoftHsmError::File { path: directory.to_owned(), source })?;
    set(&configuration_in(&absolute))
}

/// The configuration that this process uses, if one is set.
pub(crate) fn current() -> Option<PathBuf> {
    std::env::var_os(VARIABLE).map(PathBuf::from)
}

/// The configuration file of a directory of tokens.
pub(crate) fn configuration_in(directory: &Path) -> PathBuf {
    directory.join("softhsm2.conf")
}

fn set(configuration: &Path) -> Result<(), SoftHsmError> {
    let path = "/proc/self/task";
    let threads = std::fs::read_dir(path)
        .map_err(|source| SoftHsmError::File { path: path.into(), source })?
        .count();
    if threads != 1 {
        return Err(SoftHsmError::TooLate);
    }
    // SAFETY: this is the process's only thread, as was just counted, and it starts no other in
    // between, so nothing reads the environment while it changes.
    unsafe { std::env::set_var(VARIABLE, configuration) };
    Ok(())
}
