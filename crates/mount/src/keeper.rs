//! The keeper: a process that holds the event group, or the FUSE connection, so that no single death
//! lets holes be read or reads fail.
//!
//! ```text
//!            daemon                                   keeper
//!  FaultHandler ◀─ Pool ◀─ supervisor ◀──Miss─────── Server ◀─read── Source ◀── readers
//!       │                      │                       ▲  └─answer──────▶
//!       ▼                      └───────Answer──────────┘ reads
//!  tar, presence ─────────────────────────────────▶ presence file
//! ```
//!
//! What is said here of an event and the group holds of a read and the FUSE connection, too; the
//! table in `source.rs` has what differs.
//!
//! The keeper alone reads events. It tests the presence file: a range that is present is let
//! through at once, whether or not there is a daemon. Anything else is a miss: the event stays
//! pending, the daemon is told, and when it answers the bits are tested again, for only they
//! let a reader through. At the deadline the reader gets `EIO`.
//!
//! **The keeper dies.** The daemon holds the group, too, and never reads from it. It makes sure that
//! the keeper is dead, denies every event that the keeper had read (by trying every number), and
//! starts another one with the same group. Events that nobody had read yet wait for it. (FUSE reads
//! are not denied: the kernel asks again.)
//!
//! **The daemon dies.** The keeper goes on. Misses wait until their deadline. It listens on a
//! socket; a new daemon gets the group, the layers with a descriptor each that raises no events,
//! and the misses that still wait.
//!
//! **Both die.** A third process holds the group and the tars, too ([`Keepsake`]; it is the
//! monitor of a container, or the service manager, a [`Custodian`]): readers wait. The next daemon gets them from there, denies what the
//! dead keeper had read, and starts another keeper. The third process has a daemon started when
//! it sees no keeper, and denies what waits when none can be. Where no third process lives the
//! group is gone, and the kernel lets holes be read as zeros: whatever was mounted must not be used
//! any more (FUSE reads fail). [`Keeper::start`] gives an empty list of inherited layers, and the
//! caller unmounts what it finds.
//!
//! **Letting go.** The mark of a tar is removed when it is whole, or when a lease (fcntl(2)) shows
//! that nobody but the keeper has it open. Unmounting is no proof: another mount namespace
//! may hold the superblock. A FUSE file is let go when a lease shows that nobody has it open.

mod client;
mod custody;
mod daemon;
mod keepsake;
mod layers;
mod life;
mod link;
mod message;
mod pool;
mod recorder;
mod server;
mod source;
mod succession;
mod supply;
mod wakeful;
mod wire;

use std::ffi::OsString;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use crate::{LayerSpec, TransportKind};
use custody::Custody;

pub use client::Keeper;
pub use custody::Custodian;
pub use keepsake::Keepsake;
pub use life::keeper_of;
pub use server::keeper_main;

/// Version of the messages; daemon and keeper must agree.
const PROTOCOL: u32 = 6;

/// The keeper's limit of open files, and so the first number that no event of it can have.
const EVENT_FD_LIMIT: u16 = u16::MAX;

/// How the keeper is run.
#[derive(Clone, Debug)]
pub struct KeeperSettings {
    /// The program to execute as the keeper. It hands its standard input to [`keeper_main`].
    pub exe: PathBuf,
    /// The program's arguments.
    pub args: Vec<OsString>,
    /// Where the keeper listens for the next daemon: at most 107 bytes.
    pub socket: PathBuf,
    /// The transport of a first keeper; `None`: there can be none, and only one that is there, or what
    /// was saved of one, is taken over.
    pub transport: Option<TransportKind>,
    /// For how long a reader may wait for bytes.
    pub fault_timeout: Duration,
    /// After how long a keeper ends by itself that has no daemon and no layer.
    pub idle_timeout: Duration,
    /// Number of threads that call the fault handler; a third as many for one host.
    pub threads: usize,
    /// Processes that may hold a [`Keepsake`].
    pub holders: Vec<i32>,
    /// Who holds the same for the daemon itself.
    pub custodian: Option<Arc<dyn Custodian>>,
}

impl KeeperSettings {
    /// Settings with pre-content events, a timeout of 30 s, 128 threads, no holders
    /// and no custodian.
    #[must_use]
    pub fn new(exe: PathBuf, args: Vec<OsString>, socket: PathBuf) -> Self {
        Self {
            exe,
            args,
            socket,
            transport: Some(TransportKind::Fanotify),
            fault_timeout: Duration::from_secs(30),
            idle_timeout: Duration::from_secs(10),
            threads: 128,
            holders: Vec::new(),
            custodian: None,
        }
    }

    fn custody(&self) -> Custody {
        Custody::with(self.custodian.as_ref())
    }

    fn devices(&self) -> PathBuf {
        devices_beside(&self.socket)
    }
}

/// Where layers are files, if FUSE serves them: beside the keeper's socket.
fn devices_beside(socket: &Path) -> PathBuf {
    socket.with_file_name("devices")
}

/// A layer that a daemon before this one attached.
#[derive(Debug)]
pub struct Inherited {
    /// The layer.
    pub spec: LayerSpec,
    /// Its tar, opened for reading and writing before it was marked: the only way to write a marked
    /// one without waiting for oneself.
    pub tar: OwnedFd,
}
