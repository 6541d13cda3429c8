//! An image's root filesystem alone, mounted read-only: its layout, or the directories of its layers.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use thaw_cache::{Attachment, LayerTar, Tree};
use thaw_image::DiffId;
use thaw_mount::{LayoutMount, MountError, Overlay, OverlayMount, Unmount};

use crate::records::ArtifactRecord;
use crate::source::chain;
use crate::words::Names;

/// What a mount is made of; it can be mounted again.
#[derive(Debug)]
pub(crate) enum Body {
    /// A layout over layer tars.
    Layout(Parts),
    /// Directories of layers.
    Directories(Directories),
}

/// What a layout is mounted with.
#[derive(Debug)]
pub(crate) struct Parts {
    pub(crate) layout: PathBuf,
    pub(crate) generated: Option<PathBuf>,
    pub(crate) layers: Vec<Arc<LayerTar>>,
    /// The acceleration that decides how it looks.
    pub(crate) by: ArtifactRecord,
    /// The names that its image was started by.
    pub(crate) names: Arc<Names>,
    /// Where the layers' bytes come from, as long as this lives.
    pub(crate) _origins: Vec<Attachment>,
}

/// Directories that overlayfs puts one over the other. They stay as long as this lives.
#[derive(Debug)]
pub(crate) struct Directories {
    /// The uppermost first: what the layers lack, then those.
    pub(crate) trees: Vec<Arc<Tree>>,
}

impl Body {
    /// The layer tars that are read.
    pub(crate) fn layers(&self) -> &[Arc<LayerTar>] {
        match self {
            Self::Layout(parts) => &parts.layers,
            Self::Directories(_) => &[],
        }
    }

    /// The layers, each once.
    pub(crate) fn diff_ids(&self) -> Vec<DiffId> {
        let mut ids: Vec<DiffId> = self.layers().iter().map(|layer| layer.diff_id()).collect();
        ids.sort_unstable();
        ids.dedup();
        ids
    }

    /// The directories, where that is what it is made of.
    pub(crate) const fn directories(&self) -> Option<&Directories> {
        match self {
            Self::Layout(_) => None,
            Self::Directories(directories) => Some(directories),
        }
    }
}

impl Directories {
    /// The lower directories of an overlay, the uppermost first.
    pub(crate) fn lower(&self) -> Vec<PathBuf> {
        let trees = self.trees.iter();
        trees
            .map(|tree| tree.dir().join(thaw_accelerate::FILES))
            .collect()
    }

    /// Mounts them at `target`. `image`: what the mount table shows, so that the next node knows whose
    /// they are.
    pub(crate) fn mount(&self, image: &Path, target: &Path) -> Result<Root, MountError> {
        let overlay = Overlay {
            source: image.to_owned(),
            lower: self.lower(),
            ..Overlay::default()
        };
        OverlayMount::new(&overlay, target).map(Root::Directories)
    }
}

/// The mount itself. Dropped, it is unmounted lazily.
#[derive(Debug)]
pub(crate) enum Root {
    /// EROFS.
    Layout(LayoutMount),
    /// A read-only overlay.
    Directories(OverlayMount),
}

impl Root {
    /// Takes over what another process left mounted at `target`.
    pub(crate) fn adopt(target: &Path) -> Result<Option<Self>, MountError> {
        if let Some(layout) = LayoutMount::adopt(target)? {
            return Ok(Some(Self::Layout(layout)));
        }
        Ok(OverlayMount::adopt(target)?.map(Self::Directories))
    }

    /// Has a layout's mount read its devices directly, or through their page cache.
    pub(crate) fn read_directly(&mut self, directly: bool) {
        if let Self::Layout(layout) = self
            && let Err(error) = layout.read_directly(directly)
        {
            let target = layout.target().display();
            tracing::debug!(%target, directly, error = chain(&error), "reads as before");
        }
    }

    /// Unmounts it.
    pub(crate) fn unmount(self, when: Unmount) -> Result<(), MountError> {
        match self {
            Self::Layout(layout) => layout.unmount(when),
            Self::Directories(overlay) => overlay.unmount(when),
        }
    }

    /// Leaves it mounted when this process ends.
    pub(crate) fn detach(self) {
        let _left = match self {
            Self::Layout(layout) => layout.detach(),
            Self::Directories(overlay) => overlay.detach(),
        };
    }
}
