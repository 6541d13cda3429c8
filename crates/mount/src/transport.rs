//! The seam between what is mounted and who gets its bytes.
//!
//! A fault transport makes a layer tar into a device that EROFS can read, and asks a
//! [`FaultHandler`] for what is absent. There is one filesystem, the kernel's; transports differ only
//! in who asks: see [`TransportKind`].

use std::os::fd::BorrowedFd;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use thaw_image::{DiffId, Extent};
use thaw_sys::capabilities::{Ability, Capabilities};
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
    /// It is whole: mounts go on reading it, with no process in between. Not with FUSE.
    Whole,
    /// It is not whole, and nothing had it open.
    Unused,
}

/// Serves reads of layer tars, from [`attach`](FaultTransport::attach) to
/// [`release`](FaultTransport::release), over the death of this process where it can.
pub trait FaultTransport: Send + Sync {
    /// How the kernel asks.
    fn kind(&self) -> TransportKind;

    /// Makes a layer mountable. Its tar has its full size, and its presence file is there. `tar` is
    /// the descriptor that its one writer uses, opened for reading and writing: a descriptor that
    /// is opened after this call would wait for the transport at each write. Attaching a layer
    /// again gives the same device.
    ///
    /// # Errors
    /// [`MountError`]; then nothing is attached.
    fn attach(&self, layer: &LayerSpec, tar: BorrowedFd<'_>) -> Result<Device, MountError>;

    /// Lets a layer go: one that is whole (except with FUSE), or one that nothing but `tar` and its
    /// duplicates has open. Its bits are never cleared after this call while a mount may have it open.
    /// The kernel may have it open for some milliseconds after an unmount.
    ///
    /// # Errors
    /// [`MountError::InUse`] for any other, which stays attached: its holes would read as zeros, or
    /// not at all.
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

    /// Returns when every read that found its bytes present before the call has them: what was
    /// present and is not any more may then lose its bytes.
    ///
    /// # Errors
    /// [`MountError::Refused`] with [`TransportKind::Fanotify`], where that cannot be known.
    fn fence(&self) -> Result<(), MountError>;

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

    /// Whom faults of a layer wait for: one that hangs shall not hold up those of others. Does not
    /// block.
    fn host(&self, layer: &DiffId) -> Arc<str>;
}

/// A way for the kernel to ask for bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum TransportKind {
    /// Pre-content events (Linux 6.14 and later; ext4, xfs, btrfs). The fastest; needs nobody any
    /// more when a layer is whole. Holes are read as zeros when nobody holds the event group.
    Fanotify,
    /// A FUSE filesystem whose only files are the layer tars. Works with older kernels and every
    /// filesystem, and fails closed; needs its keeper as long as a mount has a layer open.
    Fuse,
}

impl TransportKind {
    /// Its name, for people.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Fanotify => "fanotify",
            Self::Fuse => "fuse",
        }
    }

    /// What it lacks here.
    fn lacks(self, capabilities: &Capabilities) -> Option<&Ability> {
        let Capabilities {
            root,
            erofs,
            file_backed_erofs,
            pre_content_events,
            fuse,
            loop_devices,
            ..
        } = capabilities;
        let devices = match file_backed_erofs.available {
            true => file_backed_erofs,
            false => loop_devices,
        };
        let needed = match self {
            Self::Fanotify => [root, erofs, pre_content_events, file_backed_erofs],
            Self::Fuse => [root, erofs, fuse, devices],
        };
        needed.into_iter().find(|ability| !ability.available)
    }
}

/// Which fault transport a user wants.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum TransportChoice {
    /// The best that works here: pre-content events, else FUSE.
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
    /// Whether a FUSE connection was found that has died with all its holders: mounts over its files
    /// fail, also those of layers that are whole.
    pub over_a_dead_fuse: bool,
    /// Whether files are served already. Those whose layers were not inherited are denied, and whoever
    /// opens such a tar waits for himself: it must be made anew.
    pub serves_files: bool,
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
        debug.field("transport", &self.keeper.kind());
        debug.field("inherited", &self.inherited).finish()
    }
}

/// The transport that a choice means here.
///
/// # Errors
/// [`MountError::Transport`] with what it lacks.
pub fn select(
    choice: TransportChoice,
    capabilities: &Capabilities,
) -> Result<TransportKind, MountError> {
    let kinds: &[TransportKind] = match choice {
        TransportChoice::Auto => &[TransportKind::Fanotify, TransportKind::Fuse],
        TransportChoice::Fanotify => &[TransportKind::Fanotify],
        TransportChoice::Fuse => &[TransportKind::Fuse],
    };
    let mut reasons = Vec::new();
    for kind in kinds {
        match kind.lacks(capabilities) {
            None => return Ok(*kind),
            Some(ability) if reasons.contains(&ability.evidence) => {}
            Some(ability) => reasons.push(ability.evidence.clone()),
        }
    }
    let names: Vec<_> = kinds.iter().map(|kind| kind.name()).collect();
    Err(MountError::Transport {
        transport: names.join(" or "),
        reason: reasons.join("; "),
    })
}

/// Starts the transport of choice. One that serves mounts of a process before this one is taken
/// over whatever the choice is: [`FaultTransport::kind`] tells.
///
/// # Errors
/// [`MountError::Transport`] if it does not work here, and those of [`Keeper::start`].
pub fn start(
    choice: TransportChoice,
    capabilities: &Capabilities,
    settings: KeeperSettings,
    handler: &Arc<dyn FaultHandler>,
) -> Result<Started, MountError> {
    // Where nothing can be begun, because the disk is full, say, what is there can still be taken over.
    let selected = select(choice, capabilities);
    let settings = KeeperSettings {
        transport: selected.as_ref().ok().copied(),
        ..settings
    };
    let (keeper, inherited) = match (Keeper::start(settings, handler), selected) {
        (Err(MountError::NoKeeper), Err(lack)) => return Err(lack),
        (started, _) => started?,
    };
    Ok(Started {
        over_a_dead_fuse: keeper.over_a_dead_fuse(),
        serves_files: keeper.serves_files(),
        keeper,
        inherited,
    })
}
