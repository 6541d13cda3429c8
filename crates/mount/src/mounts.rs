//! Mounts that are unmade by Drop, unless they are told to outlive this process.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Command;

use thaw_sys::mount::{self, MountEntry, Overlay, Unmount, mount_table};

use crate::{Device, MountError};

/// What a mount guard holds: a target, until it is let go.
#[derive(Debug)]
struct Guard {
    target: Option<PathBuf>,
}

impl Guard {
    fn new(target: &Path) -> Self {
        Self {
            target: Some(target.to_owned()),
        }
    }

    fn target(&self) -> &Path {
        self.target.as_deref().unwrap_or(Path::new(""))
    }

    fn unmount(&mut self, when: Unmount) -> Result<(), MountError> {
        if let Some(target) = &self.target {
            mount::unmount(target, when)?;
            self.target = None;
        }
        Ok(())
    }

    fn detach(mut self) -> PathBuf {
        self.target.take().unwrap_or_default()
    }

    /// Takes over a mount of `kind` that is in the table.
    fn adopt(target: &Path, kind: &str) -> Result<Option<Self>, MountError> {
        Self::adopt_if(target, |entry| entry.kind == kind)
    }

    /// Takes over what is uppermost at `target`, if it is the right one.
    fn adopt_if(
        target: &Path,
        is_ours: impl FnOnce(&MountEntry) -> bool,
    ) -> Result<Option<Self>, MountError> {
        let table = mount_table()?;
        let uppermost = table.iter().rev().find(|entry| entry.target == target);
        Ok(uppermost.is_some_and(is_ours).then(|| Self::new(target)))
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        if let Some(target) = &self.target
            && let Err(error) = mount::unmount(target, Unmount::Lazy)
        {
            tracing::warn!(target = %target.display(), %error, "a mount is left behind");
        }
    }
}

/// How each kind of mount ends.
macro_rules! ends {
    ($($mount:ident),+) => {$(
        impl $mount {
            /// Unmounts it.
            ///
            /// # Errors
            /// [`MountError::Mount`]; then it is still mounted, and Drop tries again lazily.
            pub fn unmount(mut self, when: Unmount) -> Result<(), MountError> {
                self.guard.unmount(when)
            }

            /// Leaves it mounted when this process ends, and gives its target.
            #[must_use]
            pub fn detach(self) -> PathBuf {
                self.guard.detach()
            }
        }
    )+};
}

ends!(LayoutMount, OverlayMount, BindMount, WritableMount);

/// A layout mounted over its devices, read-only. Dropped, it is unmounted lazily.
#[derive(Debug)]
pub struct LayoutMount {
    guard: Guard,
    /// Whether it reads its devices directly; `None`: another process mounted it.
    direct: Option<bool>,
}

impl LayoutMount {
    /// Mounts `layout` at the directory `target`, with `devices` in the order of its device table.
    /// The superblock is its own, so nothing of it is in the page cache.
    ///
    /// `read_ahead_kb` changes how far the kernel reads ahead (its default is 128): what is read
    /// ahead of need is a fault that somebody waits for.
    ///
    /// # Errors
    /// [`MountError::Mount`].
    pub fn new(
        layout: &Path,
        devices: &[Device],
        target: &Path,
        read_ahead_kb: Option<u32>,
    ) -> Result<Self, MountError> {
        let paths: Vec<_> = devices.iter().map(|device| device.path.as_path()).collect();
        let mounted = mount::erofs(layout, &paths)?;
        if let Some(kb) = read_ahead_kb {
            mounted.set_read_ahead_kb(kb)?;
        }
        mounted.attach(target)?;
        Ok(Self {
            guard: Guard::new(target),
            direct: Some(false),
        })
    }

    /// Where it is mounted.
    #[must_use]
    pub fn target(&self) -> &Path {
        self.guard.target()
    }

    /// Has it read its devices directly from now on, past their page cache, or through it. To be asked
    /// for only where [`direct_reads`](crate::direct_reads) says so, and of devices that are files of the store.
    ///
    /// # Errors
    /// [`MountError::Mount`]; it is not tried again until something else is asked for.
    pub fn read_directly(&mut self, directly: bool) -> Result<(), MountError> {
        if self.direct.replace(directly) == Some(directly) {
            return Ok(());
        }
        Ok(mount::erofs_reads_directly(self.target(), directly)?)
    }

    /// Takes over what another process left mounted at `target`; `None` if no layout is there.
    ///
    /// # Errors
    /// [`MountError::Mount`].
    pub fn adopt(target: &Path) -> Result<Option<Self>, MountError> {
        let guard = Guard::adopt(target, "erofs")?;
        Ok(guard.map(|guard| Self {
            guard,
            direct: None,
        }))
    }
}

/// An overlay: a container's, or an image's directories. Dropped, it is unmounted lazily.
#[derive(Debug)]
pub struct OverlayMount {
    guard: Guard,
}

impl OverlayMount {
    /// Mounts `overlay` at the directory `target`.
    ///
    /// # Errors
    /// [`MountError::Mount`].
    pub fn new(overlay: &Overlay, target: &Path) -> Result<Self, MountError> {
        mount::overlay(overlay, target)?;
        Ok(Self {
            guard: Guard::new(target),
        })
    }

    /// Where it is mounted.
    #[must_use]
    pub fn target(&self) -> &Path {
        self.guard.target()
    }

    /// Takes over what another process left mounted at `target`; `None` if no overlay is there.
    ///
    /// # Errors
    /// [`MountError::Mount`].
    pub fn adopt(target: &Path) -> Result<Option<Self>, MountError> {
        Ok(Guard::adopt(target, "overlay")?.map(|guard| Self { guard }))
    }
}

/// A mount that is there, at another directory, too. Dropped, it is unmounted lazily there.
#[derive(Debug)]
pub struct BindMount {
    guard: Guard,
}

impl BindMount {
    /// Shows what is mounted at the directory `source` at the directory `target`.
    ///
    /// # Errors
    /// [`MountError::Mount`].
    pub fn new(source: &Path, target: &Path) -> Result<Self, MountError> {
        mount::bind(source)?.attach(target)?;
        Ok(Self {
            guard: Guard::new(target),
        })
    }

    /// Takes over what another process left mounted at `target`; `None` if it is not of the superblock with
    /// this device number.
    ///
    /// # Errors
    /// [`MountError::Mount`].
    pub fn adopt(target: &Path, device: (u32, u32)) -> Result<Option<Self>, MountError> {
        let guard = Guard::adopt_if(target, |entry| entry.device == device)?;
        Ok(guard.map(|guard| Self { guard }))
    }
}

/// A filesystem of bounded size for what a container writes. Dropped, it is unmounted lazily.
#[derive(Debug)]
pub struct WritableMount {
    guard: Guard,
}

impl WritableMount {
    /// Mounts a tmpfs of at most `size` bytes, else of half of the machine's memory, at the directory `target`.
    ///
    /// # Errors
    /// [`MountError::Mount`].
    pub fn memory(target: &Path, size: Option<u64>) -> Result<Self, MountError> {
        mount::tmpfs(size, 0o755)?.attach(target)?;
        Ok(Self {
            guard: Guard::new(target),
        })
    }

    /// Makes an ext4 filesystem of `size` bytes in `file`, which must not exist and takes space as it is
    /// written, and mounts it at the directory `target`.
    ///
    /// It has no journal: what a container writes does not outlive the machine's crash.
    ///
    /// # Errors
    /// [`MountError::Format`], [`MountError::Mount`].
    pub fn disk(file: &Path, target: &Path, size: u64) -> Result<Self, MountError> {
        format(file, size).map_err(|message| MountError::Format {
            path: file.to_owned(),
            message,
        })?;
        mount::ext4(file)?.attach(target)?;
        Ok(Self {
            guard: Guard::new(target),
        })
    }

    /// Takes over what another process left mounted at `target`; `None` if neither is there.
    ///
    /// # Errors
    /// [`MountError::Mount`].
    pub fn adopt(target: &Path) -> Result<Option<Self>, MountError> {
        let guard = match Guard::adopt(target, "tmpfs")? {
            None => Guard::adopt(target, "ext4")?,
            guard => guard,
        };
        Ok(guard.map(|guard| Self { guard }))
    }
}

/// Has mkfs.ext4 make an empty filesystem.
fn format(file: &Path, size: u64) -> Result<(), String> {
    let made = File::create_new(file).and_then(|made| made.set_len(size));
    made.map_err(|error| error.to_string())?;
    let output = Command::new("mkfs.ext4")
        .args(["-q", "-F", "-m", "0", "-O", "^has_journal"])
        .args(["-E", "lazy_itable_init=1,nodiscard", "-N", &inodes(size)])
        .arg(file)
        .output()
        .map_err(|error| format!("mkfs.ext4: {error} (it is part of e2fsprogs)"))?;
    match output.status.success() {
        true => Ok(()),
        false => Err(String::from_utf8_lossy(&output.stderr).trim().to_owned()),
    }
}

/// One for each 16 KiB, as is usual, and enough for a small one too.
fn inodes(size: u64) -> String {
    (size >> 14).max(1024).to_string()
}
