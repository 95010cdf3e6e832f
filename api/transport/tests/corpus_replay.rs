//! Every file of the fuzz corpus through the properties that the fuzzer checks.

use std::fs;
use std::path::Path;

#[path = "../../../fuzz/properties/peer_certificate.rs"]
mod peer_certificate;
#[path = "../../../fuzz/properties/peer_chain.rs"]
mod peer_chain;
#[path = "../../../fuzz/properties/tls_client_hello.rs"]
mod tls_client_hello;

/// A folder that has moved away must not pass for a folder of good files.
const FEWEST: usize = 10;

#[test]
fn every_certificate_of_the_corpus_is_judged_as_its_name_says() {
    replay("peer_certificate", peer_certificate::holds);
}

#[test]
fn every_chain_of_the_corpus_is_judged_as_its_name_says() {
    replay("peer_chain", peer_chain::holds);
}

#[test]
fn every_hello_of_the_corpus_is_answered_as_its_name_says() {
    replay("tls_client_hello", tls_client_hello::holds);
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
