//! What `targets/program.rs` says must hold, for libFuzzer.
//!
//!     cargo run --bin corpus && cargo +nightly fuzz run program corpus/program -- -max_len=8192

#![no_main]

#[path = "../targets/program.rs"]
mod target;

libfuzzer_sys::fuzz_target!(|data: &[u8]| target::run(data));
