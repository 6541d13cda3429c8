//! Lazy mounts: fault transports, the keeper, access traces.
//!
//! ```text
//! FaultTransport::attach(layer) ──▶ Device ──▶ LayoutMount (EROFS) ──▶ OverlayMount
//!        │                                         │ a page that is not cached
//!        │  FaultHandler::fault(layer, extent) ◀───┘ and not present
//!        ▼
//!   fills the layer tar, then its presence
//! ```
//!
//! - [`FaultTransport`] is the seam: how the kernel asks for bytes that a layer tar lacks. The
//!   [`Keeper`] answers, to pre-content events or to reads of FUSE files; [`start`] picks which.
//! - [`FaultHandler`] is who can get such bytes: the daemon, over `thaw_cache`.
//! - [`LayoutMount`], [`OverlayMount`] and [`BindMount`] are mounts that outlive the process if they are told to.
//!
//! **Order.** A layer tar has its full size, then it is attached, then it is mounted: whether an
//! open file raises events is fixed when it is opened. What writes the tar was opened before it
//! was attached, else the daemon would wait for itself.
//!
//! Threads, no async.

mod counters;
mod error;
mod keeper;
mod mounts;
mod throttle;
mod trace;
mod transport;

pub use counters::{FaultCounters, WAIT_BUCKETS};
pub use error::MountError;
pub use keeper::{Custodian, Inherited, Keeper, KeeperSettings, Keepsake, keeper_main, keeper_of};
pub use mounts::{BindMount, LayoutMount, OverlayMount, WritableMount};
pub use thaw_sys::capabilities::{Ability, Capabilities, Cgroup, KernelVersion, direct_reads};
pub use thaw_sys::fanotify::Denial;
pub use thaw_sys::lease::while_alone;
pub use thaw_sys::mount::{MAX_LOWER, MountEntry, Overlay, Unmount, mount_table};
pub use thaw_sys::process::begin_with_our_first_limit;
pub use throttle::Throttle;
pub use trace::{Trace, TraceEntry};
pub use transport::{
    Device, FaultHandler, FaultTransport, LayerSpec, Released, Started, TransportChoice,
    TransportKind, select, start,
};
