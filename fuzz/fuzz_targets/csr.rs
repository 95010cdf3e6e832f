//! Hands the fuzzer's bytes to the property.
#![no_main]

#[path = "../properties/csr.rs"]
mod csr;

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    csr::holds(data);
});
