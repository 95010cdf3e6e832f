//! `mintmark key …`: what an administrator does with the keys of a store, beside the server or without one.
//!
//! Each command opens the key store itself, by its section of the configuration and with whatever PIN or
//! credentials that names: an administrator may do there what the server may not. What keys are for is in the
//! state store, which one process has at a time. Beside a server the record is had from it, over its admin
//! socket ([`record`]).

mod create;
mod destroy;
mod list;
mod probe;
pub(super) mod record;
mod retire;
mod saturation;
mod show;
mod verify;

use std::io::Write;
use std::sync::Arc;

use ca_core::authority::Ledger;
use ca_core::clock::Clock;
use ca_core::key::{KeyError, KeyName, KeyStore};
use keymanager::metrics::StoreMetrics;

use self::record::Record;
use super::wait;
use crate::cli::{self, KeyPlace};
use crate::config::{self, KeySettings, Settings};
use crate::exit::Failure;
use crate::keys;
use crate::output::Screen;

/// Does what the command line says.
pub(super) fn run(
    command: cli::Key,
    clock: &dyn Clock,
    out: &mut dyn Write,
) -> Result<(), Failure> {
    match command {
        cli::Key::List(arguments) => {
            let mut screen = Screen::new(out, arguments.shown.output);
            wait(list::list(&arguments.place, &mut screen))
        }
        cli::Key::Create(arguments) => {
            let mut screen = Screen::new(out, arguments.shown.output);
            wait(create::create(&arguments, &mut screen))
        }
        cli::Key::Show(arguments) => {
            let mut screen = Screen::new(out, arguments.shown.output);
            wait(show::show(&arguments, &mut screen))
        }
        cli::Key::Verify(arguments) => {
            let mut screen = Screen::new(out, arguments.shown.output);
            wait(verify::verify(arguments, &mut screen))
        }
        cli::Key::Retire(arguments) => {
            let mut screen = Screen::new(out, arguments.shown.output);
            wait(retire::retire(&arguments, clock.now(), &mut screen))
        }
        cli::Key::Destroy(arguments) => {
            let mut screen = Screen::new(out, arguments.shown.output);
            wait(destroy::destroy(&arguments, clock.now(), &mut screen))
        }
        cli::Key::Probe(arguments) => {
            let mut screen = Screen::new(out, arguments.shown.output);
            probe::probe(&arguments, &mut screen)
        }
    }
}

/// A key store of a configuration.
struct Chosen {
    settings: Settings,
    /// The name of its section.
    name: String,
}

impl Chosen {
    /// Reads the configuration and finds the section.
    fn load(place: &KeyPlace) -> Result<Self, Failure> {
        let path = &place.configuration.config;
        let settings = config::load(path)?;
        let name = place.keys.clone().unwrap_or_else(|| settings.authority_keys.clone());
        if settings.keys.contains_key(&name) {
            return Ok(Self { settings, name });
        }
        let sections: Vec<&str> = settings.keys.keys().map(String::as_str).collect();
        Err(Failure::Usage(format!(
            "--keys: there is no section [keys.{name}] in {}; sections are: {}",
            path.display(),
            sections.join(", ")
        )))
    }

    fn keys(&self) -> &KeySettings {
        &self.settings.keys[&self.name]
    }

    fn trust_domain(&self) -> &str {
        self.settings.trust_domain.name()
    }

    async fn open(&self) -> Result<Arc<dyn KeyStore>, KeyError> {
        keys::open(self.keys(), self.trust_domain(), StoreMetrics::default()).await
    }

    /// What our record says of keys, or why that cannot be read now.
    async fn ledger(&self) -> Result<Ledger, String> {
        record::ledger(&self.settings).await
    }

    /// The record, for a command that does nothing without it.
    async fn record(&self) -> Result<Record, Failure> {
        Record::reach(&self.settings).await.map_err(|reason| {
            Failure::failed(format!("nothing is retired or destroyed without our record: {reason}"))
        })
    }
}

/// Closes what waits for its threads when it is dropped.
async fn close<T: Send + 'static>(closing: T) {
    // A panic in a drop has been printed, and nothing is left to do.
    let _ = tokio::task::spawn_blocking(move || drop(closing)).await;
}

/// There is no key of that name.
fn no_key(name: &KeyName, store: &dyn KeyStore) -> Failure {
    let place = &store.description().place;
    Failure::failed(format!(
        "there is no key {name} in {place}; `mintmark key list` shows those there are"
    ))
}
