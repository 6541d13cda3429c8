//! What a node counts, for whoever watches machines: read without waiting for any start.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, TryLockError};

use thaw_cache::{LayerTar, Moved};
use thaw_image::DiffId;

use crate::Node;
use crate::container::Status;
use crate::error::NodeError;
use crate::image::Image;
use crate::node::{Slot, lock};
use crate::open::ImageMount;
use crate::reports::{Causes, ContainerCounts, ImageLoad, Measures, Moves, Reads};
use crate::source::chain;

/// Compressed bytes of layers that were not whole here when an image of theirs was mounted lazily. A
/// layer counts once.
#[derive(Debug, Default)]
pub(crate) struct LazyLayers {
    seen: BTreeSet<DiffId>,
    bytes: u64,
}

impl LazyLayers {
    fn add(&mut self, layer: DiffId, size: u64) {
        if self.seen.insert(layer) {
            self.bytes = self.bytes.saturating_add(size);
        }
    }
}

impl Node {
    /// What was counted since this node was opened (of reads: since the fault transport was
    /// started), and what is here now.
    ///
    /// # Errors
    /// [`NodeError::Container`] when the containers cannot be read.
    pub fn measures(&self) -> Result<Measures, NodeError> {
        let stats = self.fetcher.stats();
        // Not for longer: an image that somebody has is not unmounted.
        let (mut images, saved) = {
            let mounts = self.opened();
            (loads(&mounts), saved(&mounts))
        };
        self.add_reads(&mut images);
        Ok(Measures {
            transport: self
                .running_transport()
                .map(|running| running.kind().name().to_owned()),
            reads: self.reads(),
            moved: Causes {
                demand: stats.demand.into(),
                ahead: stats.ahead.into(),
                working_set: stats.working_set.into(),
                fill: stats.fill.into(),
            },
            requests: stats.requests,
            mismatches: stats.mismatches,
            received: self.received(),
            started: lock(&self.lazy_layers).bytes,
            saved,
            images,
            containers: self.container_counts()?,
            mounts: lock(&self.mounts).len() as u64,
        })
    }

    /// An image is about to start lazily from `layers`, which are those of its manifest, in order.
    pub(crate) fn starts_lazily(&self, image: &Image, layers: &[Arc<LayerTar>]) {
        let mut lazy_layers = lock(&self.lazy_layers);
        for (layer, tar) in image.layers.iter().zip(layers) {
            if !tar.is_whole() {
                lazy_layers.add(layer.diff_id, layer.size);
            }
        }
    }

    /// Reads of layer tars; `None` where nobody counts them.
    fn reads(&self) -> Option<Reads> {
        let counted = self.running_transport()?.counters();
        let counters = counted
            .inspect_err(|error| tracing::warn!(error = chain(error), "no counts of reads"))
            .ok()?;
        Some(Reads {
            hits: counters.hits,
            faults: counters.misses,
            failed: counters.failed,
            expired: counters.expired,
            unknown: counters.unknown,
            waiting: counters.waiting,
            waited: counters.waited,
            waits: counters.waits.to_vec(),
        })
    }

    /// The mounted images. One that is being opened is left out: whoever opens it may take as long as
    /// a full pull does.
    fn opened(&self) -> Vec<Arc<ImageMount>> {
        let slots: Vec<Slot> = lock(&self.images).values().cloned().collect();
        let opened = slots.iter().filter_map(|slot| match slot.try_lock() {
            Ok(slot) => slot.clone(),
            Err(TryLockError::Poisoned(slot)) => slot.into_inner().clone(),
            Err(TryLockError::WouldBlock) => None,
        });
        opened.collect()
    }

    /// Adds what starts have read of them, by any profile: which those were, a node before this one knew.
    fn add_reads(&self, images: &mut [ImageLoad]) {
        let traces = self.traces();
        let traces = traces
            .inspect_err(|error| {
                tracing::warn!(error = chain(error), "no counts of what starts read")
            })
            .unwrap_or_default();
        for trace in traces {
            let of =
                |it: &&mut ImageLoad| trace.of.as_ref().is_some_and(|(of, _)| *of == it.manifest);
            let counted = images
                .iter_mut()
                .find(of)
                .and_then(|image| image.read.as_mut());
            if let Some(read) = counted {
                *read = trace.read.max(*read);
            }
        }
    }

    fn container_counts(&self) -> Result<ContainerCounts, NodeError> {
        let mut counts = ContainerCounts::default();
        for state in self.containers.list()? {
            match state.status() {
                Status::Running | Status::Created => counts.running += 1,
                _ => counts.ended += 1,
            }
        }
        Ok(counts)
    }
}

/// How much of each is here, by reference; of what was read, whether it is counted.
fn loads(mounts: &[Arc<ImageMount>]) -> Vec<ImageLoad> {
    let load = |mount: &Arc<ImageMount>| {
        let (present, size) = mount.present_of_size();
        ImageLoad {
            reference: mount.image.reference.to_string(),
            manifest: mount.image.digest,
            how: mount.way.how,
            present,
            read: mount.is_traced().then_some(0),
            size,
        }
    };
    let mut loads: Vec<ImageLoad> = mounts.iter().map(load).collect();
    loads.sort_by(|a, b| (&a.reference, a.manifest).cmp(&(&b.reference, b.manifest)));
    loads
}

/// Compressed bytes of their layers that are not here. It is a state and no sum of what has happened:
/// it is right after a restart, and when the cache has given bytes back.
fn saved(mounts: &[Arc<ImageMount>]) -> u64 {
    let layers = mounts.iter().flat_map(|mount| {
        let tars = mount.body.layers().iter();
        mount.image.layers.iter().zip(tars)
    });
    // A layer may be in several images.
    let layers: BTreeMap<DiffId, _> = layers
        .map(|(layer, tar)| (layer.diff_id, (layer.size, tar)))
        .collect();
    let missing = layers
        .values()
        .map(|(size, tar)| missing(*size, tar.present_bytes(), tar.tar_size()));
    missing.sum()
}

/// Of a blob's `compressed` bytes those that are not here, by what is of its tar.
fn missing(compressed: u64, present: u64, tar: u64) -> u64 {
    let absent = u128::from(tar.saturating_sub(present));
    let share = u128::from(compressed) * absent / u128::from(tar.max(1));
    u64::try_from(share).unwrap_or(u64::MAX)
}

impl ImageMount {
    /// Bytes of its tars that are here, and bytes of its tars; or twice those of its directories.
    pub(crate) fn present_of_size(&self) -> (u64, u64) {
        if let Some(directories) = self.body.directories() {
            let bytes = directories.trees.iter().map(|tree| tree.bytes()).sum();
            return (bytes, bytes);
        }
        // A layer may be in an image twice.
        let layers: BTreeMap<DiffId, &Arc<LayerTar>> = self
            .body
            .layers()
            .iter()
            .map(|layer| (layer.diff_id(), layer))
            .collect();
        let present = layers.values().map(|layer| layer.present_bytes()).sum();
        (present, layers.values().map(|layer| layer.tar_size()).sum())
    }
}

impl From<Moved> for Moves {
    fn from(moved: Moved) -> Self {
        Self {
            fetched: moved.fetched,
            unpacked: moved.unpacked,
            written: moved.written,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs::{self, File};

    use rustix::fs::{CWD, FileType, Mode, mknodat};
    use thaw_image::{Digest, Silent};
    use thaw_testkit::image::{Entry, Layer};

    use super::*;
    use crate::settings::{ImageWish, Settings};
    use crate::timing::Timing;

    /// While they are read: one is a pipe.
    #[test]
    fn who_looks_at_what_starts_have_read_has_no_image() {
        let dir = tempfile::tempdir_in(env!("CARGO_MANIFEST_DIR")).unwrap();
        let node = Node::open(Settings::of(&dir.path().join("store"))).unwrap();
        let layer = Layer::new([Entry::directory("./"), Entry::file("name", "image\n")]);
        let path = dir.path().join("image");
        let image = thaw_testkit::image::Image::new([layer]);
        image.write(&path, "latest").unwrap();
        let mounted = node.mounted(&ImageWish::of(&path), &Silent, &Timing::default());
        drop(mounted.unwrap());
        let traces = node.settings.root.join("traces");
        fs::create_dir_all(&traces).unwrap();
        let trace = traces.join("pipe");
        mknodat(CWD, &trace, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
        std::thread::scope(|scope| {
            let measures = scope.spawn(|| node.measures().unwrap());
            let read = File::options().write(true).open(&trace).unwrap();
            node.unmount_unused();
            assert!(node.opened().is_empty(), "it is in use");
            drop(read);
            let images = measures.join().unwrap().images;
            assert_eq!(images.len(), 1);
            assert_eq!(images[0].read, None, "it was mounted whole");
        });
    }

    #[test]
    fn what_starts_of_whatever_profile_have_read_is_told() {
        let dir = tempfile::tempdir_in(env!("CARGO_MANIFEST_DIR")).unwrap();
        let node = Node::open(Settings::of(dir.path())).unwrap();
        let [counted, whole] = ["counted", "whole"].map(|it| Digest::of(it.as_bytes()));
        let traces = dir.path().join("traces");
        fs::create_dir(&traces).unwrap();
        for (profile, len) in [("default", 512), ("other", 4096), ("none", 0)] {
            for manifest in [counted, whole] {
                let extent = serde_json::json!({ "offset": 1024, "len": len });
                let trace = serde_json::json!({
                    "of": [manifest, profile], "starts": 1, "extents": [[manifest, extent]],
                });
                let path = traces.join(format!("{profile} {}", manifest.hex()));
                fs::write(path, trace.to_string()).unwrap();
            }
        }
        let load = |manifest, read| ImageLoad {
            reference: String::new(),
            manifest,
            how: crate::reports::How::Lazy,
            present: 0,
            read,
            size: 0,
        };
        let mut images = [load(counted, Some(0)), load(whole, None)];
        node.add_reads(&mut images);
        assert_eq!(images.map(|it| it.read), [Some(4096), None]);
    }

    #[test]
    fn what_is_not_here_is_saved() {
        assert_eq!((missing(100, 0, 400), missing(100, 400, 400)), (100, 0));
        assert_eq!((missing(100, 300, 400), missing(100, 399, 400)), (25, 0));
        assert_eq!((missing(100, 500, 400), missing(32, 0, 0)), (0, 0));
        assert_eq!(missing(u64::MAX, 0, u64::MAX), u64::MAX);
    }

    #[test]
    fn a_layer_counts_once() {
        let layer = |name: &str| DiffId(thaw_image::Digest::of(name.as_bytes()));
        let mut lazy_layers = LazyLayers::default();
        for (name, size) in [("a", 10), ("b", 5), ("a", 10)] {
            lazy_layers.add(layer(name), size);
        }
        assert_eq!(lazy_layers.bytes, 15);
    }
}
