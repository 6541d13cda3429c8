//! What `targets/layers.rs` says must hold, for libFuzzer.
//!
//!     cargo run --bin corpus && cargo +nightly fuzz run layers corpus/layers -- -max_len=8192

#![no_main]

#[path = "../targets/layers.rs"]
mod target;

libfuzzer_sys::fuzz_target!(|data: &[u8]| target::run(data));
