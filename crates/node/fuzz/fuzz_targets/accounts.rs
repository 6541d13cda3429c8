//! What `targets/accounts.rs` says must hold, for libFuzzer.
//!
//!     cargo run --bin corpus && cargo +nightly fuzz run accounts corpus/accounts -- -max_len=8192

#![no_main]

#[path = "../targets/accounts.rs"]
mod target;

libfuzzer_sys::fuzz_target!(|data: &[u8]| target::run(data));
