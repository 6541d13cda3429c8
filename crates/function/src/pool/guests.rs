//! Instances that somebody else has started, and ends, and that serve one request meanwhile: a start that is
//! recorded is one.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::{Pool, Slot};
use crate::instance::Instance;

impl Pool {
    /// Lets an instance that somebody else has started, and ends, take part until it has answered one
    /// request, or for `patience`. Whether it has answered one.
    pub(crate) async fn invite(
        self: &Arc<Self>,
        instance: &Arc<Instance>,
        patience: Duration,
    ) -> bool {
        let before = instance.answered();
        {
            let mut state = self.lock();
            state.slots.push(Slot {
                instance: Arc::clone(instance),
                busy: 0,
                idle_since: Instant::now(),
                guest: true,
                parting: false,
            });
            self.serve_line(&mut state);
        }
        let deadline = Instant::now() + patience;
        let busy = || {
            let state = self.lock();
            let mut slots = state.slots.iter();
            let slot = slots.find(|slot| slot.instance.id == instance.id);
            slot.is_some_and(|slot| slot.busy > 0)
        };
        loop {
            tokio::time::sleep(Duration::from_millis(10)).await;
            let answered = instance.answered() > before && !busy();
            let over = answered || instance.end().is_some() || self.fleet.is_closing();
            if over || Instant::now() >= deadline {
                break;
            }
        }
        while !self.dismiss(instance) {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        instance.answered() > before
    }

    /// Takes a guest away if it is idle; whether it was. It gets no new request.
    fn dismiss(&self, instance: &Instance) -> bool {
        let mut state = self.lock();
        let mine = |slot: &Slot| slot.instance.id == instance.id;
        for slot in state.slots.iter_mut().filter(|slot| mine(slot)) {
            slot.parting = true;
        }
        state.slots.retain(|slot| !mine(slot) || slot.busy > 0);
        !state.slots.iter().any(mine)
    }
}
