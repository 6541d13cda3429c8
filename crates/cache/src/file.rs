//! Small file work with names in its errors: private directories, temporary files, atomic
//! replacement.

use std::ffi::{OsStr, OsString};
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::fs::{self as sys, AtFlags, FileType, Mode, OFlags};
use rustix::io::Errno;

use crate::space::STAT_BLOCK;

/// A file operation that failed.
#[derive(Debug, Clone, thiserror::Error)]
#[error("cannot {action} {}", path.display())]
pub struct FileError {
    /// What was tried, as a verb.
    pub action: &'static str,
    /// On which file.
    pub path: PathBuf,
    /// What the system said. Shared, for one failure may have many waiters.
    #[source]
    pub source: Arc<io::Error>,
}

impl FileError {
    /// Whether the disk, or a quota on it, is full: an error that space alone heals.
    #[must_use]
    pub fn is_full(&self) -> bool {
        matches!(
            self.source.kind(),
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded
        )
    }
}

/// Names the failed operation: `result.map_err(failed("write", path))`.
pub(crate) fn failed<'a>(
    action: &'static str,
    path: &'a Path,
) -> impl FnOnce(io::Error) -> FileError + 'a {
    move |source| FileError {
        action,
        path: path.to_owned(),
        source: Arc::new(source),
    }
}

/// Makes a directory with mode 0700, and those above it.
pub(crate) fn make_dir(path: &Path) -> Result<(), FileError> {
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
        .map_err(failed("create directory", path))
}

/// Opens a file for reading and writing, and makes it with mode 0600 if it is not there.
pub(crate) fn open_rw(path: &Path) -> Result<File, FileError> {
    OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(path)
        .map_err(failed("open", path))
}

/// `None` where there is no such file.
pub(crate) fn if_exists<T>(result: io::Result<T>) -> io::Result<Option<T>> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// Removes a file; that it is gone already is no error.
pub(crate) fn remove(path: &Path) -> Result<(), FileError> {
    if_exists(fs::remove_file(path))
        .map(drop)
        .map_err(failed("remove", path))
}

/// Makes the names in a directory durable.
pub(crate) fn sync_dir(path: &Path) -> Result<(), FileError> {
    File::open(path)
        .and_then(|dir| dir.sync_all())
        .map_err(failed("sync directory", path))
}

/// A name in `dir` that nobody has.
fn temporary_name(dir: &Path) -> PathBuf {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    dir.join(format!("{}-{number}", std::process::id()))
}

/// A temporary file that is removed again unless it is [kept](Temp::rename).
#[derive(Debug)]
pub(crate) struct Temp {
    pub(crate) file: File,
    path: PathBuf,
    kept: bool,
}

impl Temp {
    /// Makes a new file, mode 0600, in `dir`.
    pub(crate) fn new(dir: &Path) -> Result<Self, FileError> {
        Self::with_mode(dir, 0o600)
    }

    /// Makes a new file in `dir`.
    pub(crate) fn with_mode(dir: &Path, mode: u32) -> Result<Self, FileError> {
        let path = temporary_name(dir);
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create_new(true)
            .mode(mode)
            .open(&path)
            .map_err(failed("create", &path))?;
        Ok(Self {
            file,
            path,
            kept: false,
        })
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Gives it its lasting name, in the place of what had that name.
    pub(crate) fn rename(mut self, to: &Path) -> Result<(), FileError> {
        fs::rename(&self.path, to).map_err(failed("rename into place", to))?;
        self.kept = true;
        Ok(())
    }
}

impl Drop for Temp {
    fn drop(&mut self) {
        if !self.kept {
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// Replaces `target` by a file of these `parts`: wholly or, whatever dies, not at all. It is
/// durable when this returns.
pub(crate) fn replace(tmp: &Path, target: &Path, parts: &[&[u8]]) -> Result<(), FileError> {
    let mut temp = Temp::new(tmp)?;
    for part in parts {
        temp.file.write_all(part).map_err(failed("write", target))?;
    }
    temp.file.sync_all().map_err(failed("sync", target))?;
    temp.rename(target)?;
    target.parent().map_or(Ok(()), sync_dir)
}

/// Removes everything in a directory.
pub(crate) fn empty_dir(path: &Path) -> Result<(), FileError> {
    for entry in fs::read_dir(path).map_err(failed("list", path))? {
        remove_tree(&entry.map_err(failed("list", path))?.path())?;
    }
    Ok(())
}

/// Removes a file, or a directory with all that is in it, and follows no symbolic link. What is gone already is no error,
/// so several may remove one directory. However deep it is, one descriptor is open: the way back up is `..`.
///
/// # Errors
/// [`FileError`] where something cannot be removed.
pub fn remove_tree(path: &Path) -> Result<(), FileError> {
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Ok(metadata) if metadata.is_dir() => {}
        _ => return remove(path),
    }
    let leave = |parent: BorrowedFd<'_>, name: &OsStr| {
        unless_gone(sys::unlinkat(parent, name, AtFlags::REMOVEDIR)).map(drop)
    };
    walk(path, empty_level, leave)
        .map_err(io::Error::from)
        .and_then(|()| if_exists(fs::remove_dir(path)))
        .map(drop)
        .map_err(failed("remove", path))
}

/// The bytes on the disk of a directory and all that is in it, however deep that is.
///
/// # Errors
/// [`FileError`] where something cannot be looked at.
pub fn tree_bytes(path: &Path) -> Result<u64, FileError> {
    let mut blocks = 0;
    let measure = |directory: BorrowedFd<'_>| {
        blocks += sys::fstat(directory)?.st_blocks;
        let mut directories = Vec::new();
        for name in names(directory)? {
            let name = name?;
            let stat = sys::statat(directory, &name, AtFlags::SYMLINK_NOFOLLOW);
            match unless_gone(stat)? {
                Some(stat) if FileType::from_raw_mode(stat.st_mode) == FileType::Directory => {
                    directories.push(name);
                }
                stat => blocks += stat.map_or(0, |stat| stat.st_blocks),
            }
        }
        Ok(directories)
    };
    walk(path, measure, |_, _| Ok(()))
        .map_err(io::Error::from)
        .map_err(failed("look at", path))?;
    Ok(u64::try_from(blocks).unwrap_or(0) * STAT_BLOCK)
}

/// Goes through a directory and all in it, each before those in it. `enter` gives the names of directories to go on with;
/// `leave` is called for each of them, in the one above, when that is done.
fn walk(
    path: &Path,
    mut enter: impl FnMut(BorrowedFd<'_>) -> rustix::io::Result<Vec<OsString>>,
    mut leave: impl FnMut(BorrowedFd<'_>, &OsStr) -> rustix::io::Result<()>,
) -> rustix::io::Result<()> {
    let open = |at: BorrowedFd<'_>, name: &OsStr| {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        unless_gone(sys::openat(at, name, flags, Mode::empty()))
    };
    let Some(mut here) = open(sys::CWD, path.as_os_str())? else {
        return Ok(());
    };
    // What is left to do in each directory on the way here, and the name of the way.
    let mut levels = vec![(OsString::new(), enter(here.as_fd())?)];
    while let Some((name, directories)) = levels.last_mut() {
        if let Some(directory) = directories.pop() {
            if let Some(below) = open(here.as_fd(), &directory)? {
                here = below;
                levels.push((directory, enter(here.as_fd())?));
            }
            continue;
        }
        let name = std::mem::take(name);
        levels.pop();
        if !levels.is_empty() {
            here = sys::openat(&here, "..", OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
            leave(here.as_fd(), &name)?;
        }
    }
    Ok(())
}

/// Removes the files in a directory, and gives the names of directories.
fn empty_level(directory: BorrowedFd<'_>) -> rustix::io::Result<Vec<OsString>> {
    let mut directories = Vec::new();
    for name in names(directory)? {
        let name = name?;
        match sys::unlinkat(directory, &name, AtFlags::empty()) {
            // Linux says the first, POSIX the second.
            Err(Errno::ISDIR | Errno::PERM) => directories.push(name),
            unlinked => unless_gone(unlinked).map(drop)?,
        }
    }
    Ok(directories)
}

/// The names in a directory.
fn names(
    directory: BorrowedFd<'_>,
) -> rustix::io::Result<impl Iterator<Item = rustix::io::Result<OsString>>> {
    let entries = sys::Dir::read_from(directory)?;
    Ok(entries.filter_map(|entry| match unless_gone(entry) {
        Ok(entry) => {
            let name = OsStr::from_bytes(entry?.file_name().to_bytes()).to_owned();
            (name != "." && name != "..").then_some(Ok(name))
        }
        Err(error) => Some(Err(error)),
    }))
}

/// `None` where somebody else has removed it.
fn unless_gone<T>(result: rustix::io::Result<T>) -> rustix::io::Result<Option<T>> {
    match result {
        Err(Errno::NOENT) => Ok(None),
        other => other.map(Some),
    }
}

/// A directory that is removed with all that is in it, unless it is [kept](TempDir::keep).
#[derive(Debug)]
pub(crate) struct TempDir {
    path: PathBuf,
    kept: bool,
}

impl TempDir {
    /// Makes a new directory, mode 0700, in `dir`.
    pub(crate) fn new(dir: &Path) -> Result<Self, FileError> {
        let path = temporary_name(dir);
        DirBuilder::new()
            .mode(0o700)
            .create(&path)
            .map_err(failed("create directory", &path))?;
        Ok(Self { path, kept: false })
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// It has another name now.
    pub(crate) fn keep(mut self) {
        self.kept = true;
    }

    pub(crate) fn remove(mut self) -> Result<(), FileError> {
        self.kept = true;
        remove_tree(&self.path)
    }
}

impl Drop for TempDir {
    fn drop(&mut self) {
        if !self.kept
            && let Err(error) = remove_tree(&self.path)
        {
            tracing::warn!(
                error = chain(&error),
                "left behind until the store is opened"
            );
        }
    }
}

/// An error and its causes in one line, for a log.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tree_is_measured_and_several_may_remove_it() {
        let dir = tempfile::tempdir().unwrap();
        let tree = dir.path().join("tree");
        for number in 0..300 {
            let below = tree.join(format!("{}/{}/{number}", number % 3, number % 7));
            fs::create_dir_all(&below).unwrap();
            fs::write(below.join("file"), [1; 10_000]).unwrap();
        }
        let bytes = tree_bytes(&tree).unwrap();
        assert!((3_000_000..30_000_000).contains(&bytes), "{bytes}");
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| remove_tree(&tree).unwrap());
            }
        });
        assert!(!tree.exists());
        assert_eq!(tree_bytes(&tree).unwrap(), 0);
    }
}
