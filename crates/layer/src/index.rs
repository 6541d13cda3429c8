//! Indexing a layer in one pass.

use std::io::{self, Read, Write};

use thaw_image::{DiffId, Digest, LayerFormat, SeekTable};

use crate::tar::{self, TarError};

/// What the image says of a layer. All of it is checked.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Expected {
    /// SHA-256 of the blob.
    pub blob: Digest,
    /// Bytes of the blob.
    pub blob_size: u64,
    /// SHA-256 of the tar.
    pub diff_id: DiffId,
}

/// How to index.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Options {
    /// Bytes of tar in a chunk of a compressed layer: each ends at the first block boundary of
    /// the deflate stream at or after so many.
    pub spacing: u64,
    /// Most bytes that the tar may have: what stops a decompression bomb.
    pub max_tar_size: u64,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            spacing: 1 << 20,
            max_tar_size: 1 << 40,
        }
    }
}

/// Where the products of the pass go, in order. They hold unverified bytes until it succeeded.
pub struct Outputs<'a> {
    /// The tar.
    pub tar: &'a mut (dyn Write + Send),
    /// The windows blob, which the seek table refers to.
    pub windows: &'a mut (dyn Write + Send),
}

impl std::fmt::Debug for Outputs<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Outputs")
    }
}

/// What the pass found.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Index {
    /// How to produce any range of the tar again.
    pub table: SeekTable,
    /// The members of the tar, in its order.
    pub entries: Vec<tar::Entry>,
    /// SHA-256 of the windows blob.
    pub windows: Digest,
}

/// Why a layer could not be indexed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LayerError {
    /// The blob could not be read to its end.
    #[error("cannot read the layer")]
    Read(#[source] io::Error),
    /// The tar could not be written.
    #[error("cannot write the layer's tar")]
    WriteTar(#[source] io::Error),
    /// The windows blob could not be written.
    #[error("cannot write the layer's windows")]
    WriteWindows(#[source] io::Error),
    /// The blob is not the one that the manifest names: it was damaged on the way, or replaced.
    #[error("the layer is damaged: the manifest promises {expected}, the bytes are {actual}")]
    BlobDigest {
        /// From the manifest.
        expected: Digest,
        /// Of the bytes read.
        actual: Digest,
    },
    /// The blob has another size than the manifest says.
    #[error("the layer has the wrong size: the manifest promises {expected} bytes, got {actual}")]
    BlobSize {
        /// From the manifest.
        expected: u64,
        /// Bytes read. When more came than promised, reading stopped there.
        actual: u64,
    },
    /// The tar is not the one that the image's configuration names: the image lies.
    #[error("the layer's tar is {actual}, the image's configuration promises {expected}")]
    DiffId {
        /// From the configuration.
        expected: DiffId,
        /// Of the tar.
        actual: DiffId,
    },
    /// The layer is what the manifest names, but its tar cannot be read.
    #[error("the layer is not a readable tar")]
    Tar(#[from] TarError),
    /// The tar is larger than [`Options::max_tar_size`].
    #[error("the layer unpacks to more than {limit} bytes")]
    TooLarge {
        /// [`Options::max_tar_size`].
        limit: u64,
    },
    /// A good layer for which no seek table can be made: [`unpack`] reads it.
    #[error("no seek table can be made for the layer: {reason}")]
    Unindexable {
        /// What stands against it.
        reason: &'static str,
    },
}

/// Reads a layer once, to its end: writes its tar, and gives its entries and its seek table.
/// `progress` hears how many bytes of the blob have been read so far.
///
/// # Errors
/// [`LayerError`]. When the blob's digest does not match that is what is reported, whatever else
/// went wrong because of it.
pub fn index(
    _input: &mut (dyn Read + Send),
    _format: LayerFormat,
    _expected: &Expected,
    _options: &Options,
    _outputs: Outputs<'_>,
    _progress: &mut (dyn FnMut(u64) + Send),
) -> Result<Index, LayerError> {
    Err(LayerError::Unindexable {
        reason: "the indexer is not built yet",
    })
}

/// Reads a layer once, as [`index`] does, without making a seek table: for layers that are
/// [`LayerError::Unindexable`]. `spacing` is not used.
///
/// # Errors
/// [`LayerError`], but never `Unindexable`.
pub fn unpack(
    _input: &mut (dyn Read + Send),
    _format: LayerFormat,
    _expected: &Expected,
    _options: &Options,
    _tar: &mut (dyn Write + Send),
    _progress: &mut (dyn FnMut(u64) + Send),
) -> Result<Vec<tar::Entry>, LayerError> {
    Err(LayerError::Unindexable {
        reason: "the indexer is not built yet",
    })
}
