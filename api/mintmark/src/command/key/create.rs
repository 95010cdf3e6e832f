//! `mintmark key create`

use ca_core::authority::{AuthorityKind, KeyCreation, Ledger};
use ca_core::key::{KeyError, KeyName, KeyStore, KeyType};
use ca_core::log::identity::KEY_PART;
use serde::Serialize;

use super::list::Store;
use super::{Chosen, close};
use crate::cli::{Authority, CreateKeys, Output};
use crate::exit::Failure;
use crate::output::{Screen, columns};

/// What was made, as programs see it.
#[derive(Serialize)]
struct Made {
    store: Store,
    keys: Vec<MadeKey>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    notes: Vec<String>,
}

#[derive(Serialize)]
struct MadeKey {
    name: String,
    key: String,
    key_id: String,
}

/// Makes keys of the next free generations. What was made before a failure is shown before it is told.
pub(super) async fn create(arguments: &CreateKeys, screen: &mut Screen<'_>) -> Result<(), Failure> {
    let chosen = Chosen::load(&arguments.place)?;
    let authorities = &chosen.settings.authorities;
    let (kind, configured) = match arguments.authority {
        Authority::X509 => (Some(AuthorityKind::X509), authorities.ca_key_type),
        Authority::Jwt => (Some(AuthorityKind::Jwt), authorities.jwt_key_type),
        Authority::Log => (None, KeyType::EcP256),
    };
    let key_type = arguments.key_type.unwrap_or(configured);
    if kind.is_none() && key_type != KeyType::EcP256 {
        return Err(Failure::Usage(format!(
            "--type: a key of type {key_type} cannot sign the heads of the issuance log; leave it out for \
             ec-p256"
        )));
    }
    if kind == Some(AuthorityKind::Jwt) && key_type.signature_algorithm().jws().is_none() {
        return Err(Failure::Usage(format!(
            "--type: a key of type {key_type} cannot sign JWT-SVIDs (JWT-SVID §3); choose ec-p256, ec-p384 \
             or an rsa type"
        )));
    }
    let store = chosen.open().await.map_err(Failure::failed)?;
    let ledger = chosen.ledger().await;
    let mut notes = notes(&chosen, key_type, configured);
    if let Err(reason) = &ledger {
        notes.push(format!("generations are counted by the keys that are there: {reason}"));
    }
    let mut next = Next::after(&chosen, kind, ledger.ok().as_ref(), &*store).await?;
    let mut keys = Vec::new();
    let mut failed = None;
    while keys.len() < usize::from(arguments.count) {
        match next.make(&*store, key_type).await {
            Ok(key) => keys.push(key),
            Err(error) => {
                failed = Some(error);
                break;
            }
        }
    }
    notes.append(&mut next.notes);
    let (made, wanted) = (keys.len(), arguments.count);
    if made > 0 {
        show(Made { store: Store::of(&chosen, store.description()), keys, notes }, screen)?;
    }
    close(store).await;
    match failed {
        None => Ok(()),
        Some(error) if made == 0 => Err(Failure::failed(error)),
        Some(error) => Err(Failure::failed(format!("{made} of {wanted} keys were made: {error}"))),
    }
}

/// What an administrator may not expect of the server.
fn notes(chosen: &Chosen, key_type: KeyType, configured: KeyType) -> Vec<String> {
    let mut notes = Vec::new();
    let of_server = &chosen.settings.authority_keys;
    if chosen.settings.authorities.key_creation == KeyCreation::Auto {
        notes.push(format!(
            "[keys.{of_server}] create is \"auto\": the server makes keys itself and passes these over; set \
             create = \"never\" for it to take them"
        ));
    }
    if key_type != configured {
        notes
            .push(format!("{configured} is configured: the server passes keys of {key_type} over"));
    }
    if chosen.name != *of_server {
        notes.push(format!(
            "the server takes keys from [keys.{of_server}]: these are for it only if both sections describe \
             the same place"
        ));
    }
    notes
}

/// The names of the keys to come.
struct Next {
    trust_domain: String,
    /// The part of the name that says what the key is for.
    part: &'static str,
    generation: u64,
    /// What was passed over, for people.
    notes: Vec<String>,
}

impl Next {
    /// After every generation that the record or the store has used.
    async fn after(
        chosen: &Chosen,
        kind: Option<AuthorityKind>,
        ledger: Option<&Ledger>,
        store: &dyn KeyStore,
    ) -> Result<Self, Failure> {
        let there = store.list().await.map_err(Failure::failed)?;
        let part = kind.map_or(KEY_PART, AuthorityKind::key_part);
        let of_kind = there.iter().filter(|name| name.authority() == part);
        let there = of_kind.filter_map(|name| name.generation().parse().ok()).max().unwrap_or(0);
        let recorded = ledger.zip(kind).map_or(0, |(ledger, kind)| ledger.last_generation(kind));
        let trust_domain = chosen.trust_domain().to_owned();
        Ok(Self { trust_domain, part, generation: recorded.max(there), notes: Vec::new() })
    }

    async fn make(&mut self, store: &dyn KeyStore, key_type: KeyType) -> Result<MadeKey, KeyError> {
        loop {
            self.generation = self.generation.saturating_add(1);
            let (trust_domain, part) = (&self.trust_domain, self.part);
            let text = format!("mintmark/{trust_domain}/{part}/{}", self.generation);
            let name = KeyName::parse(&text).map_err(|error| KeyError::Setup {
                place: "trust domain".to_owned(),
                reason: error.to_string(),
            })?;
            match store.create(&name, key_type).await {
                // Made by someone else since the list was read.
                Err(KeyError::Exists(_)) if self.generation < u64::MAX => {}
                // The server passes it over likewise. A log has one name for its key.
                Err(KeyError::Incomplete { .. })
                    if self.part != KEY_PART && is_half_there(store, &name).await =>
                {
                    self.notes.push(format!(
                        "{name} is passed over: half a key pair is in the store by that name; unless a backup has \
                         the rest, remove it with the tools of the store"
                    ));
                }
                made => {
                    let public_key = made?.public_key().clone();
                    return Ok(MadeKey {
                        name: name.to_string(),
                        key: public_key.kind().to_string(),
                        key_id: public_key.key_id().to_string(),
                    });
                }
            }
        }
    }
}

/// Whether half a pair bears the name, and not one that was just made and removed again.
async fn is_half_there(store: &dyn KeyStore, name: &KeyName) -> bool {
    matches!(store.find(name).await, Err(KeyError::Incomplete { .. }))
}

fn show(made: Made, screen: &mut Screen<'_>) -> Result<(), Failure> {
    if screen.form() == Output::Json {
        return screen.json(&made);
    }
    let rows = made.keys.into_iter().map(|key| [key.name, key.key, key.key_id]).collect();
    screen.text(&format!("{}\n", columns(["Key", "Type", "Key id"], rows)))?;
    made.notes.iter().try_for_each(|note| screen.text(&format!("\nnote: {note}\n")))
}
