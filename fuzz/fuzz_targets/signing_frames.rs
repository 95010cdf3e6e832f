//! Hands the fuzzer's bytes to the property.
#![no_main]

#[path = "../properties/signing_frames.rs"]
mod signing_frames;

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    signing_frames::holds(data);
});
