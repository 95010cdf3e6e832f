//! Every file of the fuzz corpus through the properties that the fuzzer checks.

#[path = "../../fuzz/properties/checkpoint.rs"]
mod checkpoint;
#[path = "../../fuzz/properties/csr.rs"]
mod csr;
#[path = "../../fuzz/properties/log_proof.rs"]
mod log_proof;
#[path = "../../fuzz/properties/replay.rs"]
mod replay;
#[path = "../../fuzz/properties/spiffe_id.rs"]
mod spiffe_id;

use replay::replay;

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
