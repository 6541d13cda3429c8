//! Taking over from a node before this one: what is mounted is in the mount table, what it was
//! made from is in the records, and the keeper has the descriptors.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use thaw_cache::LayerTar;
use thaw_image::{DiffId, Digest};
use thaw_mount::{
    BindMount, Inherited, MountEntry, MountError, OverlayMount, WritableMount, mount_table,
};

use crate::Node;
use crate::container::{Phase, Signal, State};
use crate::containers::{Held, WRITABLE};
use crate::error::NodeError;
use crate::memo::{self, Memo};
use crate::node::lock;
use crate::open::ImageMount;
use crate::reports::{How, Way};
use crate::resolve::Resolved;
use crate::root::{Body, Root};
use crate::source::chain;
use crate::words::{Names, unknown};

/// What was found of those who served the mounts that are there.
#[derive(Clone, Copy, Default, Debug)]
pub(crate) struct Found {
    /// A FUSE connection has died with all its holders, and any mount may read its files: an image whose
    /// layers are all whole may need somebody.
    pub(crate) over_a_dead_fuse: bool,
    /// Files are served still, whether or not their layers were inherited.
    pub(crate) serves_files: bool,
}

impl Node {
    /// Opens the layers that a keeper still serves with the descriptors that it kept, which raise
    /// no events. Reads of one that cannot be opened fail.
    pub(crate) fn adopt_layers(&self, inherited: Vec<Inherited>) {
        let mut marks = self.marks.write();
        for Inherited { spec, tar } in inherited {
            let layers = self.store.layers();
            match layers.adopt(&spec.diff_id, spec.size, tar.into()) {
                Ok(layer) => marks.add(&layer),
                Err(error) => {
                    tracing::error!(layer = %spec.diff_id, error = chain(&error), "not taken over");
                }
            }
        }
    }

    /// Finds images and root filesystems that are still mounted. What cannot be taken over is
    /// reported and left as it is, unless nobody serves it: its holes would be read.
    pub(crate) fn adopt_mounts(&self, found: Found) -> Result<(), NodeError> {
        let table = mount_table().map_err(MountError::from)?;
        let mounts = self.settings.root.join("mounts");
        let is_image = |entry: &&MountEntry| entry.target.parent() == Some(mounts.as_path());
        let mut lost = Vec::new();
        for entry in table.iter().filter(is_image) {
            match self.adopt_image(&entry.target, &entry.kind, found) {
                Ok(()) => {}
                Err(NodeError::Lost(dir)) => lost.push(dir),
                Err(error) => {
                    let dir = entry.target.display();
                    tracing::warn!(%dir, error = chain(&error), "not taken over");
                    let is_served = found.serves_files && !found.over_a_dead_fuse;
                    // An overlay has no holes.
                    if !is_served && entry.kind != "overlay" {
                        // Neither has what is whole: who has it open may go on.
                        if !self.is_whole_at(&entry.target) {
                            lost.push(entry.target.clone());
                        }
                        drop(Root::adopt(&entry.target).ok());
                    }
                }
            }
        }
        let taken: Vec<String> = lock(&self.images).keys().map(Digest::hex).collect();
        if !taken.is_empty() {
            // The node before this one may have ended before it did so.
            let layers = self.open_layers();
            self.settle_soon(layers.iter().map(|layer| layer.diff_id()).collect());
        }
        memo::sweep(&mounts, |name| taken.iter().any(|it| it == name))
            .map_err(NodeError::dir("list", &mounts))?;
        let blobs = self.settings.root.join("blobs");
        let is_layout = |entry: &MountEntry| {
            entry.kind == "erofs" && entry.file().parent() == Some(blobs.as_path())
        };
        for entry in table.iter().filter(|entry| !is_image(entry)) {
            let mut images = table.iter().filter(is_image);
            let image = images.find(|image| image.device == entry.device);
            if image.is_some() || is_layout(entry) {
                self.adopt_mount(entry, image.map(|image| image.target.as_path()))?;
            }
        }
        for state in self.containers.list()? {
            let at = |entry: &&MountEntry| Some(&entry.target) == state.rootfs.as_ref();
            if let Some(entry) = table.iter().rev().find(at) {
                self.adopt_container(&state, entry, &table, &lost)?;
            }
        }
        Ok(())
    }

    /// Takes over the root filesystem of a container. One whose image has lost its keeper is killed:
    /// whatever it reads may be zeros.
    fn adopt_container(
        &self,
        state: &State,
        rootfs: &MountEntry,
        table: &[MountEntry],
        lost: &[PathBuf],
    ) -> Result<(), NodeError> {
        let writable = rootfs.target.with_file_name(WRITABLE);
        let Some(overlay) = OverlayMount::adopt(&rootfs.target)? else {
            return Ok(());
        };
        let bounded = match table.iter().any(|entry| entry.target == writable) {
            true => WritableMount::adopt(&writable)?,
            false => None,
        };
        if lost.iter().any(|image| lies_over(rootfs, image)) {
            tracing::error!(container = %state.id.short(), "its image has lost its keeper: killed");
            if let Err(error) = self.containers.get(state.id.clone()).kill(Signal::KILL) {
                tracing::warn!(container = %state.id.short(), %error, "not killed");
            }
            return Ok(());
        }
        let slots: Vec<_> = lock(&self.images).values().cloned().collect();
        let mut images = slots.into_iter().filter_map(|slot| lock(&slot).clone());
        if let Some(image) = images.find(|image| lies_over(rootfs, image.dir())) {
            let life = self.lives.begin(state.id.as_str(), image.diff_ids());
            let held = Held::of_container(image, overlay, bounded, self.spent(), life);
            lock(&self.held).insert(state.id.to_string(), held);
            if matches!(state.phase, Phase::Created { .. }) {
                self.expect_to_begin(state.id.as_str());
            }
        } else {
            tracing::warn!(container = %state.id.short(), "its root filesystem is not taken over");
            let _left = (overlay.detach(), bounded.map(WritableMount::detach));
        }
        Ok(())
    }

    fn adopt_image(&self, dir: &Path, kind: &str, served: Found) -> Result<(), NodeError> {
        let name = dir
            .file_name()
            .and_then(|name| name.to_str())
            .unwrap_or_default();
        let Ok(digest) = Digest::from_hex(name) else {
            // A recording that was cut off: dropped, it is unmounted.
            drop(Root::adopt(dir)?);
            return Ok(());
        };
        let record = self
            .records
            .image(&digest)
            .ok_or(NodeError::Unknown(digest))?;
        let image = self
            .recorded_image(&record)?
            .ok_or(NodeError::Unknown(digest))?;
        let reference = image.reference.clone();
        let resolved = Resolved {
            subject: crate::resolve::subject_of(&image),
            repository: self.repository(&reference)?,
            platform: thaw_registry::Platform::host(),
            config: record.config,
            fresh: Vec::new(),
            work: Arc::new(self.works.begin().on(&image)),
            image: Arc::new(image),
        };
        if kind == "overlay" {
            let directories = self.unpacked_image(&resolved.image);
            let directories = directories.ok_or(NodeError::Unknown(digest))?;
            return self.adopt_as(
                &resolved,
                Body::Directories(directories),
                dir,
                String::new(),
            );
        }
        let memo = Memo::of(dir);
        let left = memo.iter().flat_map(|memo| &memo.names);
        let mut names: Vec<_> = left.filter_map(|name| name.parse().ok()).collect();
        if names.is_empty() {
            names.push(reference);
        }
        let names = Names::of(names);
        let known = match memo.and_then(|memo| Some((memo.by?, memo.heard))) {
            Some((by, heard)) => {
                names.hear(&heard);
                self.known_as(&resolved.image, by)?
            }
            // What is remembered of the image may be younger than its mount.
            None => {
                names.hear(&[unknown(digest)]);
                self.known(&resolved.image)?
            }
        };
        let found = known.ok_or(NodeError::Unknown(digest))?;
        let parts = self.parts(&resolved, &found, Arc::clone(&names))?;
        if !found.has_sizes_of(&resolved.image, &parts.layers) {
            // What it reads has made way for the layer, which is whole, and nobody serves it.
            drop(Root::adopt(dir)?);
            return Err(NodeError::Lost(dir.to_owned()));
        }
        self.goes_on(&names, &parts.layers);
        let safe = |layer: &Arc<LayerTar>| {
            let alone = layer.is_whole() && !served.over_a_dead_fuse;
            alone || self.marks.contain(&layer.diff_id())
        };
        if !parts.layers.iter().all(safe) {
            // Nobody serves it: reads fail, or holes are read as zeros. Dropped, it is unmounted.
            drop(Root::adopt(dir)?);
            let lost = parts.layers.iter().filter(|layer| !safe(layer));
            let lost: Vec<DiffId> = lost.map(|layer| layer.diff_id()).collect();
            drop(parts);
            if served.serves_files {
                self.make_anew(&lost);
            }
            return Err(NodeError::Lost(dir.to_owned()));
        }
        let why = self.served(format!("acceleration from {}", found.from));
        self.adopt_as(&resolved, Body::Layout(parts), dir, why)
    }

    /// Whether no layer of the image mounted at `dir` has holes, whatever else is not known of it.
    fn is_whole_at(&self, dir: &Path) -> bool {
        let digest = dir.file_name().and_then(|name| name.to_str());
        let digest = digest.and_then(|name| Digest::from_hex(name).ok());
        let record = digest.and_then(|digest| self.records.image(&digest));
        let image = record.and_then(|record| self.recorded_image(&record).ok().flatten());
        image.is_some_and(|image| {
            let mut layers = image.layers.iter().map(|layer| &layer.diff_id);
            layers.all(|layer| self.store.layers().has_no_holes(layer))
        })
    }

    /// Takes away layers that are watched still, and of which nobody has a descriptor from before: their
    /// files cannot be written any more. Whoever has one open gets errors.
    fn make_anew(&self, layers: &[DiffId]) {
        for layer in layers {
            if let Err(error) = self.store.layers().remove(layer) {
                tracing::warn!(%layer, error = chain(&error), "not made anew");
            }
        }
    }

    /// Takes over an image that is mounted at `dir`. `why`: why it is lazy, where nobody has left a memo.
    fn adopt_as(
        &self,
        resolved: &Resolved,
        body: Body,
        dir: &Path,
        why: String,
    ) -> Result<(), NodeError> {
        let Some(mount) = Root::adopt(dir)? else {
            return Ok(());
        };
        let how = match &body {
            Body::Layout(_) => How::Lazy,
            Body::Directories(_) => How::Full,
        };
        let memo = Memo::of(dir).unwrap_or(Memo {
            way: Way { how, why },
            profile: None,
            names: Vec::new(),
            by: None,
            heard: Vec::new(),
            fill: false,
        });
        let (profile, way) = (memo.profile, memo.way);
        let mount = ImageMount::new(resolved, profile, way, body, mount, dir.to_owned());
        if memo.fill {
            self.fill(&mount);
        }
        lock(&self.images).insert(
            resolved.image.digest,
            Arc::new(std::sync::Mutex::new(Some(Arc::new(mount)))),
        );
        Ok(())
    }

    /// Takes over what `mount` mounted at a directory; unmounts it where its image, mounted at `image`, was
    /// not taken over, for then nobody serves it.
    fn adopt_mount(&self, entry: &MountEntry, image: Option<&Path>) -> Result<(), NodeError> {
        let Some(mount) = BindMount::adopt(&entry.target, entry.device)? else {
            return Ok(());
        };
        let slots: Vec<_> = lock(&self.images).values().cloned().collect();
        let mut images = slots.into_iter().filter_map(|slot| lock(&slot).clone());
        if let Some(image) = images.find(|it| Some(it.dir()) == image) {
            let life = self.life_at(&entry.target, &image);
            let held = Held::of_mount(image, mount, self.spent(), life);
            lock(&self.mounts).insert(entry.target.clone(), held);
        }
        Ok(())
    }
}

/// Whether an overlay has the image mounted at `dir` below it.
fn lies_over(overlay: &MountEntry, dir: &Path) -> bool {
    if Path::new(&overlay.source) == dir {
        return true;
    }
    // Its source was not told, or is too long. How the kernel writes the option depends on its version;
    // the name, a digest, is only there.
    let options = overlay.options.to_string_lossy();
    dir.file_name()
        .and_then(|name| name.to_str())
        .is_some_and(|name| options.contains(&format!("/mounts/{name}")))
}
