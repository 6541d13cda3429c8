//! What `targets/claim.rs` says must hold, for libFuzzer.
//!
//!     cargo run --bin corpus && cargo +nightly fuzz run claim corpus/claim -- -max_len=8192

#![no_main]

#[path = "../targets/claim.rs"]
mod target;

libfuzzer_sys::fuzz_target!(|data: &[u8]| target::run(data));
