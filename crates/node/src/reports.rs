//! What a node answers: plain facts, as `--json` prints them. Sizes are bytes.

mod inspection;
mod measures;

use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use thaw_image::Digest;

use crate::container::Published;
use crate::timing::Span;
pub(crate) use inspection::THIS_STORE;
pub use inspection::{AccelerationFacts, Inspection, LayerFacts, LoadFacts, WorkingSetFacts};
pub use measures::{Causes, ContainerCounts, ImageLoad, Measures, Moves, Reads};

/// How an image's bytes get to a container.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum How {
    /// As they are read.
    Lazy,
    /// All of them were fetched first, or were here.
    Full,
}

impl std::fmt::Display for How {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Lazy => "lazy",
            Self::Full => "full",
        })
    }
}

/// Lazy or full, and why.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Way {
    /// Lazy or full.
    pub how: How,
    /// The reason, in words.
    pub why: String,
}

/// A container that is ready to be run.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct PreparedContainer {
    /// Its id.
    pub id: String,
    /// Its name.
    pub name: String,
    /// Its directory: bundle, state, log.
    pub dir: PathBuf,
    /// The manifest it is made from.
    pub manifest: Digest,
    /// Lazy or full, and why.
    pub way: Way,
    /// What has been done so far, and how long it took.
    pub spans: Vec<Span>,
    /// What the user should know, e.g. that the machine has no outbound NAT.
    pub notices: Vec<String>,
}

/// Bytes that a node has moved, by cause, for whichever image or command.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Traffic {
    /// Reads that somebody waited for.
    pub demand: u64,
    /// What lies behind those, before somebody waits for it.
    pub ahead: u64,
    /// Working sets streamed ahead.
    pub working_set: u64,
    /// Layers completed in the background.
    pub fill: u64,
    /// All else that came over the network: manifests, configurations, layouts, seek tables, full
    /// pulls; and what is not counted for its cause yet, or came in vain.
    pub other: u64,
}

impl Traffic {
    /// All of it.
    #[must_use]
    pub const fn total(&self) -> u64 {
        self.demand + self.ahead + self.working_set + self.fill + self.other
    }

    /// What was added since `earlier`.
    #[must_use]
    pub const fn since(&self, earlier: &Self) -> Self {
        Self {
            demand: self.demand.saturating_sub(earlier.demand),
            ahead: self.ahead.saturating_sub(earlier.ahead),
            working_set: self.working_set.saturating_sub(earlier.working_set),
            fill: self.fill.saturating_sub(earlier.fill),
            other: self.other.saturating_sub(earlier.other),
        }
    }
}

/// How a start went. What was moved and waited for is the whole node's: of other starts and reads
/// meanwhile, too.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct StartReport {
    /// Lazy or full, and why.
    pub way: Way,
    /// Bytes that this node has moved since the start began.
    pub traffic: Traffic,
    /// Reads on this node that had to wait for bytes since then.
    pub waits: u64,
    /// Sequential requests to the registry before the root filesystem was there.
    pub round_trips: u64,
}

/// A mounted image.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Mounted {
    /// Where.
    pub dir: PathBuf,
    /// Its manifest.
    pub manifest: Digest,
    /// Lazy or full, and why.
    pub way: Way,
    /// What was done.
    pub spans: Vec<Span>,
}

/// An image that is here as a whole.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Pulled {
    /// Its manifest.
    pub manifest: Digest,
    /// Bytes of its layer blobs.
    pub compressed: u64,
    /// Bytes of its layer tars, or of the directories in their place.
    pub unpacked: u64,
    /// Whether there was nothing to do.
    pub already_here: bool,
    /// How long it took.
    pub took: Duration,
}

/// An image that is indexed.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Accelerated {
    /// The image's manifest.
    pub manifest: Digest,
    /// The acceleration's manifest.
    pub acceleration: Digest,
    /// The repository it was pushed to; `None`: it is in this store only.
    pub repository: Option<String>,
    /// Why it was not pushed, where that was wanted.
    pub not_pushed: Option<String>,
    /// The key that has signed it there, where one was given.
    pub signed_by: Option<String>,
    /// Bytes of the image's layer blobs.
    pub compressed: u64,
    /// Bytes of the acceleration.
    pub index: u64,
    /// The working set that was guessed from the image's program, where no recorded one was there
    /// or was asked for.
    pub guessed: Option<Recorded>,
    /// Layers that have no seek table, and why.
    pub full_layers: Vec<String>,
    /// What could not be shown as it is in the image.
    pub warnings: Vec<String>,
    /// How long it took.
    pub took: Duration,
}

/// A working set that was recorded, or guessed.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Recorded {
    /// The profile.
    pub profile: String,
    /// Digest of its artifact manifest.
    pub working_set: Digest,
    /// The repository it was pushed to; `None`: it is in this store only.
    pub repository: Option<String>,
    /// Why it was not pushed, where that was wanted.
    pub not_pushed: Option<String>,
    /// The key that has signed it there, where one was given.
    pub signed_by: Option<String>,
    /// Bytes of its blocks: what the start read.
    pub blocks: u64,
    /// The same, packed.
    pub packed: u64,
    /// Time until the container was ready.
    pub ready_after: Option<Duration>,
}

/// A container.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ContainerFacts {
    /// Its id.
    pub id: String,
    /// Its name.
    pub name: String,
    /// The image, as the user named it.
    pub image: String,
    /// Whether it runs, or is about to.
    pub running: bool,
    /// How it is, in words.
    pub status: String,
    /// When it was made, in seconds since 1970.
    pub created: u64,
    /// Ports of the host that lead to it.
    pub ports: Vec<Published>,
    /// How its image was started, and why.
    pub way: Way,
}

/// Why a container's start took as long as it did.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Explanation {
    /// Which.
    pub container: ContainerFacts,
    /// What daemon and monitor did, and how long it took.
    pub spans: Vec<Span>,
    /// What was moved since the start began; `None` where the daemon that began it is gone, or the
    /// container is.
    pub report: Option<StartReport>,
    /// Reads that waited for bytes of the image's layers, from the start to the container's end.
    pub waits: WaitFacts,
    /// For which files, the costliest first.
    pub files: Vec<FileWaits>,
    /// The registries and mirrors that have the image's bytes, as they were last measured, in the order
    /// in which they are asked.
    pub links: Vec<LinkFacts>,
    /// What was slow, in words.
    pub findings: Vec<String>,
    /// What would help, in words.
    pub advice: Vec<String>,
}

/// Reads that waited.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct WaitFacts {
    /// How many.
    pub count: u64,
    /// How many of them failed.
    pub failed: u64,
    /// For how long, added up. Readers wait side by side.
    pub took: Duration,
    /// Whether these are all of them: a daemon knows those that it has served itself, and the last
    /// 16384 of all containers.
    pub known: bool,
    /// When they were.
    pub periods: Vec<Period>,
    /// How many were for blocks that the start's working set has none of; `None` without a set.
    pub outside_set: Option<u64>,
    /// Others that had a layer of it mounted meanwhile, containers and directories, whether or not they
    /// are still there: their waits are among these.
    pub shared_with: u64,
    /// Why the last one failed that did.
    pub error: Option<String>,
}

/// Waits that were begun in one period of a container's life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Period {
    /// Seconds after the container was made, at least.
    pub begin: u64,
    /// Seconds after the container was made, less than; `None`: until now.
    pub end: Option<u64>,
    /// How many.
    pub count: u64,
    /// For how long, added up.
    pub took: Duration,
}

/// Waits for one file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileWaits {
    /// Its path in the image.
    pub path: String,
    /// How many.
    pub waits: u64,
    /// For how long, added up.
    pub took: Duration,
    /// Bytes that the kernel asked for.
    pub bytes: u64,
    /// How many failed.
    pub failed: u64,
}

/// How a registry is reached.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LinkFacts {
    /// Which.
    pub registry: String,
    /// The registry that it is a mirror of.
    pub mirror_of: Option<String>,
    /// From a request to the beginning of its answer.
    pub round_trip: Option<Duration>,
    /// Bytes per second.
    pub rate: Option<u64>,
}

/// What `mount` mounted.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct MountFacts {
    /// Where.
    pub dir: PathBuf,
    /// The image, by a reference that it can be fetched by.
    pub image: String,
    /// Its manifest.
    pub manifest: Digest,
    /// How its bytes come, and why.
    pub way: Way,
    /// Bytes of its tars that are here.
    pub present: u64,
    /// Bytes of its tars.
    pub size: u64,
}

/// An image in the store.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ImageFacts {
    /// A reference it can be fetched by.
    pub reference: String,
    /// Its manifest.
    pub manifest: Digest,
    /// Bytes of its layer blobs in the registry.
    pub compressed: u64,
    /// Bytes of its layer tars on this disk; layers shared with other images count in each.
    pub cached: u64,
    /// Bytes of layout, tables and manifests on this disk.
    pub index: u64,
    /// Whether all of it is here.
    pub whole: bool,
    /// Whether a container or a mount uses it.
    pub in_use: bool,
    /// Last use, in seconds since 1970.
    pub used: u64,
}

/// What a garbage collection may take.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct GcOptions {
    /// Images that go, too: references, or the first 12 or more hex characters of their manifests.
    #[serde(default)]
    pub images: Vec<String>,
    /// All that nothing uses, not only what no image refers to.
    pub all: bool,
    /// Only plan.
    pub dry_run: bool,
    /// Bytes that the layers may take afterwards; `None`: what the configuration says.
    #[serde(default)]
    pub cache_size: Option<u64>,
}

/// One thing that a garbage collection removes.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Removal {
    /// What.
    pub what: String,
    /// Why.
    pub why: String,
    /// Bytes on disk.
    pub bytes: u64,
}

/// A garbage collection.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Collected {
    /// What was removed or, in a dry run, would be.
    pub removals: Vec<Removal>,
    /// What stays although it was asked for, and why.
    pub kept: Vec<Removal>,
    /// Whether anything was removed.
    pub dry_run: bool,
}

impl Collected {
    /// What was to be removed, and is left.
    pub(crate) fn leave(&mut self, what: &str, why: &str) {
        if let Some(at) = self.removals.iter().position(|it| it.what == what) {
            let mut left = self.removals.remove(at);
            why.clone_into(&mut left.why);
            self.kept.push(left);
        }
    }
}

/// How to record a start.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct RecordOptions {
    /// Most time until it is ready.
    pub patience: Duration,
}
