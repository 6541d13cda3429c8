//! Whether a start is quicker by a full pull: a small model of both ways.
//!
//! Both begin with the same requests, which are left out. Then
//!
//! ```text
//! full  one round trip, and all of the image at the rate of the link or of unpacking, whichever
//!       is less: they overlap
//! lazy  what mounts and events cost, one round trip and the index, then
//!       with a working set     one round trip and the set
//!       without                the reads that wait: a share of the image, in pieces, each after
//!                              a round trip
//! ```
//!
//! Figures are those that this machine has measured; what was not measured is taken from a slow
//! machine on a slow link, where fetching less is worth more. A guess that is wrong costs some
//! time and nothing else. A full image has no more waits later, so it wins unless the lazy way is
//! clearly quicker.

use std::time::Duration;

use thaw_registry::Link;

/// What is assumed of a link that was not measured.
const ROUND_TRIP: Duration = Duration::from_millis(20);
const RATE: u64 = 12_500_000;
/// What is assumed of unpacking, in compressed bytes per second: one core's gzip.
const UNPACK_RATE: u64 = 60_000_000;
/// What a lazy mount and its first events cost beside the network.
const LAZY_COST: Duration = Duration::from_millis(20);
/// Without a working set: the share of an image that a start fetches, one part in so many, and in
/// pieces of so many bytes (measured: half of a small Python service, a third of TensorFlow, in
/// chunks of some 200 KiB of which a part comes ahead of the reads).
const READ_SHARE: u64 = 3;
const PIECE: u64 = 300 << 10;
/// Lazy is clearly quicker if it takes at most so many tenths of the full way's time.
const CLEARLY: u32 = 8;

/// What has to be moved, in compressed bytes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Needs {
    /// Layers that are not here.
    pub(crate) layers: u64,
    /// The acceleration's part that a mount needs.
    pub(crate) index: u64,
    /// The working set, where there is one that was recorded.
    pub(crate) set: Option<u64>,
}

/// How fast it is moved.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Speed {
    round_trip: Duration,
    rate: u64,
    unpack_rate: u64,
}

impl Speed {
    /// From what was measured.
    pub(crate) fn new(link: Option<&Link>, unpack_rate: Option<u64>) -> Self {
        let rate = link.and_then(|link| link.rate).unwrap_or(RATE);
        let round_trip = link.and_then(|link| link.round_trip);
        Self {
            round_trip: round_trip.unwrap_or(ROUND_TRIP),
            rate: rate.max(1),
            unpack_rate: unpack_rate.unwrap_or(UNPACK_RATE).max(1),
        }
    }

    fn full(&self, needs: &Needs) -> Duration {
        self.round_trip + time_of(needs.layers, self.rate.min(self.unpack_rate))
    }

    fn lazy(&self, needs: &Needs) -> Duration {
        let index = self.round_trip + time_of(needs.index, self.rate);
        let (trips, bytes) = match needs.set {
            Some(set) => (1, set),
            None => {
                let read = needs.layers / READ_SHARE;
                (read.div_ceil(PIECE), read)
            }
        };
        let trips = u32::try_from(trips).unwrap_or(u32::MAX);
        LAZY_COST + index + self.round_trip.saturating_mul(trips) + time_of(bytes, self.rate)
    }

    /// Why a full pull is the better way, in words; `None` where it is not.
    pub(crate) fn better_in_full(&self, needs: &Needs) -> Option<String> {
        let (full, lazy) = (self.full(needs), self.lazy(needs));
        (lazy > full / 10 * CLEARLY).then(|| {
            format!(
                "fetching all of it takes about {} ms, a lazy start about {} ms",
                full.as_millis(),
                lazy.as_millis()
            )
        })
    }
}

fn time_of(bytes: u64, rate: u64) -> Duration {
    let nanos = u128::from(bytes) * 1_000_000_000 / u128::from(rate);
    Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    const KB: u64 = 1_000;
    const MB: u64 = 1_000_000;

    fn choice(layers: u64, index: u64, set: Option<u64>, speed: Speed) -> Option<String> {
        let needs = Needs { layers, index, set };
        speed.better_in_full(&needs)
    }

    fn speed(round_trip_ms: u64, rate: u64, unpack_rate: u64) -> Speed {
        Speed {
            round_trip: Duration::from_millis(round_trip_ms),
            rate,
            unpack_rate,
        }
    }

    #[test]
    fn what_is_chosen() {
        let unknown = Speed::new(None, None);
        let (gigabit, slow) = (speed(2, 110 * MB, 120 * MB), speed(100, 2 * MB, 60 * MB));
        let local = speed(0, 1_000 * MB, 120 * MB);
        for (name, layers, index, set, speed, lazy) in [
            (
                "large, nothing measured",
                60 * MB,
                400 * KB,
                None,
                unknown,
                true,
            ),
            (
                "large with its set",
                60 * MB,
                400 * KB,
                Some(14 * MB),
                unknown,
                true,
            ),
            ("huge", 800 * MB, 4 * MB, Some(80 * MB), gigabit, true),
            ("huge, without a set", 800 * MB, 4 * MB, None, gigabit, true),
            (
                "large on a gigabit",
                60 * MB,
                400 * KB,
                Some(14 * MB),
                gigabit,
                true,
            ),
            (
                "tiny, nothing measured",
                300 * KB,
                5 * KB,
                None,
                unknown,
                false,
            ),
            (
                "small on a gigabit",
                2 * MB,
                20 * KB,
                Some(MB),
                gigabit,
                false,
            ),
            (
                "small on a slow link",
                2 * MB,
                20 * KB,
                Some(200 * KB),
                slow,
                true,
            ),
            (
                "read almost whole",
                60 * MB,
                400 * KB,
                Some(55 * MB),
                gigabit,
                false,
            ),
            (
                "unpacking is what takes long",
                60 * MB,
                400 * KB,
                Some(14 * MB),
                local,
                true,
            ),
            ("small, and near", 3 * MB, 20 * KB, Some(MB), local, false),
        ] {
            let chosen = choice(layers, index, set, speed);
            assert_eq!(chosen.is_none(), lazy, "{name}: {chosen:?}");
        }
    }

    #[test]
    fn the_words_have_both_figures() {
        let words = choice(11 * MB, 0, Some(11 * MB), speed(2, 110 * MB, 110 * MB));
        let expected = "fetching all of it takes about 102 ms, a lazy start about 124 ms";
        assert_eq!(words.as_deref(), Some(expected));
    }

    #[test]
    fn no_figure_is_too_large() {
        let words = choice(u64::MAX, u64::MAX, Some(u64::MAX), speed(1, 1, 1));
        assert!(words.is_some());
        let stands_still: Link = serde_json::from_str(r#"{"rate":0}"#).unwrap();
        let speed = Speed::new(Some(&stands_still), Some(0));
        choice(u64::MAX, u64::MAX, None, speed);
    }
}
