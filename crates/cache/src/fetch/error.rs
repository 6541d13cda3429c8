//! Why bytes did not arrive, and what a reader is told.

use std::error::Error;
use std::sync::Arc;
use std::time::Duration;

use rustix::io::Errno;
use thaw_image::{DiffId, Extent, Mismatch, SourceError};
use thaw_layer::DecodeError;

use crate::tar::TarError;

/// Why a range of a layer tar could not be filled. Cheap to clone: one failure may have many
/// waiters.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum FetchError {
    /// No image that is in use has this layer.
    #[error("layer {layer} is not attached: no image in use has it")]
    NotAttached {
        /// Which.
        layer: DiffId,
    },
    /// The reader's time was over. The fetch goes on, and a later read may find its bytes.
    #[error(
        "layer {layer}: bytes {} to {} did not arrive within {:.1} s",
        extent.offset, extent.end(), waited.as_secs_f64()
    )]
    Deadline {
        /// Which layer.
        layer: DiffId,
        /// The range that was asked for.
        extent: Extent,
        /// How long was waited.
        waited: Duration,
    },
    /// The seek table cannot be had, or is not one of this layer.
    #[error("image {image}: no seek table for layer {layer}")]
    Table {
        /// The image whose acceleration should have it.
        image: String,
        /// Which layer.
        layer: DiffId,
        /// Why.
        #[source]
        source: Arc<dyn Error + Send + Sync>,
    },
    /// Every source of the blob failed; this is what the last one said.
    #[error(
        "image {image}: cannot fetch bytes {} to {} of layer {layer}",
        extent.offset, extent.end()
    )]
    Source {
        /// The image.
        image: String,
        /// Which layer.
        layer: DiffId,
        /// The range of the layer tar.
        extent: Extent,
        /// Why.
        #[source]
        source: Arc<SourceError>,
    },
    /// The bytes that came are not those that were promised, twice.
    #[error("image {image}: {source_name} gave wrong bytes for chunk {chunk} of layer {layer}")]
    WrongChunk {
        /// The image.
        image: String,
        /// Which layer.
        layer: DiffId,
        /// Number of the chunk in its seek table.
        chunk: usize,
        /// Who gave them last.
        source_name: String,
        /// What was wrong.
        #[source]
        source: Arc<DecodeError>,
    },
    /// A frame of a working set is not what its index says.
    #[error(
        "image {image}: {source_name} gave a wrong frame {frame} of a working set, with blocks of {layers}"
    )]
    WrongFrame {
        /// The image.
        image: String,
        /// Number of the frame.
        frame: usize,
        /// The layers that it has blocks of.
        layers: String,
        /// Who gave it.
        source_name: String,
        /// What was wrong.
        #[source]
        source: Arc<FrameError>,
    },
    /// A working set could not be streamed.
    #[error("image {image}: cannot stream a working set from {source_name}")]
    Stream {
        /// The image.
        image: String,
        /// From where.
        source_name: String,
        /// Why.
        #[source]
        source: Arc<dyn Error + Send + Sync>,
    },
    /// The bytes cannot be put into the layer tar.
    #[error(transparent)]
    Tar(#[from] TarError),
    /// Every chunk of the range was written, and still a block of it is not there.
    #[error(
        "layer {layer}: its seek table does not fill bytes {} to {}",
        extent.offset, extent.end()
    )]
    Incomplete {
        /// Which layer.
        layer: DiffId,
        /// The range.
        extent: Extent,
    },
    /// It was cancelled, or the fetcher is being shut down.
    #[error("the fetch was given up")]
    Stopped,
}

/// What is wrong with a frame.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FrameError {
    /// It is no zstd frame of the right size.
    #[error("it does not unpack to {expected} bytes")]
    Unpack {
        /// Bytes that its runs have.
        expected: usize,
        /// What zstd said.
        #[source]
        source: std::io::Error,
    },
    /// Its bytes are others than promised.
    #[error(transparent)]
    Mismatch(#[from] Mismatch),
}

impl FetchError {
    /// Names a reason for which there is no seek table: for the loader in an [`super::Origin`].
    pub fn table(image: &str, layer: DiffId, why: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self::Table {
            image: image.to_owned(),
            layer,
            source: Arc::from(why.into()),
        }
    }

    /// The error number that a program sees when it reads the range: a positive number, one of
    /// those with which an event may be denied.
    #[must_use]
    pub fn errno(&self) -> i32 {
        let errno = match self {
            Self::Tar(error) if error.is_full() => Errno::NOSPC,
            Self::Tar(_)
            | Self::NotAttached { .. }
            | Self::Deadline { .. }
            | Self::Table { .. }
            | Self::Source { .. }
            | Self::WrongChunk { .. }
            | Self::WrongFrame { .. }
            | Self::Stream { .. }
            | Self::Incomplete { .. }
            | Self::Stopped => Errno::IO,
        };
        errno.raw_os_error()
    }

    /// Whether the source has to recover first: it does not answer, or is gone.
    pub(crate) fn may_pass(&self) -> bool {
        match self {
            Self::Deadline { .. } => true,
            Self::Source { source, .. } => passes(source),
            Self::Table { source, .. } => source.downcast_ref().is_some_and(passes),
            _ => false,
        }
    }

    /// Whether the same fetch, given more time, might succeed.
    pub(crate) fn is_timeout(&self) -> bool {
        match self {
            Self::Deadline { .. } => true,
            Self::Source { source, .. } => is_late(source),
            Self::Table { source, .. } => source.downcast_ref().is_some_and(is_late),
            _ => false,
        }
    }
}

const fn passes(error: &SourceError) -> bool {
    matches!(
        error,
        SourceError::TimedOut { .. } | SourceError::Failed { .. }
    )
}

const fn is_late(error: &SourceError) -> bool {
    matches!(error, SourceError::TimedOut { .. })
}
