//! The `mintmark-load` binary: arguments in, report and exit code out.

use std::io::{self, Write as _};
use std::process::ExitCode;

use clap::Parser as _;
use mintmark_loadtest::plan::{Arguments, Output, Plan};
use mintmark_loadtest::report::Report;

/// Nothing that was asked for was minted, or the generator itself failed.
const FAILED: u8 = 1;
/// Nobody answers on the socket.
const UNREACHABLE: u8 = 4;

fn main() -> ExitCode {
    // A wrong command line ends here, with exit code 2.
    let arguments = Arguments::parse();
    let output = arguments.output();
    let plan = Plan::from(arguments);
    tell(&format!("{plan}: {} requests", plan.schedule().count()));
    let report = match mintmark_loadtest::run(&plan) {
        Ok(report) => report,
        Err(error) => {
            tell(&error.to_string());
            return ExitCode::from(if error.is_unreachable() { UNREACHABLE } else { FAILED });
        }
    };
    if let Err(error) = show(&report, output) {
        tell(&format!("cannot write the report: {error}"));
        return ExitCode::from(FAILED);
    }
    if report.ok == 0 {
        tell("nothing was minted; the errors and drops above say why");
        return ExitCode::from(FAILED);
    }
    ExitCode::SUCCESS
}

fn show(report: &Report, output: Output) -> io::Result<()> {
    let text = match output {
        Output::Table => report.to_string(),
        Output::Json => format!("{}\n", serde_json::to_string_pretty(report)?),
    };
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
