//! What `targets/working_set.rs` says must hold, for libFuzzer.
//!
//!     cargo run --bin corpus && cargo +nightly fuzz run working_set corpus/working_set -- -max_len=8192

#![no_main]

#[path = "../targets/working_set.rs"]
mod target;

libfuzzer_sys::fuzz_target!(|data: &[u8]| target::run(data));
