//! Our own record of keys: in the state store, or with the server that has it open.

use std::fmt::Display;

use ca_core::authority::{Ledger, Retirement};
use ca_core::clock::Timestamp;
use ca_core::key::{KeyName, KeyStore};
use ca_core::store::{Embedded, StoreError};

use super::close;
use crate::client::AdminClient;
use crate::config::Settings;
use crate::exit::Failure;

/// Where the record is. What is asked of it is done by the same code in either place, `ca_core::authority`.
pub(super) enum Record {
    /// In the state store, which is free.
    Here(Embedded),
    /// With the server that has the state store open.
    Server(AdminClient),
}

impl Record {
    /// Opens the state store, or reaches the server that has it or keeps it from us. Makes none where there
    /// is none.
    pub(super) async fn reach(settings: &Settings) -> Result<Self, String> {
        match open(settings).await {
            Ok(Some(store)) => Ok(Self::Here(store)),
            Ok(None) => Err(format!(
                "there is no state store in {} yet, so nothing is recorded of keys",
                settings.store_dir.display()
            )),
            Err(StoreError::InUse { place, holder }) => {
                let why = |error: &dyn Display| {
                    format!(
                        "{holder} has {place} open, and the record of keys can be had from it alone: {error}; \
                         is it just starting, or is [server.admin] socket another here?"
                    )
                };
                of_server(settings).await.map_err(|failure| why(&failure))
            }
            // A member of the socket's group may be kept from the folder.
            Err(error @ StoreError::Unavailable { .. }) => {
                of_server(settings).await.map_err(|_| error.to_string())
            }
            Err(error) => Err(error.to_string()),
        }
    }

    /// What is recorded now. Of a server, its own keys are in use whatever is recorded.
    pub(super) async fn ledger(&self) -> Result<Ledger, Failure> {
        match self {
            Self::Here(store) => Ledger::read(store).await.map_err(Failure::failed),
            Self::Server(client) => Ok(client.key_record().await?.1),
        }
    }

    /// Records that a key signs no more; gives the end of what it may have signed.
    pub(super) async fn retire(
        &self,
        settings: &Settings,
        keys: &dyn KeyStore,
        name: &KeyName,
        now: Timestamp,
    ) -> Result<Timestamp, Failure> {
        let retirement = Retirement::of(keys, name).await.map_err(Failure::failed)?;
        match self {
            Self::Here(store) => {
                let ca_ttl = settings.authorities.ca_ttl;
                let retired = retirement.carry_out(store, keys, None, ca_ttl, now).await;
                retired.map_err(Failure::failed)
            }
            Self::Server(client) => Ok(client.retire_key(&retirement).await?),
        }
    }
}

/// The server of these settings, if it answers and speaks for their trust domain.
async fn of_server(settings: &Settings) -> Result<Record, Failure> {
    let socket = &settings.admin.socket;
    let client = AdminClient::connect(socket).await?;
    let (trust_domain, _) = client.key_record().await?;
    let expected = settings.trust_domain.name();
    if trust_domain != expected {
        return Err(Failure::failed(format!(
            "the server at {} speaks for the trust domain {trust_domain}, not for {expected}",
            socket.display()
        )));
    }
    Ok(Record::Server(client))
}

/// Opens the state store, if there is one.
pub(in crate::command) async fn open(settings: &Settings) -> Result<Option<Embedded>, StoreError> {
    let folder = settings.store_dir.clone();
    let opened = tokio::task::spawn_blocking(move || {
        Embedded::exists(&folder)?.then(|| Embedded::open(&folder)).transpose()
    });
    opened.await.map_err(|error| StoreError::Unavailable {
        place: format!("state store {}", settings.store_dir.display()),
        reason: format!("opening it was broken off: {error}"),
    })?
}

/// The ledger alone, for a command that only looks: the state store is let go of at once, for a server may be
/// about to start.
pub(super) async fn ledger(settings: &Settings) -> Result<Ledger, String> {
    let record = Record::reach(settings).await?;
    let ledger = record.ledger().await.map_err(|failure| failure.to_string());
    close(record).await;
    ledger
}
