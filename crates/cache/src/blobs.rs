//! Blobs that are whole and verified: manifests, configurations, layouts, seek tables, working
//! sets, windows.
//!
//! A blob gets its name only after its digest matched. Those that are [`put`](Blobs::put) are
//! durable by then. What can be fetched again is [`stash`](Blobs::stash)ed, so that no start waits
//! for the disk, and made durable by [`Blobs::settle`]; until then its file has no permission to
//! be written, and whoever opens the store next hashes it before it counts as here.
//!
//! [`Blobs::get`]
//! hashes again what it reads, for it is asked for small things that everything else rests on
//! (a megabyte takes half a millisecond): a damaged one is removed and counts as absent, and is
//! fetched again. Larger ones are read by range, through [`BlobSource`], and like every source's
//! bytes those are checked by whoever asked.

use std::collections::BTreeSet;
use std::fs::{self, File, Permissions};
use std::io::{Read, Seek, SeekFrom};
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use thaw_image::{BlobSource, Digest, Extent, Hasher, Mismatch, SourceError, Verified};

use crate::file::{self, FileError, Temp, failed};
use crate::store::Places;

/// Most bytes that [`Blobs::get`] holds in memory.
pub const MAX_WHOLE: u64 = 256 << 20;
/// Most bytes that one ranged read of a local blob holds in memory.
const MAX_RANGE: u64 = 64 << 20;
const COPY_BYTES: usize = 1 << 20;

/// Why a blob was not stored or read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BlobError {
    /// The disk.
    #[error(transparent)]
    File(#[from] FileError),
    /// The bytes are others than promised; nothing was stored.
    #[error("refused to store a blob")]
    Mismatch(#[from] Mismatch),
    /// Larger than what is read at once.
    #[error("blob {digest} has {size} bytes: over the limit of {MAX_WHOLE} for one read")]
    TooLarge {
        /// Which.
        digest: Digest,
        /// Its bytes.
        size: u64,
    },
}

/// Whole, verified blobs by digest. See the [module](self).
#[derive(Clone, Debug)]
pub struct Blobs {
    places: Arc<Places>,
    /// Stashed, and not durable yet.
    unsettled: Arc<Mutex<BTreeSet<Digest>>>,
}

/// Mode of a blob that is durable, and of one that may not be.
const SETTLED: u32 = 0o600;
const UNSETTLED: u32 = 0o400;

impl Blobs {
    /// Hashes what a process before this one stashed and did not settle.
    pub(crate) fn open(places: Places) -> Result<Self, FileError> {
        let blobs = Self {
            places: Arc::new(places),
            unsettled: Arc::default(),
        };
        for (digest, metadata) in blobs.files()? {
            if metadata.permissions().mode() & 0o777 == UNSETTLED {
                blobs.check(&digest)?;
            }
        }
        blobs.settle()?;
        Ok(blobs)
    }

    /// Keeps a blob whose bytes are right, and removes any other.
    fn check(&self, digest: &Digest) -> Result<(), FileError> {
        let path = self.path(digest);
        let mut file = File::open(&path).map_err(failed("open", &path))?;
        let mut hasher = Hasher::new();
        copy(&mut file, &path, &mut |bytes| {
            hasher.update(bytes);
            Ok(())
        })?;
        if hasher.finish() == *digest {
            self.unsettled().insert(*digest);
            return Ok(());
        }
        tracing::info!(%digest, "a blob was not all on the disk and is removed");
        file::remove(&path)
    }

    fn unsettled(&self) -> MutexGuard<'_, BTreeSet<Digest>> {
        self.unsettled
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    fn is_settled(&self, digest: &Digest) -> bool {
        self.contains(digest) && !self.unsettled().contains(digest)
    }

    /// Where the blob lies, or would lie.
    #[must_use]
    pub fn path(&self, digest: &Digest) -> PathBuf {
        self.places.blobs.join(digest.hex())
    }

    /// The bytes of the blob, hashed again; `None` if it is not here, or was damaged.
    ///
    /// # Errors
    /// [`BlobError::TooLarge`] over [`MAX_WHOLE`], [`BlobError::File`] if it cannot be read.
    pub fn get(&self, digest: &Digest) -> Result<Option<Vec<u8>>, BlobError> {
        let path = self.path(digest);
        let open = file::if_exists(File::open(&path)).map_err(failed("open", &path))?;
        let Some(file) = open else { return Ok(None) };
        let size = file.metadata().map_err(failed("stat", &path))?.len();
        if size > MAX_WHOLE {
            return Err(BlobError::TooLarge {
                digest: *digest,
                size,
            });
        }
        let mut bytes = Vec::new();
        file.take(MAX_WHOLE)
            .read_to_end(&mut bytes)
            .map_err(failed("read", &path))?;
        if Digest::of(&bytes) == *digest {
            return Ok(Some(bytes));
        }
        tracing::warn!(%digest, "a stored blob was damaged and is removed");
        file::remove(&path)?;
        Ok(None)
    }

    /// Whether the blob is here. Its bytes are not read.
    #[must_use]
    pub fn contains(&self, digest: &Digest) -> bool {
        self.path(digest).is_file()
    }

    /// Stores `bytes` under `digest`; durable when this returns.
    ///
    /// # Errors
    /// [`BlobError::Mismatch`] if they have another digest, [`BlobError::File`] from the disk.
    pub fn put(&self, digest: &Digest, bytes: &[u8]) -> Result<(), BlobError> {
        let actual = Digest::of(bytes);
        if actual != *digest {
            return Err(Mismatch {
                expected: *digest,
                actual,
                len: bytes.len(),
            }
            .into());
        }
        if !self.is_settled(digest) {
            file::replace(&self.places.tmp, &self.path(digest), &[bytes])?;
            self.unsettled().remove(digest);
        }
        Ok(())
    }

    /// Stores what can be fetched again, at once: it is durable only after [`Blobs::settle`].
    ///
    /// # Errors
    /// [`BlobError::Mismatch`] if they have another digest, [`BlobError::File`] from the disk.
    pub fn stash(&self, digest: &Digest, bytes: Vec<u8>) -> Result<(), BlobError> {
        self.stash_verified(digest, &Verified::check(bytes, digest)?)
    }

    /// [`Blobs::stash`] for bytes whose digest was compared with `digest` before.
    ///
    /// # Errors
    /// [`BlobError::File`] from the disk.
    pub fn stash_verified(&self, digest: &Digest, bytes: &Verified) -> Result<(), BlobError> {
        if self.contains(digest) {
            return Ok(());
        }
        let path = self.path(digest);
        let mut temp = Temp::with_mode(&self.places.tmp, UNSETTLED)?;
        std::io::Write::write_all(&mut temp.file, bytes.bytes()).map_err(failed("write", &path))?;
        self.unsettled().insert(*digest);
        Ok(temp.rename(&path)?)
    }

    /// Makes durable what was stashed. One that was removed meanwhile is passed over.
    ///
    /// # Errors
    /// [`FileError`]; what is not durable then stays to be settled.
    pub fn settle(&self) -> Result<(), FileError> {
        let stashed: Vec<Digest> = self.unsettled().iter().copied().collect();
        let mut durable = Vec::with_capacity(stashed.len());
        for digest in &stashed {
            let path = self.path(digest);
            let open = file::if_exists(File::open(&path)).map_err(failed("open", &path))?;
            if let Some(file) = open {
                file.sync_all().map_err(failed("sync", &path))?;
                durable.push((path, file));
            }
        }
        if !durable.is_empty() {
            file::sync_dir(&self.places.blobs)?;
        }
        for (path, file) in durable {
            file.set_permissions(Permissions::from_mode(SETTLED))
                .map_err(failed("settle", &path))?;
        }
        self.unsettled().retain(|digest| !stashed.contains(digest));
        Ok(())
    }

    /// Stores all that `reader` gives, in bounded memory; durable when this returns.
    ///
    /// # Errors
    /// As [`Blobs::put`].
    pub fn put_reader(&self, digest: &Digest, reader: &mut dyn Read) -> Result<(), BlobError> {
        let mut temp = Temp::new(&self.places.tmp)?;
        let path = self.path(digest);
        let mut hasher = Hasher::new();
        let mut len = 0;
        copy(reader, &path, &mut |bytes| {
            hasher.update(bytes);
            len += bytes.len();
            std::io::Write::write_all(&mut temp.file, bytes)
        })?;
        let actual = hasher.finish();
        if actual != *digest {
            return Err(Mismatch {
                expected: *digest,
                actual,
                len,
            }
            .into());
        }
        temp.file.sync_all().map_err(failed("sync", &path))?;
        temp.rename(&path)?;
        file::sync_dir(&self.places.blobs)?;
        self.unsettled().remove(digest);
        Ok(())
    }

    /// Stores a copy of a local file, for instance the windows of an image indexed on this node.
    ///
    /// # Errors
    /// As [`Blobs::put`].
    pub fn put_file(&self, digest: &Digest, from: &Path) -> Result<(), BlobError> {
        let mut file = File::open(from).map_err(failed("open", from))?;
        self.put_reader(digest, &mut file)
    }

    /// Removes a blob and says how many bytes that gave back; 0 if it was not here.
    ///
    /// # Errors
    /// [`FileError`] if it is here and cannot be removed.
    pub fn remove(&self, digest: &Digest) -> Result<u64, FileError> {
        let path = self.path(digest);
        let size = fs::metadata(&path).map_or(0, |metadata| metadata.len());
        file::remove(&path)?;
        Ok(size)
    }

    /// Every blob here with its bytes, in no order.
    ///
    /// # Errors
    /// [`FileError`] if the directory cannot be listed.
    pub fn list(&self) -> Result<Vec<(Digest, u64)>, FileError> {
        let files = self.files()?.into_iter();
        Ok(files
            .map(|(digest, metadata)| (digest, metadata.len()))
            .collect())
    }

    fn files(&self) -> Result<Vec<(Digest, fs::Metadata)>, FileError> {
        let dir = &self.places.blobs;
        let mut files = Vec::new();
        for entry in fs::read_dir(dir).map_err(failed("list", dir))? {
            let entry = entry.map_err(failed("list", dir))?;
            let name = entry.file_name();
            let digest = name.to_str().and_then(|hex| Digest::from_hex(hex).ok());
            if let (Some(digest), Ok(metadata)) = (digest, entry.metadata()) {
                files.push((digest, metadata));
            }
        }
        Ok(files)
    }

    fn file(&self, blob: &Digest) -> Result<File, SourceError> {
        File::open(self.path(blob)).map_err(|error| match error.kind() {
            std::io::ErrorKind::NotFound => SourceError::NotFound {
                source_name: self.name(),
                blob: *blob,
            },
            _ => self.broken("cannot be opened", error),
        })
    }

    fn broken(&self, what: &str, error: std::io::Error) -> SourceError {
        SourceError::Failed {
            source_name: self.name(),
            reason: what.to_owned(),
            source: Some(Box::new(error)),
        }
    }
}

/// Hands all that `reader` gives to `take`, in pieces.
fn copy(
    reader: &mut dyn Read,
    path: &Path,
    take: &mut dyn FnMut(&[u8]) -> std::io::Result<()>,
) -> Result<(), FileError> {
    let mut buffer = vec![0; COPY_BYTES];
    loop {
        let count = match reader.read(&mut buffer) {
            Ok(0) => return Ok(()),
            Ok(count) => count,
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(failed("receive", path)(error)),
        };
        take(&buffer[..count]).map_err(failed("write", path))?;
    }
}

impl BlobSource for Blobs {
    fn read_at(
        &self,
        blob: &Digest,
        extent: Extent,
        _deadline: Option<Instant>,
    ) -> Result<Vec<u8>, SourceError> {
        let file = self.file(blob)?;
        let size = file
            .metadata()
            .map_err(|error| self.broken("cannot be read", error))?
            .len();
        let there = extent.intersect(&Extent::between(0, size)).len;
        if there != extent.len {
            return Err(SourceError::Truncated {
                source_name: self.name(),
                blob: *blob,
                offset: extent.offset,
                wanted: extent.len,
                got: there,
            });
        }
        let len = usize::try_from(extent.len).ok();
        let Some(len) = len.filter(|_| extent.len <= MAX_RANGE) else {
            let limit = std::io::Error::other("range too long");
            return Err(self.broken("range over 64 MiB", limit));
        };
        let mut bytes = vec![0; len];
        file.read_exact_at(&mut bytes, extent.offset)
            .map_err(|error| self.broken("cannot be read", error))?;
        Ok(bytes)
    }

    fn stream(&self, blob: &Digest, extent: Extent) -> Result<Box<dyn Read + Send>, SourceError> {
        let mut file = self.file(blob)?;
        file.seek(SeekFrom::Start(extent.offset))
            .map_err(|error| self.broken("cannot seek", error))?;
        Ok(Box::new(file.take(extent.len)))
    }

    fn name(&self) -> String {
        "the local store".to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn blobs(root: &Path) -> Blobs {
        let places = Places {
            layers: root.join("layers"),
            blobs: root.join("blobs"),
            tmp: root.join("tmp"),
        };
        for dir in [&places.blobs, &places.tmp] {
            file::make_dir(dir).unwrap();
        }
        Blobs::open(places).unwrap()
    }

    fn stash(blobs: &Blobs, bytes: &[u8]) -> Digest {
        let digest = Digest::of(bytes);
        blobs.stash(&digest, bytes.to_vec()).unwrap();
        digest
    }

    #[test]
    fn what_was_stashed_and_is_damaged_is_not_here_for_the_next() {
        let dir = tempfile::tempdir().unwrap();
        let first = blobs(dir.path());
        let [good, lost] = [b"good", b"lost"].map(|bytes| stash(&first, bytes));
        assert!(first.contains(&good) && first.contains(&lost));
        // The machine stopped before the disk had it.
        fs::remove_file(first.path(&lost)).unwrap();
        fs::write(first.path(&lost), b"").unwrap();
        fs::set_permissions(first.path(&lost), Permissions::from_mode(UNSETTLED)).unwrap();
        let next = blobs(dir.path());
        assert!(next.contains(&good));
        assert!(!next.contains(&lost));
        assert_eq!(next.get(&good).unwrap().as_deref(), Some(&b"good"[..]));
    }

    #[test]
    fn what_is_settled_is_hashed_by_nobody() {
        let dir = tempfile::tempdir().unwrap();
        let first = blobs(dir.path());
        let [kept, removed] = [b"kept", b"gone"].map(|bytes| stash(&first, bytes));
        first.remove(&removed).unwrap();
        first.settle().unwrap();
        assert!(first.unsettled().is_empty());
        fs::write(first.path(&kept), b"another").unwrap();
        assert!(blobs(dir.path()).contains(&kept));
    }

    #[test]
    fn a_blob_that_is_put_after_it_was_stashed_is_durable() {
        let dir = tempfile::tempdir().unwrap();
        let blobs = blobs(dir.path());
        let digest = stash(&blobs, b"twice");
        blobs.put(&digest, b"twice").unwrap();
        let mode = fs::metadata(blobs.path(&digest)).unwrap().permissions();
        assert_eq!(mode.mode() & 0o777, SETTLED);
        assert!(blobs.unsettled().is_empty());
        let wrong = blobs.stash(&digest, b"wrong".to_vec());
        assert!(matches!(wrong, Err(BlobError::Mismatch(_))));
    }
}
