//! The PKCS#11 libraries loaded into this process: one context for each, initialised once, and again only
//! when the library has lost its device.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use ca_core::key::KeyError;
use cryptoki::context::{CInitializeArgs, CInitializeFlags, Pkcs11};
use cryptoki::error::{Error, RvError};

use super::call::SignCalls;
use super::fault::{Class, Fault};
use super::gate::{Gate, Guest, Inside};
use super::watch::Stopwatch;

/// By canonical path. `C_Initialize` counts per process, not per user of the library, so neither may
/// two stores do it, nor may one finalise what the other is using: a loaded module stays.
static MODULES: Mutex<BTreeMap<PathBuf, Arc<Module>>> = Mutex::new(BTreeMap::new());

/// Network HSM take seconds.
const LONGEST_INITIALISATION: Duration = Duration::from_secs(10);

/// A loaded library.
pub(super) struct Module {
    context: Pkcs11,
    calls: SignCalls,
    gate: Gate,
    /// Held by the one thread that initialises the library anew.
    recovery: Mutex<()>,
    /// The call by which it is being finalised or initialised.
    starting: Stopwatch,
    /// The gate is closed because the library does not initialise.
    down: AtomicBool,
    /// The newest generation in which somebody got a session.
    good: AtomicU64,
}

impl fmt::Debug for Module {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Module(generation {})", self.generation())
    }
}

/// The library at `path`, loaded if it was not.
pub(super) fn load(path: &Path) -> Result<Arc<Module>, KeyError> {
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
    if let Some(module) = modules.get(&canonical) {
        return Ok(Arc::clone(module));
    }
    let no_module = |error: &dyn fmt::Display| {
        setup(format!("it does not load: {error}; name the library that the vendor documents"))
    };
    let context = Pkcs11::new(&canonical).map_err(|error| no_module(&error))?;
    // Whatever comes of it, it stays in memory: it may have started threads.
    std::mem::forget(context.clone());
    let calls = SignCalls::load(&canonical).map_err(|error| no_module(&error))?;
    if let Err(error) = initialize(&context) {
        // Some libraries are half initialised after that, and would say so at the next try.
        let _ = context.finalize();
        let fault = Fault::from(error);
        let reason = format!("it does not initialise: {}; see the vendor's log", fault.said);
        // A device that is away now may be there at the next start.
        let place = format!("PKCS#11 module {}", path.display());
        return Err(Fault { said: reason, ..fault }.key_error(&place));
    }
    if !calls.are_initialised() {
        return Err(setup(
            "it gives each caller an instance of its own (as p11-kit does), so that signatures \
             would be asked of one that was not initialised; name the vendor's own library"
                .to_owned(),
        ));
    }
    let module = Arc::new(Module::new(context, calls));
    modules.insert(canonical, Arc::clone(&module));
    Ok(module)
}

fn initialize(context: &Pkcs11) -> cryptoki::error::Result<()> {
    match start(context) {
        // Something else in this process uses the library too, which is its right.
        Err(Error::Pkcs11(RvError::CryptokiAlreadyInitialized, _)) => Ok(()),
        result => result,
    }
}

fn start(context: &Pkcs11) -> cryptoki::error::Result<()> {
    context.initialize(CInitializeArgs::new(CInitializeFlags::OS_LOCKING_OK))
}

impl Module {
    fn new(context: Pkcs11, calls: SignCalls) -> Self {
        Self {
            context,
            calls,
            gate: Gate::open_at(1),
            recovery: Mutex::new(()),
            starting: Stopwatch::default(),
            down: AtomicBool::new(false),
            good: AtomicU64::new(0),
        }
    }

    /// The context, for calls made [inside](Self::enter).
    pub(super) fn context(&self) -> &Pkcs11 {
        &self.context
    }

    /// The two calls of a signature, for calls made [inside](Self::enter).
    pub(super) fn calls(&self) -> &SignCalls {
        &self.calls
    }

    /// How often it has been initialised.
    pub(super) fn generation(&self) -> u64 {
        self.gate.generation()
    }

    /// Whether nobody may call it just now.
    pub(super) fn is_being_initialised(&self) -> bool {
        self.gate.is_closed()
    }

    /// Whether nobody may call it because it does not initialise.
    pub(super) fn is_down(&self) -> bool {
        self.down.load(Ordering::SeqCst)
    }

    /// For how long the call has taken by which the library is being finalised or initialised.
    pub(super) fn has_been_starting_for(&self, now: Instant) -> Option<Duration> {
        self.starting.elapsed(now)
    }

    /// Somebody got a session in that generation.
    pub(super) fn is_good_in(&self, generation: u64) {
        self.good.fetch_max(generation, Ordering::SeqCst);
    }

    /// Whether somebody got a session in the present generation.
    pub(super) fn is_good(&self) -> bool {
        self.good.load(Ordering::SeqCst) == self.generation() && !self.is_down()
    }

    /// Lets this thread call the library with handles of that generation.
    ///
    /// # Errors
    /// [`Class::Past`] if the handles are of the past, or the library is being initialised.
    pub(super) fn enter(&self, generation: u64) -> Result<Inside<'_>, Fault> {
        self.gate.enter(generation).ok_or_else(Fault::past)
    }

    /// As [`enter`](Self::enter), for a call that may take until then without hanging.
    ///
    /// # Errors
    /// [`Class::Past`] as there.
    pub(super) fn enter_until(&self, generation: u64, until: Instant) -> Result<Guest<'_>, Fault> {
        self.gate.enter_until(generation, until).ok_or_else(Fault::past)
    }

    /// Lets this thread call the library, for handles that it is about to get: with the present generation.
    /// Waits while the library is being initialised, for some seconds.
    ///
    /// # Errors
    /// [`Class::Past`] if that takes longer.
    pub(super) fn enter_now(&self) -> Result<(u64, Inside<'_>), Fault> {
        let end = Instant::now() + LONGEST_INITIALISATION;
        loop {
            let generation = self.generation();
            match self.enter(generation) {
                Ok(inside) => return Ok((generation, inside)),
                Err(fault) if Instant::now() >= end => {
                    let said = "the PKCS#11 library is being initialised anew".to_owned();
                    return Err(Fault { said, ..fault });
                }
                Err(_) => thread::sleep(Duration::from_millis(1)),
            }
        }
    }

    /// Initialises the library anew, unless somebody has done so since generation `seen`. Waits for the
    /// calls under way, at most `patience`; a thread that hangs in the library forbids it. A library that
    /// cannot be finalised stays as it is, and so do all handles.
    ///
    /// # Errors
    /// [`Class::Library`] if it does not come back; it may be tried again. [`Class::Later`] while a call is
    /// under way that may take long, [`Class::Hangs`] if one hangs.
    pub(super) fn recover(&self, seen: u64, patience: Duration) -> Result<(), Fault> {
        let _turn = self.recovery.lock().unwrap_or_else(PoisonError::into_inner);
        let generation = self.generation();
        if generation != seen && !self.gate.is_closed() {
            return Ok(());
        }
        if !self.gate.close(patience) {
            let may_take_long = self.gate.has_guests_alone();
            if !self.is_down() {
                self.gate.open(generation);
            }
            return Err(not_now(may_take_long));
        }
        let finalized = self.finalize();
        match self.starting.time(|| start(&self.context)) {
            Err(Error::Pkcs11(RvError::CryptokiAlreadyInitialized, _)) if !finalized => {
                self.open(generation);
            }
            // Something else in this process uses the library too, and was quicker.
            Ok(()) | Err(Error::Pkcs11(RvError::CryptokiAlreadyInitialized, _)) => {
                self.open(generation + 1);
            }
            // The gate stays closed: there is no library to call until the next try.
            Err(error) => {
                self.down.store(true, Ordering::SeqCst);
                let said = Fault::from(error).said;
                return Err(Fault::library(&format!("the module does not initialise: {said}")));
            }
        }
        Ok(())
    }

    /// Says whether it did.
    fn finalize(&self) -> bool {
        match self.starting.time(|| self.context.clone().finalize()) {
            // It was finalised under us, or has lost its own state.
            Ok(()) | Err(Error::Pkcs11(RvError::CryptokiNotInitialized, _)) => true,
            Err(error) => {
                let said = Fault::from(error).said;
                tracing::warn!(error = said, "C_Finalize failed; C_Initialize is tried");
                false
            }
        }
    }

    fn open(&self, generation: u64) {
        self.down.store(false, Ordering::SeqCst);
        self.gate.open(generation);
    }

    /// Initialises it if nobody may call it because that failed before, and whoever tried has gone.
    ///
    /// # Errors
    /// As [`recover`](Self::recover).
    pub(super) fn revive(&self) -> Result<(), Fault> {
        if self.is_down() {
            self.recover(self.generation(), LONGEST_INITIALISATION)
        } else {
            Ok(())
        }
    }
}

/// Why the library cannot be initialised anew just now.
fn not_now(may_take_long: bool) -> Fault {
    if may_take_long {
        let reason = "keys are being managed, which may take long; the module is initialised anew after that";
        Fault::new(Class::Later, "managing", reason)
    } else {
        let reason = "a call hangs in the module, so it cannot be initialised anew";
        Fault::new(Class::Hangs, "hangs", reason)
    }
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
