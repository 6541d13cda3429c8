//! Containers of which nothing became: whoever asked for one becomes its monitor, or starts one, and may be
//! killed before.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use crate::Node;
use crate::node::lock;
use crate::source::chain;

/// By then a monitor has begun with its container; it takes milliseconds.
const PATIENCE: Duration = Duration::from_secs(60);

/// Containers that were made, and since when; those that are known to have begun are not among them.
pub(crate) type Unbegun = HashMap<String, Instant>;

impl Node {
    /// Notes that a container was made.
    pub(crate) fn expect_to_begin(&self, id: &str) {
        lock(&self.unbegun).insert(id.to_owned(), Instant::now());
    }

    /// Takes away containers that nobody has begun for too long.
    pub(crate) fn remove_unbegun(&self) {
        let due: Vec<String> = lock(&self.unbegun)
            .extract_if(|_, since| since.elapsed() >= PATIENCE)
            .map(|(id, _)| id)
            .collect();
        for id in due {
            let container = self.containers.find(&id);
            if container.is_ok_and(|container| !container.is_begun()) {
                tracing::warn!(container = id, "nobody has begun it: removed");
                if let Err(error) = self.release(&id, true) {
                    tracing::warn!(container = id, error = chain(&error), "not removed");
                }
            }
        }
    }
}
