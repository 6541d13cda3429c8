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
