//! What a service manager gives, keeps and wants to hear: the protocol of sd_listen_fds(3) and
//! sd_notify(3), which is a few environment variables and datagrams. Without one all of this does
//! nothing.

use std::ffi::OsStr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use thaw_mount::{Custodian, Keepsake};
use thaw_sys::process::link_of;
use thaw_sys::socket::{self, Wait};

/// What the names of descriptors that we had the manager keep begin with. A socket has the name of
/// its unit, such as `thaw-serve.socket`.
const KEPT: &str = "kept-by-thaw-";

/// Longer than a manager lets a stop take.
const STOP_LIMIT: Duration = Duration::from_secs(3600);

/// What the manager gave us, asked for once and before any other program is started.
#[derive(Debug)]
pub(crate) struct Given {
    /// The socket that it listens on for us, if there is one.
    pub(crate) listener: Option<OwnedFd>,
    /// What a daemon before us had it keep, by our names.
    kept: Vec<(String, OwnedFd)>,
}

impl Given {
    pub(crate) fn take() -> Self {
        Self::of(thaw_sys::process::given_descriptors())
    }

    fn of(given: Vec<(String, OwnedFd)>) -> Self {
        let (kept, sockets): (Vec<_>, Vec<_>) = given
            .into_iter()
            .partition(|(name, _)| name.starts_with(KEPT));
        let ours = |(name, fd): (String, OwnedFd)| (name[KEPT.len()..].to_owned(), fd);
        let listener = sockets.into_iter().next();
        Self {
            listener: listener.map(|(_, fd)| fd),
            kept: kept.into_iter().map(ours).collect(),
        }
    }

    /// A duplicate of what keeps readers of a store waiting, if it was kept, and it is known which store that is: the one whose
    /// layers were kept, else the one at `root`. Who is wrong there would deny reads beside a keeper that lives.
    pub(crate) fn keepsake(&self, root: Option<&Path>) -> Option<Keepsake> {
        let fds = || self.kept.iter().map(|(_, fd)| fd.as_fd());
        let of_layers = fds().find_map(|fd| thaw_node::root_of_tar(&link_of(fd).ok()?));
        let root = of_layers.as_deref().or(root)?;
        Keepsake::given(fds(), thaw_node::keeper_socket(root))
    }

    /// The manager as one who keeps descriptors, if it hears us.
    pub(crate) fn custodian(&mut self) -> Option<Arc<dyn Custodian>> {
        Some(Arc::new(Vault {
            manager: Manager::of_environment()?,
            kept: Mutex::new(std::mem::take(&mut self.kept)),
        }))
    }
}

/// The manager's store of descriptors (`FDSTORE` in sd_notify(3)): what is in it when this process dies
/// is given to the next one. It ignores what goes beyond `FileDescriptorStoreMax`.
#[derive(Debug)]
struct Vault {
    manager: Manager,
    kept: Mutex<Vec<(String, OwnedFd)>>,
}

impl Custodian for Vault {
    fn hold(&self, name: &str, fd: BorrowedFd<'_>) {
        let message = format!("FDSTORE=1\nFDNAME={KEPT}{name}");
        self.manager.send(&message, &[fd]);
    }

    fn let_go(&self, name: &str) {
        let message = format!("FDSTOREREMOVE=1\nFDNAME={KEPT}{name}");
        self.manager.tell(&message);
    }

    fn take(&self) -> Vec<(String, OwnedFd)> {
        std::mem::take(&mut *self.kept.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// Where the manager hears of us.
#[derive(Debug)]
pub(crate) struct Manager {
    socket: UnixDatagram,
    /// How often it wants to hear that we live, and when it last did.
    watchdog: Option<(Duration, Instant)>,
}

impl Manager {
    /// The one that started us, if it wants to hear anything.
    pub(crate) fn of_environment() -> Option<Self> {
        let name = std::env::var_os("NOTIFY_SOCKET")?;
        let watchdog = std::env::var("WATCHDOG_USEC").ok();
        let watchdog = watchdog.and_then(|text| text.parse().ok());
        let socket = UnixDatagram::unbound().ok()?;
        socket.connect_addr(&address(&name)?).ok()?;
        Some(Self {
            socket,
            // Half of it, as sd_watchdog_enabled(3) advises.
            watchdog: watchdog.map(|limit| (Duration::from_micros(limit) / 2, Instant::now())),
        })
    }

    /// Commands can be given.
    pub(crate) fn ready(&self) {
        self.tell(&format!("READY=1\nMAINPID={}", std::process::id()));
    }

    /// We are about to end, which the manager bounds by its limit for stops: nobody says any more
    /// that we live.
    pub(crate) fn stopping(&self) {
        let limit = STOP_LIMIT.as_micros();
        self.tell(&format!("STOPPING=1\nWATCHDOG_USEC={limit}"));
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
        self.send(what, &[]);
    }

    fn send(&self, what: &str, fds: &[BorrowedFd<'_>]) {
        if let Err(error) = socket::send(self.socket.as_fd(), what.as_bytes(), fds, Wait::Block) {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_socket_is_told_from_what_was_kept() {
        let fd = || OwnedFd::from(std::fs::File::open("/dev/null").unwrap());
        let names = ["kept-by-thaw-events", "thaw-serve.socket"];
        let given = Given::of(names.map(|name| (name.to_owned(), fd())).into());
        assert!(given.listener.is_some());
        let kept: Vec<_> = given.kept.iter().map(|(name, _)| name).collect();
        assert_eq!(kept, ["events"]);
    }
}
