//! An image becomes one EROFS mount, shared by all its containers.
//!
//! The layout is fetched and the working set's stream begins at the same time; the mount is made
//! when the layout is there. A layer that is whole is given to EROFS as the plain file it is; any
//! other goes through the fault transport.

use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, RwLockWriteGuard};
use std::time::{Duration, Instant};

use thaw_cache::{Attachment, FetchError, Fill, LayerTar, Origin, Prefetch};
use thaw_image::{BlobSource, DiffId, Digest, Progress, SeekTable};
use thaw_mount::{Device, FaultTransport, LayerSpec, LayoutMount, Unmount};
use thaw_registry::Repository;

use crate::Node;
use crate::error::NodeError;
use crate::image::Image;
use crate::node::{Slot, lock};
use crate::reports::{How, Way};
use crate::resolve::Resolved;
use crate::settings::{ImageWish, Pull, Transport};
use crate::source::{Accelerated, Choice, chain, layer_refs};
use crate::timing::Timing;

/// Most bytes of a seek table.
const MAX_TABLE: u64 = 128 << 20;
/// How long one wait for a layer's completion lasts; there is a next one.
const FILL_STEP: Duration = Duration::from_secs(60);

/// One image, mounted.
#[derive(Debug)]
pub(crate) struct ImageMount {
    pub(crate) image: Arc<Image>,
    pub(crate) way: Way,
    pub(crate) profile: Option<String>,
    pub(crate) parts: Parts,
    /// Requests that were made one after the other until it was mounted.
    pub(crate) round_trips: u64,
    prefetch: Mutex<Option<Prefetch>>,
    mount: Mutex<Option<LayoutMount>>,
    dir: PathBuf,
}

/// What a mount is made of; it can be mounted again.
#[derive(Debug)]
pub(crate) struct Parts {
    pub(crate) layout: PathBuf,
    pub(crate) generated: Option<PathBuf>,
    pub(crate) layers: Vec<Arc<LayerTar>>,
    /// Where the layers' bytes come from, as long as this lives.
    _origins: Vec<Attachment>,
}

impl ImageMount {
    /// Of parts that were mounted at `dir`.
    pub(crate) fn new(
        resolved: &Resolved,
        profile: Option<String>,
        way: Way,
        parts: Parts,
        mount: LayoutMount,
        dir: PathBuf,
    ) -> Self {
        Self {
            image: Arc::clone(&resolved.image),
            way,
            profile,
            parts,
            round_trips: resolved.repository.stats().round_trips,
            prefetch: Mutex::default(),
            mount: Mutex::new(Some(mount)),
            dir,
        }
    }

    /// Where it is mounted.
    pub(crate) fn dir(&self) -> &Path {
        &self.dir
    }

    /// Lazy or full, and why, for a container that starts now: since it was mounted all of it may
    /// have come.
    pub(crate) fn way_now(&self) -> Way {
        let whole = || self.parts.layers.iter().all(|layer| layer.is_whole());
        match self.way.how {
            How::Lazy if whole() => all_here(),
            _ => self.way.clone(),
        }
    }

    /// The layers, each once.
    pub(crate) fn diff_ids(&self) -> Vec<DiffId> {
        let mut ids: Vec<DiffId> = self
            .parts
            .layers
            .iter()
            .map(|layer| layer.diff_id())
            .collect();
        ids.sort_unstable();
        ids.dedup();
        ids
    }

    /// The stream of its working set, if there is one.
    pub(crate) fn prefetch(&self) -> std::sync::MutexGuard<'_, Option<Prefetch>> {
        lock(&self.prefetch)
    }

    /// Unmounts it, which only works when nothing uses it.
    pub(crate) fn unmount(&self) -> Result<(), NodeError> {
        if let Some(prefetch) = lock(&self.prefetch).take() {
            prefetch.cancel();
        }
        if let Some(mount) = lock(&self.mount).take() {
            mount.unmount(Unmount::Lazy)?;
        }
        std::fs::remove_dir(&self.dir).ok();
        Ok(())
    }

    /// Leaves it mounted when this process ends.
    pub(crate) fn leave(&self) {
        if let Some(mount) = lock(&self.mount).take() {
            let _left = mount.detach();
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
        let resolved = self.resolve(wish, timing)?;
        let slot: Slot = Arc::clone(lock(&self.images).entry(resolved.image.digest).or_default());
        let mut slot = lock(&slot);
        if let Some(mount) = &*slot {
            if wish.pull == Pull::Full {
                timing.span("full pull", || self.complete(mount))?;
            }
            return Ok(Arc::clone(mount));
        }
        let mount = Arc::new(self.open_image(&resolved, wish, progress, timing)?);
        *slot = Some(Arc::clone(&mount));
        Ok(mount)
    }

    fn open_image(
        &self,
        resolved: &Resolved,
        wish: &ImageWish,
        progress: &dyn Progress,
        timing: &Timing,
    ) -> Result<ImageMount, NodeError> {
        let image = &resolved.image;
        let (parts, way, prefetch) = match self.choose(resolved, wish, timing)? {
            Choice::Lazy(found) => self.open_lazily(resolved, wish, &found, progress, timing)?,
            Choice::Full(why) => {
                timing.span("full pull", || self.pull_all(resolved, progress))?;
                let found = self.local(image)?.ok_or(NodeError::Unknown(image.digest))?;
                let way = Way {
                    how: How::Full,
                    why,
                };
                (self.parts(resolved, &found)?, way, None)
            }
        };
        let dir = self.settings.root.join("mounts").join(image.digest.hex());
        let mount = timing.span("mount", || {
            self.mount_parts(&parts, &dir, wish.transport, false)
        })?;
        self.remember(resolved)?;
        let mount = ImageMount::new(resolved, wish.profile.clone(), way, parts, mount, dir);
        *mount.prefetch() = prefetch;
        Ok(mount)
    }

    fn open_lazily(
        &self,
        resolved: &Resolved,
        wish: &ImageWish,
        found: &Accelerated,
        progress: &dyn Progress,
        timing: &Timing,
    ) -> Result<(Parts, Way, Option<Prefetch>), NodeError> {
        let whole = self.whole_layers(&resolved.image)?;
        let whole_here = resolved
            .image
            .layers
            .iter()
            .all(|l| whole.contains_key(&l.diff_id));
        self.complete_unindexed(resolved, found, progress, timing)?;
        let layers = self.attach(resolved, found)?;
        let (files, prefetch) = std::thread::scope(|scope| {
            let stream = (!whole_here).then(|| {
                scope.spawn(|| timing.span("working set index", || self.stream(resolved, found)))
            });
            let files = timing.span("layout", || self.layout_files(resolved, found));
            (
                files,
                stream.and_then(|stream| stream.join().ok()).flatten(),
            )
        });
        let parts = layers.with(files?);
        self.remember_choice(resolved, wish, found)?;
        let way = if whole_here {
            all_here()
        } else {
            Way {
                how: How::Lazy,
                why: found.why(&resolved.image, prefetch.is_some()),
            }
        };
        Ok((parts, way, prefetch))
    }

    /// Everything that a mount is made of.
    pub(crate) fn parts(
        &self,
        resolved: &Resolved,
        found: &Accelerated,
    ) -> Result<Parts, NodeError> {
        let layers = self.attach(resolved, found)?;
        Ok(layers.with(self.layout_files(resolved, found)?))
    }

    /// The layout and, where there is one, the generated device, as files of the store.
    fn layout_files(
        &self,
        resolved: &Resolved,
        found: &Accelerated,
    ) -> Result<(PathBuf, Option<PathBuf>), NodeError> {
        let image = &resolved.image;
        let packed = &found.acceleration.layout;
        let layout = self.unpacked(image, found, packed, |bytes| {
            found.acceleration.check_layout(bytes, &layer_refs(image))
        })?;
        let generated = found.acceleration.generated.as_ref();
        let generated = generated
            .map(|packed| self.unpacked(image, found, packed, |_| Ok(())))
            .transpose()?;
        Ok((layout, generated))
    }

    /// Opens the layers, and tells the fetcher where their bytes come from. Asks nobody.
    fn attach(&self, resolved: &Resolved, found: &Accelerated) -> Result<Layers, NodeError> {
        let image = &resolved.image;
        let mut layers = Vec::with_capacity(image.layers.len());
        let mut origins = Vec::new();
        for layer in &image.layers {
            if let Some(whole) = self.whole(&layer.diff_id)? {
                layers.push(whole);
                continue;
            }
            let Some(table) = found.acceleration.tables.get(&layer.blob) else {
                let what = format!("layer {}", layer.diff_id);
                let reason = "it has no seek table and is not here".to_owned();
                return Err(unusable(image, what, reason));
            };
            let tar = self.store.layers().open(&layer.diff_id, table.tar_size)?;
            let origin = self.origin(resolved, found, layer.blob, table);
            origins.push(self.fetcher.attach(Arc::clone(&tar), origin));
            layers.push(tar);
        }
        Ok(Layers { layers, origins })
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
            let bad = |reason| unusable(image, "the acceleration's layout".to_owned(), reason);
            let bytes = match (&found.repository, blobs.get(&packed.descriptor.digest)?) {
                (_, Some(bytes)) => bytes,
                (Some(repository), None) => {
                    repository.blob(&packed.descriptor, packed.descriptor.size)?
                }
                (None, None) => return Err(bad("it is not in the store".to_owned())),
            };
            let unpacked = packed.unpack(&bytes).map_err(bad)?;
            check(&unpacked).map_err(bad)?;
            blobs.put(&packed.digest, &unpacked)?;
        }
        Ok(blobs.path(&packed.digest))
    }

    /// Where the bytes of a layer come from.
    fn origin(
        &self,
        resolved: &Resolved,
        found: &Accelerated,
        blob: Digest,
        table: &thaw_accelerate::TableRef,
    ) -> Origin {
        let image = resolved.image.reference.to_string();
        let local: Arc<dyn BlobSource> = Arc::new(self.store.blobs().clone());
        let windows = table.windows.as_ref().map(|windows| {
            let source = match &found.repository {
                Some(repository) if !self.store.blobs().contains(&windows.digest) => {
                    Arc::clone(repository) as Arc<dyn BlobSource>
                }
                _ => local,
            };
            (source, windows.digest)
        });
        let load = TableLoader {
            blobs: self.store.blobs().clone(),
            repository: found.repository.clone(),
            table: table.clone(),
            blob,
            diff_id: resolved
                .image
                .layers
                .iter()
                .find(|l| l.blob == blob)
                .map(|l| l.diff_id),
            image: image.clone(),
        };
        Origin {
            image,
            blobs: vec![Arc::clone(&resolved.repository) as Arc<dyn BlobSource>],
            layer_blob: blob,
            table: Box::new(move || load.load()),
            windows,
        }
    }

    /// Mounts parts at a directory, which is made. `record`: every layer raises events, also those
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
        let layer = self.store.layers().open(diff_id, record.tar_size)?;
        Ok(Some(layer).filter(|layer| layer.is_whole()))
    }

    /// Layers of mounted images.
    pub(crate) fn open_layers(&self) -> Vec<Arc<LayerTar>> {
        let slots: Vec<Slot> = lock(&self.images).values().cloned().collect();
        let mut layers = Vec::new();
        for slot in slots {
            if let Some(mount) = &*lock(&slot) {
                layers.extend(mount.parts.layers.iter().cloned());
            }
        }
        layers
    }

    /// Leaves images mounted when this process ends.
    pub(crate) fn leave_images(&self) {
        for slot in lock(&self.images).values() {
            if let Some(mount) = &*lock(slot) {
                mount.leave();
            }
        }
    }

    /// Unmounts images that no container and no `mount` uses, or is about to.
    pub(crate) fn unmount_unused(&self) {
        let slots: Vec<(Digest, Slot)> = lock(&self.images)
            .iter()
            .map(|(digest, slot)| (*digest, Arc::clone(slot)))
            .collect();
        for (digest, slot) in slots {
            let mut slot = lock(&slot);
            let Some(mount) = slot.as_ref() else { continue };
            // Whoever uses it has it, too, and nobody else gets it while the slot is locked.
            if Arc::strong_count(mount) > 1 {
                continue;
            }
            if let Err(error) = self.harvest(mount) {
                tracing::debug!(error = chain(&error), "no trace kept");
            }
            if let Err(error) = mount.unmount() {
                tracing::warn!(image = %digest, error = chain(&error), "cannot unmount");
                continue;
            }
            let ids = mount.diff_ids();
            for layer in &mount.parts.layers {
                layer.sync().ok();
            }
            *slot = None;
            self.let_go(&ids);
        }
    }

    /// Completes the layers of a mounted image, and waits for that.
    fn complete(&self, image: &ImageMount) -> Result<(), NodeError> {
        let partial = image.parts.layers.iter().filter(|layer| !layer.is_whole());
        let fills: Vec<Fill> = partial
            .map(|layer| self.fetcher.fill(&layer.diff_id()))
            .collect();
        for fill in fills {
            loop {
                if let Some(done) = fill.wait(Instant::now() + FILL_STEP) {
                    done?;
                    break;
                }
            }
        }
        Ok(())
    }
}

/// The layers of an image, open.
struct Layers {
    layers: Vec<Arc<LayerTar>>,
    origins: Vec<Attachment>,
}

impl Layers {
    fn with(self, (layout, generated): (PathBuf, Option<PathBuf>)) -> Parts {
        Parts {
            layout,
            generated,
            layers: self.layers,
            _origins: self.origins,
        }
    }
}

/// The way of an image that needs no fetching.
pub(crate) fn all_here() -> Way {
    Way {
        how: How::Full,
        why: "all of it is here".to_owned(),
    }
}

/// Gets a seek table when it is first needed.
struct TableLoader {
    blobs: thaw_cache::Blobs,
    repository: Option<Arc<dyn Repository>>,
    table: thaw_accelerate::TableRef,
    blob: Digest,
    diff_id: Option<DiffId>,
    image: String,
}

impl TableLoader {
    fn load(&self) -> Result<Arc<SeekTable>, FetchError> {
        let diff_id = self.diff_id.unwrap_or(DiffId(self.blob));
        let fail = |reason: String| FetchError::table(&self.image, diff_id, reason);
        let digest = self.table.table.digest;
        let here = self
            .blobs
            .get(&digest)
            .map_err(|error| fail(chain(&error)))?;
        let bytes = match (here, &self.repository) {
            (Some(bytes), _) => bytes,
            (None, Some(repository)) => {
                let bytes = repository
                    .blob(&self.table.table, MAX_TABLE)
                    .map_err(|error| fail(chain(&error)))?;
                self.blobs.put(&digest, &bytes).ok();
                bytes
            }
            (None, None) => return Err(fail("it is not in the store".to_owned())),
        };
        thaw_accelerate::read_table(&bytes, &self.blob, &self.table)
            .map(Arc::new)
            .map_err(fail)
    }
}

pub(crate) fn unusable(image: &Image, what: String, reason: String) -> NodeError {
    NodeError::Unusable {
        image: image.reference.to_string(),
        what,
        reason,
    }
}
