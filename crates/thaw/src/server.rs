//! The daemon: one process that owns a store, answers commands on a Unix socket, one thread each.

use std::fs::{File, Permissions};
use std::io::{ErrorKind, Write};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;
use rustix::process::{Pid, Signal, kill_process};
use serde::Deserialize as _;
use serde_json::Value;
use thaw_node::Node;
use thaw_sys::peer::Peer;

use crate::OWN_FAILURE;
use crate::access::{self, Access, Right};
use crate::progress::Wire;
use crate::protocol::{Envelope, Failure, Line, MAX_LINE, Request, VERSION};
use crate::service::Manager;

mod receive;

use receive::{Place, Room};

/// For how long the daemon before us may take to be gone, once its socket is.
const PREDECESSOR_PATIENCE: Duration = Duration::from_secs(20);
/// For how long commands that are being served may go on after the end was asked for.
const DRAIN: Duration = Duration::from_secs(30);
/// How often the node does what nobody asks for.
const TEND_PAUSE: Duration = Duration::from_secs(1);
/// How often an accept loop looks whether it is to end: it is woken by a connection, which nobody can
/// make where the socket was removed.
const LOOK_PAUSE: Duration = Duration::from_secs(1);
/// For how long a reader may take to say what he wants, and between any two parts of what he hears.
const READER_PATIENCE: Duration = Duration::from_secs(10);
/// Bytes of what a reader says.
const READER_LINE: u64 = 64 << 10;
/// Commands of those who may change things that are served at once; more wait in the socket's queue.
const MAX_COMMANDS: usize = 512;
/// Connections of all others at once; more are refused, so that nobody waits behind them.
const MAX_OTHERS: usize = 64;
/// How often one who waits for room looks for it.
const ROOM_PAUSE: Duration = Duration::from_millis(5);

/// The lock that makes a process the owner of a store. Released when dropped.
#[derive(Debug)]
pub(crate) struct Ownership {
    _file: File,
}

impl Ownership {
    /// Takes the store at `root`. Waits for a daemon that is about to end: it has closed its socket,
    /// or is told to end (`replace`), and makes durable what it has.
    ///
    /// # Errors
    /// When another daemon owns it: the message has its process id.
    pub(crate) fn take(root: &Path, replace: bool) -> anyhow::Result<Self> {
        std::fs::create_dir_all(root)
            .with_context(|| format!("cannot make the store {}", root.display()))?;
        std::fs::set_permissions(root, Permissions::from_mode(0o700))?;
        let path = root.join("daemon.pid");
        let mut file = File::options()
            .create(true)
            .truncate(false)
            .read(true)
            .write(true)
            .open(&path)?;
        let is_free = || flock(&file, FlockOperation::NonBlockingLockExclusive).is_ok();
        let (mut begin, mut told) = (Instant::now(), None);
        while !is_free() {
            // Not by the socket: a service manager's takes requests when no daemon is there. One that a
            // command or a monitor has started meanwhile is told, too.
            if replace && let Some(pid) = owner(&path).filter(|pid| told != Some(*pid)) {
                end(pid)?;
                (begin, told) = (Instant::now(), Some(pid));
            }
            let serves = !replace && UnixStream::connect(root.join("thaw.sock")).is_ok();
            let patience = PREDECESSOR_PATIENCE + if replace { DRAIN } else { Duration::ZERO };
            if serves || begin.elapsed() >= patience {
                return Err(owned(root, &path, replace));
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        file.set_len(0)?;
        writeln!(file, "{}", std::process::id())?;
        Ok(Self { _file: file })
    }
}

/// The process that has locked the file at `path`.
fn owner(path: &Path) -> Option<i32> {
    let pid = std::fs::read_to_string(path).ok()?.trim().parse().ok();
    pid.filter(|pid| *pid > 0)
}

/// Tells a daemon to end.
fn end(pid: i32) -> anyhow::Result<()> {
    match Pid::from_raw(pid).map(|pid| kill_process(pid, Signal::TERM)) {
        // It is gone already.
        None | Some(Ok(()) | Err(Errno::SRCH)) => Ok(()),
        Some(other) => other.with_context(|| format!("cannot end the daemon with pid {pid}")),
    }
}

fn owned(root: &Path, path: &Path, replace: bool) -> anyhow::Error {
    let pid = owner(path).unwrap_or_default();
    let what = match replace {
        true => format!("it does not end; when it hangs, kill it: kill -9 {pid}"),
        false => "stop that one (thaw daemon --stop), take its place (thaw daemon --replace), or \
                  take another store (--root)"
            .to_owned(),
    };
    anyhow::anyhow!(
        "the store {} is owned by the daemon with pid {pid}: {what}",
        root.display()
    )
}

/// A file, whatever its name: its device and its number there.
type FileId = (u64, u64);

fn file_id(path: &Path) -> Option<FileId> {
    let metadata = std::fs::symlink_metadata(path).ok()?;
    Some((metadata.dev(), metadata.ino()))
}

/// A daemon that is about to serve.
#[derive(Debug)]
pub(crate) struct Server {
    node: Arc<Node>,
    listener: UnixListener,
    commands: Arc<Room>,
    others: Arc<Room>,
    stopping: AtomicBool,
    socket: std::path::PathBuf,
    /// Who may ask what.
    access: Access,
    /// Where others than root ask.
    shared: Option<UnixListener>,
    /// What the socket is, unless a service manager made it, which stays then.
    bound: Option<FileId>,
}

impl Server {
    /// Binds the socket in the store at `root`, which the caller owns; or takes the one that a
    /// service manager has bound there (`activated`).
    pub(crate) fn bind(
        root: &Path,
        node: Arc<Node>,
        access: Access,
        activated: Option<UnixListener>,
    ) -> anyhow::Result<Arc<Self>> {
        let socket = root.join("thaw.sock");
        let (listener, is_ours) = match activated {
            // A daemon that a command had started may have taken the path, and then away.
            Some(listener) if socket.exists() => {
                let bound = listener.local_addr()?;
                let bound = bound.as_pathname().unwrap_or(Path::new("no path"));
                if bound != socket {
                    bail!(
                        "the service manager listens on {}, where no command of the store {} asks: \
                         have it listen on {}",
                        bound.display(),
                        root.display(),
                        socket.display()
                    );
                }
                (listener, false)
            }
            _ => {
                std::fs::remove_file(&socket).ok();
                let listener = UnixListener::bind(&socket)
                    .with_context(|| format!("cannot listen on {}", socket.display()))?;
                (listener, true)
            }
        };
        std::fs::set_permissions(&socket, Permissions::from_mode(0o600))?;
        let bound = file_id(&socket).filter(|_| is_ours);
        let stopping = AtomicBool::new(false);
        Ok(Arc::new(Self {
            node,
            listener,
            commands: Room::of(MAX_COMMANDS),
            others: Room::of(MAX_OTHERS),
            stopping,
            socket,
            shared: access.listen()?,
            access,
            bound,
        }))
    }

    /// Serves until told to stop or, with `idle`, until nothing was asked and nothing was mounted
    /// for that long.
    pub(crate) fn serve(self: &Arc<Self>, idle: Option<Duration>) -> anyhow::Result<()> {
        let server = Arc::clone(self);
        std::thread::Builder::new()
            .name("tend".into())
            .spawn(move || server.tend(idle))?;
        if self.shared.is_some() {
            let server = Arc::clone(self);
            std::thread::Builder::new()
                .name("shared".into())
                .spawn(move || {
                    server
                        .shared
                        .iter()
                        .for_each(|shared| server.accept(shared, &mut || ()))
                })?;
        }
        // Whoever answers says that we live: what the node does besides may wait for the disk.
        let mut manager = Manager::of_environment();
        let mut alive = || manager.iter_mut().for_each(Manager::alive);
        self.accept(&self.listener, &mut alive);
        // A service manager may have put its own there meanwhile.
        if self.bound.is_some() && self.bound == file_id(&self.socket) {
            std::fs::remove_file(&self.socket).ok();
        }
        if let Some(path) = self.access.path() {
            std::fs::remove_file(path).ok();
        }
        Ok(())
    }

    /// Answers whoever connects, until told to stop; says now and then that it does.
    fn accept(self: &Arc<Self>, listener: &UnixListener, alive: &mut dyn FnMut()) {
        let look = rustix::time::Timespec::try_from(LOOK_PAUSE).ok();
        loop {
            let mut waiting = [PollFd::new(listener, PollFlags::IN)];
            let came = poll(&mut waiting, look.as_ref());
            if self.stopping.load(Ordering::Acquire) {
                break;
            }
            alive();
            if came == Ok(0) || came == Err(Errno::INTR) {
                continue;
            }
            let stream = match came.map_err(Into::into).and_then(|_| listener.accept()) {
                Ok((stream, _)) => stream,
                Err(error) => {
                    tracing::warn!(%error, "cannot accept a connection");
                    std::thread::sleep(Duration::from_millis(50));
                    continue;
                }
            };
            if let Err(error) = self.receive(stream, alive) {
                tracing::warn!(error = format!("{error:#}"), "a connection is dropped");
            }
        }
    }

    /// Answers a connection in a thread of its own, once there is room.
    fn receive(
        self: &Arc<Self>,
        stream: UnixStream,
        alive: &mut dyn FnMut(),
    ) -> anyhow::Result<()> {
        let peer = Peer::of(&stream)?;
        let right = self.access.right(&peer);
        let Some(place) = self.room(right, alive) else {
            // Whoever asks hears nothing, and asks the next daemon.
            if self.stopping.load(Ordering::Acquire) {
                return Ok(());
            }
            let message = "too many others ask this daemon at once: try again".to_owned();
            return refuse(&stream, &peer, message);
        };
        let server = Arc::clone(self);
        let spawned = std::thread::Builder::new()
            .name("command".into())
            .spawn(move || {
                if let Err(error) = server.answer(stream, &peer, right) {
                    tracing::debug!(error = format!("{error:#}"), "a command went away");
                }
                drop(place);
            });
        spawned.context("cannot start a thread for it")?;
        Ok(())
    }

    /// Room for one connection of somebody with that right. Those who may change things wait for it, unless the
    /// end comes first: that many may be served for long.
    fn room(&self, right: Right, alive: &mut dyn FnMut()) -> Option<Place> {
        if right < Right::Change {
            return self.others.enter();
        }
        loop {
            let place = self.commands.enter();
            if place.is_some() || self.stopping.load(Ordering::Acquire) {
                return place;
            }
            alive();
            std::thread::sleep(ROOM_PAUSE);
        }
    }

    /// Connections that are being served.
    fn connections(&self) -> usize {
        self.commands.taken() + self.others.taken()
    }

    /// Waits for the commands that are being served when [`Server::serve`] has ended, for at most
    /// [`DRAIN`].
    pub(crate) fn drain(&self) {
        let begin = Instant::now();
        while self.connections() > 0 && begin.elapsed() < DRAIN {
            std::thread::sleep(Duration::from_millis(5));
        }
        let cut = self.connections();
        if cut > 0 {
            tracing::warn!(cut, "commands are cut off: they took too long");
        }
    }

    fn answer(
        self: &Arc<Self>,
        stream: UnixStream,
        peer: &Peer,
        right: Right,
    ) -> anyhow::Result<()> {
        if right == Right::Nothing {
            return refuse(&stream, peer, access::refusal(peer, right));
        }
        let line = if right == Right::Read {
            stream.set_write_timeout(Some(READER_PATIENCE))?;
            receive::line(&stream, READER_LINE, Some(READER_PATIENCE))
        } else {
            receive::line(&stream, MAX_LINE, None)
        };
        let line = match line {
            Ok(line) => line,
            Err(error) => return say(&stream, &Line::Error(failure(&error))),
        };
        if line.is_empty() {
            return Ok(());
        }
        let last = match understand(&line) {
            // Whoever asks hears nothing, and asks the next daemon.
            Ok(_) if self.stopping.load(Ordering::Acquire) => return Ok(()),
            Ok(envelope) if envelope.request.needs() > right => {
                return refuse(&stream, peer, access::refusal(peer, right));
            }
            Ok(mut envelope) => {
                if right < Right::Change {
                    // How registries are spoken to is not for readers to say.
                    envelope.plain_http.clear();
                }
                say(&stream, &Line::Begin)?;
                self.request(envelope, &Arc::new(Wire::new(stream.try_clone()?)))
            }
            Err(error) => Err(error),
        };
        let last = match last {
            Ok(value) => Line::Reply(value),
            Err(error) => Line::Error(failure(&error)),
        };
        say(&stream, &last)?;
        // Who asked for the end hears that it comes.
        if self.stopping.load(Ordering::Acquire) {
            self.wake();
        }
        Ok(())
    }

    fn request(
        self: &Arc<Self>,
        envelope: Envelope,
        progress: &Arc<Wire>,
    ) -> anyhow::Result<Value> {
        if matches!(envelope.request, Request::Shutdown) {
            self.stopping.store(true, Ordering::Release);
            return Ok(Value::Null);
        }
        self.node.allow_plain_http(&envelope.plain_http);
        crate::handlers::handle(&self.node, envelope.request, progress)
    }

    /// Ends [`Server::serve`].
    pub(crate) fn stop(&self) {
        self.stopping.store(true, Ordering::Release);
        self.wake();
    }

    /// The accept loop wakes by a connection.
    fn wake(&self) {
        UnixStream::connect(&self.socket).ok();
    }

    /// Has the node do what nobody asks for, and ends it when it was idle for long enough.
    fn tend(&self, idle: Option<Duration>) {
        let mut since = Instant::now();
        while !self.stopping.load(Ordering::Acquire) {
            std::thread::sleep(idle.unwrap_or(TEND_PAUSE).min(TEND_PAUSE));
            self.node.tend();
            if self.connections() > 0 || self.node.busy() {
                since = Instant::now();
            }
            if idle.is_some_and(|idle| since.elapsed() >= idle) {
                tracing::info!("nothing to do: ending");
                self.stop();
                return;
            }
        }
    }
}

/// Whoever speaks another version of the protocol, as after an upgrade, can have us end, and tell the end of a
/// container, whose monitor is as old as it; nothing else.
fn understand(line: &[u8]) -> anyhow::Result<Envelope> {
    let value: Value = serde_json::from_slice(line).context("malformed request")?;
    let version = value.get("version").and_then(Value::as_u64);
    if version == Some(u64::from(VERSION)) {
        return serde_json::from_value(value).context("malformed request");
    }
    let request = value
        .get("request")
        .and_then(|request| Request::deserialize(request).ok());
    if let Some(request @ (Request::Shutdown | Request::Release { .. })) = request {
        return Ok(Envelope {
            version: VERSION,
            plain_http: Vec::new(),
            request,
        });
    }
    let version = version.map_or("none".to_owned(), |version| version.to_string());
    bail!(
        "this command speaks version {version} of the protocol, the daemon {VERSION}: have the \
         daemon end (thaw daemon --stop) or one of this version take its place (thaw daemon \
         --replace), and try again; containers go on"
    )
}

/// Says no, and why.
fn refuse(stream: &UnixStream, peer: &Peer, message: String) -> anyhow::Result<()> {
    tracing::warn!(
        uid = peer.uid,
        pid = peer.pid,
        message,
        "a caller is refused"
    );
    let code = OWN_FAILURE;
    say(stream, &Line::Error(Failure { message, code }))
}

fn say(mut stream: &UnixStream, line: &Line) -> anyhow::Result<()> {
    let mut bytes = serde_json::to_vec(line)?;
    bytes.push(b'\n');
    Ok(stream.write_all(&bytes)?)
}

fn failure(error: &anyhow::Error) -> Failure {
    Failure {
        message: format!("{error:#}{}", advice(error)),
        code: OWN_FAILURE,
    }
}

/// What to do about an error of the system, whatever it was that failed.
fn advice(error: &anyhow::Error) -> &'static str {
    let kinds = error.chain().filter_map(|cause| {
        let system = cause
            .downcast_ref::<std::io::Error>()
            .map(std::io::Error::kind);
        // One failure of the store may have many waiters.
        let shared = || cause.downcast_ref::<Arc<std::io::Error>>();
        system
            .or_else(|| shared().map(|error| error.kind()))
            .or_else(|| Some(cause.downcast_ref::<Errno>()?.kind()))
    });
    for kind in kinds {
        match kind {
            ErrorKind::StorageFull => {
                return "; `thaw gc --all --dry-run` shows what can be given back, or take a store \
                        on a larger disk";
            }
            ErrorKind::PermissionDenied if !rustix::process::geteuid().is_root() => {
                return "; run thaw as root";
            }
            _ => {}
        }
    }
    ""
}
