//! Small file work with names in its errors: private directories, temporary files, atomic
//! replacement.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

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
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let path = dir.join(format!("{}-{number}", std::process::id()));
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

/// Removes everything in a directory that holds only files.
pub(crate) fn empty_dir(path: &Path) -> Result<(), FileError> {
    for entry in fs::read_dir(path).map_err(failed("list", path))? {
        remove(&entry.map_err(failed("list", path))?.path())?;
    }
    Ok(())
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
