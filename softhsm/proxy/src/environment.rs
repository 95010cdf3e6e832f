//! The two variables that the module reads, set for this process.

#![expect(unsafe_code, reason = "std::env::set_var is unsafe beside other threads; see `set`")]

use std::path::Path;

/// Sets a variable, if this is the process's only thread.
///
/// # Errors
/// If threads run already, or the system does not say.
pub(crate) fn set(variable: &str, value: &Path) -> std::io::Result<()> {
    let threads = std::fs::read_dir("/proc/self/task")?.count();
    if threads != 1 {
        return Err(std::io::Error::other("other threads run already"));
    }
    // SAFETY: this is the process's only thread, as was just counted, and it starts no other in
    // between, so nothing reads the environment while it changes.
    unsafe { std::env::set_var(variable, value) };
    Ok(())
}
