//! The layers that the keeper serves, found by the file that an event is about.

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use thaw_cache::PresenceReader;
use thaw_image::{DiffId, Extent};
use thaw_sys::fanotify::{Event, Group};

use super::message::Reply;
use super::recorder::{Order, Recorder};
use crate::LayerSpec;

/// A file, whatever its path.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) struct FileId {
    device: u64,
    inode: u64,
}

impl FileId {
    pub(crate) fn of(file: impl AsFd) -> io::Result<Self> {
        let status = rustix::fs::fstat(file)?;
        Ok(Self {
            device: status.st_dev,
            inode: status.st_ino,
        })
    }
}

/// A layer that is served.
#[derive(Debug)]
pub(crate) struct Layer {
    pub(crate) spec: LayerSpec,
    /// Opened before the mark.
    pub(crate) tar: OwnedFd,
    presence: PresenceReader,
    recorder: Recorder,
    /// Since when it has no mark. It stays for a while, for events that were raised before.
    released: Option<Instant>,
}

impl Layer {
    /// Which of its bytes an event is about: all when the kernel does not say.
    pub(crate) fn wanted(&self, event: &Event) -> Extent {
        let all = Extent::between(0, self.spec.size);
        event.range().map_or(all, |range| {
            let wanted = Extent {
                offset: range.offset,
                len: range.count,
            };
            wanted.intersect(&all)
        })
    }

    /// Whether all of `extent` is present; not, when that cannot be found out.
    pub(crate) fn has(&self, extent: Extent) -> bool {
        self.presence.contains(extent).unwrap_or_else(|error| {
            tracing::error!(layer = %self.spec.diff_id, %error, "cannot read the presence file");
            false
        })
    }
}

/// All layers, and their traces.
#[derive(Debug)]
pub(crate) struct Layers {
    by_file: HashMap<FileId, Layer>,
    by_id: BTreeMap<DiffId, FileId>,
    order: Order,
    epoch: Instant,
}

impl Layers {
    pub(crate) fn new() -> Self {
        Self {
            by_file: HashMap::new(),
            by_id: BTreeMap::new(),
            order: Order::new(),
            epoch: Instant::now(),
        }
    }

    /// The layer of a file.
    pub(crate) fn get(&self, file: FileId) -> Option<&Layer> {
        self.by_file.get(&file)
    }

    /// Layers that have their mark.
    pub(crate) fn served(&self) -> impl Iterator<Item = &Layer> {
        let layers = self
            .by_id
            .values()
            .filter_map(|file| self.by_file.get(file));
        layers.filter(|layer| layer.released.is_none())
    }

    /// Notes a read.
    pub(crate) fn record(&mut self, file: FileId, extent: Extent) {
        if let Some(layer) = self.by_file.get_mut(&file) {
            let now = self.epoch.elapsed();
            layer.recorder.record(&mut self.order, extent, now);
        }
    }

    /// Adds a layer, then marks it: an event must find its layer.
    pub(crate) fn register(&mut self, group: &Group, spec: LayerSpec, tar: OwnedFd) -> Reply {
        let refused = |error: &dyn std::error::Error| Reply::Refused(error.to_string());
        let file = match FileId::of(&tar) {
            Ok(file) => file,
            Err(error) => return refused(&error),
        };
        if let Some(known) = self.by_id.get(&spec.diff_id)
            && *known != file
            && self
                .get(*known)
                .is_some_and(|layer| layer.released.is_none())
        {
            return Reply::Refused("another file is attached for this layer".to_owned());
        }
        match self.by_file.get_mut(&file) {
            Some(known) if known.spec == spec => {
                // Whoever opened it again has closed what they had before: to keep that open would
                // be to be its other opener, and it could never be released.
                if known.released.take().is_some() {
                    known.tar = tar;
                }
            }
            Some(_) => return Reply::Refused("this file is attached otherwise".to_owned()),
            None => {
                let presence = match PresenceReader::open(&spec.presence) {
                    Ok(presence) => presence,
                    Err(error) => return refused(&error),
                };
                self.insert(file, spec, tar, presence);
            }
        }
        let marked = self.by_file.get(&file).map(|layer| group.mark(&layer.tar));
        if let Some(Err(error)) = marked {
            self.remove(file);
            return refused(&error);
        }
        Reply::Done
    }

    fn insert(&mut self, file: FileId, spec: LayerSpec, tar: OwnedFd, presence: PresenceReader) {
        let recorder = Recorder::new(spec.size, self.epoch.elapsed());
        self.by_id.insert(spec.diff_id, file);
        let layer = Layer {
            spec,
            tar,
            presence,
            recorder,
            released: None,
        };
        self.by_file.insert(file, layer);
    }

    fn remove(&mut self, file: FileId) {
        if let Some(mut layer) = self.by_file.remove(&file) {
            layer.recorder.forget(&mut self.order);
            let id = layer.spec.diff_id;
            if self.by_id.get(&id) == Some(&file) {
                self.by_id.remove(&id);
            }
        }
    }

    /// Removes the mark of a layer that is whole, or that only we have open.
    pub(crate) fn release(&mut self, group: &Group, id: &DiffId) -> Reply {
        let layer = self
            .by_id
            .get(id)
            .and_then(|file| self.by_file.get_mut(file));
        let Some(layer) = layer.filter(|layer| layer.released.is_none()) else {
            return Reply::Unknown;
        };
        let whole = layer.has(Extent::between(0, layer.spec.size));
        let unmark = || group.unmark(&layer.tar);
        let unmarked = if whole {
            Ok(Some(unmark()))
        } else {
            thaw_sys::lease::while_alone(&layer.tar, unmark)
        };
        match unmarked {
            Ok(Some(Ok(()))) => {
                layer.released = Some(Instant::now());
                if whole { Reply::Whole } else { Reply::Done }
            }
            Ok(None) => Reply::InUse,
            Ok(Some(Err(error))) => Reply::Refused(error.to_string()),
            Err(error) => Reply::Refused(error.to_string()),
        }
    }

    /// Forgets layers that were released longer than `age` ago.
    pub(crate) fn forget_released(&mut self, age: Duration) {
        let old = |layer: &Layer| layer.released.is_some_and(|since| since.elapsed() > age);
        let files: Vec<_> = self
            .by_file
            .iter()
            .filter(|(_, layer)| old(layer))
            .map(|(file, _)| *file)
            .collect();
        for file in files {
            self.remove(file);
        }
    }

    /// Starts traces afresh, all at the same time.
    pub(crate) fn start_trace(&mut self, ids: &[DiffId]) -> Reply {
        let now = self.epoch.elapsed();
        for id in ids {
            let layer = self
                .by_id
                .get(id)
                .and_then(|file| self.by_file.get_mut(file));
            let Some(layer) = layer else {
                return Reply::Unknown;
            };
            layer.recorder.restart(&mut self.order, now);
        }
        Reply::Done
    }

    /// A page of a layer's trace.
    pub(crate) fn trace(&self, id: &DiffId, from: u64) -> Reply {
        let layer = self.by_id.get(id).and_then(|file| self.get(*file));
        layer.map_or(Reply::Unknown, |layer| {
            Reply::Trace(layer.recorder.page(from))
        })
    }
}
