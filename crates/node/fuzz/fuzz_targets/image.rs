//! What `targets/image.rs` says must hold, for libFuzzer.
//!
//!     cargo run --bin corpus && cargo +nightly fuzz run image corpus/image -- -max_len=8192

#![no_main]

#[path = "../targets/image.rs"]
mod target;

libfuzzer_sys::fuzz_target!(|data: &[u8]| target::run(data));
