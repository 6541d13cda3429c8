//! What `targets/document.rs` says must hold, for libFuzzer.
//!
//!     cargo run --bin corpus && cargo +nightly fuzz run document corpus/document -- -max_len=8192

#![no_main]

#[path = "../targets/document.rs"]
mod target;

libfuzzer_sys::fuzz_target!(|data: &[u8]| target::run(data));
