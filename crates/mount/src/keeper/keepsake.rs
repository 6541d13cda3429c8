//! What a third process holds so that daemon and keeper may die together: the event group or FUSE
//! connection, and the tars of the layers that it cares for.
//!
//! While the process lives the source does, and no reader gets past it; the next daemon duplicates
//! what it holds (pidfd_getfd(2)) and goes on from there. The tars are as needed as the group: a
//! descriptor that is opened after the mark raises events itself. The process does nothing with
//! them while there is a keeper. When there is none, it sees to it that there is one again, and
//! when that fails it denies what waits.

use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use rustix::fs::{OFlags, fcntl_getfl};
use thaw_cache::PresenceReader;
use thaw_sys::process::{descriptors_of, link_of};

use super::source::Source;
use super::{Inherited, devices_beside, life};
use crate::LayerSpec;

/// How often it is looked for what is to be denied.
const DENIAL_PAUSE: Duration = Duration::from_millis(10);

/// The event group or FUSE connection of a daemon, and tars of layers, held as long as this lives.
#[derive(Debug)]
#[must_use = "what is dropped is not held"]
pub struct Keepsake {
    source: Source,
    _tars: Vec<OwnedFd>,
    /// Where the keeper listens.
    socket: PathBuf,
}

impl Keepsake {
    /// Duplicates what the daemon with the process id `daemon` has of its group or connection, and
    /// of `tars`; its keeper listens at `socket`.
    ///
    /// # Errors
    /// Those of pidfd_getfd(2); the daemon is gone, has neither, or may not be traced.
    pub fn of(daemon: i32, tars: &[PathBuf], socket: PathBuf) -> io::Result<Self> {
        let wanted =
            |link: &Path| Source::kind_of(link).is_some() || tars.iter().any(|tar| tar == link);
        let (mut source, mut held) = (None::<Source>, Vec::new());
        for (link, fd) in descriptors_of(daemon, wanted)? {
            match Source::kind_of(&link) {
                // It may have one, too, of a transport that has ended.
                Some(kind) if source.as_ref().is_none_or(|known| !known.has_files()) => {
                    source = Some(Source::from_fd(kind, fd));
                }
                Some(_) => {}
                None if is_tar(&fd) => held.push(fd),
                None => {}
            }
        }
        Ok(Self {
            source: source.ok_or(io::ErrorKind::NotFound)?,
            _tars: held,
            socket,
        })
    }

    /// Duplicates the event group or connection that is among `given`; its keeper listens at `socket`.
    #[must_use]
    pub fn given<'a>(
        mut given: impl Iterator<Item = BorrowedFd<'a>>,
        socket: PathBuf,
    ) -> Option<Self> {
        let source = |fd: BorrowedFd<'_>| {
            let kind = Source::kind_of(&link_of(fd).ok()?)?;
            Some(Source::from_fd(kind, fd.try_clone_to_owned().ok()?))
        };
        Some(Self {
            source: given.find_map(source)?,
            _tars: Vec::new(),
            socket,
        })
    }

    /// Whether readers have nobody but us: a file is served, and there is no keeper to do it. So it
    /// is for a moment, too, when a daemon replaces its keeper.
    #[must_use]
    pub fn is_alone(&self) -> bool {
        !life::is_shown(&self.socket) && self.source.has_files()
    }

    /// Whether somebody has to serve files that we hold.
    #[must_use]
    pub fn is_needed(&self) -> bool {
        self.source.has_files()
    }

    /// Whether there is a keeper, but it is stopped: readers wait for it.
    #[must_use]
    pub fn has_a_stopped_keeper(&self) -> bool {
        life::stopped(&self.socket).is_some() && self.source.has_files()
    }

    /// Kills a keeper that is stopped; what it had is denied by the next one, or by us.
    pub fn kill_stopped_keeper(&self) {
        if let Some(keeper) = life::stopped(&self.socket)
            && let Err(error) = keeper.kill()
        {
            tracing::warn!(%error, "cannot kill the keeper, which is stopped");
        }
    }

    /// Denies with `EIO` what waits for the dead keeper, and what would wait for the next one: all that
    /// comes for as long as `time`, but for when there is a keeper.
    pub fn deny_waiting(&self, time: Duration) {
        let (begin, mut recovered) = (Instant::now(), false);
        loop {
            let denied = life::without_keeper(&self.socket, || {
                if !recovered {
                    self.source.recover(&devices_beside(&self.socket));
                }
                self.source.deny_waiting();
            });
            match denied {
                Ok(denied) => recovered |= denied.is_some(),
                Err(error) => tracing::warn!(%error, "not known whether there is a keeper"),
            }
            if begin.elapsed() >= time {
                return;
            }
            thread::sleep(DENIAL_PAUSE.min(time));
        }
    }
}

/// What was saved from dead processes.
#[derive(Debug)]
pub(crate) struct Saved {
    pub(crate) source: Source,
    pub(crate) layers: Vec<Inherited>,
}

/// What was saved, if the source is among it: `given` by a custodian, or in the hands of the processes
/// `holders`.
pub(crate) fn find(given: Vec<OwnedFd>, holders: &[i32]) -> Option<Saved> {
    let mut found = Found::default();
    for fd in given {
        match link_of(&fd) {
            Ok(link) => found.add(&link, fd),
            Err(error) => tracing::warn!(%error, "a descriptor that was given is not known"),
        }
    }
    for pid in holders {
        if let Err(error) = found.add_all(*pid) {
            tracing::warn!(pid, %error, "cannot have what a monitor holds");
        }
    }
    found.saved()
}

/// What the process `pid` holds; `None` where it has no source that serves files.
pub(crate) fn held_by(pid: i32) -> io::Result<Option<Saved>> {
    let mut found = Found::default();
    found.add_all(pid)?;
    Ok(found.saved())
}

/// What was found so far.
#[derive(Default)]
struct Found {
    source: Option<Source>,
    layers: Vec<Inherited>,
}

impl Found {
    /// Adds what a process holds.
    fn add_all(&mut self, pid: i32) -> io::Result<()> {
        let wanted = |link: &Path| Source::kind_of(link).is_some() || spec_of(link).is_some();
        for (link, fd) in descriptors_of(pid, wanted)? {
            self.add(&link, fd);
        }
        Ok(())
    }

    fn saved(self) -> Option<Saved> {
        let Self { source, layers } = self;
        source.map(|source| Saved { source, layers })
    }

    /// Adds a descriptor whose link is `link`, if it is of use.
    fn add(&mut self, link: &Path, fd: OwnedFd) {
        if let Some(kind) = Source::kind_of(link) {
            let held = Source::from_fd(kind, fd);
            let known = self.source.take();
            // It may be that of a keeper that ended long ago, when nothing of it was served any more.
            self.source = known.or(Some(held).filter(Source::has_files));
        } else if let Some(spec) = spec_of(link)
            && is_tar(&fd)
            && self.layers.iter().all(|layer| layer.spec != spec)
        {
            self.layers.push(Inherited { spec, tar: fd });
        }
    }
}

/// Whether a descriptor with the path of a tar is the one that it is filled by. That of an event has the same path, but
/// nothing can be written to it.
fn is_tar(fd: &OwnedFd) -> bool {
    fcntl_getfl(fd).is_ok_and(|flags| flags & OFlags::ACCMODE == OFlags::RDWR)
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

#[cfg(test)]
mod tests {
    use std::fs::File;

    use thaw_cache::Store;
    use thaw_image::{DiffId, Digest};

    use super::*;

    #[test]
    fn the_descriptor_of_an_event_is_not_taken_for_a_tar() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        let layer = store.layers().open(&DiffId(Digest::of(b"a")), 4096);
        let path = layer.unwrap().path().to_owned();
        let mut found = Found::default();
        let of_an_event = File::open(&path).unwrap();
        let tar = File::options().read(true).write(true).open(&path).unwrap();
        for file in [of_an_event, tar] {
            found.add(&path, file.into());
        }
        let [layer] = &found.layers[..] else {
            panic!("{:?}", found.layers)
        };
        assert!(is_tar(&layer.tar));
    }
}
