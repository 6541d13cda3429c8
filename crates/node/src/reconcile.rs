//! The network of containers is the machine's: what others do to its firewall takes away ours, and containers would have no way
//! out without a word. So it is looked at when a node was opened, and now and then.

use std::time::{Duration, Instant};

use crate::Node;
use crate::node::lock;
use crate::source::chain;

const EVERY: Duration = Duration::from_secs(30);

impl Node {
    /// Puts back what is missing of the network, and takes away what was left there. To be called now and then.
    pub(crate) fn reconcile_now_and_then(&self) {
        {
            let mut reconciled = lock(&self.reconciled);
            if reconciled.is_some_and(|last| last.elapsed() < EVERY) {
                return;
            }
            *reconciled = Some(Instant::now());
        }
        if let Err(error) = self.containers.reconcile() {
            tracing::warn!(error = chain(&error), "the network of containers");
        }
    }
}
