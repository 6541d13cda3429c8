//! Whether a store has a keeper, for those who must not speak to it: a lock beside its socket, held
//! as long as the process lives.
//!
//! A keeper holds the lock shared, and who asks tries to have it alone, for an instant. So nobody
//! is ever in a keeper's way for longer than that.
//!
//! A keeper that is stopped (SIGSTOP) has the lock, too. So the file has its process id, and whoever
//! is worried looks at that process.

use std::fs::File;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use rustix::fs::{FlockOperation, flock};
use thaw_sys::process::Process;

/// For how long those who ask may be in the way.
const PATIENCE: Duration = Duration::from_secs(1);

fn path(socket: &Path) -> PathBuf {
    socket.with_extension("lock")
}

/// Shows that the keeper which listens at `socket` lives, as long as the file is open.
pub(super) fn show(socket: &Path) -> io::Result<File> {
    let path = path(socket);
    let file = File::options()
        .create(true)
        .truncate(false)
        .write(true)
        .open(path)?;
    let begin = Instant::now();
    while let Err(error) = flock(&file, FlockOperation::NonBlockingLockShared) {
        if begin.elapsed() >= PATIENCE {
            return Err(error.into());
        }
        thread::sleep(Duration::from_millis(1));
    }
    file.set_len(0)?;
    write!(&file, "{}", std::process::id())?;
    Ok(file)
}

/// The keeper that listens at `socket`, if it lives and is stopped: it answers nobody.
pub(super) fn stopped(socket: &Path) -> Option<Process> {
    keeper(socket, |process| process.is_stopped().unwrap_or(false))
}

/// The process id of the keeper that listens at `socket`, if it lives.
#[must_use]
pub fn keeper_of(socket: &Path) -> Option<i32> {
    is_shown(socket).then_some(())?;
    keeper(socket, |_| true).map(|process| process.pid())
}

/// The keeper that listens at `socket`, if it `is` so.
fn keeper(socket: &Path, is: impl FnOnce(&Process) -> bool) -> Option<Process> {
    let pid = std::fs::read_to_string(path(socket)).ok()?.parse().ok()?;
    let process = Process::open(pid).ok().filter(is)?;
    // The number may be another process's by now: only a keeper has the file open. It may have
    // many, so this is looked at last.
    let is_keeper = process.has_open(&path(socket)).unwrap_or(false);
    is_keeper.then_some(process)
}

/// Whether a keeper that listens, or is about to listen, at `socket` lives. One who asks at the same
/// time may be taken for it.
pub(super) fn is_shown(socket: &Path) -> bool {
    File::open(path(socket))
        .is_ok_and(|file| flock(&file, FlockOperation::NonBlockingLockExclusive).is_err())
}

/// The keeper ends, and the next one has another file.
pub(super) fn forget(socket: &Path) {
    std::fs::remove_file(path(socket)).ok();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_keeper_is_seen_until_it_ends() {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("keeper.sock");
        assert!(!is_shown(&socket));
        let (one, two) = (show(&socket).unwrap(), show(&socket).unwrap());
        assert!(is_shown(&socket));
        drop(one);
        assert!(is_shown(&socket));
        drop(two);
        assert!(!is_shown(&socket));
    }
}
