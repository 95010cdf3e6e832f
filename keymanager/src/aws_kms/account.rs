//! The client of one account and region, made anew when its credentials no longer count.

use std::error::Error;
use std::fmt;
use std::sync::{PoisonError, RwLock};
use std::time::{Duration, Instant};

use aws_config::BehaviorVersion;
use aws_credential_types::provider::SharedCredentialsProvider;
use aws_runtime::env_config::file::{EnvConfigFileKind, EnvConfigFiles};
use aws_sdk_kms::Client;
use aws_sdk_kms::config::http::HttpResponse;
use aws_sdk_kms::config::retry::RetryConfig;
use aws_sdk_kms::config::timeout::TimeoutConfig;
use aws_sdk_kms::config::{Region, StalledStreamProtectionConfig};
use aws_sdk_kms::error::{ProvideErrorMetadata, SdkError};
use aws_types::SdkConfig;
use aws_types::service_config::ServiceConfigKey;
use ca_core::key::KeyError;

use super::credentials::Unhurried;
use super::{Settings, classify};
use crate::remote::endpoint;
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
    /// Asks nobody.
    ///
    /// # Errors
    /// [`KeyError::Setup`] if AWS's own configuration names an endpoint that it may not name.
    pub(super) async fn open(settings: Settings) -> Result<Self, KeyError> {
        let setup = |reason| KeyError::Setup { place: settings.place(), reason };
        let (client, endpoint) = client(&settings).await.map_err(setup)?;
        // It stays where it began.
        let settings = Settings { endpoint, ..settings };
        let session = RwLock::new(Session { client, generation: 0 });
        Ok(Self { settings, session, read: tokio::sync::Mutex::new(Instant::now()) })
    }

    /// Where the keys are, for people.
    pub(super) fn place(&self) -> String {
        self.settings.place()
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
        let client = client(&self.settings).await;
        *read = Instant::now();
        match client {
            Ok((client, _)) => {
                let session = Session { client, generation: refused + 1 };
                *self.session.write().unwrap_or_else(PoisonError::into_inner) = session;
                true
            }
            Err(reason) => {
                tracing::warn!(
                    place = self.settings.place(),
                    reason,
                    "no new credentials are read"
                );
                false
            }
        }
    }
}

impl fmt::Debug for Account {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Account({})", self.settings.place())
    }
}

/// The client, and its endpoint if that is not the region's own.
async fn client(settings: &Settings) -> Result<(Client, Option<String>), String> {
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
    let endpoint = endpoint(&chain, settings)?;
    // Retries, rates and the time of a whole request are ours alone.
    let mut config = aws_sdk_kms::config::Builder::from(&chain)
        .retry_config(RetryConfig::disabled())
        .stalled_stream_protection(StalledStreamProtectionConfig::disabled())
        .timeout_config(TimeoutConfig::builder().connect_timeout(CONNECT).build());
    config.set_endpoint_url(endpoint.clone());
    config.set_credentials_provider(
        chain
            .credentials_provider()
            .map(|chain| SharedCredentialsProvider::new(Unhurried::new(chain))),
    );
    Ok((Client::from_conf(config.build()), endpoint))
}

/// The endpoint of the settings, or else the one that AWS's own configuration names. What that names has to be as safe,
/// of STS too, which is sent the proof of a web identity.
fn endpoint(chain: &SdkConfig, settings: &Settings) -> Result<Option<String>, String> {
    let named = |service: &str| {
        let key = ServiceConfigKey::builder().service_id(service);
        let key = key.env("AWS_ENDPOINT_URL").profile("endpoint_url").build();
        let key = key.expect("it has all its parts");
        let of_service = chain.service_config().and_then(|config| config.load_config(key));
        of_service.or_else(|| chain.endpoint_url().map(str::to_owned))
    };
    let safe = |service: &str, url: String| match endpoint::check(&url) {
        Ok(()) => Ok(url),
        Err(reason) => Err(format!(
            "AWS's configuration (AWS_ENDPOINT_URL, AWS_ENDPOINT_URL_{service}, endpoint_url of the profile) names an \
             endpoint of {service}: {reason}"
        )),
    };
    named("STS").map(|url| safe("STS", url)).transpose()?;
    if settings.endpoint.is_some() {
        return Ok(settings.endpoint.clone());
    }
    named("KMS").map(|url| safe("KMS", url)).transpose()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What comes of a configuration file of AWS's.
    async fn found(text: &str, ours: Option<&str>) -> Result<Option<String>, String> {
        let home = tempfile::tempdir().unwrap();
        let file = home.path().join("config");
        std::fs::write(&file, text).unwrap();
        let files = EnvConfigFiles::builder().with_file(EnvConfigFileKind::Config, file).build();
        let chain = aws_config::defaults(BehaviorVersion::latest()).profile_files(files);
        let chain = chain.region(Region::new("eu-central-1")).load().await;
        let settings = Settings::of_region("eu-central-1");
        endpoint(&chain, &Settings { endpoint: ours.map(str::to_owned), ..settings })
    }

    #[tokio::test]
    async fn an_endpoint_of_one_service_is_found_as_one_of_all_is() {
        let own = |service: &str, url: &str| {
            format!(
                "[default]\nservices = own\n[services own]\n{service} =\n  endpoint_url = {url}\n"
            )
        };
        let ours = Some("https://vpce.example");
        let is = |found: Result<Option<String>, String>, url: Option<&str>| {
            assert_eq!(found, Ok(url.map(str::to_owned)));
        };
        is(found("[default]\nregion = eu-central-1\n", None).await, None);
        let all = "[default]\nendpoint_url = https://kms.example\n";
        for text in [own("kms", "https://kms.example"), all.to_owned()] {
            is(found(&text, None).await, Some("https://kms.example"));
            is(found(&text, ours).await, ours);
            let plain = text.replace("https", "http");
            let refused = found(&plain, None).await.unwrap_err();
            assert!(refused.contains("AWS_ENDPOINT_URL_") && refused.contains("not encrypted"));
        }
        for plain in [own("sts", "http://sts.example"), all.replace("https", "http")] {
            let refused = found(&plain, ours).await.unwrap_err();
            assert!(refused.contains("AWS_ENDPOINT_URL_STS") && refused.contains("not encrypted"));
        }
        is(found(&own("sts", "https://sts.example"), None).await, None);
    }
}
