//! `mintmark log prune`

use ca_core::clock::Timestamp;
use ca_core::log::prune::{Plan, plan, prune as remove};
use serde::Serialize;

use super::Place;
use crate::cli::PruneLog;
use crate::exit::Failure;
use crate::output::Screen;

/// What is or would be removed, as programs see it.
#[derive(Serialize)]
struct Shown {
    removed: bool,
    files: usize,
    entries: u64,
    bytes: u64,
    first_record: u64,
    /// Why the next file stays.
    stays: String,
    key_from: String,
}

/// Removes old records, or says which would go.
pub(super) async fn prune(
    arguments: &PruneLog,
    now: Timestamp,
    screen: &mut Screen<'_>,
) -> Result<(), Failure> {
    let place = Place::open(&arguments.place)?;
    let verifier = place.verifier().await?;
    let plan =
        plan(&place.log, &verifier.key, arguments.before.at(now), now).map_err(Failure::failed)?;
    if !arguments.dry_run {
        remove(&place.log, &plan)?;
    }
    let Plan { segments, first_kept, entries, bytes, stays } = plan;
    let shown = Shown {
        removed: !arguments.dry_run && !segments.is_empty(),
        files: segments.len(),
        entries,
        bytes,
        first_record: first_kept,
        stays,
        key_from: verifier.from,
    };
    let what = if arguments.dry_run { "Would remove" } else { "Removed" };
    let Shown { files, entries, bytes, .. } = &shown;
    let rows = vec![
        (what, format!("records of {entries} entries, {files} files, {bytes} bytes")),
        ("First record", format!("entry {}", shown.first_record)),
        ("Next file", format!("stays: {}", shown.stays)),
        ("Key from", shown.key_from.clone()),
    ];
    screen.show(&shown, rows)
}
