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
    /// When the one was begun that began last of those that are not kept any more.
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
            let gone = kept.waits.pop_front().map(|wait| wait.begun);
            // They are in the order of their ends: one that waited long may have begun before those
            // that are gone already.
            kept.lost = kept.lost.max(gone);
        }
        kept.waits.push_back(wait);
    }

    /// Those that were begun at `from` or later, and not after `until`, by their end.
    pub(crate) fn between(&self, from: Instant, until: Option<Instant>) -> Vec<Wait> {
        let kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        let waits = kept.waits.iter().filter(|wait| {
            let is_early = until.is_none_or(|until| wait.begun <= until);
            wait.begun >= from && is_early
        });
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
        assert_eq!(waits.between(start, None).len(), KEPT);
        waits.add(wait(KEPT));
        waits.add(wait(KEPT + 1));
        assert_eq!(waits.known_from(), start + Duration::from_millis(1));
        let offsets = |from: usize, until: Option<usize>| -> Vec<u64> {
            let at = |number| wait(number).begun;
            let found = waits.between(at(from), until.map(at));
            found.iter().map(|wait| wait.extent.offset).collect()
        };
        assert_eq!(offsets(KEPT, None), [KEPT as u64, KEPT as u64 + 1]);
        assert_eq!(offsets(10, Some(12)), [10, 11, 12]);

        // One that had waited since long before came to its end only now.
        for _ in 0..KEPT {
            waits.add(wait(0));
        }
        let last = wait(KEPT + 1).begun;
        assert_eq!(waits.known_from(), last);
        waits.add(wait(KEPT + 2));
        assert_eq!(waits.known_from(), last, "it does not go back");
    }
}
