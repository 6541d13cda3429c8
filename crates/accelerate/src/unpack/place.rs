//! A tree becomes files, in a directory that was made for it and that nobody else touches.
//!
//! Names are given one component at a time, below a descriptor of the directory that was just made,
//! and symbolic links are never followed. One descriptor is open, however deep the tree is: the way
//! back up is `..`, which in a directory that nobody moves is where it came from.
//!
//! A directory gets its attributes when all that is in it has been made, for that changes its time.

use std::collections::HashSet;
use std::ffi::OsStr;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use rustix::fs::{
    self as sys, AtFlags, FileType, Gid, Mode, OFlags, Timespec, Timestamps, Uid, XattrFlags,
};
use rustix::io::Errno;
use thaw_erofs::{Attributes, Content, DeviceNumber, InodeId, Tree};

use super::layer_tree::LayerTree;
use super::stage::Stage;
use super::{FILES, UnpackError, io_error};

/// What overlayfs obeys in a directory that hides all below it.
const OPAQUE: &str = "trusted.overlay.opaque";
/// Bytes that a directory takes, as a guess.
const DIRECTORY: u64 = 4096;

/// Gives an open file or directory what its inode says. To be done when its content is written.
pub(super) fn dress(file: BorrowedFd<'_>, attributes: &Attributes) -> io::Result<()> {
    let (uid, gid) = (Uid::from_raw(attributes.uid), Gid::from_raw(attributes.gid));
    // Before the mode and the capability, which a change of the owner would take away.
    sys::fchown(file, Some(uid), Some(gid))?;
    sys::fchmod(file, Mode::from_raw_mode(attributes.mode.into()))?;
    for (name, value) in &attributes.xattrs {
        sys::fsetxattr(file, OsStr::from_bytes(name), value, XattrFlags::empty())
            .map_err(|error| xattr_error(name, error))?;
    }
    sys::futimens(file, &times(attributes))?;
    Ok(())
}

fn xattr_error(name: &[u8], error: Errno) -> io::Error {
    let error = io_error(error);
    let text = format!("xattr {}: {error}", name.escape_ascii());
    io::Error::new(error.kind(), text)
}

fn times(attributes: &Attributes) -> Timestamps {
    let time = Timespec {
        tv_sec: attributes.mtime.seconds,
        tv_nsec: attributes.mtime.nanoseconds.into(),
    };
    Timestamps {
        last_access: time,
        last_modification: time,
    }
}

/// Bytes that a tree takes beside the data of its files, about.
pub(super) fn overhead(tree: &Tree) -> u64 {
    let mut directories = vec![tree.root()];
    let mut count = 0;
    while let Some(id) = directories.pop() {
        count += 1;
        let entries = tree.entries(id).into_iter().flatten();
        directories.extend(
            entries
                .map(|(_, id)| *id)
                .filter(|id| tree.entries(*id).is_some()),
        );
    }
    count * DIRECTORY
}

/// Makes `DIR/fs` of a layer whose data is staged.
pub(super) fn place_layer(dir: &Path, layer: &LayerTree, stage: &Stage) -> Result<(), UnpackError> {
    let files = |id: InodeId, to: BorrowedFd<'_>, name: &OsStr| {
        let from = Stage::file_name(layer.entries[id.index()]);
        Ok(sys::renameat(stage, from, to, name)?)
    };
    let placing = Placing {
        tree: &layer.tree,
        opaque: &layer.opaque,
        linked: linked(&layer.tree),
        stage: stage.as_fd(),
        files: &files,
    };
    placing.run(dir)
}

/// A tree that is being made.
pub(super) struct Placing<'a> {
    pub(super) tree: &'a Tree,
    pub(super) opaque: &'a HashSet<InodeId>,
    /// Inodes with several names.
    pub(super) linked: HashSet<InodeId>,
    /// A directory for those, and for what no name is left of; empty afterwards.
    pub(super) stage: BorrowedFd<'a>,
    /// Puts a regular file, with its data and attributes, at a name in a directory.
    pub(super) files: &'a dyn Fn(InodeId, BorrowedFd<'_>, &OsStr) -> io::Result<()>,
}

/// The inodes of a tree that have several names.
pub(super) fn linked(tree: &Tree) -> HashSet<InodeId> {
    let (mut seen, mut linked) = (HashSet::new(), HashSet::new());
    let mut directories = vec![tree.root()];
    while let Some(directory) = directories.pop() {
        for id in tree
            .entries(directory)
            .into_iter()
            .flatten()
            .map(|it| *it.1)
        {
            match tree.entries(id) {
                Some(_) => directories.push(id),
                None if !seen.insert(id) => drop(linked.insert(id)),
                None => {}
            }
        }
    }
    linked
}

/// A directory that is being filled.
struct Level<'a> {
    id: InodeId,
    entries: std::collections::btree_map::Iter<'a, Vec<u8>, InodeId>,
    /// Bytes of the path above it.
    above: usize,
}

impl Placing<'_> {
    /// Makes it all at `dir/fs`, and empties the stage.
    pub(super) fn run(&self, dir: &Path) -> Result<(), UnpackError> {
        let root = dir.join(FILES);
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let made = sys::mkdir(&root, Mode::RWXU)
            .and_then(|()| sys::open(&root, flags, Mode::empty()))
            .map_err(io_error);
        let mut here = made.map_err(UnpackError::store("make the layer's directory"))?;
        let mut path = Vec::new();
        let mut levels = vec![self.level(self.tree.root(), 0)];
        while let Some(level) = levels.last_mut() {
            let Some((name, child)) = level.entries.next() else {
                let (id, above) = (level.id, level.above);
                self.dress_directory(&here, id)
                    .map_err(failed("give its attributes to", &path))?;
                levels.pop();
                if !levels.is_empty() {
                    here = sys::openat(&here, "..", flags, Mode::empty())
                        .map_err(|error| failed("leave", &path)(error.into()))?;
                }
                path.truncate(above);
                continue;
            };
            let above = path.len();
            path.push(b'/');
            path.extend_from_slice(name);
            let name = OsStr::from_bytes(name);
            if self.tree.entries(*child).is_some() {
                here = sys::mkdirat(&here, name, Mode::RWXU)
                    .and_then(|()| sys::openat(&here, name, flags, Mode::empty()))
                    .map_err(|error| failed("make", &path)(error.into()))?;
                levels.push(self.level(*child, above));
            } else {
                self.node(here.as_fd(), name, *child)
                    .map_err(failed("make", &path))?;
                path.truncate(above);
            }
        }
        self.empty_stage()
            .map_err(UnpackError::store("empty the stage"))
    }

    fn level(&self, id: InodeId, above: usize) -> Level<'_> {
        static NONE: std::collections::BTreeMap<Vec<u8>, InodeId> =
            std::collections::BTreeMap::new();
        let entries = self.tree.entries(id).unwrap_or(&NONE).iter();
        Level { id, entries, above }
    }

    fn dress_directory(&self, directory: &OwnedFd, id: InodeId) -> io::Result<()> {
        if self.opaque.contains(&id) {
            sys::fsetxattr(directory, OPAQUE, b"y", XattrFlags::empty())
                .map_err(|error| xattr_error(OPAQUE.as_bytes(), error))?;
        }
        dress(directory.as_fd(), &self.tree.get(id).attributes)
    }

    /// Makes what is no directory. What has several names is made in the stage, and linked.
    fn node(&self, directory: BorrowedFd<'_>, name: &OsStr, id: InodeId) -> io::Result<()> {
        if !self.linked.contains(&id) {
            return self.make(directory, name, id);
        }
        let staged = format!("link-{}", id.index());
        match self.make(self.stage, OsStr::new(&staged), id) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            made => made?,
        }
        sys::linkat(self.stage, &staged, directory, name, AtFlags::empty())?;
        Ok(())
    }

    fn make(&self, directory: BorrowedFd<'_>, name: &OsStr, id: InodeId) -> io::Result<()> {
        let inode = self.tree.get(id);
        let mut mode = Some(Mode::from_raw_mode(inode.attributes.mode.into()));
        let device = |kind, number: &DeviceNumber| {
            let number = sys::makedev(number.major, number.minor);
            sys::mknodat(directory, name, kind, Mode::RUSR, number)
        };
        match &inode.content {
            Content::Directory(_) => return Ok(()),
            Content::File(_) => return (self.files)(id, directory, name),
            Content::Symlink(target) => {
                mode = None;
                sys::symlinkat(OsStr::from_bytes(target), directory, name)?;
            }
            Content::CharDevice(number) => device(FileType::CharacterDevice, number)?,
            Content::BlockDevice(number) => device(FileType::BlockDevice, number)?,
            Content::Fifo => device(FileType::Fifo, &DeviceNumber::default())?,
            Content::Socket => device(FileType::Socket, &DeviceNumber::default())?,
        }
        dress_name(directory, name, mode, &inode.attributes)
    }

    /// Removes what is left in the stage: other names are all it had, or none.
    fn empty_stage(&self) -> io::Result<()> {
        let names = sys::Dir::read_from(self.stage)?;
        for entry in names {
            let entry = entry?;
            let name = entry.file_name().to_bytes();
            if !matches!(name, b"." | b"..") {
                sys::unlinkat(self.stage, OsStr::from_bytes(name), AtFlags::empty())?;
            }
        }
        Ok(())
    }
}

fn failed<'a>(what: &'static str, path: &'a [u8]) -> impl FnOnce(io::Error) -> UnpackError + 'a {
    move |source| UnpackError::File {
        what,
        path: path.to_vec(),
        source,
    }
}

/// As [`dress`], for what cannot be opened without consequences. `name` was just made by us, in a
/// directory that nobody else has, and `mode` is `None` for a symbolic link.
fn dress_name(
    directory: BorrowedFd<'_>,
    name: &OsStr,
    mode: Option<Mode>,
    attributes: &Attributes,
) -> io::Result<()> {
    let (uid, gid) = (Uid::from_raw(attributes.uid), Gid::from_raw(attributes.gid));
    sys::chownat(
        directory,
        name,
        Some(uid),
        Some(gid),
        AtFlags::SYMLINK_NOFOLLOW,
    )?;
    if let Some(mode) = mode {
        sys::chmodat(directory, name, mode, AtFlags::empty())?;
    }
    for (key, value) in &attributes.xattrs {
        // There is no call that takes a directory and a name; the last component is not followed.
        let path = Path::new("/proc/self/fd")
            .join(directory.as_raw_fd().to_string())
            .join(name);
        match sys::lsetxattr(&path, OsStr::from_bytes(key), value, XattrFlags::empty()) {
            // Linux keeps those of users on files and directories alone, so nobody can read one.
            Err(Errno::PERM) if key.starts_with(b"user.") => {}
            set => set.map_err(|error| xattr_error(key, error))?,
        }
    }
    sys::utimensat(
        directory,
        name,
        &times(attributes),
        AtFlags::SYMLINK_NOFOLLOW,
    )?;
    Ok(())
}
