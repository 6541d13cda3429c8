//! What `targets/notification.rs` says must hold, for libFuzzer.
//!
//!     cargo run --bin corpus && cargo +nightly fuzz run notification corpus/notification -- -max_len=8192

#![no_main]

#[path = "../targets/notification.rs"]
mod target;

libfuzzer_sys::fuzz_target!(|data: &[u8]| target::run(data));
