//! `mintmark key retire`

use ca_core::bundle;
use ca_core::clock::Timestamp;
use serde::Serialize;

use super::{Chosen, close};
use crate::cli::RetireKey;
use crate::exit::Failure;
use crate::output::Screen;

/// Records that a key of no acting authority signs no more.
pub(super) async fn retire(
    arguments: &RetireKey,
    now: Timestamp,
    screen: &mut Screen<'_>,
) -> Result<(), Failure> {
    #[derive(Serialize)]
    struct Retired {
        name: String,
        certificates_end: String,
        destroyable_after: String,
    }
    let chosen = Chosen::load(&arguments.place)?;
    // Before anything is logged in to: this is what is most likely to be missing.
    let record = chosen.record().await?;
    let store = chosen.open().await.map_err(Failure::failed)?;
    let end = record.retire(&chosen.settings, &*store, &arguments.name, now).await;
    close((record, store)).await;
    let end = end?;
    let retired = Retired {
        name: arguments.name.to_string(),
        certificates_end: end.to_string(),
        destroyable_after: end.plus(bundle::KEPT).to_string(),
    };
    let rows = vec![
        ("Retired", retired.name.clone()),
        ("What it signed ends by", retired.certificates_end.clone()),
        ("May be destroyed after", retired.destroyable_after.clone()),
    ];
    screen.show(&retired, rows)
}
