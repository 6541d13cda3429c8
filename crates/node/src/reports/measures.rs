//! What a node counts.

use serde::{Deserialize, Serialize};
use thaw_image::Digest;

use super::How;

/// What a node has counted since it was opened, and what it holds now.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Measures {
    /// The fault transport that runs; `None`: no lazy mount has asked for one.
    pub transport: Option<String>,
    /// Reads of layer tars since that was started; `None` where nobody counts them.
    pub reads: Option<Reads>,
    /// Bytes of layers moved, by cause; not those of full pulls.
    pub moved: Causes,
    /// Ranged reads of sources for faults.
    pub requests: u64,
    /// Chunks and frames whose bytes were wrong.
    pub mismatches: u64,
    /// Bytes that came over the network, for whatever reason.
    pub received: u64,
    /// Compressed bytes of layers that were not whole here when an image of theirs was mounted
    /// lazily, each layer once.
    pub started: u64,
    /// Compressed bytes of the mounted images' layers that are not here.
    pub saved: u64,
    /// The mounted images.
    pub images: Vec<ImageLoad>,
    /// The containers.
    pub containers: ContainerCounts,
    /// Root filesystems that `mount` mounted.
    pub mounts: u64,
}

/// What became of reads of layer tars that are not whole.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reads {
    /// Let through at once.
    pub hits: u64,
    /// Had to wait.
    pub faults: u64,
    /// Faults that could not be served.
    pub failed: u64,
    /// Faults whose deadline passed.
    pub expired: u64,
    /// Reads of files that no layer is known for.
    pub unknown: u64,
    /// Faults that wait now.
    pub waiting: u64,
    /// Microseconds that faults waited, together.
    pub waited: u64,
    /// Faults by how long: class `n` has those of less than 2^n microseconds that are in no earlier
    /// class; the last one has all longer ones.
    pub waits: Vec<u64>,
}

/// Bytes of layers, by why they were moved.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Causes {
    /// A reader waited for them.
    pub demand: Moves,
    /// They lie behind such bytes.
    pub ahead: Moves,
    /// A working set had them.
    pub working_set: Moves,
    /// The layer was completed in the background.
    pub fill: Moves,
}

/// Bytes moved for one cause.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Moves {
    /// Read from registries and layout directories, compressed.
    pub fetched: u64,
    /// Unpacked from those.
    pub unpacked: u64,
    /// Became present in layer tars.
    pub written: u64,
}

/// How much of a mounted image is here.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageLoad {
    /// A reference it can be fetched by.
    pub reference: String,
    /// Its manifest.
    pub manifest: Digest,
    /// How it was mounted.
    pub how: How,
    /// Bytes of its tars that are here.
    pub present: u64,
    /// Bytes of its tars that starts of one profile here have read, each once: of the profile with the most, as it was
    /// noted when a container ended. `None` where nobody counts them.
    #[serde(default)]
    pub read: Option<u64>,
    /// Bytes of its tars.
    pub size: u64,
}

/// How many containers there are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ContainerCounts {
    /// That run, or are about to.
    pub running: u64,
    /// That have ended and are not removed.
    pub ended: u64,
}
