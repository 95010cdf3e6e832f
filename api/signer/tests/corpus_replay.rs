//! Every file of the fuzz corpus through the properties that the fuzzer checks.

use std::fs;
use std::path::Path;

#[path = "../../../fuzz/properties/follow_and_control.rs"]
mod follow_and_control;
#[path = "../../../fuzz/properties/mint_request.rs"]
mod mint_request;
#[path = "../../../fuzz/properties/signing_frames.rs"]
mod signing_frames;

/// A folder that has moved away must not pass for a folder of good files.
const FEWEST: usize = 10;

#[test]
fn every_message_of_items_of_the_corpus_is_judged_as_its_name_says() {
    replay("mint_request", mint_request::holds);
}

#[test]
fn every_other_message_of_the_corpus_is_read_as_its_name_says() {
    replay("follow_and_control", follow_and_control::holds);
}

#[test]
fn every_connection_of_the_corpus_is_answered_as_its_name_says() {
    replay("signing_frames", signing_frames::holds);
}

fn replay(corpus: &str, holds: fn(&[u8]) -> bool) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/corpus").join(corpus);
    let mut count = 0;
    for entry in fs::read_dir(&folder).expect("the corpus is checked in") {
        let path = entry.expect("a readable folder").path();
        let name = path.file_name().expect("a file of a folder").to_string_lossy().into_owned();
        let accepted = holds(&fs::read(&path).expect("a readable file"));
        assert!(accepted || !name.starts_with("good-"), "{name} is refused");
        assert!(!accepted || !name.starts_with("bad-"), "{name} is accepted");
        count += 1;
    }
    assert!(count >= FEWEST, "{} holds {count} files only", folder.display());
}
