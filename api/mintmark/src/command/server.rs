//! `mintmark server` and `mintmark signer`

use std::path::Path;
use std::sync::Arc;

use ca_core::clock::Clock;
use keymanager::memory::Protection;
use tokio::runtime::Runtime;

use super::run_on;
use crate::config;
use crate::exit::Failure;
use crate::server::{Role, Server, shutdown_signal};
use crate::telemetry::{self, Destination};

/// Runs the server or signer that a configuration describes until it is asked to end.
pub(super) fn run(
    role: Role,
    path: &Path,
    protection: &Protection,
    clock: Arc<dyn Clock>,
) -> Result<(), Failure> {
    let settings = config::load(path)?;
    let log_levels =
        telemetry::start(settings.logging, Destination::StandardError).map_err(Failure::failed)?;
    protection.log();
    run_on(Runtime::new().map_err(Failure::failed)?, async {
        // Before anything slow: a start that is interrupted ends as cleanly as a server.
        let shutdown = shutdown_signal().map_err(Failure::failed)?;
        tokio::pin!(shutdown);
        let server = tokio::select! {
            started = Server::start(role, &settings, clock, log_levels) => started?,
            () = &mut shutdown => return Ok(()),
        };
        Ok(Box::pin(server.serve(shutdown)).await?)
    })
}
