//! Why a layer tar does not take bytes, or is not what it should be.

use thaw_image::{DiffId, Digest, Extent};

use crate::file::FileError;

/// Why bytes did not get into a layer tar, or a tar cannot be used.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum TarError {
    /// The disk.
    #[error("layer {diff_id}")]
    File {
        /// Which layer.
        diff_id: DiffId,
        /// What failed.
        #[source]
        source: FileError,
    },
    /// An earlier write failed, so this one was not tried.
    #[error("layer {diff_id} takes no writes since an error")]
    Refused {
        /// Which layer.
        diff_id: DiffId,
        /// The earlier failure.
        #[source]
        source: Box<TarError>,
    },
    /// The bytes would not lie within the tar.
    #[error(
        "{} bytes at {} do not fit into layer {diff_id} of {tar_size} bytes",
        extent.len, extent.offset
    )]
    Outside {
        /// Which layer.
        diff_id: DiffId,
        /// Bytes of its tar.
        tar_size: u64,
        /// Where they should go.
        extent: Extent,
    },
    /// Two descriptions of one layer disagree: one of them lies.
    #[error("layer {diff_id} has {known} bytes here, but {asked} were asked for")]
    Size {
        /// Which layer.
        diff_id: DiffId,
        /// Bytes of the tar that is open or whole.
        known: u64,
        /// Bytes that were asked for.
        asked: u64,
    },
    /// A tar over [`crate::MAX_TAR_BYTES`].
    #[error(
        "layer {diff_id} of {tar_size} bytes is over the limit of {} bytes",
        crate::MAX_TAR_BYTES
    )]
    TooLarge {
        /// Which layer.
        diff_id: DiffId,
        /// Its bytes.
        tar_size: u64,
    },
    /// The descriptor that was handed in is not of this layer's file.
    #[error("the descriptor handed in for layer {diff_id} is of another file, or only to read")]
    Descriptor {
        /// Which layer.
        diff_id: DiffId,
    },
    /// It is not all there, so it cannot be checked against its diffID.
    #[error("layer {diff_id} still lacks {missing} bytes")]
    Incomplete {
        /// Which layer.
        diff_id: DiffId,
        /// Bytes of the blocks that it lacks.
        missing: u64,
    },
    /// All of it was there, and it is not the layer. Everything was forgotten.
    #[error("layer {diff_id} hashes to {actual}: the acceleration that filled it is wrong")]
    NotItsDiffId {
        /// Which layer.
        diff_id: DiffId,
        /// What its bytes hash to.
        actual: Digest,
    },
    /// Whoever asked for the check did not want it any more.
    #[error("the check of layer {diff_id} was stopped")]
    Stopped {
        /// Which layer.
        diff_id: DiffId,
    },
}

impl TarError {
    /// Whether space alone heals it.
    #[must_use]
    pub fn is_full(&self) -> bool {
        match self {
            Self::File { source, .. } => source.is_full(),
            Self::Refused { source, .. } => source.is_full(),
            _ => false,
        }
    }
}
