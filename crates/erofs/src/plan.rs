//! What follows from the names of a tree: the order in which inodes are stored, link counts and
//! parents.
//!
//! The inodes of one directory stand together, in the order of their names, so that listing it
//! with attributes reads few blocks; its directories' own children follow, depth first.

use crate::tree::check_name;
use crate::{Content, InodeError, InodeId, Tree};

pub(crate) struct Plan {
    /// Every inode that a name leads to, the root first.
    pub(crate) order: Vec<InodeId>,
    /// Number of links, by id; 0 for an inode that no name leads to.
    pub(crate) links: Vec<u32>,
    /// The parent of a directory, by id. The root's is itself.
    pub(crate) parents: Vec<InodeId>,
}

impl Plan {
    pub(crate) fn new(tree: &Tree) -> Result<Self, (Vec<u8>, InodeError)> {
        let root = tree.root();
        let mut plan = Self {
            order: vec![root],
            links: vec![0; tree.len()],
            parents: vec![root; tree.len()],
        };
        plan.links[root.index()] = 2;
        let mut directories = vec![root];
        while let Some(directory) = directories.pop() {
            let first = directories.len();
            plan.children(tree, directory, &mut directories)?;
            directories[first..].reverse();
        }
        Ok(plan)
    }

    fn children(
        &mut self,
        tree: &Tree,
        directory: InodeId,
        directories: &mut Vec<InodeId>,
    ) -> Result<(), (Vec<u8>, InodeError)> {
        for (name, &child) in tree.entries(directory).into_iter().flatten() {
            let bad = |reason| {
                let mut path = self.path(tree, directory);
                path.extend_from_slice(name);
                (path, reason)
            };
            check_name(name).map_err(|reason| bad(InodeError::Name(reason)))?;
            let links = self.links.get(child.index()).copied();
            let links = links.ok_or_else(|| bad(InodeError::Foreign))?;
            let is_directory = matches!(tree.get(child).content, Content::Directory(_));
            if is_directory && links > 0 {
                return Err(bad(InodeError::SecondParent));
            }
            let more = links.checked_add(if is_directory { 2 } else { 1 });
            self.links[child.index()] = more.ok_or_else(|| bad(InodeError::Links))?;
            if links == 0 {
                self.order.push(child);
            }
            if is_directory {
                self.links[directory.index()] += 1;
                self.parents[child.index()] = directory;
                directories.push(child);
            }
        }
        Ok(())
    }

    /// The path of a directory from the root, with a slash at its end; empty for the root. For
    /// messages: it searches.
    pub(crate) fn path(&self, tree: &Tree, directory: InodeId) -> Vec<u8> {
        let mut parts: Vec<&[u8]> = Vec::new();
        let mut at = directory;
        while at != tree.root() {
            let parent = self.parents[at.index()];
            let entries = tree.entries(parent).into_iter().flatten();
            parts.push(b"/");
            parts.extend(
                entries
                    .filter(|entry| *entry.1 == at)
                    .map(|entry| &**entry.0)
                    .take(1),
            );
            at = parent;
        }
        parts.reverse();
        parts.concat()
    }

    /// One path of an inode, for messages.
    pub(crate) fn any_path(&self, tree: &Tree, id: InodeId) -> Vec<u8> {
        for &directory in &self.order {
            let mut entries = tree.entries(directory).into_iter().flatten();
            if let Some((name, _)) = entries.find(|entry| *entry.1 == id) {
                let mut path = self.path(tree, directory);
                path.extend_from_slice(name);
                return path;
            }
        }
        b"/".to_vec()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Attributes, Inode};

    fn directory(tree: &mut Tree, parent: InodeId, name: &[u8]) -> InodeId {
        let id = tree.add(Inode {
            attributes: Attributes::default(),
            content: Content::Directory(Default::default()),
        });
        tree.link(parent, name, id).unwrap();
        id
    }

    #[test]
    fn siblings_stand_together_and_links_are_counted() {
        let mut tree = Tree::new(Attributes::default());
        let root = tree.root();
        let a = directory(&mut tree, root, b"a");
        let b = directory(&mut tree, root, b"b");
        let deep = directory(&mut tree, a, b"deep");
        let file = tree.add(Inode {
            attributes: Attributes::default(),
            content: Content::Fifo,
        });
        tree.link(b, b"x", file).unwrap();
        tree.link(deep, b"y", file).unwrap();
        tree.add(tree.get(file).clone());
        let plan = Plan::new(&tree).ok().unwrap();
        assert_eq!(plan.order, [root, a, b, deep, file]);
        assert_eq!(plan.links, [4, 3, 2, 2, 2, 0]);
        assert_eq!(plan.path(&tree, deep), b"a/deep/");
        assert_eq!(plan.any_path(&tree, file), b"b/x");
    }

    #[test]
    fn a_directory_has_one_parent() {
        let mut tree = Tree::new(Attributes::default());
        let root = tree.root();
        let a = directory(&mut tree, root, b"a");
        let b = directory(&mut tree, a, b"b");
        tree.link(b, b"loop", a).unwrap();
        let (path, reason) = Plan::new(&tree).err().unwrap();
        assert_eq!(
            (path.as_slice(), reason),
            (b"a/b/loop".as_slice(), InodeError::SecondParent)
        );
        tree.unlink(b, b"loop");
        tree.link(b, b"root", root).unwrap();
        assert_eq!(Plan::new(&tree).err().unwrap().1, InodeError::SecondParent);
    }
}
