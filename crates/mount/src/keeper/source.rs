//! How the kernel asks for bytes that a layer tar lacks: as events about the tar itself, or as reads
//! of a file of the same size in a FUSE filesystem. Everything else is the same for both.
//!
//! | | event group | FUSE device |
//! |---|---|---|
//! | EROFS reads | the tar | `DEVICES/<diffid hex>` |
//! | a present range | is let through | is read from the tar and given |
//! | the last holder goes | holes are read as zeros | reads fail |
//! | what a dead keeper had read | is denied | is asked again |
//! | a layer that is whole | has no mark any more | is served as long as it is open |
//!
//! FUSE has a passthrough, which is not used: it is decided when a file is opened, and a layer that
//! is whole when it is mounted is given to EROFS as the plain file that it is. One that is
//! attached in spite of that is being recorded, and its reads must be seen.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::event::{PollFd, PollFlags, poll};
use thaw_image::{DiffId, Extent};
use thaw_sys::fanotify::{Event, Group};
use thaw_sys::fuse::{self, Files, FlatFile};
use thaw_sys::mount::{self, Unmount, mount_table};
use thaw_sys::process::EVENT_GROUP;

use super::EVENT_FD_LIMIT;
use super::layers::{FileId, Layers};
use crate::{Denial, LayerSpec, MountError, TransportKind};

/// Batches of readers that are denied at once: more come only where readers ask on and on.
const DENIED_BATCHES: usize = 1024;

/// What all holders hold, and one keeper reads from.
#[derive(Clone, Debug)]
pub(crate) enum Source {
    Events(Arc<Group>),
    Files(Arc<fuse::Device>),
}

impl Source {
    /// A first one; a FUSE filesystem is mounted at `devices`.
    pub(crate) fn new(kind: TransportKind, devices: &Path) -> Result<Self, MountError> {
        match kind {
            TransportKind::Fanotify => Ok(Self::Events(Arc::new(Group::new()?))),
            TransportKind::Fuse => {
                std::fs::create_dir_all(devices).map_err(|source| MountError::File {
                    what: "make the directory",
                    path: devices.to_owned(),
                    source,
                })?;
                Ok(Self::Files(Arc::new(fuse::Device::mount(devices)?)))
            }
        }
    }

    /// One that another process made.
    pub(crate) fn from_fd(kind: TransportKind, fd: OwnedFd) -> Self {
        match kind {
            TransportKind::Fanotify => Self::Events(Arc::new(Group::from_fd(fd))),
            TransportKind::Fuse => Self::Files(Arc::new(fuse::Device::from_fd(fd))),
        }
    }

    /// What the descriptor with the link `link` (proc_pid_fd(5)) is a source of.
    pub(crate) fn kind_of(link: &Path) -> Option<TransportKind> {
        match link.to_str() {
            Some(EVENT_GROUP) => Some(TransportKind::Fanotify),
            Some(fuse::DEVICE) => Some(TransportKind::Fuse),
            _ => None,
        }
    }

    pub(crate) fn kind(&self) -> TransportKind {
        match self {
            Self::Events(_) => TransportKind::Fanotify,
            Self::Files(_) => TransportKind::Fuse,
        }
    }

    /// One more holder.
    pub(crate) fn holder(&self) -> io::Result<OwnedFd> {
        match self {
            Self::Events(group) => group.holder(),
            Self::Files(device) => device.holder(),
        }
    }

    /// Whether readers can still come from it. A FUSE connection can be ended from outside.
    pub(crate) fn is_live(&self) -> bool {
        let mut fds = [PollFd::new(self, PollFlags::IN)];
        let now = rustix::time::Timespec::default();
        poll(&mut fds, Some(&now)).is_ok() && !fds[0].revents().contains(PollFlags::ERR)
    }

    /// Whether there may be files that somebody must serve.
    pub(crate) fn has_files(&self) -> bool {
        match self {
            Self::Events(group) => group.has_marks().unwrap_or(true),
            Self::Files(_) => self.is_live(),
        }
    }

    /// Whether the kernel asks for files that nobody may know: when the last holder of an event group goes,
    /// their holes are read as zeros. Reads of a FUSE connection fail then.
    pub(crate) fn is_needed(&self) -> bool {
        matches!(self, Self::Events(_)) && self.has_files()
    }

    /// Takes the readers that wait, at most a batch, and at most `most` that are a descriptor each.
    pub(crate) fn read(&self, layers: &Layers, most: usize) -> Result<Vec<Reader>, MountError> {
        Ok(match self {
            Self::Events(group) => {
                let events = group.read(most)?;
                events.into_iter().map(Reader::Event).collect()
            }
            Self::Files(device) => {
                let reads = device.read(layers)?;
                reads.into_iter().map(Reader::Read).collect()
            }
        })
    }

    /// What the kernel will name when it asks for the layer.
    pub(crate) fn file_of(&self, spec: &LayerSpec, tar: BorrowedFd<'_>) -> io::Result<FileId> {
        match self {
            Self::Events(_) => FileId::of(tar),
            Self::Files(_) => Ok(FileId::Node(node_of(&spec.diff_id))),
        }
    }

    /// Has the kernel ask before it lets a later opener of the tar read.
    pub(crate) fn watch(&self, tar: BorrowedFd<'_>) -> Result<(), MountError> {
        match self {
            Self::Events(group) => Ok(group.mark(tar)?),
            Self::Files(_) => Ok(()),
        }
    }

    /// Has the kernel ask no more.
    pub(crate) fn unwatch(&self, tar: BorrowedFd<'_>) {
        if let Self::Events(group) = self
            && let Err(error) = group.unmark(tar)
        {
            tracing::warn!(%error, "a tar is watched still");
        }
    }

    /// Deals with the readers that a dead keeper had: nobody reads from the source now.
    pub(crate) fn recover(&self, devices: &Path) {
        match self {
            Self::Events(group) => {
                let denied = group.deny_all(i32::from(EVENT_FD_LIMIT));
                tracing::error!(denied, "the keeper died; its waiting reads were denied");
            }
            Self::Files(device) => match device.resend() {
                Ok(()) => tracing::error!("the keeper died; its waiting reads come again"),
                Err(error) => {
                    let denied = device.deny_lost(devices).ok();
                    tracing::error!(denied, %error, "the keeper died; its waiting reads were denied");
                }
            },
        }
    }

    /// Denies everything that waits: nobody else reads, and no reader may wait for ever. Of those that ask on and on
    /// some are left for the next time.
    pub(crate) fn deny_waiting(&self) {
        for _ in 0..DENIED_BATCHES {
            match self.read(&Layers::new(), usize::MAX) {
                // Dropped, they are denied.
                Ok(readers) if !readers.is_empty() => {}
                _ => return,
            }
        }
    }
}

impl AsFd for Source {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Events(group) => group.as_fd(),
            Self::Files(device) => device.as_fd(),
        }
    }
}

/// Takes away the FUSE filesystems at `devices`, and says whether there was one. Files that are
/// open stay so.
pub(crate) fn unmount(devices: &Path) -> Result<bool, MountError> {
    let table = mount_table()?;
    let found = table.iter().filter(|entry| entry.target == devices).count();
    for _ in 0..found {
        mount::unmount(devices, Unmount::Lazy)?;
    }
    Ok(found > 0)
}

/// The file in `devices` that is the layer.
pub(crate) fn path_of(devices: &Path, layer: &DiffId) -> PathBuf {
    devices.join(layer.0.hex())
}

/// The number of a layer: a part of its digest, so that every keeper has the same.
fn node_of(layer: &DiffId) -> fuse::Node {
    let head = layer
        .0
        .as_bytes()
        .first_chunk()
        .copied()
        .unwrap_or_default();
    // Neither 0 nor 1.
    fuse::Node(u64::from_le_bytes(head) | 1 << 63)
}

impl Files for Layers {
    fn find(&self, name: &[u8]) -> Option<FlatFile> {
        let name = std::str::from_utf8(name).ok()?;
        let layer = DiffId(thaw_image::Digest::from_hex(name).ok()?);
        self.get_file(node_of(&layer))
    }

    fn get(&self, node: fuse::Node) -> Option<FlatFile> {
        self.get_file(node)
    }
}

/// A reader that waits: denied when it is dropped.
#[derive(Debug)]
pub(crate) enum Reader {
    Event(Event),
    Read(fuse::Read),
}

impl Reader {
    /// The reader's process or thread.
    pub(crate) fn pid(&self) -> i32 {
        match self {
            Self::Event(event) => event.pid(),
            Self::Read(read) => read.pid(),
        }
    }

    /// The file that is read.
    pub(crate) fn file(&self) -> io::Result<FileId> {
        match self {
            Self::Event(event) => FileId::of(event),
            Self::Read(read) => Ok(FileId::Node(read.node())),
        }
    }

    /// The bytes wanted; `None` if the kernel did not say.
    pub(crate) fn range(&self) -> Option<Extent> {
        match self {
            Self::Event(event) => event.range().map(|range| Extent {
                offset: range.offset,
                len: range.count,
            }),
            Self::Read(read) => Some(Extent {
                offset: read.offset(),
                len: u64::from(read.size()),
            }),
        }
    }

    /// Lets the read fail. A reader that was killed meanwhile needs no answer.
    pub(crate) fn deny(self, denial: Denial) {
        let denied: Result<(), MountError> = match self {
            Self::Event(event) => event.deny(denial).map_err(Into::into),
            Self::Read(read) => read.deny(denial.errno()).map_err(Into::into),
        };
        if let Err(error) = denied {
            tracing::debug!(%error, "a reader is gone");
        }
    }
}
