//! `mintmark log search`

use ca_core::clock::Timestamp;
use ca_core::log::search::{Query, search as search_log};

use super::Place;
use super::entries::{EntryView, Lines};
use crate::cli::SearchLog;
use crate::exit::Failure;
use crate::output::Screen;

/// Shows the records that are wanted, as they are found.
pub(super) fn search(
    arguments: SearchLog,
    now: Timestamp,
    screen: &mut Screen<'_>,
) -> Result<(), Failure> {
    let place = Place::open(&arguments.place)?;
    let query = Query {
        id: arguments.id,
        serial: arguments.serial,
        authority: arguments.authority,
        since: arguments.period.since.map(|moment| moment.at(now)),
        until: arguments.period.until.map(|moment| moment.at(now)),
        valid_at: arguments.valid_at.map(|moment| moment.at(now)),
    };
    let form = screen.form().into();
    let mut lines = Lines::new(screen, form);
    search_log::<Failure>(&place.log, &query, !arguments.no_index, |index, record| {
        lines.add(&EntryView::of_record(index, &record))
    })?;
    lines.flush().map(|_| ())
}
