//! What `targets/seek_table.rs` says must hold, for libFuzzer.
//!
//!     cargo run --bin corpus && cargo +nightly fuzz run seek_table corpus/seek_table -- -max_len=8192

#![no_main]

#[path = "../targets/seek_table.rs"]
mod target;

libfuzzer_sys::fuzz_target!(|data: &[u8]| target::run(data));
