//! A token: made with a random PIN that only a file knows.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{ErrorKind, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use cryptoki::context::Pkcs11;
use cryptoki::session::UserType;
use cryptoki::slot::{Slot, TokenInfo};
use cryptoki::types::AuthPin;
use zeroize::Zeroizing;

use crate::{SoftHsmError, environment, find_module, module};

/// A SoftHSM token of this process.
#[derive(Debug, Clone)]
pub struct Token {
    module: PathBuf,
    configuration: PathBuf,
    label: String,
    serial: String,
    pin_file: PathBuf,
}

impl Token {
    /// Makes a token with this label (32 bytes at most) in `directory`, which holds its
    /// `softhsm2.conf`, its files and its PIN (`pin`, mode 0600), and is made with mode 0700 if it is
    /// not there. [`configure`](environment::configure) has named that directory before.
    ///
    /// # Errors
    /// See [`SoftHsmError`].
    pub fn create(directory: &Path, label: &str) -> Result<Self, SoftHsmError> {
        Home::of_process(directory)?.make_token(label, "pin")
    }

    /// The token that [`create`](Self::create) made in `directory`, or `None` if there is none yet.
    ///
    /// # Errors
    /// See [`SoftHsmError`].
    pub fn open(directory: &Path) -> Result<Option<Self>, SoftHsmError> {
        let home = Home::of_process(directory)?;
        let pin_file = home.root.join("pin");
        if !pin_file.exists() {
            return Ok(None);
        }
        let _turn = home.turn()?;
        let context = module::context()?;
        let tokens = tokens(&context, true)?;
        match &tokens[..] {
            [(_, info)] => home.token(info, pin_file).map(Some),
            // The making ended between the PIN and the token: it starts anew.
            [] => std::fs::remove_file(&pin_file).map(|()| None).map_err(at(&pin_file)),
            others => Err(SoftHsmError::Tokens { path: home.root, count: others.len() }),
        }
    }

    /// A new token for one test, in the directory of this test process
    /// ([`test_process!`](crate::test_process)). Tests run side by side: each has its own.
    ///
    /// # Panics
    /// If there is no token to be had: a test without one has failed.
    #[must_use]
    pub fn fresh() -> Self {
        crate::testing::fresh().unwrap_or_else(|error| panic!("no token for this test: {error}"))
    }

    /// The library to load.
    #[must_use]
    pub fn module(&self) -> &Path {
        &self.module
    }

    /// The `softhsm2.conf`, for other programs' `SOFTHSM2_CONF`.
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

/// The directory in which this process has its tokens.
pub(crate) struct Home {
    root: PathBuf,
}

/// One thread and one process at a time: a token is made in the next free slot, and SoftHSM processes
/// that start together on one directory trip over each other.
static TURN: Mutex<()> = Mutex::new(());

impl Home {
    /// Refuses a directory that is not the one this process was configured for.
    pub(crate) fn of_process(directory: &Path) -> Result<Self, SoftHsmError> {
        let root = std::path::absolute(directory).map_err(at(directory))?;
        match environment::current() {
            Some(current) if current == environment::configuration_in(&root) => Ok(Self { root }),
            other => {
                let other = other.map_or("no SOFTHSM2_CONF".to_owned(), |path| {
                    format!("SOFTHSM2_CONF={}", path.display())
                });
                Err(SoftHsmError::OtherConfiguration(other))
            }
        }
    }

    /// Makes a token and writes its PIN to the file of that name.
    pub(crate) fn make_token(&self, label: &str, pin_name: &str) -> Result<Token, SoftHsmError> {
        let _turn = self.turn()?;
        self.write_configuration()?;
        let context = module::context()?;
        let pin_file = self.root.join(pin_name);
        let (pin, officer) = (random_pin()?, random_pin()?);
        write_new(&pin_file, pin.as_bytes())?;
        // SoftHSM always shows one slot whose token is still to be initialised.
        let free = tokens(&context, false)?.into_iter().next();
        let (slot, _) = free.ok_or(SoftHsmError::Tokens { path: self.root.clone(), count: 0 })?;
        // The officer's PIN is forgotten: a throw-away token has no officer.
        let officer = AuthPin::from(officer.as_str());
        context.init_token(slot, &officer, label)?;
        let session = context.open_rw_session(slot)?;
        session.login(UserType::So, Some(&officer))?;
        session.init_pin(&AuthPin::from(pin.as_str()))?;
        self.token(&context.get_token_info(slot)?, pin_file)
    }

    fn token(&self, info: &TokenInfo, pin_file: PathBuf) -> Result<Token, SoftHsmError> {
        Ok(Token {
            module: find_module().ok_or(SoftHsmError::NoModule)?,
            configuration: environment::configuration_in(&self.root),
            label: info.label().trim_end().to_owned(),
            serial: info.serial_number().trim_end().to_owned(),
            pin_file,
        })
    }

    fn write_configuration(&self) -> Result<(), SoftHsmError> {
        let tokens = self.root.join("tokens");
        match DirBuilder::new().mode(0o700).create(&tokens) {
            Err(error) if error.kind() != ErrorKind::AlreadyExists => {
                return Err(at(&tokens)(error));
            }
            _ => {}
        }
        let content = format!(
            "directories.tokendir = {}\nobjectstore.backend = file\nlog.level = ERROR\n\
             slots.removable = false\n",
            tokens.display()
        );
        let path = environment::configuration_in(&self.root);
        std::fs::write(&path, content).map_err(at(&path))
    }

    /// Waits until it is our turn with this directory; the turn ends when the result is dropped.
    fn turn(&self) -> Result<impl Drop + use<>, SoftHsmError> {
        struct Turn(#[expect(dead_code, reason = "held")] std::sync::MutexGuard<'static, ()>, File);
        impl Drop for Turn {
            fn drop(&mut self) {
                // Closing the file would do it too; a failure has no consequence.
                let _ = self.1.unlock();
            }
        }
        let guard = TURN.lock().unwrap_or_else(PoisonError::into_inner);
        let mut builder = DirBuilder::new();
        builder.recursive(true).mode(0o700).create(&self.root).map_err(at(&self.root))?;
        let path = self.root.join("lock");
        let mut options = OpenOptions::new();
        let file = options
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(&path)
            .map_err(at(&path))?;
        file.lock().map_err(at(&path))?;
        Ok(Turn(guard, file))
    }
}

/// The slots whose token is initialised, or not.
fn tokens(context: &Pkcs11, initialised: bool) -> Result<Vec<(Slot, TokenInfo)>, SoftHsmError> {
    let mut tokens = Vec::new();
    for slot in context.get_slots_with_token()? {
        let info = context.get_token_info(slot)?;
        if info.token_initialized() == initialised {
            tokens.push((slot, info));
        }
    }
    Ok(tokens)
}

/// 24 hexadecimal digits: 96 random bits.
fn random_pin() -> Result<Zeroizing<String>, SoftHsmError> {
    use std::fmt::Write as _;
    let mut bytes = Zeroizing::new([0; 12]);
    aws_lc_rs::rand::fill(&mut bytes[..]).map_err(|_| SoftHsmError::Random)?;
    let mut pin = Zeroizing::new(String::with_capacity(24));
    for byte in bytes.iter() {
        write!(pin, "{byte:02x}").expect("a string takes what is written to it");
    }
    Ok(pin)
}

fn write_new(path: &Path, content: &[u8]) -> Result<(), SoftHsmError> {
    let mut options = OpenOptions::new();
    let file = options.write(true).create_new(true).mode(0o600).open(path);
    file.and_then(|mut file| file.write_all(content)).map_err(at(path))
}

fn at(path: &Path) -> impl FnOnce(std::io::Error) -> SoftHsmError + use<> {
    let path = path.to_owned();
    move |source| SoftHsmError::File { path, source }
}
