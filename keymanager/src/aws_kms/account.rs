//! The client of one account and region, made anew when its credentials no longer count.

use std::fmt;
use std::sync::{Mutex, PoisonError, RwLock};
use std::time::{Duration, Instant};

use aws_config::BehaviorVersion;
use aws_runtime::env_config::file::{EnvConfigFileKind, EnvConfigFiles};
use aws_sdk_kms::Client;
use aws_sdk_kms::config::retry::RetryConfig;
use aws_sdk_kms::config::timeout::TimeoutConfig;
use aws_sdk_kms::config::{Region, StalledStreamProtectionConfig};

use super::Settings;

/// The longest that a connection may take.
const CONNECT: Duration = Duration::from_secs(1);
/// The shortest time between two looks for new credentials.
const RELOAD_EVERY: Duration = Duration::from_secs(1);

/// A client that finds its credentials by AWS's own chain.
pub(super) struct Account {
    settings: Settings,
    client: RwLock<Client>,
    reloaded: Mutex<Instant>,
}

impl Account {
    pub(super) async fn open(settings: Settings) -> Self {
        let client = RwLock::new(client(&settings).await);
        Self { settings, client, reloaded: Mutex::new(Instant::now()) }
    }

    /// The client, with the credentials of now.
    pub(super) fn client(&self) -> Client {
        self.client.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Reads the credentials anew, as what refused them may have been told of a change: the SDK keeps
    /// those without an end for as long as it runs. At most once a second; says whether it did.
    pub(super) async fn reload(&self) -> bool {
        let due = {
            let mut last = self.reloaded.lock().unwrap_or_else(PoisonError::into_inner);
            let due = last.elapsed() >= RELOAD_EVERY;
            if due {
                *last = Instant::now();
            }
            due
        };
        if due {
            let client = client(&self.settings).await;
            *self.client.write().unwrap_or_else(PoisonError::into_inner) = client;
        }
        due
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
