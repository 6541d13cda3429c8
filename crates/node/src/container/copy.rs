//! Copying a directory of an image into a fresh volume: owners, modes, times, extended attributes,
//! symlinks and devices. Both trees are walked by descriptors, and no symlink is followed: other
//! containers may have the volume already, and change it meanwhile.

use std::collections::HashMap;
use std::ffi::{CStr, CString, OsStr};
use std::fs::File;
use std::io::{self, Read, Seek};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::{
    self as sys, AtFlags, Dir, FileType, Gid, Mode, OFlags, ResolveFlags, SeekFrom, Stat, Timespec,
    Timestamps, Uid, XattrFlags,
};
use rustix::io::Errno;
use thaw_image::Progress;

/// Most directories that lie in each other: each has two descriptors open while what is in it is copied.
const MAX_DEPTH: usize = 256;
/// Most bytes that are remembered of files with several names.
const MAX_LINKS: usize = 64 << 20;
/// Bytes of a file that are copied before it is asked whether anybody waits still.
const STEP: u64 = 64 << 20;

/// Copies what is in `from` into `to`, and what `from` itself is like onto `to`, as long as that is wanted.
pub(super) fn copy_tree(
    from: BorrowedFd<'_>,
    to: BorrowedFd<'_>,
    progress: &dyn Progress,
) -> io::Result<()> {
    let mut copy = Copy {
        links: Links::new(to),
        progress,
    };
    let mut levels = vec![Level::open(from, to, c".")?];
    while let Some(level) = levels.last_mut() {
        let Some(entry) = level.source.read() else {
            level.dress()?;
            levels.pop();
            copy.links.dir.pop();
            continue;
        };
        let entry = entry?;
        let name = entry.file_name();
        if matches!(name.to_bytes(), b"." | b"..") || !copy.entry(level, name)? {
            continue;
        }
        let below = Level::open(level.source.fd()?, level.target.as_fd(), name)?;
        levels.push(below);
        if levels.len() > MAX_DEPTH {
            let reason = format!("more than {MAX_DEPTH} directories lie in each other");
            return Err(io::Error::other(reason));
        }
        copy.links.dir.push(OsStr::from_bytes(name.to_bytes()));
    }
    Ok(())
}

/// Whether the directory has nothing in it.
pub(super) fn is_empty(dir: BorrowedFd<'_>) -> io::Result<bool> {
    for entry in Dir::read_from(dir)? {
        if !matches!(entry?.file_name().to_bytes(), b"." | b"..") {
            return Ok(false);
        }
    }
    Ok(true)
}

/// A directory that is being copied. It stays open, so that nobody who moves it leads us elsewhere.
struct Level {
    source: Dir,
    target: OwnedFd,
}

impl Level {
    fn open(source: BorrowedFd<'_>, target: BorrowedFd<'_>, name: &CStr) -> io::Result<Self> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let open = |parent| sys::openat(parent, name, flags, Mode::empty());
        Ok(Self {
            source: Dir::new(open(source)?)?,
            target: open(target)?,
        })
    }

    /// Gives the copy what the directory is like. To be done when all is in it: that changes its times,
    /// and its mode may forbid it.
    fn dress(&self) -> io::Result<()> {
        let (source, target) = (self.source.fd()?, self.target.as_fd());
        let stat = sys::fstat(source)?;
        copy_xattrs(source, target)?;
        sys::fchown(target, Some(uid(&stat)), Some(gid(&stat)))?;
        sys::fchmod(target, mode(&stat))?;
        Ok(sys::futimens(target, &times(&stat))?)
    }
}

/// What is known while a tree is copied.
struct Copy<'a> {
    links: Links<'a>,
    progress: &'a dyn Progress,
}

impl Copy<'_> {
    /// Copies one entry; true when it is a directory, whose content is still to come.
    fn entry(&mut self, level: &Level, name: &CStr) -> io::Result<bool> {
        wanted(self.progress)?;
        let (source, target) = (level.source.fd()?, level.target.as_fd());
        let stat = sys::statat(source, name, AtFlags::SYMLINK_NOFOLLOW)?;
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::Directory => {
                sys::mkdirat(target, name, Mode::from_raw_mode(0o700))?;
                return Ok(true);
            }
            // A socket without its listener is of no use.
            FileType::Socket | FileType::Unknown => return Ok(false),
            _ if self.links.link(target, name, &stat)? => return Ok(false),
            FileType::RegularFile => {
                let copied = copy_file(source, target, name, &stat, self.progress);
                return copied.map(|()| false);
            }
            FileType::Symlink => {
                let link = sys::readlinkat(source, name, Vec::new())?;
                sys::symlinkat(link, target, name)?;
            }
            kind => sys::mknodat(target, name, kind, mode(&stat), stat.st_rdev)?,
        }
        dress(target, name, &stat).map(|()| false)
    }
}

/// Where the copies of files lie that have several names.
struct Links<'a> {
    root: BorrowedFd<'a>,
    /// The directory that is being copied, below the root.
    dir: PathBuf,
    /// By device and inode of what was copied.
    known: HashMap<(u64, u64), PathBuf>,
    bytes: usize,
}

impl<'a> Links<'a> {
    fn new(root: BorrowedFd<'a>) -> Self {
        Self {
            root,
            dir: PathBuf::new(),
            known: HashMap::new(),
            bytes: 0,
        }
    }

    /// Gives the copy of a file one more name; false where there is none yet.
    fn link(&mut self, target: BorrowedFd<'_>, name: &CStr, stat: &Stat) -> io::Result<bool> {
        if stat.st_nlink < 2 {
            return Ok(false);
        }
        let key = (stat.st_dev, stat.st_ino);
        if let Some(path) = self.known.get(&key) {
            match self.link_to(path, target, name) {
                Ok(()) => return Ok(true),
                // The file system takes no more: another copy.
                Err(Errno::MLINK) => {}
                Err(error) => return Err(error.into()),
            }
        }
        let path = self.dir.join(OsStr::from_bytes(name.to_bytes()));
        self.bytes += path.as_os_str().len() + size_of::<(u64, u64, PathBuf)>();
        if self.bytes > MAX_LINKS {
            return Err(io::Error::other("too many files have several names"));
        }
        self.known.insert(key, path);
        Ok(false)
    }

    fn link_to(&self, path: &Path, target: BorrowedFd<'_>, name: &CStr) -> rustix::io::Result<()> {
        let (dir, file) = (path.parent(), path.file_name().unwrap_or_default());
        let dir = dir.filter(|dir| !dir.as_os_str().is_empty());
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
        let dir = dir.unwrap_or(Path::new("."));
        let dir = sys::openat2(self.root, dir, flags, Mode::empty(), resolve)?;
        sys::linkat(dir, file, target, name, AtFlags::empty())
    }
}

/// An error where nobody waits any more.
pub(super) fn wanted(progress: &dyn Progress) -> io::Result<()> {
    match progress.is_wanted() {
        true => Ok(()),
        false => Err(io::Error::other("nobody waits for it any more")),
    }
}

/// Gives a symlink or node that was just made the owner, mode and times of `stat`. By a descriptor of
/// the node itself: by its name chmod(2) would follow a symlink that somebody puts there.
fn dress(target: BorrowedFd<'_>, name: &CStr, stat: &Stat) -> io::Result<()> {
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let node = sys::openat(target, name, flags, Mode::empty())?;
    let is = |stat: &Stat| (FileType::from_raw_mode(stat.st_mode), stat.st_rdev);
    if is(&sys::fstat(&node)?) != is(stat) {
        let reason = format!("{name:?} was replaced while the volume was filled");
        return Err(io::Error::other(reason));
    }
    let itself = AtFlags::EMPTY_PATH;
    sys::chownat(&node, c"", Some(uid(stat)), Some(gid(stat)), itself)?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::Symlink {
        // mknod(2) applies the umask, and fchmod(2) takes no such descriptor.
        let node = format!("/proc/self/fd/{}", node.as_raw_fd());
        sys::chmodat(sys::CWD, node, mode(stat), AtFlags::empty())?;
    }
    Ok(sys::utimensat(&node, c"", &times(stat), itself)?)
}

fn copy_file(
    source: BorrowedFd<'_>,
    target: BorrowedFd<'_>,
    name: &CStr,
    stat: &Stat,
    progress: &dyn Progress,
) -> io::Result<()> {
    let read = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let make = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
    let from = File::from(sys::openat(source, name, read, Mode::empty())?);
    let to = File::from(sys::openat(target, name, make, Mode::from_raw_mode(0o600))?);
    copy_content(&from, &to, progress)?;
    sys::fchown(&to, Some(uid(stat)), Some(gid(stat)))?;
    sys::fchmod(&to, mode(stat))?;
    // After the owner: chown(2) drops file capabilities.
    copy_xattrs(&from, &to)?;
    Ok(sys::futimens(&to, &times(stat))?)
}

/// Copies what a file holds. Its holes stay holes: a file may be said to be larger than any disk.
fn copy_content(from: &File, to: &File, progress: &dyn Progress) -> io::Result<()> {
    let (mut from, mut to) = (from, to);
    let mut end = 0;
    loop {
        let begin = match sys::seek(from, SeekFrom::Data(end)) {
            Err(Errno::NXIO) => break,
            begin => begin?,
        };
        wanted(progress)?;
        end = sys::seek(from, SeekFrom::Hole(begin))?.min(begin + STEP);
        from.seek(io::SeekFrom::Start(begin))?;
        to.seek(io::SeekFrom::Start(begin))?;
        io::copy(&mut from.take(end - begin), &mut to)?;
    }
    to.set_len(from.metadata()?.len())
}

/// Attributes of the overlay that a root filesystem may be are not those of the file.
const PRIVATE: [&[u8]; 2] = [b"trusted.overlay.", b"user.overlay."];

fn copy_xattrs(from: impl AsFd, to: impl AsFd) -> io::Result<()> {
    // The kernel's own bounds: 64 KiB of names, 64 KiB for a value (XATTR_LIST_MAX, XATTR_SIZE_MAX).
    let mut names = Vec::with_capacity(1 << 16);
    match sys::flistxattr(&from, rustix::buffer::spare_capacity(&mut names)) {
        Ok(_) => {}
        Err(Errno::NOTSUP) => return Ok(()),
        Err(error) => return Err(error.into()),
    }
    for name in names
        .split(|byte| *byte == 0)
        .filter(|name| !name.is_empty())
    {
        if PRIVATE.iter().any(|private| name.starts_with(private)) {
            continue;
        }
        let name = CString::new(name)?;
        let mut value = Vec::with_capacity(1 << 16);
        sys::fgetxattr(&from, &*name, rustix::buffer::spare_capacity(&mut value))?;
        match sys::fsetxattr(&to, &*name, &value, XattrFlags::empty()) {
            // The volume's file system, or a security module, may not take them.
            Ok(()) | Err(Errno::NOTSUP | Errno::PERM) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

fn mode(stat: &Stat) -> Mode {
    Mode::from_raw_mode(stat.st_mode & 0o7777)
}

fn uid(stat: &Stat) -> Uid {
    Uid::from_raw(stat.st_uid)
}

fn gid(stat: &Stat) -> Gid {
    Gid::from_raw(stat.st_gid)
}

fn times(stat: &Stat) -> Timestamps {
    let time = |tv_sec, tv_nsec: u64| Timespec {
        tv_sec,
        tv_nsec: i64::try_from(tv_nsec).unwrap_or(0),
    };
    Timestamps {
        last_access: time(stat.st_atime, stat.st_atime_nsec),
        last_modification: time(stat.st_mtime, stat.st_mtime_nsec),
    }
}

#[cfg(test)]
pub(super) mod tests {
    use std::fs;
    use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt, lchown, symlink};

    use thaw_image::Silent;

    use super::*;

    fn copied(from: &Path, to: &Path) -> io::Result<()> {
        let (from, to) = (File::open(from).unwrap(), File::open(to).unwrap());
        copy_tree(from.as_fd(), to.as_fd(), &Silent)
    }

    #[test]
    fn a_tree_arrives_whole() {
        let dir = tempfile::tempdir_in("/var/tmp").unwrap();
        let (from, to) = (dir.path().join("from"), dir.path().join("to"));
        fs::create_dir_all(from.join("sub/deep")).unwrap();
        fs::create_dir(&to).unwrap();
        fs::write(from.join("sub/deep/file"), vec![7; 100_000]).unwrap();
        let mode = fs::Permissions::from_mode(0o4640);
        lchown(from.join("sub/deep/file"), Some(12), Some(34)).unwrap();
        fs::set_permissions(from.join("sub/deep/file"), mode).unwrap();
        sys::setxattr(from.join("sub"), "user.note", b"x", XattrFlags::empty()).unwrap();
        symlink("/etc/passwd", from.join("link")).unwrap();
        sys::mknodat(
            sys::CWD,
            from.join("fifo"),
            FileType::Fifo,
            Mode::empty(),
            0,
        )
        .unwrap();
        let mode = fs::Permissions::from_mode(0o622);
        fs::set_permissions(from.join("fifo"), mode).unwrap();
        fs::set_permissions(&from, fs::Permissions::from_mode(0o1777)).unwrap();
        copied(&from, &to).unwrap();

        for path in ["", "sub", "sub/deep", "sub/deep/file", "link", "fifo"] {
            let old = fs::symlink_metadata(from.join(path)).unwrap();
            let new = fs::symlink_metadata(to.join(path)).unwrap();
            let facts =
                |meta: &fs::Metadata| (meta.mode(), meta.uid(), meta.gid(), meta.mtime_nsec());
            assert_eq!(facts(&old), facts(&new), "{path}");
        }
        assert_eq!(
            fs::read(to.join("sub/deep/file")).unwrap(),
            vec![7; 100_000]
        );
        assert_eq!(
            fs::read_link(to.join("link")).unwrap(),
            Path::new("/etc/passwd")
        );
        let mut value = [0; 8];
        assert_eq!(
            sys::getxattr(to.join("sub"), "user.note", &mut value[..]).unwrap(),
            1
        );
        assert!(!is_empty(File::open(&to).unwrap().as_fd()).unwrap());
    }

    #[test]
    fn what_a_symlink_in_the_place_of_a_node_leads_to_stays_as_it_is() {
        let dir = tempfile::tempdir_in("/var/tmp").unwrap();
        let (outside, to) = (dir.path().join("outside"), dir.path().join("to"));
        fs::write(&outside, "").unwrap();
        fs::set_permissions(&outside, fs::Permissions::from_mode(0o600)).unwrap();
        fs::create_dir(&to).unwrap();
        let target = OwnedFd::from(File::open(&to).unwrap());
        let all = Mode::from_raw_mode(0o666);
        sys::mknodat(&target, "fifo", FileType::Fifo, all, 0).unwrap();
        let node = sys::statat(&target, "fifo", AtFlags::SYMLINK_NOFOLLOW).unwrap();
        fs::remove_file(to.join("fifo")).unwrap();
        symlink(&outside, to.join("fifo")).unwrap();
        let facts = || {
            let meta = fs::metadata(&outside).unwrap();
            (meta.mode(), meta.ctime(), meta.ctime_nsec())
        };
        let before = facts();
        let error = dress(target.as_fd(), c"fifo", &node).unwrap_err();
        assert!(error.to_string().contains("replaced"), "{error}");
        assert_eq!(facts(), before);
    }

    #[test]
    fn a_file_of_many_names_is_one_file() {
        let dir = tempfile::tempdir_in("/var/tmp").unwrap();
        let (from, to) = (dir.path().join("from"), dir.path().join("to"));
        fs::create_dir_all(from.join("sub/deep")).unwrap();
        fs::create_dir_all(from.join("other")).unwrap();
        fs::create_dir(&to).unwrap();
        let names = [
            "first",
            "second",
            "sub/third",
            "sub/deep/fourth",
            "other/fifth",
        ];
        fs::write(from.join(names[0]), vec![7; 1 << 20]).unwrap();
        for name in &names[1..] {
            fs::hard_link(from.join(names[0]), from.join(name)).unwrap();
        }
        // It has one more name, which is not copied.
        fs::hard_link(from.join(names[0]), dir.path().join("outside")).unwrap();
        copied(&from, &to).unwrap();
        let first = fs::metadata(to.join(names[0])).unwrap();
        assert_eq!((first.nlink(), first.len()), (5, 1 << 20));
        for name in names {
            let meta = fs::metadata(to.join(name)).unwrap();
            assert_eq!(meta.ino(), first.ino(), "{name}");
        }
    }

    /// Makes directories in each other.
    fn nested(from: &Path, depth: usize) {
        fs::create_dir(from).unwrap();
        let mut dir = OwnedFd::from(File::open(from).unwrap());
        for _ in 0..depth {
            let flags = OFlags::RDONLY | OFlags::DIRECTORY;
            sys::mkdirat(&dir, "d", Mode::from_raw_mode(0o700)).unwrap();
            dir = sys::openat(&dir, "d", flags, Mode::empty()).unwrap();
        }
        sys::symlinkat("x", &dir, "last").unwrap();
    }

    #[test]
    fn how_deep_directories_lie_is_bounded() {
        let dir = tempfile::tempdir_in("/var/tmp").unwrap();
        let [from, to, deep, none] = ["from", "to", "deep", "none"].map(|it| dir.path().join(it));
        fs::create_dir(&to).unwrap();
        fs::create_dir(&none).unwrap();
        nested(&from, MAX_DEPTH - 1);
        copied(&from, &to).unwrap();
        let last = to.join("d/".repeat(MAX_DEPTH - 1)).join("last");
        assert_eq!(fs::read_link(last).unwrap(), Path::new("x"));
        nested(&deep, MAX_DEPTH);
        let error = copied(&deep, &none).unwrap_err();
        assert!(error.to_string().contains("lie in each other"), "{error}");
    }

    /// Who has gone before it began.
    #[derive(Debug)]
    pub(in super::super) struct Gone;

    impl Progress for Gone {
        fn begin(&self, _: &str, _: Option<u64>) {}
        fn advance(&self, _: &str, _: u64) {}
        fn finish(&self, _: &str) {}
        fn say(&self, _: &str) {}
        fn is_wanted(&self) -> bool {
            false
        }
    }

    #[test]
    fn nothing_is_copied_for_nobody() {
        let dir = tempfile::tempdir_in("/var/tmp").unwrap();
        let (from, to) = (dir.path().join("from"), dir.path().join("to"));
        fs::create_dir(&from).unwrap();
        fs::create_dir(&to).unwrap();
        fs::write(from.join("file"), "x").unwrap();
        let (from, into) = (File::open(&from).unwrap(), File::open(&to).unwrap());
        copy_tree(from.as_fd(), into.as_fd(), &Gone).unwrap_err();
        assert!(is_empty(into.as_fd()).unwrap());
        let file = File::create(to.join("file")).unwrap();
        file.set_len(1).unwrap();
        file.write_all_at(b"x", 0).unwrap();
        let from = File::open(to.join("file")).unwrap();
        copy_content(&from, &file, &Gone).unwrap_err();
    }

    #[test]
    fn holes_stay_holes() {
        let dir = tempfile::tempdir_in("/var/tmp").unwrap();
        let (from, to) = (dir.path().join("from"), dir.path().join("to"));
        fs::create_dir(&from).unwrap();
        fs::create_dir(&to).unwrap();
        let sparse = File::create(from.join("sparse")).unwrap();
        sparse.write_all_at(b"begin", 0).unwrap();
        sparse.write_all_at(b"middle", 1 << 26).unwrap();
        sparse.set_len((1 << 27) + 1).unwrap();
        File::create(from.join("empty"))
            .unwrap()
            .set_len(1 << 28)
            .unwrap();
        copied(&from, &to).unwrap();

        let copy = File::open(to.join("sparse")).unwrap();
        assert_eq!(copy.metadata().unwrap().len(), (1 << 27) + 1);
        let mut found = [9; 6];
        for (place, wanted) in [
            (0, b"begin\0"),
            (1 << 25, b"\0\0\0\0\0\0"),
            (1 << 26, b"middle"),
        ] {
            copy.read_exact_at(&mut found, place).unwrap();
            assert_eq!(&found, wanted, "{place}");
        }
        let empty = fs::metadata(to.join("empty")).unwrap();
        assert_eq!(empty.len(), 1 << 28);
        let taken = (copy.metadata().unwrap().blocks() + empty.blocks()) * 512;
        assert!(taken < 1 << 20, "{taken} bytes");
    }
}
