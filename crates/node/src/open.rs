//! An image becomes one mount, shared by all its containers. Here: by its layout, with EROFS.
//!
//! The layout is fetched and the working set's stream begins at the same time; the mount is made
//! when the layout is there, and waits neither for the stream nor for the disk. A layer that is
//! whole is given to EROFS as the plain file it is; any other goes through the fault transport.

use std::collections::BTreeSet;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, RwLockWriteGuard};

use thaw_cache::LayerTar;
use thaw_image::{DiffId, Digest, Progress};
use thaw_mount::{Device, FaultTransport, LayerSpec, LayoutMount, Unmount};

use crate::Node;
use crate::directories::not_lazy;
use crate::error::NodeError;
use crate::image::Image;
use crate::memo::{self, Memo};
use crate::node::{Slot, lock, try_lock};
use crate::origin::Layers;
use crate::records::ArtifactRecord;
use crate::reports::{How, Way};
use crate::resolve::Resolved;
use crate::root::{Body, Parts, Root};
use crate::search::Search;
use crate::settings::{ImageWish, Pull, Transport};
use crate::source::{Accelerated, Choice, chain};
use crate::stream::{Stream, Streams};
use crate::timing::Timing;
use crate::warm::Place;
use crate::words::Names;

/// For messages.
const LAYOUT: &str = "the acceleration's layout";

/// One image, mounted.
#[derive(Debug)]
pub(crate) struct ImageMount {
    pub(crate) image: Arc<Image>,
    pub(crate) way: Way,
    pub(crate) profile: Option<String>,
    pub(crate) body: Body,
    pub(crate) streams: Streams,
    mount: Mutex<Option<Root>>,
    dir: PathBuf,
}

impl ImageMount {
    /// Of a body that was mounted at `dir`.
    pub(crate) fn new(
        resolved: &Resolved,
        profile: Option<String>,
        way: Way,
        body: Body,
        mount: Root,
        dir: PathBuf,
    ) -> Self {
        Self {
            image: Arc::clone(&resolved.image),
            way,
            profile,
            body,
            streams: Streams::default(),
            mount: Mutex::new(Some(mount)),
            dir,
        }
    }

    /// Where it is mounted.
    pub(crate) fn dir(&self) -> &Path {
        &self.dir
    }

    /// Reads what its working sets have ahead of a container that is started from it.
    pub(crate) fn warm(&self) {
        if let Body::Layout(parts) = &self.body {
            self.streams.warm(&Place {
                root: self.dir.clone(),
                layout: parts.layout.clone(),
            });
        }
    }

    /// Lazy or full, and why, for a container that starts now: since it was mounted all of it may
    /// have come.
    pub(crate) fn way_now(&self) -> Way {
        let whole = || self.body.layers().iter().all(|layer| layer.is_whole());
        match self.way.how {
            How::Lazy if whole() => all_here(),
            _ => self.way.clone(),
        }
    }

    /// The profiles by which it was started.
    pub(crate) fn profiles(&self) -> BTreeSet<String> {
        let mut profiles = self.streams.profiles();
        profiles.extend(self.profile.clone());
        profiles
    }

    /// Whether what is read of it is noted: nobody sees reads of what was whole when it was mounted.
    pub(crate) fn is_traced(&self) -> bool {
        self.way.how == How::Lazy && !self.profiles().is_empty()
    }

    /// For the next node.
    pub(crate) fn memo(&self) -> Memo {
        let parts = match &self.body {
            Body::Layout(parts) => Some(parts),
            Body::Directories(_) => None,
        };
        let names = parts.map(|parts| parts.names.list()).unwrap_or_default();
        Memo {
            way: self.way.clone(),
            profile: self.profile.clone(),
            names: names.iter().map(ToString::to_string).collect(),
            by: parts.map(|parts| parts.by.clone()),
            heard: parts.map(|parts| parts.names.heard()).unwrap_or_default(),
            fill: false,
        }
    }

    /// The layer tars that it reads, each once.
    pub(crate) fn diff_ids(&self) -> Vec<DiffId> {
        self.body.diff_ids()
    }

    /// Whether it is an image with this layer.
    pub(crate) fn has(&self, layer: &Digest) -> bool {
        let mut layers = self.image.layers.iter();
        layers.any(|it| it.diff_id.0 == *layer)
    }

    /// Has it read its layers directly, or through their page cache.
    pub(crate) fn read_directly(&self, directly: bool) {
        if let Some(root) = &mut *lock(&self.mount) {
            root.read_directly(directly);
        }
    }

    /// Unmounts it, which only works when nothing uses it.
    pub(crate) fn unmount(&self) -> Result<(), NodeError> {
        self.streams.cancel();
        if let Some(mount) = lock(&self.mount).take() {
            mount.unmount(Unmount::Lazy)?;
        }
        memo::forget(&self.dir);
        std::fs::remove_dir(&self.dir).ok();
        Ok(())
    }

    /// Leaves it mounted when this process ends.
    pub(crate) fn leave(&self) {
        if let Some(mount) = lock(&self.mount).take() {
            mount.detach();
        }
    }
}

impl Node {
    /// The mounted image that `wish` means; mounts it if nobody has.
    pub(crate) fn mounted(
        &self,
        wish: &ImageWish,
        progress: &dyn Progress,
        timing: &Timing,
    ) -> Result<Arc<ImageMount>, NodeError> {
        if wish.transport == Transport::Directories && wish.pull == Pull::Lazy {
            let why = "directories hold layers that were unpacked".to_owned();
            return Err(not_lazy(&wish.reference, why));
        }
        self.make_way(wish.transport);
        let (resolved, search) = self.resolve_to_start(wish, timing)?;
        let shared: Slot = Arc::clone(lock(&self.images).entry(resolved.image.digest).or_default());
        let mut slot = lock(&shared);
        if let Some(mount) = slot.clone() {
            if self.may_share(&mount, &resolved)? {
                drop(slot);
                self.share(&mount, &resolved, wish, search, progress, timing)?;
                return Ok(mount);
            }
            self.undo(&mount)?;
            let ids = mount.diff_ids();
            *slot = None;
            drop(mount);
            self.let_go(&ids);
        }
        let mount = match self.directories(wish.transport) {
            Some(why) => self.open_directories(&resolved, wish, why, progress, timing)?,
            None => self.open_image(&resolved, wish, search, progress, timing)?,
        };
        let mount = Arc::new(mount);
        *slot = Some(Arc::clone(&mount));
        Ok(mount)
    }

    fn open_image(
        &self,
        resolved: &Resolved,
        wish: &ImageWish,
        search: Option<Search>,
        progress: &dyn Progress,
        timing: &Timing,
    ) -> Result<ImageMount, NodeError> {
        let image = &resolved.image;
        let (parts, way, stream) = match self.choose(resolved, wish, search, timing)? {
            Choice::Lazy(found) => {
                let opened = self.open_lazily(resolved, &found, progress, timing)?;
                timing.set_round_trips(trips(resolved, &found));
                self.remember_choice(resolved, wish, &found)?;
                opened
            }
            Choice::Full(why) => {
                timing.span("full pull", || self.pull_all(resolved, progress))?;
                let found = self.local(image)?.ok_or(NodeError::Unknown(image.digest))?;
                let way = Way {
                    how: How::Full,
                    why,
                };
                timing.set_round_trips(trips(resolved, &found));
                let names = Names::of(vec![image.reference.clone()]);
                (self.parts(resolved, &found, names)?, way, None)
            }
        };
        let dir = self.settings.root.join("mounts").join(image.digest.hex());
        let mount = timing.span("mount", || {
            self.mount_parts(&parts, &dir, wish.transport, false)
        })?;
        let way = match way.how {
            How::Lazy => Way {
                why: self.served(way.why),
                ..way
            },
            How::Full => way,
        };
        self.remember(resolved)?;
        let profile = wish.profile.clone();
        let (body, root) = (Body::Layout(parts), Root::Layout(mount));
        let mount = ImageMount::new(resolved, profile, way, body, root, dir);
        self.settle_soon(mount.diff_ids());
        mount.memo().leave(&mount.dir);
        if let Some(profile) = &wish.profile {
            mount.streams.add(profile, stream);
        }
        Ok(mount)
    }

    fn open_lazily(
        &self,
        resolved: &Resolved,
        found: &Accelerated,
        progress: &dyn Progress,
        timing: &Timing,
    ) -> Result<(Parts, Way, Option<Stream>), NodeError> {
        self.complete_unindexed(resolved, found, progress, timing)?;
        let names = self.claim(resolved, found, progress, timing)?;
        let layers = self.attach(resolved, found)?;
        let whole_here = layers.layers.iter().all(|layer| layer.is_whole());
        self.starts_lazily(&resolved.image, &layers.layers);
        let set = found.working_set.clone().filter(|_| !whole_here);
        let stream = set.map(|set| self.stream(&resolved.image.reference, set));
        let files = timing.span("layout", || self.layout_files(resolved, found, &layers));
        let parts = layers.with(files?, found, names);
        let way = match whole_here {
            true => all_here(),
            false => Way {
                how: How::Lazy,
                why: found.why(&resolved.image),
            },
        };
        Ok((parts, way, stream))
    }

    /// Everything that a mount is made of.
    pub(crate) fn parts(
        &self,
        resolved: &Resolved,
        found: &Accelerated,
        names: Arc<Names>,
    ) -> Result<Parts, NodeError> {
        let layers = self.attach(resolved, found)?;
        let files = self.layout_files(resolved, found, &layers)?;
        Ok(layers.with(files, found, names))
    }

    /// The layout and, where there is one, the generated device, as files of the store.
    fn layout_files(
        &self,
        resolved: &Resolved,
        found: &Accelerated,
        layers: &Layers,
    ) -> Result<(PathBuf, Option<PathBuf>), NodeError> {
        let image = &resolved.image;
        let packed = &found.acceleration.layout;
        let tars = layers.tars();
        let check = |bytes: &[u8]| found.acceleration.check_layout(bytes, &tars);
        self.check_again(image, found, &check)?;
        let layout = self.unpacked(image, found, packed, check)?;
        let generated = found.acceleration.generated.as_ref();
        let generated = generated
            .map(|packed| self.unpacked(image, found, packed, |_| Ok(())))
            .transpose()?;
        Ok((layout, generated))
    }

    /// A layout that is here was checked when it came, but maybe for another image: an acceleration
    /// that was not used here before may name any.
    fn check_again(
        &self,
        image: &Image,
        found: &Accelerated,
        check: &dyn Fn(&[u8]) -> Result<(), String>,
    ) -> Result<(), NodeError> {
        let used = self.records.image(&image.digest);
        let used = used.and_then(|record| record.acceleration);
        if used.is_some_and(|used| used.manifest == *found.acceleration.manifest.digest()) {
            return Ok(());
        }
        let here = self.store.blobs().get(&found.acceleration.layout.digest)?;
        let checked = here.map_or(Ok(()), |bytes| check(&bytes));
        checked.map_err(|reason| unusable(image, LAYOUT.to_owned(), reason))
    }

    /// A part of an acceleration as a file of the store, unpacked.
    fn unpacked(
        &self,
        image: &Image,
        found: &Accelerated,
        packed: &thaw_accelerate::Packed,
        check: impl FnOnce(&[u8]) -> Result<(), String>,
    ) -> Result<PathBuf, NodeError> {
        let blobs = self.store.blobs();
        if !blobs.contains(&packed.digest) {
            let bad = |reason| unusable(image, LAYOUT.to_owned(), reason);
            let ahead = found.ahead.as_ref();
            let here = match ahead.and_then(|ahead| ahead.take(&packed.descriptor.digest)) {
                None => blobs.get(&packed.descriptor.digest)?,
                ahead => ahead,
            };
            let bytes = match (&found.repository, here) {
                (_, Some(bytes)) => bytes,
                (Some(repository), None) => {
                    repository.blob(&packed.descriptor, packed.descriptor.size)?
                }
                (None, None) => return Err(bad("it is not in the store".to_owned())),
            };
            let unpacked = packed.unpack(&bytes).map_err(bad)?;
            check(unpacked.bytes()).map_err(bad)?;
            blobs.stash_verified(&packed.digest, &unpacked)?;
        }
        Ok(blobs.path(&packed.digest))
    }

    /// Mounts parts at a directory, which is made. `record`: every layer is attached, also those
    /// that are whole, so that the trace is complete.
    pub(crate) fn mount_parts(
        &self,
        parts: &Parts,
        dir: &Path,
        wanted: Transport,
        record: bool,
    ) -> Result<LayoutMount, NodeError> {
        std::fs::create_dir_all(dir).map_err(NodeError::dir("make", dir))?;
        let mut transport: Option<Arc<dyn FaultTransport>> = None;
        let mut devices = Vec::with_capacity(parts.layers.len() + 1);
        let mut marks = self.marks.write();
        for layer in &parts.layers {
            if layer.is_whole() && !record {
                devices.push(Device {
                    path: layer.path().to_owned(),
                });
                continue;
            }
            let transport = match &transport {
                Some(transport) => transport,
                None => transport.insert(self.transport(wanted)?),
            };
            let spec = LayerSpec {
                diff_id: layer.diff_id(),
                size: layer.tar_size(),
                tar: layer.path().to_owned(),
                presence: layer.presence_path().to_owned(),
            };
            devices.push(transport.attach(&spec, layer.file().as_fd())?);
            marks.add(layer);
        }
        // Nobody may let them go before EROFS has them open.
        let _marks = RwLockWriteGuard::downgrade(marks);
        devices.extend(parts.generated.clone().map(|path| Device { path }));
        Ok(LayoutMount::new(&parts.layout, &devices, dir, None)?)
    }

    /// A layer that is whole in the store.
    pub(crate) fn whole(&self, diff_id: &DiffId) -> Result<Option<Arc<LayerTar>>, NodeError> {
        if let Some(open) = self.store.layers().in_use(diff_id) {
            return Ok(Some(open).filter(|layer| layer.is_whole()));
        }
        let Some(record) = self.layer_record(diff_id) else {
            return Ok(None);
        };
        // To open one that is not here makes it.
        if !self.store.layers().contains(diff_id) {
            return Ok(None);
        }
        let layer = self.store.layers().open(diff_id, record.tar_size)?;
        Ok(Some(layer).filter(|layer| layer.is_whole()))
    }

    /// Layers of mounted images, but for those that are just being mounted or unmounted: who does that may wait for a registry.
    pub(crate) fn open_layers(&self) -> Vec<Arc<LayerTar>> {
        let slots: Vec<Slot> = lock(&self.images).values().cloned().collect();
        let mut layers = Vec::new();
        for slot in slots {
            if let Some(Some(mount)) = try_lock(&slot).as_deref() {
                layers.extend(mount.body.layers().iter().cloned());
            }
        }
        layers
    }

    /// The accelerations that images are mounted by, with the images' manifests; but for those that are just being mounted or unmounted.
    pub(crate) fn mounted_by(&self) -> Vec<(Digest, ArtifactRecord)> {
        let slots: Vec<(Digest, Slot)> = lock(&self.images)
            .iter()
            .map(|(digest, slot)| (*digest, Arc::clone(slot)))
            .collect();
        let by = |(digest, slot): &(Digest, Slot)| match &try_lock(slot)?.as_ref()?.body {
            Body::Layout(parts) => Some((*digest, parts.by.clone())),
            Body::Directories(_) => None,
        };
        slots.iter().filter_map(by).collect()
    }

    /// Leaves images mounted when this process ends. Not those that somebody is at work on, who may wait for a
    /// registry: with the process they end where they are, and unmount nothing.
    pub(crate) fn leave_images(&self) {
        for slot in lock(&self.images).values() {
            if let Some(Some(mount)) = try_lock(slot).as_deref() {
                mount.leave();
            }
        }
    }

    /// Unmounts images that no container and no `mount` uses, or is about to.
    pub(crate) fn unmount_unused(&self) {
        self.unmount_unused_if(|_| true);
    }

    /// Those of them that have a layer.
    pub(crate) fn unmount_unused_of(&self, layer: &Digest) {
        self.unmount_unused_if(|mount| mount.has(layer));
    }

    fn unmount_unused_if(&self, goes: impl Fn(&ImageMount) -> bool) {
        let slots: Vec<(Digest, Slot)> = lock(&self.images)
            .iter()
            .map(|(digest, slot)| (*digest, Arc::clone(slot)))
            .collect();
        for (digest, slot) in slots {
            // Somebody is just mounting it, or unmounting.
            let Some(mut slot) = try_lock(&slot) else {
                continue;
            };
            let Some(mount) = slot.as_ref() else { continue };
            // Whoever uses it has it, too, and nobody else gets it while the slot is locked.
            if Arc::strong_count(mount) > 1 || !goes(mount) {
                continue;
            }
            if let Err(error) = self.undo(mount) {
                tracing::warn!(image = %digest, error = chain(&error), "cannot unmount");
                continue;
            }
            let mut ids = mount.diff_ids();
            *slot = None;
            drop(slot);
            let used = self.open_layers();
            ids.retain(|id| used.iter().all(|layer| layer.diff_id() != *id));
            self.let_go(&ids);
        }
    }

    /// Unmounts an image that nobody uses, and keeps what was read of it.
    fn undo(&self, mount: &ImageMount) -> Result<(), NodeError> {
        if let Err(error) = self.harvest(mount) {
            tracing::debug!(error = chain(&error), "no trace kept");
        }
        mount.unmount()?;
        // By whose word it came is durable before what has come.
        self.records.settle();
        for layer in mount.body.layers() {
            layer.sync().ok();
        }
        Ok(())
    }
}

/// The way of an image that needs no fetching.
pub(crate) fn all_here() -> Way {
    Way {
        how: How::Full,
        why: "all of it is here".to_owned(),
    }
}

/// Requests that were made one after the other for a lazy mount.
fn trips(resolved: &Resolved, found: &Accelerated) -> u64 {
    let own = resolved.repository.stats().round_trips;
    let other = found.repository.as_ref();
    own.max(other.map_or(0, |other| other.stats().round_trips))
}

pub(crate) fn unusable(image: &Image, what: String, reason: String) -> NodeError {
    NodeError::Unusable {
        image: image.reference.to_string(),
        what,
        reason,
    }
}
