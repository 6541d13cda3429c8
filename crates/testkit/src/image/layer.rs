//! A layer: a tar from entries, from bytes or from a file, and how it is compressed.

use std::fs::File;
use std::io::{self, Read, Write};
use std::path::PathBuf;

use anyhow::{Context, Result};
use flate2::write::GzEncoder;
use thaw_image::{DiffId, Digest, Hasher};

use super::{Dialect, Entry};

/// How a layer's tar becomes its blob.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Compression {
    /// The tar itself.
    None,
    /// One gzip member at this level (0 to 9).
    Gzip(u32),
    /// A gzip member for every so many bytes of the tar, as pigz and eStargz do.
    GzipMembers {
        /// Compression level, 0 to 9.
        level: u32,
        /// Bytes of the tar in each member.
        member: usize,
    },
    /// One zstd frame at this level.
    Zstd(i32),
}

impl Compression {
    pub(super) fn media_type(self, docker: bool) -> &'static str {
        match (self, docker) {
            (Self::None, false) => "application/vnd.oci.image.layer.v1.tar",
            (Self::Gzip(_) | Self::GzipMembers { .. }, false) => {
                "application/vnd.oci.image.layer.v1.tar+gzip"
            }
            (Self::Zstd(_), _) => "application/vnd.oci.image.layer.v1.tar+zstd",
            (Self::None, true) => "application/vnd.docker.image.rootfs.diff.tar",
            (_, true) => "application/vnd.docker.image.rootfs.diff.tar.gzip",
        }
    }
}

#[derive(Clone, Debug)]
enum Content {
    Entries(Vec<Entry>),
    Bytes(Vec<u8>),
    File(PathBuf),
}

/// A layer. PAX and gzip level 6 until told otherwise: what Docker makes.
#[derive(Clone, Debug)]
pub struct Layer {
    content: Content,
    dialect: Dialect,
    compression: Compression,
}

/// What a layer became.
#[derive(Clone, Debug)]
pub(super) struct Blob {
    pub(super) digest: Digest,
    pub(super) size: u64,
    pub(super) diff_id: DiffId,
    pub(super) compression: Compression,
}

impl Layer {
    fn with(content: Content) -> Self {
        Self {
            content,
            dialect: Dialect::default(),
            compression: Compression::Gzip(6),
        }
    }

    /// A layer of these entries, in this order.
    #[must_use]
    pub fn new(entries: impl IntoIterator<Item = Entry>) -> Self {
        Self::with(Content::Entries(entries.into_iter().collect()))
    }

    /// A layer of any bytes, e.g. those of a damaged tar.
    #[must_use]
    pub fn from_bytes(tar: Vec<u8>) -> Self {
        Self::with(Content::Bytes(tar))
    }

    /// A layer whose tar is a file.
    #[must_use]
    pub fn from_file(tar: impl Into<PathBuf>) -> Self {
        Self::with(Content::File(tar.into()))
    }

    /// Writes the tar in this dialect.
    #[must_use]
    pub fn dialect(mut self, dialect: Dialect) -> Self {
        self.dialect = dialect;
        self
    }

    /// Compresses the tar in this way.
    #[must_use]
    pub fn compression(mut self, compression: Compression) -> Self {
        self.compression = compression;
        self
    }

    /// The tar's bytes.
    ///
    /// # Errors
    /// When an entry cannot be written in the dialect, or the file cannot be read.
    pub fn tar(&self) -> Result<Vec<u8>> {
        match &self.content {
            Content::Bytes(bytes) => Ok(bytes.clone()),
            Content::File(path) => {
                std::fs::read(path).with_context(|| format!("cannot read {}", path.display()))
            }
            Content::Entries(entries) => {
                let mut tar = Vec::new();
                for entry in entries {
                    entry.write(&mut tar, self.dialect)?;
                }
                tar.resize(tar.len() + 1024, 0);
                Ok(tar)
            }
        }
    }

    /// Writes the blob to `out`.
    pub(super) fn write(&self, out: impl Write) -> Result<Blob> {
        let mut tar: Box<dyn Read> = match &self.content {
            Content::File(path) => Box::new(
                File::open(path).with_context(|| format!("cannot open {}", path.display()))?,
            ),
            _ => Box::new(io::Cursor::new(self.tar()?)),
        };
        let mut tar = Tee::over(&mut tar);
        let mut out = Tee::over(out);
        compress(&mut tar, &mut out, self.compression)?;
        out.inner.flush()?;
        Ok(Blob {
            digest: out.hasher.finish(),
            size: out.bytes,
            diff_id: DiffId(tar.hasher.finish()),
            compression: self.compression,
        })
    }
}

fn compress(tar: &mut impl Read, out: &mut impl Write, compression: Compression) -> io::Result<()> {
    match compression {
        Compression::None => io::copy(tar, out).map(drop),
        Compression::Gzip(level) => {
            let mut encoder = GzEncoder::new(out, flate2::Compression::new(level));
            io::copy(tar, &mut encoder)?;
            encoder.finish().map(drop)
        }
        Compression::GzipMembers { level, member } => loop {
            let mut encoder = GzEncoder::new(&mut *out, flate2::Compression::new(level));
            let written = io::copy(&mut tar.take(member as u64), &mut encoder)?;
            encoder.finish()?;
            if written < member as u64 {
                return Ok(());
            }
        },
        Compression::Zstd(level) => zstd::stream::copy_encode(tar, out, level),
    }
}

/// Hashes and counts what passes.
struct Tee<T> {
    inner: T,
    hasher: Hasher,
    bytes: u64,
}

impl<T> Tee<T> {
    fn over(inner: T) -> Self {
        Self {
            inner,
            hasher: Hasher::new(),
            bytes: 0,
        }
    }

    fn passed(&mut self, bytes: &[u8]) {
        self.hasher.update(bytes);
        self.bytes += bytes.len() as u64;
    }
}

impl<R: Read> Read for Tee<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.inner.read(buffer)?;
        self.passed(&buffer[..count]);
        Ok(count)
    }
}

impl<W: Write> Write for Tee<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let count = self.inner.write(bytes)?;
        self.passed(&bytes[..count]);
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}
