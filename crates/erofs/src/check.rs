//! From a layout back to a tree, with every check that a kernel leaves out.

use std::collections::HashMap;

use crate::format::Kind;
use crate::image::StoredContent;
use crate::plan::Plan;
use crate::tree::check_name;
use crate::{Content, Entry, Image, Inode, InodeId, Nid, ReadError, StoredInode, Tree};

/// What is left to be read while a tree is built.
struct Walk<'i, 'a> {
    image: &'i Image<'a>,
    tree: Tree,
    ids: HashMap<Nid, InodeId>,
    links: Vec<(InodeId, Nid, u32)>,
    directories: Vec<(InodeId, Nid, Vec<Entry>)>,
    /// Bytes of the layout that no inode has taken yet.
    unread: usize,
}

impl Image<'_> {
    /// Reads every inode that a name leads to, and checks what the kernel relies on: names sorted
    /// and allowed, one parent for each directory, link counts, types in directories, extents
    /// within their devices. The tree it gives would be written as this layout again.
    ///
    /// # Errors
    /// [`ReadError`] with the inode at fault.
    pub fn to_tree(&self) -> Result<Tree, ReadError> {
        let mut walk = self.read_root()?;
        while let Some((directory, nid, entries)) = walk.directories.pop() {
            for entry in entries {
                walk.link(directory, nid, &entry)?;
            }
        }
        let inodes = walk.tree.len() as u64;
        if inodes != self.inode_count() {
            return Err(ReadError::Foreign("it has another number of inodes"));
        }
        let bad = |nid, reason| ReadError::Inode { nid, reason };
        let plan = Plan::new(&walk.tree)
            .map_err(|_| bad(self.root(), "its directories are not a tree"))?;
        let wrong = |(id, _, links): &&(InodeId, Nid, u32)| plan.links[id.index()] != *links;
        match walk.links.iter().find(wrong) {
            Some((_, nid, _)) => Err(bad(*nid, "its link count is wrong")),
            None => Ok(walk.tree),
        }
    }

    fn read_root(&self) -> Result<Walk<'_, '_>, ReadError> {
        let nid = self.root();
        let (inode, size) = self.inode_and_size(nid)?;
        let StoredContent::Directory { parent, entries } = inode.content else {
            return Err(ReadError::Inode {
                nid,
                reason: "the root is not a directory",
            });
        };
        check_parent(nid, parent, nid)?;
        let tree = Tree::new(inode.attributes);
        Ok(Walk {
            image: self,
            ids: HashMap::from([(nid, tree.root())]),
            links: vec![(tree.root(), nid, inode.links)],
            directories: vec![(tree.root(), nid, entries)],
            tree,
            unread: self.len().saturating_sub(size),
        })
    }
}

impl Walk<'_, '_> {
    fn link(&mut self, directory: InodeId, parent: Nid, entry: &Entry) -> Result<(), ReadError> {
        let bad = |reason| ReadError::Inode {
            nid: parent,
            reason,
        };
        check_name(&entry.name).map_err(|_| bad("it has a name that cannot be one"))?;
        let id = match self.ids.get(&entry.nid) {
            Some(id) => *id,
            None => self.read(parent, entry.nid)?,
        };
        if Kind::of(&self.tree.get(id).content).dirent() != entry.file_type {
            return Err(bad("it has a name with the wrong type"));
        }
        match self.tree.link(directory, &entry.name, id) {
            Ok(None) => Ok(()),
            _ => Err(bad("it has a name twice")),
        }
    }

    fn read(&mut self, parent: Nid, nid: Nid) -> Result<InodeId, ReadError> {
        let (inode, size) = self.image.inode_and_size(nid)?;
        self.unread = self.unread.checked_sub(size).ok_or(ReadError::Overlap)?;
        let StoredInode {
            attributes,
            links,
            content,
        } = inode;
        let (content, entries) = match content {
            StoredContent::Other(content) => (content, None),
            StoredContent::Directory {
                parent: up,
                entries,
            } => {
                check_parent(nid, up, parent)?;
                (Content::Directory(Default::default()), Some(entries))
            }
        };
        let id = self.tree.add(Inode {
            attributes,
            content,
        });
        self.ids.insert(nid, id);
        self.links.push((id, nid, links));
        self.directories
            .extend(entries.map(|entries| (id, nid, entries)));
        Ok(id)
    }
}

fn check_parent(nid: Nid, found: Nid, parent: Nid) -> Result<(), ReadError> {
    if found == parent {
        return Ok(());
    }
    Err(ReadError::Inode {
        nid,
        reason: "its `..` does not lead to its parent",
    })
}
