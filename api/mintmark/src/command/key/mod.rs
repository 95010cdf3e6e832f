//! `mintmark key …`: what an administrator does with the keys of a store, beside the server or without one.
//!
//! Each command opens the key store itself, by its section of the configuration and with whatever PIN or
//! credentials that names. What keys are for is in the state store, which one process has at a time: reading
//! takes it for a moment if it is free, and those that write want it for themselves.

mod create;
mod destroy;
mod list;
mod probe;
mod retire;
mod saturation;
mod show;
mod verify;

use std::io::Write;
use std::sync::Arc;

use ca_core::authority::Ledger;
use ca_core::clock::Clock;
use ca_core::key::{KeyError, KeyName, KeyStore};
use ca_core::store::{Embedded, StoreError};
use keymanager::metrics::StoreMetrics;

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

    /// What our record says of keys, or why it cannot be read now. Makes no state store where there is none,
    /// and lets go of it at once: a server may be about to start.
    async fn ledger(&self) -> Result<Ledger, String> {
        let told = |error| match error {
            StoreError::InUse { place, holder } => {
                format!("{holder} has {place} open; it is free while the server does not run")
            }
            error => error.to_string(),
        };
        let Some(store) = self.record().await.map_err(told)? else {
            return Err(format!(
                "there is no state store in {} yet, so nothing is recorded of keys",
                self.settings.store_dir.display()
            ));
        };
        let ledger = Ledger::read(&store).await.map_err(|error| error.to_string());
        close(store).await;
        ledger
    }

    /// The state store, for a command that writes to it.
    async fn record_to_write(&self) -> Result<Embedded, Failure> {
        let folder = self.settings.store_dir.display();
        match self.record().await {
            Ok(Some(store)) => Ok(store),
            Ok(None) => Err(Failure::failed(format!(
                "there is no state store in {folder}, and nothing is retired or destroyed without our \
                 record; run this where the server runs, as its user"
            ))),
            Err(StoreError::InUse { place, holder }) => Err(Failure::failed(format!(
                "{holder} has {place} open, and this command writes to the record in it: stop the server, run \
                 this as the server's user, and start the server again"
            ))),
            Err(error) => Err(Failure::failed(error)),
        }
    }

    async fn record(&self) -> Result<Option<Embedded>, StoreError> {
        let folder = self.settings.store_dir.clone();
        let opened = tokio::task::spawn_blocking(move || {
            Embedded::exists(&folder).then(|| Embedded::open(&folder)).transpose()
        });
        opened.await.map_err(|error| StoreError::Unavailable {
            place: format!("state store {}", self.settings.store_dir.display()),
            reason: format!("opening it was broken off: {error}"),
        })?
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
