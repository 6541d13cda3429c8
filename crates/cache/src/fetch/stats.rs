//! What was moved, for whom, and how long readers waited.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Why bytes were fetched.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub enum Cause {
    /// A reader waited for them.
    Demand,
    /// They lie behind bytes that a reader waited for.
    Ahead,
    /// A working set had them.
    WorkingSet,
    /// The layer is being completed.
    Fill,
}

/// Number of classes in [`Stats::waits`].
pub const WAIT_CLASSES: usize = 28;

/// Bytes moved for one [`Cause`].
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Moved {
    /// Bytes read from sources, compressed as they are there.
    pub fetched: u64,
    /// Bytes that were unpacked from those.
    pub unpacked: u64,
    /// Bytes of blocks that became present.
    pub written: u64,
}

/// A snapshot of a fetcher's counters since its start.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Stats {
    /// Moved because a reader waited.
    pub demand: Moved,
    /// Moved ahead of demands.
    pub ahead: Moved,
    /// Moved by working sets.
    pub working_set: Moved,
    /// Moved by background fill.
    pub fill: Moved,
    /// Demands that found all blocks present.
    pub hits: u64,
    /// Demands that had to wait.
    pub faults: u64,
    /// Demands that failed.
    pub failures: u64,
    /// Ranged reads of demands.
    pub requests: u64,
    /// Chunks and frames that a demand wanted and that were on their way already.
    pub joins: u64,
    /// Chunks and frames whose bytes were wrong.
    pub mismatches: u64,
    /// Demands that had to wait, by how long: class `n` is less than 2^n microseconds and not
    /// less than half of that; the last class has everything longer.
    pub waits: [u64; WAIT_CLASSES],
}

impl Stats {
    /// The wait that `share` (0 to 1) of the faults did not exceed, to a factor of two.
    #[must_use]
    pub fn wait_quantile(&self, share: f64) -> Duration {
        let total: u64 = self.waits.iter().sum();
        let mut seen = 0;
        for (class, count) in (0u32..).zip(self.waits) {
            seen += count;
            #[expect(clippy::cast_precision_loss, reason = "an estimate")]
            let enough = total > 0 && seen as f64 >= share * total as f64;
            if enough {
                return Duration::from_micros(1 << class);
            }
        }
        Duration::ZERO
    }
}

#[derive(Debug, Default)]
pub(crate) struct MovedCounters {
    fetched: AtomicU64,
    unpacked: AtomicU64,
    written: AtomicU64,
}

/// The counters behind [`Stats`].
#[derive(Debug, Default)]
pub(crate) struct Counters {
    demand: MovedCounters,
    ahead: MovedCounters,
    working_set: MovedCounters,
    fill: MovedCounters,
    pub(crate) hits: AtomicU64,
    pub(crate) failures: AtomicU64,
    pub(crate) requests: AtomicU64,
    joins: AtomicU64,
    pub(crate) mismatches: AtomicU64,
    waits: [AtomicU64; WAIT_CLASSES],
}

pub(crate) fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}

fn get(counter: &AtomicU64) -> u64 {
    counter.load(Ordering::Relaxed)
}

impl Counters {
    fn of(&self, cause: Cause) -> &MovedCounters {
        match cause {
            Cause::Demand => &self.demand,
            Cause::Ahead => &self.ahead,
            Cause::WorkingSet => &self.working_set,
            Cause::Fill => &self.fill,
        }
    }

    pub(crate) fn fetched(&self, cause: Cause, bytes: u64) {
        self.of(cause).fetched.fetch_add(bytes, Ordering::Relaxed);
    }

    pub(crate) fn unpacked(&self, cause: Cause, bytes: u64) {
        self.of(cause).unpacked.fetch_add(bytes, Ordering::Relaxed);
    }

    pub(crate) fn written(&self, cause: Cause, bytes: u64) {
        self.of(cause).written.fetch_add(bytes, Ordering::Relaxed);
    }

    pub(crate) fn joined(&self, flights: u64) {
        self.joins.fetch_add(flights, Ordering::Relaxed);
    }

    pub(crate) fn waited(&self, wait: Duration) {
        let micros = u64::try_from(wait.as_micros()).unwrap_or(u64::MAX);
        let class = (u64::BITS - micros.leading_zeros()) as usize;
        count(&self.waits[class.min(WAIT_CLASSES - 1)]);
    }

    pub(crate) fn snapshot(&self) -> Stats {
        let moved = |counters: &MovedCounters| Moved {
            fetched: get(&counters.fetched),
            unpacked: get(&counters.unpacked),
            written: get(&counters.written),
        };
        let waits = std::array::from_fn(|class| get(&self.waits[class]));
        Stats {
            demand: moved(&self.demand),
            ahead: moved(&self.ahead),
            working_set: moved(&self.working_set),
            fill: moved(&self.fill),
            hits: get(&self.hits),
            faults: waits.iter().sum(),
            failures: get(&self.failures),
            requests: get(&self.requests),
            joins: get(&self.joins),
            mismatches: get(&self.mismatches),
            waits,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_fall_into_classes() {
        let counters = Counters::default();
        for micros in [0, 1, 3, 1_000, 1 << 40] {
            counters.waited(Duration::from_micros(micros));
        }
        let stats = counters.snapshot();
        assert_eq!(stats.faults, 5);
        assert_eq!((stats.waits[0], stats.waits[1], stats.waits[2]), (1, 1, 1));
        assert_eq!((stats.waits[10], stats.waits[WAIT_CLASSES - 1]), (1, 1));
        assert_eq!(stats.wait_quantile(0.5), Duration::from_micros(4));
        assert_eq!(Stats::default().wait_quantile(0.5), Duration::ZERO);
    }
}
