//! How often something is worth a line in the log.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Lines that may come at once.
const BURST: u32 = 50;
/// Then one for each pause.
const PAUSE: Duration = Duration::from_millis(200);

/// Lets the first of many lines through, and then some of them.
#[derive(Debug, Default)]
pub struct Throttle(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    /// Lines of the burst that have been written.
    used: u32,
    /// When the number was last right.
    since: Option<Instant>,
    untold: u64,
}

impl Throttle {
    /// Whether a line may be written now; if so, how many were not since the last one.
    pub fn pass(&self, now: Instant) -> Option<u64> {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let since = *state.since.get_or_insert(now);
        let pauses = now.saturating_duration_since(since).as_millis() / PAUSE.as_millis();
        let pauses = u32::try_from(pauses).unwrap_or(u32::MAX);
        if pauses > 0 {
            state.used = state.used.saturating_sub(pauses);
            state.since = Some(since + PAUSE * pauses);
        }
        if state.used >= BURST {
            state.untold += 1;
            return None;
        }
        state.used += 1;
        Some(std::mem::take(&mut state.untold))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_lines_pass_and_then_some() {
        let throttle = Throttle::default();
        let begin = Instant::now();
        let passed = (0..1000).filter(|_| throttle.pass(begin).is_some()).count();
        assert_eq!(passed, BURST as usize);
        let later = begin + 3 * PAUSE;
        let told: Vec<_> = (0..10).filter_map(|_| throttle.pass(later)).collect();
        assert_eq!(told, [1000 - u64::from(BURST), 0, 0]);
        // After a quiet while all is as it was.
        let quiet = begin + PAUSE * 10_000;
        let passed = (0..1000).filter(|_| throttle.pass(quiet).is_some()).count();
        assert_eq!(passed, BURST as usize);
    }
}
