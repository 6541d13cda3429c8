//! Any bytes are scanned or refused, in one push as in many, and all data lies within the tar.

use thaw_layer::Budget;
use thaw_layer::tar::{Entry, EntryKind, FileData, Scanner, TarError};

/// Repairs the checksum of each block that says it is a header.
fn repair(data: &[u8]) -> Vec<u8> {
    let mut bytes = data.to_vec();
    for block in bytes.chunks_exact_mut(512) {
        if block.get(257..262) == Some(b"ustar") {
            block[148..156].fill(b' ');
            let sum: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
            block[148..155].copy_from_slice(format!("{sum:06o}\0").as_bytes());
        }
    }
    bytes
}

fn scan(bytes: &[u8], step: usize) -> Result<Vec<Entry>, TarError> {
    let budget = Budget::new(16 << 20);
    let mut scanner = Scanner::new(&budget);
    for piece in bytes.chunks(step) {
        scanner.push(piece)?;
    }
    Ok(scanner.finish()?.to_vec())
}

fn check(entry: &Entry, len: u64) {
    let EntryKind::File { size, data } = &entry.kind else {
        return;
    };
    match data {
        FileData::Contiguous { tar_offset } => {
            assert!(*size == 0 || tar_offset + size <= len);
        }
        FileData::Sparse(pieces) => {
            let mut end = 0;
            for piece in pieces {
                assert!(piece.len > 0 && piece.file_offset >= end);
                assert!(piece.tar_offset + piece.len <= len);
                end = piece.file_offset + piece.len;
            }
            assert!(end <= *size);
        }
    }
}

pub(crate) fn run(data: &[u8]) {
    let _ = scan(data, 4096);
    let bytes = repair(data);
    let whole = scan(&bytes, bytes.len().max(1));
    assert_eq!(whole, scan(&bytes, 333));
    for entry in whole.iter().flatten() {
        check(entry, bytes.len() as u64);
    }
}
