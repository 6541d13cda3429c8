//! Scanning a tar as it streams by: headers are read, file data is only counted.
//!
//! What is understood is what layers are made with: V7, ustar, GNU (long names, base-256 numbers,
//! sparse members), star's prefix, and PAX (POSIX.1-2017 `pax`, "Extended Header Format"). Where
//! writers and readers disagree, Go's `archive/tar` decides, for containerd, Docker and BuildKit
//! read layers with it:
//!
//! - Links, devices, directories and FIFOs have no data, whatever their size field says.
//! - Global PAX headers are read past: they speak for no entry.
//! - A GNU long name beats a PAX `path`, which beats the header's own name.
//! - The archive ends at two zero blocks or, without them, where a header would start. What
//!   follows the two blocks is ignored; one zero block alone is an error.
//!
//! Beyond Go: `LIBARCHIVE.xattr.*` and `SCHILY.devmajor`/`devminor` are read, and GNU's
//! incremental directories are directories.

mod entries;
mod header;
mod pax;
mod scanner;
mod sparse;

use crate::OverBudget;
pub use entries::Entries;
pub(crate) use header::is_tar;
pub use scanner::Scanner;

/// One member of the archive: what it is, and where its data lies in the tar.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Entry {
    /// The path as the archive has it, not normalised: it may be absolute, climb with `..`, end
    /// in `/`, or not be UTF-8. At most [`MAX_PATH`] bytes, none of them NUL.
    pub path: Vec<u8>,
    /// What it is.
    pub kind: EntryKind,
    /// Permission bits, with set-id and sticky: the low 12 bits.
    pub mode: u32,
    /// Owner. May exceed what Linux can hold.
    pub uid: u64,
    /// Group. May exceed what Linux can hold.
    pub gid: u64,
    /// Last modification.
    pub mtime: Timestamp,
    /// Extended attributes in the archive's order, each name once: full name, value.
    pub xattrs: Vec<(Vec<u8>, Vec<u8>)>,
}

/// What a member is.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum EntryKind {
    /// A regular file.
    File {
        /// Bytes of the file, holes included.
        size: u64,
        /// Where its bytes are.
        data: FileData,
    },
    /// Another name for the file at this path, which is as in the archive: not normalised.
    HardLink(Vec<u8>),
    /// A symbolic link to this target.
    Symlink(Vec<u8>),
    /// A character device.
    CharDevice {
        /// Major number.
        major: u32,
        /// Minor number.
        minor: u32,
    },
    /// A block device.
    BlockDevice {
        /// Major number.
        major: u32,
        /// Minor number.
        minor: u32,
    },
    /// A directory.
    Directory,
    /// A named pipe.
    Fifo,
}

/// Where the bytes of a regular file lie in the tar.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum FileData {
    /// All of them, one behind the other.
    Contiguous {
        /// First byte; a multiple of 512. Of no meaning when the file is empty.
        tar_offset: u64,
    },
    /// Only these pieces; all between them is zero. In order, none empty, none overlapping, all
    /// within the file's size. Their offsets are as the writer chose them: not always multiples
    /// of 512.
    Sparse(Vec<SparsePiece>),
}

/// A piece of a sparse file that is stored.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SparsePiece {
    /// First byte in the file.
    pub file_offset: u64,
    /// First byte in the tar.
    pub tar_offset: u64,
    /// Bytes.
    pub len: u64,
}

/// A point in time.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, PartialOrd, Ord)]
pub struct Timestamp {
    /// Seconds since 1970-01-01 00:00 UTC, rounded down.
    pub seconds: i64,
    /// Nanoseconds after `seconds`: under 1,000,000,000.
    pub nanoseconds: u32,
}

/// Most bytes of a path or of a link's target: `PATH_MAX` and a name.
pub const MAX_PATH: usize = 4096 + 255;
/// Most bytes of one extension header: a PAX header, a GNU long name.
pub const MAX_EXTENSION: usize = 1 << 20;
/// Most pieces of one sparse file.
pub const MAX_SPARSE: usize = 1 << 17;

/// Why bytes are not a tar that can be read.
#[derive(Debug, Clone, thiserror::Error, PartialEq, Eq)]
#[error("at byte {offset} of the tar: {reason}")]
pub struct TarError {
    /// Where the header block is that is at fault; the end of the tar if it is cut short.
    pub offset: u64,
    /// What is wrong there.
    pub reason: TarReason,
}

/// What is wrong with a tar.
#[derive(Debug, Clone, thiserror::Error, PartialEq, Eq)]
#[non_exhaustive]
pub enum TarReason {
    /// The checksum of a header does not match: this is not a tar, or a damaged one.
    #[error("the header's checksum does not match")]
    Checksum,
    /// A block of zeros alone.
    #[error("a lone block of zeros is followed by more")]
    LoneZeroBlock,
    /// It ends in the middle of something.
    #[error("the tar ends too early")]
    Truncated,
    /// A field does not hold what it must.
    #[error("bad {field}: {value:?}")]
    Field {
        /// Which field or PAX keyword.
        field: &'static str,
        /// Its beginning.
        value: String,
    },
    /// Over one of the limits of this module.
    #[error("{what} is over the limit of {limit}")]
    Limit {
        /// What is too much.
        what: &'static str,
        /// How much is allowed.
        limit: u64,
    },
    /// A sparse file whose map is not in order, not within the file, or not what is stored.
    #[error("the sparse map contradicts itself: {0}")]
    Sparse(&'static str),
    /// A type of member that no layer has.
    #[error("unknown type of member {0:?}")]
    Type(char),
    /// The members take too much memory.
    #[error(transparent)]
    Memory(#[from] OverBudget),
}

impl TarReason {
    /// A [`TarReason::Field`] that quotes the beginning of `value`.
    fn field(field: &'static str, value: &[u8]) -> Self {
        let shown = &value[..value.len().min(48)];
        let value = String::from_utf8_lossy(shown).into_owned();
        Self::Field { field, value }
    }

    fn limit(what: &'static str, limit: usize) -> Self {
        Self::Limit {
            what,
            limit: limit as u64,
        }
    }
}

#[cfg(test)]
mod tests;
