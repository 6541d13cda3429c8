//! What one layer's directory holds: its own files, and what hides those of lower layers.

use std::collections::HashSet;

use thaw_erofs::{Attributes, Content, DeviceNumber, Inode, InodeId, Tree};
use thaw_layer::Budget;
use thaw_layer::tar::Entry;

use super::UnpackError;
use crate::merge::path::{Meaning, components, meaning};
use crate::merge::{EntryError, IMPLIED, MAX_STEPS, Merger, Traced, implied};

/// A layer by itself. A whiteout is the device that overlayfs takes for one.
#[derive(Debug)]
pub(super) struct LayerTree {
    pub(super) tree: Tree,
    /// By [`InodeId::index`]: the entry that made the inode.
    pub(super) entries: Vec<u32>,
    /// Directories that hide what lower layers have in them.
    pub(super) opaque: HashSet<InodeId>,
}

/// What of lower layers is hidden.
#[derive(Debug)]
enum Hidden {
    /// This path.
    Path(Vec<u8>),
    /// All that is in this directory.
    Within(Vec<u8>),
}

/// Builds a [`LayerTree`] from the entries in their order.
#[derive(Debug)]
pub(super) struct Builder<'a> {
    merger: Merger<'a>,
    hidden: Vec<Hidden>,
    held: thaw_layer::Held<'a>,
    budget: &'a Budget,
    number: u32,
}

/// Bytes in memory of a whiteout beside its path: in the list, and as an inode with a name.
const WHITEOUT: usize = 128 + size_of::<Hidden>() + size_of::<Inode>();

impl<'a> Builder<'a> {
    pub(super) fn new(budget: &'a Budget) -> Self {
        Self {
            merger: Merger::alone(budget),
            hidden: Vec::new(),
            held: budget.holder(),
            budget,
            number: 0,
        }
    }

    /// The layer whose entries these are.
    pub(super) fn build(entries: &[Entry], budget: &'a Budget) -> Result<LayerTree, UnpackError> {
        let mut builder = Self::new(budget);
        for entry in entries {
            builder.take(entry).map_err(|reason| UnpackError::Entry {
                path: entry.path.clone(),
                reason,
            })?;
        }
        builder.finish()
    }

    /// Takes the next entry, and says which number it has.
    pub(super) fn take(&mut self, entry: &Entry) -> Result<u32, EntryError> {
        let number = self.number;
        self.number += 1;
        let hidden = match meaning(&entry.path)? {
            Meaning::Whiteout(place) => {
                let parent = [place.parent, b"/".as_slice()].concat();
                Hidden::Path([&parent, place.name].concat())
            }
            Meaning::Opaque(directory) => Hidden::Within(directory.to_vec()),
            _ => {
                return match self.merger.take(number, entry) {
                    // With lower layers there may be a way: the merge of all says if there is none.
                    Err(
                        EntryError::MissingTarget(_)
                        | EntryError::DirectoryTarget(_)
                        | EntryError::NotDirectory(_)
                        | EntryError::Links
                        | EntryError::Deep,
                    )
                    | Ok(()) => Ok(number),
                    Err(error) => Err(error),
                };
            }
        };
        self.held.add(WHITEOUT + 2 * entry.path.len())?;
        self.hidden.push(hidden);
        Ok(number)
    }

    /// Adds what hides lower layers. It never hides the layer's own files: where a path leads to
    /// one, or to what lies below one, the file itself hides all that is to be hidden.
    pub(super) fn finish(self) -> Result<LayerTree, UnpackError> {
        let Traced { tree, origins } = self.merger.into_traced();
        let mut layer = LayerTree {
            tree,
            entries: origins.iter().map(|origin| origin.entry).collect(),
            opaque: HashSet::new(),
        };
        let mut steps = MAX_STEPS;
        let mut failed = Ok(());
        for within in [true, false] {
            for hidden in &self.hidden {
                let done = match hidden {
                    Hidden::Within(path) if within => {
                        let directory = layer.directory(path, &mut steps, self.budget);
                        directory.map(|id| layer.opaque.extend(id)).map(drop)
                    }
                    Hidden::Path(path) if !within => layer.white_out(path, &mut steps, self.budget),
                    _ => Ok(()),
                };
                let path = match hidden {
                    Hidden::Path(path) | Hidden::Within(path) => path,
                };
                failed = failed.and(done.map_err(|reason| (path.clone(), reason)));
            }
        }
        let named = |(path, reason)| UnpackError::Entry { path, reason };
        failed.map(|()| layer).map_err(named)
    }
}

impl LayerTree {
    /// The directory at a path, made where the layer has nothing; `None` below what is no directory.
    fn directory(
        &mut self,
        path: &[u8],
        steps: &mut u64,
        budget: &Budget,
    ) -> Result<Option<InodeId>, EntryError> {
        let mut here = self.tree.root();
        for name in components(path) {
            *steps = steps.checked_sub(1).ok_or(EntryError::Steps)?;
            here = match self.tree.lookup(here, name) {
                Some(id) if self.tree.entries(id).is_some() => id,
                Some(_) => return Ok(None),
                None => {
                    let content = Content::Directory(Default::default());
                    self.add(here, name, implied(), content, budget)?
                }
            };
        }
        Ok(Some(here))
    }

    fn white_out(
        &mut self,
        path: &[u8],
        steps: &mut u64,
        budget: &Budget,
    ) -> Result<(), EntryError> {
        let cut = path.iter().rposition(|byte| *byte == b'/').unwrap_or(0);
        let (parent, name) = (&path[..cut], &path[cut + 1..]);
        let Some(directory) = self.directory(parent, steps, budget)? else {
            return Ok(());
        };
        match self.tree.lookup(directory, name) {
            Some(own) if self.tree.entries(own).is_some() => {
                self.opaque.insert(own);
            }
            // Listed, though it cannot be seen, where nothing lies below.
            None if !self.opaque.contains(&directory) => {
                self.add(
                    directory,
                    name,
                    Attributes::default(),
                    Content::CharDevice(DeviceNumber::default()),
                    budget,
                )?;
            }
            _ => {}
        }
        Ok(())
    }

    fn add(
        &mut self,
        directory: InodeId,
        name: &[u8],
        attributes: Attributes,
        content: Content,
        budget: &Budget,
    ) -> Result<InodeId, EntryError> {
        budget.take(WHITEOUT + name.len())?;
        let id = self.tree.add(Inode {
            attributes,
            content,
        });
        self.entries.push(IMPLIED);
        let linked = self.tree.link(directory, name, id);
        linked.map_err(|_| EntryError::NotDirectory(name.to_vec()))?;
        Ok(id)
    }
}

/// Whether overlayfs takes this for a whiteout.
pub(super) fn is_whiteout(content: &Content) -> bool {
    *content == Content::CharDevice(DeviceNumber::default())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::unpack::tests::{file, hard, symlink};

    fn listed(layer: &LayerTree) -> Vec<String> {
        let mut lines = Vec::new();
        list(layer, layer.tree.root(), "", &mut lines);
        lines
    }

    fn list(layer: &LayerTree, directory: InodeId, path: &str, lines: &mut Vec<String>) {
        for (name, id) in layer.tree.entries(directory).unwrap() {
            let path = format!("{path}{}", String::from_utf8_lossy(name));
            let content = &layer.tree.get(*id).content;
            lines.push(match content {
                Content::Directory(_) if layer.opaque.contains(id) => format!("{path}/ opaque"),
                Content::Directory(_) => format!("{path}/"),
                _ if is_whiteout(content) => format!("{path} hidden"),
                _ => path.clone(),
            });
            if matches!(content, Content::Directory(_)) {
                list(layer, *id, &format!("{path}/"), lines);
            }
        }
    }

    #[track_caller]
    fn holds(entries: &[Entry], expected: &[&str]) {
        let budget = Budget::new(1 << 20);
        let layer = Builder::build(entries, &budget).unwrap();
        assert_eq!(listed(&layer), expected);
        assert_eq!(layer.entries.len(), layer.tree.len());
    }

    #[test]
    fn whiteouts_hide_what_is_below_and_never_what_is_beside() {
        holds(&[file(".wh.a")], &["a hidden"]);
        holds(&[file("a"), file(".wh.a")], &["a"]);
        holds(&[file(".wh.a"), file("a")], &["a"]);
        holds(&[file("d/x"), file(".wh.d")], &["d/ opaque", "d/x"]);
        holds(&[file("d/.wh.x")], &["d/", "d/x hidden"]);
        // Below a file or a link of its own there is nothing of lower layers.
        holds(&[file("d"), file("d/.wh.x")], &["d"]);
        holds(&[symlink("d", "e"), file("d/.wh.x")], &["d"]);
    }

    #[test]
    fn opaque_directories_need_no_whiteouts() {
        let opaque = || file("d/.wh..wh..opq");
        holds(&[file("d/.wh.x"), opaque()], &["d/ opaque"]);
        holds(&[opaque(), file("d/y")], &["d/ opaque", "d/y"]);
    }

    #[test]
    fn what_takes_lower_layers_is_left_out() {
        holds(&[hard("a", "b"), file("c"), hard("d", "c")], &["c", "d"]);
        holds(&[hard("b/a", "b"), file("b/c")], &["b/", "b/c"]);
        holds(&[file("a"), file("a/b")], &["a"]);
    }

    #[test]
    fn what_no_merge_takes_is_refused() {
        let budget = Budget::new(1 << 20);
        for path in ["../a", "a/../b", "", ".wh.."] {
            assert!(Builder::build(&[file(path)], &budget).is_err(), "{path}");
        }
        let small = Budget::new(1 << 10);
        let many: Vec<Entry> = (0..100).map(|n| file(&format!(".wh.{n}"))).collect();
        assert!(matches!(
            Builder::build(&many, &small),
            Err(UnpackError::Entry {
                reason: EntryError::Memory(_),
                ..
            })
        ));
    }

    #[test]
    fn every_name_on_the_way_of_a_whiteout_is_a_step() {
        let budget = Budget::new(1 << 20);
        for (steps, enough) in [(2, true), (1, false)] {
            let mut layer = Builder::build(&[], &budget).unwrap();
            let done = layer.white_out(b"a/b/c", &mut steps.clone(), &budget);
            assert_eq!(done.is_ok(), enough);
            assert_eq!(done.err(), (!enough).then_some(EntryError::Steps));
        }
    }
}
