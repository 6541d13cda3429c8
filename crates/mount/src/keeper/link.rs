//! The daemon's connection to one keeper process.

use std::collections::HashMap;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::process::Child;
use std::sync::mpsc::{RecvTimeoutError, SyncSender, sync_channel};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use thaw_sys::socket::{self, Wait};

use super::message::{Command, Notice, Reply, Request};
use super::wire::MAX_MESSAGE;
use crate::MountError;

/// For how long a keeper may think about a question. It does nothing that takes long.
const REPLY_TIMEOUT: Duration = Duration::from_secs(10);

/// The number of a question that nobody else has.
const CONFIRM: Request = Request::MAX;

/// Questions that wait for their reply; `None` when the keeper is gone.
type Questions = Option<HashMap<Request, SyncSender<Reply>>>;

/// A keeper process and the socket to it.
#[derive(Debug)]
pub(crate) struct Link {
    socket: OwnedFd,
    pid: Pid,
    process: OwnedFd,
    child: Mutex<Option<Child>>,
    questions: Mutex<(Request, Questions)>,
}

impl Link {
    /// A keeper that we started.
    pub(crate) fn to_child(socket: OwnedFd, child: Child) -> io::Result<Self> {
        let pid = Pid::from_child(&child);
        Self::new(socket, pid, Some(child))
    }

    /// A keeper that another daemon started.
    pub(crate) fn to_stranger(socket: OwnedFd) -> io::Result<Self> {
        let pid = Pid::from_raw(socket::peer_pid(&socket)?).ok_or(io::ErrorKind::NotFound)?;
        Self::new(socket, pid, None)
    }

    fn new(socket: OwnedFd, pid: Pid, child: Option<Child>) -> io::Result<Self> {
        Ok(Self {
            socket,
            pid,
            process: pidfd_open(pid, PidfdFlags::empty())?,
            child: Mutex::new(child),
            questions: Mutex::new((0, Some(HashMap::new()))),
        })
    }

    fn questions(&self) -> MutexGuard<'_, (Request, Questions)> {
        self.questions
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// Sends a command that has no reply.
    pub(crate) fn tell(&self, command: &Command, fd: Option<BorrowedFd<'_>>) -> io::Result<()> {
        let fds = fd.as_slice();
        socket::send(&self.socket, &command.encode(), fds, Wait::Block)
    }

    /// The same, where the keeper takes it within `timeout`.
    pub(crate) fn tell_within(
        &self,
        command: &Command,
        fd: Option<BorrowedFd<'_>>,
        timeout: Duration,
    ) -> io::Result<()> {
        let (message, deadline) = (command.encode(), Instant::now() + timeout);
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            match socket::send(&self.socket, &message, fd.as_slice(), Wait::Try) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock && !left.is_zero() => {
                    is_ready(self.socket.as_fd(), PollFlags::OUT, left);
                }
                told => return told,
            }
        }
    }

    /// The same, where the keeper takes it at once.
    pub(crate) fn try_to_tell(&self, command: &Command) -> io::Result<()> {
        socket::send(&self.socket, &command.encode(), &[], Wait::Try)
    }

    /// Waits until the keeper has done what it was told so far. Nobody else asks it or listens to it yet, and it is not told to
    /// serve.
    pub(crate) fn confirm(&self, timeout: Duration) -> Result<(), MountError> {
        let deadline = Instant::now() + timeout;
        let failed = |source| MountError::Socket {
            what: "write to",
            source,
        };
        let question = Command::Counters { request: CONFIRM };
        self.tell_within(&question, None, timeout).map_err(failed)?;
        while self.wait(deadline.saturating_duration_since(Instant::now())) {
            match self.receive()?.ok_or(MountError::Gone)?.0 {
                Notice::Reply { request, .. } if request == CONFIRM => return Ok(()),
                Notice::Reply {
                    reply: Reply::Refused(reason),
                    ..
                } => tracing::error!(reason, "the keeper refuses a layer"),
                _ => {}
            }
        }
        Err(MountError::Gone)
    }

    /// Sends a question and waits for the reply.
    pub(crate) fn ask(
        &self,
        command: impl FnOnce(Request) -> Command,
        fd: Option<BorrowedFd<'_>>,
    ) -> Result<Reply, MountError> {
        let (sender, receiver) = sync_channel(1);
        let request = {
            let mut questions = self.questions();
            questions.0 += 1;
            let request = questions.0;
            let waiting = questions.1.as_mut().ok_or(MountError::Gone)?;
            waiting.insert(request, sender);
            request
        };
        let told = self.tell(&command(request), fd);
        if told.is_err() {
            return Err(MountError::Gone);
        }
        match receiver.recv_timeout(REPLY_TIMEOUT) {
            Ok(reply) => Ok(reply),
            Err(RecvTimeoutError::Disconnected) => Err(MountError::Gone),
            Err(RecvTimeoutError::Timeout) => {
                tracing::error!("the keeper hangs and is replaced");
                self.kill();
                Err(MountError::Gone)
            }
        }
    }

    /// Hands a reply to whoever asked.
    pub(crate) fn replied(&self, request: Request, reply: Reply) {
        let waiting = self.questions().1.as_mut().and_then(|w| w.remove(&request));
        if let Some(sender) = waiting {
            // Whoever asked may have stopped waiting.
            let _ = sender.try_send(reply);
        }
    }

    /// The next message; `None` when the keeper is gone.
    pub(crate) fn receive(&self) -> Result<Option<(Notice, Vec<OwnedFd>)>, MountError> {
        let mut buffer = vec![0; MAX_MESSAGE];
        let received = socket::receive(&self.socket, &mut buffer, Wait::Block);
        let failed = |source| MountError::Socket {
            what: "read from",
            source,
        };
        let Some((len, fds)) = received.map_err(failed)? else {
            return Ok(None);
        };
        Ok(Some((Notice::decode(&buffer[..len])?, fds)))
    }

    /// Whether there is something to [receive](Link::receive) within `timeout`.
    pub(crate) fn wait(&self, timeout: Duration) -> bool {
        is_ready(self.socket.as_fd(), PollFlags::IN, timeout)
    }

    /// Says that no more replies come.
    pub(crate) fn close(&self) {
        self.questions().1 = None;
    }

    /// Ends the connection; the keeper goes on.
    pub(crate) fn disconnect(&self) {
        let _ = rustix::net::shutdown(&self.socket, rustix::net::Shutdown::Both);
    }

    /// The keeper's process id.
    pub(crate) fn pid(&self) -> i32 {
        self.pid.as_raw_nonzero().get()
    }

    /// Kills the keeper, if it lives.
    pub(crate) fn kill(&self) {
        let _ = pidfd_send_signal(&self.process, Signal::KILL);
    }

    /// Whether the keeper is dead, or so within `timeout`.
    pub(crate) fn dies_within(&self, timeout: Duration) -> bool {
        is_ready(self.process.as_fd(), PollFlags::IN, timeout)
    }

    /// Waits until the keeper is dead. Only then does nobody read events.
    pub(crate) fn wait_dead(&self) {
        while !self.dies_within(Duration::from_secs(1)) {
            tracing::warn!("the keeper is killed and does not end");
            self.kill();
        }
        let mut child = self.child.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(child) = child.as_mut() {
            let _ = child.wait();
        }
    }

    /// The keeper's process id, if we started it.
    pub(crate) fn child_pid(&self) -> Option<u32> {
        let child = self.child.lock().unwrap_or_else(PoisonError::into_inner);
        child.as_ref().map(Child::id)
    }
}

/// Whether `fd` is ready for `what`, or at its end, within `timeout`.
fn is_ready(fd: BorrowedFd<'_>, what: PollFlags, timeout: Duration) -> bool {
    let timeout = rustix::time::Timespec::try_from(timeout).ok();
    let mut fds = [PollFd::from_borrowed_fd(fd, what)];
    poll(&mut fds, timeout.as_ref()).is_ok_and(|ready| ready > 0)
}
