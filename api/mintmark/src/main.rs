//! The `mintmark` binary: arguments in, exit code out.

use std::io::{self, Write as _};
use std::process::ExitCode;
use std::sync::Arc;

use ca_core::clock::SystemClock;
use mintmark::cli::Cli;

/// What a thread that mints allocates, a thread that answers frees: `docs/decisions/025-allocator.md`.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    // A wrong command line ends here, with exit code 2.
    let cli = Cli::from_arguments();
    match mintmark::run(cli, Arc::new(SystemClock), &mut io::stdout().lock()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            // Nobody is left to be told that standard error is closed.
            let _ = writeln!(io::stderr(), "mintmark: {failure}");
            failure.exit_code()
        }
    }
}
