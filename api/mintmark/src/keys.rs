//! From the description of a key store to the store.

use std::sync::Arc;

use ca_core::key::{KeyError, KeyStore};
use keymanager::metrics::StoreMetrics;
use keymanager::{Oversight, Pkcs11Store, SealKey, SoftwareStore, pkcs11};

use crate::config::{
    AwsKmsSettings, Backend, KeySettings, Pkcs11Settings, SoftwareSettings, TransitSettings,
};

/// Opens the key store that `settings` describe: reads its secret, reaches the place and logs in, once.
///
/// # Errors
/// What the store says of its place, its credentials or its settings.
pub async fn open(
    settings: &KeySettings,
    trust_domain: &str,
    metrics: StoreMetrics,
) -> Result<Arc<dyn KeyStore>, KeyError> {
    let oversight = Oversight { verification: settings.verification, metrics };
    match &settings.backend {
        Backend::Software(SoftwareSettings { dir, seal_key }) => {
            let seal = SealKey::read(seal_key).await?;
            let opened = SoftwareStore::open(dir.clone(), seal, trust_domain, oversight).await?;
            Ok(Arc::new(opened))
        }
        Backend::Pkcs11(token) => {
            Ok(Arc::new(Pkcs11Store::open(of_token(token, oversight), trust_domain).await?))
        }
        Backend::AwsKms(account) => open_aws_kms(account, trust_domain, oversight).await,
        Backend::Transit(engine) => open_transit(engine, trust_domain, oversight).await,
    }
}

/// Refuses what cannot work, without asking anybody.
///
/// # Errors
/// The setting, and what to write instead.
pub fn check(settings: &KeySettings, trust_domain: &str) -> Result<(), KeyError> {
    match &settings.backend {
        Backend::Software(_) | Backend::Pkcs11(_) => Ok(()),
        Backend::AwsKms(account) => check_aws_kms(account, trust_domain),
        Backend::Transit(engine) => check_transit(engine),
    }
}

fn of_token(token: &Pkcs11Settings, oversight: Oversight) -> pkcs11::Settings {
    pkcs11::Settings {
        module: token.module.clone(),
        token: token.token.clone(),
        pin: token.pin.clone(),
        sessions: token.sessions.into(),
        queue: usize::try_from(token.queue).unwrap_or(usize::MAX),
        queue_wait: token.queue_wait,
        stall_limit: token.stall_limit,
        probe_interval: token.probe_interval,
        hashing: token.hashing,
        read_write_sessions: token.read_write_sessions,
        template: token.template.clone(),
        oversight,
    }
}

#[cfg(feature = "aws-kms")]
async fn open_aws_kms(
    account: &AwsKmsSettings,
    trust_domain: &str,
    oversight: Oversight,
) -> Result<Arc<dyn KeyStore>, KeyError> {
    let opened = keymanager::aws_kms::open(of_account(account), trust_domain, oversight).await?;
    Ok(Arc::new(opened))
}

#[cfg(feature = "aws-kms")]
fn check_aws_kms(account: &AwsKmsSettings, trust_domain: &str) -> Result<(), KeyError> {
    of_account(account).check(trust_domain).map(drop)
}

#[cfg(feature = "aws-kms")]
fn of_account(account: &AwsKmsSettings) -> keymanager::aws_kms::Settings {
    keymanager::aws_kms::Settings {
        region: account.region.clone(),
        endpoint: account.endpoint.clone(),
        profile: account.profile.clone(),
        credentials_file: account.credentials_file.clone(),
        keys: account.arns.clone(),
        deletion_days: account.deletion_days,
        pace: of_pace(&account.pace),
    }
}

#[cfg(feature = "transit")]
async fn open_transit(
    engine: &TransitSettings,
    trust_domain: &str,
    oversight: Oversight,
) -> Result<Arc<dyn KeyStore>, KeyError> {
    let opened = keymanager::transit::open(of_engine(engine), trust_domain, oversight).await?;
    Ok(Arc::new(opened))
}

#[cfg(feature = "transit")]
fn check_transit(engine: &TransitSettings) -> Result<(), KeyError> {
    of_engine(engine).check()
}

#[cfg(feature = "transit")]
fn of_engine(engine: &TransitSettings) -> keymanager::transit::Settings {
    keymanager::transit::Settings {
        address: engine.address.clone(),
        ca_file: engine.ca_file.clone(),
        mount: engine.mount.clone(),
        namespace: engine.namespace.clone(),
        token: engine.access_token.clone(),
        pace: of_pace(&engine.pace),
    }
}

#[cfg(any(feature = "aws-kms", feature = "transit"))]
fn of_pace(pace: &crate::config::PaceSettings) -> keymanager::Pace {
    keymanager::Pace {
        max_in_flight: pace.in_flight.into(),
        max_rate: pace.rate,
        queue_wait: pace.queue_wait,
        attempt_timeout: pace.attempt_timeout,
    }
}

#[cfg(not(feature = "aws-kms"))]
async fn open_aws_kms(
    _: &AwsKmsSettings,
    _: &str,
    _: Oversight,
) -> Result<Arc<dyn KeyStore>, KeyError> {
    Err(missing("aws_kms", "aws-kms"))
}

#[cfg(not(feature = "aws-kms"))]
fn check_aws_kms(_: &AwsKmsSettings, _: &str) -> Result<(), KeyError> {
    Err(missing("aws_kms", "aws-kms"))
}

#[cfg(not(feature = "transit"))]
async fn open_transit(
    _: &TransitSettings,
    _: &str,
    _: Oversight,
) -> Result<Arc<dyn KeyStore>, KeyError> {
    Err(missing("transit", "transit"))
}

#[cfg(not(feature = "transit"))]
fn check_transit(_: &TransitSettings) -> Result<(), KeyError> {
    Err(missing("transit", "transit"))
}

/// This program was built without the type.
#[cfg(not(all(feature = "aws-kms", feature = "transit")))]
fn missing(store_type: &str, feature: &str) -> KeyError {
    KeyError::Setup {
        place: format!("a key store of type {store_type:?}"),
        reason: format!("this program was built without it; build with the feature {feature}"),
    }
}
