//! A start waits for no disk: what it wrote is made durable when it is over.

use std::time::Duration;

use thaw_cache::Store;
use thaw_image::DiffId;

use crate::Node;
use crate::records::Records;
use crate::source::chain;

/// By then a start is over, and what is written for good is in nobody's way.
const SETTLE_AFTER: Duration = Duration::from_secs(5);

impl Node {
    /// Makes durable what was written, now.
    pub(crate) fn settle(&self) {
        settle(&self.store, &self.records, &self.registry);
    }

    /// Makes durable what was written in haste, when the start is over: those of `layers`, too, that are whole by then. What is not
    /// waits for its unmount.
    pub(crate) fn settle_soon(&self, layers: Vec<DiffId>) {
        let (store, records) = (self.store.clone(), self.records.clone());
        let registry = self.registry.clone();
        let settle = move || {
            std::thread::sleep(SETTLE_AFTER);
            settle(&store, &records, &registry);
            settle_layers(&store, &layers);
        };
        let thread = std::thread::Builder::new().name("settle".into());
        if let Err(error) = thread.spawn(settle) {
            tracing::warn!(error = chain(&error), "blobs are not durable");
        }
    }
}

/// Makes durable what starts wrote, and keeps what they measured.
fn settle(store: &Store, records: &Records, registry: &thaw_registry::Client) {
    if let Err(error) = store.blobs().settle() {
        tracing::warn!(error = chain(&error), "blobs are not durable");
    }
    for trees in [store.trees(), store.corrections()] {
        if let Err(error) = trees.settle() {
            tracing::warn!(error = chain(&error), "directories are not durable");
        }
    }
    let links = registry.links();
    records.measure(|measured| measured.links.extend(links));
    records.settle();
}

/// Makes durable the layers that are whole. One that nobody has open any more was made so when it was unmounted.
fn settle_layers(store: &Store, layers: &[DiffId]) {
    let open = layers.iter().filter_map(|id| store.layers().in_use(id));
    for layer in open.filter(|layer| layer.is_whole()) {
        if let Err(error) = layer.sync() {
            tracing::warn!(layer = %layer.diff_id(), error = chain(&error), "not durable");
        }
    }
}
