//! The bytes of EROFS on disk, as `fs/erofs/erofs_fs.h` of Linux has them, little-endian. Only
//! what a layout uses: extended inodes, flat and chunk-based data, inline xattrs, extra devices.

use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, FromZeros, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::Content;

/// First byte of the superblock.
pub(crate) const SUPERBLOCK_OFFSET: usize = 1024;
/// First byte behind the superblock, where the device table begins.
pub(crate) const DEVICES_OFFSET: usize = SUPERBLOCK_OFFSET + size_of::<Superblock>();
/// The same, in slots of the device table.
pub(crate) const DEVICE_SLOT: u16 = 9;
/// What the superblock begins with.
pub(crate) const MAGIC: u32 = 0xE0F5_E1E2;

/// Compatible features: a superblock checksum; inodes hold a modification, not a change time.
pub(crate) const COMPAT: u32 = 0x1 | 0x2;
/// Features a reader must know: chunk-based files; a device table.
pub(crate) const INCOMPAT: u32 = 0x4 | 0x8;

/// Bytes in a block, as a length.
pub(crate) const BLOCK_LEN: usize = 1 << crate::BLOCK_BITS;
/// Bytes in an inode slot: an inode's number is its offset in slots.
pub(crate) const SLOT: usize = 32;
/// Bytes in an extended inode.
pub(crate) const INODE: usize = size_of::<Inode>();

/// Inode format: extended, with one of the three data layouts below.
pub(crate) const EXTENDED: u16 = 1;
/// Data is one run of blocks.
pub(crate) const FLAT_PLAIN: u16 = EXTENDED;
/// Data is one run of blocks, but for the last block, which follows the inode.
pub(crate) const FLAT_INLINE: u16 = EXTENDED | 2 << 1;
/// Data is where a table of chunks behind the inode says.
pub(crate) const CHUNK_BASED: u16 = EXTENDED | 4 << 1;

/// Chunk format: entries are [`ChunkIndex`], not bare block numbers. The low five bits are the
/// base-2 logarithm of a chunk's blocks.
pub(crate) const CHUNK_INDEXES: u32 = 0x20;
/// Largest logarithm that fits.
pub(crate) const MAX_CHUNK_BITS: u32 = 31;
/// The block number of a hole.
pub(crate) const NULL_BLOCK: u32 = u32::MAX;

/// The superblock.
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned, Clone, Copy)]
#[repr(C)]
pub(crate) struct Superblock {
    pub(crate) magic: U32,
    pub(crate) checksum: U32,
    pub(crate) feature_compat: U32,
    pub(crate) block_bits: u8,
    pub(crate) extension_slots: u8,
    pub(crate) root_nid: U16,
    pub(crate) inodes: U64,
    pub(crate) build_time: U64,
    pub(crate) build_time_nanoseconds: U32,
    pub(crate) blocks: U32,
    pub(crate) inode_block: U32,
    pub(crate) shared_xattr_block: U32,
    pub(crate) uuid: [u8; 16],
    pub(crate) volume_name: [u8; 16],
    pub(crate) feature_incompat: U32,
    pub(crate) compression: U16,
    pub(crate) extra_devices: U16,
    pub(crate) device_slot: U16,
    pub(crate) directory_block_bits: u8,
    pub(crate) xattr_prefixes: u8,
    pub(crate) xattr_prefix_start: U32,
    pub(crate) packed_nid: U64,
    pub(crate) xattr_filter: u8,
    pub(crate) reserved: [u8; 23],
}

impl Superblock {
    /// All that does not depend on where things lie.
    pub(crate) fn new(inodes: u64, devices: u16) -> Self {
        Self {
            magic: U32::new(MAGIC),
            feature_compat: U32::new(COMPAT),
            feature_incompat: U32::new(INCOMPAT),
            block_bits: crate::BLOCK_BITS,
            inodes: U64::new(inodes),
            extra_devices: U16::new(devices),
            device_slot: U16::new(DEVICE_SLOT),
            ..Self::new_zeroed()
        }
    }
}

/// A slot of the device table.
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned, Clone, Copy)]
#[repr(C)]
pub(crate) struct DeviceSlot {
    pub(crate) tag: [u8; 64],
    pub(crate) blocks: U32,
    /// First block of the device in the address space that all devices share: 0, for none.
    pub(crate) unified_block: U32,
    pub(crate) reserved: [u8; 56],
}

/// An extended inode.
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned, Clone, Copy)]
#[repr(C)]
pub(crate) struct Inode {
    pub(crate) format: U16,
    /// 0 without xattrs, else 1 + their bytes / 4.
    pub(crate) xattr_count: U16,
    pub(crate) mode: U16,
    pub(crate) reserved: U16,
    pub(crate) size: U64,
    /// First block of flat data, a device number, or the chunk format.
    pub(crate) data: U32,
    pub(crate) number: U32,
    pub(crate) uid: U32,
    pub(crate) gid: U32,
    pub(crate) mtime: U64,
    pub(crate) mtime_nanoseconds: U32,
    pub(crate) links: U32,
    pub(crate) reserved2: [u8; 16],
}

/// Where one chunk lies.
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned, Clone, Copy)]
#[repr(C)]
pub(crate) struct ChunkIndex {
    pub(crate) reserved: U16,
    pub(crate) device: U16,
    pub(crate) block: U32,
}

/// What the xattrs of an inode begin with.
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned, Clone, Copy)]
#[repr(C)]
pub(crate) struct XattrHeader {
    pub(crate) name_filter: U32,
    pub(crate) shared: u8,
    pub(crate) reserved: [u8; 7],
}

/// One xattr; its name without prefix and its value follow, then zeros up to a multiple of 4.
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned, Clone, Copy)]
#[repr(C)]
pub(crate) struct XattrEntry {
    pub(crate) name_len: u8,
    pub(crate) prefix: u8,
    pub(crate) value_len: U16,
}

/// One name in a directory block.
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned, Clone, Copy)]
#[repr(C)]
pub(crate) struct Dirent {
    pub(crate) nid: U64,
    pub(crate) name_offset: U16,
    pub(crate) file_type: u8,
    pub(crate) reserved: u8,
}

const _: () = {
    assert!(size_of::<Superblock>() == 128);
    assert!(size_of::<DeviceSlot>() == 128);
    assert!(DEVICES_OFFSET == DEVICE_SLOT as usize * size_of::<DeviceSlot>());
    assert!(size_of::<Inode>() == 64);
    assert!(size_of::<ChunkIndex>() == 8);
    assert!(size_of::<XattrHeader>() == 12);
    assert!(size_of::<XattrEntry>() == 4);
    assert!(size_of::<Dirent>() == 12);
};

/// What a file is: the type bits of a mode, and the type byte of a dirent.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Kind {
    File,
    Directory,
    CharDevice,
    BlockDevice,
    Fifo,
    Socket,
    Symlink,
}

impl Kind {
    const ALL: [(Self, u16, u8); 7] = [
        (Self::File, 0o100_000, 1),
        (Self::Directory, 0o040_000, 2),
        (Self::CharDevice, 0o020_000, 3),
        (Self::BlockDevice, 0o060_000, 4),
        (Self::Fifo, 0o010_000, 5),
        (Self::Socket, 0o140_000, 6),
        (Self::Symlink, 0o120_000, 7),
    ];

    fn row(self) -> (u16, u8) {
        let (_, mode, dirent) = Self::ALL[self as usize];
        (mode, dirent)
    }

    pub(crate) fn mode(self) -> u16 {
        self.row().0
    }

    pub(crate) fn dirent(self) -> u8 {
        self.row().1
    }

    pub(crate) fn of(content: &Content) -> Self {
        match content {
            Content::Directory(_) => Self::Directory,
            Content::File(_) => Self::File,
            Content::Symlink(_) => Self::Symlink,
            Content::CharDevice(_) => Self::CharDevice,
            Content::BlockDevice(_) => Self::BlockDevice,
            Content::Fifo => Self::Fifo,
            Content::Socket => Self::Socket,
        }
    }

    pub(crate) fn of_mode(mode: u16) -> Option<Self> {
        let row = Self::ALL.iter().find(|row| row.1 == mode & 0o170_000)?;
        Some(row.0)
    }
}

/// CRC-32C (Castagnoli) with all ones to begin with and no inversion at the end, as EROFS takes it
/// over the superblock's block with the checksum as zero.
pub(crate) fn crc32c(bytes: &[u8]) -> u32 {
    bytes.iter().fold(u32::MAX, |sum, byte| {
        (0..8).fold(sum ^ u32::from(*byte), |sum, _| {
            (sum >> 1) ^ (0x82F6_3B78 & (sum & 1).wrapping_neg())
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn crc32c_has_the_standard_check_value() {
        assert_eq!(!crc32c(b"123456789"), 0xE306_9283);
    }

    #[test]
    fn kinds_have_the_row_of_their_number() {
        for (kind, mode, dirent) in Kind::ALL {
            assert_eq!((kind.mode(), kind.dirent()), (mode, dirent));
            assert_eq!(Kind::of_mode(mode | 0o7777), Some(kind));
        }
        assert_eq!(Kind::of_mode(0), None);
    }
}
