//! Taking over from a node before this one: what is mounted is in the mount table, what it was
//! made from is in the records, and the keeper has the descriptors.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use thaw_cache::LayerTar;
use thaw_image::Digest;
use thaw_mount::{Inherited, LayoutMount, MountError, OverlayMount, TmpfsMount, mount_table};

use crate::Node;
use crate::containers::Held;
use crate::error::NodeError;
use crate::node::lock;
use crate::open::ImageMount;
use crate::reports::{How, Way};
use crate::resolve::Resolved;
use crate::source::chain;

impl Node {
    /// Opens the layers that a keeper still serves with the descriptors that it kept, which raise
    /// no events.
    pub(crate) fn adopt_layers(&self, inherited: Vec<Inherited>) -> Result<(), NodeError> {
        let mut open = lock(&self.inherited);
        for Inherited { spec, tar } in inherited {
            open.push(
                self.store
                    .layers()
                    .adopt(&spec.diff_id, spec.size, tar.into())?,
            );
        }
        Ok(())
    }

    /// Finds images and root filesystems that are still mounted. What cannot be taken over is
    /// reported and left as it is.
    pub(crate) fn adopt_mounts(&self) -> Result<(), NodeError> {
        let mounts = self.settings.root.join("mounts");
        let table = mount_table().map_err(MountError::from)?;
        let targets: Vec<PathBuf> = table.iter().map(|entry| entry.target.clone()).collect();
        for dir in targets
            .iter()
            .filter(|dir| dir.parent() == Some(mounts.as_path()))
        {
            if let Err(error) = self.adopt_image(dir.clone()) {
                tracing::warn!(dir = %dir.display(), error = chain(&error), "not taken over");
            }
        }
        let blobs = self.settings.root.join("blobs");
        for entry in &table {
            let layout = Path::new(&entry.source);
            let ours = entry.kind == "erofs" && layout.parent() == Some(blobs.as_path());
            if ours && entry.target.parent() != Some(mounts.as_path()) {
                self.adopt_mount(&entry.target, layout)?;
            }
        }
        for state in self.containers.list()? {
            let Some(rootfs) = &state.rootfs else {
                continue;
            };
            if !targets.contains(rootfs) {
                continue;
            }
            let Some(image) = self.image_of(&state.image) else {
                continue;
            };
            let writable = rootfs.with_file_name("writable");
            let has_tmpfs = targets.contains(&writable);
            if let Some(overlay) = OverlayMount::adopt(rootfs)? {
                let tmpfs = match has_tmpfs {
                    true => TmpfsMount::adopt(&writable)?,
                    false => None,
                };
                let held = Held::of_container(image, overlay, tmpfs, self.spent());
                lock(&self.held).insert(state.id.to_string(), held);
            }
        }
        Ok(())
    }

    fn adopt_image(&self, dir: PathBuf) -> Result<(), NodeError> {
        let name = dir
            .file_name()
            .and_then(|name| name.to_str())
            .unwrap_or_default();
        let Ok(digest) = Digest::from_hex(name) else {
            // A recording that was cut off: dropped, it is unmounted.
            drop(LayoutMount::adopt(&dir)?);
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
            image: Arc::new(image),
        };
        let found = self
            .local(&resolved.image)?
            .ok_or(NodeError::Unknown(digest))?;
        let parts = self.parts(&resolved, &found)?;
        let Some(mount) = LayoutMount::adopt(&dir)? else {
            return Ok(());
        };
        let served: Vec<_> = lock(&self.inherited)
            .iter()
            .map(|layer| layer.diff_id())
            .collect();
        let safe = |layer: &Arc<LayerTar>| layer.is_whole() || served.contains(&layer.diff_id());
        if !parts.layers.iter().all(safe) {
            // Nobody holds its events: holes would be read as zeros. Dropped, it is unmounted.
            tracing::error!(dir = %dir.display(), "its keeper is gone: unmounted");
            return Ok(());
        }
        let way = Way {
            how: How::Lazy,
            why: format!("acceleration from {}", found.from),
        };
        let mount = ImageMount::new(&resolved, None, way, parts, mount, dir);
        lock(&self.images).insert(
            digest,
            Arc::new(std::sync::Mutex::new(Some(Arc::new(mount)))),
        );
        Ok(())
    }

    /// Takes over what `mount` mounted at a directory; unmounts it where its image was not taken
    /// over, for then nobody serves it.
    fn adopt_mount(&self, dir: &Path, layout: &Path) -> Result<(), NodeError> {
        let Some(mount) = LayoutMount::adopt(dir)? else {
            return Ok(());
        };
        let slots: Vec<_> = lock(&self.images).values().cloned().collect();
        let image = slots.into_iter().find_map(|slot| {
            let image = lock(&slot).clone()?;
            (image.parts.layout == layout).then_some(image)
        });
        if let Some(image) = image {
            let held = Held::of_mount(image, mount, self.spent());
            lock(&self.mounts).insert(dir.to_owned(), held);
        }
        Ok(())
    }

    /// The mounted image that a container was made from.
    fn image_of(&self, reference: &str) -> Option<Arc<ImageMount>> {
        let slots: Vec<_> = lock(&self.images).values().cloned().collect();
        slots.into_iter().find_map(|slot| {
            let mount = lock(&slot).clone()?;
            (mount.image.reference.to_string() == reference).then_some(mount)
        })
    }
}
