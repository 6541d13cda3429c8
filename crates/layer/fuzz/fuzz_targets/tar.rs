//! What `targets/tar.rs` says must hold, for libFuzzer.
//!
//!     cargo run --bin corpus && cargo +nightly fuzz run tar corpus/tar -- -max_len=8192

#![no_main]

#[path = "../targets/tar.rs"]
mod target;

libfuzzer_sys::fuzz_target!(|data: &[u8]| target::run(data));
