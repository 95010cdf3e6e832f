//! Tokens for tests that share one process.
//!
//! A directory of its own for each test process, named before `main` runs, since the test harness has
//! threads from the start; removed when the process ends.

use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};

use crate::token::Home;
use crate::{SoftHsmError, Token, environment};

/// Gives this test binary a directory of tokens. Said once, at the top of the test file.
#[macro_export]
macro_rules! test_process {
    () => {
        #[used]
        #[unsafe(link_section = ".init_array")]
        static SOFTHSM_BEFORE_MAIN: extern "C" fn() = $crate::testing::before_main;
        #[used]
        #[unsafe(link_section = ".fini_array")]
        static SOFTHSM_AFTER_MAIN: extern "C" fn() = $crate::testing::after_main;
    };
}

/// Names the directory and clears what a killed process may have left there. Called by [`test_process!`](crate::test_process).
pub extern "C" fn before_main() {
    let _ = std::fs::remove_dir_all(directory());
    if let Err(error) = environment::configure(&directory()) {
        panic!("no SoftHSM for this test process: {error}");
    }
}

/// Removes the directory. Called by [`test_process!`](crate::test_process).
pub extern "C" fn after_main() {
    let _ = std::fs::remove_dir_all(directory());
}

/// One per process.
fn directory() -> PathBuf {
    std::env::temp_dir().join(format!("mintmark-softhsm-{}", std::process::id()))
}

/// A token that no other test has.
pub(crate) fn fresh() -> Result<Token, SoftHsmError> {
    static NUMBER: AtomicU32 = AtomicU32::new(0);
    let number = NUMBER.fetch_add(1, Ordering::Relaxed);
    let home = Home::of_process(&directory())?;
    home.make_token(&format!("test {number}"), &format!("pin-{number}"))
}
