//! The PKCS#11 libraries loaded into this process: one context for each, initialised once, for ever.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use ca_core::key::KeyError;
use cryptoki::context::{CInitializeArgs, CInitializeFlags, Pkcs11};
use cryptoki::error::{Error, RvError};

/// By canonical path. `C_Initialize` counts per process, not per user of the library, so neither may
/// two stores do it, nor may one finalise what the other is using: a loaded module stays.
static MODULES: Mutex<BTreeMap<PathBuf, Pkcs11>> = Mutex::new(BTreeMap::new());

/// The context of the library at `path`, loaded if it was not.
pub(super) fn load(path: &Path) -> Result<Pkcs11, KeyError> {
    let setup = |reason: String| KeyError::Setup {
        place: format!("PKCS#11 module {}", path.display()),
        reason,
    };
    if !path.is_absolute() {
        return Err(setup("its path is not absolute; write it from / on".to_owned()));
    }
    let canonical = std::fs::canonicalize(path).map_err(|error| {
        setup(format!(
            "{error}; install the vendor's PKCS#11 client and name its library (for SoftHSM: \
             apt-get install softhsm2, then /usr/lib/softhsm/libsofthsm2.so)"
        ))
    })?;
    // Held while loading, so that a second store waits for the first one's initialisation.
    let mut modules = MODULES.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(context) = modules.get(&canonical) {
        return Ok(context.clone());
    }
    let context = Pkcs11::new(&canonical).map_err(|error| {
        setup(format!("it does not load: {error}; name the library that the vendor documents"))
    })?;
    match context.initialize(CInitializeArgs::new(CInitializeFlags::OS_LOCKING_OK)) {
        // Something else in this process uses the library too, which is its right.
        Ok(()) | Err(Error::Pkcs11(RvError::CryptokiAlreadyInitialized, _)) => {}
        Err(error) => {
            return Err(setup(format!("it does not initialise: {error}; see the vendor's log")));
        }
    }
    modules.insert(canonical, context.clone());
    Ok(context)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_module_that_is_missing_relative_or_no_module_is_refused() {
        for (path, part) in [
            ("/nonexistent/libsofthsm2.so", "apt-get install softhsm2"),
            ("libsofthsm2.so", "not absolute"),
            ("/etc/passwd", "does not load"),
        ] {
            let error = load(Path::new(path)).unwrap_err();
            assert!(matches!(error, KeyError::Setup { .. }), "{error}");
            assert!(
                error.to_string().contains(part) && error.to_string().contains(path),
                "{error}"
            );
        }
    }
}
