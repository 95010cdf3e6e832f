//! Where cargo has put the module.

use std::path::{Path, PathBuf};

/// The module is not beside the program.
#[derive(Debug, thiserror::Error)]
#[error(
    "{name} is not beside {program}; make pkcs11-proxy a dependency of what is run, or run: cargo \
     build -p pkcs11-proxy"
)]
pub struct NotBuilt {
    /// The file that was looked for.
    name: String,
    /// Beside which program.
    program: String,
}

/// The module that was built together with this program: for tests (`target/debug/deps/…`), programs
/// (`target/release/…`), examples and benches of a package that depends on this crate.
///
/// # Errors
/// [`NotBuilt`], for a program that was moved away from its target folder.
pub fn module_path() -> Result<PathBuf, NotBuilt> {
    let program = std::env::current_exe().unwrap_or_default();
    let folder = program.parent().unwrap_or(Path::new(""));
    // `deps` first: cargo writes there whenever it builds the crate as a dependency, and beside the
    // programs only when asked for the crate itself, so that one may be old.
    [folder.join("deps"), folder.join("../deps"), folder.to_owned(), folder.join("..")]
        .into_iter()
        .map(|folder| folder.join(file_name()))
        .find(|path| path.is_file())
        .map(|path| path.canonicalize().unwrap_or(path))
        .ok_or_else(|| NotBuilt { name: file_name(), program: program.display().to_string() })
}

/// The name that the linker gives the module.
pub(crate) fn file_name() -> String {
    format!("{}pkcs11_proxy{}", std::env::consts::DLL_PREFIX, std::env::consts::DLL_SUFFIX)
}
