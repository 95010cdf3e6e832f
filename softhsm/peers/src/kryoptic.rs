//! Tokens of kryoptic, the PKCS#11 module that shares no line with SoftHSM.
//!
//! It has a fixed number of slots, each a database of its own, and reads which from a file that the
//! variable `KRYOPTIC_CONF` names when the library is initialised: once per process. A test binary says
//! [`kryoptic_process!`](crate::kryoptic_process) once and then takes a [`Token::fresh`] in each test.

#![expect(
    unsafe_code,
    reason = "std::env::set_var is unsafe beside other threads; see `configure`"
)]

use std::fmt::Write as _;
use std::fs::{DirBuilder, OpenOptions};
use std::io::Write as _;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use cryptoki::context::{CInitializeArgs, CInitializeFlags, Pkcs11};
use cryptoki::error::{Error, RvError};
use cryptoki::session::UserType;
use cryptoki::types::AuthPin;
use zeroize::Zeroizing;

/// How many tokens a process can have: one slot each, named before the first is made.
const SLOTS: usize = 64;

/// A kryoptic token of this process.
#[derive(Debug, Clone)]
pub struct Token {
    module: PathBuf,
    configuration: PathBuf,
    label: String,
    serial: String,
    pin_file: PathBuf,
}

/// Why there is no token.
#[derive(Debug, thiserror::Error)]
pub enum KryopticError {
    /// Nobody said where the library is.
    #[error(
        "MINTMARK_TEST_KRYOPTIC names no library; run `make test`, or `.ci/install kryoptic` and \
         `set -a; . .ci/env; set +a`"
    )]
    NoModule,
    /// Every slot has its token.
    #[error("all {SLOTS} tokens of this process are taken; raise SLOTS")]
    NoSlot,
    /// A file failed.
    #[error("cannot use {path}: {source}")]
    File {
        /// Which one.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// kryoptic failed.
    #[error("kryoptic failed: {0}")]
    Library(#[from] Error),
    /// The system gives no random bytes.
    #[error("the system gives no random bytes for a PIN")]
    Random,
}

impl Token {
    /// A new token for one test.
    ///
    /// # Panics
    /// If there is no token to be had: a test without one has failed.
    #[must_use]
    pub fn fresh() -> Self {
        make().unwrap_or_else(|error| panic!("no kryoptic token for this test: {error}"))
    }

    /// The library to load.
    #[must_use]
    pub fn module(&self) -> &Path {
        &self.module
    }

    /// A configuration with this token alone, for other programs' `KRYOPTIC_CONF`: the library refuses
    /// to be initialised while any of its tokens is half made, as those of tests beside this one may be.
    #[must_use]
    pub fn configuration(&self) -> &Path {
        &self.configuration
    }

    /// Its label.
    #[must_use]
    pub fn label(&self) -> &str {
        &self.label
    }

    /// Its serial number.
    #[must_use]
    pub fn serial(&self) -> &str {
        &self.serial
    }

    /// The file with the user PIN, mode 0600.
    #[must_use]
    pub fn pin_file(&self) -> &Path {
        &self.pin_file
    }
}

fn make() -> Result<Token, KryopticError> {
    // One thread at a time: the library is initialised once, and a token is made in the next slot.
    static TAKEN: Mutex<usize> = Mutex::new(0);
    let mut taken = TAKEN.lock().unwrap_or_else(PoisonError::into_inner);
    let module = module()?;
    let context = context(&module)?;
    let number = *taken;
    let slots = context.get_slots_with_token()?;
    let own = slots.into_iter().find(|slot| slot.id() == number as u64);
    let slot = own.ok_or(KryopticError::NoSlot)?;
    *taken += 1;
    let label = format!("kryoptic test {number}");
    let pin_file = directory().join(format!("pin-{number}"));
    let configuration = directory().join(format!("token-{number}.toml"));
    let (pin, officer) = (random_pin()?, random_pin()?);
    write_new(&pin_file, pin.as_bytes())?;
    write_new(&configuration, slot_of(number).as_bytes())?;
    // The officer's PIN is forgotten: a throw-away token has no officer.
    let officer = AuthPin::from(officer.as_str());
    context.init_token(slot, &officer, &label)?;
    let session = context.open_rw_session(slot)?;
    session.login(UserType::So, Some(&officer))?;
    session.init_pin(&AuthPin::from(pin.as_str()))?;
    let serial = context.get_token_info(slot)?.serial_number().trim_end().to_owned();
    Ok(Token { module, configuration, label, serial, pin_file })
}

fn module() -> Result<PathBuf, KryopticError> {
    let named = std::env::var_os("MINTMARK_TEST_KRYOPTIC").map(PathBuf::from);
    named.filter(|path| path.is_file()).ok_or(KryopticError::NoModule)
}

/// The library, initialised by us or by who tests it.
fn context(module: &Path) -> Result<Pkcs11, KryopticError> {
    let context = Pkcs11::new(module)?;
    match context.initialize(CInitializeArgs::new(CInitializeFlags::OS_LOCKING_OK)) {
        Ok(()) | Err(Error::Pkcs11(RvError::CryptokiAlreadyInitialized, _)) => Ok(context),
        Err(error) => Err(error.into()),
    }
}

/// 24 hexadecimal digits: 96 random bits.
fn random_pin() -> Result<Zeroizing<String>, KryopticError> {
    let mut bytes = Zeroizing::new([0; 12]);
    aws_lc_rs::rand::fill(&mut bytes[..]).map_err(|_| KryopticError::Random)?;
    let mut pin = Zeroizing::new(String::with_capacity(24));
    for byte in bytes.iter() {
        write!(pin, "{byte:02x}").expect("a string takes what is written to it");
    }
    Ok(pin)
}

/// Gives this test binary its tokens. Said once, at the top of the test file.
#[macro_export]
macro_rules! kryoptic_process {
    () => {
        #[used]
        #[unsafe(link_section = ".init_array")]
        static KRYOPTIC_BEFORE_MAIN: extern "C" fn() = $crate::kryoptic::before_main;
        #[used]
        #[unsafe(link_section = ".fini_array")]
        static KRYOPTIC_AFTER_MAIN: extern "C" fn() = $crate::kryoptic::after_main;
    };
}

/// Names the databases, and clears what a killed process may have left there. Called by
/// [`kryoptic_process!`](crate::kryoptic_process).
pub extern "C" fn before_main() {
    let _ = std::fs::remove_dir_all(directory());
    if let Err(error) = configure() {
        panic!("no kryoptic for this test process: {error}");
    }
}

/// Removes the databases. Called by [`kryoptic_process!`](crate::kryoptic_process).
pub extern "C" fn after_main() {
    let _ = std::fs::remove_dir_all(directory());
}

fn configure() -> Result<(), KryopticError> {
    let directory = directory();
    DirBuilder::new().mode(0o700).create(&directory).map_err(at(&directory))?;
    let path = directory.join("kryoptic.toml");
    let slots: String = (0..SLOTS).map(slot_of).collect();
    write_new(&path, slots.as_bytes())?;
    let threads = std::fs::read_dir("/proc/self/task").map_err(at(Path::new("/proc/self/task")))?;
    assert_eq!(threads.count(), 1, "the environment is set before the first thread starts");
    // SAFETY: this is the process's only thread, as was just counted, and it starts no other in
    // between, so nothing reads the environment while it changes.
    unsafe { std::env::set_var("KRYOPTIC_CONF", path) };
    Ok(())
}

/// A slot and its database, as the configuration names them.
fn slot_of(number: usize) -> String {
    let database = directory().join(format!("token-{number}.sql"));
    let database = database.display();
    format!("[[slots]]\nslot = {number}\ndbtype = \"sqlite\"\ndbargs = '{database}'\n")
}

/// One per process.
fn directory() -> PathBuf {
    std::env::temp_dir().join(format!("mintmark-kryoptic-{}", std::process::id()))
}

fn write_new(path: &Path, content: &[u8]) -> Result<(), KryopticError> {
    let mut options = OpenOptions::new();
    let file = options.write(true).create_new(true).mode(0o600).open(path);
    file.and_then(|mut file| file.write_all(content)).map_err(at(path))
}

fn at(path: &Path) -> impl FnOnce(std::io::Error) -> KryopticError + use<> {
    let path = path.to_owned();
    move |source| KryopticError::File { path, source }
}
