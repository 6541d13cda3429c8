//! What `targets/template.rs` says must hold, for libFuzzer.
//!
//!     cargo run --bin corpus && cargo +nightly fuzz run template corpus/template -- -max_len=8192

#![no_main]

#[path = "../targets/template.rs"]
mod target;

libfuzzer_sys::fuzz_target!(|data: &[u8]| target::run(data));
