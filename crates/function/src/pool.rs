//! The instances of one target, from none to many and back.
//!
//! A request takes the busiest instance that has room, so that the others become idle. Where none has
//! room it waits in line, and an instance is started when those that are being started have too
//! little room for the line. What fails to start fails those that have waited for it; when that
//! happens again and again, starts wait, and requests are told at once.
//!
//! ```text
//! acquire ─┬ room ────────────────▶ Lease ─ dropped ─┬ a waiter ─▶ Lease
//!          └ line ─ start ─ ready ─▶                  └ idle ─ frozen ─ kept for a while ─ ended
//! ```
//!
//! A function that is no server has a container for each event: see [`jobs`].
//!
//! Locks: the pool's state is held for moments, never over an await; nothing else is locked under it.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use hyper::StatusCode;
use tokio::sync::oneshot;

use crate::error::Refusal;
use crate::fleet::Fleet;
use crate::instance::Instance;
use crate::model::Target;

mod guests;
mod jobs;
mod state;

use state::{Slot, State, Waiter, pause_after};

/// All instances of a target.
#[derive(Debug)]
pub(crate) struct Pool {
    pub(crate) target: Arc<Target>,
    pub(crate) fleet: Arc<Fleet>,
    state: Mutex<State>,
}

/// Room in an instance for one request. Given back when it is dropped.
#[derive(Debug)]
pub(crate) struct Lease {
    /// `None`: nothing is given back.
    pool: Option<Arc<Pool>>,
    pub(crate) instance: Arc<Instance>,
    /// Whether the instance was started for this request.
    pub(crate) cold: bool,
    broken: bool,
}

impl Lease {
    /// The instance is not to be used again.
    pub(crate) fn condemn(&mut self) {
        self.broken = true;
    }

    /// It is, after all.
    pub(crate) fn spare(&mut self) {
        self.broken = false;
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        if let Some(pool) = self.pool.take() {
            pool.give_back(&self.instance, self.broken);
        }
    }
}

/// How many instances there are, and how many wait.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub(crate) struct Counts {
    pub(crate) running: u32,
    pub(crate) busy: u32,
    pub(crate) starting: u32,
    pub(crate) waiting: u32,
}

impl Pool {
    pub(crate) fn new(target: Arc<Target>, fleet: Arc<Fleet>) -> Arc<Self> {
        Arc::new(Self {
            target,
            fleet,
            state: Mutex::default(),
        })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn counts(&self) -> Counts {
        let state = self.lock();
        let count = |number: usize| u32::try_from(number).unwrap_or(u32::MAX);
        Counts {
            running: count(state.slots.len()),
            busy: count(state.slots.iter().filter(|slot| slot.busy > 0).count()),
            starting: state.starting,
            waiting: count(state.line.len()),
        }
    }

    pub(crate) fn instances(&self) -> Vec<Arc<Instance>> {
        let state = self.lock();
        state
            .slots
            .iter()
            .map(|slot| Arc::clone(&slot.instance))
            .collect()
    }

    /// Room for one request.
    ///
    /// # Errors
    /// [`Refusal`]: the line is full, none has come in time, or none can be started.
    pub(crate) async fn acquire(self: &Arc<Self>) -> Result<Lease, Refusal> {
        self.line_up(None).await
    }

    async fn line_up(self: &Arc<Self>, event: Option<String>) -> Result<Lease, Refusal> {
        let patience = self.fleet.limits.patience;
        if self.fleet.bounds(&self.target).1 == 0 {
            let message = format!("function '{}' may have no instances", self.target.name);
            return Err(Refusal::exhausted(message));
        }
        let waiting = {
            let mut state = self.lock();
            if let Some(lease) = self.take(&mut state) {
                return Ok(lease);
            }
            if let Some((refusal, until)) = &state.failed
                && Instant::now() < *until
                && state.starting == 0
                && state.slots.is_empty()
            {
                let mut refusal = refusal.clone();
                let left = until.saturating_duration_since(Instant::now()).as_secs() + 1;
                let times = match state.failures {
                    1 => "once".to_owned(),
                    times => format!("{times} times"),
                };
                let again = format!(" (it failed {times}; tried again in {left} s)");
                refusal.message.push_str(&again);
                return Err(refusal);
            }
            state.line.retain(|waiter| !waiter.is_gone());
            if state.line.len() >= self.fleet.limits.line {
                let message = format!(
                    "{} requests of function '{}' wait for an instance already",
                    state.line.len(),
                    self.target.name
                );
                return Err(Refusal::exhausted(message));
            }
            let (answer, waiting) = oneshot::channel();
            state.line.push_back(Waiter { answer, event });
            waiting
        };
        self.start_enough();
        match tokio::time::timeout(patience, waiting).await {
            Ok(Ok(answer)) => answer,
            Ok(Err(_)) => Err(Refusal::internal("the host is ending")),
            Err(_) => {
                let message = format!(
                    "no instance of function '{}' became free within {} s",
                    self.target.name,
                    patience.as_secs()
                );
                Err(Refusal::exhausted(message))
            }
        }
    }

    /// Room in the busiest instance that has any.
    fn take(self: &Arc<Self>, state: &mut State) -> Option<Lease> {
        let most = self.target.config.concurrency;
        let free = state.slots.iter_mut();
        let free = free.filter(|slot| slot.busy < most && !slot.parting);
        let free = free.filter(|slot| slot.instance.end().is_none());
        // A guest waits for its request. Of those that are idle the one that was used last: it may not
        // be frozen yet.
        let slot = free.max_by_key(|slot| (slot.guest, slot.busy, slot.idle_since))?;
        slot.busy += 1;
        slot.parting = slot.guest;
        Some(Lease {
            pool: Some(Arc::clone(self)),
            instance: Arc::clone(&slot.instance),
            cold: false,
            broken: false,
        })
    }

    fn give_back(self: &Arc<Self>, instance: &Arc<Instance>, broken: bool) {
        let mut state = self.lock();
        let Some(index) = state
            .slots
            .iter()
            .position(|slot| slot.instance.id == instance.id)
        else {
            return;
        };
        state.slots[index].busy = state.slots[index].busy.saturating_sub(1);
        state.slots[index].idle_since = Instant::now();
        let idle = state.slots[index].busy == 0;
        let guest = state.slots[index].guest;
        let gone = broken || instance.end().is_some();
        // One of several, and another function has none at all for lack of memory.
        let yields =
            idle && !guest && state.slots.len() > 1 && self.fleet.others_hunger(&self.target.name);
        let gone = gone || yields;
        if gone {
            state.slots.remove(index);
        }
        self.serve_line(&mut state);
        let retire = idle && state.retired && state.line.is_empty() && !gone && !guest;
        if retire {
            state.slots.retain(|slot| slot.instance.id != instance.id);
        }
        let still_idle = state
            .slots
            .iter()
            .any(|slot| slot.instance.id == instance.id && slot.busy == 0);
        drop(state);
        if guest {
            self.start_enough();
        } else if gone || retire {
            self.fleet.end(instance);
            self.start_enough();
        } else if still_idle {
            self.freeze_soon(instance);
        }
    }

    /// Gives room to who has waited longest.
    fn serve_line(self: &Arc<Self>, state: &mut State) {
        while !state.line.is_empty() {
            let Some(lease) = self.take(state) else {
                return;
            };
            let Some(waiter) = state.line.pop_front() else {
                return;
            };
            if let Err(mut lease) = waiter.give(lease) {
                // Whoever waited is gone. Not by dropping: the lock is held.
                if let Some(slot) = state
                    .slots
                    .iter_mut()
                    .find(|slot| slot.instance.id == lease.instance.id)
                {
                    slot.busy -= 1;
                }
                lease.pool = None;
            }
        }
    }

    /// Freezes an instance that stays idle for a moment.
    fn freeze_soon(self: &Arc<Self>, instance: &Arc<Instance>) {
        let (pool, instance) = (Arc::clone(self), Arc::clone(instance));
        let Some(pause) = self.fleet.limits.freeze_after else {
            return;
        };
        tokio::spawn(async move {
            tokio::time::sleep(pause).await;
            let idle_for = |least: Duration| {
                let state = pool.lock();
                let mut slots = state.slots.iter();
                let slot = slots.find(|slot| slot.instance.id == instance.id);
                slot.is_some_and(|slot| slot.busy == 0 && slot.idle_since.elapsed() >= least)
            };
            if idle_for(pause) {
                instance.sleep(|| !idle_for(Duration::ZERO)).await;
            }
        });
    }

    /// Starts instances until there is room for the line, as far as the limits let.
    pub(crate) fn start_enough(self: &Arc<Self>) {
        if !self.target.config.container.is_server() {
            return self.start_jobs();
        }
        let (least, most) = self.fleet.bounds(&self.target);
        let mut begun = 0;
        {
            let mut state = self.lock();
            state.line.retain(|waiter| !waiter.is_gone());
            let line = u32::try_from(state.line.len()).unwrap_or(u32::MAX);
            let there = u32::try_from(state.slots.len()).unwrap_or(u32::MAX);
            let least = if state.retired { 0 } else { least };
            let lacks = least.saturating_sub(there + state.starting);
            let wanted = line.div_ceil(self.target.config.concurrency);
            let wanted = wanted.max(state.starting.saturating_add(lacks));
            let wanted = if state.pausing() { 0 } else { wanted };
            while state.starting < wanted && there + state.starting < most.max(1) {
                state.starting += 1;
                begun += 1;
            }
        }
        for _ in 0..begun {
            let pool = Arc::clone(self);
            tokio::spawn(async move { pool.start_one().await });
        }
    }

    async fn start_one(self: Arc<Self>) {
        let started = self.fleet.start(&self.target, None).await;
        let mut state = self.lock();
        state.starting -= 1;
        match started {
            Ok(instance) => self.admit(&mut state, instance),
            Err(refusal) => self.fail(&mut state, &refusal),
        }
    }

    /// A new instance: for those who have waited longest.
    fn admit(self: &Arc<Self>, state: &mut State, instance: Arc<Instance>) {
        state.add(Slot {
            instance: Arc::clone(&instance),
            busy: 0,
            idle_since: Instant::now(),
            guest: false,
            parting: false,
        });
        let mut first = true;
        for _ in 0..self.target.config.concurrency {
            state.line.retain(|waiter| !waiter.is_gone());
            let Some(waiter) = state.line.pop_front() else {
                break;
            };
            if let Some(slot) = state.slots.last_mut() {
                slot.busy += 1;
            }
            let lease = Lease {
                pool: Some(Arc::clone(self)),
                instance: Arc::clone(&instance),
                cold: std::mem::take(&mut first),
                broken: false,
            };
            if let Err(mut lease) = waiter.give(lease) {
                if let Some(slot) = state.slots.last_mut() {
                    slot.busy -= 1;
                }
                lease.pool = None;
            }
        }
        let (pool, watched) = (Arc::clone(self), Arc::clone(&instance));
        tokio::spawn(async move {
            watched.wait().await;
            pool.ended(&watched);
        });
        if state.slots.last().is_some_and(|slot| slot.busy == 0) {
            self.freeze_soon(&instance);
        }
    }

    /// Nobody can be served by a start that failed: those who would have been are told.
    fn fail(self: &Arc<Self>, state: &mut State, refusal: &Refusal) {
        self.note_failure(state, refusal);
        let served = state
            .starting
            .saturating_add(u32::try_from(state.slots.len()).unwrap_or(0));
        let served = usize::try_from(served.saturating_mul(self.target.config.concurrency));
        let told = state.line.len().saturating_sub(served.unwrap_or(0));
        for waiter in state.line.drain(..told) {
            waiter.refuse(refusal);
        }
    }

    /// Has further starts wait for a while.
    fn note_failure(&self, state: &mut State, refusal: &Refusal) {
        // Starts that were under way together fail as one.
        if refusal.status != StatusCode::TOO_MANY_REQUESTS && !state.pausing() {
            state.failures += 1;
            let pause = pause_after(self.fleet.limits.pause, state.failures);
            state.failed = Some((refusal.clone(), Instant::now() + pause));
        }
    }

    /// An instance has ended by itself.
    fn ended(self: &Arc<Self>, instance: &Arc<Instance>) {
        let mut state = self.lock();
        let there = state.slots.len();
        state.slots.retain(|slot| slot.instance.id != instance.id);
        let was_there = state.slots.len() < there;
        drop(state);
        if was_there {
            let end = instance.end();
            let how = end.map(|end| crate::instance::describe(&end, &self.target));
            tracing::info!(function = %self.target.name, container = instance.id, how, "an instance ended");
            self.fleet.end(instance);
        }
        self.start_enough();
    }

    /// Ends what has been idle for longer than `keep`, down to the least number.
    pub(crate) fn reap(self: &Arc<Self>, keep: Duration) {
        let (least, _) = self.fleet.bounds(&self.target);
        let mut state = self.lock();
        let least = if state.retired { 0 } else { least };
        let keep = if state.retired { Duration::ZERO } else { keep };
        let mut spare = state
            .slots
            .len()
            .saturating_sub(usize::try_from(least).unwrap_or(0));
        let mut ended = Vec::new();
        state.slots.retain(|slot| {
            let over =
                spare > 0 && !slot.guest && slot.busy == 0 && slot.idle_since.elapsed() >= keep;
            if over {
                spare -= 1;
                ended.push(Arc::clone(&slot.instance));
            }
            !over
        });
        drop(state);
        for instance in &ended {
            self.fleet.end(instance);
        }
        self.start_enough();
    }

    /// The instance that is idle for longest, and since when; not those that have to be there.
    pub(crate) fn idlest(&self) -> Option<(Instant, Arc<Instance>)> {
        let (least, _) = self.fleet.bounds(&self.target);
        let state = self.lock();
        if state.slots.len() <= usize::try_from(least).unwrap_or(0) {
            return None;
        }
        let idle = state
            .slots
            .iter()
            .filter(|slot| slot.busy == 0 && !slot.guest);
        let idlest = idle.min_by_key(|slot| slot.idle_since)?;
        Some((idlest.idle_since, Arc::clone(&idlest.instance)))
    }

    /// Ends one instance if it is idle; whether it was.
    pub(crate) fn evict(self: &Arc<Self>, instance: &Arc<Instance>) -> bool {
        let mut state = self.lock();
        let there = state.slots.len();
        state
            .slots
            .retain(|slot| slot.instance.id != instance.id || slot.busy > 0);
        let gone = state.slots.len() < there;
        drop(state);
        if gone {
            self.fleet.end(instance);
        }
        gone
    }

    /// From now on nothing new comes: what is idle ends now, the rest when it is idle.
    pub(crate) fn retire(self: &Arc<Self>) {
        self.lock().retired = true;
        self.reap(Duration::ZERO);
    }

    /// Whether nothing is left of a pool that was retired.
    pub(crate) fn is_over(&self) -> bool {
        let state = self.lock();
        state.retired && state.slots.is_empty() && state.starting == 0 && state.line.is_empty()
    }
}
