//! Mounts for which nothing arrives any more read layer tars past the tars' page cache.
//!
//! What EROFS reads of a tar lies in memory twice: as the tar's pages, and as those of the file that it is
//! part of. While an image arrives that is of use, for what was just written is read without the disk;
//! and what a start reads is there for the next one, when the mount is gone with its pages. Afterwards it
//! is waste: measured on the TensorFlow image, all of it present and the page cache cold, reading everything
//! takes 5.4 s directly and 8.2 s otherwise, and fills 2.3 GB of memory instead of 4.6.
//!
//! So a mount reads directly when for a while nothing has been written to any of its layers, and no longer as soon as
//! something is. Either way gives the same bytes: a direct read of what is not on the disk yet has it
//! written first. Files that FUSE serves have no page cache of their own.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use thaw_cache::LayerTar;
use thaw_image::DiffId;

use crate::Node;
use crate::node::{Slot, lock};
use crate::open::ImageMount;

/// For so long nothing arrives.
const QUIET: Duration = Duration::from_secs(10);

/// When layers of mounted images were seen to have more, or less, than before.
#[derive(Debug, Default)]
pub(crate) struct Arrivals(HashMap<DiffId, Arrival>);

#[derive(Clone, Copy, Debug)]
struct Arrival {
    present: u64,
    since: Instant,
    looked: Instant,
}

impl Arrivals {
    /// Looks at a layer. For how long nothing has arrived, as far as is known.
    fn look(&mut self, layer: DiffId, present: u64, now: Instant) -> Duration {
        let new = Arrival {
            present,
            since: now,
            looked: now,
        };
        let known = self.0.entry(layer).or_insert(new);
        known.looked = now;
        if known.present != present {
            *known = new;
        }
        now.saturating_duration_since(known.since)
    }

    /// Forgets layers that were not looked at now.
    fn forget_others(&mut self, now: Instant) {
        self.0.retain(|_, known| known.looked == now);
    }
}

impl Node {
    /// Has each mount read as is best for it now. Waits for nobody.
    pub(crate) fn choose_reads(&self) {
        let now = Instant::now();
        let mut arrivals = lock(&self.arrivals);
        let may = self.direct_reads.get() == Some(&true);
        let mut would = false;
        let slots: Vec<Slot> = lock(&self.images).values().cloned().collect();
        for slot in slots {
            // One that is just being mounted, or unmounted, has its turn later.
            let slot = slot.try_lock();
            if let Ok(Some(image)) = slot.as_deref() {
                let quiet = self.is_quiet(image, &mut arrivals, now);
                image.read_directly(may && quiet);
                would |= quiet;
            }
        }
        arrivals.forget_others(now);
        drop(arrivals);
        if would {
            // For the next time: it takes milliseconds.
            self.find_direct_reads();
        }
    }

    /// Finds out whether mounts may read directly; once, for neither kernel nor store changes under a daemon.
    fn find_direct_reads(&self) {
        self.direct_reads.get_or_init(|| {
            let from_files = || self.capabilities().file_backed_erofs.available;
            let found = || thaw_mount::direct_reads(&self.settings.root).available;
            self.settings.direct_reads && from_files() && found()
        });
    }

    /// Whether nothing has arrived for any layer of an image for a while, and no file of it is FUSE's.
    fn is_quiet(&self, image: &ImageMount, arrivals: &mut Arrivals, now: Instant) -> bool {
        let layers = image.body.layers();
        let mut quiet = !layers.is_empty();
        // Every one is looked at, also behind one that is not quiet.
        for layer in layers {
            let calm = arrivals.look(layer.diff_id(), layer.present_bytes(), now);
            quiet &= calm >= QUIET && !self.is_served_by_fuse(layer);
        }
        quiet
    }

    fn is_served_by_fuse(&self, layer: &LayerTar) -> bool {
        self.serves_by_fuse() && self.marks.contain(&layer.diff_id())
    }
}

#[cfg(test)]
mod tests {
    use thaw_image::Digest;

    use super::*;

    #[test]
    fn a_layer_is_quiet_since_something_arrived() {
        let mut arrivals = Arrivals::default();
        let [a, b] = [b"a", b"b"].map(|bytes| DiffId(Digest::of(bytes)));
        let begin = Instant::now();
        let mut looks = |at: u64, layers: &[(DiffId, u64)]| -> Vec<u64> {
            let now = begin + Duration::from_secs(at);
            let look = |(id, present): &(_, _)| arrivals.look(*id, *present, now).as_secs();
            let looks = layers.iter().map(look).collect();
            arrivals.forget_others(now);
            looks
        };
        assert_eq!(looks(0, &[(a, 0)]), [0]);
        assert_eq!(looks(4, &[(a, 0), (b, 7)]), [4, 0]);
        assert_eq!(looks(9, &[(a, 512), (b, 7), (a, 512)]), [0, 5, 0]);
        assert_eq!(looks(11, &[(a, 512)]), [2]);
        assert_eq!(looks(12, &[(a, 512), (b, 7)]), [3, 0], "b was forgotten");
    }
}
