//! `mintmark log export`

use std::fs::File;
use std::io::Write as _;
use std::ops::ControlFlow;
use std::path::Path;

use ca_core::clock::Timestamp;
use ca_core::log::export::copy_tiles;
use ca_core::log::reading::Cursor;
use serde::Serialize;

use super::Place;
use super::entries::{EntryView, Lines};
use crate::cli::{ExportLog, Output};
use crate::exit::Failure;
use crate::output::{Rows, Screen};

/// Writes the entries as text, or a copy of the log.
pub(super) fn export(
    arguments: &ExportLog,
    now: Timestamp,
    screen: &mut Screen<'_>,
) -> Result<(), Failure> {
    let place = Place::open(&arguments.place)?;
    if let Some(to) = &arguments.tiles {
        return export_tiles(&place, to, screen);
    }
    let Some(path) = &arguments.write else {
        return export_entries(&place, arguments, now, screen).map(|_| ());
    };
    let named = |error| Failure::failed(format!("cannot write {}: {error}", path.display()));
    let mut file = File::create(path).map_err(named)?;
    let entries =
        export_entries(&place, arguments, now, &mut Screen::new(&mut file, Output::Json))?;
    file.flush().and_then(|()| file.sync_all()).map_err(named)?;
    let file = path.display().to_string();
    let rows = vec![("Entries", entries.to_string()), ("File", file.clone())];
    screen.show(&Exported { entries, file }, rows)
}

/// What was written to a file, as programs see it.
#[derive(Serialize)]
struct Exported {
    entries: u64,
    file: String,
}

/// Gives how many there were.
fn export_entries(
    place: &Place,
    arguments: &ExportLog,
    now: Timestamp,
    screen: &mut Screen<'_>,
) -> Result<u64, Failure> {
    let since = arguments.period.since.map(|moment| moment.at(now));
    let until = arguments.period.until.map(|moment| moment.at(now));
    let mut lines = Lines::new(screen, arguments.format.into());
    Cursor::new(&place.log, 0).each::<Failure>(|logged| {
        let time = logged.entry.time();
        if since.is_some_and(|since| time < since) || until.is_some_and(|until| time > until) {
            return Ok(ControlFlow::Continue(()));
        }
        lines.add(&EntryView::of(logged.index, &logged.entry))
    })?;
    let _ = lines.flush()?;
    Ok(lines.count)
}

/// What a copy holds, as programs see it.
#[derive(Serialize)]
struct Copy {
    tree_size: u64,
    tiles: u64,
    bundles: u64,
    /// The first entry that is in a bundle.
    first_entry: u64,
    folder: String,
}

fn export_tiles(place: &Place, to: &Path, screen: &mut Screen<'_>) -> Result<(), Failure> {
    let copied = copy_tiles(&place.log, &place.newest()?, to)?;
    let copy = Copy {
        tree_size: copied.size,
        tiles: copied.tiles,
        bundles: copied.bundles,
        first_entry: copied.first_entry,
        folder: to.display().to_string(),
    };
    let rows: Rows = vec![
        ("Tree", format!("{} entries", copy.tree_size)),
        ("Hashes", format!("{} files", copy.tiles)),
        ("Entries", format!("{} files, from entry {} on", copy.bundles, copy.first_entry)),
        ("Folder", copy.folder.clone()),
    ];
    screen.show(&copy, rows)
}
