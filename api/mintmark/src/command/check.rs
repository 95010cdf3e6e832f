//! `mintmark check`

use std::path::Path;

use keymanager::memory::Protection;
use serde::Serialize;

use crate::cli::Output;
use crate::config::{self, ConfigError};
use crate::exit::Failure;
use crate::inspection::{Finding, Verdict, inspect};
use crate::output::{Screen, columns};

/// What was found, as programs see it.
#[derive(Serialize)]
struct Report<'a> {
    config: &'a Path,
    usable: bool,
    faults: Vec<PlacedFault>,
    findings: Vec<Finding>,
}

#[derive(Serialize)]
struct PlacedFault {
    line: usize,
    column: usize,
    problem: String,
}

/// Checks the file, then what it points at. Ends with a failure if the server could not start.
pub(super) async fn check(
    path: &Path,
    protection: &Protection,
    screen: &mut Screen<'_>,
) -> Result<(), Failure> {
    let (faults, findings) = match config::load(path) {
        Ok(settings) => (Vec::new(), inspect(&settings, protection).await),
        // To people these are told as errors, the way `mintmark server` tells them.
        Err(ConfigError::Invalid(faults)) if screen.form() == Output::Json => (faults, Vec::new()),
        Err(error) => return Err(error.into()),
    };
    let usable =
        faults.is_empty() && findings.iter().all(|finding| finding.verdict == Verdict::Good);
    if screen.form() == Output::Json {
        let faults = faults
            .into_iter()
            .map(|fault| PlacedFault {
                line: fault.line,
                column: fault.column,
                problem: fault.problem,
            })
            .collect();
        screen.json(&Report { config: path, usable, faults, findings })?;
    } else {
        screen.text(&table(path, usable, findings))?;
    }
    if usable { Ok(()) } else { Err(Failure::Checked) }
}

fn table(path: &Path, usable: bool, findings: Vec<Finding>) -> String {
    let rows = findings
        .into_iter()
        .map(|finding| {
            let verdict = match finding.verdict {
                Verdict::Good => "ok",
                Verdict::Fault => "FAULT",
            };
            [finding.setting, verdict.to_owned(), finding.detail]
        })
        .collect();
    let table = columns(["Setting", "State", "Found"], rows);
    let verdict = if usable { "can be used" } else { "cannot be used as it is" };
    format!("{table}\n\n{} {verdict}\n", path.display())
}
