//! Any text is a reference or refused, and one that is read is the same when it is written and read.
//!
//!     cargo run --bin corpus && cargo +nightly fuzz run reference corpus/reference -- -max_len=512

#![no_main]

use libfuzzer_sys::fuzz_target;
use thaw_image::ImageReference;

fuzz_target!(|text: &str| {
    let Ok(reference) = text.parse::<ImageReference>() else {
        return;
    };
    let again: ImageReference = reference.to_string().parse().expect("it was one");
    assert_eq!(again, reference);
});
