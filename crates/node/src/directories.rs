//! The third way of starting, for kernels that mount no layout: layers unpacked into directories by
//! a full pull, and put one over the other by overlayfs.
//!
//! Chosen where EROFS can be mounted neither from files nor from loop devices, or asked for. Layers
//! have their directories by diffID, so images share them; what an image's layers lack to be the image
//! (see [`thaw_accelerate::Correction`]) is a directory of the image. Nothing is served and nothing is
//! indexed: a layer tar that is here is unpacked, and none is kept.

use std::io::{self, Write};
use std::path::PathBuf;
use std::sync::Arc;

use thaw_accelerate::{
    Budget, FILES, HEADERS, Headers, IndexOptions, Known, LayerRef, LocalTar, Place, TarProof,
    TarSink, Unpacker,
};
use thaw_cache::{IncomingTree, Tree};
use thaw_image::{DiffId, Extent, Progress};
use thaw_mount::MAX_LOWER;

use crate::Node;
use crate::error::NodeError;
use crate::image::Image;
use crate::open::ImageMount;
use crate::pull::Tar;
use crate::reports::{How, Way};
use crate::resolve::Resolved;
use crate::root::{Body, Directories};
use crate::settings::{ImageWish, Pull, Transport};
use crate::source::layer_refs;
use crate::timing::Timing;

impl Node {
    /// Why images start from directories; `None` where they start from layouts.
    pub(crate) fn directories(&self, wanted: Transport) -> Option<String> {
        let why = match wanted {
            Transport::Directories => "asked for by --transport directories".to_owned(),
            _ => {
                let capabilities = self.capabilities();
                let layouts = capabilities.layouts();
                if layouts.available {
                    return None;
                }
                format!("this kernel cannot mount EROFS: {}", layouts.evidence)
            }
        };
        Some(format!("unpacked into directories: {why}"))
    }

    /// Mounts an image from directories; they are made where they are not there.
    pub(crate) fn open_directories(
        &self,
        resolved: &Resolved,
        wish: &ImageWish,
        why: String,
        progress: &dyn Progress,
        timing: &Timing,
    ) -> Result<ImageMount, NodeError> {
        let image = &resolved.image;
        if wish.pull == Pull::Lazy {
            return Err(not_lazy(&image.reference.to_string(), why));
        }
        let directories = match self.unpacked_image(image) {
            Some(directories) => directories,
            None => timing.span("full pull", || self.unpack_image(resolved, progress))?,
        };
        let stats = resolved.repository.stats();
        timing.set_round_trips(stats.round_trips);
        let dir = self.settings.root.join("mounts").join(image.digest.hex());
        std::fs::create_dir_all(&dir).map_err(NodeError::dir("make", &dir))?;
        let root = timing.span("mount", || directories.mount(&dir, &dir))?;
        self.remember(resolved)?;
        self.settle_soon(Vec::new());
        let way = Way {
            how: How::Full,
            why,
        };
        let body = Body::Directories(directories);
        let mount = ImageMount::new(resolved, None, way, body, root, dir);
        mount.memo().leave(mount.dir());
        Ok(mount)
    }

    /// The directories of an image, if they are all here.
    pub(crate) fn unpacked_image(&self, image: &Image) -> Option<Directories> {
        let correction = self.store.corrections().get(&image.digest)?;
        let layers = stacked(image);
        let trees = layers
            .iter()
            .map(|layer| self.store.trees().get(&layer.0))
            .collect::<Option<Vec<_>>>()?;
        let trees = std::iter::once(correction).chain(trees).collect();
        Some(Directories { trees })
    }

    /// Unpacks what is not here, and finds out what the layers lack.
    pub(crate) fn unpack_image(
        &self,
        resolved: &Resolved,
        progress: &dyn Progress,
    ) -> Result<Directories, NodeError> {
        let image = &resolved.image;
        let name = || image.reference.to_string();
        let layers = stacked(image);
        if layers.len() >= MAX_LOWER {
            return Err(NodeError::Layers {
                image: name(),
                layers: layers.len(),
                limit: MAX_LOWER,
            });
        }
        let options = IndexOptions::default();
        // What is here already stays while the rest comes.
        let trees = self.store.trees();
        let _here: Vec<Arc<Tree>> = layers.iter().filter_map(|it| trees.get(&it.0)).collect();
        let place = TreePlace {
            node: self,
            progress,
            budget: Budget::new(options.max_memory),
            made: std::sync::Mutex::default(),
        };
        let source = resolved.repository.as_ref();
        let refs = layer_refs(image);
        let correction = thaw_accelerate::unpack(&refs, source, &place, &options, progress)
            .map_err(|source| NodeError::Prepare {
                image: name(),
                source,
            })?;
        let incoming = self.store.corrections().incoming(&image.digest)?;
        let files = |layer: &DiffId| {
            let tree = trees.get(&layer.0);
            tree.map_or_else(PathBuf::new, |tree| tree.dir().join(FILES))
        };
        let bytes =
            correction
                .write(incoming.dir(), &files)
                .map_err(|source| NodeError::Correct {
                    image: name(),
                    source,
                })?;
        let _correction = incoming.commit(bytes)?;
        self.unpacked_image(image)
            .ok_or(NodeError::Unknown(image.digest))
    }

    /// Whether the layers of an image are here, as tars or as directories.
    pub(crate) fn is_here(&self, image: &Image) -> Result<bool, NodeError> {
        let whole = self.whole_layers(image)?;
        let trees = self.store.trees();
        let mut layers = image.layers.iter().map(|layer| &layer.diff_id);
        Ok(layers.all(|layer| whole.contains_key(layer) || trees.get(&layer.0).is_some()))
    }
}

/// Why a start from directories is none that is lazy.
pub(crate) fn not_lazy(image: &str, why: String) -> NodeError {
    NodeError::NotLazy {
        image: image.to_owned(),
        reason: format!("{why}; that takes all of it: leave out --pull lazy"),
    }
}

/// The layers of an image, the uppermost first; of one that comes several times that one alone,
/// for overlayfs takes no directory twice.
fn stacked(image: &Image) -> Vec<DiffId> {
    let mut stack = Vec::new();
    for layer in image.layers.iter().rev() {
        if !stack.contains(&layer.diff_id) {
            stack.push(layer.diff_id);
        }
    }
    stack
}

/// The store as the place where layers become directories.
struct TreePlace<'a> {
    node: &'a Node,
    progress: &'a dyn Progress,
    /// For what the layers make alone.
    budget: Budget,
    /// What was made stays until it is mounted.
    made: std::sync::Mutex<Vec<Arc<Tree>>>,
}

impl Place for TreePlace<'_> {
    fn tar(&self, layer: &LayerRef) -> io::Result<Box<dyn TarSink + '_>> {
        let trees = self.node.store.trees();
        let incoming = trees.incoming(&layer.diff_id.0).map_err(io::Error::other)?;
        let unpacker = Unpacker::new(incoming.dir(), &self.budget)?;
        Ok(Box::new(Unpacking {
            place: self,
            unpacker,
            incoming,
        }))
    }

    fn local(&self, layer: &LayerRef) -> Option<LocalTar> {
        let tar = self.node.whole(&layer.diff_id).ok()??;
        let size = tar.tar_size();
        let tar = Box::new(Tar::new(tar));
        Some(LocalTar { tar, size })
    }

    fn known(&self, layer: &LayerRef) -> Option<Known> {
        let tree = self.node.store.trees().get(&layer.diff_id.0)?;
        let headers = Headers::open(&tree.dir().join(HEADERS)).ok()?;
        crate::node::lock(&self.made).push(tree);
        Some(Known {
            tar_size: headers.tar_size(),
            tar: Box::new(headers),
            index: Err("it is a directory".to_owned()),
        })
    }

    fn read(&self, _diff_id: &DiffId, _extent: Extent) -> Option<io::Result<Vec<u8>>> {
        None
    }

    fn scratch(&self) -> PathBuf {
        self.node.settings.root.join("tmp")
    }

    fn cancelled(&self) -> bool {
        !self.progress.is_wanted()
    }
}

/// A layer on its way.
struct Unpacking<'a> {
    place: &'a TreePlace<'a>,
    unpacker: Unpacker<'a>,
    incoming: IncomingTree,
}

impl Write for Unpacking<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.unpacker.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.unpacker.flush()
    }
}

impl TarSink for Unpacking<'_> {
    fn commit(self: Box<Self>, proof: &TarProof) -> io::Result<()> {
        let bytes = self.unpacker.finish()?;
        let tree = self.incoming.commit_layer(proof, bytes);
        let tree = tree.map_err(io::Error::other)?;
        crate::node::lock(&self.place.made).push(tree);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settings::Settings;

    /// As on a kernel before EROFS could be mounted from files, without loop devices.
    #[test]
    fn where_no_layout_can_be_mounted_directories_are_chosen() {
        let dir = tempfile::tempdir_in(env!("CARGO_MANIFEST_DIR")).unwrap();
        let node = Node::open(Settings::of(dir.path())).unwrap();
        let mut can = node.capabilities().as_ref().clone();
        assert!(can.layouts().available, "{can:?}");
        assert_eq!(node.directories(Transport::Auto), None);
        can.file_backed_erofs.available = false;
        can.loop_devices.available = false;
        can.loop_devices.evidence = "no loop devices".to_owned();
        node.suppose(can);
        let why = node.directories(Transport::Auto).unwrap();
        assert!(
            why.ends_with("cannot mount EROFS: no loop devices"),
            "{why}"
        );
        let asked = node.directories(Transport::Directories).unwrap();
        assert!(asked.contains("asked for"), "{asked}");
        node.close();
    }
}
