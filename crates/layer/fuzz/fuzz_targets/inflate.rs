//! What `targets/inflate.rs` says must hold, for libFuzzer.
//!
//!     cargo run --bin corpus && cargo +nightly fuzz run inflate corpus/inflate -- -max_len=4096

#![no_main]

#[path = "../targets/inflate.rs"]
mod target;
#[path = "../targets/zlib.rs"]
mod zlib;

libfuzzer_sys::fuzz_target!(|data: &[u8]| target::run(data));
