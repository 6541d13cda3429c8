//! Whole messages, with descriptors, over Unix `SOCK_SEQPACKET` sockets: no framing is needed, and
//! a message and its descriptors come together or not at all.

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags,
    SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketAddrUnix, SocketFlags, SocketType,
};

/// Most descriptors in one message.
pub const MAX_FDS: usize = 4;

/// Two connected ends.
///
/// # Errors
/// Those of socketpair(2).
pub fn pair() -> io::Result<(OwnedFd, OwnedFd)> {
    let flags = SocketFlags::CLOEXEC;
    let (family, kind) = (AddressFamily::UNIX, SocketType::SEQPACKET);
    Ok(rustix::net::socketpair(family, kind, flags, None)?)
}

/// A listening socket at `path`, replacing what was there, for this user only.
///
/// # Errors
/// Those of bind(2); a path over 107 bytes is refused.
pub fn listen(path: &Path) -> io::Result<OwnedFd> {
    let address = SocketAddrUnix::new(path)?;
    let socket = open(SocketFlags::CLOEXEC | SocketFlags::NONBLOCK)?;
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    rustix::net::bind(&socket, &address)?;
    let private = std::os::unix::fs::PermissionsExt::from_mode(0o600);
    std::fs::set_permissions(path, private)?;
    rustix::net::listen(&socket, 4)?;
    Ok(socket)
}

/// Connects to a socket made by [`listen`].
///
/// # Errors
/// Those of connect(2): `ENOENT` and `ECONNREFUSED` when nobody listens.
pub fn connect(path: &Path) -> io::Result<OwnedFd> {
    let address = SocketAddrUnix::new(path)?;
    let socket = open(SocketFlags::CLOEXEC)?;
    rustix::net::connect(&socket, &address)?;
    Ok(socket)
}

/// Takes a waiting connection and the process id of its other end, which runs as the same user as
/// we do or as root; connections of others are closed. `None` when none waits.
///
/// # Errors
/// Those of accept(2).
pub fn accept(listener: impl AsFd) -> io::Result<Option<(OwnedFd, i32)>> {
    loop {
        let socket = match rustix::net::accept_with(&listener, SocketFlags::CLOEXEC) {
            Ok(socket) => socket,
            Err(rustix::io::Errno::AGAIN) => return Ok(None),
            Err(rustix::io::Errno::INTR | rustix::io::Errno::CONNABORTED) => continue,
            Err(error) => return Err(error.into()),
        };
        let peer = rustix::net::sockopt::socket_peercred(&socket)?;
        if peer.uid.is_root() || peer.uid == rustix::process::geteuid() {
            return Ok(Some((socket, peer.pid.as_raw_nonzero().get())));
        }
    }
}

/// The process id of the other end.
///
/// # Errors
/// Those of getsockopt(2).
pub fn peer_pid(socket: impl AsFd) -> io::Result<i32> {
    let peer = rustix::net::sockopt::socket_peercred(socket)?;
    Ok(peer.pid.as_raw_nonzero().get())
}

fn open(flags: SocketFlags) -> io::Result<OwnedFd> {
    let (family, kind) = (AddressFamily::UNIX, SocketType::SEQPACKET);
    Ok(rustix::net::socket_with(family, kind, flags, None)?)
}

/// Whether a call may sleep.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Wait {
    /// Until it can be done.
    Block,
    /// `ErrorKind::WouldBlock` instead of sleeping.
    Try,
}

/// Sends one message with at most [`MAX_FDS`] descriptors.
///
/// # Errors
/// Those of sendmsg(2): `EPIPE` when the other end is gone (no signal is raised).
pub fn send(
    socket: impl AsFd,
    message: &[u8],
    fds: &[BorrowedFd<'_>],
    wait: Wait,
) -> io::Result<()> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FDS))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !fds.is_empty() && !control.push(SendAncillaryMessage::ScmRights(fds)) {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    let flags = match wait {
        Wait::Block => SendFlags::NOSIGNAL,
        Wait::Try => SendFlags::NOSIGNAL | SendFlags::DONTWAIT,
    };
    let parts = [IoSlice::new(message)];
    let sent =
        rustix::io::retry_on_intr(|| rustix::net::sendmsg(&socket, &parts, &mut control, flags))?;
    if sent != message.len() {
        return Err(io::ErrorKind::WriteZero.into());
    }
    Ok(())
}

/// Receives one message into `buffer`, with its descriptors; `None` when the other end is gone.
///
/// # Errors
/// Those of recvmsg(2); `InvalidData` for a message that did not fit, and for an empty one, which
/// nobody sends.
pub fn receive(
    socket: impl AsFd,
    buffer: &mut [u8],
    wait: Wait,
) -> io::Result<Option<(usize, Vec<OwnedFd>)>> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FDS))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let flags = match wait {
        Wait::Block => RecvFlags::CMSG_CLOEXEC,
        Wait::Try => RecvFlags::CMSG_CLOEXEC | RecvFlags::DONTWAIT,
    };
    let mut parts = [IoSliceMut::new(buffer)];
    let mut receive = || {
        rustix::io::retry_on_intr(|| rustix::net::recvmsg(&socket, &mut parts, &mut control, flags))
    };
    let received = match receive() {
        // The other end has gone before it read all that we said. The kernel tells so once, before it gives what that end has said.
        Err(rustix::io::Errno::CONNRESET) => receive()?,
        other => other?,
    };
    let fds = control
        .drain()
        .filter_map(|message| match message {
            RecvAncillaryMessage::ScmRights(fds) => Some(fds),
            _ => None,
        })
        .flatten()
        .collect();
    if received
        .flags
        .intersects(ReturnFlags::TRUNC | ReturnFlags::CTRUNC)
    {
        return Err(io::ErrorKind::InvalidData.into());
    }
    match received.bytes {
        0 => Ok(None),
        bytes => Ok(Some((bytes, fds))),
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Seek, Write};

    use super::*;

    #[test]
    fn messages_keep_their_bounds_and_descriptors() {
        let (left, right) = pair().unwrap();
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(b"held").unwrap();
        send(&left, b"one", &[file.as_fd()], Wait::Block).unwrap();
        send(&left, b"three", &[], Wait::Block).unwrap();
        drop(file);
        let mut buffer = [0; 16];
        let (len, mut fds) = receive(&right, &mut buffer, Wait::Block).unwrap().unwrap();
        assert_eq!(&buffer[..len], b"one");
        let mut file = std::fs::File::from(fds.remove(0));
        let mut text = String::new();
        file.rewind().unwrap();
        file.read_to_string(&mut text).unwrap();
        assert_eq!(text, "held");
        let (len, fds) = receive(&right, &mut buffer, Wait::Block).unwrap().unwrap();
        assert_eq!((&buffer[..len], fds.len()), (&b"three"[..], 0));
        let none = receive(&right, &mut buffer, Wait::Try).unwrap_err();
        assert_eq!(none.kind(), io::ErrorKind::WouldBlock);
        drop(left);
        assert!(receive(&right, &mut buffer, Wait::Block).unwrap().is_none());
    }

    #[test]
    fn what_was_said_last_is_heard_of_one_who_did_not_listen() {
        let (left, right) = pair().unwrap();
        send(&right, b"unread", &[], Wait::Block).unwrap();
        send(&left, b"last", &[], Wait::Block).unwrap();
        drop(left);
        let mut buffer = [0; 16];
        let (len, _) = receive(&right, &mut buffer, Wait::Try).unwrap().unwrap();
        assert_eq!(&buffer[..len], b"last");
        assert!(receive(&right, &mut buffer, Wait::Try).unwrap().is_none());
        let (left, right) = pair().unwrap();
        send(&right, b"unread", &[], Wait::Block).unwrap();
        drop(left);
        assert!(receive(&right, &mut buffer, Wait::Try).unwrap().is_none());
    }

    #[test]
    fn a_message_that_does_not_fit_is_an_error() {
        let (left, right) = pair().unwrap();
        send(&left, &[1; 32], &[], Wait::Block).unwrap();
        let error = receive(&right, &mut [0; 16], Wait::Block).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidData);
    }

    #[test]
    fn a_listener_hands_out_connections() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("socket");
        let error = connect(&path).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::NotFound);
        let listener = listen(&path).unwrap();
        assert!(accept(&listener).unwrap().is_none());
        let client = connect(&path).unwrap();
        let (server, pid) = accept(&listener).unwrap().unwrap();
        assert_eq!(pid, std::process::id().cast_signed());
        send(&client, b"x", &[], Wait::Block).unwrap();
        assert!(
            receive(&server, &mut [0; 4], Wait::Block)
                .unwrap()
                .is_some()
        );
        drop(listener);
        assert!(connect(&path).is_err());
    }
}
