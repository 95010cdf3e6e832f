//! A front end as it is stored.
//!
//! A field that is missing has its strictest value. One that a later release knows is kept and written back. A
//! release that adds a field which *restricts* a front end has to count [`FORMAT`] up: an older one must then
//! refuse the front end, and not serve it without the restriction.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{
    DnsScope, EnrolledKey, FrontEnd, FrontEndName, Grants, KeyKinds, PathScope, Rates, Terms,
    Wanted,
};
use crate::clock::Timestamp;
use crate::key::KeyType;
use crate::pipeline::admission::Class;
use crate::serial::Serial;
use crate::store::{Entry, StoreError, record as envelope};

const FORMAT: u8 = 1;

/// Fields that this release does not know.
pub(super) type Later = serde_json::Map<String, serde_json::Value>;

#[derive(Debug, Serialize, Deserialize)]
struct Record {
    name: String,
    revision: u64,
    #[serde(default)]
    path_scopes: Vec<String>,
    #[serde(default)]
    dns_scopes: Vec<String>,
    #[serde(default)]
    allow_named: bool,
    #[serde(default)]
    allow_downstream: bool,
    #[serde(default)]
    allow_publish: bool,
    #[serde(default)]
    allow_admin: bool,
    #[serde(default = "strictest")]
    require_csr: bool,
    #[serde(default = "usual_max_ttl")]
    max_ttl_seconds: u64,
    /// Names that this release does not know are passed over.
    key_types: Vec<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    budget: Option<String>,
    /// By the name of the class.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    class_budgets: BTreeMap<String, String>,
    #[serde(default)]
    keys: Vec<KeyRecord>,
    /// Keys that another has the place of. Not among `keys`, so that a release that knows nothing of this does not take
    /// one for a key that may ask for the next.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    replaced: Vec<KeyRecord>,
    enrolled_at: i64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    withdrawn_at: Option<i64>,
    #[serde(flatten)]
    later: Later,
}

#[derive(Debug, Serialize, Deserialize)]
struct KeyRecord {
    /// Lower-case hexadecimal, as the others here.
    sha256: String,
    serial: String,
    not_after: i64,
    enrolled_at: i64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    renewed_from: Option<String>,
    /// Of each that is `replaced`, and of no other.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    replaced_at: Option<i64>,
}

fn strictest() -> bool {
    true
}

fn usual_max_ttl() -> u64 {
    Terms::USUAL_MAX_TTL.as_secs()
}

/// The value that is stored.
pub(super) fn encode(front_end: &FrontEnd) -> bytes::Bytes {
    envelope::encode(FORMAT, &Record::of(front_end))
}

/// The front end of a stored value.
///
/// # Errors
/// [`StoreError::Corrupt`], naming the record, if it makes no sense or is of a release that this one must not read.
pub(super) fn decode(entry: &Entry) -> Result<FrontEnd, StoreError> {
    let record: Record = envelope::decode(FORMAT, entry)?;
    let name = record.name.clone();
    record.front_end().map_err(|reason| StoreError::Corrupt {
        place: format!("record of front end {:?}", crate::excerpt::Excerpt::of(&name)),
        reason: format!("{reason}; enrol it again"),
    })
}

impl Record {
    fn of(front_end: &FrontEnd) -> Self {
        let FrontEnd { name, terms, keys, enrolled_at, withdrawn_at, revision, later } = front_end;
        let Grants { named, downstream, publish, admin } = terms.grants();
        let (replaced, keys): (Vec<_>, Vec<_>) =
            keys.iter().map(KeyRecord::of).partition(|key| key.replaced_at.is_some());
        let classes = Class::ALL.into_iter().filter_map(|class| {
            Some((class.name().to_owned(), terms.rates().of(class)?.to_string()))
        });
        Self {
            name: name.to_string(),
            revision: *revision,
            path_scopes: terms.path_scopes().iter().map(PathScope::to_string).collect(),
            dns_scopes: terms.dns_scopes().iter().map(DnsScope::to_string).collect(),
            allow_named: named,
            allow_downstream: downstream,
            allow_publish: publish,
            allow_admin: admin,
            require_csr: terms.require_csr(),
            max_ttl_seconds: terms.max_ttl().as_secs(),
            key_types: terms.key_kinds().types().iter().map(KeyType::to_string).collect(),
            budget: terms.rates().total.map(|rate| rate.to_string()),
            class_budgets: classes.collect(),
            keys,
            replaced,
            enrolled_at: enrolled_at.unix(),
            withdrawn_at: withdrawn_at.map(Timestamp::unix),
            later: later.clone(),
        }
    }

    fn front_end(self) -> Result<FrontEnd, String> {
        Ok(FrontEnd {
            name: FrontEndName::parse(&self.name).map_err(text)?,
            terms: self.terms()?,
            keys: Self::all_keys(self.keys, self.replaced)?,
            enrolled_at: Timestamp::from_unix(self.enrolled_at),
            withdrawn_at: self.withdrawn_at.map(Timestamp::from_unix),
            revision: self.revision,
            later: self.later,
        })
    }

    /// A key that lies on the wrong side makes no sense, whichever side is believed.
    fn all_keys(
        keys: Vec<KeyRecord>,
        replaced: Vec<KeyRecord>,
    ) -> Result<Vec<EnrolledKey>, String> {
        let on_its_side = keys.iter().all(|key| key.replaced_at.is_none())
            && replaced.iter().all(|key| key.replaced_at.is_some());
        if !on_its_side {
            return Err("a key is both in use and replaced".to_owned());
        }
        keys.into_iter().chain(replaced).map(KeyRecord::key).collect()
    }

    fn terms(&self) -> Result<Terms, String> {
        let paths = self.path_scopes.iter().map(|scope| PathScope::parse(scope).map_err(text));
        let names = self.dns_scopes.iter().map(|scope| DnsScope::parse(scope).map_err(text));
        let known = |name: &String| KeyType::ALL.into_iter().find(|known| known.name() == name);
        let key_types: Vec<KeyType> = self.key_types.iter().filter_map(known).collect();
        let rate = |rate: &String| rate.parse().map_err(text);
        let mut rates =
            Rates { total: self.budget.as_ref().map(rate).transpose()?, ..Rates::default() };
        for class in Class::ALL {
            let stored = self.class_budgets.get(class.name());
            rates.classes[class as usize] = stored.map(rate).transpose()?;
        }
        let wanted = Wanted {
            path_scopes: paths.collect::<Result<_, _>>()?,
            dns_scopes: names.collect::<Result<_, _>>()?,
            grants: Grants {
                named: self.allow_named,
                downstream: self.allow_downstream,
                publish: self.allow_publish,
                admin: self.allow_admin,
            },
            require_csr: self.require_csr,
            max_ttl: Duration::from_secs(self.max_ttl_seconds),
            key_kinds: KeyKinds::of(&key_types).map_err(text)?,
            rates,
        };
        Terms::new(wanted).map_err(text)
    }
}

impl KeyRecord {
    fn of(key: &EnrolledKey) -> Self {
        Self {
            sha256: hexadecimal(&key.fingerprint),
            serial: key.serial.to_string(),
            not_after: key.not_after.unix(),
            enrolled_at: key.enrolled_at.unix(),
            renewed_from: key.renewed_from.map(|fingerprint| hexadecimal(&fingerprint)),
            replaced_at: key.replaced_at.map(Timestamp::unix),
        }
    }

    fn key(self) -> Result<EnrolledKey, String> {
        Ok(EnrolledKey {
            fingerprint: bytes(&self.sha256)?,
            serial: Serial::from_bytes(bytes(&self.serial)?),
            not_after: Timestamp::from_unix(self.not_after),
            enrolled_at: Timestamp::from_unix(self.enrolled_at),
            renewed_from: self.renewed_from.as_deref().map(bytes).transpose()?,
            replaced_at: self.replaced_at.map(Timestamp::from_unix),
        })
    }
}

fn text(error: impl std::fmt::Display) -> String {
    error.to_string()
}

fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn bytes<const N: usize>(hexadecimal: &str) -> Result<[u8; N], String> {
    let digits = hexadecimal.as_bytes().chunks(2).map(|pair| {
        let pair = std::str::from_utf8(pair).ok().filter(|pair| pair.len() == 2)?;
        u8::from_str_radix(pair, 16).ok()
    });
    let bytes: Option<Vec<u8>> = digits.collect();
    let bytes = bytes.and_then(|bytes| bytes.try_into().ok());
    bytes.ok_or_else(|| format!("a key is not named by {N} bytes in hexadecimal"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::{Version, key};

    fn entry(value: impl Into<bytes::Bytes>) -> Entry {
        let key = key::front_end(key::TrustDomainNumber::OWN, "edge").unwrap();
        Entry { key, value: value.into(), version: Version::ZERO }
    }

    fn full() -> FrontEnd {
        let rate = |text: &str| Some(text.parse().unwrap());
        let mut rates = Rates { total: rate("100/200"), ..Rates::default() };
        rates.classes[Class::Bulk as usize] = rate("5");
        let key = EnrolledKey {
            fingerprint: [0xab; 32],
            serial: Serial::from_bytes([0x12; 20]),
            not_after: Timestamp::from_unix(2_000),
            enrolled_at: Timestamp::from_unix(1_000),
            renewed_from: None,
            replaced_at: None,
        };
        let renewed =
            EnrolledKey { fingerprint: [1; 32], renewed_from: Some([0xab; 32]), ..key.clone() };
        let wanted = Wanted {
            path_scopes: vec![
                PathScope::parse("/").unwrap(),
                PathScope::parse("/ns/prod").unwrap(),
            ],
            dns_scopes: vec![DnsScope::parse("*.example.org").unwrap()],
            grants: Grants { named: true, downstream: true, publish: true, admin: true },
            require_csr: true,
            max_ttl: Duration::from_secs(3_600),
            key_kinds: KeyKinds::of(&[KeyType::EcP256, KeyType::Rsa3072]).unwrap(),
            rates,
        };
        FrontEnd {
            name: FrontEndName::parse("edge").unwrap(),
            terms: Terms::new(wanted).unwrap(),
            keys: vec![key, renewed],
            enrolled_at: Timestamp::from_unix(900),
            withdrawn_at: Some(Timestamp::from_unix(1_500)),
            revision: 3,
            later: Later::new(),
        }
    }

    /// What this release writes; every later one has to read it.
    fn stored() -> String {
        let (sha256, serial, other) = ("ab".repeat(32), "12".repeat(20), "01".repeat(32));
        format!(
            "\u{1}{{\"name\":\"edge\",\"revision\":3,\"path_scopes\":[\"/\",\"/ns/prod\"],\
             \"dns_scopes\":[\"*.example.org\"],\"allow_named\":true,\"allow_downstream\":true,\
             \"allow_publish\":true,\"allow_admin\":true,\"require_csr\":true,\"max_ttl_seconds\":3600,\
             \"key_types\":[\"ec-p256\",\"rsa-3072\"],\"budget\":\"100/200\",\
             \"class_budgets\":{{\"bulk\":\"5/5\"}},\"keys\":[{{\"sha256\":\"{sha256}\",\
             \"serial\":\"{serial}\",\"not_after\":2000,\"enrolled_at\":1000}},{{\"sha256\":\"{other}\",\
             \"serial\":\"{serial}\",\"not_after\":2000,\"enrolled_at\":1000,\"renewed_from\":\"{sha256}\"}}],\
             \"enrolled_at\":900,\"withdrawn_at\":1500}}"
        )
    }

    #[test]
    fn the_stored_form_does_not_change() {
        let value = encode(&full());
        assert_eq!(String::from_utf8(value.to_vec()).unwrap(), stored());
        assert_eq!(decode(&entry(value)), Ok(full()));
    }

    #[test]
    fn a_key_that_was_replaced_is_kept_where_older_releases_do_not_look() {
        let mut handed_over = full();
        // Keys in use come first.
        handed_over.keys.reverse();
        handed_over.keys[1].replaced_at = Some(Timestamp::from_unix(1_200));
        let value = encode(&handed_over);
        let text = String::from_utf8(value.to_vec()).unwrap();
        let (keys, replaced) = text.split_once("\"replaced\":").unwrap();
        assert!(!keys.contains("\"sha256\":\"abab"), "{keys}");
        let end = "\"enrolled_at\":1000,\"replaced_at\":1200}],\"enrolled_at\":900";
        assert!(replaced.contains(end), "{replaced}");
        assert_eq!(decode(&entry(value)), Ok(handed_over));
        for wrong in [
            text.replace(",\"replaced_at\":1200", ""),
            text.replacen("\"enrolled_at\":1000", "\"enrolled_at\":1000,\"replaced_at\":1", 1),
        ] {
            let error = decode(&entry(wrong)).unwrap_err();
            assert!(error.to_string().contains("both in use and replaced"), "{error}");
        }
    }

    #[test]
    fn what_a_record_does_not_say_is_read_as_its_strictest() {
        let least = "\u{1}{\"name\":\"edge\",\"revision\":1,\"path_scopes\":[\"/a\"],\
                     \"key_types\":[\"ec-p256\"],\"enrolled_at\":1}";
        let front_end = decode(&entry(least)).unwrap();
        let terms = front_end.terms();
        assert_eq!(terms.grants(), Grants::default());
        assert!(terms.require_csr() && terms.dns_scopes().is_empty());
        assert_eq!(terms.max_ttl(), Terms::USUAL_MAX_TTL);
        assert!(front_end.keys().is_empty() && front_end.withdrawn_at().is_none());
    }

    #[test]
    fn what_a_later_release_has_added_is_skipped_and_written_back() {
        let later = stored().replace("\"keys\":[", "\"zone\":{\"a\":[1]},\"keys\":[");
        let later = later.replace("\"ec-p256\"", "\"ec-p256\",\"ml-kem-768\"");
        let read = decode(&entry(later)).unwrap();
        assert_eq!(read.terms(), full().terms());
        let again = String::from_utf8(encode(&read).to_vec()).unwrap();
        assert!(again.ends_with(",\"zone\":{\"a\":[1]}}"), "{again}");
        assert_eq!(decode(&entry(again)), Ok(read));
    }

    #[test]
    fn a_record_that_makes_no_sense_is_an_error_that_names_it() {
        for (from, to) in [
            ("\u{1}", "\u{2}"),
            ("\"edge\"", "\"Edge\""),
            ("\"/ns/prod\"", "\"/ns/../prod\""),
            ("[\"/\",\"/ns/prod\"]", "[]"),
            ("\"*.example.org\"", "\"*\""),
            ("[\"ec-p256\",\"rsa-3072\"]", "[\"unknown\"]"),
            ("\"100/200\"", "\"0/200\""),
            ("abab", "abxx"),
            ("1212", "12"),
            ("3600", "0"),
        ] {
            assert!(stored().contains(from), "{from}");
            let error = decode(&entry(stored().replacen(from, to, 1))).unwrap_err();
            assert!(matches!(error, StoreError::Corrupt { .. }), "{from}: {error}");
            assert!(error.to_string().contains("record"), "{error}");
        }
    }

    #[test]
    fn the_largest_record_fits_into_a_value() {
        let path = |number: usize| PathScope::parse(&format!("/{number:0>511}")).unwrap();
        let label = "a".repeat(63);
        let name = |number: usize| {
            DnsScope::parse(&format!("{label}.{label}.{label}.{number:0>61}")).unwrap()
        };
        let rate = "1000000/1000000".parse().ok();
        let wanted = Wanted {
            path_scopes: (0..Terms::MOST_PATHS).map(path).collect(),
            dns_scopes: (0..Terms::MOST_DNS).map(name).collect(),
            rates: Rates { total: rate, classes: [rate; 4] },
            ..Wanted::default()
        };
        let (terms, end) = (Terms::new(wanted).unwrap(), Timestamp::MAX);
        let key = EnrolledKey {
            not_after: end,
            enrolled_at: end,
            renewed_from: Some([7; 32]),
            ..full().keys[0].clone()
        };
        let keys = vec![key; super::super::MOST_KEYS + super::super::MOST_HANDOVERS];
        let name = FrontEndName::parse(&"a".repeat(63)).unwrap();
        let largest = encode(&FrontEnd { name, terms, keys, ..full() });
        // Half as much again is left for what a later release may add.
        assert!(largest.len() * 3 / 2 < crate::store::Commit::VALUE_BYTES * 2, "{}", largest.len());
        assert!(largest.len() < crate::store::Commit::VALUE_BYTES * 9 / 10, "{}", largest.len());
    }
}
