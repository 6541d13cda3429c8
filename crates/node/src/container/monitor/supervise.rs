//! Being the parent of a container's process: signals go to it, its end comes back.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use rustix::process::{
    Pid, PidfdFlags, Signal, WaitId, WaitIdOptions, getpid, pidfd_open, pidfd_send_signal,
    set_child_subreaper, waitid,
};
use signal_hook::consts::signal as number;
use signal_hook::flag::register_conditional_default;
use signal_hook::iterator::{Handle, Signals};

use super::console::copy_size;
use crate::container::ContainerError;

/// Signals that are not for us but for the container.
const FORWARDED: [i32; 10] = [
    number::SIGHUP,
    number::SIGINT,
    number::SIGQUIT,
    number::SIGTERM,
    number::SIGUSR1,
    number::SIGUSR2,
    number::SIGCONT,
    number::SIGTSTP,
    number::SIGALRM,
    number::SIGWINCH,
];

/// Signals are caught, and kept until there is a process to send them to.
#[derive(Debug)]
pub(in crate::container) struct Caught {
    signals: Signals,
}

/// Makes this process the parent of what a runtime leaves behind, and catches signals. From then
/// on the signals do nothing to this process, until [`uncatch`].
pub(in crate::container) fn become_parent() -> Result<Caught, ContainerError> {
    set_child_subreaper(Some(getpid()))
        .map_err(ContainerError::system("become the parent of the container"))?;
    let signals = Signals::new(FORWARDED).map_err(ContainerError::system("catch signals"))?;
    Ok(Caught { signals })
}

/// A child process, held by a descriptor, so that no other can take its place.
#[derive(Debug)]
pub(in crate::container) struct Child {
    pidfd: Arc<OwnedFd>,
}

impl Child {
    pub(in crate::container) fn open(pid: Pid) -> Result<Self, ContainerError> {
        let pidfd = pidfd_open(pid, PidfdFlags::empty())
            .map_err(ContainerError::system("open the container's process"))?;
        Ok(Self {
            pidfd: Arc::new(pidfd),
        })
    }

    /// Waits for its end: its exit code, 128 + N after signal N.
    pub(in crate::container) fn wait(&self) -> Result<u8, ContainerError> {
        /// How long the runtime may take to leave the process to us.
        const INHERIT: Duration = Duration::from_secs(5);
        self.wait_for_end()?;
        let begin = Instant::now();
        loop {
            match waitid(WaitId::PidFd(self.pidfd.as_fd()), WaitIdOptions::EXITED) {
                Ok(Some(status)) => {
                    let signal = status.terminating_signal().map(|signal| 128 + signal);
                    let code = status.exit_status().or(signal).unwrap_or(255);
                    return Ok(u8::try_from(code & 255).unwrap_or(255));
                }
                Ok(None) | Err(Errno::INTR) => {}
                // crun returns a moment before its own child does, whose child this process is.
                Err(Errno::CHILD) if begin.elapsed() < INHERIT => {
                    thread::sleep(Duration::from_millis(1));
                }
                Err(error) => {
                    return Err(ContainerError::system("wait for the container")(error));
                }
            }
        }
    }

    /// A process descriptor is readable once its process has ended, whoever the parent is.
    fn wait_for_end(&self) -> Result<(), ContainerError> {
        let mut watched = [PollFd::new(&self.pidfd, PollFlags::IN)];
        loop {
            match poll(&mut watched, None) {
                Ok(0) | Err(Errno::INTR) => {}
                Ok(_) => return Ok(()),
                Err(error) => {
                    return Err(ContainerError::system("wait for the container")(error));
                }
            }
        }
    }
}

/// The thread that forwards signals.
#[derive(Debug)]
pub(in crate::container) struct Forwarder {
    handle: Handle,
    thread: JoinHandle<()>,
}

impl Caught {
    /// Sends what comes, and what has come already, to `child`. A change of the window goes to
    /// `terminal`, where there is one, and from there to the container.
    pub(in crate::container) fn forward(
        mut self,
        child: &Child,
        terminal: Option<impl AsFd + Send + 'static>,
    ) -> Result<Forwarder, ContainerError> {
        let handle = self.signals.handle();
        let pidfd = Arc::clone(&child.pidfd);
        let body = move || {
            for signal in self.signals.forever() {
                match (signal, &terminal) {
                    (number::SIGWINCH, Some(terminal)) => copy_size(terminal),
                    _ => {
                        if let Some(signal) = Signal::from_named_raw(signal) {
                            let _ = pidfd_send_signal(&pidfd, signal);
                        }
                    }
                }
            }
        };
        let thread = thread::Builder::new()
            .name("container-signals".to_owned())
            .stack_size(128 << 10)
            .spawn(body)
            .map_err(ContainerError::system("start a thread"))?;
        Ok(Forwarder { handle, thread })
    }
}

/// Has the signals do again what they do to a process that does not catch them, where no container is there for them
/// any more.
pub(super) fn uncatch() {
    for signal in FORWARDED {
        // What was caught once keeps its handler.
        if let Err(error) = register_conditional_default(signal, Arc::new(AtomicBool::new(true))) {
            tracing::debug!(signal, %error, "the signal does nothing");
        }
    }
}

impl Forwarder {
    pub(in crate::container) fn stop(self) {
        self.handle.close();
        let _ = self.thread.join();
    }
}
