//! Blobs that are whole and verified: manifests, configurations, layouts, seek tables, working
//! sets, windows.
//!
//! A blob gets its name only after its digest matched and its bytes are durable. [`Blobs::get`]
//! hashes again what it reads, for it is asked for small things that everything else rests on
//! (a megabyte takes half a millisecond): a damaged one is removed and counts as absent, and is
//! fetched again. Larger ones are read by range, through [`BlobSource`], and like every source's
//! bytes those are checked by whoever asked.

use std::fs::{self, File};
use std::io::{Read, Seek, SeekFrom};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use thaw_image::{BlobSource, Digest, Extent, Hasher, Mismatch, SourceError};

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
}

impl Blobs {
    pub(crate) fn new(places: Places) -> Self {
        Self {
            places: Arc::new(places),
        }
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
        if !self.contains(digest) {
            file::replace(&self.places.tmp, &self.path(digest), &[bytes])?;
        }
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
        let mut buffer = vec![0; COPY_BYTES];
        let mut len = 0;
        loop {
            let count = match reader.read(&mut buffer) {
                Ok(0) => break,
                Ok(count) => count,
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(failed("receive", &path)(error).into()),
            };
            hasher.update(&buffer[..count]);
            std::io::Write::write_all(&mut temp.file, &buffer[..count])
                .map_err(failed("write", &path))?;
            len += count;
        }
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
        Ok(file::sync_dir(&self.places.blobs)?)
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
        let dir = &self.places.blobs;
        let mut blobs = Vec::new();
        for entry in fs::read_dir(dir).map_err(failed("list", dir))? {
            let entry = entry.map_err(failed("list", dir))?;
            let name = entry.file_name();
            let digest = name.to_str().and_then(|hex| Digest::from_hex(hex).ok());
            if let (Some(digest), Ok(metadata)) = (digest, entry.metadata()) {
                blobs.push((digest, metadata.len()));
            }
        }
        Ok(blobs)
    }

    fn open(&self, blob: &Digest) -> Result<File, SourceError> {
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

impl BlobSource for Blobs {
    fn read_at(
        &self,
        blob: &Digest,
        extent: Extent,
        _deadline: Option<Instant>,
    ) -> Result<Vec<u8>, SourceError> {
        let file = self.open(blob)?;
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
        let mut file = self.open(blob)?;
        file.seek(SeekFrom::Start(extent.offset))
            .map_err(|error| self.broken("cannot seek", error))?;
        Ok(Box::new(file.take(extent.len)))
    }

    fn name(&self) -> String {
        "the local store".to_owned()
    }
}
