//! Who goes first: demand before working sets before fill.
//!
//! A demand never asks. A stream asks before each piece that it reads, and is held up while
//! demands are being fetched, but never longer than [`STREAM_PATIENCE`] for a piece: its bytes
//! are wanted soon, and under a steady load of demands it must still come to its end. Fill asks
//! before each request and waits until nothing else goes on.

use std::sync::{Condvar, Mutex, PoisonError};
use std::time::Duration;

/// The longest that a piece of a stream is held up.
const STREAM_PATIENCE: Duration = Duration::from_millis(20);
/// How soon a waiting fill notices that it was cancelled or may go on.
const FILL_STEP: Duration = Duration::from_millis(50);

/// What a fill's owner wants of it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Turn {
    Go,
    Pause,
    Stop,
}

#[derive(Debug, Default)]
struct Busy {
    demands: usize,
    streams: usize,
}

/// Counts what goes on. Its lock is a leaf.
#[derive(Debug, Default)]
pub(crate) struct Gate {
    busy: Mutex<Busy>,
    changed: Condvar,
}

/// Something goes on until this is dropped.
#[derive(Debug)]
pub(crate) struct Going<'a> {
    gate: &'a Gate,
    is_demand: bool,
}

impl Drop for Going<'_> {
    fn drop(&mut self) {
        let mut busy = self.gate.lock();
        if self.is_demand {
            busy.demands -= 1;
        } else {
            busy.streams -= 1;
        }
        self.gate.changed.notify_all();
    }
}

impl Gate {
    fn lock(&self) -> std::sync::MutexGuard<'_, Busy> {
        self.busy.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn demand(&self) -> Going<'_> {
        self.lock().demands += 1;
        Going {
            gate: self,
            is_demand: true,
        }
    }

    pub(crate) fn stream(&self) -> Going<'_> {
        self.lock().streams += 1;
        Going {
            gate: self,
            is_demand: false,
        }
    }

    /// Lets demands pass, for a while.
    pub(crate) fn stream_may_go(&self) {
        let busy = self.lock();
        let held = |busy: &mut Busy| busy.demands > 0;
        let _ = self.changed.wait_timeout_while(busy, STREAM_PATIENCE, held);
    }

    /// Waits until nothing but fill goes on; says whether to go on at all. `turn` is asked again
    /// every now and then.
    pub(crate) fn fill_may_go(&self, turn: &dyn Fn() -> Turn) -> bool {
        let mut busy = self.lock();
        loop {
            match turn() {
                Turn::Stop => return false,
                Turn::Go if busy.demands == 0 && busy.streams == 0 => return true,
                Turn::Go | Turn::Pause => {}
            }
            busy = match self.changed.wait_timeout(busy, FILL_STEP) {
                Ok((busy, _)) => busy,
                Err(poisoned) => poisoned.into_inner().0,
            };
        }
    }
}
