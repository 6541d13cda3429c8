//! Containers that are no servers: each is started for one event, which it finds in its environment, and
//! ends when it is done.
//!
//! They take the places of instances, and wait in line for them, like requests of servers. Who starts
//! one gets it, and nobody else does.

use std::sync::Arc;
use std::time::Instant;

use super::{Lease, Pool, Slot, Waiter};
use crate::error::Refusal;

impl Pool {
    /// A container that works on an event. It is ended, if it has not by itself, when the lease is
    /// dropped.
    ///
    /// # Errors
    /// [`Refusal`]: the line is full, no place became free in time, or it cannot be started.
    pub(crate) async fn employ(self: &Arc<Self>, event: String) -> Result<Lease, Refusal> {
        self.line_up(Some(event)).await
    }

    /// Starts containers for those who have waited longest, as far as the limits let.
    pub(super) fn start_jobs(self: &Arc<Self>) {
        let (_, most) = self.fleet.bounds(&self.target);
        let mut begun = Vec::new();
        {
            let mut state = self.lock();
            state.line.retain(|waiter| !waiter.is_gone());
            let there = u32::try_from(state.slots.len()).unwrap_or(u32::MAX);
            while !state.pausing() && there.saturating_add(state.starting) < most.max(1) {
                let Some(waiter) = state.line.pop_front() else {
                    break;
                };
                state.starting += 1;
                begun.push(waiter);
            }
        }
        for waiter in begun {
            let pool = Arc::clone(self);
            tokio::spawn(async move { pool.start_job(waiter).await });
        }
    }

    async fn start_job(self: Arc<Self>, waiter: Waiter) {
        let event = waiter.event.as_deref().unwrap_or_default();
        let started = self.fleet.start(&self.target, Some(event)).await;
        let mut state = self.lock();
        state.starting -= 1;
        match started {
            Ok(instance) => {
                state.add(Slot {
                    instance: Arc::clone(&instance),
                    busy: 1,
                    idle_since: Instant::now(),
                    guest: false,
                    parting: true,
                });
                drop(state);
                let lease = Lease {
                    pool: Some(Arc::clone(&self)),
                    instance,
                    cold: true,
                    broken: true,
                };
                // Where nobody waits any more it is given back, and so ended.
                drop(waiter.give(lease));
            }
            Err(refusal) => {
                self.note_failure(&mut state, &refusal);
                drop(state);
                waiter.refuse(&refusal);
                self.start_jobs();
            }
        }
    }
}
