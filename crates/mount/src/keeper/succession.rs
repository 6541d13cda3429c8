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
    mut given: Vec<OwnedFd>,
) -> Result<Succession, MountError> {
    if let Some(found) = take_over_any(settings, &mut given, Duration::ZERO)? {
        return Ok(found);
    }
    let Some(saved) = keepsake::find(given, &settings.holders) else {
        return begin(settings);
    };
    // Two readers of one source would answer each other's readers: be sure that there is none.
    match take_over_any(settings, &mut Vec::new(), BIRTH_TIMEOUT)? {
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
    let link = start(settings, &source, std::iter::empty())?;
    Ok(Succession {
        link,
        source,
        inherited: Vec::new(),
        over_a_dead_fuse,
    })
}

/// Takes over the keeper that listens, or begins to within `patience`. `given` by a custodian: used where the
/// keeper does not know all.
fn take_over_any(
    settings: &KeeperSettings,
    given: &mut Vec<OwnedFd>,
    patience: Duration,
) -> Result<Option<Succession>, MountError> {
    let begin = Instant::now();
    loop {
        match socket::connect(&settings.socket).map(|socket| take_over(socket, settings, given)) {
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
///
/// What cannot be duplicated is lost with it, and the holes of its files are read as zeros: then it is left as it is.
fn replace(other: &Link, settings: &KeeperSettings, why: &str) -> Result<Succession, MountError> {
    let saved = match keepsake::held_by(other.pid()) {
        Ok(saved) => saved,
        Err(_) if has_ended(&settings.socket) => return Err(MountError::Gone),
        Err(error) => {
            let reason = format!("cannot have what the keeper holds, which is of no use: {why}");
            tracing::error!(pid = other.pid(), %error, reason);
            return Err(MountError::Refused(format!("{reason} ({error})")));
        }
    };
    replace_by(other, settings, saved, why)
}

/// Another keeper in the place of one, for what was saved: `None` where it serves nothing.
fn replace_by(
    other: &Link,
    settings: &KeeperSettings,
    saved: Option<Saved>,
    why: &str,
) -> Result<Succession, MountError> {
    tracing::error!(pid = other.pid(), why, "the keeper is replaced");
    other.kill();
    other.wait_dead();
    revive(settings, saved.ok_or(MountError::Gone)?)
}

/// Another keeper for a source whose keeper and daemon are dead.
fn revive(settings: &KeeperSettings, saved: Saved) -> Result<Succession, MountError> {
    let Saved { source, layers } = saved;
    tracing::error!(layers = layers.len(), "daemon and keeper are dead");
    source.recover(&settings.devices());
    let told = layers.iter().map(|layer| (&layer.spec, layer.tar.as_fd()));
    let link = start(settings, &source, told)?;
    Ok(Succession {
        link,
        source,
        inherited: layers,
        over_a_dead_fuse: false,
    })
}

/// Starts a keeper that holds `source`, tells it of all layers, and lets it begin when it has them. One that does not get so far is
/// killed.
pub(crate) fn start<'a>(
    settings: &KeeperSettings,
    source: &Source,
    layers: impl Iterator<Item = (&'a LayerSpec, BorrowedFd<'a>)>,
) -> Result<Link, MountError> {
    let link = spawn(settings, source)?;
    match tell_layers(&link, settings, layers) {
        Ok(()) => Ok(link),
        Err(error) => {
            link.kill();
            link.wait_dead();
            Err(error)
        }
    }
}

fn tell_layers<'a>(
    link: &Link,
    settings: &KeeperSettings,
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
        // One that hangs takes some, and then no more.
        link.tell_within(&command, Some(tar), GREETING_TIMEOUT)
            .map_err(failed)?;
    }
    // One of another version, or that cannot listen, has ended by now.
    link.confirm(GREETING_TIMEOUT)?;
    link.tell_within(&serve(settings), None, GREETING_TIMEOUT)
        .map_err(failed)
}

fn serve(settings: &KeeperSettings) -> Command {
    Command::Serve {
        fault_timeout: settings.fault_timeout,
    }
}

/// Starts a keeper that holds `source`. It takes no readers before it is told to serve.
fn spawn(settings: &KeeperSettings, source: &Source) -> Result<Link, MountError> {
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
fn take_over(
    socket: OwnedFd,
    settings: &KeeperSettings,
    given: &mut Vec<OwnedFd>,
) -> Result<Succession, MountError> {
    let failed = |source| MountError::Socket {
        what: "take over",
        source,
    };
    let link = Link::to_stranger(socket).map_err(failed)?;
    let Told {
        source,
        mut inherited,
        incomplete,
    } = match listen_to(&link, settings) {
        Ok(Some(told)) => told,
        Ok(None) => return replace(&link, settings, "it hangs"),
        Err(MountError::Protocol(why)) => return replace(&link, settings, why),
        Err(error) => return Err(error),
    };
    if incomplete {
        // The daemon that started it died in the middle: others may hold what it was not told.
        let others = keepsake::find(std::mem::take(given), &settings.holders);
        let known = inherited.len();
        for layer in others.map(|saved| saved.layers).unwrap_or_default() {
            if inherited.iter().all(|known| known.spec != layer.spec) {
                inherited.push(layer);
            }
        }
        if inherited.len() > known {
            let layers = inherited;
            let saved = Some(Saved { source, layers });
            return replace_by(&link, settings, saved, "it does not know all layers");
        }
    }
    link.tell(&serve(settings), None).map_err(failed)?;
    Ok(Succession {
        link,
        source,
        inherited,
        over_a_dead_fuse: false,
    })
}

/// What a keeper says that it has.
struct Told {
    source: Source,
    inherited: Vec<Inherited>,
    /// Whether there may be more layers.
    incomplete: bool,
}

/// What a keeper says that it has; `None` if it says nothing.
fn listen_to(link: &Link, settings: &KeeperSettings) -> Result<Option<Told>, MountError> {
    let mut source = None;
    let mut inherited = Vec::new();
    let incomplete = loop {
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
            Notice::Ready { incomplete } => break incomplete,
            Notice::Miss { .. } | Notice::Reply { .. } => {
                return Err(MountError::Protocol("out of turn"));
            }
        }
    };
    Ok(Some(Told {
        source: source.ok_or(MountError::Protocol("no source"))?,
        inherited,
        incomplete,
    }))
}

#[cfg(test)]
mod tests {
    use std::ffi::OsString;
    use std::os::fd::AsFd;
    use std::process::ExitCode;
    use std::sync::mpsc::channel;

    use rustix::thread::{CapabilitySet, capabilities, set_capabilities};
    use thaw_cache::Store;
    use thaw_image::{DiffId, Digest};

    use super::super::message::Reply;
    use super::*;
    use crate::TransportKind;

    #[test]
    #[ignore = "not a test: the keeper process of the others"]
    fn keeper_process() -> ExitCode {
        crate::keeper_main(std::io::stdin().as_fd().try_clone_to_owned().unwrap())
    }

    fn settings(dir: &Path) -> KeeperSettings {
        let exe = std::env::current_exe().unwrap();
        let name = "keeper::succession::tests::keeper_process";
        let args = ["--exact", "--ignored", "--nocapture", name].map(OsString::from);
        KeeperSettings::new(exe, args.into(), dir.join("keeper.sock"))
    }

    /// A keeper that ends with the test, also where that fails.
    struct Ends(Link);

    impl Drop for Ends {
        fn drop(&mut self) {
            self.0.kill();
            self.0.wait_dead();
        }
    }

    /// The daemon dies between the first layer that it tells its keeper and the second.
    #[test]
    fn a_keeper_that_was_not_told_all_layers_is_replaced() {
        let dir = tempfile::tempdir_in(env!("CARGO_MANIFEST_DIR")).unwrap();
        let mut settings = settings(dir.path());
        let store = Store::open(dir.path()).unwrap();
        let layers = [b"a", b"b"].map(|bytes| {
            let layers = store.layers();
            layers.open(&DiffId(Digest::of(bytes)), 4096).unwrap()
        });
        let specs = layers.each_ref().map(|layer| LayerSpec {
            diff_id: layer.diff_id(),
            size: layer.tar_size(),
            tar: layer.path().to_owned(),
            presence: layer.presence_path().to_owned(),
        });

        let source = Source::new(TransportKind::Fanotify, &settings.devices()).unwrap();
        let first = Ends(spawn(&settings, &source).unwrap());
        let command = Command::Register {
            request: 0,
            spec: specs[0].clone(),
        };
        first
            .0
            .tell(&command, Some(layers[0].file().as_fd()))
            .unwrap();
        first.0.disconnect();

        // This process is who holds the tars, as a monitor does.
        settings.holders = vec![std::process::id().cast_signed()];
        let begin = Instant::now();
        let found = loop {
            match take_over_any(&settings, &mut Vec::new(), Duration::from_secs(5)).unwrap() {
                Some(found) => break found,
                None => assert!(begin.elapsed() < Duration::from_secs(10)),
            }
        };
        let next = Ends(found.link);
        let mut known: Vec<_> = found.inherited.iter().map(|layer| &layer.spec).collect();
        known.sort_by_key(|spec| spec.diff_id);
        let mut all: Vec<_> = specs.iter().collect();
        all.sort_by_key(|spec| spec.diff_id);
        assert_eq!(known, all);
        assert_ne!(next.0.pid(), first.0.pid());
    }

    /// Takes a right away that it takes to look into another process: from this thread alone.
    fn lose_sight() {
        let mut sets = capabilities(None).unwrap();
        let lost = CapabilitySet::SYS_PTRACE | CapabilitySet::SYS_BOOT;
        sets.effective -= lost;
        sets.permitted -= lost;
        sets.inheritable -= lost;
        set_capabilities(None, sets).unwrap();
    }

    #[test]
    fn a_keeper_whose_files_cannot_be_had_is_not_killed() {
        let dir = tempfile::tempdir_in(env!("CARGO_MANIFEST_DIR")).unwrap();
        let settings = settings(dir.path());
        let source = Source::new(TransportKind::Fanotify, &settings.devices()).unwrap();
        let keeper = Ends(start(&settings, &source, std::iter::empty()).unwrap());
        let replace = || replace(&keeper.0, &settings, "it hangs").unwrap_err();
        let (error, lives) = thread::scope(|scope| {
            let blind = scope.spawn(|| {
                lose_sight();
                (replace(), !keeper.0.dies_within(Duration::ZERO))
            });
            blind.join().unwrap()
        });
        assert!(matches!(error, MountError::Refused(_)), "{error}");
        assert!(lives);
        // It serves nothing, as can be seen now.
        assert!(matches!(replace(), MountError::Gone));
        assert!(keeper.0.dies_within(Duration::from_secs(20)));
    }

    #[test]
    fn a_keeper_stays_as_long_as_there_is_a_file_to_be_answered_for() {
        let dir = tempfile::tempdir_in(env!("CARGO_MANIFEST_DIR")).unwrap();
        let mut settings = settings(dir.path());
        settings.idle_timeout = Duration::from_millis(100);
        let source = Source::new(TransportKind::Fanotify, &settings.devices()).unwrap();
        let keeper = Ends(spawn(&settings, &source).unwrap());
        let path = dir.path().join("tar");
        let tar = std::fs::File::create(&path).unwrap();
        source.watch(tar.as_fd()).unwrap();
        let shut_down = |link: &Link| {
            link.tell(&Command::ShutDown { request: 9 }, None).unwrap();
            loop {
                let notice = link.receive().unwrap().unwrap().0;
                if let Notice::Reply { request: 9, reply } = notice {
                    return reply;
                }
            }
        };
        keeper.0.tell(&serve(&settings), None).unwrap();
        assert!(matches!(shut_down(&keeper.0), Reply::Refused(_)));
        keeper.0.disconnect();
        assert!(
            !keeper.0.dies_within(Duration::from_secs(2)),
            "nobody would deny its reads"
        );
        std::fs::remove_file(&path).unwrap();
        drop(tar);
        assert!(
            keeper.0.dies_within(Duration::from_secs(20)),
            "there is none any more"
        );
    }

    #[test]
    fn what_a_keeper_was_not_told_is_looked_for_once() {
        let dir = tempfile::tempdir_in(env!("CARGO_MANIFEST_DIR")).unwrap();
        let settings = settings(dir.path());
        let source = Source::new(TransportKind::Fanotify, &settings.devices()).unwrap();
        let keeper = Ends(spawn(&settings, &source).unwrap());
        keeper.0.disconnect();
        let told = || {
            let begin = Instant::now();
            loop {
                assert!(begin.elapsed() < Duration::from_secs(20));
                thread::sleep(PAUSE);
                let Ok(socket) = socket::connect(&settings.socket) else {
                    continue;
                };
                let link = Link::to_stranger(socket).unwrap();
                // Until the one before has gone it is busy.
                if let Ok(Some(told)) = listen_to(&link, &settings) {
                    return (link, told.incomplete);
                }
            }
        };
        // One that dies before it has looked for it.
        let (link, incomplete) = told();
        link.disconnect();
        assert!(incomplete);
        let (link, incomplete) = told();
        assert!(incomplete);
        link.tell(&serve(&settings), None).unwrap();
        link.disconnect();
        assert!(!told().1);
    }

    /// Of thousands of layers its socket takes the first ones.
    #[test]
    fn a_keeper_that_takes_no_more_layers_is_not_waited_for() {
        let settings = settings(Path::new("/"));
        let (ours, theirs) = socket::pair().unwrap();
        let hangs = Program::new("sleep")
            .arg("120")
            .stdin(Stdio::from(theirs))
            .spawn()
            .unwrap();
        let link = Ends(Link::to_child(ours, hangs).unwrap());
        let spec = LayerSpec {
            diff_id: DiffId(Digest::of(b"a")),
            size: 4096,
            tar: "/tar".into(),
            presence: "/presence".into(),
        };
        let (end, ended) = channel();
        thread::spawn(move || {
            let tar = std::fs::File::open("/dev/null").unwrap();
            let layers = std::iter::repeat_n((&spec, tar.as_fd()), 5000);
            end.send(tell_layers(&link.0, &settings, layers).is_err())
        });
        let is_refused = ended.recv_timeout(Duration::from_secs(60));
        assert!(is_refused.expect("it is waited for"));
    }
}
