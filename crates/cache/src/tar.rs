//! The tar of one layer: a sparse file that fills up as it is read.
//!
//! Bytes come in only as [`Verified`], and a block's bit is set only when all of the block was
//! written, so whatever has its bit set is right. A chunk of a compressed layer may start and end
//! inside a block; such a block is there when the chunks on both sides were written. Until then
//! which part of it is written is remembered in memory ([`Edges`]).
//!
//! **One descriptor.** The file is watched by a pre-content mark, and a descriptor that was opened
//! *before* the mark raises no events. So the layer's one read-write descriptor is opened with the
//! layer and lives as long: **open the `LayerTar` before you mark or mount its file**, and where a
//! mark outlived the process that set it, hand in a descriptor from before
//! ([`crate::Layers::adopt`]). A second descriptor would make the daemon wait for itself.
//!
//! **Giving blocks back** ([`LayerTar::punch`]) is the only way in which a block that is there goes.
//! Whoever relies on a block between looking for its bit and using its bytes holds `holes` for
//! reading; a punch has it for writing, and the caller vouches for readers in other processes.
//!
//! **After a failed write** nothing is guessed. A full disk makes the layer refuse writes for
//! [`FULL_PAUSE`], then the next write tries again; after any other error it refuses until it is
//! opened again. Reading what is there goes on.
//!
//! Locks: `holes` first, which is only ever waited for by readers of it while a punch goes on;
//! then `syncing`, which only snapshots and punches take. Then, never held over I/O, `edges` and
//! `refusal`, each a leaf.

mod error;
mod holes;

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard};
use std::time::{Duration, Instant};

use rustix::fs::Advice;
use thaw_image::{BLOCK, BlockRun, DiffId, Digest, Extent, Hasher, Verified};

use crate::edges::Edges;
use crate::file::{FileError, failed};
use crate::presence::{Presence, Subject};
pub use error::TarError;
use holes::punch_holes;

/// For how long a layer refuses writes after the disk was full.
pub const FULL_PAUSE: Duration = Duration::from_secs(2);
const VERIFY_STEP: usize = 1 << 20;

/// A part of a [`Verified`] and where in a tar it belongs.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Placed {
    /// First byte in the verified bytes.
    pub from: u64,
    /// Where it goes.
    pub to: Extent,
}

/// Why and until when no write is tried; `None`: until the layer is opened again.
#[derive(Debug)]
struct Refusal {
    why: TarError,
    until: Option<Instant>,
}

/// The tar of one layer. See the [module](self).
#[derive(Debug)]
pub struct LayerTar {
    diff_id: DiffId,
    size: u64,
    path: PathBuf,
    tmp: PathBuf,
    file: File,
    presence: Presence,
    edges: Mutex<Edges>,
    refusal: Mutex<Option<Refusal>>,
    /// Written by [`LayerTar::punch`] alone.
    holes: RwLock<()>,
    /// Bits and wholeness at the last sync.
    syncing: Mutex<Option<(u64, bool)>>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Every critical section leaves its data in order, so a panic elsewhere does not spoil it.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl LayerTar {
    /// Opens the tar in `dir`, with `file` as its descriptor.
    pub(crate) fn open(
        dir: &Path,
        tmp: &Path,
        subject: Subject,
        file: File,
    ) -> Result<Self, TarError> {
        let diff_id = subject.diff_id;
        let named = |source| TarError::File { diff_id, source };
        let path = Self::path_in(dir);
        let full = subject.tar_size.div_ceil(BLOCK) * BLOCK;
        let metadata = file.metadata();
        let len = metadata
            .map_err(failed("stat", &path))
            .map_err(named)?
            .len();
        match Presence::whole_size(dir, &subject).map_err(named)? {
            Some(known) if known != subject.tar_size && len == known.div_ceil(BLOCK) * BLOCK => {
                let asked = subject.tar_size;
                return Err(TarError::Size {
                    diff_id,
                    known,
                    asked,
                });
            }
            _ => {}
        }
        if len != full {
            // Whatever presence says, it is not of a file that was cut or is new.
            Presence::invalidate(dir).map_err(named)?;
            file.set_len(full)
                .map_err(failed("extend", &path))
                .map_err(named)?;
        }
        let found = Presence::find(dir, &subject).map_err(named)?;
        let punch = |runs: &[BlockRun]| punch_holes(&file, &path, runs, full);
        let presence = Presence::open(dir, subject, found, punch).map_err(named)?;
        Ok(Self {
            diff_id,
            size: subject.tar_size,
            path,
            tmp: tmp.to_owned(),
            file,
            presence,
            edges: Mutex::default(),
            refusal: Mutex::default(),
            holes: RwLock::default(),
            syncing: Mutex::default(),
        })
    }

    pub(crate) fn path_in(dir: &Path) -> PathBuf {
        dir.join("tar")
    }

    /// The layer.
    #[must_use]
    pub const fn diff_id(&self) -> DiffId {
        self.diff_id
    }

    /// Bytes of the tar. The file is rounded up to a whole block.
    #[must_use]
    pub const fn tar_size(&self) -> u64 {
        self.size
    }

    /// The file, for the mount that is to use it as a device.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Waits until the presence file has every bit of what is here now.
    pub(crate) fn settle(&self) {
        self.presence.settle();
    }

    /// The presence file, for the keeper's [`crate::PresenceReader`].
    #[must_use]
    pub fn presence_path(&self) -> &Path {
        self.presence.path()
    }

    /// The descriptor that raises no events, to be kept by whoever outlives this process.
    #[must_use]
    pub const fn file(&self) -> &File {
        &self.file
    }

    /// Whether every block that `extent` touches is there. Bytes behind the tar's end do not count.
    #[must_use]
    pub fn contains(&self, extent: Extent) -> bool {
        self.presence.map.contains(self.within(extent).blocks())
    }

    /// The bytes that must still be written so that every block that `extent` touches is there:
    /// whole blocks, without those parts of them that are written already. In order.
    #[must_use]
    pub fn missing(&self, extent: Extent) -> Vec<Extent> {
        let runs = self.presence.map.missing(self.within(extent).blocks());
        if runs.is_empty() {
            return Vec::new();
        }
        let edges = lock(&self.edges);
        let extents = runs.into_iter().map(|run| run.extent(self.size));
        extents.flat_map(|extent| edges.absent(extent)).collect()
    }

    fn within(&self, extent: Extent) -> Extent {
        extent.intersect(&Extent::between(0, self.size))
    }

    /// Bytes of the blocks that are there.
    #[must_use]
    pub fn present_bytes(&self) -> u64 {
        (self.presence.map.present() * BLOCK).min(self.size)
    }

    /// Whether all of it is there and was found to have its diffID. Its mark can go.
    #[must_use]
    pub fn is_whole(&self) -> bool {
        self.presence.is_whole()
    }

    /// Whether a write would be tried. Ask before you fetch what is to be written.
    ///
    /// # Errors
    /// [`TarError::Refused`] with the earlier failure.
    pub fn writable(&self) -> Result<(), TarError> {
        let mut refusal = lock(&self.refusal);
        match &*refusal {
            None => Ok(()),
            Some(Refusal {
                until: Some(until), ..
            }) if Instant::now() >= *until => {
                *refusal = None;
                Ok(())
            }
            Some(Refusal { why, .. }) => Err(TarError::Refused {
                diff_id: self.diff_id,
                source: Box::new(why.clone()),
            }),
        }
    }

    fn refuse(&self, why: &TarError) {
        let mut refusal = lock(&self.refusal);
        let for_ever = matches!(&*refusal, Some(Refusal { until: None, .. }));
        if !for_ever {
            let until = why.is_full().then(|| Instant::now() + FULL_PAUSE);
            *refusal = Some(Refusal {
                why: why.clone(),
                until,
            });
        }
    }

    fn file_error(&self, source: FileError) -> TarError {
        TarError::File {
            diff_id: self.diff_id,
            source,
        }
    }

    /// Writes bytes at `offset`, but only where they are missing. Gives the bytes of the blocks
    /// that this made present.
    ///
    /// # Errors
    /// [`TarError::Outside`], [`TarError::Refused`], [`TarError::File`] from the disk. After an
    /// error some of the blocks may be there; those are right.
    pub fn write(&self, offset: u64, bytes: &Verified) -> Result<u64, TarError> {
        let to = Extent {
            offset,
            len: bytes.bytes().len() as u64,
        };
        self.write_runs(bytes, &[Placed { from: 0, to }])
    }

    /// Writes parts of `bytes`, each at its place, as [`LayerTar::write`] does: what a frame of a
    /// working set has for this layer.
    ///
    /// # Errors
    /// As [`LayerTar::write`].
    pub fn write_runs(&self, bytes: &Verified, runs: &[Placed]) -> Result<u64, TarError> {
        self.writable()?;
        let _no_holes = self.no_holes();
        let written = runs
            .iter()
            .try_fold(0, |sum, run| Ok(sum + self.write_one(bytes.bytes(), run)?));
        self.noting(written)
    }

    /// Writes bytes of a tar that as a whole had the diffID.
    pub(crate) fn write_hashed(&self, offset: u64, bytes: &[u8]) -> Result<u64, TarError> {
        self.writable()?;
        let _no_holes = self.no_holes();
        let to = Extent {
            offset,
            len: bytes.len() as u64,
        };
        self.noting(self.write_one(bytes, &Placed { from: 0, to }))
    }

    /// Refuses further writes if this one failed on the disk.
    fn noting<T>(&self, written: Result<T, TarError>) -> Result<T, TarError> {
        if let Err(error @ TarError::File { .. }) = &written {
            self.refuse(error);
        }
        written
    }

    fn write_one(&self, bytes: &[u8], run: &Placed) -> Result<u64, TarError> {
        let to = run.to;
        let outside = || TarError::Outside {
            diff_id: self.diff_id,
            tar_size: self.size,
            extent: to,
        };
        if Extent::checked(to.offset, to.len).is_none_or(|to| to.end() > self.size) {
            return Err(outside());
        }
        let part = Extent::checked(run.from, to.len)
            .and_then(|part| slice(bytes, part))
            .ok_or_else(outside)?;
        for absent in self.missing(to) {
            let piece = absent.intersect(&to);
            if piece.is_empty() {
                continue;
            }
            let from = Extent {
                offset: piece.offset.saturating_sub(to.offset),
                len: piece.len,
            };
            let piece_bytes = slice(part, from).ok_or_else(outside)?;
            self.file
                .write_all_at(piece_bytes, piece.offset)
                .map_err(failed("write", &self.path))
                .map_err(|error| self.file_error(error))?;
        }
        self.mark(to)
    }

    /// Sets the bits of the blocks that are complete now that `written` is.
    fn mark(&self, written: Extent) -> Result<u64, TarError> {
        let first = written.offset.div_ceil(BLOCK);
        let end = if written.end() == self.size {
            self.size.div_ceil(BLOCK)
        } else {
            written.end() / BLOCK
        };
        let inner = BlockRun {
            first,
            count: end.saturating_sub(first),
        };
        let mut new = self.set(inner)?;
        let touched = written.blocks();
        let last = touched.end().saturating_sub(1);
        let edges = [touched.first, last];
        for (number, block) in edges.into_iter().enumerate() {
            let is_inner = inner.first <= block && block < inner.end();
            let is_double = number == 1 && edges[0] == edges[1];
            if touched.count > 0 && !is_inner && !is_double {
                new += self.mark_edge(block, written)?;
            }
        }
        Ok(new * BLOCK)
    }

    fn mark_edge(&self, block: u64, written: Extent) -> Result<u64, TarError> {
        let run = BlockRun {
            first: block,
            count: 1,
        };
        if self.presence.map.contains(run) {
            return Ok(0);
        }
        let whole = run.extent(self.size);
        if !lock(&self.edges).cover(whole, written) {
            return Ok(0);
        }
        let new = self.set(run)?;
        lock(&self.edges).forget(whole);
        Ok(new)
    }

    fn set(&self, run: BlockRun) -> Result<u64, TarError> {
        self.presence
            .set(run)
            .map_err(|error| self.file_error(error))
    }

    /// As long as the guard lives no block goes.
    fn no_holes(&self) -> RwLockReadGuard<'_, ()> {
        self.holes.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Reads bytes that are there; `false` if some of them are not.
    ///
    /// # Errors
    /// As [`LayerTar::read_at`].
    pub fn read_present(&self, buffer: &mut [u8], offset: u64) -> Result<bool, TarError> {
        let _no_holes = self.no_holes();
        let len = buffer.len() as u64;
        if !self.contains(Extent { offset, len }) {
            return Ok(false);
        }
        self.read_at(buffer, offset).map(|()| true)
    }

    /// Reads through the layer's own descriptor: no event is raised, and a hole reads as zeros.
    ///
    /// # Errors
    /// [`TarError::File`] from the disk, or if the file ends before `buffer` does.
    pub fn read_at(&self, buffer: &mut [u8], offset: u64) -> Result<(), TarError> {
        self.file
            .read_exact_at(buffer, offset)
            .map_err(failed("read", &self.path))
            .map_err(|error| self.file_error(error))
    }

    /// Makes what is there now survive a crash of the machine. Takes as long as the disk needs;
    /// writers and readers are not stopped.
    ///
    /// # Errors
    /// [`TarError::File`]. If the kernel lost writes, what was not durable before is forgotten,
    /// and the layer takes no more writes until it is opened again.
    pub fn sync(&self) -> Result<(), TarError> {
        let mut synced = lock(&self.syncing);
        let now = (self.presence.map.present(), self.is_whole());
        if *synced == Some(now) {
            return Ok(());
        }
        let snapshot = self.presence.snapshot();
        if let Err(error) = self.file.sync_data().map_err(failed("sync", &self.path)) {
            let error = self.file_error(error);
            lock(&self.refusal).replace(Refusal {
                why: error.clone(),
                until: None,
            });
            *lock(&self.edges) = Edges::default();
            self.presence
                .fall_back()
                .map_err(|error| self.file_error(error))?;
            return Err(error);
        }
        self.presence
            .write_durable(&self.tmp, &snapshot)
            .map_err(|error| self.file_error(error))?;
        *synced = Some(now);
        Ok(())
    }

    /// Hashes the whole tar, and if it has its diffID notes that for good. Reads once from front
    /// to end and gives the page cache back as it goes; asks `go_on` before every mebibyte, which
    /// may also sleep there to let others pass.
    ///
    /// # Errors
    /// [`TarError::Incomplete`], [`TarError::Stopped`], and [`TarError::NotItsDiffId`] after
    /// which the layer is empty and takes no writes until it is opened again.
    pub fn verify_whole(&self, go_on: &dyn Fn() -> bool) -> Result<(), TarError> {
        let diff_id = self.diff_id;
        let _no_holes = self.no_holes();
        if self.is_whole() {
            return Ok(());
        }
        let missing = self.size - self.present_bytes();
        if !self.presence.map.is_full() {
            return Err(TarError::Incomplete { diff_id, missing });
        }
        let actual = self.hash(go_on)?;
        if actual == diff_id.0 {
            return self.set_whole();
        }
        let error = TarError::NotItsDiffId { diff_id, actual };
        lock(&self.refusal).replace(Refusal {
            why: error.clone(),
            until: None,
        });
        *lock(&self.edges) = Edges::default();
        self.presence
            .forget()
            .map_err(|error| self.file_error(error))?;
        Err(error)
    }

    /// Takes writes again, after it was found not to have its diffID and was emptied.
    pub(crate) fn begin_again(&self) {
        *lock(&self.refusal) = None;
    }

    /// Leaves its place to the tar that was proven to be the layer, of `proven` bytes: whoever gave the size of
    /// this one was wrong. What has it open reads nothing of it any more, and nothing comes.
    pub(crate) fn make_way(&self, proven: u64) -> Result<(), TarError> {
        // Whoever makes something durable does so in the place that it leaves.
        let _syncing = lock(&self.syncing);
        lock(&self.refusal).replace(Refusal {
            why: TarError::Size {
                diff_id: self.diff_id,
                known: proven,
                asked: self.size,
            },
            until: None,
        });
        self.presence
            .evict()
            .map_err(|error| self.file_error(error))
    }

    pub(crate) fn set_whole(&self) -> Result<(), TarError> {
        self.presence
            .set_whole()
            .map_err(|error| self.file_error(error))
    }

    fn hash(&self, go_on: &dyn Fn() -> bool) -> Result<Digest, TarError> {
        let mut hasher = Hasher::new();
        let mut buffer = vec![0; VERIFY_STEP];
        let mut offset = 0;
        while offset < self.size {
            if !go_on() {
                return Err(TarError::Stopped {
                    diff_id: self.diff_id,
                });
            }
            let len =
                usize::try_from(self.size - offset).map_or(VERIFY_STEP, |n| n.min(VERIFY_STEP));
            self.read_at(&mut buffer[..len], offset)?;
            hasher.update(&buffer[..len]);
            // Only advice: EROFS has its own copy of what programs read.
            let span = std::num::NonZeroU64::new(len as u64);
            let _ = rustix::fs::fadvise(&self.file, offset, span, Advice::DontNeed);
            offset += len as u64;
        }
        Ok(hasher.finish())
    }
}

fn slice(bytes: &[u8], extent: Extent) -> Option<&[u8]> {
    let from = usize::try_from(extent.offset).ok()?;
    let to = usize::try_from(extent.end()).ok()?;
    bytes.get(from..to)
}
