//! What is known of an image.

use serde::{Deserialize, Serialize};
use thaw_image::{DiffId, Digest};

use super::Way;

/// An image and what is known of it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Inspection {
    /// The reference that was asked for.
    pub reference: String,
    /// Its manifest.
    pub manifest: Digest,
    /// Operating system and architecture.
    pub platform: String,
    /// What runs when nothing else is given.
    pub command: Vec<String>,
    /// Layers, the lowest first.
    pub layers: Vec<LayerFacts>,
    /// Bytes of its layer blobs.
    pub compressed: u64,
    /// The acceleration, where there is one.
    pub acceleration: Option<AccelerationFacts>,
    /// Working sets by profile.
    pub working_sets: Vec<WorkingSetFacts>,
    /// How much of it a start reads, where that is known.
    pub load: Option<LoadFacts>,
    /// How it would start now, and why.
    pub way: Way,
    /// The fault transport that would serve it; `None`: it needs none.
    pub transport: Option<String>,
    /// Bytes of its tars that are here.
    pub cached: u64,
    /// Bytes of its tars, where known.
    pub unpacked: Option<u64>,
}

/// One layer.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct LayerFacts {
    /// Digest of the blob.
    pub blob: Digest,
    /// Digest of the tar.
    pub diff_id: DiffId,
    /// Its media type.
    pub media_type: String,
    /// Bytes of the blob.
    pub compressed: u64,
    /// Bytes of the tar, where known.
    pub unpacked: Option<u64>,
    /// Bytes of the tar that are here.
    pub cached: u64,
    /// Whether there is a seek table.
    pub seek_table: bool,
}

/// An acceleration.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct AccelerationFacts {
    /// Its manifest.
    pub manifest: Digest,
    /// Where it is: a repository, or this store.
    pub source: String,
    /// Its bytes.
    pub size: u64,
    /// Whether it may be used, or why not.
    pub trust: String,
    /// The configured key whose signature is beside it.
    pub signed_by: Option<String>,
}

/// [`AccelerationFacts::source`] of what is in no registry.
pub(crate) const THIS_STORE: &str = "this store";

impl AccelerationFacts {
    /// Whether it is in no registry.
    #[must_use]
    pub fn is_local(&self) -> bool {
        self.source == THIS_STORE
    }
}

/// A working set.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct WorkingSetFacts {
    /// The profile.
    pub profile: String,
    /// Bytes of its blocks.
    pub blocks: u64,
    /// The same, packed.
    pub packed: u64,
}

/// How much of an image a start reads.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct LoadFacts {
    /// Bytes of its tars that are read.
    pub read: u64,
    /// The load rate: bytes read ÷ bytes of the tars.
    pub rate: f64,
    /// Whence that is known.
    pub source: String,
}
