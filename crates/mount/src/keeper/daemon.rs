//! The keeper's connection to a daemon, which may be slow to listen and must not slow us.

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::event::{PollFd, PollFlags, poll};
use thaw_sys::socket::{self, Wait};

use super::message::Notice;

/// The connection to a daemon, and what it has not taken yet.
#[derive(Debug)]
pub(crate) struct Daemon {
    socket: OwnedFd,
    outgoing: VecDeque<(Vec<u8>, Option<OwnedFd>)>,
}

impl Daemon {
    pub(crate) fn new(socket: OwnedFd) -> Self {
        Self {
            socket,
            outgoing: VecDeque::new(),
        }
    }

    /// Queues a message. What is queued is bounded by events that wait and questions asked.
    pub(crate) fn queue(&mut self, notice: &Notice, fd: Option<OwnedFd>) {
        self.outgoing.push_back((notice.encode(), fd));
    }

    /// Whether its end of the socket is closed, though there may be more to read.
    pub(crate) fn is_gone(&self) -> bool {
        let mut fds = [PollFd::new(&self.socket, PollFlags::empty())];
        let now = rustix::time::Timespec::default();
        poll(&mut fds, Some(&now)).is_ok_and(|ready| ready > 0)
    }

    /// Whether it has not taken everything.
    pub(crate) fn is_behind(&self) -> bool {
        !self.outgoing.is_empty()
    }

    /// Sends what it takes without waiting.
    pub(crate) fn flush(&mut self) -> io::Result<()> {
        while let Some((message, fd)) = self.outgoing.front() {
            let fd = fd.as_ref().map(AsFd::as_fd);
            let fds = fd.as_slice();
            match socket::send(&self.socket, message, fds, Wait::Try) {
                Ok(()) => {
                    self.outgoing.pop_front();
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

impl AsFd for Daemon {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}
