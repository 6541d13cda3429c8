//! What tests, demo and bench stand on: real tools, started, used and unmade.
//!
//! - [`registry`]: Debian's docker-registry on a free port.
//! - [`image`]: images made entry by entry, and the real ones, from Debian and PyPI packages.
//! - [`http`]: the few requests that tests make themselves.
//! - [`net`]: a link with a rate and a delay, and the namespace behind it.
//! - [`far`]: a registry far away: every answer comes late, some when they may, and who waited for
//!   whom is told.
//! - [`expiring`]: a registry whose tokens and addresses of blobs are not good for ever.
//! - [`tree`]: everything that can be told about a directory tree, and how two of them differ.
//! - [`unpack`]: another tool's unpacking, as the judge.
//! - [`disk`]: a filesystem whose power can fail.
//! - [`terminal`]: a terminal for a program that asks for one.
//! - [`thaw`]: our own binary with a store of its own.
//!
//! Whatever a value here starts, mounts or writes, its `Drop` ends, unmounts and removes.

pub mod clients;
pub mod disk;
pub mod expiring;
pub mod far;
pub mod http;
pub mod image;
pub mod net;
pub mod process;
mod proxy;
pub mod registry;
pub mod scratch;
pub mod terminal;
pub mod thaw;
pub mod tree;
pub mod unpack;
pub mod unwilling;
