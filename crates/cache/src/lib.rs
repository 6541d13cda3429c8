//! Sparse layer tars: presence, fetching, eviction; and layers as directories.
//!
//! ```text
//! Store ─┬─ Blobs     whole, verified blobs
//!        ├─ Trees     layers as directories
//!        └─ Layers ── LayerTar ◀── Fetcher: demand, working sets, fill
//!                       │          one sparse tar per layer; takes only Verified bytes
//!                       └─ presence file ◀── PresenceReader, in the keeper
//! ```
//!
//! Everything here blocks; nothing here is asynchronous, maps memory or is unsafe.

mod blobs;
mod edges;
mod fetch;
mod file;
mod incoming;
mod layers;
mod presence;
mod shares;
mod space;
mod store;
mod tar;
mod trees;

pub use blobs::{BlobError, Blobs, MAX_WHOLE};
pub use fetch::{
    Attachment, Cause, FetchError, Fetcher, Fill, FrameError, Frames, Moved, Origin, Prefetch,
    PrefetchProgress, Settings, Stats, TableSource, WAIT_CLASSES,
};
pub use file::{FileError, remove_tree, tree_bytes};
pub use incoming::Incoming;
pub use layers::Layers;
pub use presence::{MAX_TAR_BYTES, PresenceError, PresenceReader};
pub use shares::Shares;
pub use space::{RemoveError, Usage};
pub use store::{BootId, Store};
pub use tar::{FULL_PAUSE, LayerTar, Placed, TarError};
pub use trees::{IncomingTree, Tree, Trees};
