//! The standard streams of a process: passed through as they are, or carried by threads that copy
//! them to the caller, to the log, or both.
//!
//! ```text
//! no terminal:  the caller's own descriptors, or  pipe ──▶ thread ──▶ caller, log
//! terminal:     caller's stdin ──▶ thread ──▶ terminal ──▶ thread ──▶ caller's stdout, log
//! ```

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::process::Stdio;
use std::sync::Arc;
use std::thread::{self, JoinHandle};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::pipe::{PipeFlags, pipe_with};

use super::console::{ConsoleSocket, RawMode, copy_size};
use crate::container::log::{LogWriter, Stream};
use crate::container::{ContainerError, ProcessIo};

/// What the streams of a process are to be.
#[derive(Debug, Default)]
pub(in crate::container) struct Wanted {
    pub(in crate::container) tty: bool,
    /// Whether the caller's standard input is the process's.
    pub(in crate::container) stdin: bool,
    /// Whether its output goes to the caller.
    pub(in crate::container) output: bool,
    /// Where a copy of its output goes.
    pub(in crate::container) log: Option<Arc<LogWriter>>,
}

/// Streams of a process that is about to start.
#[derive(Debug)]
pub(in crate::container) struct Streams {
    wanted: Wanted,
    console: Option<ConsoleSocket>,
    /// Our ends of standard output and error, where they are pipes.
    pipes: Vec<(Stream, OwnedFd)>,
}

/// Streams of a process that runs.
#[derive(Debug)]
pub(in crate::container) struct Carried {
    terminal: Option<Arc<File>>,
    log: Option<Arc<LogWriter>>,
    outputs: Vec<JoinHandle<()>>,
    /// Closed to tell the threads that the process has ended.
    end: Option<OwnedFd>,
    _raw: Option<RawMode>,
}

impl Streams {
    /// Makes the streams; the second value goes to the runtime. `console` is where a socket may be
    /// made.
    pub(in crate::container) fn open(
        wanted: Wanted,
        console: &Path,
    ) -> Result<(Self, ProcessIo), ContainerError> {
        let mut streams = Self {
            console: None,
            pipes: Vec::new(),
            wanted,
        };
        if streams.wanted.tty {
            let socket = ConsoleSocket::listen(console.to_owned())?;
            let io = ProcessIo {
                stdin: Stdio::null(),
                stdout: Stdio::null(),
                stderr: Stdio::null(),
                console: Some(socket.path().to_owned()),
            };
            streams.console = Some(socket);
            return Ok((streams, io));
        }
        let stdin = if streams.wanted.stdin {
            Stdio::inherit()
        } else {
            Stdio::null()
        };
        let io = ProcessIo {
            stdin,
            stdout: streams.output(Stream::Stdout)?,
            stderr: streams.output(Stream::Stderr)?,
            console: None,
        };
        Ok((streams, io))
    }

    fn output(&mut self, stream: Stream) -> Result<Stdio, ContainerError> {
        match (&self.wanted.log, self.wanted.output) {
            (None, true) => Ok(Stdio::inherit()),
            (None, false) => Ok(Stdio::null()),
            (Some(_), _) => {
                let (ours, theirs) =
                    pipe_with(PipeFlags::CLOEXEC).map_err(ContainerError::system("make a pipe"))?;
                self.pipes.push((stream, ours));
                Ok(theirs.into())
            }
        }
    }

    /// Begins to carry, once the runtime has started the process.
    pub(in crate::container) fn carry(self) -> Result<Carried, ContainerError> {
        let (ended, end) =
            pipe_with(PipeFlags::CLOEXEC).map_err(ContainerError::system("make a pipe"))?;
        let ended = Arc::new(ended);
        let mut carried = Carried {
            terminal: None,
            log: self.wanted.log.clone(),
            outputs: Vec::new(),
            end: Some(end),
            _raw: None,
        };
        let sinks = |stream| Sinks {
            caller: self.wanted.output.then_some(stream),
            log: self.wanted.log.clone(),
            stream,
        };
        if let Some(console) = &self.console {
            let terminal = Arc::new(File::from(console.receive()?));
            copy_size(&*terminal);
            if self.wanted.stdin {
                carried._raw = RawMode::enter();
                let (to, ended) = (Arc::clone(&terminal), Arc::clone(&ended));
                let body = move || {
                    copy(&io::stdin(), &ended, true, &mut |bytes| {
                        (&*to).write_all(bytes)
                    })
                };
                // Nobody waits for it: it may sit in a write to a terminal that nobody reads.
                drop(spawn("container-stdin", body)?);
            }
            let (from, sinks) = (Arc::clone(&terminal), sinks(Stream::Stdout));
            let body = move || {
                copy(&*from, &ended, false, &mut |bytes| {
                    // A terminal that nobody reads would stop the container in a write.
                    sinks.put(bytes).ok();
                    Ok(())
                })
            };
            carried.outputs.push(spawn("container-tty", body)?);
            carried.terminal = Some(terminal);
            return Ok(carried);
        }
        for (stream, pipe) in self.pipes {
            let (ended, sinks) = (Arc::clone(&ended), sinks(stream));
            let body = move || copy(&pipe, &ended, false, &mut |bytes| sinks.put(bytes));
            carried.outputs.push(spawn("container-output", body)?);
        }
        Ok(carried)
    }
}

impl Carried {
    /// The container's terminal, if it has one.
    pub(in crate::container) fn terminal(&self) -> Option<Arc<File>> {
        self.terminal.clone()
    }

    /// Carries what the ended process has left behind, and gives the caller's terminal back.
    pub(in crate::container) fn finish(mut self) {
        drop(self.end.take());
        for output in self.outputs.drain(..) {
            let _ = output.join();
        }
        if let Some(log) = &self.log {
            log.finish();
        }
    }
}

/// Where output goes.
#[derive(Debug)]
struct Sinks {
    caller: Option<Stream>,
    log: Option<Arc<LogWriter>>,
    stream: Stream,
}

impl Sinks {
    /// Fails when the caller reads no more: then the container is to be told by its own pipe, as
    /// if that had been the caller's (`thaw run … | head` ends).
    fn put(&self, bytes: &[u8]) -> io::Result<()> {
        if let Some(log) = &self.log {
            log.write(self.stream, bytes);
        }
        match self.caller {
            Some(Stream::Stdout) => io::stdout()
                .write_all(bytes)
                .and_then(|()| io::stdout().flush()),
            Some(Stream::Stderr) => io::stderr().write_all(bytes),
            None => Ok(()),
        }
    }
}

fn spawn(
    name: &str,
    body: impl FnOnce() + Send + 'static,
) -> Result<JoinHandle<()>, ContainerError> {
    thread::Builder::new()
        .name(name.to_owned())
        .stack_size(128 << 10)
        .spawn(body)
        .map_err(ContainerError::system("start a thread"))
}

/// Copies from `from` until its end, or until `sink` fails. After `ended` hangs up, it goes on
/// for what is there already (`at_once`: not even that): processes that were left behind may
/// hold the other end open for ever.
fn copy(
    from: &impl AsFd,
    ended: &OwnedFd,
    at_once: bool,
    sink: &mut dyn FnMut(&[u8]) -> io::Result<()>,
) {
    /// How long nothing must come until that counts as the end.
    const SILENCE: Timespec = Timespec {
        tv_sec: 0,
        tv_nsec: 20_000_000,
    };
    let mut buffer = [0; 32 << 10];
    let mut over = false;
    loop {
        let mut both = [
            PollFd::new(from, PollFlags::IN),
            PollFd::new(ended, PollFlags::IN),
        ];
        let (watched, timeout) = if over {
            (&mut both[..1], Some(&SILENCE))
        } else {
            (&mut both[..], None)
        };
        match poll(watched, timeout) {
            Ok(0) => return,
            Ok(_) => {}
            Err(rustix::io::Errno::INTR) => continue,
            Err(_) => return,
        }
        over = over || !both[1].revents().is_empty();
        if over && at_once {
            return;
        }
        if both[0].revents().is_empty() {
            continue;
        }
        match rustix::io::read(from, &mut buffer) {
            // A terminal whose other end is closed says EIO.
            Ok(0) | Err(rustix::io::Errno::IO) => return,
            Err(rustix::io::Errno::INTR | rustix::io::Errno::AGAIN) => {}
            Err(_) => return,
            Ok(count) => {
                if sink(buffer.get(..count).unwrap_or_default()).is_err() {
                    return;
                }
            }
        }
    }
}

/// Reads one short message to its end.
pub(in crate::container) fn read_all(from: OwnedFd, limit: u64) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    File::from(from).take(limit).read_to_end(&mut bytes)?;
    Ok(bytes)
}
