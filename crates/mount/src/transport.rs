//! The seam between what is mounted and who gets its bytes.
//!
//! A fault transport makes a layer tar into a device that EROFS can read, and asks a
//! [`FaultHandler`] for what is absent. There is one filesystem, the kernel's; transports differ only
//! in who asks.

use std::os::fd::BorrowedFd;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use thaw_image::{DiffId, Extent};
use thaw_sys::capabilities::Capabilities;
use thaw_sys::fanotify::Denial;

use crate::keeper::{Inherited, Keeper, KeeperSettings};
use crate::{FaultCounters, MountError, Trace};

/// A layer tar to be served.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct LayerSpec {
    /// Which layer.
    pub diff_id: DiffId,
    /// Bytes of the tar. The file has this size rounded up to a block.
    pub size: u64,
    /// The sparse file.
    pub tar: PathBuf,
    /// Its presence file, readable by `thaw_cache::PresenceReader`.
    pub presence: PathBuf,
}

/// What EROFS is given for a layer.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Device {
    /// The file or device.
    pub path: PathBuf,
}

/// What became of a layer that was let go.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Released {
    /// It is whole: mounts go on reading it, with no process in between.
    Whole,
    /// It is not whole, and nothing had it open.
    Unused,
}

/// Serves reads of layer tars, from [`attach`](FaultTransport::attach) to
/// [`release`](FaultTransport::release), over the death of this process where it can.
pub trait FaultTransport: Send + Sync {
    /// Its name, for people.
    fn name(&self) -> &'static str;

    /// Makes a layer mountable. Its tar has its full size, and its presence file is there. `tar` is
    /// the descriptor that its one writer uses, opened for reading and writing: a descriptor that
    /// is opened after this call would wait for the transport at each write. Attaching a layer
    /// again gives the same device.
    ///
    /// # Errors
    /// [`MountError`]; then nothing is attached.
    fn attach(&self, layer: &LayerSpec, tar: BorrowedFd<'_>) -> Result<Device, MountError>;

    /// Lets a layer go: one that is whole, or one that nothing but `tar` and its duplicates has
    /// open. Its bits are never cleared after this call while a mount may have it open.
    ///
    /// # Errors
    /// [`MountError::InUse`] for any other, which stays attached: its holes would read as zeros.
    fn release(&self, layer: &DiffId) -> Result<Released, MountError>;

    /// Starts the trace of these layers afresh.
    ///
    /// # Errors
    /// [`MountError`].
    fn start_trace(&self, layers: &[DiffId]) -> Result<(), MountError>;

    /// What was read of these layers since their trace was started (when they were attached, or by
    /// [`start_trace`](FaultTransport::start_trace)).
    ///
    /// # Errors
    /// [`MountError`].
    fn trace(&self, layers: &[DiffId]) -> Result<Trace, MountError>;

    /// What was counted.
    ///
    /// # Errors
    /// [`MountError`].
    fn counters(&self) -> Result<FaultCounters, MountError>;

    /// Ends the processes behind the transport; everything was released before.
    ///
    /// # Errors
    /// [`MountError::Refused`] while layers are attached.
    fn shut_down(&self) -> Result<(), MountError>;
}

/// Gets the bytes that a reader waits for.
pub trait FaultHandler: Send + Sync {
    /// Makes `extent` of `layer` present: bytes in the tar, then bits in the presence file. Blocks
    /// until that is done, or has failed, at the latest until `deadline`. Called by several threads
    /// at once, also for ranges that overlap, and again for a range that was denied before.
    ///
    /// The transport looks at the presence file itself: saying `Ok` without the bits denies the
    /// read.
    ///
    /// # Errors
    /// The errno that the reader gets.
    fn fault(&self, layer: &DiffId, extent: Extent, deadline: Instant) -> Result<(), Denial>;
}

/// Which fault transport a user wants.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum TransportChoice {
    /// The best that works here.
    #[default]
    Auto,
    /// Pre-content events (Linux 6.14 and later).
    Fanotify,
    /// A FUSE filesystem that exports the layer tars.
    Fuse,
}

/// A transport that was started, but hands no misses to its handler yet.
pub struct Started {
    keeper: Keeper,
    /// Layers that a daemon before this one attached, still served: to be adopted before
    /// [`Started::serve`]. Empty after a crash of daemon and keeper, too: then mounts that are left
    /// over read zeros for holes, and must be unmounted.
    pub inherited: Vec<Inherited>,
}

impl Started {
    /// Hands misses to the handler from now on, also those that were waiting.
    #[must_use]
    pub fn serve(self) -> Arc<dyn FaultTransport> {
        self.keeper.serve();
        Arc::new(self.keeper)
    }
}

impl std::fmt::Debug for Started {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut debug = f.debug_struct("Started");
        debug.field("transport", &self.keeper.name());
        debug.field("inherited", &self.inherited).finish()
    }
}

/// Starts the transport of choice.
///
/// # Errors
/// [`MountError::Transport`] if it does not work here, and those of [`Keeper::start`].
pub fn start(
    choice: TransportChoice,
    capabilities: &Capabilities,
    settings: KeeperSettings,
    handler: &Arc<dyn FaultHandler>,
) -> Result<Started, MountError> {
    if choice == TransportChoice::Fuse {
        return Err(MountError::Transport {
            transport: "fuse",
            reason: "this build has no FUSE transport yet; use fanotify on Linux 6.14 or later, \
                     or pull the image in full"
                .to_owned(),
        });
    }
    let needed = [
        &capabilities.root,
        &capabilities.pre_content_events,
        &capabilities.file_backed_erofs,
    ];
    if let Some(lacking) = needed.into_iter().find(|ability| !ability.available) {
        return Err(MountError::Transport {
            transport: "fanotify",
            reason: lacking.evidence.clone(),
        });
    }
    let (keeper, inherited) = Keeper::start(settings, handler)?;
    Ok(Started { keeper, inherited })
}
