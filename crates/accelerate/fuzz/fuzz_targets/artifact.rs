//! What `targets/artifact.rs` says must hold, for libFuzzer.
//!
//!     cargo run --bin corpus && cargo +nightly fuzz run artifact corpus/artifact -- -max_len=8192

#![no_main]

#[path = "../targets/artifact.rs"]
mod target;

libfuzzer_sys::fuzz_target!(|data: &[u8]| target::run(data));
