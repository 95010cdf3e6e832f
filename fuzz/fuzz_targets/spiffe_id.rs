//! Hands the fuzzer's bytes to the property.
#![no_main]

#[path = "../properties/spiffe_id.rs"]
mod spiffe_id;

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    spiffe_id::holds(data);
});
