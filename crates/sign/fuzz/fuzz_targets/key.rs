//! What `targets/key.rs` says must hold, for libFuzzer.
//!
//!     cargo run --bin corpus && cargo +nightly fuzz run key corpus/key -- -max_len=4096

#![no_main]

#[path = "../targets/key.rs"]
mod target;

libfuzzer_sys::fuzz_target!(|data: &[u8]| target::run(data));
