//! Layers become one tree.
//!
//! The rules are those of the OCI image specification, "Image Layer Filesystem Changeset". Where it
//! is silent, what containerd and umoci do when they unpack layers one over the other into a
//! directory decides:
//!
//! - A layer's whiteouts act on what lies below it, before its own entries, wherever they stand in
//!   its tar.
//! - An entry replaces what has its path, and all below; only a directory over a directory keeps
//!   what is in it and takes the new attributes. Of two entries for one path the later holds.
//! - A path is followed through symbolic links like a chroot would: never out of the root. The last
//!   component is not followed. Parents that are lacking are made: 0755, root's, of time zero.
//! - An entry below something that is no directory turns that into one if it is a lower layer's
//!   (an overlay would show the same); within one layer it is an error.
//! - A hard link shares the inode of its target, in whichever layer that is. Its header's own
//!   attributes say nothing (tools leave them empty) and are not looked at.
//! - A path begins at the root, with a slash or without. `..` in it is refused: no tool writes it, and
//!   it only serves to surprise. In the target of a symbolic link it is followed, up to the root.
//!
//! File data is not touched: a file is a list of extents of its layer's tar. A sparse file whose
//! extents do not fit that gets parts of it from the *generated device* (see [`Generated`]).
//!
//! Memory is bounded by a [`Budget`] and work by [`MAX_STEPS`], whatever the layers say.

pub(crate) mod convert;
pub(crate) mod cost;
mod error;
pub(crate) mod path;
mod sparse;
#[cfg(test)]
mod tests;
mod walk;
mod warning;

use std::collections::BTreeMap;

use thaw_erofs::{
    Attributes, Content, Device, DeviceNumber, FileData, Inode, InodeId, Tree, TreeError,
};
use thaw_image::{BLOCK, DiffId, Digest, Extent};
use thaw_layer::Budget;
use thaw_layer::tar::{self, EntryKind, SparsePiece};

use convert::Converted;
pub use error::{EntryError, MergeError};
pub use path::PathError;
use path::{Meaning, Place};
pub use sparse::MAX_GENERATED;
use walk::Missing;
pub(crate) use walk::resolve;
pub use warning::{Warning, WarningKind, Warnings};

/// Most layers of an image.
pub const MAX_LAYERS: usize = 1024;
/// Most path components that a merge may look up: what bounds its time.
pub const MAX_STEPS: u64 = 1 << 28;
/// Most symbolic links that one path may lead through, as in Linux.
const MAX_LINKS: usize = 40;
/// Most directories above each other: as many as fit into a path of 4,096 bytes.
const MAX_DEPTH: usize = 2048;

/// The layer that a list of entries is of.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Layer {
    /// Names its tar; the tag of its device slot.
    pub diff_id: DiffId,
    /// Bytes of its tar.
    pub tar_size: u64,
}

/// What the layers are together.
#[derive(Debug)]
pub struct Merged {
    /// The root filesystem.
    pub tree: Tree,
    /// One device for each layer, in order.
    pub devices: Vec<Device>,
    /// What goes onto the device behind those, where its size is not 0.
    pub generated: Generated,
    /// What could not be taken over.
    pub warnings: Warnings,
}

/// Bytes that no layer tar holds aligned to its blocks: parts of sparse files, padded with zeros.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Generated {
    /// Bytes of the device: a multiple of [`BLOCK`].
    pub size: u64,
    /// Where they come from; all else is zero.
    pub copies: Vec<Copy>,
}

/// One range of a layer tar that is copied to the generated device.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Copy {
    /// Number of the layer, 0 for the lowest.
    pub layer: usize,
    /// The bytes of its tar.
    pub tar: Extent,
    /// The first byte on the generated device.
    pub to: u64,
}

/// What made an inode.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub(crate) struct Origin {
    /// Number of the layer, 0 for the lowest.
    pub(crate) layer: u16,
    /// Number of the entry in it, 0 for the first; [`IMPLIED`] for a directory that no entry describes.
    pub(crate) entry: u32,
}

/// No entry.
pub(crate) const IMPLIED: u32 = u32::MAX;

/// What the layers are together, and where each inode comes from. Files have no extents if they are
/// sparse, and devices 0:0 are still there.
#[derive(Debug)]
pub(crate) struct Traced {
    pub(crate) tree: Tree,
    /// By [`InodeId::index`].
    pub(crate) origins: Vec<Origin>,
}

/// Merges layers, lowest first.
#[derive(Debug)]
pub struct Merger<'a> {
    budget: &'a Budget,
    tree: Tree,
    /// By [`InodeId::index`]: what made the inode.
    origins: Vec<Origin>,
    layers: Vec<Layer>,
    /// The entry that is being taken over; [`IMPLIED`] for none.
    number: u32,
    /// Pieces of sparse files. Placed at the end: most often a file in the way of another has
    /// lost its name by then.
    sparse: BTreeMap<InodeId, Vec<SparsePiece>>,
    warnings: Warnings,
    steps: u64,
}

impl<'a> Merger<'a> {
    /// Starts with an empty root directory. The tree takes its memory from `budget`.
    #[must_use]
    pub fn new(budget: &'a Budget) -> Self {
        Self {
            budget,
            tree: Tree::new(implied()),
            origins: vec![Origin {
                layer: 0,
                entry: IMPLIED,
            }],
            layers: Vec::new(),
            number: IMPLIED,
            sparse: BTreeMap::new(),
            warnings: Warnings::default(),
            steps: 0,
        }
    }

    /// What one layer makes alone, whose tar is not known yet. Its whiteouts are passed over.
    pub(crate) fn alone(budget: &'a Budget) -> Self {
        let mut merger = Self::new(budget);
        // Its end is checked by whoever has the tar.
        merger.layers.push(Layer {
            diff_id: DiffId(Digest::of(b"")),
            tar_size: i64::MAX as u64,
        });
        merger
    }

    /// How many layers have been applied.
    #[must_use]
    pub const fn applied(&self) -> usize {
        self.layers.len()
    }

    /// Puts one more layer over those before.
    ///
    /// # Errors
    /// [`MergeError`], naming the layer and the entry. The merge cannot go on then.
    pub fn apply(&mut self, layer: &Layer, entries: &[tar::Entry]) -> Result<(), MergeError> {
        if self.layers.len() == MAX_LAYERS {
            return Err(MergeError::Layers(self.layers.len() + 1));
        }
        let number = self.layers.len() + 1;
        if layer.tar_size.div_ceil(BLOCK) > u64::from(u32::MAX) {
            let (diff_id, size) = (layer.diff_id, layer.tar_size);
            return Err(MergeError::LayerSize {
                number,
                diff_id,
                size,
            });
        }
        self.layers.push(*layer);
        let failed = |entry: &tar::Entry, reason| MergeError::Entry {
            number,
            diff_id: layer.diff_id,
            path: entry.path.clone(),
            reason,
        };
        self.uncover(entries)
            .map_err(|(entry, reason)| failed(entry, reason))?;
        for (number, entry) in (0..).zip(entries) {
            self.take(number, entry)
                .map_err(|reason| failed(entry, reason))?;
        }
        Ok(())
    }

    /// The tree of all layers, and where its inodes come from.
    pub(crate) fn into_traced(self) -> Traced {
        Traced {
            tree: self.tree,
            origins: self.origins,
        }
    }

    /// The tree of all layers, and what it needs.
    ///
    /// # Errors
    /// [`MergeError`] for a sparse file that no layout can hold, and where memory does not suffice.
    pub fn finish(mut self) -> Result<Merged, MergeError> {
        let mut generated = Generated::default();
        let slot = self.slot() + 1;
        // One path is kept, that of the directory at hand, and of those that wait their names: links lead
        // a tar's entries so deep that all their paths together would be some thousand times the tar.
        let (mut path, mut waiting) = (Vec::new(), self.budget.holder());
        let mut directories = vec![(self.tree.root(), 0, Vec::new())];
        while let Some((directory, above, name)) = directories.pop() {
            path.truncate(above);
            path.extend_from_slice(&name);
            for (name, child) in self.unsettled(directory) {
                let name = [b"/", name.as_slice()].concat();
                let here = path.len();
                path.extend_from_slice(&name);
                match &self.tree.get(child).content {
                    Content::Directory(_) => {
                        let taken = waiting.add(cost::name(&name));
                        taken.map_err(|over| self.failed(child, &path, over.into()))?;
                        directories.push((child, here, name));
                    }
                    Content::File(_) => self.place(child, &path, &mut generated, slot)?,
                    _ => {
                        let layer = usize::from(self.origins[child.index()].layer) + 1;
                        self.warnings.add(layer, &path, WarningKind::WhiteoutDevice);
                        self.tree.unlink(directory, &name[1..]);
                    }
                }
                path.truncate(here);
            }
        }
        let device = |layer: &Layer| Device {
            tag: tag(&layer.diff_id.0),
            blocks: layer.tar_size.div_ceil(BLOCK),
        };
        Ok(Merged {
            tree: self.tree,
            devices: self.layers.iter().map(device).collect(),
            generated,
            warnings: self.warnings,
        })
    }

    /// What in a directory the end of a merge has to look at: directories, sparse files, and
    /// devices that an overlay would not show.
    fn unsettled(&self, directory: InodeId) -> Vec<(Vec<u8>, InodeId)> {
        let is_unsettled = |id: InodeId| match &self.tree.get(id).content {
            Content::Directory(_) => true,
            Content::File(_) => self.sparse.contains_key(&id),
            Content::CharDevice(number) => *number == DeviceNumber::default(),
            _ => false,
        };
        let entries = self.tree.entries(directory).into_iter().flatten();
        entries
            .filter(|(_, id)| is_unsettled(**id))
            .map(|(name, id)| (name.clone(), *id))
            .collect()
    }

    /// Gives a sparse file its extents.
    fn place(
        &mut self,
        id: InodeId,
        path: &[u8],
        generated: &mut Generated,
        slot: u16,
    ) -> Result<(), MergeError> {
        let Some(pieces) = self.sparse.remove(&id) else {
            return Ok(());
        };
        let layer = self.origins[id.index()].layer;
        if let Content::File(data) = &self.tree.get(id).content {
            let source = sparse::Source {
                layer,
                size: data.size,
                pieces: &pieces,
            };
            let placed = sparse::place(&source, generated, slot);
            let placed = placed.map_err(|reason| self.failed(id, path, reason))?;
            self.tree.get_mut(id).content = Content::File(placed);
        }
        Ok(())
    }

    /// Why the layer that made an inode cannot be merged.
    fn failed(&self, id: InodeId, path: &[u8], reason: EntryError) -> MergeError {
        let layer = usize::from(self.origins[id.index()].layer);
        MergeError::Entry {
            number: layer + 1,
            diff_id: self.layers[layer].diff_id,
            path: path.to_vec(),
            reason,
        }
    }

    /// Removes what the layer's whiteouts hide. This comes before all of its entries, so that
    /// only lower layers are hidden, wherever in the tar the whiteouts stand.
    fn uncover<'e>(
        &mut self,
        entries: &'e [tar::Entry],
    ) -> Result<(), (&'e tar::Entry, EntryError)> {
        let mut own = None;
        let mut held = self.budget.holder();
        for entry in entries {
            let failed = |reason| (entry, reason);
            let meaning = path::meaning(&entry.path).map_err(|error| failed(error.into()))?;
            let (directory, hidden) = match meaning {
                Meaning::Whiteout(place) => (place.parent, Some(place.name)),
                Meaning::Opaque(directory) => (directory, None),
                _ => continue,
            };
            if own.is_none() {
                let cost = entries.iter().map(|entry| cost::name(&entry.path)).sum();
                held.add(cost).map_err(|error| failed(error.into()))?;
            }
            let own = own.get_or_insert_with(|| walk::own_paths(entries));
            let found = self.walk(directory, Missing::StopAt(own)).map_err(failed)?;
            match (found, hidden) {
                (Some(directory), Some(name)) => drop(self.tree.unlink(directory, name)),
                (Some(directory), None) => {
                    self.tree.get_mut(directory).content = Content::Directory(BTreeMap::new());
                }
                (None, _) => {}
            }
        }
        Ok(())
    }

    /// Takes over an entry that is no whiteout: the `number`th of its layer.
    pub(crate) fn take(&mut self, number: u32, entry: &tar::Entry) -> Result<(), EntryError> {
        self.number = number;
        match path::meaning(&entry.path)? {
            Meaning::Plain(place) => self.put(entry, &place),
            Meaning::Root if entry.kind == EntryKind::Directory => {
                self.set_attributes(self.tree.root(), entry)
            }
            Meaning::Root => Err(EntryError::Root),
            Meaning::BelowWhiteout => {
                self.warn(&entry.path, WarningKind::BelowWhiteout);
                Ok(())
            }
            Meaning::Whiteout(_) | Meaning::Opaque(_) | Meaning::Ignored => Ok(()),
        }
    }

    fn put(&mut self, entry: &tar::Entry, place: &Place<'_>) -> Result<(), EntryError> {
        let Some(directory) = self.walk(place.parent, Missing::Make)? else {
            return Err(EntryError::NotDirectory(place.parent.to_vec()));
        };
        let old = self.tree.lookup(directory, place.name);
        if let Some(old) = old
            && entry.kind == EntryKind::Directory
            && self.tree.entries(old).is_some()
        {
            return self.set_attributes(old, entry);
        }
        // The old one goes first: a hard link to itself, or into what it replaces, has no target.
        self.tree.unlink(directory, place.name);
        let id = match &entry.kind {
            EntryKind::HardLink(target) => self.target(target)?,
            _ => self.make(entry)?,
        };
        self.link(directory, place.name, id)
    }

    /// Makes the inode of an entry.
    fn make(&mut self, entry: &tar::Entry) -> Result<InodeId, EntryError> {
        let (attributes, left_out) = convert::attributes(entry)?;
        for kind in left_out {
            self.warn(&entry.path, kind);
        }
        let tar_size = self.layers.last().map_or(0, |layer| layer.tar_size);
        match convert::content(entry, self.slot(), tar_size)? {
            Converted::Content(content) => self.add(Inode {
                attributes,
                content,
            }),
            Converted::Sparse(size, pieces) => {
                let content = Content::File(FileData {
                    size,
                    extents: Vec::new(),
                });
                let id = self.add(Inode {
                    attributes,
                    content,
                })?;
                self.budget.take(cost::pieces(&pieces))?;
                self.sparse.insert(id, pieces);
                Ok(id)
            }
        }
    }

    fn set_attributes(&mut self, id: InodeId, entry: &tar::Entry) -> Result<(), EntryError> {
        let (attributes, left_out) = convert::attributes(entry)?;
        for kind in left_out {
            self.warn(&entry.path, kind);
        }
        self.budget.take(cost::attributes(&attributes))?;
        self.tree.get_mut(id).attributes = attributes;
        Ok(())
    }

    /// The inode that a hard link is to. Its last component is not followed: a hard link to a
    /// symbolic link is another name for that.
    fn target(&mut self, target: &[u8]) -> Result<InodeId, EntryError> {
        path::check(target).map_err(|reason| EntryError::Target {
            target: target.to_vec(),
            reason,
        })?;
        let Some(place) = path::split(target) else {
            return Err(EntryError::DirectoryTarget(target.to_vec()));
        };
        let directory = self.walk(place.parent, Missing::Stop)?;
        let found = directory.and_then(|directory| self.tree.lookup(directory, place.name));
        match found {
            None => Err(EntryError::MissingTarget(target.to_vec())),
            Some(id) if self.tree.entries(id).is_some() => {
                Err(EntryError::DirectoryTarget(target.to_vec()))
            }
            Some(id) => Ok(id),
        }
    }

    fn add(&mut self, inode: Inode) -> Result<InodeId, EntryError> {
        self.add_from(inode, self.number)
    }

    /// Adds an inode that was made by an entry, or [`IMPLIED`].
    fn add_from(&mut self, inode: Inode, entry: u32) -> Result<InodeId, EntryError> {
        self.budget.take(cost::inode(&inode))?;
        let layer = self.slot() - 1;
        self.origins.push(Origin { layer, entry });
        Ok(self.tree.add(inode))
    }

    fn link(&mut self, directory: InodeId, name: &[u8], id: InodeId) -> Result<(), EntryError> {
        self.budget.take(cost::name(name))?;
        match self.tree.link(directory, name, id) {
            Ok(_) => Ok(()),
            // Only the target of a symbolic link can still bring such a name.
            Err(TreeError::Name { name, .. }) => Err(PathError::LongName(name.len()).into()),
            Err(_) => Err(EntryError::NotDirectory(name.to_vec())),
        }
    }

    /// Whether the layer that is being applied made this inode.
    fn is_own(&self, id: InodeId) -> bool {
        self.origins[id.index()].layer + 1 == self.slot()
    }

    /// The device slot of the layer that is being applied.
    fn slot(&self) -> u16 {
        u16::try_from(self.layers.len()).expect("layers are capped")
    }

    fn warn(&mut self, path: &[u8], kind: WarningKind) {
        self.warnings.add(self.layers.len(), path, kind);
    }
}

/// The attributes of a directory that no layer describes.
pub(crate) fn implied() -> Attributes {
    Attributes {
        mode: 0o755,
        ..Attributes::default()
    }
}

/// The tag of a device slot.
pub(crate) fn tag(digest: &Digest) -> [u8; 64] {
    let mut tag = [0; 64];
    for (to, from) in tag.iter_mut().zip(digest.hex().bytes()) {
        *to = from;
    }
    tag
}
