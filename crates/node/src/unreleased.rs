//! Containers whose end nobody has told: their monitor was killed, or there was no daemon that it could tell.

use std::time::{Duration, Instant};

use crate::Node;
use crate::container::ContainerId;
use crate::node::lock;
use crate::source::chain;

/// How often they are looked for, which takes a file of each container that is held.
const EVERY: Duration = Duration::from_secs(5);

impl Node {
    /// Releases containers that have ended, as their monitors would have had it done.
    pub(crate) fn release_unreleased(&self) {
        let mut looked = lock(&self.looked_for_ends);
        if looked.is_some_and(|at| at.elapsed() < EVERY) {
            return;
        }
        *looked = Some(Instant::now());
        drop(looked);
        let held: Vec<ContainerId> = lock(&self.held)
            .keys()
            .filter_map(|id| id.parse().ok())
            .collect();
        for id in held {
            let Some(state) = self.containers.get(id).ended() else {
                continue;
            };
            let id = state.id.as_str();
            tracing::info!(container = id, "has ended, and nobody said so: released");
            if let Err(error) = self.release(id, state.options.remove) {
                tracing::warn!(container = id, error = chain(&error), "not released");
            }
        }
    }
}
