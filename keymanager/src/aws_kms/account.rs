//! The client of one account and region, made anew when its credentials no longer count.

use std::error::Error;
use std::fmt;
use std::sync::{PoisonError, RwLock};
use std::time::{Duration, Instant};

use aws_config::BehaviorVersion;
use aws_runtime::env_config::file::{EnvConfigFileKind, EnvConfigFiles};
use aws_sdk_kms::Client;
use aws_sdk_kms::config::http::HttpResponse;
use aws_sdk_kms::config::retry::RetryConfig;
use aws_sdk_kms::config::timeout::TimeoutConfig;
use aws_sdk_kms::config::{Region, StalledStreamProtectionConfig};
use aws_sdk_kms::error::{ProvideErrorMetadata, SdkError};

use super::{Settings, classify};
use crate::remote::wire::{Class, WireError};

/// The longest that a connection may take.
const CONNECT: Duration = Duration::from_secs(1);
/// The shortest time between two looks for new credentials.
const READ_EVERY: Duration = Duration::from_secs(1);

/// A client that finds its credentials by AWS's own chain.
pub(super) struct Account {
    settings: Settings,
    session: RwLock<Session>,
    /// When the credentials were last read. Held while they are: who comes meanwhile waits for what it brings.
    read: tokio::sync::Mutex<Instant>,
}

/// A client with the credentials of its time.
#[derive(Clone)]
struct Session {
    client: Client,
    /// How many there were before.
    generation: u64,
}

impl Account {
    pub(super) async fn open(settings: Settings) -> Self {
        let session = RwLock::new(Session { client: client(&settings).await, generation: 0 });
        Self { settings, session, read: tokio::sync::Mutex::new(Instant::now()) }
    }

    /// Sends one request. If its credentials are refused and there are others by now, another try is worth it.
    pub(super) async fn ask<T, E, F>(
        &self,
        operation: &str,
        request: impl FnOnce(Client) -> F,
    ) -> Result<T, WireError>
    where
        F: Future<Output = Result<T, SdkError<E, HttpResponse>>>,
        E: ProvideErrorMetadata + Error + 'static,
    {
        let Session { client, generation } = self.session();
        let answer = request(client).await.map_err(|error| classify(operation, &error));
        match answer {
            Err(error) if error.class == Class::Credentials && self.renew(generation).await => {
                Err(WireError { class: Class::Renewed, ..error })
            }
            answer => answer,
        }
    }

    fn session(&self) -> Session {
        self.session.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Reads the credentials anew, as what refused them may have been told of a change: the SDK keeps
    /// those without an end for as long as it runs. At most once a second, and for all who were refused with
    /// those of the same generation. Says whether there are others than those.
    async fn renew(&self, refused: u64) -> bool {
        let mut read = self.read.lock().await;
        if self.session().generation != refused {
            return true;
        }
        if read.elapsed() < READ_EVERY {
            return false;
        }
        let session = Session { client: client(&self.settings).await, generation: refused + 1 };
        *self.session.write().unwrap_or_else(PoisonError::into_inner) = session;
        *read = Instant::now();
        true
    }
}

impl fmt::Debug for Account {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Account({})", self.settings.place())
    }
}

async fn client(settings: &Settings) -> Client {
    let mut chain = aws_config::defaults(BehaviorVersion::latest())
        .region(Region::new(settings.region.clone()));
    if let Some(profile) = &settings.profile {
        chain = chain.profile_name(profile);
    }
    if let Some(file) = &settings.credentials_file {
        let files = EnvConfigFiles::builder()
            .include_default_config_file(true)
            .with_file(EnvConfigFileKind::Credentials, file)
            .build();
        chain = chain.profile_files(files);
    }
    let chain = Box::pin(chain.load()).await;
    // Retries, rates and the time of a whole request are ours alone.
    let mut config = aws_sdk_kms::config::Builder::from(&chain)
        .retry_config(RetryConfig::disabled())
        .stalled_stream_protection(StalledStreamProtectionConfig::disabled())
        .timeout_config(TimeoutConfig::builder().connect_timeout(CONNECT).build());
    if let Some(endpoint) = &settings.endpoint {
        config = config.endpoint_url(endpoint);
    }
    Client::from_conf(config.build())
}
