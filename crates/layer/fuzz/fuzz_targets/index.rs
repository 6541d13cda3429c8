//! What `targets/index.rs` says must hold, for libFuzzer.
//!
//!     cargo run --bin corpus && cargo +nightly fuzz run index corpus/index -- -max_len=4096

#![no_main]

#[path = "../targets/file.rs"]
mod file;
#[path = "../targets/index.rs"]
mod target;
#[path = "../targets/zlib.rs"]
mod zlib;

libfuzzer_sys::fuzz_target!(|data: &[u8]| target::run(data));
