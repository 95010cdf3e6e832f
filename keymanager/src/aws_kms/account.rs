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
        let client = client(&settings)
            .await
            .map_err(|reason| KeyError::Setup { place: settings.place(), reason })?;
        let session = RwLock::new(Session { client, generation: 0 });
        Ok(Self { settings, session, read: tokio::sync::Mutex::new(Instant::now()) })
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
            Ok(client) => {
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

async fn client(settings: &Settings) -> Result<Client, String> {
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
    check_endpoints(&chain, settings)?;
    // Retries, rates and the time of a whole request are ours alone.
    let mut config = aws_sdk_kms::config::Builder::from(&chain)
        .retry_config(RetryConfig::disabled())
        .stalled_stream_protection(StalledStreamProtectionConfig::disabled())
        .timeout_config(TimeoutConfig::builder().connect_timeout(CONNECT).build());
    // Without one: the region's own, whatever else is written elsewhere.
    config.set_endpoint_url(settings.endpoint.clone());
    config.set_credentials_provider(
        chain
            .credentials_provider()
            .map(|chain| SharedCredentialsProvider::new(Unhurried::new(chain))),
    );
    Ok(Client::from_conf(config.build()))
}

/// Refuses the endpoints that AWS's own configuration names, but of STS where it is safe: that one is sent
/// the proof of a web identity, and the settings have no place for it.
fn check_endpoints(chain: &SdkConfig, settings: &Settings) -> Result<(), String> {
    let named = |service: &str| {
        let key = ServiceConfigKey::builder().service_id(service);
        let key = key.env("AWS_ENDPOINT_URL").profile("endpoint_url").build();
        let key = key.expect("it has all its parts");
        let of_service = chain.service_config().and_then(|config| config.load_config(key));
        of_service.or_else(|| chain.endpoint_url().map(str::to_owned))
    };
    if let Some(url) = named("STS") {
        endpoint::check(&url).map_err(|reason| {
            format!(
                "AWS's configuration (AWS_ENDPOINT_URL, AWS_ENDPOINT_URL_STS, endpoint_url of the profile) \
                 names an endpoint of STS: {reason}"
            )
        })?;
    }
    if settings.endpoint.is_none() && named("KMS").is_some() {
        let reason = "AWS's configuration (AWS_ENDPOINT_URL, AWS_ENDPOINT_URL_KMS, endpoint_url of the profile) \
                      names an endpoint, which is not used unchecked; name it as endpoint in the section \
                      of this key store, or take it out there";
        return Err(reason.to_owned());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What comes of a configuration file of AWS's.
    async fn checked(text: &str, endpoint: Option<&str>) -> Result<(), String> {
        let home = tempfile::tempdir().unwrap();
        let file = home.path().join("config");
        std::fs::write(&file, text).unwrap();
        let files = EnvConfigFiles::builder().with_file(EnvConfigFileKind::Config, file).build();
        let chain = aws_config::defaults(BehaviorVersion::latest()).profile_files(files);
        let chain = chain.region(Region::new("eu-central-1")).load().await;
        let settings = Settings::of_region("eu-central-1");
        let endpoint = endpoint.map(str::to_owned);
        check_endpoints(&chain, &Settings { endpoint, ..settings })
    }

    #[tokio::test]
    async fn an_endpoint_of_one_service_is_found_as_one_of_all_is() {
        let own = |service: &str, url: &str| {
            format!(
                "[default]\nservices = own\n[services own]\n{service} =\n  endpoint_url = {url}\n"
            )
        };
        let ours = Some("https://vpce.example");
        assert_eq!(checked("[default]\nregion = eu-central-1\n", None).await, Ok(()));
        let kms = own("kms", "https://kms.example");
        assert!(checked(&kms, None).await.unwrap_err().contains("AWS_ENDPOINT_URL_KMS"));
        assert_eq!(checked(&kms, ours).await, Ok(()));
        let all = "[default]\nendpoint_url = https://aws.example\n";
        assert!(checked(all, None).await.unwrap_err().contains("AWS_ENDPOINT_URL_KMS"));
        assert_eq!(checked(all, ours).await, Ok(()));
        for plain in [own("sts", "http://sts.example"), all.replace("https", "http")] {
            assert!(checked(&plain, ours).await.unwrap_err().contains("not encrypted"), "{plain}");
        }
        assert_eq!(checked(&own("sts", "https://sts.example"), None).await, Ok(()));
    }
}
