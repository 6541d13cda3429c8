//! What a third process holds so that daemon and keeper may die together: the event group, and
//! the tars of the layers that it cares for.
//!
//! While the process lives the group does, and no reader gets past it; the next daemon duplicates
//! what it holds (pidfd_getfd(2)) and goes on from there. The tars are as needed as the group: a
//! descriptor that is opened after the mark raises events itself. The process does nothing with
//! them while there is a keeper. When there is none, it sees to it that there is one again, and
//! when that fails it denies what waits.

use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use thaw_cache::PresenceReader;
use thaw_sys::fanotify::Group;
use thaw_sys::process::{EVENT_GROUP, descriptors_of};

use super::{EVENT_FD_LIMIT, Inherited, life};
use crate::LayerSpec;

/// The event group of a daemon, and tars of layers, held as long as this lives.
#[derive(Debug)]
#[must_use = "what is dropped is not held"]
pub struct Keepsake {
    group: Arc<Group>,
    _tars: Vec<OwnedFd>,
    /// Where the keeper listens.
    socket: PathBuf,
}

impl Keepsake {
    /// Duplicates what the daemon with the process id `daemon` has of its group and of `tars`; its
    /// keeper listens at `socket`.
    ///
    /// # Errors
    /// Those of pidfd_getfd(2); the daemon is gone, has no group, or may not be traced.
    pub fn of(daemon: i32, tars: &[PathBuf], socket: PathBuf) -> io::Result<Self> {
        let is_group = |link: &Path| link == Path::new(EVENT_GROUP);
        let wanted = |link: &Path| is_group(link) || tars.iter().any(|tar| tar == link);
        let held = descriptors_of(daemon, wanted)?;
        let (groups, tars): (Vec<_>, Vec<_>) =
            held.into_iter().partition(|(link, _)| is_group(link));
        let group = groups.into_iter().next().ok_or(io::ErrorKind::NotFound)?;
        Ok(Self {
            group: Arc::new(Group::from_fd(group.1)),
            _tars: tars.into_iter().map(|(_, tar)| tar).collect(),
            socket,
        })
    }

    /// Whether readers have nobody but us: a file raises events, and there is no keeper to answer
    /// them. So it is for a moment, too, when a daemon replaces its keeper.
    #[must_use]
    pub fn is_alone(&self) -> bool {
        !life::is_shown(&self.socket) && self.group.has_marks().unwrap_or(true)
    }

    /// Denies with `EIO` what waits for the dead keeper, and what would wait for the next one.
    /// Returns how many there were. Only for when there is no keeper.
    pub fn deny_waiting(&self) -> usize {
        let mut denied = self.group.deny_all(i32::from(EVENT_FD_LIMIT));
        while let Ok(events) = self.group.read()
            && !events.is_empty()
        {
            // Dropped, they are denied.
            denied += events.len();
        }
        denied
    }
}

/// What was saved from dead processes.
#[derive(Debug)]
pub(crate) struct Saved {
    pub(crate) group: Group,
    pub(crate) layers: Vec<Inherited>,
}

/// What the processes `holders` have saved, if one of them has the group.
pub(crate) fn find(holders: &[i32]) -> Option<Saved> {
    let mut group = None;
    let mut layers: Vec<Inherited> = Vec::new();
    for pid in holders {
        let wanted = |link: &Path| link == Path::new(EVENT_GROUP) || spec_of(link).is_some();
        let held = match descriptors_of(*pid, wanted) {
            Ok(held) => held,
            Err(error) => {
                tracing::warn!(pid, %error, "cannot have what a monitor holds");
                continue;
            }
        };
        for (link, fd) in held {
            match spec_of(&link) {
                Some(spec) if layers.iter().any(|layer| layer.spec == spec) => {}
                Some(spec) => layers.push(Inherited { spec, tar: fd }),
                None => group = group.or(Some(Group::from_fd(fd))),
            }
        }
    }
    group.map(|group| Saved { group, layers })
}

/// The layer whose tar is at `path`.
fn spec_of(path: &Path) -> Option<LayerSpec> {
    let (presence, reader) = PresenceReader::beside(path)?;
    Some(LayerSpec {
        diff_id: reader.diff_id(),
        size: reader.tar_size(),
        tar: path.to_owned(),
        presence,
    })
}
