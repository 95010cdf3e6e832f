//! `mintmark key show`

use std::collections::BTreeMap;

use ca_core::authority::Standing;
use serde::Serialize;

use super::list::Store;
use super::{Chosen, close, no_key};
use crate::cli::ShowKey;
use crate::exit::Failure;
use crate::output::Screen;
use crate::pem;

/// A key, as programs see it.
#[derive(Serialize)]
struct Shown {
    store: Store,
    name: String,
    key: String,
    key_id: String,
    algorithms: Vec<String>,
    state: &'static str,
    location: String,
    facts: BTreeMap<String, String>,
    public_key: String,
}

/// Shows what the store tells of a key that keeps its promises.
pub(super) async fn show(arguments: &ShowKey, screen: &mut Screen<'_>) -> Result<(), Failure> {
    let chosen = Chosen::load(&arguments.place)?;
    let store = chosen.open().await.map_err(Failure::failed)?;
    let described = store.describe(&arguments.name).await.map_err(Failure::failed)?;
    let key = described.ok_or_else(|| no_key(&arguments.name, &*store))?;
    let ledger = chosen.ledger().await;
    let standing = ledger.map_or(Standing::Unknown, |ledger| {
        ledger.standing(&arguments.name, Some(&key.public_key))
    });
    let shown = Shown {
        store: Store::of(&chosen, store.description()),
        name: key.name.to_string(),
        key: key.public_key.kind().to_string(),
        key_id: key.public_key.key_id().to_string(),
        algorithms: key.algorithms.iter().map(ToString::to_string).collect(),
        state: standing.name(),
        location: key.location,
        facts: key.facts.into_iter().collect(),
        public_key: pem::encode(pem::PUBLIC_KEY, key.public_key.spki()).to_string(),
    };
    close(store).await;
    let facts: Vec<String> =
        shown.facts.iter().map(|(fact, value)| format!("{fact} {value}")).collect();
    let mut rows = vec![
        ("Key", shown.name.clone()),
        ("Store", store_line(&shown.store)),
        ("Location", shown.location.clone()),
        ("Type", shown.key.clone()),
        ("Signs by", shown.algorithms.join(", ")),
        ("Key id", shown.key_id.clone()),
        ("State", shown.state.to_owned()),
    ];
    if !facts.is_empty() {
        rows.push(("Facts", facts.join("\n")));
    }
    rows.push(("Public key", shown.public_key.trim_end().to_owned()));
    screen.show(&shown, rows)
}

fn store_line(store: &Store) -> String {
    format!("[keys.{}], {}", store.name, store.place)
}
