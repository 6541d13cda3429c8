//! Building a correction, while the image's directories are gone through.

use std::collections::{BTreeMap, HashMap, HashSet};

use thaw_erofs::{Attributes, Content, DeviceNumber, Inode, InodeId, Tree};
use thaw_layer::Budget;

use super::View;
use crate::layout::LayoutError;
use crate::merge::cost;
use crate::pipeline::PrepareError;

/// A directory of the image that is being compared.
pub(super) struct Visit<'a> {
    pub(super) parent: usize,
    pub(super) name: &'a [u8],
    pub(super) merged: InodeId,
    pub(super) view: View,
    /// Its counterpart in the correction, where it has one.
    pub(super) corrected: Option<InodeId>,
}

/// A correction that is being made.
pub(super) struct Making<'a> {
    pub(super) tree: Tree,
    pub(super) visits: Vec<Visit<'a>>,
    /// All names of files that have several.
    pub(super) names: HashMap<InodeId, Vec<(usize, &'a [u8])>>,
    /// Files that are shown wrongly, and one of their names.
    pub(super) wrong: BTreeMap<InodeId, (usize, &'a [u8])>,
    /// The same in the correction, when they have been added to it.
    pub(super) files: Vec<(InodeId, InodeId)>,
    pub(super) budget: &'a Budget,
    pub(super) merged: &'a Tree,
}

impl<'a> Making<'a> {
    pub(super) fn visit(
        &mut self,
        parent: usize,
        name: &'a [u8],
        merged: InodeId,
        view: View,
    ) -> Result<(), PrepareError> {
        let bytes = size_of::<Visit<'_>>() + size_of_val(view.as_slice());
        self.take(bytes)?;
        self.visits.push(Visit {
            parent,
            name,
            merged,
            view,
            corrected: None,
        });
        Ok(())
    }

    fn take(&self, bytes: usize) -> Result<(), PrepareError> {
        Ok(self.budget.take(bytes).map_err(LayoutError::from)?)
    }

    /// The directory of a visit, in the correction; with those above it.
    pub(super) fn directory(&mut self, at: usize) -> Result<InodeId, PrepareError> {
        let mut missing = Vec::new();
        let mut up = at;
        let mut here = loop {
            match self.visits[up].corrected {
                Some(id) => break id,
                None => missing.push(up),
            }
            up = self.visits[up].parent;
        };
        for at in missing.into_iter().rev() {
            let (merged, name) = (self.visits[at].merged, self.visits[at].name);
            let content = Content::Directory(BTreeMap::new());
            here = self.add(
                here,
                name,
                &self.merged.get(merged).attributes.clone(),
                content,
            )?;
            self.visits[at].corrected = Some(here);
        }
        Ok(here)
    }

    fn add(
        &mut self,
        directory: InodeId,
        name: &[u8],
        attributes: &Attributes,
        content: Content,
    ) -> Result<InodeId, PrepareError> {
        let attributes = attributes.clone();
        let inode = Inode {
            attributes,
            content,
        };
        self.take(cost::inode(&inode) + cost::name(name))?;
        let id = self.tree.add(inode);
        self.link(directory, name, id);
        Ok(id)
    }

    /// Names are those of the merged tree, which has checked them.
    fn link(&mut self, directory: InodeId, name: &[u8], id: InodeId) {
        let linked = self.tree.link(directory, name, id);
        debug_assert!(linked.is_ok());
    }

    pub(super) fn white_out(&mut self, at: usize, name: &[u8]) -> Result<(), PrepareError> {
        let directory = self.directory(at)?;
        let device = Content::CharDevice(DeviceNumber::default());
        self.add(directory, name, &Attributes::default(), device)?;
        Ok(())
    }

    /// Adds what is shown wrongly: each file with all of its names, so that they stay one file.
    pub(super) fn add_files(&mut self, linked: &HashSet<InodeId>) -> Result<(), PrepareError> {
        for (merged, one) in std::mem::take(&mut self.wrong) {
            let names = match linked.contains(&merged) {
                true => self.names.remove(&merged).unwrap_or_default(),
                false => vec![one],
            };
            let Inode {
                attributes,
                content,
            } = self.merged.get(merged).clone();
            let mut made = None;
            for (at, name) in names {
                let directory = self.directory(at)?;
                match made {
                    Some(id) => self.link(directory, name, id),
                    None => made = Some(self.add(directory, name, &attributes, content.clone())?),
                }
            }
            self.files.extend(made.map(|id| (merged, id)));
        }
        Ok(())
    }
}
