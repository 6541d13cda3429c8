//! The reads that had to wait for bytes, the last ones: for whoever asks why a start was slow.
//!
//! Kept in memory alone. A daemon that is replaced begins anew, and says since when it knows.

use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use thaw_image::{DiffId, Extent};

/// Most waits that are kept: the start of a machine-learning image without any working set has some
/// thousands. A wait takes 96 bytes.
const KEPT: usize = 1 << 14;

/// A read that waited.
#[derive(Clone, Debug)]
pub(crate) struct Wait {
    pub(crate) layer: DiffId,
    pub(crate) extent: Extent,
    /// When the daemon was asked.
    pub(crate) begun: Instant,
    /// Until the bytes were there, or the read failed.
    pub(crate) took: Duration,
    /// Why it failed, if it did.
    pub(crate) failed: Option<Box<str>>,
}

/// The last waits of a node.
#[derive(Debug)]
pub(crate) struct Waits {
    since: Instant,
    kept: Mutex<Kept>,
}

#[derive(Debug, Default)]
struct Kept {
    waits: VecDeque<Wait>,
    /// When the last one that is not kept any more was begun.
    lost: Option<Instant>,
}

impl Default for Waits {
    fn default() -> Self {
        Self {
            since: Instant::now(),
            kept: Mutex::default(),
        }
    }
}

impl Waits {
    /// Keeps one.
    pub(crate) fn add(&self, wait: Wait) {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.waits.len() == KEPT {
            kept.lost = kept.waits.pop_front().map(|wait| wait.begun);
        }
        kept.waits.push_back(wait);
    }

    /// Those that were begun at `from` or later, by their end.
    pub(crate) fn from(&self, from: Instant) -> Vec<Wait> {
        let kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        let waits = kept.waits.iter().filter(|wait| wait.begun >= from);
        waits.cloned().collect()
    }

    /// From when on all of them are known.
    pub(crate) fn known_from(&self) -> Instant {
        let kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        kept.lost.map_or(self.since, |lost| lost.max(self.since))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_ones_are_kept() {
        let waits = Waits::default();
        let start = Instant::now();
        let layer = DiffId(thaw_image::Digest::of(b"layer"));
        let wait = |number: usize| Wait {
            layer,
            extent: Extent {
                offset: number as u64,
                len: 1,
            },
            begun: start + Duration::from_millis(number as u64),
            took: Duration::ZERO,
            failed: None,
        };
        for number in 0..KEPT {
            waits.add(wait(number));
        }
        assert!(waits.known_from() <= start, "nothing is lost yet");
        assert_eq!(waits.from(start).len(), KEPT);
        waits.add(wait(KEPT));
        waits.add(wait(KEPT + 1));
        assert_eq!(waits.known_from(), start + Duration::from_millis(1));
        let late = waits.from(start + Duration::from_millis(KEPT as u64));
        let offsets: Vec<u64> = late.iter().map(|wait| wait.extent.offset).collect();
        assert_eq!(offsets, [KEPT as u64, KEPT as u64 + 1]);
    }
}
