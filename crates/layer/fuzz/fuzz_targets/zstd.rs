//! What `targets/zstd.rs` says must hold, for libFuzzer.
//!
//!     cargo run --bin corpus && cargo +nightly fuzz run zstd corpus/zstd -- -max_len=8192

#![no_main]

#[path = "../targets/file.rs"]
mod file;
#[path = "../targets/zstd.rs"]
mod target;

libfuzzer_sys::fuzz_target!(|data: &[u8]| target::run(data));
