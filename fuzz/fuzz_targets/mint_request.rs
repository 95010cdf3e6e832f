//! Hands the fuzzer's bytes to the property.
#![no_main]

#[path = "../properties/mint_request.rs"]
mod mint_request;

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    mint_request::holds(data);
});
