//! What a third process holds so that daemon and keeper may die together: the event group or FUSE
//! connection, and the tars of the layers that it cares for.
//!
//! The process does nothing with them. While it lives the source does, and every reader waits;
//! the next daemon duplicates what it holds (pidfd_getfd(2)) and goes on from there. The tars
//! are as needed as the group: a descriptor that is opened after the mark raises events itself.

use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use thaw_cache::PresenceReader;
use thaw_sys::process::descriptors_of;

use super::Inherited;
use super::source::Source;
use crate::LayerSpec;

/// The event group or FUSE connection of a daemon, and tars of layers, held as long as this lives.
#[derive(Debug)]
#[must_use = "what is dropped is not held"]
pub struct Keepsake {
    _held: Vec<(PathBuf, OwnedFd)>,
}

impl Keepsake {
    /// Duplicates what the daemon with the process id `daemon` has of its group or connection, and
    /// of `tars`.
    ///
    /// # Errors
    /// Those of pidfd_getfd(2); the daemon is gone, or may not be traced.
    pub fn of(daemon: i32, tars: &[PathBuf]) -> io::Result<Self> {
        let wanted =
            |link: &Path| Source::kind_of(link).is_some() || tars.iter().any(|t| t == link);
        Ok(Self {
            _held: descriptors_of(daemon, wanted)?,
        })
    }
}

/// What was saved from dead processes.
#[derive(Debug)]
pub(crate) struct Saved {
    pub(crate) source: Source,
    pub(crate) layers: Vec<Inherited>,
}

/// What the processes `holders` have saved, if one of them has the source.
pub(crate) fn find(holders: &[i32]) -> Option<Saved> {
    let mut source = None;
    let mut layers: Vec<Inherited> = Vec::new();
    for pid in holders {
        let wanted = |link: &Path| Source::kind_of(link).is_some() || spec_of(link).is_some();
        let held = match descriptors_of(*pid, wanted) {
            Ok(held) => held,
            Err(error) => {
                tracing::warn!(pid, %error, "cannot have what a monitor holds");
                continue;
            }
        };
        for (link, fd) in held {
            if let Some(kind) = Source::kind_of(&link) {
                let held = Source::from_fd(kind, fd);
                source = source.or(Some(held).filter(Source::is_live));
            } else if let Some(spec) = spec_of(&link)
                && layers.iter().all(|layer| layer.spec != spec)
            {
                layers.push(Inherited { spec, tar: fd });
            }
        }
    }
    source.map(|source| Saved { source, layers })
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
