//! By whose word the blocks came that a layer has before it is whole, and who reads them.
//!
//! A layer is one file, whichever images have it. When it is whole it is checked against its diffID;
//! until then its blocks are what accelerations and working sets say that they are, which are checked
//! against nothing but themselves. So of each layer is remembered by whose word blocks came into
//! it, and of each mount by which names its image was started:
//!
//! - an image that was named by a **tag**, and needs no signature, has its layers in common with
//!   every other: all that counts for it is what somebody could push under a name;
//! - any other reads only what came by words that [`trust`](crate::trust) allows for it, and as long
//!   as it reads a layer, no other words bring anything into it.
//!
//! Where that keeps an image from having a layer in common with others, a layer that nobody reads is
//! begun afresh, and any other is fetched whole before the image is mounted, which checks it. The same is done
//! where two images say two sizes of a layer: one of them is wrong, and when it is whole they know which. A mount is
//! shared by those names only for which all counts that it ever read by.
//!
//! Lock: `readers` is a leaf but for the locks of layers. A record is written under it, so that none
//! is lost.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, Weak};

use thaw_accelerate::LayerRef;
use thaw_cache::{LayerTar, RemoveError, TarError};
use thaw_image::{DiffId, Digest, ImageReference, Progress};

use crate::Node;
use crate::error::NodeError;
use crate::image::Image;
use crate::node::lock;
use crate::records::ArtifactRecord;
use crate::resolve::Resolved;
use crate::source::{Accelerated, layer_refs};
use crate::timing::Timing;

/// Who reads layers, with what is remembered of them.
#[derive(Debug, Default)]
pub(crate) struct Readers(Mutex<HashMap<DiffId, Vec<Weak<Names>>>>);

/// The names by which the image of one mount was started, and all words by which something came into
/// its layers: what was read is in the page cache, also when the layers have been put right.
#[derive(Debug)]
pub(crate) struct Names {
    names: Mutex<Vec<ImageReference>>,
    heard: Mutex<Vec<ArtifactRecord>>,
}

/// A name that a mount has now.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Joined {
    /// It had it before.
    Known,
    /// It had not.
    New,
}

impl Names {
    pub(crate) fn of(names: Vec<ImageReference>) -> Arc<Self> {
        Arc::new(Self {
            names: Mutex::new(names),
            heard: Mutex::default(),
        })
    }

    /// All of them.
    pub(crate) fn list(&self) -> Vec<ImageReference> {
        lock(&self.names).clone()
    }

    fn add(&self, name: &ImageReference) -> Joined {
        let mut names = lock(&self.names);
        if names.contains(name) {
            return Joined::Known;
        }
        names.push(name.clone());
        Joined::New
    }

    /// All words.
    pub(crate) fn heard(&self) -> Vec<ArtifactRecord> {
        lock(&self.heard).clone()
    }

    pub(crate) fn hear(&self, words: &[ArtifactRecord]) {
        add(&mut lock(&self.heard), words);
    }
}

/// Adds those that are not there: who speaks, not about what, makes the difference.
fn add(all: &mut Vec<ArtifactRecord>, words: &[ArtifactRecord]) {
    for word in words {
        let same =
            |it: &ArtifactRecord| (&it.repository, &it.signed) == (&word.repository, &word.signed);
        if !all.iter().any(same) {
            all.push(word.clone());
        }
    }
}

/// Somebody's whom nobody knows.
pub(crate) const fn unknown(of: Digest) -> ArtifactRecord {
    ArtifactRecord {
        manifest: of,
        repository: Some(String::new()),
        signed: None,
    }
}

/// Those who speak for what an acceleration and its working set bring, but for this node itself.
fn words(found: &Accelerated) -> Vec<ArtifactRecord> {
    let set = found.working_set.as_ref().map(|set| &set.record);
    let both = [Some(&found.record), set].into_iter().flatten();
    both.filter(|word| word.repository.is_some())
        .cloned()
        .collect()
}

impl Node {
    /// Sees to it that an image may read its layers, and bring into them what `found` says, from now
    /// on for as long as the names live that this gives. To be called before layers are attached.
    ///
    /// # Errors
    /// Those of fetching a layer whole that it cannot have in common with others.
    pub(crate) fn claim(
        &self,
        resolved: &Resolved,
        found: &Accelerated,
        progress: &dyn Progress,
        timing: &Timing,
    ) -> Result<Arc<Names>, NodeError> {
        let image = &resolved.image;
        let names = Names::of(vec![image.reference.clone()]);
        let words = words(found);
        let mut apart = self.claim_for(&names, &words, image, found)?;
        apart.retain(|layer| !self.begin_afresh(&layer.diff_id));
        if !apart.is_empty() {
            tracing::info!(layers = apart.len(), image = %image.reference,
                "fetched whole: what they have of it came by words that do not count for all who read it");
            timing.span("whole layers", || {
                self.fetch_layers(resolved, &apart, progress)
            })?;
        }
        match self.claim_for(&names, &words, image, found)?.first() {
            None => Ok(names),
            // Another start was quicker.
            Some(layer) => Err(NodeError::Apart(layer.diff_id)),
        }
    }

    /// The layers that an image cannot have in common with others; if there are none, it has all.
    fn claim_for(
        &self,
        names: &Arc<Names>,
        words: &[ArtifactRecord],
        image: &Image,
        found: &Accelerated,
    ) -> Result<Vec<LayerRef>, NodeError> {
        let mut readers = lock(&self.readers.0);
        let (mut shared, mut apart) = (Vec::new(), Vec::new());
        for layer in layer_refs(image) {
            let Some(table) = found.acceleration.tables.get(&layer.blob) else {
                continue;
            };
            let layers = self.store.layers();
            let tar = match layers.open(&layer.diff_id, table.tar_size) {
                // Two say two sizes. Where the layer is whole it has the one that it should have.
                Err(TarError::Size { known, .. }) => {
                    if !layers.open(&layer.diff_id, known)?.is_whole() {
                        apart.push(layer);
                    }
                    continue;
                }
                tar => tar?,
            };
            if tar.is_whole() {
                continue;
            }
            let others = others(&readers, &layer.diff_id);
            let had = self.words_in(&tar, !others.is_empty());
            let fits = self.counts(&names.list(), &had)
                && others.iter().all(|other| self.counts(&other.list(), words));
            match fits {
                true => shared.push((layer.diff_id, had, others)),
                false => apart.push(layer),
            }
        }
        if apart.is_empty() {
            for (layer, had, others) in shared {
                names.hear(&had);
                others.iter().for_each(|other| other.hear(words));
                self.note(&layer, had, words)?;
                join(&mut readers, layer, names);
            }
            names.hear(words);
        }
        Ok(apart)
    }

    /// Whether words that bring something into `layers` count for all who read them; if so, they are
    /// remembered.
    pub(crate) fn may_bring(
        &self,
        layers: &[Arc<LayerTar>],
        word: &ArtifactRecord,
    ) -> Result<bool, NodeError> {
        let readers = lock(&self.readers.0);
        let words: Vec<_> = Some(word.clone())
            .into_iter()
            .filter(|word| word.repository.is_some())
            .collect();
        let partial = || layers.iter().filter(|layer| !layer.is_whole());
        let of = |layer: &Arc<LayerTar>| others(&readers, &layer.diff_id());
        let counts = partial()
            .flat_map(of)
            .all(|other| self.counts(&other.list(), &words));
        if counts {
            for layer in partial() {
                of(layer).iter().for_each(|other| other.hear(&words));
                self.note(&layer.diff_id(), self.words_in(layer, true), &words)?;
            }
        }
        Ok(counts)
    }

    /// Has `name` be one of the names of a mount, if all counts for it that its layers were filled by.
    ///
    /// # Errors
    /// A word that does not.
    pub(crate) fn join(
        &self,
        names: &Names,
        name: &ImageReference,
    ) -> Result<Joined, Box<ArtifactRecord>> {
        let _readers = lock(&self.readers.0);
        let policy = self.settings.policy(name);
        let heard = lock(&names.heard);
        match heard.iter().find(|word| !policy.shares(word)) {
            Some(word) => Err(Box::new(word.clone())),
            None => Ok(names.add(name)),
        }
    }

    /// Of a mount that was there before this node: it read its layers, and goes on.
    pub(crate) fn goes_on(&self, names: &Arc<Names>, layers: &[Arc<LayerTar>]) {
        let mut readers = lock(&self.readers.0);
        for layer in layers {
            let id = layer.diff_id();
            match self.records.words(&id) {
                Some(words) => names.hear(&words),
                None if layer.is_whole() => {}
                None => names.hear(&[unknown(id.0)]),
            }
            if !layer.is_whole() {
                join(&mut readers, id, names);
            }
        }
    }

    /// Removes what is here of a layer, if nobody has it.
    fn begin_afresh(&self, layer: &DiffId) -> bool {
        self.stop_fill(layer);
        match self.store.layers().remove(layer) {
            Ok(()) => true,
            Err(RemoveError::InUse { .. }) => false,
            Err(error) => {
                tracing::warn!(%layer, %error, "not begun afresh");
                false
            }
        }
    }

    /// By whose word a layer came by what it has.
    fn words_in(&self, layer: &LayerTar, is_read: bool) -> Vec<ArtifactRecord> {
        let id = layer.diff_id();
        if layer.present_bytes() == 0 && !is_read {
            return Vec::new();
        }
        self.records
            .words(&id)
            .unwrap_or_else(|| vec![unknown(id.0)])
    }

    fn note(
        &self,
        layer: &DiffId,
        had: Vec<ArtifactRecord>,
        words: &[ArtifactRecord],
    ) -> Result<(), NodeError> {
        let mut all = had;
        add(&mut all, words);
        if self.records.words(layer).as_ref() == Some(&all) {
            return Ok(());
        }
        let put = self.records.put_words(layer, &all);
        put.map_err(NodeError::records)
    }

    /// Whether all of `words` count for an image by all of its names.
    fn counts(&self, names: &[ImageReference], words: &[ArtifactRecord]) -> bool {
        names.iter().all(|name| {
            let policy = self.settings.policy(name);
            words.iter().all(|word| policy.shares(word))
        })
    }
}

fn others(readers: &HashMap<DiffId, Vec<Weak<Names>>>, layer: &DiffId) -> Vec<Arc<Names>> {
    let of = readers.get(layer).into_iter().flatten();
    of.filter_map(Weak::upgrade).collect()
}

fn join(readers: &mut HashMap<DiffId, Vec<Weak<Names>>>, layer: DiffId, names: &Arc<Names>) {
    // Those that are gone are forgotten.
    readers.retain(|_, of| {
        of.retain(|names| names.strong_count() > 0);
        !of.is_empty()
    });
    readers
        .entry(layer)
        .or_default()
        .push(Arc::downgrade(names));
}
