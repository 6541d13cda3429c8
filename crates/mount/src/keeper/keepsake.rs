//! What a third process holds so that daemon and keeper may die together: the event group, and
//! the tars of the layers that it cares for.
//!
//! The process does nothing with them. While it lives the group does, and no reader gets past it;
//! the next daemon duplicates what it holds (pidfd_getfd(2)) and goes on from there. The tars
//! are as needed as the group: a descriptor that is opened after the mark raises events itself.

use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use thaw_cache::PresenceReader;
use thaw_sys::fanotify::Group;
use thaw_sys::process::{EVENT_GROUP, descriptors_of};

use super::Inherited;
use crate::LayerSpec;

/// The event group of a daemon, and tars of layers, held as long as this lives.
#[derive(Debug)]
#[must_use = "what is dropped is not held"]
pub struct Keepsake {
    _held: Vec<(PathBuf, OwnedFd)>,
}

impl Keepsake {
    /// Duplicates what the daemon with the process id `daemon` has of its group and of `tars`.
    ///
    /// # Errors
    /// Those of pidfd_getfd(2); the daemon is gone, or may not be traced.
    pub fn of(daemon: i32, tars: &[PathBuf]) -> io::Result<Self> {
        let wanted = |link: &Path| link == Path::new(EVENT_GROUP) || tars.iter().any(|t| t == link);
        Ok(Self {
            _held: descriptors_of(daemon, wanted)?,
        })
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
