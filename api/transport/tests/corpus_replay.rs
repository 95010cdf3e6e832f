//! Every file of the fuzz corpus through the properties that the fuzzer checks.

#[path = "../../../fuzz/properties/peer_certificate.rs"]
mod peer_certificate;
#[path = "../../../fuzz/properties/peer_chain.rs"]
mod peer_chain;
#[path = "../../../fuzz/properties/replay.rs"]
mod replay;
#[path = "../../../fuzz/properties/tls_client_hello.rs"]
mod tls_client_hello;

use replay::replay;

#[test]
fn every_certificate_of_the_corpus_is_judged_as_its_name_says() {
    replay("../../fuzz/corpus/peer_certificate", peer_certificate::holds);
}

#[test]
fn every_chain_of_the_corpus_is_judged_as_its_name_says() {
    replay("../../fuzz/corpus/peer_chain", peer_chain::holds);
}

#[test]
fn every_hello_of_the_corpus_is_answered_as_its_name_says() {
    replay("../../fuzz/corpus/tls_client_hello", tls_client_hello::holds);
}
