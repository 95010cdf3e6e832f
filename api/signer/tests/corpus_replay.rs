//! Every file of the fuzz corpus through the properties that the fuzzer checks.

#[path = "../../../fuzz/properties/follow_and_control.rs"]
mod follow_and_control;
#[path = "../../../fuzz/properties/mint_request.rs"]
mod mint_request;
#[path = "../../../fuzz/properties/replay.rs"]
mod replay;
#[path = "../../../fuzz/properties/signing_frames.rs"]
mod signing_frames;

use replay::replay;

#[test]
fn every_message_of_items_of_the_corpus_is_judged_as_its_name_says() {
    replay("../../fuzz/corpus/mint_request", mint_request::holds);
}

#[test]
fn every_other_message_of_the_corpus_is_read_as_its_name_says() {
    replay("../../fuzz/corpus/follow_and_control", follow_and_control::holds);
}

#[test]
fn every_connection_of_the_corpus_is_answered_as_its_name_says() {
    replay("../../fuzz/corpus/signing_frames", signing_frames::holds);
}
