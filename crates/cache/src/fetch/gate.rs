//! Who goes first: demand before working sets before fill.
//!
//! A demand never asks. A stream asks before each piece that it reads, and is held up while
//! demands are being fetched, but never longer than [`STREAM_PATIENCE`] for a piece: its bytes
//! are wanted soon, and under a steady load of demands it must still come to its end. Fill asks
//! before each request and waits until nothing else goes on. A demand that goes on for as long as
//! [`HANGS`] holds up nobody: its registry does not answer, and those of others do.

use std::collections::BTreeSet;
use std::sync::{Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// The longest that a piece of a stream is held up.
const STREAM_PATIENCE: Duration = Duration::from_millis(20);
/// After which time a demand waits for somebody who does not answer.
const HANGS: Duration = Duration::from_secs(2);
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
    /// Since when, and a number.
    demands: BTreeSet<(Instant, u64)>,
    next: u64,
    streams: usize,
}

impl Busy {
    /// Whether a demand goes on that will come to its end soon.
    fn has_demands(&self) -> bool {
        let newest = self.demands.last();
        newest.is_some_and(|(since, _)| since.elapsed() < HANGS)
    }
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
    /// Which demand; a stream where there is none.
    demand: Option<(Instant, u64)>,
}

impl Drop for Going<'_> {
    fn drop(&mut self) {
        let mut busy = self.gate.lock();
        match self.demand {
            Some(demand) => drop(busy.demands.remove(&demand)),
            None => busy.streams -= 1,
        }
        self.gate.changed.notify_all();
    }
}

impl Gate {
    fn lock(&self) -> std::sync::MutexGuard<'_, Busy> {
        self.busy.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn demand(&self) -> Going<'_> {
        let mut busy = self.lock();
        busy.next += 1;
        let demand = (Instant::now(), busy.next);
        busy.demands.insert(demand);
        Going {
            gate: self,
            demand: Some(demand),
        }
    }

    pub(crate) fn stream(&self) -> Going<'_> {
        self.lock().streams += 1;
        Going {
            gate: self,
            demand: None,
        }
    }

    /// Lets demands pass, for a while.
    pub(crate) fn stream_may_go(&self) {
        let busy = self.lock();
        let held = |busy: &mut Busy| busy.has_demands();
        let _ = self.changed.wait_timeout_while(busy, STREAM_PATIENCE, held);
    }

    /// Waits until nothing but fill goes on; says whether to go on at all. `turn` is asked again
    /// every now and then.
    pub(crate) fn fill_may_go(&self, turn: &dyn Fn() -> Turn) -> bool {
        let mut busy = self.lock();
        loop {
            match turn() {
                Turn::Stop => return false,
                Turn::Go if !busy.has_demands() && busy.streams == 0 => return true,
                Turn::Go | Turn::Pause => {}
            }
            busy = match self.changed.wait_timeout(busy, FILL_STEP) {
                Ok((busy, _)) => busy,
                Err(poisoned) => poisoned.into_inner().0,
            };
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::channel;
    use std::thread;

    use super::*;

    #[test]
    fn a_demand_that_hangs_holds_up_nobody_for_ever() {
        static GATE: Gate = Gate {
            busy: Mutex::new(Busy {
                demands: BTreeSet::new(),
                next: 0,
                streams: 0,
            }),
            changed: Condvar::new(),
        };
        let _hangs = GATE.demand();
        let (go, went) = channel();
        thread::spawn(move || go.send(GATE.fill_may_go(&|| Turn::Go)));
        went.recv_timeout(HANGS / 4).expect_err("a demand goes on");
        assert!(went.recv_timeout(Duration::from_secs(60)).unwrap());
        // One that has just begun goes before fill, whatever hangs.
        let next = GATE.demand();
        let (go, went) = channel();
        thread::spawn(move || go.send(GATE.fill_may_go(&|| Turn::Go)));
        went.recv_timeout(HANGS / 4).expect_err("a demand goes on");
        drop(next);
        assert!(went.recv_timeout(Duration::from_secs(60)).unwrap());
    }
}
