//! `mintmark log …`: the issuance log, read in its directory, beside the server that writes it or without one.
//!
//! Nothing here needs a key or a server. What the log's own directory says of itself is worth as much as the
//! directory: the verifier key and the newest head come from the state store, from the server that has that open, or
//! from whoever asks.

mod entries;
mod export;
mod prove;
mod prune;
mod search;
mod tail;
mod verify;

use std::fmt::Display;
use std::io::Write;
use std::path::Path;

use ca_core::clock::Clock;
use ca_core::log::directory::{LogDirectory, ReadError, VERIFIER_KEY};
use ca_core::log::identity;
use ca_core::log::tree::{Checkpoint, LogKey, Origin};
use ca_core::log::verify::KnownHead;
use ca_core::store::StoreError;

use super::key::record;
use super::wait;
use crate::cli::{self, LogPlace};
use crate::client::{AdminClient, LogHead};
use crate::config::{self, Settings};
use crate::exit::Failure;
use crate::output::Screen;
use crate::pem;

/// Does what the command line says.
pub(super) fn run(
    command: cli::Log,
    clock: &dyn Clock,
    out: &mut dyn Write,
) -> Result<(), Failure> {
    let now = clock.now();
    match command {
        cli::Log::Tail(arguments) => {
            tail::tail(&arguments, &mut Screen::new(out, arguments.shown.output))
        }
        cli::Log::Search(arguments) => {
            let form = arguments.shown.output;
            search::search(arguments, now, &mut Screen::new(out, form))
        }
        cli::Log::Prove(arguments) => {
            let mut screen = Screen::new(out, arguments.shown.output);
            wait(prove::prove(&arguments, &mut screen))
        }
        cli::Log::Verify(arguments) => {
            let mut screen = Screen::new(out, arguments.shown.output);
            wait(verify::verify(&arguments, &mut screen))
        }
        cli::Log::Prune(arguments) => {
            let mut screen = Screen::new(out, arguments.shown.output);
            wait(prune::prune(&arguments, now, &mut screen))
        }
        cli::Log::Export(arguments) => {
            let mut screen = Screen::new(out, arguments.shown.output);
            export::export(&arguments, now, &mut screen)
        }
    }
}

impl From<ReadError> for Failure {
    fn from(error: ReadError) -> Self {
        Self::failed(error)
    }
}

/// A log, and what is known of it elsewhere.
struct Place {
    log: LogDirectory,
    settings: Option<Settings>,
    key: Option<LogKey>,
}

/// What a log is verified by.
struct Verifier {
    key: LogKey,
    /// Where the key is from, for people.
    from: String,
    /// Whether the log's own directory is all that vouches for it.
    is_own: bool,
    /// The newest head that the state store knows.
    recorded: Option<KnownHead>,
    /// What was not compared, and why.
    notes: Vec<String>,
}

impl Place {
    fn open(place: &LogPlace) -> Result<Self, Failure> {
        let settings = match &place.dir {
            Some(_) => None,
            None => Some(config::load(&place.configuration.config)?),
        };
        let directory = match (&place.dir, &settings) {
            (None, Some(settings)) => settings.log.directory.clone(),
            (dir, _) => dir.clone().unwrap_or_default(),
        };
        Ok(Self { log: LogDirectory::open(directory)?, settings, key: place.key.clone() })
    }

    /// The key by which heads are verified: as typed, as recorded, or as the log itself has it.
    async fn verifier(&self) -> Result<Verifier, Failure> {
        let mut notes = Vec::new();
        let known = match &self.settings {
            Some(settings) => recorded(settings).await.unwrap_or_else(|note| {
                notes.push(note);
                None
            }),
            None => None,
        };
        let recorded = known.as_ref().and_then(|Recorded { head, from }| {
            let checkpoint = head.newest.clone()?;
            Some(KnownHead { checkpoint, from: format!("in {from}") })
        });
        let is_own = self.key.is_none() && known.is_none();
        let (key, from) = match (&self.key, known) {
            (Some(key), _) => (key.clone(), "the command line".to_owned()),
            (None, Some(Recorded { head, from })) => (head.key, from.to_owned()),
            (None, None) => (self.own_key()?, format!("the log itself, {}", self.own_key_file())),
        };
        Ok(Verifier { key, from, is_own, recorded, notes })
    }

    fn own_key_file(&self) -> String {
        self.log.path().join(VERIFIER_KEY).display().to_string()
    }

    fn own_key(&self) -> Result<LogKey, Failure> {
        self.log.own_key()?.ok_or_else(|| {
            Failure::failed(format!(
                "there is no verifier key: {} is not there; give it with --key",
                self.own_key_file()
            ))
        })
    }

    /// The newest signed head.
    fn newest(&self) -> Result<Checkpoint, Failure> {
        self.log.checkpoint()?.ok_or_else(|| {
            let place = self.log.path().display();
            Failure::failed(format!("{place} has no signed head yet; try again in a second"))
        })
    }
}

/// What is known of the log outside of its own directory.
struct Recorded {
    head: LogHead,
    /// Where from, for people.
    from: &'static str,
}

/// What the state store knows of the log, by itself or by the server that has it open; or why that cannot be had now.
async fn recorded(settings: &Settings) -> Result<Option<Recorded>, String> {
    let not_compared =
        |error: &dyn Display| format!("the head in the state store was not compared: {error}");
    let origin = identity::origin(&settings.trust_domain, &settings.log.name);
    let origin = origin.map_err(|error| not_compared(&error))?;
    let store = match record::open(settings).await {
        Ok(Some(store)) => store,
        Ok(None) => return Err("there is no state store, so no head of it was compared".to_owned()),
        Err(StoreError::InUse { holder, .. }) => {
            let of_server = of_server(settings, &origin).await;
            return of_server.map(Some).map_err(|failure| {
                not_compared(&format_args!("{holder} has the state store open, and {failure}"))
            });
        }
        Err(error) => return Err(not_compared(&error)),
    };
    let known = identity::known(&origin, &store).await;
    // Let go of at once: a server may be about to start.
    let _ = tokio::task::spawn_blocking(move || drop(store)).await;
    let known = known.map_err(|error| not_compared(&error))?;
    Ok(known.map(|identity::Known { key, newest, .. }| Recorded {
        head: LogHead { key, newest },
        from: "the state store",
    }))
}

/// What the server of these settings says of the log, if it is this one that it writes.
async fn of_server(settings: &Settings, origin: &Origin) -> Result<Recorded, Failure> {
    let client = AdminClient::connect(&settings.admin.socket).await?;
    let head = client.log_head().await?;
    if head.key.name() != origin {
        return Err(Failure::failed(format!(
            "the server at {} writes the log {}, not {origin}",
            settings.admin.socket.display(),
            head.key.name()
        )));
    }
    Ok(Recorded { head, from: "the state store, by the server that has it open" })
}

/// Reads a checkpoint that was kept elsewhere.
fn read_checkpoint(path: &Path) -> Result<Checkpoint, Failure> {
    let text = pem::read_text(path, "checkpoint").map_err(Failure::failed)?;
    Checkpoint::parse(&text)
        .map_err(|error| Failure::failed(format!("{}: {error}", path.display())))
}
