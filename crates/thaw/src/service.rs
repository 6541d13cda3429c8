//! What a service manager gives and wants to hear: the protocol of sd_listen_fds(3) and
//! sd_notify(3), which is a few environment variables and datagrams. Without one all of this does
//! nothing.

use std::ffi::OsStr;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram, UnixListener};
use std::time::{Duration, Instant};

/// The socket that the manager listens on for us, if there is one.
pub(crate) fn listener() -> Option<UnixListener> {
    thaw_sys::process::activated_socket().map(UnixListener::from)
}

/// Where the manager hears of us.
#[derive(Debug)]
pub(crate) struct Manager {
    socket: UnixDatagram,
    address: SocketAddr,
    /// How often it wants to hear that we live, and when it last did.
    watchdog: Option<(Duration, Instant)>,
}

impl Manager {
    /// The one that started us, if it wants to hear anything.
    pub(crate) fn of_environment() -> Option<Self> {
        let name = std::env::var_os("NOTIFY_SOCKET")?;
        let watchdog = std::env::var("WATCHDOG_USEC").ok();
        let watchdog = watchdog.and_then(|text| text.parse().ok());
        Some(Self {
            socket: UnixDatagram::unbound().ok()?,
            address: address(&name)?,
            // Half of it, as sd_watchdog_enabled(3) advises.
            watchdog: watchdog.map(|limit| (Duration::from_micros(limit) / 2, Instant::now())),
        })
    }

    /// Commands can be given.
    pub(crate) fn ready(&self) {
        self.tell(&format!("READY=1\nMAINPID={}", std::process::id()));
    }

    /// We are about to end.
    pub(crate) fn stopping(&self) {
        self.tell("STOPPING=1");
    }

    /// We live; told as often as it is wanted.
    pub(crate) fn alive(&mut self) {
        if let Some((pause, last)) = &mut self.watchdog
            && last.elapsed() >= *pause
        {
            *last = Instant::now();
            self.tell("WATCHDOG=1");
        }
    }

    fn tell(&self, what: &str) {
        if let Err(error) = self.socket.send_to_addr(what.as_bytes(), &self.address) {
            tracing::debug!(%error, what, "the service manager does not hear");
        }
    }
}

fn address(name: &OsStr) -> Option<SocketAddr> {
    match name.as_bytes() {
        [b'@', name @ ..] => SocketAddr::from_abstract_name(name).ok(),
        _ => SocketAddr::from_pathname(name).ok(),
    }
}
