//! How long a request takes, as measured: what decides between waiting for a stream and asking.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// What is assumed of a request before one was measured.
const FIRST_GUESS: Duration = Duration::from_millis(10);
/// Requests over this size say more of the bandwidth than of the way there and back.
const SMALL: u64 = 256 << 10;

/// A moving average of the time that small requests take.
#[derive(Debug)]
pub(crate) struct Pace {
    nanos: AtomicU64,
}

impl Default for Pace {
    fn default() -> Self {
        Self {
            nanos: AtomicU64::new(nanos(FIRST_GUESS)),
        }
    }
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

/// An eighth of the new, seven of the old.
fn blend(old: u64, new: u64) -> u64 {
    old - old / 8 + new / 8
}

impl Pace {
    pub(crate) fn note_request(&self, bytes: u64, took: Duration) {
        if bytes <= SMALL {
            // Two that race lose one sample.
            let old = self.nanos.load(Ordering::Relaxed);
            self.nanos.store(blend(old, nanos(took)), Ordering::Relaxed);
        }
    }

    /// What a small request takes.
    pub(crate) fn request(&self) -> Duration {
        Duration::from_nanos(self.nanos.load(Ordering::Relaxed))
    }
}

/// The rate of one stream, in bytes per second.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Rate(u64);

impl Default for Rate {
    /// What is assumed before it was measured: not much, so that early demands do not wait in vain.
    fn default() -> Self {
        Self(20_000_000)
    }
}

impl Rate {
    pub(crate) fn note(&mut self, bytes: u64, took: Duration) {
        let sample = u128::from(bytes) * 1_000_000_000 / u128::from(nanos(took).max(1));
        self.0 = blend(self.0, u64::try_from(sample).unwrap_or(u64::MAX)).max(1);
    }

    /// How long `bytes` take.
    pub(crate) fn time_of(self, bytes: u64) -> Duration {
        let nanos = u128::from(bytes) * 1_000_000_000 / u128::from(self.0.max(1));
        Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn measurements_win_over_guesses() {
        let pace = Pace::default();
        let mut rate = Rate::default();
        for _ in 0..64 {
            pace.note_request(1_000, Duration::from_millis(2));
            pace.note_request(SMALL + 1, Duration::from_secs(5));
            rate.note(1_000_000, Duration::from_millis(10));
        }
        assert!(
            pace.request() < Duration::from_millis(3),
            "{:?}",
            pace.request()
        );
        let second = rate.time_of(100_000_000).as_secs_f64();
        assert!((0.9..1.1).contains(&second), "{second}");
    }
}
