//! What a pool knows: its instances, and who waits for one.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::oneshot;

use super::Lease;
use crate::error::Refusal;
use crate::instance::Instance;

/// Longest pause after a failed start.
const MAX_PAUSE: Duration = Duration::from_secs(60);

#[derive(Debug, Default)]
pub(super) struct State {
    pub(super) slots: Vec<Slot>,
    pub(super) starting: u32,
    pub(super) line: VecDeque<Waiter>,
    /// No new requests come: what is idle ends.
    pub(super) retired: bool,
    /// Failed starts, one after the other.
    pub(super) failures: u32,
    /// The last of them, and until when no other is tried.
    pub(super) failed: Option<(Refusal, Instant)>,
}

impl State {
    /// Whether a start has failed, and no other is to be tried yet.
    pub(super) fn pausing(&self) -> bool {
        let failed = self.failed.as_ref();
        failed.is_some_and(|(_, until)| Instant::now() < *until)
    }

    /// A start has succeeded.
    pub(super) fn add(&mut self, slot: Slot) {
        self.failures = 0;
        self.failed = None;
        self.slots.push(slot);
    }
}

/// Somebody who waits for room.
#[derive(Debug)]
pub(super) struct Waiter {
    pub(super) answer: oneshot::Sender<Result<Lease, Refusal>>,
    /// What an instance is to be started for, where it works on one event alone.
    pub(super) event: Option<String>,
}

impl Waiter {
    /// Gives it room; `Err` with that where nobody waits any more.
    pub(super) fn give(self, lease: Lease) -> Result<(), Lease> {
        let given = self.answer.send(Ok(lease));
        given.or_else(|unsent| unsent.map_or(Ok(()), Err))
    }

    pub(super) fn refuse(self, refusal: &Refusal) {
        self.answer.send(Err(refusal.clone())).ok();
    }

    pub(super) fn is_gone(&self) -> bool {
        self.answer.is_closed()
    }
}

/// The pause after so many failed starts, one after the other.
pub(super) fn pause_after(first: Duration, failures: u32) -> Duration {
    let doubled = 1 << failures.saturating_sub(1).min(20);
    first.saturating_mul(doubled).min(MAX_PAUSE)
}

#[derive(Debug)]
pub(super) struct Slot {
    pub(super) instance: Arc<Instance>,
    pub(super) busy: u32,
    /// When its last request was over.
    pub(super) idle_since: Instant,
    /// It is here for a moment, and somebody else ends it.
    pub(super) guest: bool,
    /// It gets no request any more: a guest, or one that works on one event, has its only one.
    pub(super) parting: bool,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pause_after_a_failed_start_doubles_up_to_a_minute() {
        let pauses = [1, 2, 3, 9, 10, u32::MAX].map(|failures| {
            let pause = pause_after(Duration::from_millis(200), failures);
            pause.as_millis()
        });
        assert_eq!(pauses, [200, 400, 800, 51_200, 60_000, 60_000]);
    }
}
