//! The size of the cache: what goes when the layers take more than they may.
//!
//! In this order, each step only as far as it must go, and first the layers whose images were used by nobody for the longest time:
//!
//! 1. layers that nothing uses lose what no working set has;
//! 2. so do layers under running containers, where that is safe: those that FUSE serves and that
//!    are not whole. With fanotify it never is: a read that was let through is the kernel's, and a
//!    hole made under it reads as zeros;
//! 3. layers that nothing uses go as a whole, working sets and all, and so do directories that they
//!    were unpacked into.
//!
//! An image that is mounted still, though nobody uses it any more, is unmounted when its layers are to lose something.
//!
//! What somebody is [at work](crate::work) on stays. A layer that somebody has open still, though it is not mounted, waits for the next time: the keeper
//! holds those that it was told to let go for some seconds, and removing them would give nothing back.
//!
//! What is left then is in use, and stays: the cache may be larger than it should for as long as
//! containers run that have read so much.
//!
//! Lock: `marks` is written to while a layer under containers loses blocks, so that it neither
//! changes hands nor becomes a plain file meanwhile.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::fs::File;
use std::sync::Arc;
use std::time::{Duration, Instant};

use thaw_cache::{LayerTar, RemoveError, Usage};
use thaw_image::{BlockRun, DiffId, Digest};

use crate::Node;
use crate::error::NodeError;
use crate::marks::Filling;
use crate::node::{Slot, lock, try_lock};
use crate::reports::Removal;
use crate::source::chain;

/// How often the cache is measured.
const EVERY: Duration = Duration::from_secs(5);
/// How often it is said that it is larger than it should be.
const SAY_EVERY: Duration = Duration::from_secs(300);

/// When the cache was measured.
#[derive(Debug, Default)]
pub(crate) struct Trimming {
    measured: Option<Instant>,
    said: Option<Instant>,
}

/// A way to get space from a layer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Step {
    Shrink,
    Punch,
    Remove,
}

impl Node {
    /// Brings the layers to the size that they may have, if one is set. To be called now and then.
    pub(crate) fn trim_now_and_then(&self) {
        let Some(size) = self.settings.cache_size else {
            return;
        };
        let due =
            |last: Option<Instant>, every| last.is_none_or(|at: Instant| at.elapsed() > every);
        {
            let mut trimming = lock(&self.trimming);
            if !due(trimming.measured, EVERY) {
                return;
            }
            trimming.measured = Some(Instant::now());
        }
        match self.trim(size, false, &BTreeSet::new()) {
            Ok((gone, left)) => {
                for removal in gone {
                    tracing::info!(
                        what = removal.what,
                        why = removal.why,
                        bytes = removal.bytes,
                        "given back"
                    );
                }
                let mut trimming = lock(&self.trimming);
                if left > size && due(trimming.said, SAY_EVERY) {
                    trimming.said = Some(Instant::now());
                    tracing::warn!(
                        bytes = left,
                        size,
                        "the cache is larger than it may be: all of it is in use"
                    );
                }
            }
            Err(error) => tracing::warn!(
                error = chain(&error),
                "the cache is not brought to its size"
            ),
        }
    }

    /// Gives space back until the layers take at most `size` bytes, or nothing more can go. Tells
    /// what went (or would), and what the layers take then. In a dry run those that `go` anyway count as gone.
    pub(crate) fn trim(
        &self,
        size: u64,
        dry_run: bool,
        go: &BTreeSet<Digest>,
    ) -> Result<(Vec<Removal>, u64), NodeError> {
        let mut usage = self.store.layers().usage()?;
        let mut trees = self.store.trees().list()?;
        if dry_run {
            usage.retain(|usage| !go.contains(&usage.layer.0));
            trees.retain(|(tree, _)| !go.contains(tree));
        }
        let mut left: BTreeMap<DiffId, u64> = usage
            .iter()
            .map(|usage| (usage.layer, usage.allocated))
            .collect();
        let mut unpacked: u64 = trees.iter().map(|(_, bytes)| bytes).sum();
        let mut gone = Vec::new();
        if left.values().sum::<u64>() + unpacked <= size {
            return Ok((gone, left.values().sum::<u64>() + unpacked));
        }
        let (sets, uses) = (self.set_blocks()?, self.last_uses()?);
        // What no image has was used by nobody who is still here.
        let last_use = |layer: &Digest| uses.get(layer).copied().unwrap_or(0);
        usage.sort_by_key(|usage| (last_use(&usage.layer.0), usage.layer));
        trees.sort_by_key(|(tree, _)| (last_use(tree), *tree));
        let (used, mut idle) = self.mounted_layers();
        let mut busy: HashSet<DiffId> = HashSet::new();
        // What those will give back: nothing else has to go in its place.
        let mut awaited = 0;
        for step in [Step::Shrink, Step::Punch, Step::Remove] {
            for usage in &usage {
                let now = left.values().sum::<u64>() + unpacked;
                if now.saturating_sub(awaited) <= size {
                    return Ok((gone, now));
                }
                let is_used = used.contains(&usage.layer.0);
                if is_used != (step == Step::Punch) || busy.contains(&usage.layer) {
                    continue;
                }
                let is_idle = idle.contains(&usage.layer.0);
                if !dry_run && idle.remove(&usage.layer.0) {
                    self.unmount_unused_of(&usage.layer.0);
                }
                let keep = sets.get(&usage.layer).map_or(&[][..], Vec::as_slice);
                let here = left.get(&usage.layer).copied().unwrap_or(0);
                let freed = match dry_run {
                    true => Some(self.would_free(step, usage, is_idle, keep, here)),
                    false => self.free(step, &usage.layer, keep)?,
                };
                let Some(freed) = freed else {
                    busy.insert(usage.layer);
                    awaited += spare_of(keep, here);
                    continue;
                };
                if freed > 0 {
                    left.insert(usage.layer, here.saturating_sub(freed));
                    gone.push(removal(step, &usage.layer, freed, size));
                }
            }
        }
        for (tree, bytes) in trees {
            if (left.values().sum::<u64>() + unpacked).saturating_sub(awaited) <= size {
                break;
            }
            let freed = match dry_run {
                true => self.would_free_tree(&tree, idle.contains(&tree)),
                false => {
                    if idle.remove(&tree) {
                        self.unmount_unused_of(&tree);
                    }
                    self.free_tree(&tree)?
                }
            };
            if freed {
                unpacked -= bytes;
                gone.push(removal(Step::Remove, &DiffId(tree), bytes, size));
            }
        }
        Ok((gone, left.values().sum::<u64>() + unpacked))
    }

    /// Layers of mounted images: of those that somebody uses, and those that only images have that nobody uses.
    fn mounted_layers(&self) -> (HashSet<Digest>, HashSet<Digest>) {
        let (mut used, mut idle) = (HashSet::new(), HashSet::new());
        let slots: Vec<Slot> = lock(&self.images).values().cloned().collect();
        for slot in slots {
            // Where somebody has it, it is mounted or unmounted just now: he is at work on it.
            if let Some(Some(mount)) = try_lock(&slot).as_deref() {
                let is_used = Arc::strong_count(mount) > 1;
                let layers = mount.image.layers.iter().map(|layer| layer.diff_id.0);
                if is_used { &mut used } else { &mut idle }.extend(layers);
            }
        }
        idle.retain(|layer| !used.contains(layer));
        (used, idle)
    }

    /// When images were last used, in seconds since 1970, by each of their layers.
    fn last_uses(&self) -> Result<HashMap<Digest, u64>, NodeError> {
        let mut uses = HashMap::new();
        for record in self.records.images().map_err(NodeError::records)? {
            let image = self.recorded_image(&record)?;
            for layer in image.iter().flat_map(|image| &image.layers) {
                let use_of = uses.entry(layer.diff_id.0).or_insert(0);
                *use_of = record.used.max(*use_of);
            }
        }
        Ok(uses)
    }

    /// The blocks that working sets of images in the store have, by layer, in order.
    fn set_blocks(&self) -> Result<BTreeMap<DiffId, Vec<BlockRun>>, NodeError> {
        let mut blocks: BTreeMap<DiffId, Vec<BlockRun>> = BTreeMap::new();
        for record in self.records.images().map_err(NodeError::records)? {
            for set in record.working_sets.values() {
                let Some(set) = self.kept_set(&set.manifest, &record.manifest) else {
                    continue;
                };
                for run in set.frames.iter().flat_map(|frame| &frame.runs) {
                    if let Some((layer, _)) = set.layers.get(usize::from(run.layer)) {
                        blocks.entry(*layer).or_default().push(run.blocks);
                    }
                }
            }
        }
        for runs in blocks.values_mut() {
            runs.sort_by_key(|run| run.first);
        }
        Ok(blocks)
    }

    /// Bytes that a step gives back; `None` if somebody has the layer.
    fn free(
        &self,
        step: Step,
        layer: &DiffId,
        keep: &[BlockRun],
    ) -> Result<Option<u64>, NodeError> {
        // What stays of a layer is made durable: first by whose word it came.
        self.records.settle();
        let freed = match step {
            Step::Punch => return self.punch(layer, keep).map(Some),
            Step::Shrink => self.works.unless_on(&layer.0, || self.shrink(layer, keep)),
            Step::Remove => self.works.unless_on(&layer.0, || self.remove(layer)),
        };
        match freed.transpose() {
            Err(RemoveError::InUse { .. }) => Ok(None),
            other => Ok(other?.flatten()),
        }
    }

    /// Removes a layer that nothing uses.
    fn remove(&self, layer: &DiffId) -> Result<Option<u64>, RemoveError> {
        let layers = self.store.layers();
        let named = |source| RemoveError::File {
            layer: *layer,
            source,
        };
        let taken = layers.usage_of(*layer).map_err(named)?.allocated;
        layers.remove(layer)?;
        self.records.remove_words(layer);
        Ok(Some(taken))
    }

    /// Takes blocks from a layer that nothing uses.
    fn shrink(&self, layer: &DiffId, keep: &[BlockRun]) -> Result<Option<u64>, RemoveError> {
        self.stop_fill(layer);
        let alone = |file: &File, punch: &mut dyn FnMut()| {
            let done = thaw_mount::while_alone(file, punch)?;
            Ok(done.is_some())
        };
        self.store.layers().shrink(layer, keep, alone)
    }

    /// Removes the directory of a layer; `false` if somebody has it.
    fn free_tree(&self, tree: &Digest) -> Result<bool, NodeError> {
        let removed = || self.store.trees().remove(tree);
        match self.works.unless_on(tree, removed).transpose() {
            Err(RemoveError::InUse { .. }) => Ok(false),
            other => Ok(other?.is_some()),
        }
    }

    /// Takes blocks from a layer that containers read by FUSE.
    fn punch(&self, layer: &DiffId, keep: &[BlockRun]) -> Result<u64, NodeError> {
        let marks = self.marks.write();
        let Some((tar, transport)) = self.punchable(layer, marks.get(layer)) else {
            return Ok(0);
        };
        let spare = tar.spare(keep);
        if spare.is_empty() {
            return Ok(0);
        }
        let freed = tar.punch(&spare, || transport.fence().map_err(NodeError::from))?;
        tar.sync()?;
        Ok(freed.unwrap_or(0))
    }

    /// A layer that can lose blocks while it is mounted.
    fn punchable(
        &self,
        layer: &DiffId,
        attached: Option<Arc<LayerTar>>,
    ) -> Option<(Arc<LayerTar>, Arc<dyn thaw_mount::FaultTransport>)> {
        let tar = attached.filter(|tar| !tar.is_whole())?;
        let transport = self.running_transport()?;
        let filling = lock(&self.fills).get(layer).is_some_and(Filling::goes_on);
        (self.serves_by_fuse() && !filling).then_some((tar, transport))
    }

    /// Bytes that a step would give back, as far as can be told.
    fn would_free(
        &self,
        step: Step,
        usage: &Usage,
        is_idle: bool,
        keep: &[BlockRun],
        here: u64,
    ) -> u64 {
        let has = || (usage.is_open && !is_idle) || self.works.on().contains(&usage.layer.0);
        match step {
            Step::Punch => {
                let attached = self.marks.read().get(&usage.layer);
                self.punchable(&usage.layer, attached)
                    .map_or(0, |_| spare_of(keep, here))
            }
            Step::Shrink | Step::Remove if has() => 0,
            Step::Shrink => spare_of(keep, here),
            Step::Remove => here,
        }
    }

    /// Whether nobody has the directory of a layer but who looks.
    fn would_free_tree(&self, tree: &Digest, is_idle: bool) -> bool {
        let found = self.store.trees().get(tree);
        let alone = is_idle || found.is_some_and(|it| Arc::strong_count(&it) == 1);
        alone && !self.works.on().contains(tree)
    }
}

/// Bytes of a layer that takes `here` beside those of `keep`, about.
fn spare_of(keep: &[BlockRun], here: u64) -> u64 {
    let kept = keep.iter().map(|run| run.count * thaw_image::BLOCK);
    here.saturating_sub(kept.sum())
}

fn removal(step: Step, layer: &DiffId, bytes: u64, size: u64) -> Removal {
    let (what, why) = match step {
        Step::Shrink => ("all but its working sets", "nothing uses it"),
        Step::Punch => ("all but its working sets", "it can be read again"),
        Step::Remove => ("all of it", "nothing uses it"),
    };
    Removal {
        what: format!("layer {layer}: {what}"),
        why: format!("the cache is to have at most {size} bytes, and {why}"),
        bytes,
    }
}
