//! What `targets/signature.rs` says must hold, for libFuzzer.
//!
//!     cargo run --bin corpus && cargo +nightly fuzz run signature corpus/signature -- -max_len=8192

#![no_main]

#[path = "../targets/signature.rs"]
mod target;

libfuzzer_sys::fuzz_target!(|data: &[u8]| target::run(data));
