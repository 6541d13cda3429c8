//! One machine's images and containers: reference → mounted root filesystem → running container.
//!
//! ```text
//!            ┌ known here? ──────────────────────────────┐
//! reference ─┤                                           ├→ image ─┬→ acceleration → layout ─┐
//!            └ registry: manifest, then in parallel ─────┘         ├→ working set (stream) ───┤
//!              configuration and referrers                         └→ full pull → layout ─────┴→ mount
//! ```
//!
//! - [`resolve`](Node) finds the image; `source` decides the way: lazy or full, and says why.
//! - `trust` says whose accelerations and working sets may be used.
//! - `open` turns the image into one EROFS mount, shared by all containers of that image;
//!   `directories` does it where the kernel mounts no layout; `root` is the mount of either.
//! - `launch` starts a container for a process that goes on to live with it.
//! - `containers` puts an overlay over it, has the bundle written, and undoes both.
//! - `marks` lets layers go that need no events any more; `adopt` takes over from a node before,
//!   with what that one has left in a `memo`.
//! - `accelerate` and `record` make accelerations and working sets.
//! - `space` gives space back; `facts` and `inspect` say what is here, `measures` what was counted.
//!
//! Locks: the map of images, then one image's slot, then the marks; no lock is held over a
//! container's start.

mod accelerate;
mod adopt;
mod ahead;
pub mod container;
mod containers;
mod directories;
mod error;
mod estimate;
mod explain;
mod facts;
mod guess;
mod image;
mod inspect;
mod keepsake;
mod launch;
mod lives;
mod marks;
mod measures;
mod memo;
mod node;
mod open;
mod origin;
mod pull;
mod quiet;
mod ready;
mod reconcile;
mod record;
mod records;
mod reports;
mod resolve;
mod root;
mod search;
mod settings;
mod settle;
mod share;
mod source;
mod space;
mod stream;
mod timing;
mod transport;
mod trim;
mod trust;
mod turns;
mod unbegun;
mod unreleased;
mod waits;
mod warm;
mod words;
mod work;

pub use containers::disk_is_full;
pub use error::NodeError;
pub use image::{Image, ImageError, Layer};
pub use launch::Launched;
pub use node::Node;
pub use ready::{Ready, parse_duration, wait};
pub use reports::*;
pub use settings::{
    Destination, ImageWish, Pull, Settings, Storage, Transport, TrustRule, keeper_socket,
    root_of_tar,
};
pub use timing::{Span, Timing};
