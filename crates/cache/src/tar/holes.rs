//! Giving blocks back.

use std::fs::File;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use rustix::fs::FallocateFlags;
use thaw_image::{BLOCK, BlockRun};

use super::{LayerTar, TarError, lock};
use crate::file::{FileError, failed};
use crate::space::STAT_BLOCK;

/// Blocks of a page: a filesystem gives back no less.
const PAGE_BLOCKS: u64 = 4096 / BLOCK;

impl LayerTar {
    /// The blocks that are there and that `keep` (in order) has not, in whole pages: what a punch
    /// can give back.
    #[must_use]
    pub fn spare(&self, keep: &[BlockRun]) -> Vec<BlockRun> {
        let all = BlockRun {
            first: 0,
            count: self.size.div_ceil(BLOCK),
        };
        let absent = self.presence.map.missing(all);
        let mut stays: Vec<BlockRun> = keep.iter().chain(&absent).copied().collect();
        stays.sort_by_key(|run| run.first);
        let mut spare = Vec::new();
        let mut at = 0u64;
        let end = BlockRun {
            first: all.count,
            count: 0,
        };
        for run in stays.iter().chain([&end]) {
            let first = at.next_multiple_of(PAGE_BLOCKS);
            // The last page may be short.
            let next = match run.first.min(all.count) {
                last if last == all.count => last,
                other => other / PAGE_BLOCKS * PAGE_BLOCKS,
            };
            if first < next {
                spare.push(BlockRun {
                    first,
                    count: next - first,
                });
            }
            at = at.max(run.end());
        }
        spare
    }

    /// Gives the space of `runs` back: their blocks are not there any more. `quiet` is called when
    /// nobody can find them any more, and returns when nobody in another process uses them who
    /// found them before; if it fails, their space stays taken until they are fetched or the layer
    /// is removed. `None` if the layer is in use here at this moment.
    ///
    /// # Errors
    /// [`TarError::File`], or what `quiet` says.
    pub fn punch<E: From<TarError>>(
        &self,
        runs: &[BlockRun],
        quiet: impl FnOnce() -> Result<(), E>,
    ) -> Result<Option<u64>, E> {
        let Ok(_alone) = self.holes.try_write() else {
            return Ok(None);
        };
        let named = |error| E::from(self.file_error(error));
        let mut synced = lock(&self.syncing);
        *synced = None;
        self.presence.clear(runs).map_err(named)?;
        quiet()?;
        let before = self.allocated().map_err(named)?;
        let full = self.size.div_ceil(BLOCK) * BLOCK;
        punch_holes(&self.file, &self.path, runs, full).map_err(named)?;
        Ok(Some(
            before.saturating_sub(self.allocated().map_err(named)?),
        ))
    }

    /// Bytes that the file takes on the disk.
    fn allocated(&self) -> Result<u64, FileError> {
        let metadata = self.file.metadata().map_err(failed("stat", &self.path))?;
        Ok(metadata.blocks() * STAT_BLOCK)
    }
}

/// Makes holes of `runs` in a file of `full` bytes.
pub(super) fn punch_holes(
    file: &File,
    path: &Path,
    runs: &[BlockRun],
    full: u64,
) -> Result<(), FileError> {
    runs.iter().try_for_each(|run| {
        let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        let extent = run.extent(full);
        rustix::fs::fallocate(file, flags, extent.offset, extent.len)
            .map_err(|error| failed("punch holes into", path)(error.into()))
    })
}
