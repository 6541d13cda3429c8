//! What a process that serves others does to itself, and what it takes from another one.

use std::fs;
use std::io;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::process::{
    Pid, PidfdFlags, PidfdGetfdFlags, Resource, Rlimit, getrlimit, pidfd_getfd, pidfd_open,
    pidfd_send_signal, setrlimit,
};

/// A signal that a serving process may outlive.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Signal {
    /// The terminal is gone.
    Hangup,
    /// Ctrl-C.
    Interrupt,
    /// A polite request to end.
    Terminate,
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
        Signal::Pipe => libc::SIGPIPE,
    };
    // SAFETY: SIG_IGN runs no code of ours, so no rule about signal handlers can be broken.
    let before = unsafe { libc::signal(number, libc::SIG_IGN) };
    if before == libc::SIG_ERR {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

/// The descriptors that a service manager gave this process, with their names (sd_listen_fds(3)), the
/// first time that they are asked for; programs that are executed afterwards do not get them.
#[must_use]
pub fn given_descriptors() -> Vec<(String, OwnedFd)> {
    static TAKEN: AtomicBool = AtomicBool::new(false);
    /// `SD_LISTEN_FDS_START`.
    const FIRST: RawFd = 3;
    let says = |name| std::env::var(name).unwrap_or_default();
    let ours = says("LISTEN_PID") == std::process::id().to_string();
    if !ours || TAKEN.swap(true, Ordering::Relaxed) {
        return Vec::new();
    }
    let count: u16 = says("LISTEN_FDS").parse().unwrap_or(0);
    let names = says("LISTEN_FDNAMES");
    let mut names = names.split(':');
    let numbers = FIRST..FIRST + RawFd::from(count);
    let given = numbers.map(|fd| (names.next().unwrap_or_default().to_owned(), fd));
    // SAFETY: fcntl(2) with F_SETFD touches no memory; it fails where there is no such descriptor.
    let given =
        given.filter(|(_, fd)| unsafe { libc::fcntl(*fd, libc::F_SETFD, libc::FD_CLOEXEC) } == 0);
    // SAFETY: the descriptor is open, was made for this process before it began, and is given out
    // once.
    let owned = given.map(|(name, fd)| (name, unsafe { OwnedFd::from_raw_fd(fd) }));
    owned.collect()
}

/// What the link of a descriptor of this process says (proc_pid_fd(5)).
///
/// # Errors
/// Those of readlink(2).
pub fn link_of(fd: impl AsFd) -> io::Result<PathBuf> {
    fs::read_link(format!("/proc/self/fd/{}", fd.as_fd().as_raw_fd()))
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

/// The limit of open files that this process began with, once it was raised.
static FIRST_OPEN_FILES: OnceLock<Rlimit> = OnceLock::new();

/// Raises the limit of open files as far as anybody may. What began with the lower one for a reason gets it
/// back by [`begin_with_our_first_limit`].
///
/// # Errors
/// Those of setrlimit(2).
pub fn raise_open_files_to_hard_limit() -> io::Result<()> {
    let now = getrlimit(Resource::Nofile);
    let raised = Rlimit {
        current: now.maximum,
        maximum: now.maximum,
    };
    setrlimit(Resource::Nofile, raised)?;
    FIRST_OPEN_FILES.get_or_init(|| now);
    Ok(())
}

/// Has a program begin with the limit of open files that this process began with, whatever
/// [`raise_open_files_to_hard_limit`] made of it: select(2) knows 1024 descriptors, and some programs
/// close all that there may be.
pub fn begin_with_our_first_limit(command: &mut Command) {
    if let Some(first) = FIRST_OPEN_FILES.get().copied() {
        let lower = move || Ok(setrlimit(Resource::Nofile, first)?);
        // SAFETY: between fork and exec this makes one system call, with values that it owns, and
        // allocates nothing.
        unsafe { command.pre_exec(lower) };
    }
}

/// Another process, which stays the one that it was when this was made.
#[derive(Debug)]
pub struct Process {
    pid: i32,
    pidfd: OwnedFd,
}

impl Process {
    /// The process that has the number `pid` now.
    ///
    /// # Errors
    /// Those of pidfd_open(2).
    pub fn open(pid: i32) -> io::Result<Self> {
        let process = Pid::from_raw(pid).ok_or(io::ErrorKind::NotFound)?;
        let pidfd = pidfd_open(process, PidfdFlags::empty())?;
        Ok(Self { pid, pidfd })
    }

    /// Its number.
    #[must_use]
    pub const fn pid(&self) -> i32 {
        self.pid
    }

    /// Whether it has the file at `path` open.
    ///
    /// # Errors
    /// Those of listing its descriptors.
    pub fn has_open(&self, path: &Path) -> io::Result<bool> {
        let mut entries = fs::read_dir(format!("/proc/{}/fd", self.pid))?;
        Ok(entries.any(|entry| {
            let link = entry.and_then(|entry| fs::read_link(entry.path()));
            link.is_ok_and(|link| link == path)
        }))
    }

    /// Whether it is stopped, by a signal or a tracer (proc_pid_stat(5)).
    ///
    /// # Errors
    /// Those of reading its state.
    pub fn is_stopped(&self) -> io::Result<bool> {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.pid))?;
        // The name, in parentheses, may have any character.
        let state = stat.rsplit_once(") ").map_or("", |(_, rest)| rest);
        Ok(state.starts_with(['T', 't']))
    }

    /// Sends it SIGKILL.
    ///
    /// # Errors
    /// Those of pidfd_send_signal(2).
    pub fn kill(&self) -> io::Result<()> {
        Ok(pidfd_send_signal(
            &self.pidfd,
            rustix::process::Signal::KILL,
        )?)
    }
}

/// What the link of a descriptor of an event group says.
pub const EVENT_GROUP: &str = "anon_inode:[fanotify]";

/// Duplicates descriptors of the process `pid` into this one: those whose links (proc_pid_fd(5):
/// the path of the open file, or words such as [`EVENT_GROUP`]) are `wanted`. The open files are
/// the same, so whatever holds of them (that they raise no events, say) holds of the duplicates.
///
/// # Errors
/// Those of pidfd_open(2), of listing the descriptors, and of pidfd_getfd(2): `EACCES` or `EPERM` for a process
/// that this one could not trace.
pub fn descriptors_of(
    pid: i32,
    wanted: impl Fn(&Path) -> bool,
) -> io::Result<Vec<(PathBuf, OwnedFd)>> {
    let process = Pid::from_raw(pid).ok_or(io::ErrorKind::NotFound)?;
    let process = pidfd_open(process, PidfdFlags::empty())?;
    let mut found = Vec::new();
    for entry in fs::read_dir(format!("/proc/{pid}/fd"))? {
        let entry = entry?;
        let number = entry
            .file_name()
            .to_str()
            .and_then(|name| name.parse().ok());
        let (number, link): (RawFd, _) = match (number, fs::read_link(entry.path())) {
            (Some(number), Ok(link)) => (number, link),
            // Closed since it was listed.
            (_, Err(error)) if error.kind() == io::ErrorKind::NotFound => continue,
            // What may not be seen may be what is wanted.
            (_, Err(error)) => return Err(error),
            (None, _) => continue,
        };
        if !wanted(&link) {
            continue;
        }
        let fd = match pidfd_getfd(&process, number, PidfdGetfdFlags::empty()) {
            Ok(fd) => fd,
            Err(rustix::io::Errno::BADF) => continue,
            Err(error) => return Err(error.into()),
        };
        // The number may have changed hands in between.
        let link = link_of(&fd)?;
        if wanted(&link) {
            found.push((link, fd));
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Seek, Write};
    use std::process::Stdio;

    use super::*;

    #[test]
    fn another_process_is_seen_to_be_stopped() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        let file = fs::File::create_new(&path).unwrap();
        let mut child = Command::new("sleep")
            .arg("1000")
            .stdout(Stdio::from(file))
            .spawn()
            .unwrap();
        let process = Process::open(child.id().cast_signed()).unwrap();
        assert!(process.has_open(&path).unwrap());
        assert!(!process.has_open(dir.path()).unwrap());
        assert!(!process.is_stopped().unwrap());
        pidfd_send_signal(&process.pidfd, rustix::process::Signal::STOP).unwrap();
        while !process.is_stopped().unwrap() {
            std::thread::yield_now();
        }
        process.kill().unwrap();
        assert!(!child.wait().unwrap().success());
        assert!(process.kill().is_err(), "the number may be another's");
    }

    #[test]
    fn another_process_s_open_file_is_the_same_here() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        let file = fs::File::create_new(&path).unwrap();
        let mut child = Command::new("sleep")
            .arg("1000")
            .stdout(Stdio::from(file.try_clone().unwrap()))
            .spawn()
            .unwrap();
        // Between fork and exec it has all that this process has.
        let its = || descriptors_of(child.id().cast_signed(), |link| link == path).unwrap();
        let mut found = its();
        while found.len() != 1 {
            found = its();
        }
        let (link, fd) = found.remove(0);
        assert_eq!(link, path);
        let mut copy = fs::File::from(fd);
        copy.write_all(b"shared").unwrap();
        // The position is the open file's: it is one.
        assert_eq!((&file).stream_position().unwrap(), 6);
        let mut text = String::new();
        fs::File::open(&path)
            .unwrap()
            .read_to_string(&mut text)
            .unwrap();
        assert_eq!(text, "shared");
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(descriptors_of(child.id().cast_signed(), |_| true).is_err());
    }
}
