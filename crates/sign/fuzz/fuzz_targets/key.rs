//! Any file is a key or none, and what one signs the other side of it verifies.
//!
//!     cargo run --bin corpus && cargo +nightly fuzz run key corpus/key -- -max_len=4096

#![no_main]

use libfuzzer_sys::fuzz_target;
use thaw_sign::{PrivateKey, PublicKey};

fuzz_target!(|data: &[u8]| {
    if let Ok(key) = PublicKey::from_pem("key", data) {
        assert!(!key.has_signed(b"message", b""));
        let _ = key.has_signed(b"message", &[7; 64]);
    }
    if let Ok(key) = PublicKey::from_spki("key", data) {
        let _ = key.has_signed(b"message", &[7; 64]);
    }
    if let Ok(key) = PrivateKey::from_pem("key", data) {
        let signature = key.sign(b"message").expect("random numbers");
        assert!(key.public().has_signed(b"message", &signature));
        assert!(!key.public().has_signed(b"another", &signature));
    }
});
