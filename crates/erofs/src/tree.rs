//! The tree of inodes that a layout is made of: what a merge builds, [`crate::write()`] takes and
//! [`crate::Image::to_tree`] gives back.
//!
//! Inodes live in one table and are named by their index, so a hard link is the same [`InodeId`]
//! under two names. Link counts, parents and `.`/`..` are not stored: they follow from the names
//! and are computed when the tree is written. An inode that no name leads to is not written.

use std::collections::BTreeMap;

/// Most bytes in a file name.
pub const MAX_NAME: usize = 255;

/// Names an inode of one [`Tree`].
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct InodeId(u32);

impl InodeId {
    /// Its place in the table, for a table beside the tree.
    #[must_use]
    pub const fn index(self) -> usize {
        self.0 as usize
    }
}

/// A point in time since 1970-01-01 00:00 UTC.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug, Default)]
pub struct Timestamp {
    /// Whole seconds, negative before 1970.
    pub seconds: i64,
    /// Nanoseconds after `seconds`, below 10^9.
    pub nanoseconds: u32,
}

/// What every kind of inode has.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Attributes {
    /// Permission bits (`0o7777`); the type follows from the [`Content`].
    pub mode: u16,
    /// Owning user.
    pub uid: u32,
    /// Owning group.
    pub gid: u32,
    /// Last change of the content. EROFS has no other time: access and change time read the same.
    pub mtime: Timestamp,
    /// Extended attributes by full name (`user.x`, `security.capability`).
    pub xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
}

/// The number of a character or block device.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct DeviceNumber {
    /// Which driver: at most 12 bits.
    pub major: u32,
    /// Which device of it: at most 20 bits.
    pub minor: u32,
}

/// A run of a file's blocks that lies contiguously on one device.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct FileExtent {
    /// First block, counted in the file.
    pub file_block: u64,
    /// Number of blocks; the file's last block may be partly behind its end.
    pub blocks: u64,
    /// Device slot, 1 for the first.
    pub device: u16,
    /// First block, counted on the device.
    pub device_block: u64,
}

/// The content of a regular file.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Default)]
pub struct FileData {
    /// Bytes.
    pub size: u64,
    /// Where they lie: sorted by `file_block`, none overlapping another. What no extent covers is
    /// a hole and reads as zeros.
    pub extents: Vec<FileExtent>,
}

/// What an inode is.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Content {
    /// A directory, by name; without `.` and `..`. Changed through [`Tree::link`] and
    /// [`Tree::unlink`], which check names.
    Directory(BTreeMap<Vec<u8>, InodeId>),
    /// A regular file.
    File(FileData),
    /// A symbolic link to this path.
    Symlink(Vec<u8>),
    /// A character device.
    CharDevice(DeviceNumber),
    /// A block device.
    BlockDevice(DeviceNumber),
    /// A named pipe.
    Fifo,
    /// A socket.
    Socket,
}

/// One inode.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Inode {
    /// What every kind has.
    pub attributes: Attributes,
    /// What this one is.
    pub content: Content,
}

/// Why bytes cannot be a name in a directory.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum NameError {
    /// No bytes at all.
    #[error("it is empty")]
    Empty,
    /// Over [`MAX_NAME`] bytes.
    #[error("it has {0} bytes, over the limit of {MAX_NAME}")]
    Long(usize),
    /// `.` or `..`.
    #[error("it means a directory itself or its parent")]
    Dots,
    /// A slash or a zero byte.
    #[error("it has a slash or a zero byte in it")]
    Separator,
}

/// Why a name cannot be put into the tree.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TreeError {
    /// The name itself.
    #[error("`{}` cannot be a file name: {reason}", name.escape_ascii())]
    Name {
        /// The name.
        name: Vec<u8>,
        /// What is wrong with it.
        reason: NameError,
    },
    /// The parent holds no names.
    #[error("cannot put `{}` into an inode that is not a directory", name.escape_ascii())]
    NotDirectory {
        /// The name.
        name: Vec<u8>,
    },
}

/// Inodes and their names, from one root directory.
#[derive(Clone, Debug)]
pub struct Tree {
    inodes: Vec<Inode>,
}

impl Tree {
    /// A tree of one empty directory.
    #[must_use]
    pub fn new(root: Attributes) -> Self {
        let root = Inode {
            attributes: root,
            content: Content::Directory(BTreeMap::new()),
        };
        Self { inodes: vec![root] }
    }

    /// The root directory.
    #[must_use]
    pub const fn root(&self) -> InodeId {
        InodeId(0)
    }

    /// Puts an inode into the table; no name leads to it yet.
    ///
    /// # Panics
    /// With 2^32 inodes in the table, which no memory holds.
    pub fn add(&mut self, inode: Inode) -> InodeId {
        let id = u32::try_from(self.inodes.len()).expect("fewer than 2^32 inodes fit in memory");
        self.inodes.push(inode);
        InodeId(id)
    }

    /// Number of inodes in the table, those without a name included. Ids are below it.
    #[must_use]
    pub fn len(&self) -> usize {
        self.inodes.len()
    }

    /// Never: the root is always there.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.inodes.is_empty()
    }

    /// An inode.
    ///
    /// # Panics
    /// When the id is another tree's.
    #[must_use]
    pub fn get(&self, id: InodeId) -> &Inode {
        &self.inodes[id.index()]
    }

    /// An inode, to be changed.
    ///
    /// # Panics
    /// When the id is another tree's.
    pub fn get_mut(&mut self, id: InodeId) -> &mut Inode {
        &mut self.inodes[id.index()]
    }

    /// The names in a directory; `None` if it is something else.
    #[must_use]
    pub fn entries(&self, directory: InodeId) -> Option<&BTreeMap<Vec<u8>, InodeId>> {
        match &self.get(directory).content {
            Content::Directory(entries) => Some(entries),
            _ => None,
        }
    }

    /// What a name in a directory leads to.
    #[must_use]
    pub fn lookup(&self, directory: InodeId, name: &[u8]) -> Option<InodeId> {
        self.entries(directory)?.get(name).copied()
    }

    /// Gives `child` a name in `directory`, and says what had the name before. Another name for
    /// the same inode is a hard link; a directory may have only one ([`crate::write()`] refuses
    /// more).
    ///
    /// # Errors
    /// [`TreeError`] when the name cannot be one or `directory` is not a directory.
    pub fn link(
        &mut self,
        directory: InodeId,
        name: &[u8],
        child: InodeId,
    ) -> Result<Option<InodeId>, TreeError> {
        check_name(name).map_err(|reason| TreeError::Name {
            name: name.to_vec(),
            reason,
        })?;
        match &mut self.get_mut(directory).content {
            Content::Directory(entries) => Ok(entries.insert(name.to_vec(), child)),
            _ => Err(TreeError::NotDirectory {
                name: name.to_vec(),
            }),
        }
    }

    /// Takes a name out of a directory, and says what it led to.
    pub fn unlink(&mut self, directory: InodeId, name: &[u8]) -> Option<InodeId> {
        match &mut self.get_mut(directory).content {
            Content::Directory(entries) => entries.remove(name),
            _ => None,
        }
    }
}

/// Whether bytes can be a name in a directory.
pub(crate) fn check_name(name: &[u8]) -> Result<(), NameError> {
    match name {
        b"" => Err(NameError::Empty),
        b"." | b".." => Err(NameError::Dots),
        _ if name.len() > MAX_NAME => Err(NameError::Long(name.len())),
        _ if name.iter().any(|byte| matches!(byte, 0 | b'/')) => Err(NameError::Separator),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file() -> Inode {
        Inode {
            attributes: Attributes::default(),
            content: Content::File(FileData::default()),
        }
    }

    #[test]
    fn names_come_and_go() {
        let mut tree = Tree::new(Attributes::default());
        let (root, first, second) = (tree.root(), tree.add(file()), tree.add(file()));
        assert_eq!(tree.link(root, b"a", first), Ok(None));
        assert_eq!(tree.link(root, b"a", second), Ok(Some(first)));
        assert_eq!(tree.lookup(root, b"a"), Some(second));
        assert_eq!(tree.unlink(root, b"a"), Some(second));
        assert_eq!(tree.lookup(root, b"a"), None);
        assert_eq!(tree.len(), 3);
    }

    #[test]
    fn bad_names_are_refused() {
        let mut tree = Tree::new(Attributes::default());
        let (root, child) = (tree.root(), tree.add(file()));
        let long = [b'x'; MAX_NAME + 1];
        for name in [b"".as_slice(), b".", b"..", b"a/b", b"a\0", &long] {
            assert!(tree.link(root, name, child).is_err(), "{name:?}");
        }
        assert_eq!(tree.link(root, &long[1..], child), Ok(None));
        let error = tree.link(child, b"x", root).unwrap_err();
        assert_eq!(
            error.to_string(),
            "cannot put `x` into an inode that is not a directory"
        );
    }
}
