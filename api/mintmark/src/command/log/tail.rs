//! `mintmark log tail`

use std::ops::ControlFlow;
use std::thread::sleep;
use std::time::Duration;

use ca_core::log::reading::{Cursor, newest};

use super::Place;
use super::entries::{EntryView, Lines};
use crate::cli::TailLog;
use crate::exit::Failure;
use crate::output::Screen;

/// How often it is looked whether something has come.
const LOOK_EVERY: Duration = Duration::from_millis(200);

/// Shows the newest entries, and those that come, if that was asked for.
pub(super) fn tail(arguments: &TailLog, screen: &mut Screen<'_>) -> Result<(), Failure> {
    let place = Place::open(&arguments.place)?;
    let form = screen.form().into();
    let mut lines = Lines::new(screen, form);
    // One at least, to know where to go on.
    let count = arguments.number as usize;
    let found = newest(&place.log, count.max(1))?;
    let next = found.last().map_or(0, |logged| logged.index + 1);
    for logged in &found[found.len().saturating_sub(count)..] {
        if lines.add(&EntryView::of(logged.index, &logged.entry))?.is_break() {
            return Ok(());
        }
    }
    let mut cursor = Cursor::new(&place.log, next);
    while lines.flush()?.is_continue() && arguments.follow {
        sleep(LOOK_EVERY);
        cursor.each::<Failure>(|logged| {
            // A reader that is gone shows in the next flush.
            let _ = lines.add(&EntryView::of(logged.index, &logged.entry))?;
            Ok(ControlFlow::Continue(()))
        })?;
    }
    Ok(())
}
