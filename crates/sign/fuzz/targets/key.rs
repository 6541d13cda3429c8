//! Any file is a key or none, and what one signs the other side of it verifies.

use thaw_sign::{PrivateKey, PublicKey};

pub(crate) fn run(data: &[u8]) {
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
}
