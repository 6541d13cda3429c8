//! What the host wants of the machine: images resolved and accelerated, containers started. The
//! one that there is is a [`Node`](thaw_node::Node).
//!
//! Everything here blocks.

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::process::Child;
use std::time::Duration;

use thaw_image::{Digest, Progress};
use thaw_node::container::{Cgroup, Options};
use thaw_node::{Span, Way};

/// A container that is wanted.
#[derive(Clone, Debug)]
pub(crate) struct Order {
    /// The image, as the user named it.
    pub(crate) image: String,
    /// Its manifest, as of when that was resolved.
    pub(crate) manifest: Digest,
    /// Whether it may start before all of the image is here.
    pub(crate) lazily: Lazily,
    /// Whose working set is streamed.
    pub(crate) profile: String,
    pub(crate) options: Options,
    /// Bytes of the writable part.
    pub(crate) storage: u64,
    /// Whether it is a server: one that has ended when its start returns has failed.
    pub(crate) is_server: bool,
}

/// Whether a container may start before all of its image is here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Lazily {
    /// It may not: all of it is fetched first.
    Never,
    /// With whatever acceleration the registry has already.
    IfThere,
    /// With what was made for its function.
    Ready,
}

/// A container that was started.
#[derive(Debug)]
pub(crate) struct Started {
    /// Of the container.
    pub(crate) id: String,
    /// `None` where it has ended already.
    pub(crate) reach: Option<Reach>,
    /// `None` where there is none to be found.
    pub(crate) cgroup: Option<Cgroup>,
    /// Ends with the container.
    pub(crate) monitor: Option<Child>,
    /// Its directory, with its log.
    pub(crate) dir: PathBuf,
    pub(crate) way: Way,
    pub(crate) spans: Vec<Span>,
}

/// How a container's server is reached, at a port of its loopback interface: by its network namespace.
#[derive(Debug)]
pub(crate) struct Reach(pub(crate) OwnedFd);

/// An acceleration that was made.
#[derive(Clone, Debug)]
pub(crate) struct Indexed {
    /// Bytes of the image's layer blobs.
    pub(crate) compressed: u64,
    /// Why it was not put into the registry, where it was not.
    pub(crate) not_pushed: Option<String>,
}

/// A working set that was recorded.
#[derive(Clone, Debug, Default)]
pub(crate) struct WorkingSet {
    /// Bytes that it stands for.
    pub(crate) blocks: u64,
    /// Bytes of it.
    pub(crate) packed: u64,
}

mod node;

pub(crate) use node::{NodeMachine, pinned};

/// What a container had to wait for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Missed {
    /// Reads that waited.
    pub(crate) waits: u64,
    /// Bytes that were fetched for them.
    pub(crate) bytes: u64,
}

/// The machine. Errors are sentences.
pub(crate) trait Machine: Send + Sync + 'static {
    /// The manifest that a reference names now.
    fn resolve(&self, image: &str) -> Result<Digest, String>;

    /// Starts a container.
    fn start(&self, order: &Order) -> Result<Started, String>;

    /// Ends a container: asks it to, and kills it after `patience`. One that is gone is no error.
    fn stop(&self, id: &str, patience: Duration) -> Result<(), String>;

    /// Takes away a container that has ended.
    fn remove(&self, id: &str) -> Result<(), String>;

    /// Containers with names that begin like this, of a host before this one.
    fn containers(&self, prefix: &str) -> Vec<(String, PathBuf)>;

    /// Fetches all of an image once, indexes it, and publishes the index; nothing of that where the
    /// registry has it already.
    fn accelerate(
        &self,
        image: &str,
        manifest: Digest,
        progress: &dyn Progress,
    ) -> Result<Indexed, String>;

    /// The files of a profile's working set of an image, and how many bytes of each it has; empty where
    /// it is not known.
    fn working_set(&self, manifest: &Digest, profile: &str) -> BTreeMap<String, u64> {
        let _ = (manifest, profile);
        BTreeMap::new()
    }

    /// Starts a container of an indexed image from nothing that is cached, and publishes what it
    /// has read when `until` returns without an error.
    fn record(
        &self,
        order: &Order,
        until: &mut dyn FnMut(Started) -> Result<(), String>,
    ) -> Result<WorkingSet, String>;

    /// Bytes that came over the network since the start of a container was asked for.
    fn moved(&self, id: &str) -> u64 {
        let _ = id;
        0
    }

    /// What a container has waited for so far.
    fn missed(&self, id: &str) -> Missed;

    /// Publishes what was recorded together with all that starts have read since.
    fn improve(&self, order: &Order) -> Result<WorkingSet, String>;
}
