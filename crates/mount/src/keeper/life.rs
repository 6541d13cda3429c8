//! Whether a store has a keeper, for those who must not speak to it: a lock beside its socket, held
//! as long as the process lives.
//!
//! A keeper holds the lock shared, and who asks tries to have it alone, for an instant. So nobody
//! is ever in a keeper's way for longer than that.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use rustix::fs::{FlockOperation, flock};

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
    Ok(file)
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
