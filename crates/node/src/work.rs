//! What somebody is at work on: images that are being looked up, pulled, started or accelerated. No record and no mount says yet
//! that they need what they have in the store, so that whoever gives space back asks here.
//!
//! Work begins before the store is asked what it has, and names what it is on when that is known. From then on nobody takes it
//! away; what was taken away before is not there when the store is asked.
//!
//! Lock: innermost, but for those of the store. It is held while something is taken away.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};

use thaw_image::Digest;

use crate::image::Image;
use crate::node::lock;

/// Everything that is being worked on.
#[derive(Debug, Default)]
pub(crate) struct Works(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    works: usize,
    /// Manifests and layers, with how many are at work on each.
    on: BTreeMap<Digest, usize>,
}

/// Somebody at work, until it is dropped.
#[derive(Debug)]
pub(crate) struct Work {
    works: Arc<Works>,
    on: BTreeSet<Digest>,
}

impl Works {
    /// Somebody begins, with what is not known yet: no blob goes from now on.
    pub(crate) fn begin(self: &Arc<Self>) -> Work {
        lock(&self.0).works += 1;
        Work {
            works: Arc::clone(self),
            on: BTreeSet::new(),
        }
    }

    /// Whether anybody is.
    pub(crate) fn any(&self) -> bool {
        lock(&self.0).works > 0
    }

    /// The manifests of the images, and their layers.
    pub(crate) fn on(&self) -> BTreeSet<Digest> {
        lock(&self.0).on.keys().copied().collect()
    }

    /// Takes something away, unless somebody is at work on a manifest or layer: then `None`. Nobody begins meanwhile.
    pub(crate) fn unless_on<T>(&self, it: &Digest, take: impl FnOnce() -> T) -> Option<T> {
        let state = lock(&self.0);
        (!state.on.contains_key(it)).then(take)
    }

    /// Takes something away, unless anybody is at work.
    pub(crate) fn unless_any<T>(&self, take: impl FnOnce() -> T) -> Option<T> {
        let state = lock(&self.0);
        (state.works == 0).then(take)
    }
}

impl Work {
    /// The same work, on an image.
    pub(crate) fn on(mut self, image: &Image) -> Self {
        let layers = image.layers.iter().map(|layer| layer.diff_id.0);
        self.on.extend(layers.chain([image.digest]));
        let mut state = lock(&self.works.0);
        for it in &self.on {
            *state.on.entry(*it).or_default() += 1;
        }
        drop(state);
        self
    }
}

impl Drop for Work {
    fn drop(&mut self) {
        let mut state = lock(&self.works.0);
        state.works -= 1;
        for it in &self.on {
            if let Some(count) = state.on.get_mut(it) {
                *count -= 1;
            }
        }
        state.on.retain(|_, count| *count > 0);
    }
}
