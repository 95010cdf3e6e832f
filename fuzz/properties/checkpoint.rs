//! What holds of any bytes that come as a checkpoint of a log.

use ca_core::log::tree::{Checkpoint, LogKey};

/// Reads `data`; says whether it was accepted. Panics if a promise is broken.
pub(crate) fn holds(data: &[u8]) -> bool {
    let Ok(text) = std::str::from_utf8(data) else { return false };
    if let Ok(key) = LogKey::parse(text) {
        assert_eq!(key.vkey(), text);
    }
    match Checkpoint::parse(text) {
        Err(error) => {
            let shown = error.to_string();
            assert!(shown.len() < 2048 && !shown.contains(char::is_control), "{shown}");
            false
        }
        Ok(checkpoint) => {
            assert!(text.len() <= Checkpoint::LONGEST);
            assert_eq!(checkpoint.to_string(), text);
            let signed = checkpoint.unverified().text();
            assert!(text.strip_prefix(&signed).is_some_and(|rest| rest.starts_with('\n')));
            true
        }
    }
}
