//! Finding keys in AWS KMS, and what a key has to be to sign for Mintmark.

use aws_sdk_kms::Client;
use aws_sdk_kms::primitives::{Blob, DateTimeFormat};
use aws_sdk_kms::types::{KeyMetadata, KeyState, KeyUsageType, OriginType};
use ca_core::key::{KeyError, KeyName, KeyType, PublicKey};

use super::{AwsKms, NOT_FOUND, TAG_KEY, alias, spec, wrong};
use crate::remote::retry::patiently;
use crate::remote::wire::{Found, WireError};

impl AwsKms {
    /// The key of that ARN, if it keeps the promises of a key of ours.
    pub(super) async fn inspect(&self, name: &KeyName, arn: &str) -> Result<Found, KeyError> {
        let failed = |error: WireError| match error.code.as_str() {
            NOT_FOUND if !self.keys.contains_key(name) => KeyError::NotFound(name.clone()),
            _ => self.failed_with(name, error),
        };
        let metadata = self.describe_key(arn, Some(arn)).await.map_err(failed)?;
        let key_type = self.check(name, &metadata)?;
        let spki = self.public_key(arn).await.map_err(failed)?;
        let refused = |reason: String| KeyError::Unsafe {
            name: name.clone(),
            reason: format!("{arn}: {reason}"),
        };
        let public_key = PublicKey::from_spki(&spki).map_err(|error| refused(error.to_string()))?;
        if public_key.kind() != key_type.kind() {
            return Err(refused(format!(
                "its public key is {}, not {key_type}",
                public_key.kind()
            )));
        }
        Ok(Found {
            handle: arn.to_owned(),
            public_key,
            location: arn.to_owned(),
            facts: facts(&metadata),
        })
    }

    /// What the key has to be: enabled, for signing, of a kind that Mintmark signs with, made within KMS.
    fn check(&self, name: &KeyName, metadata: &KeyMetadata) -> Result<KeyType, KeyError> {
        let arn = metadata.arn().unwrap_or(metadata.key_id());
        let refused = |reason: String| {
            Err(KeyError::Unsafe { name: name.clone(), reason: format!("{arn}: {reason}") })
        };
        match metadata.key_state() {
            Some(KeyState::Enabled) => {}
            Some(KeyState::Disabled) => {
                return refused("it is disabled; enable it in KMS".to_owned());
            }
            Some(KeyState::PendingDeletion) => {
                let date =
                    metadata.deletion_date().and_then(|it| it.fmt(DateTimeFormat::DateTime).ok());
                let date = date.unwrap_or_else(|| "soon".to_owned());
                return refused(format!(
                    "KMS destroys it {date}; cancel the deletion, or use another"
                ));
            }
            Some(state @ (KeyState::Creating | KeyState::Updating | KeyState::Unavailable)) => {
                let reason = format!("{arn} is in state {}; wait a moment", state.as_str());
                return Err(KeyError::Unavailable { place: self.place.clone(), reason });
            }
            state => {
                let state = state.map_or("none", KeyState::as_str);
                return refused(format!("it is in state {state}; use another key"));
            }
        }
        if metadata.key_usage() != Some(&KeyUsageType::SignVerify) {
            let usage = metadata.key_usage().map_or("none", KeyUsageType::as_str);
            return refused(format!("its usage is {usage}; make one of usage SIGN_VERIFY"));
        }
        if !matches!(metadata.origin(), Some(OriginType::AwsKms | OriginType::AwsCloudhsm)) {
            let origin = metadata.origin().map_or("none", OriginType::as_str);
            return refused(format!(
                "its origin is {origin}: who made it may have a copy; make one within KMS"
            ));
        }
        let found = metadata.key_spec();
        match found.and_then(spec::key_type) {
            Some(key_type) => Ok(key_type),
            None => {
                let spec = found.map_or("none", |spec| spec.as_str());
                refused(format!("Mintmark does not sign with a key of spec {spec}"))
            }
        }
    }

    async fn public_key(&self, arn: &str) -> Result<Vec<u8>, WireError> {
        patiently(|| async {
            let request = |client: Client| client.get_public_key().key_id(arn).send();
            let answer = self.account.ask("GetPublicKey", request).await?;
            if answer.key_id() != Some(arn) {
                return Err(wrong("key", answer.key_id()));
            }
            Ok(answer.public_key.map(Blob::into_inner).unwrap_or_default())
        })
        .await
    }

    /// Describes a key or what an alias means; with `expected`, the answer has to be about that ARN.
    async fn describe_key(
        &self,
        id: &str,
        expected: Option<&str>,
    ) -> Result<KeyMetadata, WireError> {
        patiently(|| async {
            let request = |client: Client| client.describe_key().key_id(id).send();
            let answer = self.account.ask("DescribeKey", request).await?;
            let metadata = answer.key_metadata;
            let metadata = metadata
                .ok_or_else(|| WireError::transient("response", "DescribeKey: no metadata"))?;
            if expected.is_some() && metadata.arn() != expected {
                return Err(wrong("key", metadata.arn()));
            }
            Ok(metadata)
        })
        .await
    }

    /// The ARN of the key to which the alias of that name points now.
    pub(super) async fn behind_alias(&self, name: &KeyName) -> Result<Option<String>, KeyError> {
        match self.describe_key(&alias(name)?, None).await {
            Ok(metadata) => Ok(metadata.arn),
            Err(error) if error.code == NOT_FOUND => Ok(None),
            Err(error) => Err(self.failed_with(name, error)),
        }
    }

    /// Refuses a key that an alias leads to and that was not made for that name.
    pub(super) async fn check_tag(&self, name: &KeyName, arn: &str) -> Result<(), KeyError> {
        let reason = match self.tag(name, arn).await? {
            Some(tag) if tag == name.as_str() => return Ok(()),
            Some(tag) => format!("its tag {TAG_KEY} says {tag}"),
            None => format!("it has no tag {TAG_KEY}"),
        };
        let reason = format!(
            "its alias leads to {arn}, and {reason}; point the alias at the right key, or name the key's ARN \
             in the settings"
        );
        Err(KeyError::Unsafe { name: name.clone(), reason })
    }

    /// The value of [`TAG_KEY`] of the key that is found by a name.
    pub(super) async fn tag(&self, name: &KeyName, key: &str) -> Result<Option<String>, KeyError> {
        // A key has 50 tags at most, which are one page.
        let answer = patiently(|| {
            let request = |client: Client| client.list_resource_tags().key_id(key).send();
            self.account.ask("ListResourceTags", request)
        });
        let answer = answer.await.map_err(|error| self.failed_with(name, error))?;
        let tag = answer.tags().iter().find(|tag| tag.tag_key() == TAG_KEY);
        Ok(tag.map(|tag| tag.tag_value().to_owned()))
    }

    /// The names whose aliases there are, with the ids of the keys that they point at.
    pub(super) async fn aliases(
        &self,
        trust_domain: &str,
    ) -> Result<Vec<(KeyName, String)>, KeyError> {
        let prefix = format!("alias/mintmark/{}/", trust_domain.replace('.', "_"));
        let (mut found, mut marker) = (Vec::new(), None);
        loop {
            let page = patiently(|| {
                let from = marker.clone();
                let request =
                    |client: Client| client.list_aliases().limit(100).set_marker(from).send();
                self.account.ask("ListAliases", request)
            });
            let page = page.await.map_err(|error| self.failed(error))?;
            found.extend(page.aliases().iter().filter_map(|entry| {
                let suffix = entry.alias_name()?.strip_prefix(&prefix)?;
                let name = KeyName::parse(&format!("mintmark/{trust_domain}/{suffix}")).ok()?;
                Some((name, entry.target_key_id()?.to_owned()))
            }));
            marker = page.next_marker;
            if !page.truncated || marker.is_none() {
                return Ok(found);
            }
        }
    }
}

fn facts(metadata: &KeyMetadata) -> Vec<(String, String)> {
    let date = metadata.creation_date().and_then(|date| date.fmt(DateTimeFormat::DateTime).ok());
    let multi_region = metadata.multi_region().map(|multi| if multi { "yes" } else { "no" });
    let facts = [
        ("spec", metadata.key_spec().map(|spec| spec.as_str().to_owned())),
        ("origin", metadata.origin().map(|origin| origin.as_str().to_owned())),
        // The same private half is in several regions: each of them can sign with it.
        ("multi-region", multi_region.map(str::to_owned)),
        ("created", date),
        ("description", metadata.description().map(str::to_owned)),
    ];
    facts.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?))).collect()
}
