//! The layers of a store: at most one [`LayerTar`] per layer in this process.
//!
//! Locks: `slots` (never over I/O), then one slot (held while that layer is opened, installed or
//! removed, none of which happens on the way of a fault).

use std::collections::HashMap;
use std::fs::{self, File};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use rustix::fs::{OFlags, fcntl_getfl};
use thaw_image::{DiffId, Digest, Extent};

use crate::file::{self, FileError, failed};
use crate::incoming::Incoming;
use crate::presence::{MAX_TAR_BYTES, PresenceReader, Subject};
use crate::store::{BootId, Places};
use crate::tar::{LayerTar, TarError};

type Slot = Arc<Mutex<Weak<LayerTar>>>;

/// The layers of a store. See the [module](self).
#[derive(Clone, Debug)]
pub struct Layers {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    places: Places,
    boot: BootId,
    slots: Mutex<HashMap<DiffId, Slot>>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Layers {
    pub(crate) fn new(places: Places, boot: BootId) -> Self {
        Self {
            shared: Arc::new(Shared {
                places,
                boot,
                slots: Mutex::default(),
            }),
        }
    }

    /// The tar of a layer: the one that is open already, or else the file, which is made with all
    /// of its size (and no block) if it is not there. Open it *before* its file is
    /// marked or mounted (see [`crate::tar`]).
    ///
    /// # Errors
    /// [`TarError::Size`] if the layer is known with other bytes, [`TarError::TooLarge`],
    /// [`TarError::File`] from the disk.
    pub fn open(&self, diff_id: &DiffId, tar_size: u64) -> Result<Arc<LayerTar>, TarError> {
        self.open_with(diff_id, tar_size, None)
    }

    /// [`Layers::open`] where the file is marked already: by a process before this one, which left
    /// `file`, its read-write descriptor from before the mark.
    ///
    /// # Errors
    /// As [`Layers::open`], and [`TarError::Descriptor`] if `file` is another file, or only to be read.
    pub fn adopt(
        &self,
        diff_id: &DiffId,
        tar_size: u64,
        file: File,
    ) -> Result<Arc<LayerTar>, TarError> {
        self.open_with(diff_id, tar_size, Some(file))
    }

    fn open_with(
        &self,
        diff_id: &DiffId,
        tar_size: u64,
        file: Option<File>,
    ) -> Result<Arc<LayerTar>, TarError> {
        let diff_id = *diff_id;
        if tar_size > MAX_TAR_BYTES {
            return Err(TarError::TooLarge { diff_id, tar_size });
        }
        let slot = self.slot(&diff_id);
        let mut slot = lock(&slot);
        if let Some(layer) = slot.upgrade() {
            return same_size(layer, tar_size);
        }
        let layer = Arc::new(self.open_file(diff_id, tar_size, file)?);
        *slot = Arc::downgrade(&layer);
        Ok(layer)
    }

    pub(crate) fn open_file(
        &self,
        diff_id: DiffId,
        tar_size: u64,
        file: Option<File>,
    ) -> Result<LayerTar, TarError> {
        let named = |source| TarError::File { diff_id, source };
        let dir = self.dir(&diff_id);
        file::make_dir(&dir).map_err(named)?;
        let path = LayerTar::path_in(&dir);
        let file = match file {
            Some(file) if is_file_at(&file, &path) => file,
            Some(_) => return Err(TarError::Descriptor { diff_id }),
            None => file::open_rw(&path).map_err(named)?,
        };
        let subject = self.subject(diff_id, tar_size);
        LayerTar::open(&dir, self.tmp(), subject, file)
    }

    /// Starts a full pull of a layer: a tar to be written from front to end.
    ///
    /// # Errors
    /// [`FileError`] if its file cannot be made.
    pub fn incoming(&self, diff_id: &DiffId) -> Result<Incoming, FileError> {
        Incoming::new(self.clone(), *diff_id)
    }

    /// The layer, if it is open in this process: in use.
    #[must_use]
    pub fn in_use(&self, diff_id: &DiffId) -> Option<Arc<LayerTar>> {
        let slot = lock(&self.shared.slots).get(diff_id).cloned()?;
        lock(&slot).upgrade()
    }

    /// Whether the layer has a directory here.
    #[must_use]
    pub fn contains(&self, diff_id: &DiffId) -> bool {
        self.dir(diff_id).is_dir()
    }

    /// Whether a layer is here without holes, by what stands beside its tar, which is not opened.
    #[must_use]
    pub fn has_no_holes(&self, diff_id: &DiffId) -> bool {
        let known = PresenceReader::beside(&LayerTar::path_in(&self.dir(diff_id)));
        known.is_some_and(|(_, presence)| {
            let all = Extent::between(0, presence.tar_size());
            presence.contains(all).unwrap_or(false)
        })
    }

    /// The layers that have a directory here, in no order.
    ///
    /// # Errors
    /// [`FileError`] if the directory cannot be listed.
    pub fn list(&self) -> Result<Vec<DiffId>, FileError> {
        let dir = &self.shared.places.layers;
        let mut layers = Vec::new();
        for entry in fs::read_dir(dir).map_err(failed("list", dir))? {
            let name = entry.map_err(failed("list", dir))?.file_name();
            let digest = name.to_str().and_then(|hex| Digest::from_hex(hex).ok());
            layers.extend(digest.map(DiffId));
        }
        Ok(layers)
    }

    /// Makes a proven tar the layer; see [`Incoming::commit`].
    pub(crate) fn install(
        &self,
        diff_id: &DiffId,
        tar_size: u64,
        incoming: Incoming,
    ) -> Result<Arc<LayerTar>, TarError> {
        let diff_id = *diff_id;
        let named = |source| TarError::File { diff_id, source };
        let slot = self.slot(&diff_id);
        let mut slot = lock(&slot);
        match slot.upgrade() {
            Some(layer) if layer.tar_size() == tar_size => {
                incoming.complete(&layer)?;
                return Ok(layer);
            }
            Some(layer) => layer.make_way(tar_size)?,
            None => {}
        }
        let dir = self.dir(&diff_id);
        file::make_dir(&dir).map_err(named)?;
        let subject = self.subject(diff_id, tar_size);
        incoming.replace(&dir, subject).map_err(named)?;
        let layer = Arc::new(self.open_file(diff_id, tar_size, None)?);
        *slot = Arc::downgrade(&layer);
        Ok(layer)
    }

    /// Runs `work` on a layer's directory while nobody has the layer open or opens it; `None` if
    /// somebody has.
    pub(crate) fn unless_in_use<T>(
        &self,
        diff_id: &DiffId,
        work: impl FnOnce(&Path) -> T,
    ) -> Option<T> {
        let slot = self.slot(diff_id);
        let slot = lock(&slot);
        (slot.strong_count() == 0).then(|| work(&self.dir(diff_id)))
    }

    fn slot(&self, diff_id: &DiffId) -> Slot {
        let mut slots = lock(&self.shared.slots);
        // Forget the layers that nobody holds; a slot in use elsewhere has a second owner.
        // One with no other owner is not locked, so this does not wait.
        slots.retain(|_, slot| Arc::strong_count(slot) > 1 || lock(slot).strong_count() > 0);
        slots.entry(*diff_id).or_default().clone()
    }

    pub(crate) fn dir(&self, diff_id: &DiffId) -> PathBuf {
        self.shared.places.layers.join(diff_id.0.hex())
    }

    fn subject(&self, diff_id: DiffId, tar_size: u64) -> Subject {
        Subject {
            diff_id,
            tar_size,
            boot: self.shared.boot,
        }
    }

    pub(crate) fn tmp(&self) -> &Path {
        &self.shared.places.tmp
    }
}

fn same_size(layer: Arc<LayerTar>, asked: u64) -> Result<Arc<LayerTar>, TarError> {
    if layer.tar_size() == asked {
        return Ok(layer);
    }
    Err(TarError::Size {
        diff_id: layer.diff_id(),
        known: layer.tar_size(),
        asked,
    })
}

/// Whether `file` is the one at `path`, and can be written to.
fn is_file_at(file: &File, path: &Path) -> bool {
    let is_for_both = fcntl_getfl(file).is_ok_and(|flags| flags & OFlags::ACCMODE == OFlags::RDWR);
    match (file.metadata(), fs::metadata(path)) {
        (Ok(a), Ok(b)) => is_for_both && (a.dev(), a.ino()) == (b.dev(), b.ino()),
        _ => false,
    }
}
