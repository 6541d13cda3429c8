//! Why a registry or an OCI layout could not do what was asked.

use std::path::PathBuf;
use std::time::Duration;

use thaw_image::{Digest, SourceError};

/// Why a registry or an OCI layout could not do what was asked.
///
/// `place` is always who was asked, as [`thaw_image::BlobSource::name`] says it; `what` is what it
/// was asked for, e.g. `manifest v1`.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RegistryError {
    /// There is no such thing.
    #[error("{place} has no {what}")]
    NotFound {
        /// Who was asked.
        place: String,
        /// For what.
        what: String,
    },
    /// Credentials are missing, wrong or not enough, and renewing them did not help.
    #[error("{place} refused access to {what}: {reason}; {advice}")]
    Denied {
        /// Who was asked.
        place: String,
        /// For what.
        what: String,
        /// What it said.
        reason: String,
        /// What to do about it.
        advice: String,
    },
    /// An answer that says no, in another way than the two above.
    #[error("{place} answered {status} when asked for {what}: {reason}")]
    Status {
        /// Who was asked.
        place: String,
        /// For what.
        what: String,
        /// The HTTP status.
        status: u16,
        /// What it said.
        reason: String,
    },
    /// No connection, or it broke.
    #[error("cannot reach {place} for {what}: {reason}{advice}")]
    Unreachable {
        /// Who was asked.
        place: String,
        /// For what.
        what: String,
        /// The chain of causes, in words.
        reason: String,
        /// Empty, or `; ` and what to do about it.
        advice: &'static str,
    },
    /// No answer, or no further byte of it, in time.
    #[error("{place} did not give {what} within {:.1} s", after.as_secs_f64())]
    TimedOut {
        /// Who was asked.
        place: String,
        /// For what.
        what: String,
        /// How long was waited.
        after: Duration,
    },
    /// A blob ended before the range did.
    #[error("{what} from {place} ended early: wanted {wanted} bytes at {offset}, got {got}")]
    Truncated {
        /// Who was asked.
        place: String,
        /// For what.
        what: String,
        /// First byte wanted.
        offset: u64,
        /// Bytes wanted.
        wanted: u64,
        /// Bytes that came.
        got: u64,
    },
    /// More bytes than are taken.
    #[error("{what} from {place} is larger than the limit of {limit} bytes")]
    TooLarge {
        /// Who was asked.
        place: String,
        /// For what.
        what: String,
        /// Most bytes taken.
        limit: u64,
    },
    /// Bytes are not those that were named.
    #[error("{what} from {place} has digest {actual} instead of {expected}: damaged or forged")]
    Mismatch {
        /// Who was asked.
        place: String,
        /// For what.
        what: String,
        /// The digest that was asked for.
        expected: Digest,
        /// The digest of what came.
        actual: Digest,
    },
    /// An answer or a document makes no sense.
    #[error("{what} from {place} is malformed: {reason}")]
    Malformed {
        /// Who was asked.
        place: String,
        /// For what.
        what: String,
        /// What is wrong with it.
        reason: String,
    },
    /// An index holds no image for the platform.
    #[error("{reference} has no image for {wanted}; it has {}", list(available))]
    NoPlatform {
        /// The image.
        reference: String,
        /// The platform wanted.
        wanted: String,
        /// The platforms that there are.
        available: Vec<String>,
    },
    /// Others kept overwriting the list of referrers.
    #[error("the list of referrers {tag} in {place} still lacked entries after {rounds} repairs")]
    Contended {
        /// Where.
        place: String,
        /// The tag of the list.
        tag: String,
        /// How often it was repaired.
        rounds: u32,
    },
    /// Docker's configuration or a credential helper does not give credentials.
    #[error("cannot use credentials from {origin}: {reason}")]
    Credentials {
        /// The file or the helper.
        origin: String,
        /// What went wrong.
        reason: String,
    },
    /// A file of a layout, or of ours, could not be read or written.
    #[error("cannot {action} {}: {source}", path.display())]
    File {
        /// What was tried: `read`, `write`.
        action: &'static str,
        /// Which file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The client cannot be set up on this machine.
    #[error("cannot set up the registry client: {0}")]
    Setup(String),
    /// A task of the client panicked: a defect of ours, not of the registry.
    #[error("internal error in the registry client: {0}")]
    Internal(String),
}

impl RegistryError {
    /// Whether it says that the thing is not there, as opposed to that nobody knows.
    #[must_use]
    pub const fn is_not_found(&self) -> bool {
        matches!(self, Self::NotFound { .. })
    }

    /// Whether it may be otherwise in a moment.
    pub(crate) const fn is_passing(&self) -> bool {
        matches!(
            self,
            Self::Unreachable { .. }
                | Self::TimedOut { .. }
                | Self::Status {
                    status: 408 | 425 | 429 | 500 | 502..=504,
                    ..
                }
        )
    }

    /// The same in the words of [`thaw_image::BlobSource`].
    #[must_use]
    pub fn into_source(self, blob: &Digest) -> SourceError {
        let blob = *blob;
        match self {
            Self::NotFound { place, .. } => SourceError::NotFound {
                source_name: place,
                blob,
            },
            Self::Denied {
                place,
                reason,
                advice,
                ..
            } => SourceError::Denied {
                source_name: place,
                reason: format!("{reason}; {advice}"),
            },
            Self::TimedOut { place, after, .. } => SourceError::TimedOut {
                source_name: place,
                after,
            },
            Self::Truncated {
                place,
                offset,
                wanted,
                got,
                ..
            } => SourceError::Truncated {
                source_name: place,
                blob,
                offset,
                wanted,
                got,
            },
            Self::Unreachable {
                place,
                reason,
                advice,
                ..
            } => SourceError::Failed {
                source_name: place,
                reason: format!("{reason}{advice}"),
                source: None,
            },
            other => SourceError::Failed {
                source_name: format!("blob {blob}"),
                reason: other.to_string(),
                source: None,
            },
        }
    }
}

fn list(names: &[String]) -> String {
    if names.is_empty() {
        "none".to_owned()
    } else {
        names.join(", ")
    }
}
