//! What the text forms share: their error, their numbers and their base64.

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use thiserror::Error;

use super::merkle::Hash;

/// Why a text is not what it should be.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("the {what} cannot be read: {reason}; check that it was copied whole")]
pub struct TextError {
    what: &'static str,
    reason: String,
}

impl TextError {
    pub(super) fn new(what: &'static str, reason: impl Into<String>) -> Self {
        Self { what, reason: reason.into() }
    }
}

/// Refuses a text before it costs anything to read.
pub(super) fn bounded(what: &'static str, text: &str, longest: usize) -> Result<(), TextError> {
    if text.len() <= longest {
        return Ok(());
    }
    Err(TextError::new(what, format!("it has {} bytes, more than {longest}", text.len())))
}

/// A decimal number without leading zeros (C2SP tlog-checkpoint, "Note text").
pub(super) fn decimal(digits: &str) -> Option<u64> {
    let is_canonical = digits == "0" || digits.starts_with(|first| ('1'..='9').contains(&first));
    // The first digit keeps out the sign that `parse` would take.
    is_canonical.then(|| digits.parse().ok()).flatten()
}

/// Base64 of RFC 4648 §4, padded, and the only one for those bytes.
pub(super) fn base64(text: &str) -> Option<Vec<u8>> {
    BASE64_STANDARD.decode(text).ok()
}

/// Hashes, one in a line, at most as many as any proof has.
pub(super) fn hashes<'a>(
    what: &'static str,
    lines: impl Iterator<Item = &'a str>,
) -> Result<Vec<Hash>, TextError> {
    let mut path = Vec::new();
    for line in lines {
        if path.len() == MOST_HASHES {
            return Err(TextError::new(what, format!("it has more than {MOST_HASHES} hashes")));
        }
        let hash = Hash::from_base64(line);
        path.push(hash.ok_or_else(|| TextError::new(what, "a line is not a hash in base64"))?);
    }
    Ok(path)
}

/// An inclusion proof has a hash for each level of the tree at most, a consistency proof one more.
const MOST_HASHES: usize = 65;
