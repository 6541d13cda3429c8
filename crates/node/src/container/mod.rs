//! Containers: a mounted root filesystem, an image's configuration and a user's wishes become a
//! running process, through an OCI runtime. Nothing here knows how the root filesystem came to be.
//!
//! ```text
//!   Containers::create ──▶ Container::prepare ──▶ monitor::foreground      the caller is the parent
//!      id, name,             bundle, volumes,   └▶ monitor::detach ─exec─▶ monitor::run_detached
//!      directory             network                                         a process of its own
//!
//!   Container::{stop, kill, exec, logs, remove}     from any process, at any time
//! ```
//!
//! The life of a container, as [`State`] has it: *created* by a process that promises to start or
//! remove it, *running* under its monitor, *exited*. The monitor is the parent of the container's
//! first process (as the nearest subreaper, for the runtime itself has gone by then): it forwards
//! signals, carries the terminal, writes the log, listens for published ports, learns the exit code,
//! and takes away control group and network at the end. It needs no daemon. When a monitor is
//! killed, its container is *dead* as soon as its processes are, and `remove` takes away what is left.
//!
//! A container's directory, below the store's root:
//!
//! ```text
//! containers/ID/state.json    what is known of it
//! containers/ID/config.json   the bundle, with etc/ and volumes/
//! containers/ID/log, log.1    output of the container, where it is kept
//! containers/ID/monitor.log   what a detached monitor had to say
//! volumes/NAME                named volumes
//! ```
//!
//! Locks: `containers/.lock` is held while a name is given away, the network's own lock
//! ([`network`]) while an address is. Neither is held while the other is taken. A named volume is made in
//! `volumes/.new-NAME`, which is locked meanwhile, as a container's directory is by its monitor.

mod bundle;
mod cgroup;
mod containers;
mod copy;
mod error;
mod etc;
mod exec;
#[doc(hidden)]
pub mod fuzz;
mod host;
mod id;
pub mod log;
pub mod monitor;
pub mod network;
mod options;
pub mod parse;
mod process;
mod rootfs;
mod runtime;
mod seccomp;
mod span;
mod spec;
mod state;
mod user;
mod volumes;

/// Where a container's writable part is, in its directory.
pub(crate) const WRITABLE: &str = "writable";

pub use cgroup::Cgroup;
pub use containers::{Container, Containers, NewContainer, Prepared};
pub use error::ContainerError;
pub use id::ContainerId;
pub use options::{
    Limits, Network, Options, PortMapping, ProcessOptions, Protocol, Signal, Tmpfs, Volume,
    VolumeSource,
};
pub use runtime::{ProcessIo, RuncLike, Runtime};
pub use span::{Span, Spans};
pub use state::{Phase, ProcessId, Published, Settings, State, Status, open_run_dir};
