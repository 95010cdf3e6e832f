//! Every message of the fuzz corpus through the property that the fuzzer checks.

use std::fs;
use std::path::Path;

#[path = "../../../fuzz/properties/mint_request.rs"]
mod mint_request;

/// A folder that has moved away must not pass for a folder of good files.
const FEWEST: usize = 10;

#[test]
fn every_message_of_the_corpus_is_judged_as_its_name_says() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/corpus/mint_request");
    let mut count = 0;
    for entry in fs::read_dir(&folder).expect("the corpus is checked in") {
        let path = entry.expect("a readable folder").path();
        let name = path.file_name().expect("a file of a folder").to_string_lossy().into_owned();
        let accepted = mint_request::holds(&fs::read(&path).expect("a readable file"));
        assert!(accepted || !name.starts_with("good-"), "{name} is refused");
        assert!(!accepted || !name.starts_with("bad-"), "{name} is accepted");
        count += 1;
    }
    assert!(count >= FEWEST, "{} holds {count} files only", folder.display());
}
