//! Who is at the other end of a socket, and which names users and groups have.

use std::ffi::CString;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd};

/// Most supplementary groups of a process (`NGROUPS_MAX`).
const MAX_GROUPS: usize = 65_536;
/// Most bytes of an entry of the user or group database.
const MAX_ENTRY: usize = 1 << 20;

/// The process at the other end of a Unix socket, as it was when it connected: it cannot lie about
/// any of this.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Peer {
    /// Its process id, for messages: it may be gone.
    pub pid: i32,
    /// Its effective user.
    pub uid: u32,
    /// Its effective group, then its supplementary ones.
    pub groups: Vec<u32>,
}

impl Peer {
    /// At the other end of `socket` (`SO_PEERCRED` and `SO_PEERGROUPS`, unix(7)).
    ///
    /// # Errors
    /// Those of getsockopt(2).
    pub fn of(socket: impl AsFd) -> io::Result<Self> {
        let credentials = rustix::net::sockopt::socket_peercred(&socket)?;
        let mut groups = vec![credentials.gid.as_raw()];
        groups.extend(supplementary(&socket)?);
        Ok(Self {
            pid: credentials.pid.as_raw_nonzero().get(),
            uid: credentials.uid.as_raw(),
            groups,
        })
    }
}

fn supplementary(socket: &impl AsFd) -> io::Result<Vec<u32>> {
    let mut groups: Vec<libc::gid_t> = vec![0; 64];
    loop {
        let mut bytes =
            libc::socklen_t::try_from(size_of_val(groups.as_slice())).map_err(io::Error::other)?;
        // SAFETY: the kernel writes at most `bytes` bytes to `groups`, which has them, and how many it
        // wrote or wants to `bytes`; any bytes are group ids.
        let outcome = unsafe {
            libc::getsockopt(
                socket.as_fd().as_raw_fd(),
                libc::SOL_SOCKET,
                libc::SO_PEERGROUPS,
                groups.as_mut_ptr().cast(),
                &raw mut bytes,
            )
        };
        let count = bytes as usize / size_of::<libc::gid_t>();
        if outcome == 0 {
            groups.truncate(count);
            return Ok(groups);
        }
        let error = io::Error::last_os_error();
        let grows = count > groups.len() && count <= MAX_GROUPS;
        if error.raw_os_error() != Some(libc::ERANGE) || !grows {
            return Err(error);
        }
        groups.resize(count, 0);
    }
}

/// The id of the user of this name, which may be a number.
///
/// # Errors
/// `NotFound` where there is none; else those of getpwnam_r(3).
pub fn user(name: &str) -> io::Result<u32> {
    look_up(name, |name, buffer| {
        let mut entry = MaybeUninit::<libc::passwd>::uninit();
        let mut found = std::ptr::null_mut();
        // SAFETY: all pointers are valid for the call, and `buffer` has the length that is given.
        let code = unsafe {
            libc::getpwnam_r(
                name.as_ptr(),
                entry.as_mut_ptr(),
                buffer.as_mut_ptr().cast(),
                buffer.len(),
                &raw mut found,
            )
        };
        // SAFETY: where `found` is set the function has filled `entry`, at which it points.
        (
            code,
            (!found.is_null()).then(|| unsafe { entry.assume_init_ref().pw_uid }),
        )
    })
}

/// The id of the group of this name, which may be a number.
///
/// # Errors
/// `NotFound` where there is none; else those of getgrnam_r(3).
pub fn group(name: &str) -> io::Result<u32> {
    look_up(name, |name, buffer| {
        let mut entry = MaybeUninit::<libc::group>::uninit();
        let mut found = std::ptr::null_mut();
        // SAFETY: all pointers are valid for the call, and `buffer` has the length that is given.
        let code = unsafe {
            libc::getgrnam_r(
                name.as_ptr(),
                entry.as_mut_ptr(),
                buffer.as_mut_ptr().cast(),
                buffer.len(),
                &raw mut found,
            )
        };
        // SAFETY: where `found` is set the function has filled `entry`, at which it points.
        (
            code,
            (!found.is_null()).then(|| unsafe { entry.assume_init_ref().gr_gid }),
        )
    })
}

/// Asks with a buffer that grows until the entry fits.
fn look_up(name: &str, ask: impl Fn(&CString, &mut [u8]) -> (i32, Option<u32>)) -> io::Result<u32> {
    if let Ok(id) = name.parse() {
        return Ok(id);
    }
    let text = CString::new(name)?;
    let mut buffer = vec![0; 4096];
    loop {
        match ask(&text, &mut buffer) {
            (_, Some(id)) => return Ok(id),
            (libc::ERANGE, None) if buffer.len() < MAX_ENTRY => buffer.resize(buffer.len() * 4, 0),
            (libc::EINTR, None) => {}
            (0 | libc::ENOENT, None) => return Err(io::ErrorKind::NotFound.into()),
            (code, None) => return Err(io::Error::from_raw_os_error(code)),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixStream;

    use super::*;

    #[test]
    fn both_ends_of_a_pair_are_this_process() {
        let (one, _other) = UnixStream::pair().unwrap();
        let peer = Peer::of(&one).unwrap();
        assert_eq!(peer.pid, std::process::id().cast_signed());
        assert_eq!(peer.uid, rustix::process::geteuid().as_raw());
        assert_eq!(peer.groups[0], rustix::process::getegid().as_raw());
        let own = rustix::process::getgroups().unwrap();
        let own: Vec<u32> = own.iter().map(|group| group.as_raw()).collect();
        assert_eq!(peer.groups[1..], own);
    }

    #[test]
    fn names_and_numbers_are_ids() {
        assert_eq!(user("root").unwrap(), 0);
        assert_eq!(group("root").unwrap(), 0);
        assert_eq!(user("4711").unwrap(), 4711);
        assert_eq!(group("4712").unwrap(), 4712);
        for look_up in [user, group] {
            let error = look_up("no such name").unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::NotFound);
        }
    }
}
