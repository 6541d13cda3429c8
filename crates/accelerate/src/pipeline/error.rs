//! Why an image could not be read.

use std::io;

use thaw_image::Digest;
use thaw_layer::LayerError;

use crate::layout::LayoutError;
use crate::merge::MergeError;
use crate::unpack::UnpackError;

/// Why an image could not be read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PrepareError {
    /// A layer.
    #[error("layer {number} of {total} ({blob})")]
    Layer {
        /// Counted from 1, the lowest.
        number: usize,
        /// Of how many.
        total: usize,
        /// Its blob.
        blob: Digest,
        /// What is wrong with it.
        source: Box<LayerFailure>,
    },
    /// The layers are good, but do not make one tree.
    #[error(transparent)]
    Layout(#[from] LayoutError),
    /// The layers are good, but cannot be kept as directories.
    #[error(transparent)]
    Unpack(#[from] UnpackError),
    /// Somebody asked for the end.
    #[error("whoever asked for it has gone")]
    Cancelled,
}

impl From<MergeError> for PrepareError {
    fn from(error: MergeError) -> Self {
        Self::Layout(error.into())
    }
}

/// Why a layer could not be read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LayerFailure {
    /// The blob cannot be had.
    #[error(transparent)]
    Source(#[from] thaw_image::SourceError),
    /// The blob or its tar is not right.
    #[error(transparent)]
    Layer(#[from] LayerError),
    /// Its format is not known at all.
    #[error(transparent)]
    Unsupported(#[from] thaw_layer::Unsupported),
    /// The disk.
    #[error("cannot keep the layer: {0}")]
    Disk(#[from] io::Error),
}
