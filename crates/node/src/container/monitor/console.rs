//! Terminals: the socket on which a runtime hands over the container's end, and the caller's own
//! terminal, which passes every key on while a container has it.

use std::io::IoSliceMut;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};
use rustix::termios::{
    OptionalActions, Termios, isatty, tcgetattr, tcgetwinsize, tcsetattr, tcsetwinsize,
};

use crate::container::ContainerError;

/// Where a runtime connects to hand over a terminal. The file goes with the value.
#[derive(Debug)]
pub(super) struct ConsoleSocket {
    listener: UnixListener,
    path: PathBuf,
}

impl ConsoleSocket {
    /// Listens at `path`, which must be short: a socket's address has 107 bytes.
    pub(super) fn listen(path: PathBuf) -> Result<Self, ContainerError> {
        let listener =
            UnixListener::bind(&path).map_err(ContainerError::file("listen on", &path))?;
        Ok(Self { listener, path })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// The terminal. Called after the runtime's success, when it has been sent already.
    pub(super) fn receive(&self) -> Result<OwnedFd, ContainerError> {
        let failed = || ContainerError::file("receive the terminal on", &self.path);
        let not_there = std::io::Error::from(std::io::ErrorKind::UnexpectedEof);
        // The runtime is done: when it has not connected, it never will.
        self.listener.set_nonblocking(true).map_err(failed())?;
        let (socket, _) = self.listener.accept().map_err(failed())?;
        socket.set_nonblocking(false).map_err(failed())?;
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        // runc sends the terminal's name beside it.
        let mut name = [0; 4096];
        let flags = RecvFlags::CMSG_CLOEXEC;
        recvmsg(
            &socket,
            &mut [IoSliceMut::new(&mut name)],
            &mut control,
            flags,
        )
        .map_err(ContainerError::file("receive the terminal on", &self.path))?;
        for message in control.drain() {
            if let RecvAncillaryMessage::ScmRights(mut descriptors) = message
                && let Some(terminal) = descriptors.next()
            {
                return Ok(terminal);
            }
        }
        Err(failed()(not_there))
    }
}

impl Drop for ConsoleSocket {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.path);
    }
}

/// The caller's terminal in raw mode; as it was before when the value goes.
#[derive(Debug)]
pub(super) struct RawMode {
    before: Termios,
}

impl RawMode {
    /// `None` where standard input is no terminal.
    pub(super) fn enter() -> Option<Self> {
        let stdin = std::io::stdin();
        if !isatty(&stdin) {
            return None;
        }
        let before = tcgetattr(&stdin).ok()?;
        let mut raw = before.clone();
        raw.make_raw();
        tcsetattr(&stdin, OptionalActions::Now, &raw).ok()?;
        Some(Self { before })
    }
}

impl Drop for RawMode {
    fn drop(&mut self) {
        let _ = tcsetattr(std::io::stdin(), OptionalActions::Drain, &self.before);
    }
}

/// Gives the container's terminal the size of the caller's, if that has one.
pub(super) fn copy_size(terminal: impl AsFd) {
    if let Ok(size) = tcgetwinsize(std::io::stdin()).or_else(|_| tcgetwinsize(std::io::stdout())) {
        let _ = tcsetwinsize(terminal, size);
    }
}
