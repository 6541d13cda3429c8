//! What goes over `/dev/fuse`, after `include/uapi/linux/fuse.h`: only what flat read-only files
//! need. Numbers are of the machine's byte order: both ends are one machine.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// `FUSE_KERNEL_VERSION`. A kernel of another major version is not spoken to.
pub(super) const MAJOR: u32 = 7;
/// The newest minor version whose structures these are: the one with `FUSE_NOTIFY_RESEND`.
pub(super) const MINOR: u32 = 40;
/// `FUSE_ROOT_ID`.
pub(super) const ROOT: u64 = 1;
/// `FUSE_MIN_READ_BUFFER`, and room for long `FUSE_BATCH_FORGET`s.
pub(super) const BUFFER_BYTES: usize = 16 << 10;

// enum fuse_opcode
pub(super) const LOOKUP: u32 = 1;
pub(super) const FORGET: u32 = 2;
pub(super) const GETATTR: u32 = 3;
pub(super) const OPEN: u32 = 14;
pub(super) const READ: u32 = 15;
pub(super) const STATFS: u32 = 17;
pub(super) const RELEASE: u32 = 18;
pub(super) const INIT: u32 = 26;
pub(super) const OPENDIR: u32 = 27;
pub(super) const READDIR: u32 = 28;
pub(super) const RELEASEDIR: u32 = 29;
pub(super) const DESTROY: u32 = 38;
pub(super) const BATCH_FORGET: u32 = 42;

// Flags of FUSE_INIT; those from bit 32 on are in `flags2`.
pub(super) const ASYNC_READ: u32 = 1;
pub(super) const ASYNC_DIO: u32 = 1 << 15;
pub(super) const PARALLEL_DIROPS: u32 = 1 << 18;
pub(super) const MAX_PAGES: u32 = 1 << 22;
pub(super) const INIT_EXT: u32 = 1 << 30;
/// `FUSE_HAS_RESEND` (bit 39).
pub(super) const HAS_RESEND: u32 = 1 << 7;

/// `FOPEN_DIRECT_IO`.
pub(super) const OPEN_DIRECT: u32 = 1;
/// `FUSE_NOTIFY_RESEND`.
pub(super) const NOTIFY_RESEND: i32 = 7;

/// `struct fuse_in_header`.
#[derive(FromBytes, KnownLayout, Immutable, Debug)]
#[repr(C)]
pub(super) struct InHeader {
    pub(super) len: u32,
    pub(super) opcode: u32,
    pub(super) unique: u64,
    pub(super) node: u64,
    pub(super) uid: u32,
    pub(super) gid: u32,
    pub(super) pid: u32,
    pub(super) total_extlen: u16,
    pub(super) padding: u16,
}

/// `struct fuse_out_header`.
#[derive(IntoBytes, Immutable, Debug)]
#[repr(C)]
pub(super) struct OutHeader {
    pub(super) len: u32,
    pub(super) error: i32,
    pub(super) unique: u64,
}

/// `struct fuse_init_in` as far as version 7.23 has it.
#[derive(FromBytes, KnownLayout, Immutable, Debug)]
#[repr(C)]
pub(super) struct InitIn {
    pub(super) major: u32,
    pub(super) minor: u32,
    pub(super) max_readahead: u32,
    pub(super) flags: u32,
}

/// `struct fuse_init_out`.
#[derive(IntoBytes, Immutable, Debug, Default)]
#[repr(C)]
pub(super) struct InitOut {
    pub(super) major: u32,
    pub(super) minor: u32,
    pub(super) max_readahead: u32,
    pub(super) flags: u32,
    pub(super) max_background: u16,
    pub(super) congestion_threshold: u16,
    pub(super) max_write: u32,
    pub(super) time_gran: u32,
    pub(super) max_pages: u16,
    pub(super) map_alignment: u16,
    pub(super) flags2: u32,
    pub(super) unused: [u32; 7],
}

/// `struct fuse_attr`.
#[derive(IntoBytes, Immutable, Debug, Default)]
#[repr(C)]
pub(super) struct Attr {
    pub(super) ino: u64,
    pub(super) size: u64,
    pub(super) blocks: u64,
    pub(super) times: [u64; 3],
    pub(super) nanoseconds: [u32; 3],
    pub(super) mode: u32,
    pub(super) nlink: u32,
    pub(super) uid: u32,
    pub(super) gid: u32,
    pub(super) rdev: u32,
    pub(super) blksize: u32,
    pub(super) flags: u32,
}

/// `struct fuse_entry_out`.
#[derive(IntoBytes, Immutable, Debug, Default)]
#[repr(C)]
pub(super) struct EntryOut {
    pub(super) node: u64,
    pub(super) generation: u64,
    pub(super) entry_valid: u64,
    pub(super) attr_valid: u64,
    pub(super) nanoseconds: [u32; 2],
    pub(super) attr: Attr,
}

/// `struct fuse_attr_out`.
#[derive(IntoBytes, Immutable, Debug, Default)]
#[repr(C)]
pub(super) struct AttrOut {
    pub(super) attr_valid: u64,
    pub(super) nanoseconds: u32,
    pub(super) dummy: u32,
    pub(super) attr: Attr,
}

/// `struct fuse_open_out`.
#[derive(IntoBytes, Immutable, Debug, Default)]
#[repr(C)]
pub(super) struct OpenOut {
    pub(super) handle: u64,
    pub(super) flags: u32,
    pub(super) padding: u32,
}

/// `struct fuse_read_in`.
#[derive(FromBytes, KnownLayout, Immutable, Debug)]
#[repr(C)]
pub(super) struct ReadIn {
    pub(super) handle: u64,
    pub(super) offset: u64,
    pub(super) size: u32,
    pub(super) read_flags: u32,
    pub(super) lock_owner: u64,
    pub(super) flags: u32,
    pub(super) padding: u32,
}

/// `struct fuse_kstatfs`.
#[derive(IntoBytes, Immutable, Debug, Default)]
#[repr(C)]
pub(super) struct StatfsOut {
    pub(super) blocks: u64,
    pub(super) free: [u64; 2],
    pub(super) files: [u64; 2],
    pub(super) block_size: u32,
    pub(super) name_len: u32,
    pub(super) fragment_size: u32,
    pub(super) padding: u32,
    pub(super) spare: [u32; 6],
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_structures_have_their_sizes() {
        assert_eq!((size_of::<InHeader>(), size_of::<OutHeader>()), (40, 16));
        assert_eq!((size_of::<InitOut>(), size_of::<Attr>()), (64, 88));
        assert_eq!((size_of::<EntryOut>(), size_of::<AttrOut>()), (128, 104));
        assert_eq!((size_of::<OpenOut>(), size_of::<ReadIn>()), (16, 40));
        assert_eq!(size_of::<StatfsOut>(), 80);
    }
}
