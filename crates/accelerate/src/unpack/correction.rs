//! What an image's layer directories, one over the other, would show otherwise than the image means.
//!
//! The merge of all layers is what the image means. The stack of layer trees is gone through as
//! overlayfs does it, directory by directory; where it shows something else, the correction has what
//! is right: a directory's attributes, a file, or a whiteout. Most images need none of it.
//!
//! It is the uppermost of the directories, also where it is empty: so an image always has two, which a
//! read-only overlay needs, and its root is what overlayfs calls merged, where whiteouts of the
//! lowest layer are not listed.

mod making;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::ffi::OsStr;
use std::fs::{DirBuilder, File};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use rustix::fs::{self as sys, Mode, OFlags, ResolveFlags, SeekFrom};
use rustix::io::Errno;
use thaw_erofs::{Attributes, Content, InodeId, Tree};
use thaw_image::DiffId;
use thaw_layer::Budget;
use thaw_layer::tar::Entry;

use super::layer_tree::{Builder, LayerTree, is_whiteout};
use super::place::{self, Placing};
use super::{STAGE, UnpackError, refused};
use crate::layout::LayoutError;
use crate::merge::path::MAX_PATH;
use crate::merge::{self, EntryError, Merger, Origin, PathError, Traced};
use crate::pipeline::PrepareError;
use making::{Making, Visit};

/// Bytes that are copied at once.
const COPY_BYTES: usize = 1 << 30;

/// What goes on top of the layers' directories. See the [module](self).
#[derive(Debug)]
pub struct Correction {
    tree: Tree,
    /// Where the data of its files is.
    sources: HashMap<InodeId, Source>,
}

/// A file of a layer's directory.
#[derive(Clone, Debug)]
struct Source {
    layer: DiffId,
    /// From the layer's root, without a slash before it.
    path: Vec<u8>,
}

/// A layer of the stack.
struct Layer {
    /// Its number in the image; of one that comes several times the uppermost.
    number: usize,
    layer: merge::Layer,
    tree: LayerTree,
}

/// The directories that are shown as one, the uppermost first: place in the stack, directory.
type View = Vec<(usize, InodeId)>;

/// What the stack shows under one name.
#[derive(Debug, Default)]
struct Shown {
    /// No directory: place in the stack, inode.
    file: Option<(usize, InodeId)>,
    view: View,
    /// Nothing below counts any more.
    ended: bool,
    /// A whiteout is all there is.
    hidden: bool,
}

impl Correction {
    /// Compares what layers mean, the lowest first, with what their directories show. The merge takes its memory
    /// from `budget`, all else from `own`.
    pub(super) fn find(
        layers: &[(merge::Layer, &[Entry])],
        budget: &Budget,
        own: &Budget,
    ) -> Result<Self, PrepareError> {
        let mut merger = Merger::new(budget);
        for (layer, entries) in layers {
            merger.apply(layer, entries).map_err(LayoutError::from)?;
        }
        let merged = merger.into_traced();
        let mut stack: Vec<Layer> = Vec::new();
        for (number, (layer, entries)) in layers.iter().enumerate().rev() {
            if stack.iter().any(|it| it.layer.diff_id == layer.diff_id) {
                continue;
            }
            let tree = Builder::build(entries, own);
            stack.push(Layer {
                number,
                layer: *layer,
                tree: tree.map_err(|error| refused(number + 1, layer, error))?,
            });
        }
        let diff_ids: Vec<DiffId> = layers.iter().map(|(layer, _)| layer.diff_id).collect();
        let comparison = Comparison {
            merged: &merged,
            stack: &stack,
            places: places(&diff_ids, &stack),
            budget: own,
        };
        comparison.run()
    }

    /// Whether the layers show the image as it is.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.tree.len() == 1
    }

    #[cfg(test)]
    pub(super) const fn tree(&self) -> &Tree {
        &self.tree
    }

    /// Its files with data: what they say, and whose data it is.
    #[cfg(test)]
    pub(super) fn copied(&self) -> impl Iterator<Item = (&Attributes, DiffId, &[u8])> {
        let sources = self.sources.iter();
        sources.map(|(id, it)| (&self.tree.get(*id).attributes, it.layer, &*it.path))
    }

    /// Makes it at [`super::FILES`] in `dir`, an empty directory. `layer` says where a layer's files are: on the same
    /// filesystem. Answers with the bytes that it takes, about.
    ///
    /// # Errors
    /// [`UnpackError`].
    pub fn write(
        &self,
        dir: &Path,
        layer: &dyn Fn(&DiffId) -> PathBuf,
    ) -> Result<u64, UnpackError> {
        let stage = dir.join(STAGE);
        let made = DirBuilder::new().mode(0o700).create(&stage);
        let made = made.and_then(|()| File::open(&stage));
        let open = made.map_err(UnpackError::store("make the stage"))?;
        let copied = std::cell::Cell::new(0);
        let files = |id: InodeId, to: BorrowedFd<'_>, name: &OsStr| {
            let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
            let file = sys::openat(to, name, flags, Mode::RUSR | Mode::WUSR)?;
            if let Some(source) = self.sources.get(&id) {
                let from = open_beneath(&layer(&source.layer), &source.path)?;
                copied.set(copied.get() + copy(from.as_fd(), file.as_fd())?);
            }
            place::dress(file.as_fd(), &self.tree.get(id).attributes)
        };
        let placing = Placing {
            tree: &self.tree,
            opaque: &HashSet::new(),
            linked: place::linked(&self.tree),
            stage: open.as_fd(),
            files: &files,
        };
        placing.run(dir)?;
        std::fs::remove_dir(stage).map_err(UnpackError::store("remove the stage"))?;
        Ok(copied.get() + place::overhead(&self.tree))
    }
}

/// Opens a file below a layer's directory; no symbolic link leads anywhere.
fn open_beneath(root: &Path, path: &[u8]) -> rustix::io::Result<rustix::fd::OwnedFd> {
    let root = sys::open(root, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?;
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
    sys::openat2(root, OsStr::from_bytes(path), flags, Mode::empty(), resolve)
}

/// Copies a file without its holes; how many bytes.
fn copy(from: BorrowedFd<'_>, to: BorrowedFd<'_>) -> rustix::io::Result<u64> {
    let size = u64::try_from(sys::fstat(from)?.st_size).unwrap_or(0);
    sys::ftruncate(to, size)?;
    let (mut offset, mut copied) = (0, 0);
    while offset < size {
        let mut start = match sys::seek(from, SeekFrom::Data(offset)) {
            Ok(start) => start,
            Err(Errno::NXIO) => break,
            Err(error) => return Err(error),
        };
        let end = sys::seek(from, SeekFrom::Hole(start))?;
        while start < end {
            let len = usize::try_from(end - start).unwrap_or(COPY_BYTES);
            let mut at = (start, start);
            let done = sys::copy_file_range(
                from,
                Some(&mut at.0),
                to,
                Some(&mut at.1),
                len.min(COPY_BYTES),
            )?;
            if done == 0 {
                return Err(Errno::IO);
            }
            start += done as u64;
            copied += done as u64;
        }
        offset = end;
    }
    Ok(copied)
}

/// For each layer of the image its place in the stack.
fn places(diff_ids: &[DiffId], stack: &[Layer]) -> Vec<usize> {
    let place = |diff_id: &DiffId| {
        let found = stack.iter().position(|it| it.layer.diff_id == *diff_id);
        found.unwrap_or(usize::MAX)
    };
    diff_ids.iter().map(place).collect()
}

/// The comparison of what is meant and what is shown.
struct Comparison<'a> {
    merged: &'a Traced,
    /// The uppermost first.
    stack: &'a [Layer],
    places: Vec<usize>,
    budget: &'a Budget,
}

impl<'a> Comparison<'a> {
    fn run(&self) -> Result<Correction, PrepareError> {
        let tree = &self.merged.tree;
        let root = tree.root();
        let linked = place::linked(tree);
        // A root is never opaque to overlayfs.
        let roots = self.stack.iter().enumerate();
        let view = roots.map(|(place, it)| (place, it.tree.tree.root()));
        let mut made = Making {
            tree: Tree::new(tree.get(root).attributes.clone()),
            visits: vec![Visit {
                parent: 0,
                name: b"",
                merged: root,
                view: view.collect(),
                corrected: Some(root),
            }],
            names: HashMap::new(),
            wrong: BTreeMap::new(),
            files: Vec::new(),
            budget: self.budget,
            merged: tree,
        };
        let mut at = 0;
        while at < made.visits.len() {
            self.visit(&mut made, at, &linked)?;
            at += 1;
        }
        made.add_files(&linked)?;
        self.with_sources(made)
    }

    /// Compares one directory.
    fn visit(
        &self,
        made: &mut Making<'a>,
        at: usize,
        linked: &HashSet<InodeId>,
    ) -> Result<(), PrepareError> {
        let (directory, view) = {
            let visit = &mut made.visits[at];
            (visit.merged, std::mem::take(&mut visit.view))
        };
        let shown = self.shown(&view);
        let attributes = &self.merged.tree.get(directory).attributes;
        let is_right = view
            .first()
            .is_some_and(|(place, id)| self.attributes(*place, *id) == attributes);
        // A directory of one layer lists its whiteouts, though they cannot be seen.
        let lists_whiteouts = view.len() == 1 && shown.values().any(|it| it.hidden);
        if !is_right || lists_whiteouts {
            made.directory(at)?;
        }
        let entries = self.merged.tree.entries(directory).into_iter().flatten();
        let mut meant = HashSet::new();
        for (name, id) in entries {
            let content = &self.merged.tree.get(*id).content;
            // An overlay would not show it; the layout leaves it out.
            if is_whiteout(content) {
                continue;
            }
            meant.insert(name.as_slice());
            let seen = shown.get(name.as_slice());
            if matches!(content, Content::Directory(_)) {
                let view = match seen {
                    Some(seen) if seen.file.is_none() => seen.view.clone(),
                    _ => View::new(),
                };
                made.visit(at, name, *id, view)?;
                continue;
            }
            if linked.contains(id) {
                made.names.entry(*id).or_default().push((at, name));
            }
            let file = seen.filter(|seen| seen.view.is_empty());
            let file = file.and_then(|seen| seen.file);
            if file.map(|(place, id)| (place, self.entry(place, id))) != self.origin(*id) {
                made.wrong.entry(*id).or_insert((at, name));
            }
        }
        let seen = shown
            .iter()
            .filter(|(_, seen)| seen.file.is_some() || !seen.view.is_empty());
        for (name, _) in seen.filter(|(name, _)| !meant.contains(*name)) {
            made.white_out(at, name)?;
        }
        Ok(())
    }

    fn attributes(&self, place: usize, id: InodeId) -> &Attributes {
        &self.stack[place].tree.tree.get(id).attributes
    }

    fn entry(&self, place: usize, id: InodeId) -> u32 {
        self.stack[place].tree.entries[id.index()]
    }

    /// Where an inode of the image comes from: place in the stack, entry.
    fn origin(&self, id: InodeId) -> Option<(usize, u32)> {
        let Origin { layer, entry } = self.merged.origins[id.index()];
        Some((*self.places.get(usize::from(layer))?, entry))
    }

    /// What overlayfs shows of these directories as one.
    fn shown(&self, view: &[(usize, InodeId)]) -> BTreeMap<&'a [u8], Shown> {
        let mut all: BTreeMap<&[u8], Shown> = BTreeMap::new();
        for (place, directory) in view {
            let layer = &self.stack[*place].tree;
            for (name, id) in layer.tree.entries(*directory).into_iter().flatten() {
                let shown = all.entry(name).or_default();
                if shown.ended {
                    continue;
                }
                match &layer.tree.get(*id).content {
                    Content::Directory(_) => {
                        shown.view.push((*place, *id));
                        shown.ended = layer.opaque.contains(id);
                    }
                    content => {
                        shown.ended = true;
                        let is_first = shown.view.is_empty();
                        shown.hidden = is_first && is_whiteout(content);
                        if is_first && !shown.hidden {
                            shown.file = Some((*place, *id));
                        }
                    }
                }
            }
        }
        all
    }

    /// Says where the data of the correction's files is.
    fn with_sources(&self, made: Making<'a>) -> Result<Correction, PrepareError> {
        let mut wanted: BTreeMap<usize, HashMap<u32, InodeId>> = BTreeMap::new();
        for (merged, corrected) in &made.files {
            let is_data = |content: &Content| match content {
                Content::File(data) => data.size > 0,
                _ => false,
            };
            if is_data(&self.merged.tree.get(*merged).content)
                && let Some((place, entry)) = self.origin(*merged)
            {
                wanted.entry(place).or_default().insert(entry, *corrected);
            }
        }
        let mut sources = HashMap::new();
        for (place, mut wanted) in wanted {
            let layer = &self.stack[place];
            let tree = &layer.tree.tree;
            // One path is kept, as in [`Merger::finish`].
            let mut path = Vec::new();
            let mut directories = vec![(tree.root(), 0, &b""[..])];
            while let Some((directory, above, name)) = directories.pop() {
                path.truncate(above);
                path.extend_from_slice(name);
                if !name.is_empty() {
                    path.push(b'/');
                }
                for (name, id) in tree.entries(directory).into_iter().flatten() {
                    if tree.entries(*id).is_some() {
                        directories.push((*id, path.len(), name));
                    } else if let Some(file) = wanted.remove(&layer.tree.entries[id.index()]) {
                        let path = [path.as_slice(), name].concat();
                        let source = self.source(layer, path);
                        let source = source
                            .map_err(|error| refused(layer.number + 1, &layer.layer, error))?;
                        sources.insert(file, source);
                    }
                }
            }
            if let Some((entry, _)) = wanted.into_iter().next() {
                let (layer, entry) = (layer.number + 1, u64::from(entry) + 1);
                return Err(UnpackError::Hidden { layer, entry }.into());
            }
        }
        Ok(Correction {
            tree: made.tree,
            sources,
        })
    }

    /// A file that is copied, and hence has to be opened by its path.
    fn source(&self, layer: &Layer, path: Vec<u8>) -> Result<Source, UnpackError> {
        let fits = match path.len() > MAX_PATH {
            true => Err(EntryError::from(PathError::Long(path.len()))),
            false => {
                let bytes = size_of::<(InodeId, Source)>() + path.len();
                self.budget.take(bytes).map_err(EntryError::from)
            }
        };
        match fits {
            Ok(()) => Ok(Source {
                layer: layer.layer.diff_id,
                path,
            }),
            Err(reason) => Err(UnpackError::Entry { path, reason }),
        }
    }
}
