//! What `targets/schedule.rs` says must hold, for libFuzzer.
//!
//!     cargo run --bin corpus && cargo +nightly fuzz run schedule corpus/schedule -- -max_len=8192

#![no_main]

#[path = "../targets/schedule.rs"]
mod target;

libfuzzer_sys::fuzz_target!(|data: &[u8]| target::run(data));
