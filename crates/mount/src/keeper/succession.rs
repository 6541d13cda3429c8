//! How a daemon comes by its keeper: the one that is there, or another for a source that was saved,
//! or a first one.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::process::{Command as Program, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use thaw_sys::socket;

use super::keepsake::{self, Saved};
use super::life;
use super::link::Link;
use super::message::{Command, Notice};
use super::source::{self, Source};
use super::{Inherited, KeeperSettings, PROTOCOL};
use crate::{LayerSpec, MountError};

/// For how long a keeper that is there may take to say what it has, until it is taken for hung.
const GREETING_TIMEOUT: Duration = Duration::from_secs(5);
/// For how long the daemon before us may take to be gone for good: its connection to the keeper
/// may end later than what made it the owner of the store.
const PREDECESSOR_TIMEOUT: Duration = Duration::from_secs(8);
/// For how long a keeper that was just started may take to listen.
const BIRTH_TIMEOUT: Duration = Duration::from_millis(100);
/// For how long a process may take to die.
const ENDING_TIMEOUT: Duration = Duration::from_secs(2);
/// Between two tries.
const PAUSE: Duration = Duration::from_millis(10);

/// What a daemon begins with.
#[derive(Debug)]
pub(crate) struct Succession {
    pub(crate) link: Link,
    pub(crate) source: Source,
    /// Layers that the keeper serves already.
    pub(crate) inherited: Vec<Inherited>,
    /// Whether a FUSE connection was found that has died with all its holders.
    pub(crate) over_a_dead_fuse: bool,
}

/// Connects to a keeper, whichever way there is, and has a custodian hold what it needs from now on.
pub(crate) fn connect(settings: &KeeperSettings) -> Result<Succession, MountError> {
    let custody = settings.custody();
    let (left, given): (Vec<String>, Vec<OwnedFd>) = custody.take().into_iter().unzip();
    let found = connect_to_any(settings, given)?;
    let layers = found.inherited.iter();
    let layers = layers.map(|layer| (layer.spec.diff_id, layer.tar.as_fd()));
    custody.begin(&left, &found.source, layers);
    Ok(found)
}

/// The keeper that is there, or another one for what was saved, or a first one.
fn connect_to_any(
    settings: &KeeperSettings,
    given: Vec<OwnedFd>,
) -> Result<Succession, MountError> {
    if let Some(found) = take_over_any(settings, Duration::ZERO)? {
        return Ok(found);
    }
    let Some(saved) = keepsake::find(given, &settings.holders) else {
        return begin(settings);
    };
    // Two readers of one source would answer each other's readers: be sure that there is none.
    match take_over_any(settings, BIRTH_TIMEOUT)? {
        Some(found) => Ok(found),
        None => revive(settings, saved),
    }
}

/// A first keeper.
fn begin(settings: &KeeperSettings) -> Result<Succession, MountError> {
    let kind = settings.transport.ok_or(MountError::NoKeeper)?;
    let devices = settings.devices();
    let over_a_dead_fuse = source::unmount(&devices)?;
    let source = Source::new(kind, &devices)?;
    let link = spawn(settings, &source)?;
    tell_layers(&link, std::iter::empty())?;
    Ok(Succession {
        link,
        source,
        inherited: Vec::new(),
        over_a_dead_fuse,
    })
}

/// Takes over the keeper that listens, or begins to within `patience`.
fn take_over_any(
    settings: &KeeperSettings,
    patience: Duration,
) -> Result<Option<Succession>, MountError> {
    let begin = Instant::now();
    loop {
        match socket::connect(&settings.socket).map(|socket| take_over(socket, settings)) {
            Ok(Err(MountError::Owned(_))) if begin.elapsed() < PREDECESSOR_TIMEOUT => {}
            // It died while we spoke: as if we had come later.
            Ok(Err(error @ (MountError::Gone | MountError::Socket { .. })))
                if has_ended(&settings.socket) =>
            {
                tracing::warn!(%error, "the keeper ended while it was taken over");
                return Ok(None);
            }
            Ok(other) => return other.map(Some),
            Err(_) if begin.elapsed() < patience => {}
            Err(_) => return Ok(None),
        }
        thread::sleep(PAUSE);
    }
}

/// Whether the keeper is dead. Its connection may have ended before its other files are closed.
fn has_ended(socket: &Path) -> bool {
    let begin = Instant::now();
    while life::is_shown(socket) {
        if begin.elapsed() >= ENDING_TIMEOUT {
            return false;
        }
        thread::sleep(PAUSE);
    }
    true
}

/// Another keeper for the source of one that is of no use: what it holds is duplicated before it is
/// killed.
fn replace(other: &Link, settings: &KeeperSettings, why: &str) -> Result<Succession, MountError> {
    tracing::error!(pid = other.pid(), why, "the keeper is replaced");
    let saved = keepsake::find(Vec::new(), &[other.pid()]);
    other.kill();
    other.wait_dead();
    revive(settings, saved.ok_or(MountError::Gone)?)
}

/// Another keeper for a source whose keeper and daemon are dead.
fn revive(settings: &KeeperSettings, saved: Saved) -> Result<Succession, MountError> {
    let Saved { source, layers } = saved;
    tracing::error!(layers = layers.len(), "daemon and keeper are dead");
    source.recover(&settings.devices());
    let link = spawn(settings, &source)?;
    tell_layers(
        &link,
        layers.iter().map(|layer| (&layer.spec, layer.tar.as_fd())),
    )?;
    Ok(Succession {
        link,
        source,
        inherited: layers,
        over_a_dead_fuse: false,
    })
}

/// Tells a new keeper of all layers, and lets it begin.
pub(crate) fn tell_layers<'a>(
    link: &Link,
    layers: impl Iterator<Item = (&'a LayerSpec, BorrowedFd<'a>)>,
) -> Result<(), MountError> {
    let failed = |source| MountError::Socket {
        what: "write to",
        source,
    };
    for (spec, tar) in layers {
        // Request 0 is nobody's: a refusal makes reads of that layer fail, not of all.
        let command = Command::Register {
            request: 0,
            spec: spec.clone(),
        };
        link.tell(&command, Some(tar)).map_err(failed)?;
    }
    link.tell(&Command::Serve, None).map_err(failed)
}

/// Starts a keeper that holds `source`. It takes no readers before it is told to serve.
pub(crate) fn spawn(settings: &KeeperSettings, source: &Source) -> Result<Link, MountError> {
    let failed = |source| MountError::Spawn {
        exe: settings.exe.clone(),
        source,
    };
    let (ours, theirs) = socket::pair().map_err(failed)?;
    let child = Program::new(&settings.exe)
        .args(&settings.args)
        .stdin(Stdio::from(theirs))
        .stdout(Stdio::null())
        .spawn()
        .map_err(failed)?;
    let link = Link::to_child(ours, child).map_err(failed)?;
    let hello = Command::Hello {
        version: u64::from(PROTOCOL),
        fault_timeout: settings.fault_timeout,
        idle_timeout: settings.idle_timeout,
        socket: settings.socket.clone(),
        kind: source.kind(),
        devices: settings.devices(),
    };
    link.tell(&hello, Some(source.as_fd())).map_err(failed)?;
    Ok(link)
}

/// Takes over a keeper that lives: its source and its layers. One that says nothing, or speaks
/// another version of the protocol, as after an upgrade, is replaced.
fn take_over(socket: OwnedFd, settings: &KeeperSettings) -> Result<Succession, MountError> {
    let failed = |source| MountError::Socket {
        what: "take over",
        source,
    };
    let link = Link::to_stranger(socket).map_err(failed)?;
    let (source, inherited) = match listen_to(&link, settings) {
        Ok(Some(told)) => told,
        Ok(None) => return replace(&link, settings, "it hangs"),
        Err(MountError::Protocol(why)) => return replace(&link, settings, why),
        Err(error) => return Err(error),
    };
    // A keeper whose daemon died too early does not serve yet.
    link.tell(&Command::Serve, None).map_err(failed)?;
    Ok(Succession {
        link,
        source,
        inherited,
        over_a_dead_fuse: false,
    })
}

/// What a keeper says that it has; `None` if it says nothing.
fn listen_to(
    link: &Link,
    settings: &KeeperSettings,
) -> Result<Option<(Source, Vec<Inherited>)>, MountError> {
    let mut source = None;
    let mut inherited = Vec::new();
    loop {
        if !link.wait(GREETING_TIMEOUT) {
            return Ok(None);
        }
        let (notice, mut fds) = link.receive()?.ok_or(MountError::Gone)?;
        match notice {
            Notice::Welcome { version, kind } if version == u64::from(PROTOCOL) => {
                source = fds.pop().map(|fd| Source::from_fd(kind, fd));
            }
            Notice::Welcome { .. } => return Err(MountError::Protocol("another version")),
            Notice::Busy => return Err(MountError::Owned(settings.socket.clone())),
            Notice::Layer(spec) => {
                let tar = fds.pop().ok_or(MountError::Protocol("no descriptor"))?;
                inherited.push(Inherited { spec, tar });
            }
            Notice::Ready => break,
            Notice::Miss { .. } | Notice::Reply { .. } => {
                return Err(MountError::Protocol("out of turn"));
            }
        }
    }
    let source = source.ok_or(MountError::Protocol("no source"))?;
    Ok(Some((source, inherited)))
}
