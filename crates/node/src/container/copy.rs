//! Copying a directory of an image into a fresh volume: owners, modes, times, extended attributes,
//! symlinks and devices. Both trees are walked by descriptors, and no symlink is followed: other
//! containers may have the volume already, and change it meanwhile.

use std::ffi::{CStr, CString};
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

/// Copies what is in `from` into `to`, and what `from` itself is like onto `to`.
pub(super) fn copy_tree(from: BorrowedFd<'_>, to: BorrowedFd<'_>) -> io::Result<()> {
    let mut waiting = vec![PathBuf::from(".")];
    let mut done = Vec::new();
    while let Some(path) = waiting.pop() {
        let source = open_dir(from, &path)?;
        let target = open_dir(to, &path)?;
        for entry in Dir::read_from(&source)? {
            let entry = entry?;
            let name = entry.file_name();
            if name != c"." && name != c".." && copy_entry(&source, &target, name)? {
                let name = std::ffi::OsStr::from_bytes(name.to_bytes());
                waiting.push(path.join(name));
            }
        }
        done.push(path);
    }
    // A directory's times change as it fills, and its mode may forbid that: so they come last.
    for path in done.iter().rev() {
        let source = open_dir(from, path)?;
        let target = open_dir(to, path)?;
        let stat = sys::fstat(&source)?;
        copy_xattrs(&source, &target)?;
        sys::fchown(&target, Some(uid(&stat)), Some(gid(&stat)))?;
        sys::fchmod(&target, mode(&stat))?;
        sys::futimens(&target, &times(&stat))?;
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

fn open_dir(root: BorrowedFd<'_>, path: &Path) -> io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
    Ok(sys::openat2(root, path, flags, Mode::empty(), resolve)?)
}

/// Copies one entry; true when it is a directory, whose content is still to come.
fn copy_entry(source: &OwnedFd, target: &OwnedFd, name: &CStr) -> io::Result<bool> {
    let stat = sys::statat(source, name, AtFlags::SYMLINK_NOFOLLOW)?;
    match FileType::from_raw_mode(stat.st_mode) {
        FileType::Directory => {
            sys::mkdirat(target, name, Mode::from_raw_mode(0o700))?;
            return Ok(true);
        }
        FileType::RegularFile => return copy_file(source, target, name, &stat).map(|()| false),
        FileType::Symlink => {
            let link = sys::readlinkat(source, name, Vec::new())?;
            sys::symlinkat(link, target, name)?;
        }
        // A socket without its listener is of no use.
        FileType::Socket | FileType::Unknown => return Ok(false),
        kind => sys::mknodat(target, name, kind, mode(&stat), stat.st_rdev)?,
    }
    dress(target, name, &stat).map(|()| false)
}

/// Gives a symlink or node that was just made the owner, mode and times of `stat`. By a descriptor of
/// the node itself: by its name chmod(2) would follow a symlink that somebody puts there.
fn dress(target: &OwnedFd, name: &CStr, stat: &Stat) -> io::Result<()> {
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

fn copy_file(source: &OwnedFd, target: &OwnedFd, name: &CStr, stat: &Stat) -> io::Result<()> {
    let read = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let make = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
    let from = File::from(sys::openat(source, name, read, Mode::empty())?);
    let to = File::from(sys::openat(target, name, make, Mode::from_raw_mode(0o600))?);
    copy_content(&from, &to)?;
    sys::fchown(&to, Some(uid(stat)), Some(gid(stat)))?;
    sys::fchmod(&to, mode(stat))?;
    // After the owner: chown(2) drops file capabilities.
    copy_xattrs(&from, &to)?;
    Ok(sys::futimens(&to, &times(stat))?)
}

/// Copies what a file holds. Its holes stay holes: a file may be said to be larger than any disk.
fn copy_content(from: &File, to: &File) -> io::Result<()> {
    let (mut from, mut to) = (from, to);
    let mut end = 0;
    loop {
        let begin = match sys::seek(from, SeekFrom::Data(end)) {
            Err(Errno::NXIO) => break,
            begin => begin?,
        };
        end = sys::seek(from, SeekFrom::Hole(begin))?;
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
mod tests {
    use std::fs;
    use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt, lchown, symlink};

    use super::*;

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
        let root = File::open(&from).unwrap();
        copy_tree(root.as_fd(), File::open(&to).unwrap().as_fd()).unwrap();

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
        let error = dress(&target, c"fifo", &node).unwrap_err();
        assert!(error.to_string().contains("replaced"), "{error}");
        assert_eq!(facts(), before);
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
        let root = File::open(&from).unwrap();
        copy_tree(root.as_fd(), File::open(&to).unwrap().as_fd()).unwrap();

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
