//! Keys in AWS KMS.
//!
//! A key is used by its ARN alone. Keys that Mintmark makes bear tags that say whose they are, and an alias
//! by which they are found again and never sign; keys that an administrator made are named in the settings.
//! A start that is cut short between making a key and giving it its alias leaves a key that nothing uses, as
//! does an alias of which KMS does not say whether it was given: the key's tag `mintmark:key` names it, and an
//! operator can schedule its deletion.

mod account;
mod credentials;
mod fault;
mod inspect;
mod settings;
mod spec;

use std::collections::BTreeMap;
use std::time::Duration;

use async_trait::async_trait;
use aws_sdk_kms::Client;
use aws_sdk_kms::primitives::{Blob, DateTimeFormat};
use aws_sdk_kms::types::{KeyUsageType, MessageType, Tag};
use ca_core::key::{
    KeyError, KeyName, KeyType, Signature, SignatureAlgorithm, StoreDescription, ToBeSigned,
};
use tokio::time::sleep;

pub use settings::Settings;

use crate::remote::RemoteStore;
use crate::remote::retry::patiently;
use crate::remote::wire::{Class, Found, Wire, WireError};
use crate::secret::SecretSource;
use crate::verification::Oversight;
use account::Account;
use fault::classify;

/// The longest message that KMS takes, in bytes.
const LONGEST_MESSAGE: usize = 4096;
/// The longest alias, in bytes.
const LONGEST_ALIAS: usize = 256;
/// The tag that holds the whole name of a key.
const TAG_KEY: &str = "mintmark:key";
/// KMS knows no such key or alias, or not yet.
const NOT_FOUND: &str = "NotFoundException";
/// How often and how long a key that was just made is waited for: KMS shows it after a moment.
const APPEARS: (u32, Duration) = (10, Duration::from_millis(500));

/// The keys of `trust_domain` in AWS KMS. Looks at the keys that the settings name; without any, lists the
/// aliases, which shows that KMS is there and the credentials count.
///
/// # Errors
/// [`KeyError::Setup`] if a setting, the credentials or a permission is wrong, [`KeyError::Unsafe`] if a key
/// that the settings name cannot be used, [`KeyError::Unavailable`] if KMS does not answer.
pub async fn open(
    settings: Settings,
    trust_domain: &str,
    oversight: Oversight,
) -> Result<RemoteStore, KeyError> {
    let keys = settings.check(trust_domain)?;
    if let Some(file) = &settings.credentials_file {
        SecretSource::File(file.clone()).check().await?;
    }
    let (pace, deletion_days) = (settings.pace, settings.deletion_days);
    let account = Account::open(settings).await?;
    let place = account.place();
    let kms = AwsKms { account, keys, place: place.clone(), deletion_days };
    for (name, arn) in &kms.keys {
        kms.inspect(name, arn).await?;
    }
    if kms.keys.is_empty() {
        kms.list(trust_domain).await?;
    }
    let description = StoreDescription {
        kind: "aws_kms",
        place,
        key_types: KeyType::ALL.to_vec(),
        hardware: true,
        longest_message: LONGEST_MESSAGE,
    };
    RemoteStore::open(Box::new(kms), description, pace, trust_domain, oversight)
}

/// KMS's wire.
#[derive(Debug)]
struct AwsKms {
    account: Account,
    /// Those that an administrator made, by their ARNs.
    keys: BTreeMap<KeyName, String>,
    place: String,
    deletion_days: u8,
}

#[async_trait]
impl Wire for AwsKms {
    async fn sign(
        &self,
        key: &Found,
        algorithm: SignatureAlgorithm,
        message: &[u8],
    ) -> Result<Signature, WireError> {
        let wanted = spec::algorithm(algorithm);
        let digest = algorithm.digest(message);
        let (bytes, message_type) = match &digest {
            Some(digest) => (digest.as_ref(), MessageType::Digest),
            None => (message, MessageType::Raw),
        };
        let request = |client: Client| {
            let request = client.sign().key_id(&key.handle).signing_algorithm(wanted.clone());
            Box::pin(request.message(Blob::new(bytes)).message_type(message_type).send())
        };
        let answer = self.account.ask("Sign", request).await?;
        if answer.key_id() != Some(&key.handle) {
            return Err(wrong("key", answer.key_id()));
        }
        if answer.signing_algorithm() != Some(&wanted) {
            return Err(wrong("algorithm", answer.signing_algorithm().map(|it| it.as_str())));
        }
        let signature = answer.signature().map(Blob::as_ref).unwrap_or_default();
        Signature::from_x509(algorithm, signature).map_err(WireError::malformed)
    }

    async fn find(&self, name: &KeyName) -> Result<Option<Found>, KeyError> {
        if let Some(arn) = self.keys.get(name) {
            return self.inspect(name, arn).await.map(Some);
        }
        let Some(arn) = self.behind_alias(name).await? else { return Ok(None) };
        self.check_tag(name, &arn).await?;
        self.inspect(name, &arn).await.map(Some)
    }

    async fn create(&self, name: &KeyName, key_type: KeyType) -> Result<Found, KeyError> {
        let alias = alias(name)?;
        let arn = self.make(name, key_type).await?;
        if let Err(error) = self.name(&alias, &arn).await {
            self.check_named(name, &arn, error).await?;
        }
        self.appears(name, &arn).await
    }

    async fn list(&self, trust_domain: &str) -> Result<Vec<KeyName>, KeyError> {
        let mut names: Vec<KeyName> = self.keys.keys().cloned().collect();
        for (name, target) in self.aliases(trust_domain).await? {
            // Two trust domains can have one spelling as an alias. A key whose tag cannot be read stays in
            // the list, as whoever describes it is told why.
            match self.tag(&name, &target).await {
                Ok(Some(tag)) if tag != name.as_str() => {}
                Err(error) if !error.is_of_one_key() => return Err(error),
                _ => names.push(name),
            }
        }
        Ok(names)
    }

    async fn destroy(&self, name: &KeyName) -> Result<Option<String>, KeyError> {
        if self.keys.contains_key(name) {
            let reason = "an administrator made it and the settings name it; schedule its deletion in KMS, \
                          then take it out of the settings";
            return Err(KeyError::Unsafe { name: name.clone(), reason: reason.to_owned() });
        }
        let Some(arn) = self.behind_alias(name).await? else { return Ok(None) };
        self.check_tag(name, &arn).await?;
        let end =
            self.schedule_deletion(&arn).await.map_err(|error| self.failed_with(name, error))?;
        let alias = alias(name)?;
        let gone = patiently(|| {
            let request = |client: Client| client.delete_alias().alias_name(&alias).send();
            self.account.ask("DeleteAlias", request)
        });
        match gone.await {
            Ok(_) => Ok(Some(format!("{arn}: {end}"))),
            Err(error) if error.code == NOT_FOUND => Ok(Some(format!("{arn}: {end}"))),
            Err(error) => Err(self.failed_with(name, error)),
        }
    }
}

impl AwsKms {
    fn failed(&self, error: WireError) -> KeyError {
        error.into_key_error(&self.place)
    }

    /// The same of a call about one key: what is refused of it says nothing of the others.
    fn failed_with(&self, name: &KeyName, error: WireError) -> KeyError {
        match error.class {
            Class::Refused => KeyError::Unsafe { name: name.clone(), reason: error.reason },
            _ => self.failed(error),
        }
    }

    /// Makes a key, and gives its ARN. Not tried again but when KMS says that it did nothing, as each
    /// key costs.
    async fn make(&self, name: &KeyName, key_type: KeyType) -> Result<String, KeyError> {
        let version = env!("CARGO_PKG_VERSION");
        let tags = [
            ("mintmark:trust-domain", name.trust_domain()),
            ("mintmark:authority", name.authority()),
            ("mintmark:generation", name.generation()),
            (TAG_KEY, name.as_str()),
            ("mintmark:created-by", version),
        ];
        let description = format!("Mintmark CA key {name}, made by Mintmark {version}");
        let made = patiently(|| async {
            let tags = tags.iter().map(|(key, value)| tag(key, value)).collect::<Result<_, _>>()?;
            let request = |client: Client| {
                let request = client.create_key().description(&description).set_tags(Some(tags));
                request.key_spec(spec::spec(key_type)).key_usage(KeyUsageType::SignVerify).send()
            };
            match self.account.ask("CreateKey", request).await {
                Err(error) if error.class == Class::Transient => {
                    Err(WireError { class: Class::Refused, ..error })
                }
                answer => answer,
            }
        });
        let made = made.await.map_err(|error| self.not_made(error))?;
        made.key_metadata.and_then(|metadata| metadata.arn).ok_or_else(|| {
            self.not_made(WireError::transient("response", "CreateKey: the answer names no key"))
        })
    }

    fn not_made(&self, error: WireError) -> KeyError {
        let reason = format!(
            "{}; if KMS made the key after all, its tag {TAG_KEY} shows it: schedule its deletion",
            error.reason
        );
        KeyError::Unavailable { place: self.place.clone(), reason }
    }

    /// Gives the alias to a key, which KMS may not know yet.
    async fn name(&self, alias: &str, arn: &str) -> Result<(), WireError> {
        let create = || {
            patiently(|| {
                let request = |client: Client| {
                    client.create_alias().alias_name(alias).target_key_id(arn).send()
                };
                self.account.ask("CreateAlias", request)
            })
        };
        let is_early = |named: &Result<_, WireError>| {
            named.as_ref().is_err_and(|error| error.code == NOT_FOUND)
        };
        eventually(create, is_early).await.map(drop)
    }

    /// What a key is whose naming ended with an error: ours after all, if KMS did it and its answer was lost.
    /// Destroyed is only one that the alias is known not to lead to.
    async fn check_named(
        &self,
        name: &KeyName,
        arn: &str,
        error: WireError,
    ) -> Result<(), KeyError> {
        let taken = error.code == "AlreadyExistsException";
        let denied = error.class == Class::Refused && !taken;
        match self.named(name, denied).await {
            Ok(Some(found)) if found == arn => Ok(()),
            Ok(Some(_)) => {
                self.discard(name, arn).await;
                Err(KeyError::Exists(name.clone()))
            }
            Ok(None) if denied => {
                self.discard(name, arn).await;
                Err(self.failed(error))
            }
            unknown => {
                let why = unknown.err().map(|error| format!(" ({error})")).unwrap_or_default();
                tracing::warn!(%name, arn, reason = error.reason, "a key was made, and may have its alias or not");
                let reason = format!(
                    "{}; whether the alias of {name} leads to {arn}, which was made for it, is not known{why}: \
                     look, and schedule the key's deletion if not",
                    error.reason
                );
                Err(KeyError::Unavailable { place: self.place.clone(), reason })
            }
        }
    }

    /// Where the alias of a name leads, once KMS shows it everywhere; looked for once if it was `denied`.
    async fn named(&self, name: &KeyName, denied: bool) -> Result<Option<String>, KeyError> {
        let is_early = |found: &Result<_, _>| !denied && matches!(found, Ok(None));
        eventually(|| self.behind_alias(name), is_early).await
    }

    /// Another server was faster, or the name cannot be given: nobody will use this key.
    async fn discard(&self, name: &KeyName, arn: &str) {
        if self.schedule_deletion(arn).await.is_err() {
            tracing::warn!(%name, arn, "a key was made and is not used; schedule its deletion");
        }
    }

    /// The key that was just made, once KMS shows it and signs with it.
    async fn appears(&self, name: &KeyName, arn: &str) -> Result<Found, KeyError> {
        let is_early = |shown: &Result<_, _>| {
            matches!(shown, Err(KeyError::NotFound(_) | KeyError::Unavailable { .. }))
        };
        eventually(|| self.shown(name, arn), is_early).await
    }

    /// One look at it. Whether the signature is good is seen when the key is handed out.
    async fn shown(&self, name: &KeyName, arn: &str) -> Result<Found, KeyError> {
        let found = self.inspect(name, arn).await?;
        let ways = found.public_key.kind().algorithms();
        let way = *ways.first().expect("a key can sign in one way at least");
        let mut nonce = [0; 32];
        fastrand::fill(&mut nonce);
        let probe = ToBeSigned::probe(nonce, way);
        match patiently(|| self.sign(&found, way, probe.message())).await {
            Err(error) if error.code == NOT_FOUND => Err(KeyError::NotFound(name.clone())),
            _ => Ok(found),
        }
    }

    /// Has KMS destroy a key after the days of the settings; says when.
    async fn schedule_deletion(&self, arn: &str) -> Result<String, WireError> {
        let days = i32::from(self.deletion_days);
        let answer = patiently(|| {
            let request = |client: Client| {
                client.schedule_key_deletion().key_id(arn).pending_window_in_days(days).send()
            };
            self.account.ask("ScheduleKeyDeletion", request)
        });
        match answer.await {
            Ok(answer) => {
                let date =
                    answer.deletion_date().and_then(|it| it.fmt(DateTimeFormat::DateTime).ok());
                let date = date.unwrap_or_else(|| format!("in {days} days"));
                Ok(format!("KMS destroys it {date}; until then the deletion can be cancelled"))
            }
            // Done before, by a call that was cut short.
            Err(error) if error.code == "KMSInvalidStateException" => {
                Ok("its deletion was scheduled before".to_owned())
            }
            Err(error) => Err(error),
        }
    }
}

/// Asks until the answer is not too early any more, for as long as KMS may take to know of what is new.
async fn eventually<T, F>(ask: impl Fn() -> F, is_early: impl Fn(&T) -> bool) -> T
where
    F: Future<Output = T>,
{
    let (tries, pause) = APPEARS;
    for _ in 1..tries {
        let answer = ask().await;
        if !is_early(&answer) {
            return answer;
        }
        sleep(pause).await;
    }
    ask().await
}

fn tag(key: &str, value: &str) -> Result<Tag, WireError> {
    Tag::builder()
        .tag_key(key)
        .tag_value(value)
        .build()
        .map_err(|error| WireError::new(Class::Refused, "tag", format!("{key}: {error}")))
}

/// The alias by which a key of ours is found. Dots have no place in one.
fn alias(name: &KeyName) -> Result<String, KeyError> {
    let domain = name.trust_domain().replace('.', "_");
    let alias = format!("alias/mintmark/{domain}/{}/{}", name.authority(), name.generation());
    if alias.len() > LONGEST_ALIAS {
        let reason = format!(
            "its alias would have {} bytes, and KMS allows {LONGEST_ALIAS}; have an administrator make the \
             key and name it in the settings",
            alias.len()
        );
        return Err(KeyError::Unsafe { name: name.clone(), reason });
    }
    Ok(alias)
}

/// The answer is about something else than the question.
fn wrong(what: &'static str, found: Option<&str>) -> WireError {
    let reason = format!("its answer names the {what} {}", found.unwrap_or("of nobody"));
    WireError::new(Class::Wrong, format!("wrong {what}"), reason)
}
