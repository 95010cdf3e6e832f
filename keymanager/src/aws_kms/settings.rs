//! What an operator says about AWS KMS.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use ca_core::key::{KeyError, KeyName};

use crate::remote::{Pace, endpoint};

/// Which account's KMS to use and how.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// The region, such as `eu-central-1`.
    pub region: String,
    /// Another URL than the region's own, such as that of a VPC endpoint; `https://`, or `http://` on this
    /// machine.
    pub endpoint: Option<String>,
    /// The profile of AWS's configuration files that gives the credentials. Without one: the environment,
    /// the default profile, a web identity, the container's or the instance's role, in this order.
    pub profile: Option<String>,
    /// A credentials file instead of `~/.aws/credentials`, which only its owner can read.
    pub credentials_file: Option<PathBuf>,
    /// Keys that an administrator made: `<authority>/<generation>` of the key name to the key's ARN. An
    /// alias is refused, as what it means changes.
    pub keys: BTreeMap<String, String>,
    /// How long KMS keeps a destroyed key, 7 to 30 days, in which the deletion can be cancelled.
    pub deletion_days: u8,
    /// How fast KMS may be asked. The quota of ECC signatures is 1,000 per second, account and region.
    pub pace: Pace,
}

impl Settings {
    /// The defaults for a region: keys made by Mintmark, the quota that an account starts with.
    #[must_use]
    pub fn of_region(region: &str) -> Self {
        Self {
            region: region.to_owned(),
            endpoint: None,
            profile: None,
            credentials_file: None,
            keys: BTreeMap::new(),
            deletion_days: 30,
            pace: Pace {
                max_in_flight: 128,
                max_rate: 1000,
                queue_wait: Duration::from_millis(500),
                attempt_timeout: Duration::from_secs(2),
            },
        }
    }

    /// The place, for people.
    pub(super) fn place(&self) -> String {
        match &self.endpoint {
            None => format!("AWS KMS in {}", self.region),
            Some(endpoint) => format!("AWS KMS in {} at {endpoint}", self.region),
        }
    }

    /// Refuses what cannot work, and gives the administrator's keys by their whole names. Asks nobody.
    ///
    /// # Errors
    /// [`KeyError::Setup`]: the setting, and what to write instead.
    pub fn check(&self, trust_domain: &str) -> Result<BTreeMap<KeyName, String>, KeyError> {
        let setup = |reason: String| KeyError::Setup { place: self.place(), reason };
        if self.region.is_empty() {
            return Err(setup("no region is named; set it, such as eu-central-1".to_owned()));
        }
        if let Some(endpoint) = &self.endpoint {
            endpoint::check(endpoint).map_err(setup)?;
        }
        if !(7..=30).contains(&self.deletion_days) {
            return Err(setup("KMS keeps a destroyed key for 7 to 30 days".to_owned()));
        }
        let mut keys = BTreeMap::new();
        for (suffix, arn) in &self.keys {
            let name = KeyName::parse(&format!("mintmark/{trust_domain}/{suffix}"))
                .map_err(|error| setup(error.to_string()))?;
            check_arn(arn, &self.region)
                .map_err(|reason| setup(format!("key {suffix} is {arn:?}: {reason}")))?;
            keys.insert(name, arn.clone());
        }
        Ok(keys)
    }
}

/// Refuses everything but the ARN of a key of that region: `arn:<partition>:kms:<region>:<account>:key/<id>`.
fn check_arn(arn: &str, region: &str) -> Result<(), String> {
    let parts: Vec<&str> = arn.splitn(6, ':').collect();
    let of_kms = matches!(parts[..], ["arn", _, "kms", _, _, _]);
    if arn.starts_with("alias/") || (of_kms && parts[5].starts_with("alias/")) {
        let reason = "an alias can be pointed at another key at any time, and KMS follows only after a \
                      while; name the ARN of the key itself";
        return Err(reason.to_owned());
    }
    if !of_kms || parts[5].strip_prefix("key/").is_none_or(str::is_empty) {
        return Err(
            "it is not the ARN of a key, arn:aws:kms:<region>:<account>:key/<id>".to_owned()
        );
    }
    if parts[3] != region {
        return Err(format!("it is in {}, and the store in {region}", parts[3]));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_arn_of_a_key_of_the_region_names_a_key() {
        let check = |arn: &str| check_arn(arn, "eu-central-1");
        let id = "1234abcd-12ab-34cd-56ef-1234567890ab";
        let arn = |region, rest: &str| format!("arn:aws:kms:{region}:111122223333:{rest}");
        let key = format!("key/{id}");
        assert_eq!(check(&arn("eu-central-1", &key)), Ok(()));
        assert_eq!(check(&arn("eu-central-1", "key/mrk-1234")), Ok(()));
        for alias in ["alias/ca".to_owned(), arn("eu-central-1", "alias/ca")] {
            assert!(check(&alias).unwrap_err().contains("alias"), "{alias}");
        }
        assert!(check(&arn("us-east-1", &key)).unwrap_err().contains("us-east-1"));
        for other in [id, "", "key/", &arn("eu-central-1", "key/"), "arn:aws:s3:::bucket"] {
            assert!(check(other).is_err(), "{other}");
        }
    }

    #[test]
    fn what_is_out_of_bounds_is_refused_with_its_reason() {
        let good = Settings::of_region("eu-central-1");
        assert_eq!(good.check("a.test"), Ok(BTreeMap::new()));
        let refusal = |settings: Settings| settings.check("a.test").unwrap_err().to_string();
        let days = refusal(Settings { deletion_days: 6, ..good.clone() });
        assert!(days.contains("7 to 30 days"), "{days}");
        let clear = Settings { endpoint: Some("http://kms.example".to_owned()), ..good.clone() };
        assert!(refusal(clear).contains("not encrypted"));
        let keys = BTreeMap::from([("X509/1".to_owned(), "arn".to_owned())]);
        assert!(refusal(Settings { keys, ..good }).contains("X509/1"));
    }
}
