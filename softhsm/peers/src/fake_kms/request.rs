//! Reading a request's fields and cutting answers into pages.

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use serde::Deserialize;
use serde::de::DeserializeOwned;

use super::exception::Exception;

/// Bytes, in base64 on the wire.
#[derive(Debug, Deserialize)]
#[serde(try_from = "String")]
pub(super) struct Blob(pub(super) Vec<u8>);

impl TryFrom<String> for Blob {
    type Error = base64::DecodeError;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        BASE64_STANDARD.decode(text).map(Self)
    }
}

/// Bytes as the wire has them.
pub(super) fn blob(bytes: &[u8]) -> String {
    BASE64_STANDARD.encode(bytes)
}

/// The fields of a request.
pub(super) fn parse<T: DeserializeOwned>(body: &[u8]) -> Result<T, Exception> {
    serde_json::from_slice(body)
        .map_err(|error| Exception::new("SerializationException", error.to_string()))
}

/// A field that has to be there; `name` as KMS writes it in its errors (`keyId`).
pub(super) fn required<T>(field: Option<T>, name: &str) -> Result<T, Exception> {
    field.ok_or_else(|| Exception::constraint(name, "null", "Member must not be null"))
}

/// Where a list goes on, as requests ask for it.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct PageRequest {
    limit: Option<usize>,
    marker: Option<String>,
}

/// A part of a list.
pub(super) struct Page<T> {
    pub(super) items: Vec<T>,
    /// Where the next part begins, if there is one.
    pub(super) next: Option<String>,
}

impl PageRequest {
    /// The part of `all` that is asked for. `all` is ordered by the text that `place` gives, and the
    /// marker names the last item of the page before: what comes and goes in between moves nothing else.
    pub(super) fn page<T>(
        &self,
        all: impl Iterator<Item = T>,
        place: impl Fn(&T) -> &str,
        usual: usize,
        most: usize,
    ) -> Result<Page<T>, Exception> {
        let limit = self.limit.unwrap_or(usual);
        if !(1..=most).contains(&limit) {
            return Err(Exception::constraint(
                "limit",
                &format!("'{limit}'"),
                &format!("Member must be between 1 and {most}"),
            ));
        }
        let after = self.after()?;
        let mut items: Vec<T> = all
            .filter(|item| after.as_deref().is_none_or(|after| place(item) > after))
            .take(limit + 1)
            .collect();
        let more = items.len() > limit;
        items.truncate(limit);
        let next = items.last().filter(|_| more).map(|last| blob(place(last).as_bytes()));
        Ok(Page { items, next })
    }

    fn after(&self) -> Result<Option<String>, Exception> {
        let Some(marker) = &self.marker else { return Ok(None) };
        BASE64_STANDARD
            .decode(marker)
            .ok()
            .and_then(|bytes| String::from_utf8(bytes).ok())
            .map(Some)
            .ok_or_else(|| Exception::new("InvalidMarkerException", "Invalid marker."))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_give_every_item_once() {
        let all: Vec<String> = (0..25).map(|number| format!("{number:02}")).collect();
        let (mut seen, mut marker) = (Vec::new(), None);
        loop {
            let request = PageRequest { limit: Some(10), marker };
            let page = request.page(all.iter(), |item| item, 50, 50).unwrap();
            assert!(page.items.len() <= 10);
            seen.extend(page.items.into_iter().cloned());
            marker = page.next;
            if marker.is_none() {
                break;
            }
        }
        assert_eq!(seen, all);
    }

    #[test]
    fn limits_and_markers_out_of_range_are_refused() {
        let page = |limit, marker: Option<&str>| {
            let request = PageRequest { limit, marker: marker.map(Into::into) };
            let name = request.page(["a"].iter(), |item| item, 50, 50).map(|_| ());
            name.map_err(|exception| exception.name)
        };
        assert_eq!(page(None, None), Ok(()));
        assert_eq!(page(Some(0), None), Err("ValidationException"));
        assert_eq!(page(Some(51), None), Err("ValidationException"));
        assert_eq!(page(None, Some("!")), Err("InvalidMarkerException"));
    }
}
