//! The commands, one module each: arguments become work, results become output.

mod bundle;
mod check;
mod dev;
mod frontend;
mod jwt;
mod key;
mod log;
mod server;
mod x509;

use std::io::Write;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use ca_core::clock::Clock;
use keymanager::memory::guard_process;
use serde::Serialize;
use tokio::runtime::Runtime;

use crate::cli::{self, Cli, Command, Shown};
use crate::client::AdminClient;
use crate::exit::Failure;
use crate::output::Screen;
use crate::server::Role;

/// Does what the command line says and writes the result to `out`. Called while the process has one
/// thread: `dev` still has to name its token in the environment.
pub fn run(cli: Cli, clock: Arc<dyn Clock>, out: &mut dyn Write) -> Result<(), Failure> {
    let socket = cli.socket.as_path();
    // Before anything secret is read: a server's keys and PINs, a workload's key, a token.
    let protection = guard_process();
    match cli.command {
        Command::Dev(arguments) => {
            let mut screen = Screen::new(out, arguments.shown.output);
            dev::run(&arguments, &protection, clock, &mut screen)
        }
        Command::Server(configuration) => {
            server::run(Role::Server, &configuration.config, &protection, clock)
        }
        Command::Signer(configuration) => {
            server::run(Role::Signer, &configuration.config, &protection, clock)
        }
        Command::Check(arguments) => {
            let mut screen = Screen::new(out, arguments.shown.output);
            wait(check::check(&arguments.configuration.config, &protection, &mut screen))
        }
        Command::X509(cli::X509::Mint(arguments)) => {
            let mut screen = Screen::new(out, arguments.shown.output);
            wait(x509::mint(arguments, socket, &*clock, &mut screen))
        }
        Command::X509(cli::X509::Show(arguments)) => {
            let mut screen = Screen::new(out, arguments.shown.output);
            x509::show(&arguments.file, &*clock, &mut screen)
        }
        Command::Jwt(cli::Jwt::Mint(arguments)) => {
            let mut screen = Screen::new(out, arguments.shown.output);
            wait(jwt::mint(arguments, socket, &mut screen))
        }
        Command::Bundle(cli::Bundle::Show(arguments)) => {
            let mut screen = Screen::new(out, arguments.shown.output);
            wait(bundle::show(&arguments, socket, &mut screen))
        }
        Command::Frontend(command) => {
            let mut screen = Screen::new(out, command.shown().output);
            wait(frontend::run(command, socket, &*clock, &mut screen))
        }
        Command::Key(command) => key::run(command, &*clock, out),
        Command::Log(command) => log::run(*command, &*clock, out),
        Command::Healthcheck(shown) => wait(healthcheck(socket, shown, out)),
        Command::Version(shown) => version(shown, out),
    }
}

/// Runs a client command; one thread is plenty for one call.
fn wait<T>(work: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    run_on(runtime.map_err(Failure::failed)?, work)
}

/// Runs work to its end. A call into a device or a disk that hangs by then is left behind, some seconds later.
fn run_on<T>(runtime: Runtime, work: impl Future<Output = T>) -> T {
    let done = runtime.block_on(work);
    runtime.shutdown_timeout(Duration::from_secs(5));
    done
}

async fn healthcheck(socket: &Path, shown: Shown, out: &mut dyn Write) -> Result<(), Failure> {
    #[derive(Serialize)]
    struct Health<'a> {
        healthy: bool,
        socket: &'a Path,
    }
    AdminClient::connect(socket).await?.check_health().await?;
    let rows = vec![("Server", "healthy".to_owned()), ("Socket", socket.display().to_string())];
    Screen::new(out, shown.output).show(&Health { healthy: true, socket }, rows)
}

fn version(shown: Shown, out: &mut dyn Write) -> Result<(), Failure> {
    #[derive(Serialize)]
    struct Version {
        version: &'static str,
    }
    let version = env!("CARGO_PKG_VERSION");
    let rows = vec![("mintmark", version.to_owned())];
    Screen::new(out, shown.output).show(&Version { version }, rows)
}
