//! Why a lazy mount could not be made, served or unmade.

use std::io;
use std::path::PathBuf;

use thaw_image::DiffId;

/// Why a lazy mount could not be made, served or unmade.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum MountError {
    /// The kernel's mount interface.
    #[error(transparent)]
    Mount(#[from] thaw_sys::mount::Error),
    /// The kernel's event interface.
    #[error(transparent)]
    Events(#[from] thaw_sys::fanotify::Error),
    /// The kernel's FUSE interface.
    #[error(transparent)]
    Fuse(#[from] thaw_sys::fuse::Error),
    /// This machine cannot serve faults in the way that was asked for.
    #[error("faults cannot be served by {transport} here: {reason}")]
    Transport {
        /// The fault transport.
        transport: String,
        /// Why, and what would help.
        reason: String,
    },
    /// No filesystem can be made for what a container writes.
    #[error("cannot make a filesystem in {path}: {message}")]
    Format {
        /// Its file.
        path: PathBuf,
        /// What mkfs says.
        message: String,
    },
    /// There is no keeper to take over, and none can be begun.
    #[error("there is no keeper to take over")]
    NoKeeper,
    /// A file of a layer cannot be used.
    #[error("cannot {what} {path}")]
    File {
        /// What was tried.
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A layer tar is shorter than the blocks that the layout refers to.
    #[error(
        "layer {layer}: its tar is {len} bytes long and must have {wanted} before it is mounted"
    )]
    TooShort {
        /// The layer.
        layer: DiffId,
        /// Bytes of the file.
        len: u64,
        /// The tar's size, rounded up to a block.
        wanted: u64,
    },
    /// The keeper process cannot be started.
    #[error("cannot start the keeper ({exe})")]
    Spawn {
        /// Its program.
        exe: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The socket between daemon and keeper.
    #[error("cannot {what} the keeper's socket")]
    Socket {
        /// What was tried.
        what: &'static str,
        /// Why.
        source: io::Error,
    },
    /// Another daemon is connected to the keeper.
    #[error("the keeper at {0} serves another daemon")]
    Owned(PathBuf),
    /// The keeper did what it must not.
    #[error("the keeper's message is not understood: {0}")]
    Protocol(&'static str),
    /// The keeper is gone, and no new one came in time.
    #[error("the keeper does not answer")]
    Gone,
    /// The keeper refused.
    #[error("the keeper refused: {0}")]
    Refused(String),
    /// A layer that is not whole cannot be let go while something may still read it.
    #[error("layer {0} is not whole and still in use: unmount what uses it first")]
    InUse(DiffId),
    /// A layer that was never attached.
    #[error("layer {0} is not attached")]
    Unknown(DiffId),
}
