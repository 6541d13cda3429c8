//! Directories made of layers, for machines that mount no layout.
//!
//! ```text
//! ROOT/trees/<diffid hex>/fs            the layer's files
//! ROOT/trees/<diffid hex>/headers       the headers of its tar
//! ROOT/trees/<diffid hex>/state         since which boot it is here, or that it is durable; its bytes
//! ROOT/corrections/<manifest hex>/…     the same for what an image's layers lack
//! ```
//!
//! **Order.** A tree is made in `ROOT/tmp`, and gets its name when it is all there and the layer was
//! proven right. It goes the same way back: into `ROOT/tmp`, then bit by bit. So what has its name
//! is whole, whichever process is killed at whichever instant.
//!
//! **Over a crash of the kernel** that does not hold: names may reach the disk before bytes. A tree
//! carries the boot in which it was made, until [`Trees::settle`] has synced the filesystem; in another
//! boot only a durable one is believed, and any other is removed, for its files cannot be hashed again.
//!
//! Lock: `open`, never over I/O but for the rename of a tree that goes.

use std::collections::{BTreeSet, HashMap};
use std::fs::{self, File};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use thaw_image::{DiffId, Digest};
use thaw_layer::TarProof;

use crate::file::{self, FileError, TempDir, failed};
use crate::space::RemoveError;
use crate::store::BootId;
use crate::tar::TarError;

/// First line of the state of a tree that is durable.
const SETTLED: &str = "settled";

/// Directories by digest: those of layers, or those of images. See the [module](self).
#[derive(Clone, Debug)]
pub struct Trees {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    dir: PathBuf,
    tmp: PathBuf,
    boot: BootId,
    open: Mutex<HashMap<Digest, Weak<Tree>>>,
    /// Here, and not durable yet.
    unsettled: Mutex<BTreeSet<Digest>>,
}

/// A tree that is in use: it is not removed while this lives.
#[derive(Debug)]
pub struct Tree {
    digest: Digest,
    dir: PathBuf,
    bytes: u64,
}

impl Tree {
    /// Of what it is.
    #[must_use]
    pub const fn digest(&self) -> &Digest {
        &self.digest
    }

    /// Where it is.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Bytes that it takes on the disk, about.
    #[must_use]
    pub const fn bytes(&self) -> u64 {
        self.bytes
    }
}

/// What the state file says.
struct State {
    settled: bool,
    boot: Option<u128>,
    bytes: u64,
}

impl State {
    fn read(dir: &Path) -> Option<Self> {
        let text = fs::read_to_string(dir.join("state")).ok()?;
        let mut lines = text.lines();
        let (since, bytes) = (lines.next()?, lines.next()?);
        Some(Self {
            settled: since == SETTLED,
            boot: u128::from_str_radix(since, 16).ok(),
            bytes: bytes.parse().ok()?,
        })
    }

    fn is_believed(&self, boot: BootId) -> bool {
        self.settled || self.boot == Some(u128::from_be_bytes(boot.0))
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Trees {
    /// Removes what a crash of the machine has left.
    pub(crate) fn open(dir: PathBuf, tmp: PathBuf, boot: BootId) -> Result<Self, FileError> {
        file::make_dir(&dir)?;
        let trees = Self {
            shared: Arc::new(Shared {
                dir,
                tmp,
                boot,
                open: Mutex::default(),
                unsettled: Mutex::default(),
            }),
        };
        for digest in trees.names()? {
            match State::read(&trees.dir(&digest)) {
                Some(state) if state.settled => {}
                Some(state) if state.is_believed(boot) => {
                    lock(&trees.shared.unsettled).insert(digest);
                }
                _ => {
                    tracing::info!(%digest, "a directory was not all on the disk and is removed");
                    trees.take_away(&digest)?;
                }
            }
        }
        Ok(trees)
    }

    fn dir(&self, digest: &Digest) -> PathBuf {
        self.shared.dir.join(digest.hex())
    }

    fn names(&self) -> Result<Vec<Digest>, FileError> {
        let dir = &self.shared.dir;
        let mut names = Vec::new();
        for entry in fs::read_dir(dir).map_err(failed("list", dir))? {
            let name = entry.map_err(failed("list", dir))?.file_name();
            names.extend(name.to_str().and_then(|hex| Digest::from_hex(hex).ok()));
        }
        Ok(names)
    }

    /// The tree, if it is here.
    #[must_use]
    pub fn get(&self, digest: &Digest) -> Option<Arc<Tree>> {
        let mut open = lock(&self.shared.open);
        if let Some(tree) = open.get(digest).and_then(Weak::upgrade) {
            return Some(tree);
        }
        let dir = self.dir(digest);
        let state = State::read(&dir).filter(|state| state.is_believed(self.shared.boot))?;
        let tree = Arc::new(Tree {
            digest: *digest,
            dir,
            bytes: state.bytes,
        });
        open.retain(|_, tree| tree.strong_count() > 0);
        open.insert(*digest, Arc::downgrade(&tree));
        Some(tree)
    }

    /// Starts a tree: a directory to be filled.
    ///
    /// # Errors
    /// [`FileError`] if it cannot be made.
    pub fn incoming(&self, digest: &Digest) -> Result<IncomingTree, FileError> {
        Ok(IncomingTree {
            trees: self.clone(),
            digest: *digest,
            dir: TempDir::new(&self.shared.tmp)?,
        })
    }

    /// Every tree here with its bytes, in no order.
    ///
    /// # Errors
    /// [`FileError`] if the directory cannot be listed.
    pub fn list(&self) -> Result<Vec<(Digest, u64)>, FileError> {
        let names = self.names()?.into_iter();
        let bytes = |digest: &Digest| State::read(&self.dir(digest)).map_or(0, |it| it.bytes);
        Ok(names.map(|digest| (digest, bytes(&digest))).collect())
    }

    /// Removes a tree that nobody uses. That it is not here is no error.
    ///
    /// # Errors
    /// See [`RemoveError`].
    pub fn remove(&self, digest: &Digest) -> Result<(), RemoveError> {
        let layer = DiffId(*digest);
        self.take_away(digest)
            .map_err(|source| RemoveError::File { layer, source })?
            .ok_or(RemoveError::InUse { layer })
    }

    /// `None` if somebody uses it.
    fn take_away(&self, digest: &Digest) -> Result<Option<()>, FileError> {
        let going = TempDir::new(&self.shared.tmp)?;
        {
            let open = lock(&self.shared.open);
            if open.get(digest).is_some_and(|tree| tree.strong_count() > 0) {
                return Ok(None);
            }
            let dir = self.dir(digest);
            file::if_exists(fs::rename(&dir, going.path())).map_err(failed("remove", &dir))?;
        }
        lock(&self.shared.unsettled).remove(digest);
        going.remove().map(Some)
    }

    /// Makes durable what was made. One that was removed meanwhile is passed over.
    ///
    /// # Errors
    /// [`FileError`]; what is not durable then stays to be settled.
    pub fn settle(&self) -> Result<(), FileError> {
        let made: Vec<Digest> = lock(&self.shared.unsettled).iter().copied().collect();
        if made.is_empty() {
            return Ok(());
        }
        let dir = &self.shared.dir;
        let synced = File::open(dir).and_then(|file| Ok(rustix::fs::syncfs(&file)?));
        synced.map_err(failed("sync", dir))?;
        for digest in &made {
            // In use, it is not removed in between.
            if let Some(tree) = self.get(digest) {
                let text = format!("{SETTLED}\n{}\n", tree.bytes);
                file::replace(
                    &self.shared.tmp,
                    &tree.dir.join("state"),
                    &[text.as_bytes()],
                )?;
            }
        }
        lock(&self.shared.unsettled).retain(|digest| !made.contains(digest));
        Ok(())
    }
}

/// A tree that is being made. Dropped, it leaves nothing behind.
#[derive(Debug)]
pub struct IncomingTree {
    trees: Trees,
    digest: Digest,
    dir: TempDir,
}

impl IncomingTree {
    /// The directory to be filled.
    #[must_use]
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// Gives a layer's tree its name: `proof` is that of the pass whose tar it was made of, and `bytes`
    /// what it takes on the disk. It survives a crash of the machine after [`Trees::settle`].
    ///
    /// # Errors
    /// [`TarError::NotItsDiffId`] for the proof of another tar, [`TarError::File`].
    pub fn commit_layer(self, proof: &TarProof, bytes: u64) -> Result<Arc<Tree>, TarError> {
        let (diff_id, actual) = (DiffId(self.digest), proof.diff_id().0);
        if proof.diff_id() != diff_id {
            return Err(TarError::NotItsDiffId { diff_id, actual });
        }
        let committed = self.commit(bytes);
        committed.map_err(|source| TarError::File { diff_id, source })
    }

    /// Gives the tree its name. Where there is one of that name already, that one is taken.
    ///
    /// # Errors
    /// [`FileError`].
    pub fn commit(self, bytes: u64) -> Result<Arc<Tree>, FileError> {
        let Self { trees, digest, dir } = self;
        let boot = u128::from_be_bytes(trees.shared.boot.0);
        let state = dir.path().join("state");
        fs::write(&state, format!("{boot:032x}\n{bytes}\n")).map_err(failed("write", &state))?;
        let target = trees.dir(&digest);
        loop {
            if let Some(there) = trees.get(&digest) {
                return Ok(there);
            }
            // An empty directory of that name is replaced; no other is without a state.
            match fs::rename(dir.path(), &target) {
                Ok(()) => break,
                // Filesystems say the one or the other.
                Err(error)
                    if matches!(
                        error.kind(),
                        ErrorKind::DirectoryNotEmpty | ErrorKind::AlreadyExists
                    ) =>
                {
                    trees.take_away(&digest)?;
                }
                Err(error) => return Err(failed("rename into place", &target)(error)),
            }
        }
        dir.keep();
        lock(&trees.shared.unsettled).insert(digest);
        let gone = || failed("find", &target)(ErrorKind::NotFound.into());
        trees.get(&digest).ok_or_else(gone)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOOT: BootId = BootId([1; 16]);
    const NEXT: BootId = BootId([2; 16]);

    fn trees(root: &Path, boot: BootId) -> Trees {
        let tmp = root.join("tmp");
        file::make_dir(&tmp).unwrap();
        Trees::open(root.join("trees"), tmp, boot).unwrap()
    }

    fn make(trees: &Trees, name: &[u8]) -> Digest {
        let digest = Digest::of(name);
        let incoming = trees.incoming(&digest).unwrap();
        fs::write(incoming.dir().join("file"), name).unwrap();
        incoming.commit(7).unwrap();
        digest
    }

    fn is_empty(dir: &Path) -> bool {
        fs::read_dir(dir).unwrap().count() == 0
    }

    #[test]
    fn a_tree_has_its_name_when_it_is_whole() {
        let root = tempfile::tempdir().unwrap();
        let trees = trees(root.path(), BOOT);
        let digest = Digest::of(b"a");
        let incoming = trees.incoming(&digest).unwrap();
        fs::write(incoming.dir().join("file"), b"half").unwrap();
        assert!(trees.get(&digest).is_none());
        drop(incoming);
        assert!(is_empty(&root.path().join("tmp")));
        make(&trees, b"a");
        let tree = trees.get(&digest).unwrap();
        assert_eq!(fs::read(tree.dir().join("file")).unwrap(), b"a");
        assert_eq!(trees.list().unwrap(), [(digest, 7)]);
        // Another of the same name is not put in the place of one that is in use.
        let inode = |tree: &Tree| {
            use std::os::unix::fs::MetadataExt;
            fs::metadata(tree.dir()).unwrap().ino()
        };
        let before = inode(&tree);
        make(&trees, b"a");
        assert_eq!(inode(&trees.get(&digest).unwrap()), before);
        assert!(is_empty(&root.path().join("tmp")));
    }

    #[test]
    fn what_is_in_use_is_not_removed() {
        let root = tempfile::tempdir().unwrap();
        let trees = trees(root.path(), BOOT);
        let digest = make(&trees, b"a");
        let used = trees.get(&digest).unwrap();
        let refused = trees.remove(&digest).unwrap_err();
        assert!(matches!(refused, RemoveError::InUse { .. }));
        drop(used);
        trees.remove(&digest).unwrap();
        assert!(trees.get(&digest).is_none());
        assert!(is_empty(&root.path().join("trees")) && is_empty(&root.path().join("tmp")));
        trees.remove(&digest).unwrap();
    }

    #[test]
    fn after_a_crash_of_the_machine_only_what_is_durable_is_believed() {
        let root = tempfile::tempdir().unwrap();
        let first = trees(root.path(), BOOT);
        let durable = make(&first, b"durable");
        first.settle().unwrap();
        let lost = make(&first, b"lost");
        // The next daemon of this boot sees both.
        let second = trees(root.path(), BOOT);
        assert!(second.get(&durable).is_some() && second.get(&lost).is_some());
        let after = trees(root.path(), NEXT);
        assert!(after.get(&durable).is_some() && after.get(&lost).is_none());
        assert_eq!(after.list().unwrap().len(), 1);
        assert!(is_empty(&root.path().join("tmp")));
    }

    #[test]
    fn a_tree_without_a_readable_state_is_none() {
        let root = tempfile::tempdir().unwrap();
        let first = trees(root.path(), BOOT);
        for text in ["", "settled\n", "settled\nmany\n", "?\n3\n"] {
            let digest = make(&first, b"a");
            fs::write(first.dir(&digest).join("state"), text).unwrap();
            assert!(first.get(&digest).is_none(), "{text:?}");
            let next = trees(root.path(), BOOT);
            assert!(next.list().unwrap().is_empty(), "{text:?}");
        }
        // Nor is it in the way of the next one of its name.
        let digest = make(&first, b"a");
        fs::write(first.dir(&digest).join("state"), "").unwrap();
        make(&first, b"a");
        assert!(first.get(&digest).is_some());
    }

    #[test]
    fn however_deep_a_tree_is_it_goes() {
        let root = tempfile::tempdir().unwrap();
        let trees = trees(root.path(), BOOT);
        let digest = Digest::of(b"deep");
        let incoming = trees.incoming(&digest).unwrap();
        let mut here = File::open(incoming.dir()).unwrap();
        for _ in 0..3000 {
            let (mode, flags) = (
                rustix::fs::Mode::RWXU,
                rustix::fs::OFlags::RDONLY | rustix::fs::OFlags::DIRECTORY,
            );
            rustix::fs::mkdirat(&here, "d", mode).unwrap();
            let next = rustix::fs::openat(&here, "d", flags, mode).unwrap();
            here = next.into();
        }
        drop(here);
        std::os::unix::fs::symlink("/etc", incoming.dir().join("link")).unwrap();
        incoming.commit(1).unwrap();
        trees.remove(&digest).unwrap();
        assert!(is_empty(&root.path().join("tmp")));
        assert!(Path::new("/etc/passwd").exists());
    }
}
