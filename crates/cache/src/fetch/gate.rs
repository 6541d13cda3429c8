//! Who goes first: demand before working sets before fill.
//!
//! A demand never asks. A stream asks before each piece that it reads, and is held up while
//! demands are being fetched, but never longer than [`STREAM_PATIENCE`] for a piece: its bytes
//! are wanted soon, and under a steady load of demands it must still come to its end. Fill asks
//! before each request and waits until nothing else goes on. Where a demand goes on for as long as
//! [`HANGS`] those of its host hold up nobody, however new they are: it does not answer, and others do.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
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
    /// Since when, and a number; with the host.
    demands: BTreeMap<(Instant, u64), Arc<str>>,
    next: u64,
    streams: usize,
}

impl Busy {
    /// Whether a demand goes on that will come to its end soon.
    fn has_demands(&self) -> bool {
        let mut hosts = BTreeSet::new();
        let mut demands = self.demands.iter();
        // The first of each host is its oldest.
        demands.any(|((since, _), host)| hosts.insert(host) && since.elapsed() < HANGS)
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

    pub(crate) fn demand(&self, host: &Arc<str>) -> Going<'_> {
        let mut busy = self.lock();
        busy.next += 1;
        let demand = (Instant::now(), busy.next);
        busy.demands.insert(demand, Arc::clone(host));
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
    use std::sync::mpsc::{Receiver, channel};
    use std::thread;

    use super::*;

    /// Tells when a fill may go.
    fn fill(gate: &Arc<Gate>) -> Receiver<bool> {
        let (go, went) = channel();
        let gate = Arc::clone(gate);
        thread::spawn(move || go.send(gate.fill_may_go(&|| Turn::Go)));
        went
    }

    #[test]
    fn a_demand_that_hangs_holds_up_nobody_for_ever() {
        let (gate, [silent, other]) = (Arc::<Gate>::default(), ["silent", "other"].map(Arc::from));
        let _hangs = gate.demand(&silent);
        let went = fill(&gate);
        went.recv_timeout(HANGS / 4).expect_err("a demand goes on");
        assert!(went.recv_timeout(Duration::from_secs(60)).unwrap());
        // One of another host that has just begun goes before fill, whatever hangs.
        let next = gate.demand(&other);
        let went = fill(&gate);
        went.recv_timeout(HANGS / 4).expect_err("a demand goes on");
        drop(next);
        assert!(went.recv_timeout(Duration::from_secs(60)).unwrap());
    }

    #[test]
    fn a_host_that_hangs_and_is_asked_on_and_on_holds_up_nobody_for_ever() {
        let (gate, silent) = (Arc::<Gate>::default(), Arc::from("silent"));
        let (went, begin) = (fill(&gate), Instant::now());
        let mut hang = Vec::new();
        loop {
            hang.push(gate.demand(&silent));
            match went.recv_timeout(HANGS / 2) {
                Ok(may) => break assert!(may),
                Err(_) => assert!(begin.elapsed() < Duration::from_secs(60), "it waits still"),
            }
        }
    }
}
