//! Keeps processors from halting while readers come one after the other.
//!
//! A read of what is present costs two wake-ups, the keeper's and the reader's. Where a processor
//! halts between them they cost more than all else. So from the second of two events that come
//! shortly after one another until none came for a moment, none halts; but not for long without
//! end: a container that reads all day from a layer that is not whole shall not cost a machine its
//! rest.

use std::time::{Duration, Instant};

use thaw_sys::wake::Awake;

/// Events that are no further apart belong together. A miss takes as long.
const MOMENT: Duration = Duration::from_millis(20);
/// As long at a stretch: several starts.
const STRETCH: Duration = Duration::from_secs(5);
/// Of the time that passes, one part in so many may be spent in the long run.
const SHARE: u32 = 10;

/// Whether processors may halt.
#[derive(Debug)]
pub(crate) struct Wakeful<T = Awake> {
    /// `None` where it is of no use, or cannot be.
    ask: Option<fn() -> std::io::Result<T>>,
    held: Option<T>,
    last_event: Option<Instant>,
    /// What may be spent, as of `counted`.
    left: Duration,
    counted: Instant,
}

impl Wakeful {
    pub(crate) fn new() -> Self {
        let ask: fn() -> _ = Awake::new;
        Self::asking(Awake::is_of_use().then_some(ask), Instant::now())
    }
}

impl<T> Wakeful<T> {
    fn asking(ask: Option<fn() -> std::io::Result<T>>, now: Instant) -> Self {
        Self {
            ask,
            held: None,
            last_event: None,
            left: STRETCH,
            counted: now,
        }
    }

    /// Notes that readers came.
    pub(crate) fn event(&mut self, now: Instant) {
        let Some(ask) = self.ask else { return };
        let near = |last| now.saturating_duration_since(last) <= MOMENT;
        let again = self.last_event.replace(now).is_some_and(near);
        self.count(now);
        if !again || self.held.is_some() || self.left < MOMENT {
            return;
        }
        match ask() {
            Ok(held) => self.held = Some(held),
            Err(error) => {
                tracing::debug!(%error, "processors halt between events");
                self.ask = None;
            }
        }
    }

    /// Lets processors halt when the moment is over.
    pub(crate) fn rest(&mut self, now: Instant) {
        if self.held.is_none() {
            return;
        }
        self.count(now);
        let over = |last| now.saturating_duration_since(last) > MOMENT;
        if self.left.is_zero() || self.last_event.is_none_or(over) {
            self.held = None;
        }
    }

    /// When to [rest](Self::rest), at the latest.
    pub(crate) fn timeout(&self) -> Option<Duration> {
        self.held.is_some().then_some(MOMENT)
    }

    fn count(&mut self, now: Instant) {
        let passed = now.saturating_duration_since(self.counted);
        self.counted = now;
        self.left = match self.held {
            Some(_) => self.left.saturating_sub(passed),
            None => STRETCH.min(self.left + passed / SHARE),
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// At what milliseconds events come, and how many of the milliseconds it is awake.
    fn awake(events: impl Iterator<Item = u64>, until: u64) -> usize {
        let start = Instant::now();
        let mut wakeful = Wakeful::asking(Some(|| Ok(())), start);
        let mut events = events.peekable();
        let mut awake = 0;
        for milli in 0..until {
            let now = start + Duration::from_millis(milli);
            if events.next_if_eq(&milli).is_some() {
                wakeful.event(now);
            }
            wakeful.rest(now);
            awake += usize::from(wakeful.held.is_some());
        }
        awake
    }

    #[test]
    fn one_event_now_and_then_wakes_nobody() {
        assert_eq!(awake((0..1000).step_by(50), 1000), 0);
    }

    #[test]
    fn it_ends_shortly_after_the_last_event() {
        // From the second event, at 5, to the last, at 95, and 20 more.
        assert_eq!(awake((0..100).step_by(5), 1000), 111);
    }

    #[test]
    fn it_is_a_small_part_of_a_long_time() {
        let hour = awake((0..3_600_000).step_by(5), 3_600_000);
        assert!((300_000..=366_000).contains(&hour), "{hour} ms of an hour");
    }

    #[test]
    fn where_it_cannot_be_it_is_asked_for_once() {
        let start = Instant::now();
        let mut wakeful =
            Wakeful::<()>::asking(Some(|| Err(std::io::ErrorKind::Other.into())), start);
        for _ in 0..2 {
            wakeful.event(start);
        }
        assert!(wakeful.held.is_none());
        assert!(wakeful.ask.is_none());
    }
}
