//! What the layers cost, and giving it back: plan, then do.
//!
//! A layer goes as a whole ([`Layers::remove`]), or all but some of its blocks do ([`Layers::shrink`]). One that is open in this
//! process is never touched. Which goes first, and whether something else needs it, the caller knows.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use thaw_image::{BlockRun, DiffId};

use crate::file::{self, FileError, failed};
use crate::layers::Layers;
use crate::presence::{Presence, PresenceReader};
use crate::tar::{LayerTar, TarError};

/// Bytes in the unit of `st_blocks` (stat(2)).
pub(crate) const STAT_BLOCK: u64 = 512;

/// What one layer costs.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Usage {
    /// The layer.
    pub layer: DiffId,
    /// Bytes that its files take on the disk. Holes take none.
    pub allocated: u64,
    /// Bytes of its tar, rounded up to a block.
    pub tar_size: u64,
    /// Whether it is open in this process.
    pub is_open: bool,
}

/// Why a layer was not removed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RemoveError {
    /// It is open: stop what uses it first.
    #[error("layer {layer} is in use")]
    InUse {
        /// Which.
        layer: DiffId,
    },
    /// Its tar.
    #[error("layer {layer} does not give its space back")]
    Tar {
        /// Which.
        layer: DiffId,
        /// What failed.
        #[source]
        source: TarError,
    },
    /// The disk.
    #[error("layer {layer} is not, or not wholly, removed")]
    File {
        /// Which.
        layer: DiffId,
        /// What failed.
        #[source]
        source: FileError,
    },
}

impl Layers {
    /// What each layer costs, by diffID.
    ///
    /// # Errors
    /// [`FileError`] if a directory or a file cannot be looked at.
    pub fn usage(&self) -> Result<Vec<Usage>, FileError> {
        let mut all = Vec::new();
        for layer in self.list()? {
            all.push(self.usage_of(layer)?);
        }
        all.sort_by_key(|usage| usage.layer);
        Ok(all)
    }

    /// What a layer costs; nothing where it is not here.
    ///
    /// # Errors
    /// As [`Layers::usage`].
    pub fn usage_of(&self, layer: DiffId) -> Result<Usage, FileError> {
        let dir = self.dir(&layer);
        let mut usage = Usage {
            layer,
            allocated: 0,
            tar_size: 0,
            is_open: self.in_use(&layer).is_some(),
        };
        let list = file::if_exists(fs::read_dir(&dir)).map_err(failed("list", &dir))?;
        for entry in list.into_iter().flatten() {
            let path = entry.map_err(failed("list", &dir))?.path();
            let metadata = file::if_exists(fs::metadata(&path)).map_err(failed("stat", &path))?;
            let Some(metadata) = metadata else { continue };
            usage.allocated += metadata.blocks() * STAT_BLOCK;
            if path == LayerTar::path_in(&dir) {
                usage.tar_size = metadata.len();
            }
        }
        Ok(usage)
    }

    /// Gives back what a layer takes for blocks that `keep` (in order) has not; nobody may have it open here. `alone` runs what it
    /// is given if nobody else has the file open, a kernel's mount among them, and nobody can open it meanwhile, and says whether
    /// it did. `None` where it did not. One of which nothing is known here stays as it is.
    ///
    /// # Errors
    /// [`RemoveError::InUse`] if it is open here, [`RemoveError::Tar`].
    pub fn shrink(
        &self,
        layer: &DiffId,
        keep: &[BlockRun],
        alone: impl FnOnce(&File, &mut dyn FnMut()) -> io::Result<bool>,
    ) -> Result<Option<u64>, RemoveError> {
        let layer = *layer;
        let named = |source| TarError::File {
            diff_id: layer,
            source,
        };
        let shrunk = self.unless_in_use(&layer, |dir| {
            let path = LayerTar::path_in(dir);
            let Some((_, presence)) = PresenceReader::beside(&path) else {
                let tar = file::if_exists(File::open(&path)).map_err(failed("open", &path));
                let Some(tar) = tar.map_err(named)? else {
                    return Ok(Some(0));
                };
                let is_alone = alone(&tar, &mut || ()).map_err(failed("see who uses", &path));
                return Ok(is_alone.map_err(named)?.then_some(0));
            };
            let tar = self.open_file(layer, presence.tar_size(), None)?;
            let spare = tar.spare(keep);
            let mut freed = Ok(None);
            let mut punch = || freed = tar.punch(&spare, || Ok::<_, TarError>(()));
            let is_alone = alone(tar.file(), &mut punch).map_err(failed("see who uses", &path));
            if !is_alone.map_err(named)? {
                return Ok(None);
            }
            let freed = freed?;
            tar.sync()?;
            Ok(Some(freed.unwrap_or(0)))
        });
        match shrunk {
            None => Err(RemoveError::InUse { layer }),
            Some(shrunk) => shrunk.map_err(|source| RemoveError::Tar { layer, source }),
        }
    }

    /// Removes a layer that nobody has open. That it is not here is no error.
    ///
    /// # Errors
    /// See [`RemoveError`].
    pub fn remove(&self, layer: &DiffId) -> Result<(), RemoveError> {
        let layer = *layer;
        match self.unless_in_use(&layer, remove_files) {
            None => Err(RemoveError::InUse { layer }),
            Some(Err(source)) => Err(RemoveError::File { layer, source }),
            Some(Ok(())) => Ok(()),
        }
    }
}

/// Removes what says that bytes are there before it removes the bytes.
fn remove_files(dir: &Path) -> Result<(), FileError> {
    Presence::remove_durable(dir)?;
    file::remove(&Presence::live_path(dir))?;
    file::remove(&LayerTar::path_in(dir))?;
    file::if_exists(fs::remove_dir(dir))
        .map(drop)
        .map_err(failed("remove", dir))
}
