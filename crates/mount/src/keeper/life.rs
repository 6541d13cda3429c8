//! Whether a store has a keeper, for those who must not speak to it: a lock beside its socket, held
//! as long as the process lives.
//!
//! Of all who read one event group each answers events by numbers that are its own: two of them would answer each other's readers, and
//! one could let pass what the other denies. So a keeper holds the lock alone, from before it takes readers, and so does whoever
//! denies what waits, for as long as that takes: some milliseconds, for which a keeper that begins waits. Who only asks has it for an
//! instant.
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

/// For how long those who ask, or deny, may be in the way.
const PATIENCE: Duration = Duration::from_secs(1);

fn path(socket: &Path) -> PathBuf {
    socket.with_extension("lock")
}

/// Shows that the keeper which listens at `socket` lives, as long as the file is open.
pub(super) fn show(socket: &Path) -> io::Result<File> {
    let file = open(socket)?;
    let begin = Instant::now();
    while let Err(error) = flock(&file, FlockOperation::NonBlockingLockExclusive) {
        if begin.elapsed() >= PATIENCE {
            return Err(error.into());
        }
        thread::sleep(Duration::from_millis(1));
    }
    file.set_len(0)?;
    write!(&file, "{}", std::process::id())?;
    Ok(file)
}

fn open(socket: &Path) -> io::Result<File> {
    let mut options = File::options();
    let options = options.create(true).truncate(false).write(true);
    options.open(path(socket))
}

/// Runs `act` if there is no keeper that listens at `socket`, and none can begin meanwhile.
///
/// # Errors
/// When it cannot be known whether there is one.
pub(super) fn without_keeper<T>(socket: &Path, act: impl FnOnce() -> T) -> io::Result<Option<T>> {
    let file = match File::open(path(socket)) {
        // Where it cannot be made, as on a disk that is full, no keeper can begin.
        Err(error) if error.kind() == io::ErrorKind::NotFound => open(socket).ok(),
        file => Some(file?),
    };
    let lock = |file: &File| flock(file, FlockOperation::NonBlockingLockExclusive).is_ok();
    let is_free = file.as_ref().is_none_or(lock);
    Ok(is_free.then(act))
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

/// Whether a keeper that listens, or is about to listen, at `socket` lives. One who asks, or denies, at the same time may be taken for it.
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
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::sync::mpsc::channel;

    use super::*;

    #[test]
    fn a_keeper_is_seen_until_it_ends() {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("keeper.sock");
        assert!(!is_shown(&socket));
        let keeper = show(&socket).unwrap();
        assert!(is_shown(&socket));
        assert_eq!(without_keeper(&socket, || 1).unwrap(), None);
        drop(keeper);
        assert!(!is_shown(&socket));
        assert_eq!(without_keeper(&socket, || 1).unwrap(), Some(1));
    }

    #[test]
    fn a_keeper_waits_for_who_denies_and_refuses_to_be_a_second_one() {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("keeper.sock");
        let denying = AtomicBool::new(false);
        let (begin, begun) = channel();
        thread::scope(|scope| {
            let (denying, begin) = (&denying, &begin);
            let deny = move || {
                denying.store(true, Ordering::SeqCst);
                begin.send(()).unwrap();
                thread::sleep(Duration::from_millis(50));
                denying.store(false, Ordering::SeqCst);
            };
            let socket = &socket;
            scope.spawn(move || without_keeper(socket, deny).unwrap().unwrap());
            begun.recv().unwrap();
            let _keeper = show(socket).unwrap();
            assert!(!denying.load(Ordering::SeqCst));
            show(socket).expect_err("there is a keeper");
        });
    }
}
