//! `mintmark key list`

use ca_core::authority::{Ledger, Standing};
use ca_core::key::{KeyError, KeyName, KeyStore, StoreDescription};
use serde::Serialize;

use super::{Chosen, close};
use crate::cli::{KeyPlace, Output};
use crate::exit::Failure;
use crate::output::{Screen, columns};

/// The keys of a store, as programs see them.
#[derive(Serialize)]
struct Listing {
    store: Store,
    /// Why nothing is known of what keys are for.
    #[serde(skip_serializing_if = "Option::is_none")]
    record: Option<String>,
    keys: Vec<ListedKey>,
}

/// A key store, as programs see it.
#[derive(Serialize)]
pub(super) struct Store {
    pub(super) name: String,
    #[serde(rename = "type")]
    kind: &'static str,
    pub(super) place: String,
}

#[derive(Serialize)]
struct ListedKey {
    name: String,
    key: Option<String>,
    key_id: Option<String>,
    /// `active`, `pending`, `old`, `retired`, `prepared` or `unknown`.
    state: &'static str,
    authority: Option<String>,
    certificates_end: Option<String>,
    /// Why it is refused.
    problem: Option<String>,
}

/// Lists every key, those that are refused with the reason.
pub(super) async fn list(place: &KeyPlace, screen: &mut Screen<'_>) -> Result<(), Failure> {
    let chosen = Chosen::load(place)?;
    let store = chosen.open().await.map_err(Failure::failed)?;
    let ledger = chosen.ledger().await;
    let mut keys = Vec::new();
    for name in store.list().await.map_err(Failure::failed)? {
        if let Some(key) = listed(&*store, ledger.as_ref().ok(), name).await? {
            keys.push(key);
        }
    }
    let listing =
        Listing { store: Store::of(&chosen, store.description()), record: ledger.err(), keys };
    close(store).await;
    show(listing, screen)
}

async fn listed(
    store: &dyn KeyStore,
    ledger: Option<&Ledger>,
    name: KeyName,
) -> Result<Option<ListedKey>, Failure> {
    let (key, problem) = match store.describe(&name).await {
        Ok(Some(key)) => (Some(key.public_key), None),
        // Deleted in between.
        Ok(None) => return Ok(None),
        Err(error) if error.is_of_one_key() => (None, Some(reason(error))),
        Err(error) => return Err(Failure::failed(error)),
    };
    let standing = ledger.map_or(Standing::Unknown, |ledger| ledger.standing(&name, key.as_ref()));
    let (authority, end) = match &standing {
        Standing::Active { authority } => (Some(authority.clone()), None),
        Standing::Old { authority, certificates_end } => {
            (Some(authority.clone()), Some(certificates_end))
        }
        Standing::Retired { certificates_end, .. } => (None, Some(certificates_end)),
        Standing::OfLog | Standing::Pending | Standing::Prepared | Standing::Unknown => {
            (None, None)
        }
    };
    Ok(Some(ListedKey {
        name: name.to_string(),
        key: key.as_ref().map(|key| key.kind().to_string()),
        key_id: key.map(|key| key.key_id().to_string()),
        state: standing.name(),
        authority,
        certificates_end: end.map(ToString::to_string),
        problem,
    }))
}

/// Why a key is refused, without its name, which stands beside it.
pub(super) fn reason(error: KeyError) -> String {
    match error {
        KeyError::Unsafe { reason, .. } | KeyError::Incomplete { reason, .. } => reason,
        other => other.to_string(),
    }
}

impl Store {
    pub(super) fn of(chosen: &Chosen, description: &StoreDescription) -> Self {
        let StoreDescription { kind, place, .. } = description;
        Self { name: chosen.name.clone(), kind, place: place.clone() }
    }
}

fn show(listing: Listing, screen: &mut Screen<'_>) -> Result<(), Failure> {
    if screen.form() == Output::Json {
        return screen.json(&listing);
    }
    let Listing { store, record, keys } = listing;
    if keys.is_empty() {
        return screen.text(&format!("no keys of the trust domain in {}\n", store.place));
    }
    let line = |key: ListedKey| {
        let note = match (key.problem, key.certificates_end) {
            (Some(problem), _) => format!("REFUSED: {problem}"),
            (None, Some(end)) => format!("what it signed ends by {end}"),
            (None, None) => String::new(),
        };
        let shown = |value: Option<String>| value.unwrap_or_else(|| "-".to_owned());
        [key.name, shown(key.key), key.state.to_owned(), shown(key.key_id), note]
    };
    let table =
        columns(["Key", "Type", "State", "Key id", "Note"], keys.into_iter().map(line).collect());
    screen.text(&format!("{}\n\n{table}\n", store.place))?;
    match record {
        Some(reason) => screen.text(&format!("\nnote: no state is known: {reason}\n")),
        None => Ok(()),
    }
}
