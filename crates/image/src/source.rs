//! Where blobs come from.

use std::io::Read;
use std::time::{Duration, Instant};

use crate::{Digest, Extent};

/// Something that holds blobs by digest: a repository of a registry, an OCI layout on disk, the
/// local store. What it gives is *unverified*; whoever asks checks it against a digest.
///
/// Calls block. An implementation bounds each by `deadline` or, where there is none, by its own
/// time-outs, and retries what is worth retrying inside that bound.
pub trait BlobSource: Send + Sync + std::fmt::Debug {
    /// Reads exactly `extent.len` bytes.
    ///
    /// # Errors
    /// See [`SourceError`]; a short blob is [`SourceError::Truncated`].
    fn read_at(
        &self,
        blob: &Digest,
        extent: Extent,
        deadline: Option<Instant>,
    ) -> Result<Vec<u8>, SourceError>;

    /// Streams the blob's bytes of `extent` in order. Reads of the stream may fail half-way with
    /// an `io::Error` whose source is a [`SourceError`]; an implementation resumes a broken
    /// connection where it stopped before it gives up.
    ///
    /// # Errors
    /// See [`SourceError`].
    fn stream(&self, blob: &Digest, extent: Extent) -> Result<Box<dyn Read + Send>, SourceError>;

    /// The name of this source for messages, e.g. `registry.example:5000/team/app`.
    fn name(&self) -> String;

    /// What answers for it, and for others with it, as far as they are slow or fail together.
    fn host(&self) -> String {
        self.name()
    }

    /// Says that bytes that came were not what their digest says. `true`: they may have come from
    /// somebody in between, who is not asked for a while, so that it is worth to ask once more.
    fn distrust(&self) -> bool {
        false
    }
}

/// Why a blob could not be read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SourceError {
    /// The source does not have it.
    #[error("{source_name} has no blob {blob}")]
    NotFound {
        /// Who was asked.
        source_name: String,
        /// For what.
        blob: Digest,
    },
    /// Credentials are missing, wrong or expired, and renewing them did not help.
    #[error("{source_name} refused access: {reason}")]
    Denied {
        /// Who was asked.
        source_name: String,
        /// What it said.
        reason: String,
    },
    /// The blob ended before the range did.
    #[error(
        "blob {blob} from {source_name} ended early: wanted {wanted} bytes at {offset}, got {got}"
    )]
    Truncated {
        /// Who was asked.
        source_name: String,
        /// For what.
        blob: Digest,
        /// First byte asked for.
        offset: u64,
        /// Bytes asked for.
        wanted: u64,
        /// Bytes that came.
        got: u64,
    },
    /// It did not answer in time.
    #[error("{source_name} did not answer within {}", seconds(*after))]
    TimedOut {
        /// Who was asked.
        source_name: String,
        /// How long was waited.
        after: Duration,
    },
    /// Anything else that the connection or the disk said.
    #[error("cannot read from {source_name}: {reason}")]
    Failed {
        /// Who was asked.
        source_name: String,
        /// What went wrong, in words.
        reason: String,
        /// The error below, where there is one.
        #[source]
        source: Option<Box<dyn std::error::Error + Send + Sync>>,
    },
}

fn seconds(duration: Duration) -> String {
    format!("{:.1} s", duration.as_secs_f64())
}
