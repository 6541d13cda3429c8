//! Every check of a layout that a kernel leaves out, and from a layout back to a tree.
//!
//! One walk does both: it reads each inode that a name leads to, once, and counts what leads to
//! it. A check keeps a few bytes for each inode and no names, for it is on the way of a start.

use std::collections::HashMap;

use crate::format::{Kind, SLOT};
use crate::image::StoredContent;
use crate::tree::check_name;
use crate::{Attributes, Content, Entry, Image, Inode, InodeId, Nid, ReadError, StoredInode, Tree};

/// A name that a walk has come to.
struct Step<'a> {
    directory: Nid,
    name: &'a [u8],
    nid: Nid,
    /// The inode, where this is the first name of it. A directory's is empty.
    new: Option<(Attributes, Content)>,
}

/// What is known of an inode that was read.
struct Seen {
    dirent: u8,
    is_directory: bool,
    /// Links that it says it has, and those found.
    links: u32,
    found: u32,
}

/// What is left to be read, and what was.
struct Walk<'i, 'a> {
    image: &'i Image<'a>,
    /// By number of the inode: 1 + its place in `inodes`, 0 while it has none.
    places: Vec<u32>,
    inodes: Vec<Seen>,
    directories: Vec<(Nid, usize, Vec<Entry>)>,
    /// Bytes of the layout that no inode has taken yet.
    unread: usize,
}

impl Image<'_> {
    /// Reads every inode that a name leads to, and checks what the kernel relies on: names sorted
    /// and allowed, one parent for each directory, link counts, types in directories, extents
    /// within their devices.
    ///
    /// # Errors
    /// [`ReadError`] with the inode at fault.
    pub fn check(&self) -> Result<(), ReadError> {
        Walk::new(self).run(&mut |_| Ok(()))
    }

    /// [`Image::check`], and the tree: it would be written as this layout again.
    ///
    /// # Errors
    /// [`ReadError`] with the inode at fault.
    pub fn to_tree(&self) -> Result<Tree, ReadError> {
        let root = self.root();
        let mut tree = Tree::new(self.inode(root)?.attributes);
        let mut ids: HashMap<Nid, InodeId> = HashMap::from([(root, tree.root())]);
        Walk::new(self).run(&mut |step: Step<'_>| {
            if let Some((attributes, content)) = step.new {
                let inode = Inode {
                    attributes,
                    content,
                };
                ids.insert(step.nid, tree.add(inode));
            }
            match tree.link(ids[&step.directory], step.name, ids[&step.nid]) {
                Ok(None) => Ok(()),
                _ => Err(bad(step.directory, "it has a name twice")),
            }
        })?;
        Ok(tree)
    }
}

impl<'i, 'a> Walk<'i, 'a> {
    fn new(image: &'i Image<'a>) -> Self {
        Self {
            places: vec![0; image.len() / SLOT + 1],
            inodes: Vec::new(),
            directories: Vec::new(),
            unread: image.len(),
            image,
        }
    }

    fn run(
        mut self,
        visit: &mut dyn FnMut(Step<'_>) -> Result<(), ReadError>,
    ) -> Result<(), ReadError> {
        let root = self.image.root();
        let (place, _) = self.read(root, root)?;
        if !self.inodes[place].is_directory {
            return Err(bad(root, "the root is not a directory"));
        }
        self.inodes[place].found = 2;
        while let Some((nid, place, entries)) = self.directories.pop() {
            for entry in entries {
                self.link(nid, place, &entry, visit)?;
            }
        }
        if self.inodes.len() as u64 != self.image.inode_count() {
            return Err(ReadError::Foreign("it has another number of inodes"));
        }
        self.check_links()
    }

    fn link(
        &mut self,
        directory: Nid,
        parent: usize,
        entry: &Entry,
        visit: &mut dyn FnMut(Step<'_>) -> Result<(), ReadError>,
    ) -> Result<(), ReadError> {
        check_name(&entry.name).map_err(|_| bad(directory, "it has a name that cannot be one"))?;
        let known = self.place(entry.nid);
        let (place, new) = match known {
            Some(place) => (place, None),
            None => self
                .read(directory, entry.nid)
                .map(|(at, new)| (at, Some(new)))?,
        };
        let seen = &mut self.inodes[place];
        if seen.dirent != entry.file_type {
            return Err(bad(directory, "it has a name with the wrong type"));
        }
        if seen.is_directory && known.is_some() {
            return Err(bad(entry.nid, "it is in two directories"));
        }
        seen.found = seen
            .found
            .saturating_add(if seen.is_directory { 2 } else { 1 });
        if seen.is_directory {
            let parent = &mut self.inodes[parent];
            parent.found = parent.found.saturating_add(1);
        }
        visit(Step {
            directory,
            name: &entry.name,
            nid: entry.nid,
            new,
        })
    }

    fn place(&self, nid: Nid) -> Option<usize> {
        let place = self.places.get(usize::try_from(nid.0).ok()?)?;
        (*place as usize).checked_sub(1)
    }

    /// Reads an inode for the first time; gives its place and what is in it.
    fn read(&mut self, parent: Nid, nid: Nid) -> Result<(usize, (Attributes, Content)), ReadError> {
        let (inode, size) = self.image.inode_and_size(nid)?;
        self.unread = self.unread.checked_sub(size).ok_or(ReadError::Overlap)?;
        let StoredInode {
            attributes,
            links,
            content,
        } = inode;
        let place = self.inodes.len();
        let content = match content {
            StoredContent::Other(content) => content,
            StoredContent::Directory {
                parent: up,
                entries,
            } => {
                check_parent(nid, up, parent)?;
                self.directories.push((nid, place, entries));
                Content::Directory(Default::default())
            }
        };
        self.inodes.push(Seen {
            dirent: Kind::of(&content).dirent(),
            is_directory: matches!(content, Content::Directory(_)),
            links,
            found: 0,
        });
        // An inode of this number lies in the layout: there is a slot for it, and fewer than 2^32.
        let slot = usize::try_from(nid.0).ok();
        let slot = slot.and_then(|nid| self.places.get_mut(nid));
        let number = u32::try_from(self.inodes.len());
        if let (Some(slot), Ok(number)) = (slot, number) {
            *slot = number;
        }
        Ok((place, (attributes, content)))
    }

    fn check_links(&self) -> Result<(), ReadError> {
        let wrong = |place: &u32| {
            let place = (*place as usize).checked_sub(1);
            place.is_some_and(|at| self.inodes[at].links != self.inodes[at].found)
        };
        match self.places.iter().position(wrong) {
            Some(nid) => Err(bad(Nid(nid as u64), "its link count is wrong")),
            None => Ok(()),
        }
    }
}

fn bad(nid: Nid, reason: &'static str) -> ReadError {
    ReadError::Inode { nid, reason }
}

fn check_parent(nid: Nid, found: Nid, parent: Nid) -> Result<(), ReadError> {
    if found == parent {
        return Ok(());
    }
    Err(bad(nid, "its `..` does not lead to its parent"))
}
