//! Hands the fuzzer's bytes to the property.
#![no_main]

#[path = "../properties/log_proof.rs"]
mod log_proof;

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    log_proof::holds(data);
});
