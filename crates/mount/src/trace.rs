//! Access traces: which blocks of which layers were read first, and in which order.

use std::time::Duration;

use thaw_image::{DiffId, Extent};

/// A run of blocks that were read for the first time since the trace was started.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct TraceEntry {
    /// The layer.
    pub layer: DiffId,
    /// The bytes, in whole blocks but at the tar's end. The kernel tells of reads in whole pages.
    pub extent: Extent,
    /// When, counted from the start of the trace.
    pub at: Duration,
}

/// The trace of some layers. Every block is in it at most once.
///
/// Whole only for a start that was cold and fully marked: pages in the page cache and layers that
/// were released raise no events.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Trace {
    /// In the order of first reads, over all layers.
    pub entries: Vec<TraceEntry>,
    /// Entries that were not kept because there were too many.
    pub dropped: u64,
}
