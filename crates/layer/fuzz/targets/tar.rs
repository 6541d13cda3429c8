//! Any bytes are scanned or refused, in one push as in many, and all data lies within the tar.

#[path = "repair.rs"]
mod repair;

use repair::repair;
use thaw_layer::Budget;
use thaw_layer::tar::{Entry, EntryKind, FileData, Scanner, TarError};

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
