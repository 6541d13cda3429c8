//! The node itself: what it holds, how it is opened and closed.
//!
//! A node that ends leaves behind what containers need: their mounts, and the keeper that serves
//! them. The next node finds the mounts in the mount table and the keeper at its socket, and goes
//! on from there; nothing else is written down for it.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, TryLockError};
use std::time::Instant;

use thaw_cache::{Fetcher, Store};
use thaw_image::{DiffId, Digest, ImageReference};
use thaw_mount::{Capabilities, FaultTransport, MountError};
use thaw_registry::Repository;

use crate::adopt::Found;
use crate::container::Containers;
use crate::containers::Held;
use crate::error::NodeError;
use crate::lives::Lives;
use crate::marks::{Filling, Marks};
use crate::measures::LazyLayers;
use crate::open::ImageMount;
use crate::quiet::Arrivals;
use crate::records::Records;
use crate::reports::StartReport;
use crate::settings::{Settings, Transport};
use crate::source::chain;
use crate::trim::Trimming;
use crate::turns::Turns;
use crate::unbegun::Unbegun;
use crate::waits::Waits;
use crate::words::Readers;
use crate::work::Works;

/// One machine's images and containers. One process has one node for a store.
pub struct Node {
    pub(crate) settings: Settings,
    pub(crate) store: Store,
    pub(crate) records: Records,
    pub(crate) fetcher: Arc<Fetcher>,
    pub(crate) registry: thaw_registry::Client,
    pub(crate) containers: Containers,
    capabilities: Mutex<Option<Arc<Capabilities>>>,
    /// Started by the first lazy mount; the error is why it cannot be.
    pub(crate) transport: Mutex<Option<Arc<dyn FaultTransport>>>,
    /// Layers that raise events.
    pub(crate) marks: Marks,
    /// Who reads layers that are not whole.
    pub(crate) readers: Readers,
    /// Layers that are being completed and checked; `None`: that failed.
    pub(crate) fills: Mutex<HashMap<DiffId, Filling>>,
    pub(crate) images: Mutex<HashMap<Digest, Slot>>,
    /// Root filesystems of containers, by id.
    pub(crate) held: Mutex<HashMap<String, Held>>,
    /// How the starts of containers went that have ended since, and are not removed yet.
    pub(crate) ended: Mutex<HashMap<String, StartReport>>,
    /// Containers that nobody may have begun.
    pub(crate) unbegun: Mutex<Unbegun>,
    /// When containers were looked for whose end nobody has told.
    pub(crate) looked_for_ends: Mutex<Option<Instant>>,
    /// Containers that are being released.
    pub(crate) releases: Turns,
    /// What `mount` mounted, by directory.
    pub(crate) mounts: Mutex<HashMap<PathBuf, Held>>,
    /// What was mounted lazily.
    pub(crate) lazy_layers: Mutex<LazyLayers>,
    /// When the cache was brought to its size.
    pub(crate) trimming: Mutex<Trimming>,
    /// When the network of containers was looked at.
    pub(crate) reconciled: Mutex<Option<Instant>>,
    /// Whether bytes still come for what is mounted.
    pub(crate) arrivals: Mutex<Arrivals>,
    /// Whether mounts may read past the page cache of layers; asked when one would.
    pub(crate) direct_reads: OnceLock<bool>,
    /// What must not be taken away though nothing refers to it yet.
    pub(crate) works: Arc<Works>,
    /// The last reads that waited.
    pub(crate) waits: Arc<Waits>,
    /// Whose they may have been.
    pub(crate) lives: Arc<Lives>,
}

/// An image's mount, or the one who is making it: others wait for the lock.
pub(crate) type Slot = Arc<Mutex<Option<Arc<ImageMount>>>>;

impl std::fmt::Debug for Node {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Node")
            .field("root", &self.settings.root)
            .finish_non_exhaustive()
    }
}

impl Node {
    /// Opens the store, and takes over what a node before this one left mounted.
    ///
    /// # Errors
    /// [`NodeError`] when the store cannot be used.
    pub fn open(settings: Settings) -> Result<Self, NodeError> {
        for name in ["mounts", "containers"] {
            let dir = settings.root.join(name);
            std::fs::create_dir_all(&dir).map_err(NodeError::dir("make", &dir))?;
        }
        let container_settings = crate::container::Settings {
            runtime: settings.runtime.clone(),
            ..crate::container::Settings::default()
        };
        let node = Self {
            store: Store::open(&settings.root)?,
            records: Records::open(&settings.root).map_err(NodeError::records)?,
            fetcher: Fetcher::new(thaw_cache::Settings::default()).map_err(NodeError::threads)?,
            registry: thaw_registry::Client::new(settings.registry.clone())?,
            containers: Containers::open(&settings.root, container_settings)?,
            capabilities: Mutex::default(),
            transport: Mutex::default(),
            marks: Marks::default(),
            readers: Readers::default(),
            fills: Mutex::default(),
            images: Mutex::default(),
            held: Mutex::default(),
            ended: Mutex::default(),
            unbegun: Mutex::default(),
            looked_for_ends: Mutex::default(),
            releases: Turns::default(),
            mounts: Mutex::default(),
            lazy_layers: Mutex::default(),
            trimming: Mutex::default(),
            reconciled: Mutex::default(),
            arrivals: Mutex::default(),
            direct_reads: OnceLock::new(),
            works: Arc::default(),
            waits: Arc::default(),
            lives: Arc::default(),
            settings,
        };
        node.registry.remember_links(node.records.measured().links);
        node.adopt()?;
        Ok(node)
    }

    /// Has it take a machine for one that can do other things.
    #[cfg(test)]
    pub(crate) fn suppose(&self, capabilities: Capabilities) {
        *lock(&self.capabilities) = Some(Arc::new(capabilities));
    }

    /// What this machine can do. It is tried once, or until all of it could be tried.
    pub fn capabilities(&self) -> Arc<Capabilities> {
        let mut known = lock(&self.capabilities);
        if let Some(capabilities) = &*known {
            return Arc::clone(capabilities);
        }
        let found = Arc::new(Capabilities::probe(&self.settings.root));
        if found.decided {
            *known = Some(Arc::clone(&found));
        }
        found
    }

    /// The repository, or the layout directory, that holds an image, with counters of its own.
    pub(crate) fn repository(
        &self,
        reference: &ImageReference,
    ) -> Result<Arc<dyn Repository>, NodeError> {
        Ok(self.registry.open(reference)?)
    }

    /// Speaks plain HTTP with these registries from now on, beside those of the settings.
    pub fn allow_plain_http(&self, registries: &[String]) {
        for registry in registries {
            self.registry.allow_plain_http(registry);
        }
    }

    /// Bytes that came over the network since this node was opened.
    pub(crate) fn received(&self) -> u64 {
        self.registry.stats().bytes
    }

    /// Whether anything is mounted or runs: a node that is not busy may end.
    #[must_use]
    pub fn busy(&self) -> bool {
        !lock(&self.held).is_empty() || !lock(&self.mounts).is_empty()
    }

    /// Takes over a keeper that serves mounts of a node before this one. Its waiting readers are
    /// served when everything is open again.
    fn adopt(&self) -> Result<(), NodeError> {
        let is_left = self.settings.keeper_socket().exists();
        // Somebody may have taken the socket away: what monitors hold is enough.
        if !is_left && self.monitors().is_empty() {
            return self.adopt_mounts(Found::default());
        }
        match self.start_transport(Transport::Auto) {
            Ok(mut started) => {
                self.adopt_layers(std::mem::take(&mut started.inherited));
                let adopted = self.adopt_mounts(Found {
                    over_a_dead_fuse: started.over_a_dead_fuse,
                    serves_files: started.serves_files,
                });
                *lock(&self.transport) = Some(started.serve());
                self.let_unused_go();
                if !is_left {
                    self.end_transport();
                }
                adopted
            }
            // Somebody holds what readers wait for, and the next try may have what this one lacks: the
            // daemon before us may take its time to be gone, or no process can be started just now.
            Err(
                error @ NodeError::Mount(
                    MountError::Owned(_)
                    | MountError::Gone
                    | MountError::Socket { .. }
                    | MountError::Spawn { .. },
                ),
            ) => Err(error),
            Err(error) => {
                tracing::warn!(error = chain(&error), "no keeper to take over");
                self.adopt_mounts(Found::default())
            }
        }
    }

    /// Ends the node. Images that nothing uses are unmounted; what runs goes on.
    pub fn close(&self) {
        self.unmount_unused();
        self.settle();
        for layer in self.open_layers() {
            if let Err(error) = layer.sync() {
                tracing::warn!(layer = %layer.diff_id(), error = chain(&error), "not synced");
            }
        }
        self.leave();
        if self.busy() {
            return;
        }
        self.let_all_go();
        self.end_transport();
    }

    /// Leaves everything mounted when this process ends.
    fn leave(&self) {
        for held in lock(&self.held)
            .values_mut()
            .chain(lock(&self.mounts).values_mut())
        {
            held.leave();
        }
        self.leave_images();
    }
}

impl Drop for Node {
    /// One that fails when it has taken over mounts leaves them to the next one, as one that is killed does.
    fn drop(&mut self) {
        self.leave();
    }
}

pub(crate) fn lock<T: ?Sized>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// [`lock`], where nobody has it locked.
pub(crate) fn try_lock<T: ?Sized>(mutex: &Mutex<T>) -> Option<MutexGuard<'_, T>> {
    match mutex.try_lock() {
        Ok(guard) => Some(guard),
        Err(TryLockError::Poisoned(guard)) => Some(guard.into_inner()),
        Err(TryLockError::WouldBlock) => None,
    }
}
