//! What `targets/reference.rs` says must hold, for libFuzzer.
//!
//!     cargo run --bin corpus && cargo +nightly fuzz run reference corpus/reference -- -max_len=512

#![no_main]

#[path = "../targets/reference.rs"]
mod target;

libfuzzer_sys::fuzz_target!(|data: &[u8]| target::run(data));
