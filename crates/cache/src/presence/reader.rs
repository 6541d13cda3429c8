//! Presence as another process reads it.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use thaw_image::{BLOCK, BlockRun, DiffId, Extent};

use super::Presence;
use super::format::{HEADER_BYTES, Header};
use crate::file::{FileError, failed};
use crate::tar::LayerTar;

/// Bytes of the bitmap that are tested at once, on the stack: the bits of 1 MiB of tar.
const STEP: usize = 256;

/// Why a file is no presence file.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PresenceError {
    /// It cannot be read.
    #[error(transparent)]
    File(#[from] FileError),
    /// Magic or checksum are wrong: it is being rebuilt, or is something else.
    #[error("the presence file is damaged or not valid yet")]
    Damaged,
    /// Written by another version of this program.
    #[error("presence file of version {version}: this program knows version 1")]
    Version {
        /// The version found.
        version: u32,
    },
}

/// Reads the presence of a layer tar while another process writes it.
#[derive(Debug)]
pub struct PresenceReader {
    file: File,
    header: Header,
}

impl PresenceReader {
    /// Opens the presence file of a layer (see `LayerTar::presence_path`). The layer's one writer
    /// must have opened it in this boot, before.
    ///
    /// # Errors
    /// See [`PresenceError`].
    pub fn open(path: &Path) -> Result<Self, PresenceError> {
        let file = File::open(path).map_err(failed("open", path))?;
        let mut header = [0; HEADER_BYTES];
        file.read_exact_at(&mut header, 0)
            .map_err(failed("read", path))?;
        Ok(Self {
            file,
            header: Header::decode(&header)?,
        })
    }

    /// Opens the presence file of the layer whose tar lies at `tar`, and says where it is; `None`
    /// if there is no valid one.
    #[must_use]
    pub fn beside(tar: &Path) -> Option<(PathBuf, Self)> {
        let dir = tar.parent()?;
        if tar != LayerTar::path_in(dir) {
            return None;
        }
        let path = Presence::live_path(dir);
        let reader = Self::open(&path).ok()?;
        Some((path, reader))
    }

    /// The layer.
    #[must_use]
    pub const fn diff_id(&self) -> DiffId {
        self.header.diff_id
    }

    /// Bytes of the tar.
    #[must_use]
    pub const fn tar_size(&self) -> u64 {
        self.header.tar_size
    }

    /// Whether every block that `extent` touches is there. Bytes behind the tar's end do not
    /// count. One pread(2) for up to 1 MiB of tar, and no allocation.
    ///
    /// # Errors
    /// What pread(2) says; then nothing is known, and the answer to a reader is an error.
    pub fn contains(&self, extent: Extent) -> io::Result<bool> {
        let blocks = extent
            .intersect(&Extent::between(0, self.header.tar_size))
            .blocks();
        let mut first = blocks.first;
        while first < blocks.end() {
            let next = blocks.end().min((first / 8 + STEP as u64) * 8);
            if !self.contains_step(BlockRun {
                first,
                count: next - first,
            })? {
                return Ok(false);
            }
            first = next;
        }
        Ok(true)
    }

    /// Tests a run whose bits lie in at most [`STEP`] bytes.
    fn contains_step(&self, run: BlockRun) -> io::Result<bool> {
        let start = run.first / 8;
        let mut buffer = [0; STEP];
        let count = usize::try_from(run.end().div_ceil(8) - start).unwrap_or(STEP);
        let bytes = &mut buffer[..count.min(STEP)];
        self.file
            .read_exact_at(bytes, HEADER_BYTES as u64 + start)?;
        // Bits outside the run count as set.
        if let Some(byte) = bytes.first_mut() {
            *byte |= (1 << (run.first % 8)) - 1;
        }
        if let (Some(byte), spare @ 1..) = (bytes.last_mut(), run.end() % 8) {
            *byte |= u8::MAX << spare;
        }
        Ok(bytes.iter().all(|byte| *byte == u8::MAX))
    }
}

const _: () = assert!(BLOCK == 512, "the picture in docs/format.md says so");
