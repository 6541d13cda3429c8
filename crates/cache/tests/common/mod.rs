//! What the tests of this crate share.
#![allow(dead_code, reason = "each test program uses a part of it")]

use std::path::Path;

use thaw_cache::{BootId, Store};
use thaw_image::{Digest, Verified};

/// A directory on a real disk: tmpfs has neither page cache semantics nor room.
pub(crate) fn scratch() -> tempfile::TempDir {
    tempfile::Builder::new()
        .prefix("thaw-cache-")
        .tempdir_in("/var/tmp")
        .unwrap()
}

pub(crate) fn boot(number: u8) -> BootId {
    BootId([number; 16])
}

pub(crate) fn store(root: &Path, number: u8) -> Store {
    Store::open_in_boot(root, boot(number)).unwrap()
}

pub(crate) fn verified(bytes: &[u8]) -> Verified {
    Verified::check(bytes.to_vec(), &Digest::of(bytes)).unwrap()
}

/// Bytes that look random, of which no block is zero or like another; the same for the same seed.
pub(crate) fn noise(seed: u64, len: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let mut bytes = Vec::with_capacity(len + 8);
    while bytes.len() < len {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes.truncate(len);
    bytes
}
