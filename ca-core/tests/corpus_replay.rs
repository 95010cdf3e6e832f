//! Every file of the fuzz corpus through the properties that the fuzzer checks.

use std::fs;
use std::path::Path;

#[path = "../../fuzz/properties/checkpoint.rs"]
mod checkpoint;
#[path = "../../fuzz/properties/csr.rs"]
mod csr;
#[path = "../../fuzz/properties/log_proof.rs"]
mod log_proof;
#[path = "../../fuzz/properties/spiffe_id.rs"]
mod spiffe_id;

#[test]
fn every_csr_of_the_corpus_is_judged_as_its_name_says() {
    replay("../fuzz/corpus/csr", csr::holds);
    replay("tests/corpus/csr", csr::holds);
}

#[test]
fn every_spiffe_id_of_the_corpus_is_judged_as_its_name_says() {
    replay("../fuzz/corpus/spiffe_id", spiffe_id::holds);
}

#[test]
fn every_checkpoint_of_the_corpus_is_judged_as_its_name_says() {
    replay("../fuzz/corpus/checkpoint", checkpoint::holds);
}

#[test]
fn every_log_proof_of_the_corpus_is_judged_as_its_name_says() {
    replay("../fuzz/corpus/log_proof", log_proof::holds);
}

/// A folder that has moved away must not pass for a folder of good files.
const FEWEST: usize = 10;

fn replay(folder: &str, holds: fn(&[u8]) -> bool) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join(folder);
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
