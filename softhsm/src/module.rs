//! The SoftHSM library: where it is, and its one initialisation in this process.

use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};

use cryptoki::context::{CInitializeArgs, CInitializeFlags, Pkcs11};
use cryptoki::error::{Error, RvError};

use crate::SoftHsmError;

/// Where distributions put the library.
const USUAL: &[&str] = &[
    "/usr/lib/softhsm/libsofthsm2.so",
    "/usr/lib/x86_64-linux-gnu/softhsm/libsofthsm2.so",
    "/usr/lib/aarch64-linux-gnu/softhsm/libsofthsm2.so",
    "/usr/lib64/pkcs11/libsofthsm2.so",
    "/usr/lib64/softhsm/libsofthsm2.so",
    "/usr/lib/pkcs11/libsofthsm2.so",
    "/usr/local/lib/softhsm/libsofthsm2.so",
    "/opt/homebrew/lib/softhsm/libsofthsm2.so",
];

/// The SoftHSM library: what `SOFTHSM2_MODULE` names, or the first of the usual places that has it.
#[must_use]
pub fn find_module() -> Option<PathBuf> {
    let named = std::env::var_os("SOFTHSM2_MODULE").filter(|path| !path.is_empty());
    match named.map(PathBuf::from) {
        Some(path) => path.is_file().then_some(path),
        None => USUAL.iter().map(PathBuf::from).find(|path| path.is_file()),
    }
}

/// The library, initialised. It stays so until the process ends, as others in it may be using it.
pub(crate) fn context() -> Result<Pkcs11, SoftHsmError> {
    static CONTEXT: Mutex<Option<Pkcs11>> = Mutex::new(None);
    let mut context = CONTEXT.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(context) = &*context {
        return Ok(context.clone());
    }
    let loaded = Pkcs11::new(find_module().ok_or(SoftHsmError::NoModule)?)?;
    match loaded.initialize(CInitializeArgs::new(CInitializeFlags::OS_LOCKING_OK)) {
        Ok(()) | Err(Error::Pkcs11(RvError::CryptokiAlreadyInitialized, _)) => {}
        Err(error) => return Err(error.into()),
    }
    Ok(context.insert(loaded).clone())
}
