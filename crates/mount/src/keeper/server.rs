//! The keeper process: one thread, which never waits for anything but the next thing to do.

mod denials;
mod handover;
mod misses;

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, poll};
use thaw_sys::fanotify;
use thaw_sys::process::{self, Signal};
use thaw_sys::socket::{self, Wait};

use self::denials::Denials;
use self::misses::Pending;
use super::daemon::Daemon;
use super::layers::Layers;
use super::life;
use super::message::{Command, Notice, Reply, Request};
use super::source::{self, Reader, Source};
use super::supply::{Fence, Supply};
use super::wakeful::Wakeful;
use super::wire::MAX_MESSAGE;
use super::{EVENT_FD_LIMIT, PROTOCOL};
use crate::{Denial, FaultCounters, MountError, Throttle, TransportKind};

/// Descriptors kept for other things than pending events; half of them where there are few.
const RESERVED_FDS: usize = 4096;
/// How often things that nobody waits for are looked at.
const TICK: Duration = Duration::from_secs(1);
/// How often it is looked whether fences are passed.
const FENCE_TICK: Duration = Duration::from_millis(2);
/// Commands taken before events are looked at again.
const COMMAND_BATCH: usize = 64;

/// Runs this process as a keeper: `control` is the socket that [`Keeper`](super::Keeper) made the
/// program's standard input. Ends when a daemon says so, or when there is nothing to keep.
///
/// The caller has set up logging to standard error, and does nothing else.
#[must_use]
pub fn keeper_main(control: OwnedFd) -> ExitCode {
    live_alone();
    match Server::begin(control).and_then(Server::run) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let cause = std::error::Error::source(&error).map(ToString::to_string);
            tracing::error!(%error, cause, "the keeper ends");
            ExitCode::FAILURE
        }
    }
}

/// Makes the process independent of the one that started it. What does not work is no reason not
/// to serve.
fn live_alone() {
    let _ = rustix::process::setsid();
    let _ = std::env::set_current_dir("/");
    for signal in [
        Signal::Hangup,
        Signal::Interrupt,
        Signal::Terminate,
        Signal::Pipe,
    ] {
        let _ = process::ignore(signal);
    }
    if let Err(error) = process::set_oom_score(-900) {
        tracing::warn!(%error, "the keeper is not spared when memory runs out");
    }
    // The daemon denies numbers below this limit when we die, so it is never higher.
    let wanted = u64::from(EVENT_FD_LIMIT);
    match process::raise_open_files(wanted) {
        Ok(limit) if limit < wanted => tracing::warn!(
            limit,
            wanted,
            "the limit of open files cannot be raised: so few reads can wait at once"
        ),
        Ok(_) => {}
        Err(error) => tracing::warn!(%error, "cannot raise the limit of open files"),
    }
}

/// What the keeper was started with.
struct Settings {
    fault_timeout: Duration,
    idle_timeout: Duration,
    max_pending: usize,
    socket: PathBuf,
    devices: PathBuf,
}

struct Server {
    settings: Settings,
    source: Source,
    supply: Supply,
    listener: OwnedFd,
    _life: File,
    daemon: Option<Daemon>,
    layers: Layers,
    /// By number, which is also the order of deadlines.
    pending: BTreeMap<u64, Pending>,
    /// What the kernel may ask for again.
    denied: Denials,
    /// What is said of them.
    failures: Throttle,
    next_miss: u64,
    counters: FaultCounters,
    /// Whether readers are taken: not before the layers are known.
    serving: bool,
    /// Whether none will ever come: the FUSE connection was ended from outside.
    over: bool,
    /// Whether a daemon died before it said all layers: files may be marked that we do not know.
    incomplete: bool,
    /// Since when there is nothing to keep.
    idle_since: Option<Instant>,
    /// Whom to tell when what was let through before has its bytes.
    fences: Vec<(Request, Fence)>,
    wakeful: Wakeful,
    /// For commands.
    buffer: Vec<u8>,
}

enum Next {
    Go,
    End,
}

impl Server {
    /// Takes the first message, which brings the source.
    fn begin(control: OwnedFd) -> Result<Self, MountError> {
        let mut buffer = vec![0; MAX_MESSAGE];
        let failed = |what| move |source| MountError::Socket { what, source };
        let received = socket::receive(&control, &mut buffer, Wait::Block);
        let (len, mut fds) = received
            .map_err(failed("read from"))?
            .ok_or(MountError::Gone)?;
        let Command::Hello {
            version,
            fault_timeout,
            idle_timeout,
            socket,
            kind,
            devices,
        } = Command::decode(&buffer[..len])?
        else {
            return Err(MountError::Protocol("no hello"));
        };
        if version != u64::from(PROTOCOL) {
            return Err(MountError::Protocol("another version"));
        }
        let source = fds.pop().ok_or(MountError::Protocol("no source"))?;
        let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile).current;
        let limit = usize::try_from(limit.unwrap_or(u64::MAX)).unwrap_or(usize::MAX);
        let limit = limit.min(usize::from(EVENT_FD_LIMIT));
        let life = life::show(&socket).map_err(failed("lock the file of"))?;
        let listener = socket::listen(&socket).map_err(failed("listen on"))?;
        Ok(Self {
            settings: Settings {
                fault_timeout,
                idle_timeout,
                max_pending: limit - RESERVED_FDS.min(limit / 2),
                socket,
                devices,
            },
            source: Source::from_fd(kind, source),
            supply: Supply::new(kind).map_err(failed("start the threads behind"))?,
            listener,
            _life: life,
            daemon: Some(Daemon::new(control)),
            layers: Layers::new(),
            pending: BTreeMap::new(),
            denied: Denials::default(),
            failures: Throttle::default(),
            next_miss: 0,
            counters: FaultCounters::default(),
            serving: false,
            over: false,
            incomplete: false,
            idle_since: None,
            fences: Vec::new(),
            wakeful: Wakeful::new(),
            buffer,
        })
    }

    fn run(mut self) -> Result<(), MountError> {
        loop {
            let ready = self.wait()?;
            if ready.events {
                self.take_events()?;
            }
            if ready.commands
                && let Next::End = self.take_commands()
            {
                return Ok(());
            }
            self.wakeful.rest(Instant::now());
            self.pass_fences();
            self.send();
            if ready.connection
                && let Next::End = self.accept()
            {
                return Ok(());
            }
            self.expire();
            if self.is_idle() {
                tracing::info!("nothing to keep");
                self.leave();
                return Ok(());
            }
        }
    }

    fn wait(&self) -> Result<Ready, MountError> {
        let full = self.pending.len() >= self.settings.max_pending;
        let reads = if self.serving && !full {
            PollFlags::IN
        } else {
            PollFlags::empty()
        };
        let mut fds = vec![PollFd::new(&self.listener, PollFlags::IN)];
        let mut push = |fd| {
            fds.push(fd);
            Some(fds.len() - 1)
        };
        let commands = self.daemon.as_ref().and_then(|daemon| {
            let mut flags = PollFlags::IN;
            flags.set(PollFlags::OUT, daemon.is_behind());
            push(PollFd::new(daemon, flags))
        });
        let events = match self.over {
            true => None,
            false => push(PollFd::new(&self.source, reads)),
        };
        let timeout = rustix::time::Timespec::try_from(self.timeout()).ok();
        match poll(&mut fds, timeout.as_ref()) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => {
                return Err(MountError::Socket {
                    what: "wait on",
                    source: error.into(),
                });
            }
        }
        let ready = |index: Option<usize>| {
            let fd = index.and_then(|index| fds.get(index));
            fd.is_some_and(|fd| !fd.revents().is_empty())
        };
        Ok(Ready {
            events: self.serving && !full && ready(events),
            connection: ready(Some(0)),
            commands: ready(commands),
        })
    }

    /// Until the next deadline.
    fn timeout(&self) -> Duration {
        let first = self.pending.first_key_value();
        let left = first.map_or(TICK, |(_, pending)| self.remaining(pending));
        // A thread that has answered does not wake us.
        let tick = match self.fences.is_empty() {
            true => TICK,
            false => FENCE_TICK,
        };
        left.min(self.wakeful.timeout().unwrap_or(tick)).min(tick)
    }

    /// Says of fences that they are passed.
    fn pass_fences(&mut self) {
        let passed = self.fences.extract_if(.., |(_, fence)| fence.is_passed());
        let passed: Vec<Request> = passed.map(|(request, _)| request).collect();
        for request in passed {
            self.reply(request, Reply::Done);
        }
    }

    fn take_events(&mut self) -> Result<(), MountError> {
        let room = self.settings.max_pending.saturating_sub(self.pending.len());
        match self.source.read(&self.layers, room) {
            Ok(readers) => {
                if !readers.is_empty() {
                    self.wakeful.event(Instant::now());
                }
                for reader in readers {
                    self.take_reader(reader);
                }
                Ok(())
            }
            // Without a descriptor the kernel has denied that one event itself.
            Err(MountError::Events(fanotify::Error::Read(error))) => {
                tracing::error!(%error, "a read of a layer was denied");
                Ok(())
            }
            Err(MountError::Fuse(error)) if error.is_over() => {
                tracing::error!("the FUSE connection was ended: reads of its layers fail");
                self.over = true;
                Ok(())
            }
            Err(error) => Err(error),
        }
    }

    fn take_reader(&mut self, reader: Reader) {
        self.counters.events += 1;
        let known = reader.file().ok();
        let found = known.and_then(|file| self.layers.get(file).map(|layer| (file, layer)));
        let Some((file, layer)) = found else {
            self.counters.unknown += 1;
            if let Some(untold) = self.failures.pass(Instant::now()) {
                let pid = reader.pid();
                tracing::error!(pid, untold, "a read of an unknown file is denied");
            }
            return reader.deny(Denial::Io);
        };
        let extent = layer.wanted(&reader);
        if layer.has(extent) {
            self.counters.hits += 1;
            self.supply.allow(reader, &layer.tar, layer.file_size());
        } else {
            self.miss(reader, file, extent);
        }
        // Last: nobody waits for it.
        self.layers.record(file, extent);
    }

    /// Takes what the daemon said, and notices when it is gone.
    fn take_commands(&mut self) -> Next {
        let mut buffer = std::mem::take(&mut self.buffer);
        let next = self.take_commands_into(&mut buffer);
        self.buffer = buffer;
        next
    }

    fn take_commands_into(&mut self, buffer: &mut [u8]) -> Next {
        for _ in 0..COMMAND_BATCH {
            let Some(daemon) = &self.daemon else {
                return Next::Go;
            };
            match socket::receive(daemon, buffer, Wait::Try) {
                Ok(Some((len, fds))) => match Command::decode(&buffer[..len]) {
                    Ok(command) => {
                        if let Next::End = self.obey(command, fds) {
                            return Next::End;
                        }
                    }
                    Err(error) => {
                        tracing::error!(%error, "the daemon is not understood");
                        self.lose_daemon();
                    }
                },
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Next::Go,
                Ok(None) | Err(_) => self.lose_daemon(),
            }
        }
        Next::Go
    }

    fn lose_daemon(&mut self) {
        self.daemon = None;
        self.fences.clear();
        // It may not have said all layers. Reads of those that are not known are denied.
        self.incomplete |= !self.serving;
        self.serving = true;
        let waiting = self.pending.len();
        tracing::warn!(waiting, "the daemon is gone");
        // It may have filled what it did not tell any more.
        let filled: Vec<_> = self
            .pending
            .iter()
            .filter(|(_, pending)| self.is_present(pending))
            .map(|(miss, _)| *miss)
            .collect();
        for miss in filled {
            self.conclude(miss, Ok(()));
        }
    }

    fn obey(&mut self, command: Command, mut fds: Vec<OwnedFd>) -> Next {
        match command {
            Command::Hello { .. } => {}
            Command::Register { request, spec } => {
                let reply = match fds.pop() {
                    Some(tar) => self.layers.register(&self.source, spec, tar),
                    None => Reply::Refused("no descriptor came with the layer".to_owned()),
                };
                self.reply(request, reply);
            }
            Command::Serve { fault_timeout } => {
                self.serving = true;
                self.settings.fault_timeout = fault_timeout;
                // Whoever took us over has looked for what we were not told.
                self.incomplete = false;
            }
            Command::Release { request, layer } => {
                let reply = self.layers.release(&self.source, &layer);
                self.reply(request, reply);
            }
            Command::Answer { miss, outcome } => self.conclude(miss, outcome),
            Command::StartTrace { request, layers } => {
                let reply = self.layers.start_trace(&layers);
                self.reply(request, reply);
            }
            Command::Trace {
                request,
                layer,
                from,
            } => self.reply(request, self.layers.trace(&layer, from)),
            Command::Counters { request } => {
                self.counters.waiting = self.pending.len() as u64;
                self.reply(request, Reply::Counters(Box::new(self.counters)));
            }
            Command::ShutDown { request } => return self.shut_down(request),
            Command::Fence { request } => {
                let fence = self.supply.fence();
                self.fences.push((request, fence));
                self.pass_fences();
            }
        }
        Next::Go
    }

    /// Takes away what others find us by.
    fn leave(&self) {
        life::forget(&self.settings.socket);
        if let TransportKind::Fuse = self.source.kind()
            && let Err(error) = source::unmount(&self.settings.devices)
        {
            tracing::warn!(%error, "the FUSE filesystem stays");
        }
        if let Err(error) = std::fs::remove_file(&self.settings.socket) {
            tracing::warn!(%error, "the keeper's socket stays");
        }
    }

    fn shut_down(&mut self, request: Request) -> Next {
        let served = self.layers.served().count();
        if served > 0 {
            let reason = format!("{served} layers are attached and would lose their keeper");
            self.reply(request, Reply::Refused(reason));
            return Next::Go;
        }
        // A tar that nobody has, but that somebody may have open.
        if self.source.is_needed() {
            let reason = "reads of files that are not known would not fail any more".to_owned();
            self.reply(request, Reply::Refused(reason));
            return Next::Go;
        }
        // Before the reply: the next keeper's has the same path.
        self.leave();
        self.reply(request, Reply::Done);
        self.send();
        Next::End
    }

    fn reply(&mut self, request: Request, reply: Reply) {
        if let Some(daemon) = &mut self.daemon {
            daemon.queue(&Notice::Reply { request, reply }, None);
        }
    }

    fn is_idle(&mut self) -> bool {
        let keeps = self.layers.served().next().is_some() || self.incomplete;
        if keeps || self.daemon.is_some() || !self.pending.is_empty() {
            self.idle_since = None;
            return false;
        }
        let since = *self.idle_since.get_or_insert_with(Instant::now);
        since.elapsed() >= self.settings.idle_timeout && !self.source.is_needed()
    }

    /// Sends what the daemon takes without waiting.
    fn send(&mut self) {
        if let Some(daemon) = &mut self.daemon
            && daemon.flush().is_err()
        {
            self.lose_daemon();
        }
    }
}

/// What can be done now.
struct Ready {
    events: bool,
    connection: bool,
    commands: bool,
}
