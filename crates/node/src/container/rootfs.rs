//! A root filesystem, touched from outside: every path is resolved by the kernel as if the root
//! filesystem were `/`, so that no symlink of an image leads out of it (openat2(2),
//! `RESOLVE_IN_ROOT`).

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{self as sys, FileType, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;

use super::ContainerError;

/// A directory that is some container's `/`.
#[derive(Debug)]
pub(super) struct RootFs {
    dir: OwnedFd,
    path: PathBuf,
}

const DIR: OFlags = OFlags::PATH.union(OFlags::DIRECTORY).union(OFlags::CLOEXEC);

impl RootFs {
    /// Opens the root filesystem mounted at `path`.
    pub(super) fn open(path: &Path) -> Result<Self, ContainerError> {
        let dir = sys::open(path, DIR, Mode::empty())
            .map_err(ContainerError::file("open root filesystem", path))?;
        Ok(Self {
            dir,
            path: path.to_owned(),
        })
    }

    /// Opens `path` inside.
    fn open_at(&self, path: &str, flags: OFlags) -> rustix::io::Result<OwnedFd> {
        let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
        loop {
            let flags = flags | OFlags::CLOEXEC;
            match sys::openat2(&self.dir, path, flags, Mode::empty(), resolve) {
                // A rename somewhere in the tree raced with the lookup.
                Err(Errno::AGAIN | Errno::INTR) => {}
                other => return other,
            }
        }
    }

    /// The directory `path` inside; `None` where there is none.
    pub(super) fn directory(&self, path: &str) -> Result<Option<OwnedFd>, ContainerError> {
        match self.open_at(path, OFlags::RDONLY | OFlags::DIRECTORY) {
            Ok(dir) => Ok(Some(dir)),
            Err(Errno::NOENT | Errno::NOTDIR) => Ok(None),
            Err(error) => Err(self.error("open", path, error)),
        }
    }

    /// Where the directory `path` inside lies when all symlinks are followed, without the `/` before it;
    /// `None` where there is none.
    pub(super) fn place(&self, path: &str) -> Result<Option<PathBuf>, ContainerError> {
        let of = |dir: &OwnedFd| {
            let link = format!("/proc/self/fd/{}", dir.as_raw_fd());
            let place = std::fs::read_link(link);
            place.map_err(|error| self.error("find", path, error))
        };
        let dir = match self.open_at(path, DIR) {
            Ok(dir) => dir,
            Err(Errno::NOENT | Errno::NOTDIR) => return Ok(None),
            Err(error) => return Err(self.error("open", path, error)),
        };
        let place = of(&dir)?;
        let inside = place.strip_prefix(of(&self.dir)?);
        let inside = inside.map_err(|_| self.error("find", path, Errno::XDEV))?;
        Ok(Some(inside.to_owned()))
    }

    /// In how many directories the place that `path` leads to lies; what is missing of the path is taken as it is.
    pub(super) fn depth(&self, path: &str) -> Result<usize, ContainerError> {
        let (mut there, mut missing) = (Path::new(path), 0);
        loop {
            let text = there.to_str().unwrap_or_default();
            let place = self.place(text)?;
            match (place, there.parent()) {
                (Some(place), _) => return Ok(place.components().count() + missing),
                (None, Some(above)) => (there, missing) = (above, missing + 1),
                (None, None) => return Ok(missing),
            }
        }
    }

    /// The content of the regular file `path` inside, of at most `limit` bytes; `None` where there
    /// is none.
    pub(super) fn read(&self, path: &str, limit: u64) -> Result<Option<Vec<u8>>, ContainerError> {
        // Looked at before it is opened: opening a device node asks its driver, whatever that does then.
        let place = match self.open_at(path, OFlags::PATH) {
            Ok(place) => place,
            Err(Errno::NOENT | Errno::NOTDIR) => return Ok(None),
            Err(error) => return Err(self.error("open", path, error)),
        };
        let bad = |reason| ContainerError::ImageFile {
            path: path.to_owned(),
            reason,
        };
        let stat = sys::fstat(&place).map_err(|error| self.error("look at", path, error))?;
        if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
            return Err(bad("not a regular file"));
        }
        let same = format!("/proc/self/fd/{}", place.as_raw_fd());
        // Non-blocking: some files of the kernel's own would hold us for ever.
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let file = sys::open(same, flags, Mode::empty());
        let file = file.map_err(|error| self.error("open", path, error))?;
        let mut content = Vec::new();
        let read = File::from(file).take(limit + 1).read_to_end(&mut content);
        read.map_err(|error| self.error("read", path, error))?;
        if content.len() as u64 > limit {
            return Err(bad("too large"));
        }
        Ok(Some(content))
    }

    /// Makes the directory `path` inside, and those above it, where they are missing.
    pub(super) fn make_dirs(&self, path: &str) -> Result<(), ContainerError> {
        let mut parent = self
            .open_at(".", DIR)
            .map_err(|error| self.error("open", path, error))?;
        let mut so_far = String::new();
        for part in path.split('/').filter(|part| !part.is_empty()) {
            so_far.push('/');
            so_far.push_str(part);
            parent = match self.open_at(&so_far, DIR) {
                Err(Errno::NOENT) => sys::mkdirat(&parent, part, Mode::from_raw_mode(0o755))
                    .and_then(|()| self.open_at(&so_far, DIR)),
                other => other,
            }
            .map_err(|error| self.error("make directory", &so_far, error))?;
        }
        Ok(())
    }

    fn error(
        &self,
        action: &'static str,
        path: &str,
        error: impl Into<io::Error>,
    ) -> ContainerError {
        let path = self.path.join(path.trim_start_matches('/'));
        ContainerError::file(action, &path)(error)
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::*;

    fn root() -> (tempfile::TempDir, RootFs) {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("secret"), "outside").unwrap();
        fs::create_dir(dir.path().join("root")).unwrap();
        let root = RootFs::open(&dir.path().join("root")).unwrap();
        (dir, root)
    }

    #[test]
    fn no_symlink_leads_out() {
        let (dir, root) = root();
        let inside = dir.path().join("root");
        symlink(dir.path().join("secret"), inside.join("absolute")).unwrap();
        symlink("../secret", inside.join("up")).unwrap();
        symlink(dir.path(), inside.join("etc")).unwrap();
        symlink("/proc/self/root/etc/passwd", inside.join("magic")).unwrap();
        for path in ["/absolute", "/up", "/etc/secret", "/magic", "/../secret"] {
            assert_eq!(root.read(path, 100).unwrap(), None, "{path}");
        }
        fs::write(inside.join("secret"), "inside").unwrap();
        assert_eq!(root.read("/up", 100).unwrap().unwrap(), b"inside");
        symlink("..", inside.join("parent")).unwrap();
        root.make_dirs("/parent/made/here").unwrap();
        assert!(inside.join("made/here").is_dir());
        assert!(!dir.path().join("made").exists());
    }

    #[test]
    fn odd_files_are_refused() {
        let (dir, root) = root();
        let inside = dir.path().join("root");
        fs::write(inside.join("large"), [b'x'; 101]).unwrap();
        assert!(root.read("/large", 100).is_err());
        fs::create_dir(inside.join("dir")).unwrap();
        assert!(root.read("/dir", 100).is_err());
        let mode = Mode::from_raw_mode(0o600);
        sys::mknodat(sys::CWD, inside.join("fifo"), FileType::Fifo, mode, 0).unwrap();
        // A driver that nothing is known of: who opens it hears that there is none (ENXIO).
        let (kind, nobody) = (FileType::CharacterDevice, sys::makedev(60, 77));
        sys::mknodat(sys::CWD, inside.join("device"), kind, mode, nobody).unwrap();
        symlink("device", inside.join("link")).unwrap();
        for path in ["/fifo", "/device", "/link"] {
            let said = root.read(path, 100).unwrap_err().to_string();
            assert!(said.contains("not a regular file"), "{path}: {said}");
        }
        symlink("loop", inside.join("loop")).unwrap();
        assert!(root.read("/loop", 100).is_err());
        assert!(root.make_dirs("/large/x").is_err());
    }
}
