//! What `targets/routing.rs` says must hold, for libFuzzer.
//!
//!     cargo run --bin corpus && cargo +nightly fuzz run routing corpus/routing -- -max_len=8192

#![no_main]

#[path = "../targets/routing.rs"]
mod target;

libfuzzer_sys::fuzz_target!(|data: &[u8]| target::run(data));
