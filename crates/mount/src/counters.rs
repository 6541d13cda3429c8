//! What the fault transport has counted.

use std::time::Duration;

/// Number of buckets of [`FaultCounters::waits`].
pub const WAIT_BUCKETS: usize = 26;

/// What happened to the reads of layer tars since the transport was started. Counts only grow,
/// until the keeper is replaced.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct FaultCounters {
    /// Reads that asked.
    pub events: u64,
    /// Reads let through at once: all of their range was present.
    pub hits: u64,
    /// Reads that waited for the daemon.
    pub misses: u64,
    /// Misses whose bytes came.
    pub filled: u64,
    /// Misses that the daemon could not serve: the reader got an error.
    pub failed: u64,
    /// Misses whose deadline passed: the reader got an error.
    pub expired: u64,
    /// Reads of files that no layer is known for: the reader got an error.
    pub unknown: u64,
    /// Misses that wait now.
    pub waiting: u64,
    /// Microseconds that the readers of misses waited, together.
    pub waited: u64,
    /// Misses by the time that their reader waited: bucket `n` counts those of less than 2^n
    /// microseconds that are in no earlier bucket; the last one has all longer ones.
    pub waits: [u64; WAIT_BUCKETS],
}

impl FaultCounters {
    /// Number of values that [`FaultCounters::values`] gives.
    pub(crate) const VALUES: usize = 9 + WAIT_BUCKETS;

    pub(crate) fn waited(&mut self, wait: Duration) {
        let micros = wait.as_micros().max(1);
        self.waited = self
            .waited
            .saturating_add(u64::try_from(micros).unwrap_or(u64::MAX));
        let bits = usize::try_from(u128::BITS - micros.leading_zeros()).unwrap_or(usize::MAX);
        self.waits[bits.min(WAIT_BUCKETS - 1)] += 1;
    }

    /// All values, in a fixed order.
    pub(crate) fn values(&self) -> [u64; Self::VALUES] {
        let mut values = [0; Self::VALUES];
        values[..9].copy_from_slice(&[
            self.events,
            self.hits,
            self.misses,
            self.filled,
            self.failed,
            self.expired,
            self.unknown,
            self.waiting,
            self.waited,
        ]);
        values[9..].copy_from_slice(&self.waits);
        values
    }

    /// Undoes [`FaultCounters::values`].
    pub(crate) fn from_values(values: [u64; Self::VALUES]) -> Self {
        let [
            events,
            hits,
            misses,
            filled,
            failed,
            expired,
            unknown,
            waiting,
            waited,
            waits @ ..,
        ] = values;
        Self {
            events,
            hits,
            misses,
            filled,
            failed,
            expired,
            unknown,
            waiting,
            waited,
            waits,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_go_to_their_buckets() {
        let mut counters = FaultCounters::default();
        for (micros, bucket) in [(0, 1), (1, 1), (2, 2), (3, 2), (1000, 10), (u64::MAX, 25)] {
            counters.waits = [0; WAIT_BUCKETS];
            counters.waited(Duration::from_micros(micros));
            assert_eq!(counters.waits[bucket], 1, "{micros}");
        }
        assert_eq!(counters.waited, u64::MAX, "it stays at the most that fits");
    }

    #[test]
    fn values_round_trip() {
        let mut counters = FaultCounters {
            events: 1,
            hits: 2,
            misses: 3,
            filled: 4,
            failed: 5,
            expired: 6,
            unknown: 7,
            waiting: 8,
            waited: 11,
            waits: [9; WAIT_BUCKETS],
        };
        counters.waits[3] = 10;
        assert_eq!(FaultCounters::from_values(counters.values()), counters);
    }
}
