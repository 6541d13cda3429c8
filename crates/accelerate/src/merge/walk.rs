//! Following a path through the tree, as a chroot would.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashSet};

use thaw_erofs::{Content, Inode, InodeId, Tree};
use thaw_layer::tar::{Entry, EntryKind};

use super::path::{self, Meaning, components};
use super::{EntryError, MAX_DEPTH, MAX_LINKS, MAX_STEPS, Merger, implied};

/// What to do where a directory is lacking on the way.
#[derive(Clone, Copy)]
pub(super) enum Missing<'a> {
    /// Make it.
    Make,
    /// There is nothing then.
    Stop,
    /// The same, also at symbolic links that stand where one of these paths goes: the layer is
    /// about to replace them.
    StopAt(&'a HashSet<Vec<u8>>),
}

/// A walk under way.
struct Walk<'p> {
    /// The directories from the root to where it stands.
    above: Vec<InodeId>,
    /// The path, and over it what links put before its rest. They are not put together: each link
    /// would copy all that is left, and it takes few to have some hundred times an entry.
    ways: Vec<Way<'p>>,
    links: usize,
}

/// A path that is being walked.
struct Way<'p> {
    path: Cow<'p, [u8]>,
    /// How much of it is behind the walk.
    at: usize,
}

impl<'p> Walk<'p> {
    fn new(root: InodeId, path: &'p [u8]) -> Self {
        Self {
            above: vec![root],
            ways: vec![Way {
                path: Cow::Borrowed(path),
                at: 0,
            }],
            links: 0,
        }
    }

    /// Steps over the next component.
    fn next(&mut self) -> Option<Name> {
        loop {
            let Way { path, at } = self.ways.last_mut()?;
            let rest = path.get(*at..).unwrap_or_default();
            if let Some(skipped) = rest.iter().position(|byte| *byte != b'/') {
                let start = *at + skipped;
                let len = path[start..].iter().position(|byte| *byte == b'/');
                *at = len.map_or(path.len(), |len| start + len);
                return Some(Name(start..*at));
            }
            self.ways.pop();
        }
    }

    /// The component that was stepped over last.
    fn name(&self, name: &Name) -> &[u8] {
        let way = self.ways.last();
        way.map_or(b"", |way| &way.path[name.0.clone()])
    }

    /// The path at hand up to there.
    fn walked(&self) -> &[u8] {
        self.ways.last().map_or(b"", |way| &way.path[..way.at])
    }

    /// Goes to the directory above; the root's is the root.
    fn up(&mut self) -> bool {
        if self.above.len() > 1 {
            self.above.pop();
        }
        true
    }

    /// Goes on where a symbolic link leads.
    fn follow(&mut self, target: &[u8]) -> Result<(), EntryError> {
        self.links += 1;
        if self.links > MAX_LINKS {
            return Err(EntryError::Links);
        }
        if target.starts_with(b"/") {
            self.above.truncate(1);
        }
        self.ways.push(Way {
            path: Cow::Owned(target.to_vec()),
            at: 0,
        });
        Ok(())
    }
}

/// Where a component lies in the way at hand.
struct Name(std::ops::Range<usize>);

impl Merger<'_> {
    /// Finds the directory of a path; `None` where there is none and none is to be made.
    pub(super) fn walk(
        &mut self,
        path: &[u8],
        missing: Missing<'_>,
    ) -> Result<Option<InodeId>, EntryError> {
        let mut walk = Walk::new(self.tree.root(), path);
        while let Some(name) = walk.next() {
            self.steps += 1;
            if self.steps > MAX_STEPS {
                return Err(EntryError::Steps);
            }
            let ahead = match walk.name(&name) {
                b"." => true,
                b".." => walk.up(),
                _ => self.step(&mut walk, &name, missing)?,
            };
            if !ahead {
                return Ok(None);
            }
        }
        Ok(walk.above.pop())
    }

    /// Walks into what has a name; says whether it could.
    fn step(
        &mut self,
        walk: &mut Walk<'_>,
        name: &Name,
        missing: Missing<'_>,
    ) -> Result<bool, EntryError> {
        let here = walk.above.last().copied().unwrap_or(self.tree.root());
        let found = self.tree.lookup(here, walk.name(name));
        match (found, found.map(|id| &self.tree.get(id).content), missing) {
            (Some(id), Some(Content::Directory(_)), _) => walk.above.push(id),
            (_, Some(Content::Symlink(_)), Missing::StopAt(own))
                if walk.links == 0 && own.contains(&normal(walk.walked())) =>
            {
                return Ok(false);
            }
            (_, Some(Content::Symlink(target)), _) => walk.follow(target)?,
            (_, _, Missing::Stop | Missing::StopAt(_)) => return Ok(false),
            (Some(id), _, Missing::Make) if self.is_own(id) => {
                return Err(EntryError::NotDirectory(walk.walked().to_vec()));
            }
            (_, _, Missing::Make) => {
                let content = Content::Directory(BTreeMap::new());
                let made = Inode {
                    attributes: implied(),
                    content,
                };
                let id = self.add_from(made, super::IMPLIED)?;
                self.link(here, walk.name(name), id)?;
                walk.above.push(id);
            }
        }
        if walk.above.len() > MAX_DEPTH {
            return Err(EntryError::Deep);
        }
        Ok(true)
    }
}

/// Finds what a path leads to, symbolic links followed to the end, within the root. Each component on
/// the way is taken from `steps`; where none is left nothing is found.
pub(crate) fn resolve(tree: &Tree, path: &[u8], steps: &mut u64) -> Option<InodeId> {
    let mut walk = Walk::new(tree.root(), path);
    while let Some(name) = walk.next() {
        *steps = steps.checked_sub(1)?;
        match walk.name(&name) {
            b"." => continue,
            b".." => {
                walk.up();
                continue;
            }
            _ => {}
        }
        let id = tree.lookup(*walk.above.last()?, walk.name(&name))?;
        match &tree.get(id).content {
            Content::Directory(_) => walk.above.push(id),
            Content::Symlink(target) => walk.follow(target).ok()?,
            _ => return walk.next().is_none().then_some(id),
        }
    }
    walk.above.pop()
}

/// The paths that a layer puts something else than a symbolic link at.
pub(super) fn own_paths(entries: &[Entry]) -> HashSet<Vec<u8>> {
    let is_plain = |entry: &&Entry| {
        let meaning = path::meaning(&entry.path);
        matches!(meaning, Ok(Meaning::Plain(_))) && !matches!(entry.kind, EntryKind::Symlink(_))
    };
    entries
        .iter()
        .filter(is_plain)
        .map(|entry| normal(&entry.path))
        .collect()
}

/// The components of a path, each behind a slash.
fn normal(path: &[u8]) -> Vec<u8> {
    let mut normal = Vec::with_capacity(path.len() + 1);
    for name in components(path) {
        normal.push(b'/');
        normal.extend_from_slice(name);
    }
    normal
}
