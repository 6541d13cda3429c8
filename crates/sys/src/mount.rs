//! Mounts, made by descriptor (`fsopen`, `fsconfig`, `fsmount`) and attached when they are ready.
//!
//! A [`Mount`] is a mounted filesystem that no path leads to yet: [`Mount::attach`] puts it at a
//! directory, dropping it unmakes it. The new interface takes any number of `device=` options (the
//! old option string ends at one page) and says in words why it refuses. Ways for older kernels
//! stand below the new ones.

mod bdi;
mod loop_device;
mod overlay;
mod table;

use std::ffi::OsStr;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, Mode, OFlags};
use rustix::mount as new;

pub use overlay::{MAX_LOWER, Overlay, overlay};
pub use table::{MountEntry, mount_table};

/// Longest value that `fsconfig(2)` takes as a string.
const MAX_STRING: usize = 255;
/// include/uapi/linux/magic.h
const EROFS_SUPER_MAGIC_V1: u32 = 0xE0F5_E1E2;

/// Why a mount could not be made or unmade.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The kernel has no such filesystem.
    #[error("the kernel cannot mount {kind}")]
    Filesystem {
        /// The filesystem's name.
        kind: &'static str,
        /// What it answered.
        source: io::Error,
    },
    /// The kernel refused a setting or the filesystem as a whole.
    #[error("cannot set up {kind}: {step}{log}")]
    Setup {
        /// The filesystem's name.
        kind: &'static str,
        /// The setting.
        step: String,
        /// What the kernel said about it, or nothing.
        log: String,
        /// What it answered.
        source: io::Error,
    },
    /// A file that the mount needs cannot be opened.
    #[error("cannot open {path} for a mount")]
    Open {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A loop device (the way for kernels before 6.12) could not be made.
    #[error("cannot make a loop device for {path}")]
    Loop {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The directory cannot be mounted on.
    #[error("cannot mount at {target}")]
    Attach {
        /// The directory.
        target: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Unmounting failed.
    #[error("cannot unmount {target}")]
    Unmount {
        /// The mount point.
        target: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Attributes of a mount cannot be read or changed.
    #[error("cannot change {what} of a mount")]
    Attribute {
        /// Which.
        what: &'static str,
        /// Why.
        source: io::Error,
    },
    /// The mount table cannot be read.
    #[error("cannot read the mount table")]
    Table(#[source] io::Error),
}

/// A filesystem that is mounted, but nowhere yet. Dropped, it is gone.
#[derive(Debug)]
pub struct Mount {
    fd: OwnedFd,
    /// Its directory in `/sys/class/bdi`, where that is known.
    bdi: Option<String>,
}

impl Mount {
    /// Puts it at `target`, over what is there.
    ///
    /// # Errors
    /// [`Error::Attach`].
    pub fn attach(self, target: &Path) -> Result<(), Error> {
        let flags = new::MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH;
        new::move_mount(&self.fd, "", CWD, target, flags).map_err(|error| Error::Attach {
            target: target.to_owned(),
            source: error.into(),
        })
    }

    /// How far the kernel reads ahead, in KiB. Known for EROFS only.
    ///
    /// # Errors
    /// [`Error::Attribute`].
    pub fn read_ahead_kb(&self) -> Result<u32, Error> {
        bdi::read_ahead_kb(self.bdi.as_deref()).map_err(read_ahead_error)
    }

    /// Changes how far the kernel reads ahead. To be done before the first read. EROFS only.
    ///
    /// # Errors
    /// [`Error::Attribute`].
    pub fn set_read_ahead_kb(&self, kb: u32) -> Result<(), Error> {
        bdi::set_read_ahead_kb(self.bdi.as_deref(), kb).map_err(read_ahead_error)
    }

    /// Shows other owners than the filesystem's: those that the user namespace behind `userns`
    /// maps to.
    ///
    /// # Errors
    /// [`Error::Attribute`].
    pub fn map_ids(&self, userns: BorrowedFd<'_>) -> Result<(), Error> {
        let attributes = libc::mount_attr {
            attr_set: libc::MOUNT_ATTR_IDMAP,
            attr_clr: 0,
            propagation: 0,
            userns_fd: u64::try_from(userns.as_raw_fd()).unwrap_or(u64::MAX),
        };
        // SAFETY: the path is a C string, the attributes are a live structure whose size is
        // given, and the kernel only reads both.
        let done = unsafe {
            libc::syscall(
                libc::SYS_mount_setattr,
                self.fd.as_raw_fd(),
                c"".as_ptr(),
                libc::AT_EMPTY_PATH,
                &raw const attributes,
                size_of::<libc::mount_attr>(),
            )
        };
        if done < 0 {
            return Err(Error::Attribute {
                what: "the id mapping",
                source: io::Error::last_os_error(),
            });
        }
        Ok(())
    }
}

impl AsFd for Mount {
    /// The root directory (`O_PATH`).
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

fn read_ahead_error(source: io::Error) -> Error {
    Error::Attribute {
        what: "the read-ahead",
        source,
    }
}

/// A filesystem that is being configured.
struct Context {
    kind: &'static str,
    fd: OwnedFd,
}

impl Context {
    fn new(kind: &'static str) -> Result<Self, Error> {
        let fd = new::fsopen(kind, new::FsOpenFlags::FSOPEN_CLOEXEC).map_err(|error| {
            Error::Filesystem {
                kind,
                source: error.into(),
            }
        })?;
        Ok(Self { kind, fd })
    }

    fn string(&self, key: &str, value: &OsStr) -> Result<(), Error> {
        new::fsconfig_set_string(&self.fd, key, value.as_bytes())
            .map_err(|error| self.error(format!("{key}={}", value.display()), error))
    }

    fn flag(&self, key: &str) -> Result<(), Error> {
        new::fsconfig_set_flag(&self.fd, key).map_err(|error| self.error(key.to_owned(), error))
    }

    /// Makes the superblock.
    fn create(&self) -> Result<(), Error> {
        new::fsconfig_create(&self.fd).map_err(|error| self.error("create".to_owned(), error))
    }

    fn mount(&self, attributes: new::MountAttrFlags) -> Result<Mount, Error> {
        let fd = new::fsmount(&self.fd, new::FsMountFlags::FSMOUNT_CLOEXEC, attributes)
            .map_err(|error| self.error("mount".to_owned(), error))?;
        Ok(Mount { fd, bdi: None })
    }

    fn error(&self, step: String, error: rustix::io::Errno) -> Error {
        Error::Setup {
            kind: self.kind,
            step,
            log: self.log(),
            source: error.into(),
        }
    }

    /// What the kernel has said on this context: lines such as `e erofs: Unknown parameter`.
    fn log(&self) -> String {
        let mut text = String::new();
        let mut line = [0; 1024];
        // Bounded: the kernel keeps eight lines.
        for _ in 0..8 {
            let Ok(len) = rustix::io::read(&self.fd, &mut line) else {
                break;
            };
            text.push_str(": ");
            text.push_str(String::from_utf8_lossy(&line[..len]).trim_end());
        }
        text
    }
}

/// A path for an option: itself, or a short name of the same file when it is too long.
struct OptionPath {
    text: PathBuf,
    _held: Option<OwnedFd>,
}

impl OptionPath {
    fn new(path: &Path) -> Result<Self, Error> {
        if path.as_os_str().len() <= MAX_STRING {
            return Ok(Self {
                text: path.to_owned(),
                _held: None,
            });
        }
        let held = rustix::fs::open(path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty()).map_err(
            |error| Error::Open {
                path: path.to_owned(),
                source: error.into(),
            },
        )?;
        Ok(Self {
            text: format!("/proc/self/fd/{}", held.as_raw_fd()).into(),
            _held: Some(held),
        })
    }
}

/// Mounts the EROFS image `layout`, read-only, with its device table's files in order. A new
/// superblock each time, so with an empty page cache.
///
/// Before Linux 6.12 each file gets a loop device, which goes with the mount.
///
/// # Errors
/// [`Error::Setup`] with the kernel's words, [`Error::Loop`], [`Error::Filesystem`].
pub fn erofs(layout: &Path, devices: &[&Path]) -> Result<Mount, Error> {
    let (created, bdi) = bdi::of_new_superblock(|| erofs_superblock(layout, devices));
    match created {
        Ok(context) => Ok(Mount {
            bdi,
            ..context.mount(read_only())?
        }),
        Err(Error::Setup { source, .. }) if source.raw_os_error() == Some(libc::ENOTBLK) => {
            erofs_on_loops(layout, devices)
        }
        Err(error) => Err(error),
    }
}

/// Of what is an image's alone. Its device nodes and setuid files are not to be used on the host; in a
/// container they are seen through an overlay with a mount of its own.
fn read_only() -> new::MountAttrFlags {
    use new::MountAttrFlags as Flags;
    Flags::MOUNT_ATTR_RDONLY | Flags::MOUNT_ATTR_NODEV | Flags::MOUNT_ATTR_NOSUID
}

fn erofs_superblock(layout: &Path, devices: &[&Path]) -> Result<Context, Error> {
    let context = Context::new("erofs")?;
    let source = OptionPath::new(layout)?;
    context.string("source", source.text.as_os_str())?;
    // Too long paths stay open until the superblock exists, for their short names need it.
    let mut held = Vec::with_capacity(devices.len());
    for device in devices {
        let path = OptionPath::new(device)?;
        context.string("device", path.text.as_os_str())?;
        held.push(path);
    }
    context.flag("ro")?;
    context.create()?;
    Ok(context)
}

/// Has the EROFS at `target`, which was mounted from files, read them directly, past their page cache, or
/// not any more. Reads that are under way end as they were begun, and pages that were read stay; names that
/// nobody uses are looked up again.
///
/// # Errors
/// [`Error::Open`], also where something else lies at `target`; [`Error::Setup`].
pub fn erofs_reads_directly(target: &Path, directly: bool) -> Result<(), Error> {
    let failed = |source: io::Error| Error::Open {
        path: target.to_owned(),
        source,
    };
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let root = rustix::fs::open(target, flags, Mode::empty()).map_err(|it| failed(it.into()))?;
    // If somebody has unmounted it, this is the filesystem below: not ours to change.
    let kind = rustix::fs::fstatfs(&root).map_err(|error| failed(error.into()))?;
    if u32::try_from(kind.f_type) != Ok(EROFS_SUPER_MAGIC_V1) {
        return Err(failed(io::Error::other("no EROFS is mounted there")));
    }
    let flags = new::FsPickFlags::FSPICK_CLOEXEC | new::FsPickFlags::FSPICK_EMPTY_PATH;
    let fd = new::fspick(&root, "", flags).map_err(|error| failed(error.into()))?;
    let context = Context { kind: "erofs", fd };
    // Every option is as it was at first, but for those that are given.
    if directly {
        context.flag("directio")?;
    }
    new::fsconfig_reconfigure(&context.fd)
        .map_err(|error| context.error("reconfigure".to_owned(), error))
}

fn erofs_on_loops(layout: &Path, devices: &[&Path]) -> Result<Mount, Error> {
    let attach = |path: &&Path| {
        loop_device::attach(path, loop_device::Access::ReadOnly).map_err(|source| Error::Loop {
            path: path.to_path_buf(),
            source,
        })
    };
    let layout = attach(&layout)?;
    let devices = devices.iter().map(attach).collect::<Result<Vec<_>, _>>()?;
    let paths: Vec<_> = devices.iter().map(|device| device.path()).collect();
    // The mount holds the loop devices when ours are closed, and clears them when it goes.
    let mount = erofs_superblock(layout.path(), &paths)?.mount(read_only())?;
    let bdi = bdi::of_device(&mount.fd);
    Ok(Mount { bdi, ..mount })
}

/// A FUSE filesystem over the connection behind `device` (`/dev/fuse`, just opened), read-only and
/// for root only.
///
/// # Errors
/// [`Error::Setup`] with the kernel's words, [`Error::Filesystem`].
pub fn fuse(device: BorrowedFd<'_>) -> Result<Mount, Error> {
    let context = Context::new("fuse")?;
    let number = device.as_raw_fd().to_string();
    for (key, value) in [
        ("source", "thaw"),
        ("subtype", "thaw"),
        ("fd", &number),
        ("rootmode", "40500"),
        ("user_id", "0"),
        ("group_id", "0"),
    ] {
        context.string(key, OsStr::new(value))?;
    }
    context.flag("ro")?;
    context.create()?;
    let attributes = new::MountAttrFlags::MOUNT_ATTR_NOSUID | new::MountAttrFlags::MOUNT_ATTR_NODEV;
    context.mount(read_only() | attributes)
}

/// Tries whether `layout` can be mounted straight from the file, without a loop device. Leaves
/// nothing behind.
///
/// # Errors
/// As [`erofs`]; `ENOTBLK` from a kernel that wants a block device.
pub fn try_file_backed_erofs(layout: &Path, devices: &[&Path]) -> Result<(), Error> {
    erofs_superblock(layout, devices).map(drop)
}

/// Tries whether `layout` can be mounted from loop devices. Leaves nothing behind.
///
/// # Errors
/// As [`erofs`].
pub fn try_erofs_on_loops(layout: &Path, devices: &[&Path]) -> Result<(), Error> {
    erofs_on_loops(layout, devices).map(drop)
}

/// Whether the kernel has the filesystem `kind`; loads its module.
///
/// # Errors
/// [`Error::Filesystem`].
pub fn probe(kind: &'static str) -> Result<(), Error> {
    Context::new(kind).map(drop)
}

/// Mounts a tmpfs of at most `size` bytes (`None`: half the memory) whose root has `mode`.
///
/// # Errors
/// [`Error::Setup`].
pub fn tmpfs(size: Option<u64>, mode: u32) -> Result<Mount, Error> {
    let context = Context::new("tmpfs")?;
    context.string("source", OsStr::new("tmpfs"))?;
    if let Some(size) = size {
        context.string("size", OsStr::new(&size.to_string()))?;
    }
    context.string("mode", OsStr::new(&format!("{mode:o}")))?;
    context.create()?;
    let attributes = new::MountAttrFlags::MOUNT_ATTR_NOSUID | new::MountAttrFlags::MOUNT_ATTR_NODEV;
    context.mount(attributes)
}

/// Mounts the ext4 filesystem in a file, to be read and written.
///
/// # Errors
/// [`Error::Loop`], [`Error::Setup`].
pub fn ext4(file: &Path) -> Result<Mount, Error> {
    let access = loop_device::Access::ReadWrite;
    let device = loop_device::attach(file, access).map_err(|source| Error::Loop {
        path: file.to_path_buf(),
        source,
    })?;
    let context = Context::new("ext4")?;
    context.string("source", device.path().as_os_str())?;
    context.create()?;
    let attributes = new::MountAttrFlags::MOUNT_ATTR_NOSUID | new::MountAttrFlags::MOUNT_ATTR_NODEV;
    context.mount(attributes)
}

/// The tree at `source` once more, with the mounts below it.
///
/// # Errors
/// [`Error::Open`].
pub fn bind(source: &Path) -> Result<Mount, Error> {
    let flags = new::OpenTreeFlags::OPEN_TREE_CLONE
        | new::OpenTreeFlags::OPEN_TREE_CLOEXEC
        | new::OpenTreeFlags::AT_RECURSIVE;
    let fd = new::open_tree(CWD, source, flags).map_err(|error| Error::Open {
        path: source.to_owned(),
        source: error.into(),
    })?;
    Ok(Mount { fd, bdi: None })
}

/// When an unmount happens.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Unmount {
    /// Now, or not at all if something uses it.
    Now,
    /// The name now, the filesystem when nothing uses it any more.
    Lazy,
}

/// Unmounts what is uppermost at `target`.
///
/// # Errors
/// [`Error::Unmount`]: `EBUSY` when in use, `EINVAL` when it is no mount point.
pub fn unmount(target: &Path, when: Unmount) -> Result<(), Error> {
    let flags = match when {
        Unmount::Now => new::UnmountFlags::NOFOLLOW,
        Unmount::Lazy => new::UnmountFlags::NOFOLLOW | new::UnmountFlags::DETACH,
    };
    new::unmount(target, flags).map_err(|error| Error::Unmount {
        target: target.to_owned(),
        source: error.into(),
    })
}
