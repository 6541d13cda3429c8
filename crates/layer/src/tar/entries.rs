//! The members of a tar, and the memory that they hold.

use std::ops::Deref;

use super::{Entry, EntryKind, FileData, SparsePiece};
use crate::{Budget, Held, OverBudget};

/// The members of a tar, in its order. Their memory goes back to its budget with them.
#[derive(Debug)]
pub struct Entries<'a> {
    list: Vec<Entry>,
    held: Held<'a>,
}

impl<'a> Entries<'a> {
    pub(super) fn new(budget: &'a Budget) -> Self {
        Self {
            list: Vec::new(),
            held: budget.holder(),
        }
    }

    pub(super) fn push(&mut self, entry: Entry) -> Result<(), OverBudget> {
        self.held.add(weight(&entry))?;
        self.list.push(entry);
        Ok(())
    }

    /// Hands out what is here, and with it the duty to bound its memory.
    pub(super) fn take(&mut self) -> Vec<Entry> {
        self.held.release();
        std::mem::take(&mut self.list)
    }

    pub(super) fn shrink(&mut self) {
        self.list.shrink_to_fit();
    }
}

impl Deref for Entries<'_> {
    type Target = [Entry];

    fn deref(&self) -> &[Entry] {
        &self.list
    }
}

/// Bytes that an entry takes in memory, about.
fn weight(entry: &Entry) -> usize {
    let of_kind = match &entry.kind {
        EntryKind::HardLink(target) | EntryKind::Symlink(target) => target.capacity(),
        EntryKind::File {
            data: FileData::Sparse(pieces),
            ..
        } => pieces.capacity() * size_of::<SparsePiece>(),
        _ => 0,
    };
    let pair = |(name, value): &(Vec<u8>, Vec<u8>)| 64 + name.capacity() + value.capacity();
    let xattrs: usize = entry.xattrs.iter().map(pair).sum();
    size_of::<Entry>() + entry.path.capacity() + of_kind + xattrs
}
