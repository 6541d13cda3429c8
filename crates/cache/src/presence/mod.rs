//! Which blocks of a layer tar are there.
//!
//! One bit for each [block](thaw_image::BLOCK) of 512 bytes. The daemon keeps the bits in memory
//! ([`map`]) and repeats every bit that it sets in a file ([`Presence`]); the keeper, another
//! process, reads that file ([`PresenceReader`]). Both sides use pread(2) and pwrite(2), so the
//! page cache is the memory they share, and it outlives either of them.
//!
//! **Order.** A bit is set after the bytes of its block were given to the kernel, and cleared
//! before they are taken back. So in one boot a set bit always means right bytes, whichever process
//! is killed at whichever instant.
//!
//! **Over a crash of the kernel** that order is lost: the bitmap may reach the disk before the
//! bytes. The file carries the boot in which it is true. A second file, `presence.durable`, is
//! replaced as a whole after an fdatasync of the tar; in another boot it alone is believed, and
//! what it lacks is punched out of the tar.
//!
//! Byte pictures of both: `docs/format.md`, "Presence file".

mod format;
mod map;
mod reader;

use std::fs::{File, OpenOptions};
use std::io::Read;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{PoisonError, RwLock};

use rustix::fs::FallocateFlags;
use thaw_image::{BLOCK, BlockRun, DiffId, Digest};

use crate::file::{self, FileError, failed};
use crate::store::BootId;
use format::{HEADER_BYTES, Header};
use map::BlockMap;
pub use reader::{PresenceError, PresenceReader};

/// Most bytes of a layer tar: its map takes 64 MiB.
pub const MAX_TAR_BYTES: u64 = 256 << 30;

const SUM_BYTES: usize = 32;

/// What is known of a layer tar before its presence is opened.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Subject {
    pub(crate) diff_id: DiffId,
    pub(crate) tar_size: u64,
    pub(crate) boot: BootId,
}

impl Subject {
    fn blocks(&self) -> u64 {
        self.tar_size.div_ceil(BLOCK)
    }

    fn map_bytes(&self) -> usize {
        usize::try_from(self.blocks().div_ceil(8)).unwrap_or(usize::MAX)
    }

    fn header(&self, whole: bool) -> Header {
        Header {
            tar_size: self.tar_size,
            diff_id: self.diff_id,
            boot: self.boot,
            whole,
        }
    }

    fn is_of(&self, header: &Header) -> bool {
        header.diff_id == self.diff_id && header.tar_size == self.tar_size
    }
}

/// What the files say about a tar.
#[derive(Debug)]
pub(crate) enum Found {
    /// The presence file is of this boot: its bits are true.
    Live { bits: Vec<u8>, whole: bool },
    /// Only what was durable is: everything else must be punched out.
    Durable { bits: Vec<u8>, whole: bool },
}

/// The presence of one layer tar, as its one writer has it.
#[derive(Debug)]
pub(crate) struct Presence {
    subject: Subject,
    dir: PathBuf,
    path: PathBuf,
    file: File,
    pub(crate) map: BlockMap,
    whole: AtomicBool,
    /// The directory is another tar's.
    evicted: AtomicBool,
    /// Held while bits are in memory, and not yet in the file that others read.
    publishing: RwLock<()>,
}

impl Presence {
    pub(crate) fn live_path(dir: &Path) -> PathBuf {
        dir.join("presence")
    }

    fn durable_path(dir: &Path) -> PathBuf {
        dir.join("presence.durable")
    }

    /// Bytes of the tar in `dir`, if it was found to have its diffID: then whoever says another
    /// size is wrong.
    pub(crate) fn whole_size(dir: &Path, subject: &Subject) -> Result<Option<u64>, FileError> {
        for path in [Self::live_path(dir), Self::durable_path(dir)] {
            let bytes = read_at_most(&path, HEADER_BYTES)?;
            let header = Header::decode(&bytes).ok();
            let whole = header.filter(|h| h.whole && h.diff_id == subject.diff_id);
            if let Some(header) = whole {
                return Ok(Some(header.tar_size));
            }
        }
        Ok(None)
    }

    /// Makes both files say nothing.
    pub(crate) fn invalidate(dir: &Path) -> Result<(), FileError> {
        let path = Self::live_path(dir);
        let open = OpenOptions::new().write(true).open(&path);
        if let Some(file) = file::if_exists(open).map_err(failed("open", &path))? {
            file.write_all_at(&[0; HEADER_BYTES], 0)
                .map_err(failed("write", &path))?;
        }
        Self::remove_durable(dir)
    }

    /// Makes the files for a tar that is all there and has its diffID.
    pub(crate) fn create_whole(dir: &Path, subject: Subject) -> Result<(), FileError> {
        let bits = vec![u8::MAX; subject.map_bytes()];
        let found = Found::Durable { bits, whole: true };
        Self::open(dir, subject, found, |_| Ok(())).map(drop)
    }

    /// The file that the keeper reads.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Reads what is known of the tar in `dir`.
    pub(crate) fn find(dir: &Path, subject: &Subject) -> Result<Found, FileError> {
        let live = read_bounded(&Self::live_path(dir), subject)?;
        let (header, bits) = live.split_at(live.len().min(HEADER_BYTES));
        if let Some(header) = Header::decode(header).ok().filter(|h| subject.is_of(h))
            && header.boot == subject.boot
            && bits.len() == subject.map_bytes()
        {
            return Ok(Found::Live {
                bits: bits.to_vec(),
                whole: header.whole,
            });
        }
        let (bits, whole) = Self::find_durable(dir, subject)?;
        Ok(Found::Durable { bits, whole })
    }

    /// The bits that the last sync made sure of; all clear where there are none.
    fn find_durable(dir: &Path, subject: &Subject) -> Result<(Vec<u8>, bool), FileError> {
        let nothing = || (vec![0; subject.map_bytes()], false);
        let durable = read_bounded(&Self::durable_path(dir), subject)?;
        let Some((body, sum)) = durable.split_last_chunk::<SUM_BYTES>() else {
            return Ok(nothing());
        };
        let (header, bits) = body.split_at(body.len().min(HEADER_BYTES));
        let header = Header::decode(header).ok().filter(|h| subject.is_of(h));
        match header {
            Some(header)
                if bits.len() == subject.map_bytes() && Digest::of(body).as_bytes() == sum =>
            {
                Ok((bits.to_vec(), header.whole))
            }
            _ => Ok(nothing()),
        }
    }

    /// Opens the presence file with these bits. Where they are not those that the file has in
    /// this boot, `punch` is called with every run that is *not* there: after the file lost those
    /// bits and before it is valid again.
    pub(crate) fn open(
        dir: &Path,
        subject: Subject,
        found: Found,
        punch: impl FnOnce(&[BlockRun]) -> Result<(), FileError>,
    ) -> Result<Self, FileError> {
        let path = Self::live_path(dir);
        let file = file::open_rw(&path)?;
        let (bits, whole, live) = match found {
            Found::Live { bits, whole } => (bits, whole, true),
            Found::Durable { bits, whole } => (bits, whole, false),
        };
        let presence = Self {
            map: BlockMap::new(subject.blocks(), &bits),
            subject,
            dir: dir.to_owned(),
            path,
            file,
            whole: AtomicBool::new(whole),
            evicted: AtomicBool::new(false),
            publishing: RwLock::default(),
        };
        if !live {
            presence.begin()?;
            punch(&presence.map.missing(presence.all()))?;
            presence.write_header(whole)?;
        }
        Ok(presence)
    }

    /// Writes the bitmap behind a header that is not valid yet. Its room is allocated, so that
    /// setting a bit needs no space on the disk later.
    fn begin(&self) -> Result<(), FileError> {
        let len = (HEADER_BYTES + self.subject.map_bytes()) as u64;
        self.file
            .write_all_at(&[0; HEADER_BYTES], 0)
            .and_then(|()| self.file.set_len(len))
            .and_then(|()| {
                rustix::fs::fallocate(&self.file, FallocateFlags::empty(), 0, len)
                    .map_err(Into::into)
            })
            .map_err(failed("allocate", &self.path))?;
        self.write_bits(self.all())
    }

    pub(crate) fn all(&self) -> BlockRun {
        BlockRun {
            first: 0,
            count: self.subject.blocks(),
        }
    }

    pub(crate) fn is_whole(&self) -> bool {
        self.whole.load(Ordering::Acquire)
    }

    /// Sets the bits of blocks whose bytes are written; gives the number of those that were not
    /// set before.
    pub(crate) fn set(&self, run: BlockRun) -> Result<u64, FileError> {
        let _publishing = self
            .publishing
            .read()
            .unwrap_or_else(PoisonError::into_inner);
        let new = self.map.set(run);
        if new > 0 {
            self.write_bits(run)?;
        }
        Ok(new)
    }

    /// Waits until all bits that memory has are in the file. Whoever found a block here that another
    /// thread has just brought calls it before he tells somebody who reads the file.
    pub(crate) fn settle(&self) {
        drop(
            self.publishing
                .write()
                .unwrap_or_else(PoisonError::into_inner),
        );
    }

    /// Forgets that the blocks of `runs` are there, for good, before their bytes go: first what
    /// was durable, then the bits that others read. A layer that was whole is so no more.
    pub(crate) fn clear(&self, runs: &[BlockRun]) -> Result<(), FileError> {
        self.forget_durable()?;
        self.whole.store(false, Ordering::Release);
        self.write_header(false)?;
        for run in runs {
            self.map.clear(*run);
            self.write_bits(*run)?;
        }
        Ok(())
    }

    /// Repeats the bits of `run` in the file.
    ///
    /// Two threads may write the same byte, each with its own bit. No lock is needed: whoever
    /// finds that memory changed since it was copied writes again, so the last one to write a
    /// byte wrote what memory holds.
    fn write_bits(&self, run: BlockRun) -> Result<(), FileError> {
        let (first, mut bytes) = self.map.bytes(run);
        loop {
            self.file
                .write_all_at(&bytes, HEADER_BYTES as u64 + first)
                .map_err(failed("write", &self.path))?;
            let (_, now) = self.map.bytes(run);
            if now == bytes {
                return Ok(());
            }
            bytes = now;
        }
    }

    fn write_header(&self, whole: bool) -> Result<(), FileError> {
        self.file
            .write_all_at(&self.subject.header(whole).encode(), 0)
            .map_err(failed("write", &self.path))
    }

    /// Notes that the tar has its diffID: every bit is set, for ever.
    pub(crate) fn set_whole(&self) -> Result<(), FileError> {
        self.set(self.all())?;
        self.write_header(true)?;
        self.whole.store(true, Ordering::Release);
        Ok(())
    }

    /// The bits as they are now, for [`Presence::write_durable`]. Taken *before* the tar is
    /// synced: what is set later may not be on the disk.
    pub(crate) fn snapshot(&self) -> (Vec<u8>, bool) {
        let whole = self.is_whole();
        (self.map.bytes(self.all()).1, whole)
    }

    /// Replaces `presence.durable` by `snapshot`.
    pub(crate) fn write_durable(
        &self,
        tmp: &Path,
        (bits, whole): &(Vec<u8>, bool),
    ) -> Result<(), FileError> {
        if self.evicted.load(Ordering::Acquire) {
            return Ok(());
        }
        let header = self.subject.header(*whole).encode();
        let mut hasher = thaw_image::Hasher::new();
        hasher.update(&header);
        hasher.update(bits);
        let sum = hasher.finish();
        let target = Self::durable_path(&self.dir);
        file::replace(tmp, &target, &[&header, bits, sum.as_bytes()])
    }

    /// Goes back to what was durable: the kernel said that it lost writes, and not which.
    pub(crate) fn fall_back(&self) -> Result<(), FileError> {
        let (bits, whole) = Self::find_durable(&self.dir, &self.subject)?;
        self.map.replace(&bits);
        self.whole.store(whole, Ordering::Release);
        self.write_header(whole)?;
        self.write_bits(self.all())
    }

    /// Forgets everything, what was durable too: the bytes are not what they should be.
    pub(crate) fn forget(&self) -> Result<(), FileError> {
        self.forget_durable()?;
        self.fall_back()
    }

    /// Forgets everything and leaves the directory to another tar: whoever has the file open finds no
    /// block in it, and no name leads to it.
    pub(crate) fn evict(&self) -> Result<(), FileError> {
        self.forget()?;
        self.evicted.store(true, Ordering::Release);
        file::remove(&self.path)
    }

    fn forget_durable(&self) -> Result<(), FileError> {
        match self.evicted.load(Ordering::Acquire) {
            true => Ok(()),
            false => Self::remove_durable(&self.dir),
        }
    }

    /// Removes `presence.durable`, durably: before the tar that it speaks of changes or goes.
    pub(crate) fn remove_durable(dir: &Path) -> Result<(), FileError> {
        let path = Self::durable_path(dir);
        if !path.exists() {
            return Ok(());
        }
        file::remove(&path)?;
        file::sync_dir(dir)
    }
}

/// The file's bytes, but never more than the largest valid file of `subject` and one.
fn read_bounded(path: &Path, subject: &Subject) -> Result<Vec<u8>, FileError> {
    read_at_most(path, HEADER_BYTES + subject.map_bytes() + SUM_BYTES + 1)
}

/// The file's first bytes; none where there is no file.
fn read_at_most(path: &Path, most: usize) -> Result<Vec<u8>, FileError> {
    let mut bytes = Vec::new();
    if let Some(file) = file::if_exists(File::open(path)).map_err(failed("open", path))? {
        file.take(most as u64)
            .read_to_end(&mut bytes)
            .map_err(failed("read", path))?;
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::sync::Arc;
    use std::time::Duration;

    use super::*;

    /// A bit that is in memory alone is not told of: the keeper, which reads the file, would take the
    /// teller for a liar.
    #[test]
    fn who_settles_waits_for_bits_that_are_on_their_way() {
        let dir = tempfile::tempdir_in(env!("CARGO_MANIFEST_DIR")).unwrap();
        let subject = Subject {
            diff_id: DiffId(Digest::of(b"a tar")),
            tar_size: 10 * BLOCK,
            boot: BootId([1; 16]),
        };
        let found = Found::Durable {
            bits: vec![0; subject.map_bytes()],
            whole: false,
        };
        let presence = Presence::open(dir.path(), subject, found, |_| Ok(())).unwrap();
        let presence = Arc::new(presence);
        // As a thread in `set` has it between memory and file.
        let on_its_way = presence.publishing.read().unwrap();
        let settling = std::thread::spawn({
            let presence = Arc::clone(&presence);
            move || presence.settle()
        });
        std::thread::sleep(Duration::from_millis(100));
        assert!(!settling.is_finished());
        drop(on_its_way);
        settling.join().unwrap();
    }
}
