//! Layers that are served: attached to the fault transport, and let go as soon as they can be.
//!
//! A layer is attached by the first mount that needs it, and stays so until it is whole or nothing
//! has it open. Until then its tar is kept open here, whether or not an image is still mounted: a
//! descriptor that is opened while the mark is there raises events itself, and whoever writes
//! through it waits for himself.
//!
//! **A layer that is whole needs nobody.** [`Node::tend`] checks layers against their diffIDs when
//! their last block has come, from wherever, and takes the marks off those that are whole. With FUSE
//! there is no mark: a layer that was mounted before it was whole stays attached until it is unmounted.
//!
//! Lock: `marks` is written to change them, and read while EROFS opens what was attached, so that
//! nobody lets it go in between. It is taken before the transport's.

use std::collections::HashMap;
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::{Duration, Instant};

use thaw_cache::{Fill, LayerTar};
use thaw_image::DiffId;
use thaw_mount::MountError;

use crate::Node;
use crate::memo::Memo;
use crate::node::lock;
use crate::open::ImageMount;
use crate::source::chain;

/// For how long the kernel may hold a superblock's files after its unmount.
const UNMOUNT_TIMEOUT: Duration = Duration::from_secs(1);

/// The layers that are attached.
#[derive(Debug, Default)]
pub(crate) struct Marks(RwLock<Marked>);

/// What [`Marks`] guards.
#[derive(Debug, Default)]
pub(crate) struct Marked {
    layers: HashMap<DiffId, Arc<LayerTar>>,
    /// Starts under observation that want events of layers that are whole, too.
    recordings: usize,
}

impl Marked {
    /// Whether no layer is attached.
    pub(crate) fn is_empty(&self) -> bool {
        self.layers.is_empty()
    }

    /// The layer, if it is attached.
    pub(crate) fn get(&self, layer: &DiffId) -> Option<Arc<LayerTar>> {
        self.layers.get(layer).cloned()
    }

    /// Notes a layer that was attached.
    pub(crate) fn add(&mut self, layer: &Arc<LayerTar>) {
        self.layers.insert(layer.diff_id(), Arc::clone(layer));
    }
}

impl Marks {
    pub(crate) fn read(&self) -> RwLockReadGuard<'_, Marked> {
        self.0.read().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn write(&self) -> RwLockWriteGuard<'_, Marked> {
        self.0.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// The attached layer.
    pub(crate) fn contain(&self, layer: &DiffId) -> bool {
        self.read().layers.contains_key(layer)
    }

    /// Keeps the marks of layers that are whole, as long as the value lives.
    pub(crate) fn record(&self) -> Recording<'_> {
        self.write().recordings += 1;
        Recording(self)
    }

    fn layers(&self) -> Vec<Arc<LayerTar>> {
        self.read().layers.values().cloned().collect()
    }
}

/// A start under observation.
#[derive(Debug)]
pub(crate) struct Recording<'a>(&'a Marks);

impl Drop for Recording<'_> {
    fn drop(&mut self) {
        self.0.write().recordings -= 1;
    }
}

impl Node {
    /// Lets go of layers that nobody has open any more, or that are whole. Others stay attached.
    pub(crate) fn let_go(&self, ids: &[DiffId]) {
        let begin = Instant::now();
        let mut left = self.try_to_let_go(ids);
        // All of them together: who has many open may mean to keep them.
        while !left.is_empty() && begin.elapsed() < UNMOUNT_TIMEOUT {
            std::thread::sleep(Duration::from_millis(5));
            left = self.try_to_let_go(&left);
        }
        for layer in left {
            tracing::debug!(%layer, "stays attached: something has it open");
        }
    }

    /// Answers with those that something has open.
    fn try_to_let_go(&self, ids: &[DiffId]) -> Vec<DiffId> {
        let Some(transport) = self.running_transport() else {
            return Vec::new();
        };
        let mut marks = self.marks.write();
        let mut left = Vec::new();
        for layer in ids {
            match transport.release(layer) {
                Ok(_) | Err(MountError::Unknown(_)) => {
                    marks.layers.remove(layer);
                }
                Err(MountError::InUse(_)) => left.push(*layer),
                Err(error) => {
                    tracing::debug!(%layer, error = chain(&error), "the layer stays attached");
                }
            }
        }
        left
    }

    /// Lets go of all that can be let go.
    pub(crate) fn let_all_go(&self) {
        let ids: Vec<DiffId> = self.marks.layers().iter().map(|l| l.diff_id()).collect();
        self.let_go(&ids);
    }

    /// Lets go of layers that no image uses: those of a keeper that was taken over.
    pub(crate) fn let_unused_go(&self) {
        let used: Vec<DiffId> = self.open_layers().iter().map(|l| l.diff_id()).collect();
        let mut ids: Vec<DiffId> = self.marks.layers().iter().map(|l| l.diff_id()).collect();
        ids.retain(|id| !used.contains(id));
        self.let_go(&ids);
    }

    /// Ends the fault transport's processes if no layer is attached. The next mount starts them.
    pub(crate) fn end_transport(&self) {
        let marks = self.marks.write();
        if marks.layers.is_empty()
            && let Some(transport) = self.take_transport()
            && let Err(error) = transport.shut_down()
        {
            tracing::warn!(error = chain(&error), "the keeper stays");
        }
    }

    /// Completes the layers of an image while nobody waits; the next node goes on with it.
    pub(crate) fn fill(&self, image: &ImageMount) {
        let memo = Memo {
            fill: true,
            ..image.memo()
        };
        memo.leave(image.dir());
        let mut fills = lock(&self.fills);
        for layer in image.diff_ids() {
            fills.insert(layer, Filling::begin(self.fetcher.fill(&layer), true));
        }
    }

    /// Stops completing a layer.
    pub(crate) fn stop_fill(&self, id: &DiffId) {
        if let Some(filling) = lock(&self.fills).remove(id) {
            filling.work.cancel();
        }
    }

    /// Does what nobody asks for: has layers checked whose last block has come, and takes the marks off
    /// those that are whole. To be called now and then, by whom nobody waits for: it makes layers durable.
    pub fn tend(&self) {
        self.trim_now_and_then();
        self.choose_reads();
        self.remove_unbegun();
        self.release_unreleased();
        self.reconcile_now_and_then();
        for layer in self.marks.layers() {
            if !layer.is_whole() && layer.present_bytes() == layer.tar_size() {
                self.check(&layer);
            }
            self.look_at_fill(&layer.diff_id());
            if self.serves_by_fuse() {
                continue;
            }
            // What a later failure to sync would take back must not be relied on.
            if layer.is_whole() && layer.sync().is_ok() && layer.is_whole() {
                self.unmark(&layer.diff_id());
            }
        }
    }

    /// A layer that is whole goes on without us.
    fn unmark(&self, id: &DiffId) {
        let Some(transport) = self.running_transport() else {
            return;
        };
        let mut marks = self.marks.write();
        if marks.recordings > 0 {
            return;
        }
        match transport.release(id) {
            Ok(_) => {
                tracing::info!(layer = %id, "whole: its reads need nobody any more");
                marks.layers.remove(id);
            }
            Err(error) => tracing::warn!(layer = %id, error = chain(&error), "keeps its mark"),
        }
    }

    /// Has a layer hashed whose blocks are all there; once, if that fails.
    fn check(&self, layer: &LayerTar) {
        let id = layer.diff_id();
        lock(&self.fills)
            .entry(id)
            .or_insert_with(|| Filling::begin(self.fetcher.fill(&id), false));
    }

    /// Says why a layer was not completed, and has it tried again after a pause.
    fn look_at_fill(&self, id: &DiffId) {
        let mut fills = lock(&self.fills);
        let Some(filling) = fills.get_mut(id) else {
            return;
        };
        let now = Instant::now();
        if let Some(again) = filling.again {
            if filling.wanted && now >= again {
                filling.work = self.fetcher.fill(id);
                filling.again = None;
            }
            return;
        }
        match filling.work.wait(now) {
            None => {}
            Some(Ok(())) => {
                fills.remove(id);
            }
            Some(Err(error)) => {
                let pause = filling.failed(now);
                tracing::warn!(layer = %id, error = chain(&error), ?pause, "not completed");
            }
        }
    }
}

/// A layer that is being completed, or was and could not be.
#[derive(Debug)]
pub(crate) struct Filling {
    work: Fill,
    /// Whether somebody has asked for it; else its blocks had come, and were to be checked.
    wanted: bool,
    failures: u32,
    /// It has failed; when it is tried again, if it is wanted.
    again: Option<Instant>,
}

/// After the first failure; doubled after each further one.
const FIRST_PAUSE: Duration = Duration::from_secs(2);
const LONGEST_PAUSE: Duration = Duration::from_secs(300);

/// How long nothing is done after a failure, which comes after so many others.
fn pause_after(failures: u32) -> Duration {
    let doubled = FIRST_PAUSE * (1 << failures.min(10));
    doubled.min(LONGEST_PAUSE)
}

impl Filling {
    fn begin(work: Fill, wanted: bool) -> Self {
        Self {
            work,
            wanted,
            failures: 0,
            again: None,
        }
    }

    /// Whether it is at work.
    pub(crate) fn goes_on(&self) -> bool {
        self.again.is_none()
    }

    /// Notes a failure; how long nothing is done.
    fn failed(&mut self, now: Instant) -> Duration {
        let pause = pause_after(self.failures);
        self.failures += 1;
        self.again = Some(now + pause);
        pause
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pause_after_a_failure_doubles_up_to_five_minutes() {
        let pauses = [0, 1, 2, 7, 8, 31, u32::MAX].map(|failures| pause_after(failures).as_secs());
        assert_eq!(pauses, [2, 4, 8, 256, 300, 300, 300]);
    }
}
