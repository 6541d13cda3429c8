//! Whether anybody else has a file open, as only the kernel can know it: a write lease (fcntl(2),
//! "Leases") is given only to a file's one opener, whoever and in whichever mount or process
//! namespace the others may be, the kernel itself included.

use std::io;
use std::os::fd::{AsFd, AsRawFd};

/// `include/uapi/asm-generic/fcntl.h`.
const F_SETSIG: libc::c_int = 10;

/// Runs `act` if the open file behind `file` (and its duplicates) is the only one of its file;
/// `None` if it is not. Nobody opens the file while `act` runs.
///
/// # Errors
/// Those of fcntl(2), `F_SETLEASE`: the caller must own the file or be root, and the filesystem
/// must know leases.
pub fn while_alone<T>(file: impl AsFd, act: impl FnOnce() -> T) -> io::Result<Option<T>> {
    // An opener that has to wait sends a signal: one that kills nobody.
    control(&file, F_SETSIG, libc::SIGURG)?;
    match control(&file, libc::F_SETLEASE, libc::F_WRLCK) {
        Ok(()) => {}
        Err(error) if error.raw_os_error() == Some(libc::EAGAIN) => return Ok(None),
        Err(error) => return Err(error),
    }
    let acted = act();
    control(&file, libc::F_SETLEASE, libc::F_UNLCK)?;
    Ok(Some(acted))
}

fn control(file: impl AsFd, command: libc::c_int, argument: libc::c_int) -> io::Result<()> {
    let fd = file.as_fd().as_raw_fd();
    // SAFETY: the descriptor is borrowed for the call, and the argument is a plain integer.
    let done = unsafe { libc::fcntl(fd, command, argument) };
    if done < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::fs::File;

    use super::*;

    #[test]
    fn a_second_opener_is_noticed() {
        let dir = tempfile::tempdir_in(env!("CARGO_MANIFEST_DIR")).unwrap();
        let path = dir.path().join("file");
        let file = File::options()
            .read(true)
            .write(true)
            .create_new(true)
            .open(&path)
            .unwrap();
        let duplicate = file.try_clone().unwrap();
        assert_eq!(while_alone(&duplicate, || 1).unwrap(), Some(1));
        let reader = File::open(&path).unwrap();
        assert_eq!(while_alone(&file, || 1).unwrap(), None);
        drop(reader);
        let writer = File::options().append(true).open(&path).unwrap();
        assert_eq!(while_alone(&file, || 1).unwrap(), None);
        drop(writer);
        assert_eq!(while_alone(&file, || 1).unwrap(), Some(1));
    }
}
