//! The `mintmark-load` binary: arguments in, report and exit code out.

mod progress;

use std::fs;
use std::io::{self, Write as _};
use std::path::Path;
use std::process::ExitCode;

use clap::Parser as _;
use mintmark_loadtest::plan::{Arguments, Output, Outputs, Plan, PlanError};
use mintmark_loadtest::report::{Report, page};
use mintmark_loadtest::run::RunError;
use mintmark_loadtest::target::signer::SignerError;
use mintmark_loadtest::target::spire::ConnectError;

use progress::Progress;

/// Nothing that was asked for was minted, or the generator itself failed.
const FAILED: u8 = 1;
/// What was typed makes no sense.
const USAGE: u8 = 2;
/// The plan's file has a fault.
const BAD_PLAN: u8 = 3;
/// Nobody answers on the socket, or cannot say with what to check answers.
const UNREACHABLE: u8 = 4;
/// An answer was not what was asked for.
const WRONG: u8 = 5;
/// The server does not let this client in.
const REFUSED: u8 = 6;

fn main() -> ExitCode {
    // A wrong command line ends here, with exit code 2.
    let arguments = Arguments::parse();
    match load(&arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err((code, sentence)) => {
            tell(&sentence);
            ExitCode::from(code)
        }
    }
}

/// The whole of it; what goes wrong is an exit code and one sentence.
fn load(arguments: &Arguments) -> Result<(), (u8, String)> {
    let plan = arguments.settings().and_then(Plan::check).map_err(bad_plan)?;
    tell(&plan.to_string());
    let progress = Progress::new();
    let report = mintmark_loadtest::run(&plan, &|glance| progress.show(&glance)).map_err(failed)?;
    progress.end();
    deliver(&report, arguments.outputs()).map_err(|sentence| (FAILED, sentence))?;
    match (report.wrong_answers(), report.measured.ok) {
        (0, 0) => {
            Err((FAILED, "nothing was minted; the errors and drops above say why".to_owned()))
        }
        (0, _) => Ok(()),
        (wrong, _) => Err((
            WRONG,
            format!("{wrong} answers are not what was asked for; the report says in what"),
        )),
    }
}

fn bad_plan(error: PlanError) -> (u8, String) {
    (if error.is_of_a_file() { BAD_PLAN } else { USAGE }, error.to_string())
}

fn failed(error: RunError) -> (u8, String) {
    let code = match &error {
        RunError::Connect(ConnectError::Refused { .. }) => REFUSED,
        RunError::Connect(_) => UNREACHABLE,
        RunError::Signer(SignerError::TrustDomain { .. }) => USAGE,
        RunError::Signer(error) if error.is_refusal() => REFUSED,
        RunError::Signer(_) => UNREACHABLE,
        _ => FAILED,
    };
    (code, error.to_string())
}

fn deliver(report: &Report, outputs: &Outputs) -> Result<(), String> {
    let json = || serde_json::to_string_pretty(report).map(|text| text + "\n");
    let unwritten = |error: &dyn std::fmt::Display| format!("cannot write the report: {error}");
    let text = match outputs.output {
        Output::Table => report.to_string(),
        Output::Json => json().map_err(|error| unwritten(&error))?,
    };
    print(&text).map_err(|error| unwritten(&error))?;
    let write = |path: &Path, text: String| {
        fs::write(path, text).map_err(|error| format!("cannot write {}: {error}", path.display()))
    };
    if let Some(path) = &outputs.json {
        write(path, json().map_err(|error| unwritten(&error))?)?;
    }
    outputs.report.as_ref().map_or(Ok(()), |path| write(path, page(report)))
}

fn print(text: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        // A reader that has seen enough (`| head`) is no failure.
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(error),
        _ => Ok(()),
    }
}

/// Speaks to the person; results alone go to standard output.
fn tell(text: &str) {
    // Nobody is left to be told that standard error is closed.
    let _ = writeln!(io::stderr(), "mintmark-load: {text}");
}
