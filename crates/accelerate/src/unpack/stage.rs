//! The data of a layer's files while the tar comes: one file for each entry, with its number for its
//! name. What an entry is called in the layer plays no part.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::path::Path;

use rustix::fs::{self as sys, Mode, OFlags};
use thaw_erofs::Attributes;
use thaw_layer::tar::{Entry, EntryKind, FileData, SparsePiece};

use super::{UnpackError, place};
use crate::merge::convert;

/// Bytes of a block of the store's filesystem, as a guess of what files take.
const FILE_BLOCK: u64 = 4096;

/// The directory with the data, and the file whose data comes now.
#[derive(Debug)]
pub(super) struct Stage {
    dir: OwnedFd,
    open: Option<Open>,
    /// Path of the entry at hand, for errors.
    path: Vec<u8>,
    what: &'static str,
    /// Bytes of the tar so far.
    offset: u64,
    bytes: u64,
}

#[derive(Debug)]
struct Open {
    file: File,
    attributes: Attributes,
    pieces: Vec<SparsePiece>,
    /// The piece whose data comes.
    next: usize,
}

impl Stage {
    pub(super) fn open(dir: &Path) -> io::Result<Self> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        Ok(Self {
            dir: sys::open(dir, flags, Mode::empty())?,
            open: None,
            path: Vec::new(),
            what: "write",
            offset: 0,
            bytes: 0,
        })
    }

    /// Bytes that the files take, about.
    pub(super) const fn bytes(&self) -> u64 {
        self.bytes
    }

    /// What the file of an entry is called here.
    pub(super) fn file_name(number: u32) -> String {
        number.to_string()
    }

    /// Names the entry at hand.
    pub(super) fn name(&self, source: io::Error) -> UnpackError {
        UnpackError::File {
            what: self.what,
            path: self.path.clone(),
            source,
        }
    }

    /// An entry begins, whose data, if it has any, follows.
    pub(super) fn begin(&mut self, number: u32, entry: &Entry) -> io::Result<()> {
        self.end()?;
        let EntryKind::File { size, data } = &entry.kind else {
            return Ok(());
        };
        self.what = "write";
        self.path.clone_from(&entry.path);
        let (attributes, _) = convert::attributes(entry).map_err(io::Error::other)?;
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
        let mode = Mode::from_raw_mode(0o600);
        let file: File = sys::openat(&self.dir, Self::file_name(number), flags, mode)?.into();
        let pieces = match data {
            FileData::Contiguous { .. } if *size == 0 => Vec::new(),
            FileData::Contiguous { tar_offset } => vec![SparsePiece {
                file_offset: 0,
                tar_offset: *tar_offset,
                len: *size,
            }],
            FileData::Sparse(pieces) => {
                file.set_len(*size)?;
                pieces.clone()
            }
        };
        let blocks = |piece: &SparsePiece| piece.len.div_ceil(FILE_BLOCK);
        self.bytes += pieces.iter().map(blocks).sum::<u64>() * FILE_BLOCK;
        self.open = Some(Open {
            file,
            attributes,
            pieces,
            next: 0,
        });
        Ok(())
    }

    /// Bytes of the tar that are no header.
    pub(super) fn data(&mut self, bytes: &[u8]) -> io::Result<()> {
        let (first, end) = (self.offset, self.offset + bytes.len() as u64);
        self.offset = end;
        let Some(open) = &mut self.open else {
            return Ok(());
        };
        while let Some(piece) = open.pieces.get(open.next) {
            let (from, to) = (
                piece.tar_offset.max(first),
                (piece.tar_offset + piece.len).min(end),
            );
            if from < to {
                let at = |offset: u64| usize::try_from(offset - first).unwrap_or(usize::MAX);
                let part = bytes.get(at(from)..at(to)).unwrap_or_default();
                let offset = piece.file_offset + (from - piece.tar_offset);
                open.file.write_all_at(part, offset)?;
            }
            if piece.tar_offset + piece.len > end {
                break;
            }
            open.next += 1;
        }
        Ok(())
    }

    /// Bytes of the tar that are headers.
    pub(super) const fn pass(&mut self, bytes: u64) {
        self.offset += bytes;
    }

    /// The file at hand has all of its data.
    pub(super) fn end(&mut self) -> io::Result<()> {
        let Some(open) = self.open.take() else {
            return Ok(());
        };
        if open.next < open.pieces.len() {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.what = "give its attributes to";
        place::dress(open.file.as_fd(), &open.attributes)
    }
}

impl AsFd for Stage {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.dir.as_fd()
    }
}
