//! What the layers cost, and giving it back: plan, then do.
//!
//! A layer goes as a whole, the one that was opened longest ago first; or all but some of its blocks
//! do ([`Layers::shrink`]). One that is open in this
//! process is never touched, nor one that the caller names as in use (for instance one that is
//! mounted while its daemon starts again).

use std::collections::HashSet;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::SystemTime;

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
    /// When it was last opened or filled.
    pub last_used: SystemTime,
    /// Whether it is open in this process.
    pub is_open: bool,
}

/// What an eviction would remove.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Plan {
    /// The layers, the longest unused first.
    pub evict: Vec<Usage>,
    /// Bytes that this gives back.
    pub freed: u64,
    /// Bytes that the layers take now.
    pub before: u64,
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
    /// What each layer costs, the longest unused first.
    ///
    /// # Errors
    /// [`FileError`] if a directory or a file cannot be looked at.
    pub fn usage(&self) -> Result<Vec<Usage>, FileError> {
        let mut all = Vec::new();
        for layer in self.list()? {
            all.push(self.usage_of(layer)?);
        }
        all.sort_by_key(|usage| (usage.last_used, usage.layer));
        Ok(all)
    }

    fn usage_of(&self, layer: DiffId) -> Result<Usage, FileError> {
        let dir = self.dir(&layer);
        let mut usage = Usage {
            layer,
            allocated: 0,
            tar_size: 0,
            last_used: SystemTime::UNIX_EPOCH,
            is_open: self.in_use(&layer).is_some(),
        };
        for entry in fs::read_dir(&dir).map_err(failed("list", &dir))? {
            let path = entry.map_err(failed("list", &dir))?.path();
            let metadata = file::if_exists(fs::metadata(&path)).map_err(failed("stat", &path))?;
            let Some(metadata) = metadata else { continue };
            usage.allocated += metadata.blocks() * STAT_BLOCK;
            let modified = metadata.modified().map_err(failed("stat", &path))?;
            usage.last_used = usage.last_used.max(modified);
            if path == LayerTar::path_in(&dir) {
                usage.tar_size = metadata.len();
            }
        }
        Ok(usage)
    }

    /// What to remove so that the layers take at most `target` bytes: as much of it as is not in
    /// use.
    ///
    /// # Errors
    /// As [`Layers::usage`].
    pub fn plan_eviction(&self, target: u64, in_use: &HashSet<DiffId>) -> Result<Plan, FileError> {
        let all = self.usage()?;
        let before = all.iter().map(|usage| usage.allocated).sum();
        let mut plan = Plan {
            before,
            ..Plan::default()
        };
        for usage in all {
            if before - plan.freed <= target {
                break;
            }
            if !usage.is_open && !in_use.contains(&usage.layer) {
                plan.freed += usage.allocated;
                plan.evict.push(usage);
            }
        }
        Ok(plan)
    }

    /// Does what the plan says; a layer that was opened meanwhile stays. Gives the bytes that came
    /// back.
    ///
    /// # Errors
    /// [`RemoveError::File`]; what was removed before stays removed.
    pub fn apply(&self, plan: &Plan) -> Result<u64, RemoveError> {
        let mut freed = 0;
        for usage in &plan.evict {
            match self.remove(&usage.layer) {
                Ok(()) => freed += usage.allocated,
                Err(RemoveError::InUse { layer }) => {
                    tracing::debug!(%layer, "not evicted: it is in use again");
                }
                Err(error) => return Err(error),
            }
        }
        Ok(freed)
    }

    /// Gives back what a layer takes for blocks that `keep` (in order) has not; 0 for one that is
    /// in use. Nobody may have it open here. `alone` runs what it is given if nobody else has the
    /// file open, a kernel's mount among them, and nobody can open it meanwhile.
    ///
    /// # Errors
    /// [`RemoveError::InUse`] if it is open here, [`RemoveError::Tar`].
    pub fn shrink(
        &self,
        layer: &DiffId,
        keep: &[BlockRun],
        alone: impl FnOnce(&File, &mut dyn FnMut()) -> io::Result<()>,
    ) -> Result<u64, RemoveError> {
        let layer = *layer;
        let shrunk = self.unless_in_use(&layer, |dir| {
            let path = LayerTar::path_in(dir);
            let Some((_, presence)) = PresenceReader::beside(&path) else {
                return Ok(0); // Not opened in this boot: what is there is not known.
            };
            let tar = self.open_file(layer, presence.tar_size(), None)?;
            let spare = tar.spare(keep);
            let mut freed = Ok(None);
            let mut punch = || freed = tar.punch(&spare, || Ok::<_, TarError>(()));
            alone(tar.file(), &mut punch).map_err(|source| TarError::File {
                diff_id: layer,
                source: failed("see who uses", &path)(source),
            })?;
            let freed = freed?;
            tar.sync()?;
            Ok(freed.unwrap_or(0))
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
