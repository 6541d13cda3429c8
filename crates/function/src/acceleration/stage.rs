//! What is written down of accelerations: an image's index, and a function's working set of it.

use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};
use thaw_image::Digest;

use crate::catalog::{Entity, Table};
use crate::model::FunctionName;

/// Starts that miss more until a better working set is published.
pub(super) const OFTEN: u32 = 3;
/// Pause after the first failure, in seconds; it doubles with each further one.
const FIRST_PAUSE: i64 = 30;
/// Longest pause, in seconds.
const MAX_PAUSE: i64 = 6 * 3600;

/// How far something is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Stage {
    #[default]
    Queued,
    Done,
    Failed {
        why: String,
        /// Failures one after the other.
        times: u32,
        /// When it is tried again.
        again: Timestamp,
    },
}

/// The pause after so many failures, one after the other.
pub(super) fn pause_after(times: u32) -> SignedDuration {
    let doubled = FIRST_PAUSE << times.saturating_sub(1).min(20);
    SignedDuration::from_secs(doubled.min(MAX_PAUSE))
}

impl Stage {
    /// After a failure more.
    pub(super) fn failed(&self, why: String) -> Self {
        let times = match self {
            Self::Failed { times, .. } => times + 1,
            Self::Queued | Self::Done => 1,
        };
        let again = Timestamp::now() + pause_after(times);
        Self::Failed { why, times, again }
    }

    pub(super) fn is_due(&self, now: Timestamp) -> bool {
        match self {
            Self::Queued => true,
            Self::Done => false,
            Self::Failed { again, .. } => *again <= now,
        }
    }
}

/// An image that functions want accelerated.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Index {
    pub(super) manifest: Digest,
    /// As a user named it.
    pub(super) image: String,
    pub(super) stage: Stage,
    pub(super) since: Timestamp,
    #[serde(default)]
    pub(super) compressed: u64,
    #[serde(default)]
    pub(super) not_pushed: Option<String>,
}

impl Entity for Index {
    const TABLE: Table = Table::new("accelerations");
    fn key(&self) -> String {
        self.manifest.to_string()
    }
}

/// A function's working set of an image.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Recording {
    pub(super) function: FunctionName,
    pub(super) manifest: Digest,
    pub(super) stage: Stage,
    pub(super) since: Timestamp,
    #[serde(default)]
    pub(super) blocks: u64,
    #[serde(default)]
    pub(super) packed: u64,
    /// Starts since it was published that had to wait for much that is not in it.
    #[serde(default)]
    pub(super) missed: u32,
    /// Whether it reaches up to an answer.
    #[serde(default)]
    pub(super) answered: bool,
}

impl Recording {
    /// Whether enough starts have missed much for it to be published anew.
    pub(super) fn is_poor(&self) -> bool {
        self.missed >= if self.answered { OFTEN } else { 1 }
    }

    pub(super) fn key_of(function: &FunctionName) -> String {
        crate::catalog::function_key(function)
    }
}

impl Entity for Recording {
    const TABLE: Table = Table::new("recordings");
    fn key(&self) -> String {
        Self::key_of(&self.function)
    }
}
