//! What the kernel gives: pre-content events, mounts, descriptors between processes, and a probe of
//! what this machine can do.
//!
//! The only crate of the workspace that holds `unsafe`; each block says why it is sound. It knows
//! no thaw type: layers, presence and faults are the business of the crates above.
//!
//! - [`fanotify`]: the kernel asks before it lets a read of a marked file through.
//! - [`fuse`]: flat files whose bytes this process gives.
//! - [`lease`]: whether anybody else has a file open.
//! - [`mount`]: EROFS over a layout and its devices, overlayfs, tmpfs, binds, the mount table.
//! - [`socket`]: whole messages with descriptors over Unix sockets.
//! - [`peer`]: who is at the other end of a socket.
//! - [`process`]: what a process that serves others does to itself.
//! - [`wake`]: processors that do not halt for a moment.
//! - [`btf`]: what the kernel's structures have.
//! - [`capabilities`]: what this kernel and this store can do, found out by trying.

pub mod btf;
pub mod capabilities;
pub mod fanotify;
pub mod fuse;
pub mod lease;
pub mod mount;
pub mod peer;
pub mod process;
pub mod socket;
pub mod wake;
