//! What a process that serves others does to itself.

use std::io;

/// A signal that a serving process may outlive.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Signal {
    /// The terminal is gone.
    Hangup,
    /// Ctrl-C.
    Interrupt,
    /// A polite request to end.
    Terminate,
    /// Somebody waits to open a file that we hold a lease on.
    Lease,
    /// A write to a pipe or socket that nobody reads.
    Pipe,
}

/// Ignores `signal` from now on, here and in programs that are executed.
///
/// # Errors
/// Those of sigaction(2); none are known for these signals.
pub fn ignore(signal: Signal) -> io::Result<()> {
    let number = match signal {
        Signal::Hangup => libc::SIGHUP,
        Signal::Interrupt => libc::SIGINT,
        Signal::Terminate => libc::SIGTERM,
        Signal::Lease => libc::SIGIO,
        Signal::Pipe => libc::SIGPIPE,
    };
    // SAFETY: SIG_IGN runs no code of ours, so no rule about signal handlers can be broken.
    let before = unsafe { libc::signal(number, libc::SIG_IGN) };
    if before == libc::SIG_ERR {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

/// How likely the kernel is to kill this process when memory runs out: -1000 (never) to 1000.
///
/// # Errors
/// Without `CAP_SYS_RESOURCE` the value can only grow.
pub fn set_oom_score(score: i16) -> io::Result<()> {
    std::fs::write("/proc/self/oom_score_adj", score.to_string())
}

/// Raises the limit of open files to `wanted`, or as near as this process may, and returns it.
///
/// # Errors
/// Those of setrlimit(2).
pub fn raise_open_files(wanted: u64) -> io::Result<u64> {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let now = getrlimit(Resource::Nofile);
    let more = Rlimit {
        current: Some(wanted),
        maximum: now.maximum.map(|maximum| maximum.max(wanted)),
    };
    if setrlimit(Resource::Nofile, more).is_ok() {
        return Ok(wanted);
    }
    let current = now.maximum.map_or(wanted, |maximum| maximum.min(wanted));
    let less = Rlimit {
        current: Some(current),
        maximum: now.maximum,
    };
    setrlimit(Resource::Nofile, less)?;
    Ok(current)
}
