//! Why a tree cannot become a layout.

use std::io;

use crate::{ExtentError, NameError, XattrError};

/// Why no layout was written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum WriteError {
    /// One inode cannot be stored.
    #[error("cannot store `{}`: {reason}", path.escape_ascii())]
    Inode {
        /// A path to it, from the root.
        path: Vec<u8>,
        /// What is wrong with it.
        reason: InodeError,
    },
    /// There are too many devices for one table.
    #[error("{0} devices are over the limit of {max}", max = crate::MAX_DEVICES)]
    Devices(usize),
    /// A device has more blocks than EROFS can number.
    #[error("device {slot} has {blocks} blocks of 512 bytes, over the limit of 2^32 - 1 (2 TiB)")]
    Device {
        /// Its slot, 1 for the first.
        slot: usize,
        /// Its blocks.
        blocks: u64,
    },
    /// The layout itself would be too large.
    #[error("the layout would be larger than 8 GiB")]
    Size,
    /// Writing failed.
    #[error("cannot write the layout")]
    Io(#[source] io::Error),
}

/// Why one inode cannot be stored.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum InodeError {
    /// Its name.
    #[error("bad file name: {0}")]
    Name(#[from] NameError),
    /// Its name leads to an inode that is not in this tree.
    #[error("its inode is not in the tree")]
    Foreign,
    /// It is a directory and has two names.
    #[error("a directory cannot have a second name")]
    SecondParent,
    /// It has 2^32 names.
    #[error("it has too many hard links")]
    Links,
    /// The mode has more than permission bits.
    #[error("mode {0:o} has more than the permission bits 7777")]
    Mode(u16),
    /// Its user or group is 2^32 - 1, which Linux takes for none.
    #[error("user and group {uid}:{gid}: 4294967295 stands for none")]
    Owner {
        /// Its user.
        uid: u32,
        /// Its group.
        gid: u32,
    },
    /// Nanoseconds make a second or more.
    #[error("{0} nanoseconds in its time are a second or more")]
    Nanoseconds(u32),
    /// An extended attribute.
    #[error(transparent)]
    Xattr(#[from] XattrError),
    /// Where a file's data lies.
    #[error(transparent)]
    Extent(#[from] ExtentError),
    /// The target of a symbolic link is empty, has a zero byte or is over 4,095 bytes.
    #[error("its target of {0} bytes is empty, has a zero byte or is over 4095 bytes long")]
    Target(usize),
    /// A device number over 12 bits (major) or 20 bits (minor).
    #[error("device number {major}:{minor} is over the limit of 4095:1048575")]
    DeviceNumber {
        /// Its major number.
        major: u32,
        /// Its minor number.
        minor: u32,
    },
}
