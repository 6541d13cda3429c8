//! EROFS images without data: a [`Tree`] becomes a layout that Linux mounts, and back.
//!
//! A *layout* holds directories, inodes and xattrs alone. File data stays on extra devices (layer
//! tars), at the grain of a block of 2^[`BLOCK_BITS`] bytes, which is how tar aligns it:
//!
//! ```text
//! layout                                     device 1            device 2
//! ┌────────────┬──────────┬───────┬───────┐  ┌──────────────┐    ┌──────────────┐
//! │ superblock │ devices  │inodes │blocks │  │ a layer tar  │    │ another      │
//! └────────────┴──────────┴───┬───┴───────┘  └──▲───────────┘    └──────────────┘
//!                             └─ (device, block)┘
//! ```
//!
//! [`write()`] is the one way to make a layout, [`Image`] the one way to read one. Pure: bytes in,
//! bytes out. `docs/format.md` pictures every byte.

mod check;
mod directory;
mod error;
mod extents;
mod format;
mod image;
mod plan;
mod tree;
mod write;
mod xattr;

pub use error::{InodeError, WriteError};
pub use extents::{ExtentError, MAX_CHUNKS};
pub use image::{Entry, Image, ReadError, StoredContent, StoredInode};
pub use tree::{
    Attributes, Content, DeviceNumber, FileData, FileExtent, Inode, InodeId, MAX_NAME, NameError,
    Timestamp, Tree, TreeError,
};
pub use write::{Written, write};
pub use xattr::{XattrError, is_storable};

/// Base-2 logarithm of the bytes in a block, of the layout and of its devices.
pub const BLOCK_BITS: u8 = 9;

/// Bytes in a block.
pub const BLOCK: u64 = 1 << BLOCK_BITS;

/// Most devices of a layout.
pub const MAX_DEVICES: usize = 4096;

/// The number of an inode in a layout, which is also what stat(2) shows.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct Nid(pub u64);

/// An extra device that file data lies on, one slot of the device table.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Device {
    /// What the slot is marked with: 64 hexadecimal digits of a digest. The kernel ignores it when
    /// the mount names its devices.
    pub tag: [u8; 64],
    /// Blocks of the device: at most 2^32 - 1, which is just under 2 TiB.
    pub blocks: u64,
}
