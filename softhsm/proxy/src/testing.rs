//! The proxy for tests that share one process.
//!
//! Each test process has one proxy over SoftHSM. Its control file and the directory of its tokens are
//! named before `main` runs, since the test harness has threads from the start, and removed when the
//! process ends. Faults are the whole process's: tests that set any take [`device`], which is one
//! test's at a time, and so do those that must see none.

use std::ops::Deref;
use std::path::PathBuf;
use std::sync::{LazyLock, Mutex, MutexGuard, PoisonError};

use crate::{CONTROL_VARIABLE, Control, environment};

/// Gives this test binary a directory of SoftHSM tokens, as
/// [`softhsm::test_process!`] does, and a control file. Said once, at the top
/// of the test file.
#[macro_export]
macro_rules! test_process {
    () => {
        #[used]
        #[unsafe(link_section = ".init_array")]
        static PROXY_BEFORE_MAIN: extern "C" fn() = $crate::testing::before_main;
        #[used]
        #[unsafe(link_section = ".fini_array")]
        static PROXY_AFTER_MAIN: extern "C" fn() = $crate::testing::after_main;
    };
}

/// Sets up both. Called by [`test_process!`](crate::test_process).
pub extern "C" fn before_main() {
    softhsm::testing::before_main();
    let path = control_file();
    if let Err(error) = Control::create(&path) {
        panic!("no control file for this test process: {error}");
    }
    if let Err(error) = environment::set(CONTROL_VARIABLE, &path) {
        panic!("{CONTROL_VARIABLE} cannot be set: {error}");
    }
}

/// Removes both. Called by [`test_process!`](crate::test_process).
pub extern "C" fn after_main() {
    let _ = std::fs::remove_file(control_file());
    softhsm::testing::after_main();
}

/// The control of this process's proxy for one test: waits until no other test has it, and starts
/// without faults and with all counters at 0. When it is dropped, everything is taken back.
///
/// # Panics
/// If the test file does not say [`test_process!`](crate::test_process).
#[must_use]
pub fn device() -> Turn {
    static CONTROL: LazyLock<Control> = LazyLock::new(|| {
        Control::open(&control_file()).expect("the test file says pkcs11_proxy::test_process!()")
    });
    static TURN: Mutex<()> = Mutex::new(());
    let guard = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    CONTROL.reset();
    Turn { control: &CONTROL, _guard: guard }
}

/// One test's turn with the proxy; see [`device`].
#[derive(Debug)]
pub struct Turn {
    control: &'static Control,
    _guard: MutexGuard<'static, ()>,
}

impl Deref for Turn {
    type Target = Control;

    fn deref(&self) -> &Control {
        self.control
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        self.control.reset();
    }
}

/// One per process.
fn control_file() -> PathBuf {
    std::env::temp_dir().join(format!("mintmark-proxy-{}", std::process::id()))
}
