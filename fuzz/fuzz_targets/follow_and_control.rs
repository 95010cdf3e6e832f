//! Hands the fuzzer's bytes to the property.
#![no_main]

#[path = "../properties/follow_and_control.rs"]
mod follow_and_control;

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    follow_and_control::holds(data);
});
