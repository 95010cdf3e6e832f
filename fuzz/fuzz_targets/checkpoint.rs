//! Hands the fuzzer's bytes to the property.
#![no_main]

#[path = "../properties/checkpoint.rs"]
mod checkpoint;

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    checkpoint::holds(data);
});
