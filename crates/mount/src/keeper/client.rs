//! The daemon's side: starts the keeper, feeds it, and replaces it when it dies.
//!
//! Locks: `state` is a leaf but for [`Link`]'s own, and is never held over a question.

mod supervisor;

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use thaw_image::{BLOCK, DiffId};
use thaw_sys::lease;

use super::layers::FileId;
use super::link::Link;
use super::message::{Command, MAX_LAYERS, Recorded, Reply, Request};
use super::pool::Pool;
use super::source::{self, Source};
use super::succession::{self, Succession};
use super::{Inherited, KeeperSettings};
use crate::transport::FaultTransport;
use crate::{
    Device, FaultCounters, FaultHandler, LayerSpec, MountError, Released, Trace, TraceEntry,
    TransportKind,
};

/// For how long a question waits for a keeper that is being replaced.
const REPLACE_TIMEOUT: Duration = Duration::from_secs(10);

/// Pre-content events or FUSE reads, answered by a keeper process. Dropped, the keeper goes on without us.
#[derive(Debug)]
pub struct Keeper {
    shared: Arc<Shared>,
    supervisor: Option<JoinHandle<()>>,
}

#[derive(Debug)]
struct Shared {
    settings: KeeperSettings,
    source: Source,
    over_a_dead_fuse: bool,
    state: Mutex<State>,
    changed: Condvar,
    pool: Pool,
}

#[derive(Debug)]
struct State {
    /// The keeper; `None` while it is replaced.
    link: Option<Arc<Link>>,
    layers: BTreeMap<DiffId, Attached>,
    closing: bool,
}

#[derive(Clone, Debug)]
struct Attached {
    spec: LayerSpec,
    tar: Arc<OwnedFd>,
}

/// A layer that is to be attached.
enum Known {
    New(Attached),
    /// It is attached.
    Same,
    /// Another file is attached in its place.
    Other,
}

impl Keeper {
    /// Connects to the keeper that a daemon before us left, or starts one: for the group or
    /// connection that one of the settings' holders has saved, whatever transport that is, else for
    /// a new one. Misses are handed to
    /// `handler` from [`Keeper::serve`] on: whoever inherits layers adopts them first.
    ///
    /// Mounts of layers that are not inherited have lost their keeper: reads of their holes fail,
    /// or give zeros where nobody has saved the group. They must be unmounted.
    ///
    /// # Errors
    /// [`MountError::Owned`] if another daemon is connected; [`MountError::Spawn`],
    /// [`MountError::Events`], [`MountError::Fuse`], [`MountError::Socket`].
    pub fn start(
        settings: KeeperSettings,
        handler: &Arc<dyn FaultHandler>,
    ) -> Result<(Self, Vec<Inherited>), MountError> {
        let Succession {
            link,
            source,
            inherited,
            over_a_dead_fuse,
        } = succession::connect(&settings)?;
        let attached = inherited.iter().map(|layer: &Inherited| {
            let tar = layer.tar.try_clone().map_err(|source| MountError::File {
                what: "duplicate the descriptor of",
                path: layer.spec.tar.clone(),
                source,
            })?;
            let attached = Attached {
                spec: layer.spec.clone(),
                tar: Arc::new(tar),
            };
            Ok((layer.spec.diff_id, attached))
        });
        let layers = attached.collect::<Result<_, MountError>>()?;
        let failed = |source| MountError::Spawn {
            exe: settings.exe.clone(),
            source,
        };
        let pool = Pool::new(settings.threads, handler).map_err(failed)?;
        let link = Arc::new(link);
        let shared = Arc::new(Shared {
            settings: settings.clone(),
            source,
            over_a_dead_fuse,
            state: Mutex::new(State {
                link: Some(Arc::clone(&link)),
                layers,
                closing: false,
            }),
            changed: Condvar::new(),
            pool,
        });
        let supervised = Arc::clone(&shared);
        let supervisor = thread::Builder::new()
            .name("keeper-link".to_owned())
            .spawn(move || supervised.supervise(link))
            .map_err(failed)?;
        let keeper = Self {
            shared,
            supervisor: Some(supervisor),
        };
        // A keeper that replies does listen: the next daemon will find it.
        keeper.counters()?;
        Ok((keeper, inherited))
    }

    /// Hands misses to the handler from now on.
    pub fn serve(&self) {
        self.shared.pool.open();
    }

    /// Whether a FUSE connection was found that has died with all its holders: reads of mounts over
    /// its files fail, whether or not their layers are whole.
    #[must_use]
    pub fn over_a_dead_fuse(&self) -> bool {
        self.shared.over_a_dead_fuse
    }

    /// Whether there may be files that have to be served.
    #[must_use]
    pub fn serves_files(&self) -> bool {
        self.shared.source.has_files()
    }

    /// Runs `act` if nobody has the FUSE file of a layer open, and nobody can open it meanwhile.
    fn if_unused(
        &self,
        layer: &DiffId,
        act: impl FnOnce() -> Result<Reply, MountError>,
    ) -> Result<Reply, MountError> {
        let path = self.path_of(layer);
        let gone = |error: &io::Error| {
            use io::ErrorKind::{ConnectionAborted, NotConnected};
            matches!(error.kind(), ConnectionAborted | NotConnected)
        };
        let alone = match File::open(&path) {
            Ok(file) => lease::while_alone(&file, act),
            // The connection was ended from outside: whoever has it open gets errors.
            Err(error) if gone(&error) && !self.shared.source.is_live() => return act(),
            // The keeper does not know it, and whoever has it open gets errors, too.
            Err(error) if error.kind() == io::ErrorKind::NotFound => return act(),
            Err(error) => Err(error),
        };
        match alone {
            Ok(acted) => acted.unwrap_or(Ok(Reply::InUse)),
            Err(source) => Err(MountError::File {
                what: "see who uses",
                path,
                source,
            }),
        }
    }

    /// Notes a layer, so that a new keeper is told of it; `None` if it is known. One that was made anew, with
    /// the same name, is not the one that is served: that one is let go.
    fn remember(
        &self,
        layer: &LayerSpec,
        tar: BorrowedFd<'_>,
    ) -> Result<Option<Attached>, MountError> {
        match self.shared.remember(layer, tar)? {
            Known::New(attached) => return Ok(Some(attached)),
            Known::Same => return Ok(None),
            Known::Other => {}
        }
        match self.release(&layer.diff_id) {
            Ok(_) | Err(MountError::Unknown(_)) => {}
            Err(MountError::InUse(_)) => {
                let why = "another file is attached for it, which somebody uses still";
                return Err(MountError::Refused(why.to_owned()));
            }
            Err(error) => return Err(error),
        }
        match self.shared.remember(layer, tar)? {
            Known::New(attached) => Ok(Some(attached)),
            Known::Same => Ok(None),
            Known::Other => Err(MountError::Refused("attached otherwise".to_owned())),
        }
    }

    /// No keeper is told of the layer any more.
    fn forget(&self, layer: &DiffId) {
        self.shared.state().layers.remove(layer);
        self.shared.settings.custody().let_go(layer);
    }

    fn path_of(&self, layer: &DiffId) -> PathBuf {
        source::path_of(&self.shared.settings.devices(), layer)
    }

    /// The keeper's process id, if this process started it and it is not being replaced.
    #[must_use]
    pub fn child_pid(&self) -> Option<u32> {
        self.shared.state().link.as_ref()?.child_pid()
    }
}

impl FaultTransport for Keeper {
    fn kind(&self) -> TransportKind {
        self.shared.source.kind()
    }

    fn attach(&self, layer: &LayerSpec, tar: BorrowedFd<'_>) -> Result<Device, MountError> {
        check_size(layer, tar)?;
        let device = Device {
            path: match self.kind() {
                TransportKind::Fanotify => layer.tar.clone(),
                TransportKind::Fuse => self.path_of(&layer.diff_id),
            },
        };
        let Some(attached) = self.remember(layer, tar)? else {
            return Ok(device);
        };
        let custody = self.shared.settings.custody();
        custody.hold(&layer.diff_id, tar);
        let register = |request| Command::Register {
            request,
            spec: layer.clone(),
        };
        let replied = self.shared.ask(register, Some(attached.tar.as_fd()));
        match replied.and_then(done) {
            Ok(()) => Ok(device),
            Err(error) => {
                self.forget(&layer.diff_id);
                // A keeper that died may have had it watched: with a mark, who opens it to fill it raises events.
                if let MountError::Gone = error {
                    self.shared.source.unwatch(tar);
                }
                Err(error)
            }
        }
    }

    fn release(&self, layer: &DiffId) -> Result<Released, MountError> {
        if !self.shared.state().layers.contains_key(layer) {
            return Err(MountError::Unknown(*layer));
        }
        let command = |request| Command::Release {
            request,
            layer: *layer,
        };
        let reply = match self.kind() {
            TransportKind::Fanotify => self.shared.ask(command, None),
            TransportKind::Fuse => self.if_unused(layer, || self.shared.ask(command, None)),
        };
        let released = match reply? {
            Reply::Whole => Released::Whole,
            Reply::Done => Released::Unused,
            Reply::InUse => return Err(MountError::InUse(*layer)),
            // It was refused by the keeper that came after another, say.
            Reply::Unknown => {
                self.forget(layer);
                return Err(MountError::Unknown(*layer));
            }
            other => return Err(unexpected(other)),
        };
        self.forget(layer);
        Ok(released)
    }

    fn start_trace(&self, layers: &[DiffId]) -> Result<(), MountError> {
        for layers in layers.chunks(MAX_LAYERS) {
            let layers = layers.to_vec();
            let command = move |request| Command::StartTrace {
                request,
                layers: layers.clone(),
            };
            done(self.shared.ask(command, None)?)?;
        }
        Ok(())
    }

    fn trace(&self, layers: &[DiffId]) -> Result<Trace, MountError> {
        let mut recorded = Vec::new();
        let mut started: Option<Duration> = None;
        let mut dropped = 0;
        for layer in layers {
            let one = self.shared.trace_of(layer)?;
            started = Some(started.map_or(one.started, |first| first.min(one.started)));
            dropped += one.dropped;
            recorded.extend(one.entries.into_iter().map(|entry| (*layer, entry)));
        }
        recorded.sort_by_key(|(_, entry)| entry.order);
        let started = started.unwrap_or_default();
        let entry = |(layer, recorded): (DiffId, Recorded)| TraceEntry {
            layer,
            extent: recorded.extent,
            at: recorded.at.saturating_sub(started),
        };
        Ok(Trace {
            entries: recorded.into_iter().map(entry).collect(),
            dropped,
        })
    }

    fn counters(&self) -> Result<FaultCounters, MountError> {
        match self
            .shared
            .ask(|request| Command::Counters { request }, None)?
        {
            Reply::Counters(counters) => Ok(*counters),
            other => Err(unexpected(other)),
        }
    }

    fn fence(&self) -> Result<(), MountError> {
        match self.kind() {
            TransportKind::Fanotify => {
                let why =
                    "a read that an event let through is the kernel's, and nobody sees its end";
                Err(MountError::Refused(why.to_owned()))
            }
            TransportKind::Fuse => done(
                self.shared
                    .ask(|request| Command::Fence { request }, None)?,
            ),
        }
    }

    fn shut_down(&self) -> Result<(), MountError> {
        self.shared.state().closing = true;
        let replied = self
            .shared
            .ask(|request| Command::ShutDown { request }, None);
        let ended = replied.and_then(done);
        match &ended {
            Ok(()) => self.shared.settings.custody().end(),
            Err(_) => self.shared.state().closing = false,
        }
        ended
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        let link = {
            let mut state = self.shared.state();
            state.closing = true;
            state.link.clone()
        };
        if let Some(link) = link {
            link.disconnect();
        }
        if let Some(supervisor) = self.supervisor.take() {
            let _ = supervisor.join();
        }
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes a layer that is not known.
    fn remember(&self, layer: &LayerSpec, tar: BorrowedFd<'_>) -> Result<Known, MountError> {
        let failed = |what| {
            let path = layer.tar.clone();
            move |source| MountError::File { what, path, source }
        };
        let mut state = self.state();
        if let Some(known) = state.layers.get(&layer.diff_id) {
            let is_same = |tar| io::Result::Ok(FileId::of(&known.tar)? == FileId::of(tar)?);
            let is_same = known.spec == *layer && is_same(tar).map_err(failed("look at"))?;
            return Ok(match is_same {
                true => Known::Same,
                false => Known::Other,
            });
        }
        let tar = tar
            .try_clone_to_owned()
            .map_err(failed("duplicate the descriptor of"))?;
        let attached = Attached {
            spec: layer.clone(),
            tar: Arc::new(tar),
        };
        state.layers.insert(layer.diff_id, attached.clone());
        Ok(Known::New(attached))
    }

    /// Asks the keeper; once more if it is replaced meanwhile. So every question may be asked twice.
    fn ask(
        &self,
        command: impl Fn(Request) -> Command,
        fd: Option<BorrowedFd<'_>>,
    ) -> Result<Reply, MountError> {
        let deadline = Instant::now() + REPLACE_TIMEOUT;
        loop {
            let link = self.link(deadline)?;
            match link.ask(&command, fd) {
                Err(MountError::Gone) if Instant::now() < deadline => {
                    // Until the supervisor has noticed, too.
                    thread::sleep(Duration::from_millis(1));
                }
                other => return other,
            }
        }
    }

    /// The keeper, or the next one.
    fn link(&self, deadline: Instant) -> Result<Arc<Link>, MountError> {
        let timeout = deadline.saturating_duration_since(Instant::now());
        let gone = |state: &mut State| state.link.is_none();
        let (state, _) = self
            .changed
            .wait_timeout_while(self.state(), timeout, gone)
            .unwrap_or_else(PoisonError::into_inner);
        state.link.clone().ok_or(MountError::Gone)
    }

    /// All entries of a layer's trace, by pages. One that is started afresh meanwhile is begun again.
    fn trace_of(&self, layer: &DiffId) -> Result<super::message::TracePage, MountError> {
        let mut whole = super::message::TracePage::default();
        loop {
            let from = whole.entries.len() as u64;
            let command = |request| Command::Trace {
                request,
                layer: *layer,
                from,
            };
            let page = match self.ask(command, None)? {
                Reply::Trace(page) => page,
                Reply::Unknown => return Err(MountError::Unknown(*layer)),
                other => return Err(unexpected(other)),
            };
            if from > 0 && page.started != whole.started {
                whole = super::message::TracePage::default();
                continue;
            }
            let last = page.entries.is_empty();
            (whole.started, whole.dropped, whole.total) = (page.started, page.dropped, page.total);
            whole.entries.extend(page.entries);
            if last || whole.entries.len() as u64 >= whole.total {
                return Ok(whole);
            }
        }
    }
}

fn check_size(layer: &LayerSpec, tar: BorrowedFd<'_>) -> Result<(), MountError> {
    let status = rustix::fs::fstat(tar).map_err(|error| MountError::File {
        what: "look at",
        path: layer.tar.clone(),
        source: error.into(),
    })?;
    let len = u64::try_from(status.st_size).unwrap_or(0);
    let wanted = layer.size.next_multiple_of(BLOCK);
    if len < wanted {
        return Err(MountError::TooShort {
            layer: layer.diff_id,
            len,
            wanted,
        });
    }
    Ok(())
}

fn done(reply: Reply) -> Result<(), MountError> {
    match reply {
        Reply::Done => Ok(()),
        other => Err(unexpected(other)),
    }
}

fn unexpected(reply: Reply) -> MountError {
    match reply {
        Reply::Refused(reason) => MountError::Refused(reason),
        Reply::Unknown => MountError::Refused("a layer is not attached".to_owned()),
        _ => MountError::Protocol("another reply than asked for"),
    }
}
