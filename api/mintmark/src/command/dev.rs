//! `mintmark dev`

use std::sync::Arc;

use ca_core::clock::Clock;
use keymanager::memory::Protection;
use tokio::runtime::Runtime;

use super::run_on;
use crate::cli::{Dev, Output};
use crate::dev::{Home, KeyKind, Report, Session};
use crate::exit::Failure;
use crate::output::Screen;
use crate::server::shutdown_signal;
use crate::telemetry;

/// Starts a server on throw-away keys, mints under it, shows what was made, and serves on unless it is
/// told to end.
pub(super) fn run(
    arguments: &Dev,
    protection: &Protection,
    clock: Arc<dyn Clock>,
    screen: &mut Screen<'_>,
) -> Result<(), Failure> {
    let home = Home::prepare(arguments.dir.as_deref()).map_err(Failure::failed)?;
    // While this is the only thread: SoftHSM reads the environment.
    let kind = KeyKind::choose(&home).map_err(Failure::failed)?;
    if let (Some(note), Output::Table) = (kind.note(&home), screen.form()) {
        screen.text(&format!("{note}\n\n"))?;
    }
    let log = home.log_file().map_err(Failure::failed)?;
    let log_levels = telemetry::start(Default::default(), log).map_err(Failure::failed)?;
    protection.log();
    run_on(Runtime::new().map_err(Failure::failed)?, async {
        let shutdown = shutdown_signal().map_err(Failure::failed)?;
        tokio::pin!(shutdown);
        let work =
            Session::start(&home, kind, &arguments.trust_domain, Arc::clone(&clock), log_levels);
        let mut session = tokio::select! {
            started = work => started.map_err(Failure::failed)?,
            () = &mut shutdown => return Ok(()),
        };
        let shown = session.mint(arguments.write.as_deref(), &*clock).await;
        let shown =
            shown.map_err(Failure::failed).and_then(|report| show(&report, arguments.once, screen));
        if shown.is_ok() && !arguments.once {
            session.outlast(shutdown).await;
        }
        // The server ends in order even if the mint failed.
        session.stop().await.map_err(Failure::failed)?;
        shown
    })
}

fn show(report: &Report, once: bool, screen: &mut Screen<'_>) -> Result<(), Failure> {
    match screen.form() {
        Output::Json => screen.json(report),
        Output::Table => screen.text(&report.text(once)),
    }
}
