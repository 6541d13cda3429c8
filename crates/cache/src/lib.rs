//! Sparse layer tars: presence, fetching, eviction.
//!
//! ```text
//! Store ─┬─ Blobs     whole, verified blobs
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
mod space;
mod store;
mod tar;

pub use blobs::{BlobError, Blobs, MAX_WHOLE};
pub use fetch::{
    Attachment, Cause, FetchError, Fetcher, Fill, FrameError, Moved, Origin, Prefetch,
    PrefetchProgress, Settings, Stats, TableSource, WAIT_CLASSES,
};
pub use file::FileError;
pub use incoming::Incoming;
pub use layers::Layers;
pub use presence::{MAX_TAR_BYTES, PresenceError, PresenceReader};
pub use space::{Plan, RemoveError, Usage};
pub use store::{BootId, Store};
pub use tar::{FULL_PAUSE, LayerTar, Placed, TarError};
