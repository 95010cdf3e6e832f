//! The envelope of stored values: one byte for the format, then the record.
//!
//! The format byte changes when old code must not read the new record at all. Everything milder is a new
//! field: records are JSON objects, whose unknown fields are skipped and whose missing ones have
//! defaults, so that two neighbouring releases read each other.

use bytes::Bytes;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::{Entry, StoreError};

/// The value that holds `record` in `format`.
///
/// # Panics
/// If the record cannot be JSON: a map with keys that are not texts, or a serializer that fails.
#[must_use]
pub fn encode<T: Serialize>(format: u8, record: &T) -> Bytes {
    let mut value = vec![format];
    serde_json::to_writer(&mut value, record).expect("a record is plain data");
    value.into()
}

/// The record of `entry`, which must be in `format`; else [`StoreError::Corrupt`], naming the key.
pub fn decode<T: DeserializeOwned>(format: u8, entry: &Entry) -> Result<T, StoreError> {
    let corrupt = |reason| StoreError::Corrupt { place: format!("record {:?}", entry.key), reason };
    match entry.value.split_first() {
        Some((&found, json)) if found == format => serde_json::from_slice(json)
            .map_err(|error| corrupt(format!("{error}; restore a backup of the store"))),
        Some((found, _)) => Err(corrupt(format!(
            "it has format {found} where {format} is known; use the release that wrote it"
        ))),
        None => Err(corrupt("it is empty; restore a backup of the store".to_owned())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::{Version, key};
    use serde::Deserialize;

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    struct Example {
        name: String,
    }

    fn entry(value: &[u8]) -> Entry {
        Entry { key: key::epoch(), value: Bytes::copy_from_slice(value), version: Version::ZERO }
    }

    #[test]
    fn a_record_survives_encoding_and_skips_what_it_does_not_know() {
        let example = Example { name: "a".to_owned() };
        assert_eq!(&encode(3, &example)[..], b"\x03{\"name\":\"a\"}");
        let newer = entry(b"\x03{\"name\":\"a\",\"later\":[1]}");
        assert_eq!(decode::<Example>(3, &newer), Ok(example));
    }

    #[test]
    fn a_value_of_another_shape_is_an_error_that_names_the_key() {
        for value in [&b""[..], b"\x04{}", b"\x03", b"\x03{}", b"\x03\xff"] {
            let error = decode::<Example>(3, &entry(value)).unwrap_err();
            assert!(error.to_string().contains("Key(00"), "{error}");
        }
    }
}
