//! The layers that the keeper serves, found by the file that an event is about.

use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use thaw_cache::PresenceReader;
use thaw_image::{BLOCK, DiffId, Extent};
use thaw_sys::fuse::{FlatFile, Node};

use super::message::Reply;
use super::recorder::{Order, Recorder};
use super::source::{Reader, Source};
use crate::LayerSpec;

/// A file, whatever its path.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) enum FileId {
    /// That events are about.
    Inode { device: u64, inode: u64 },
    /// That the kernel knows by the number we gave it.
    Node(Node),
}

impl FileId {
    pub(crate) fn of(file: impl AsFd) -> io::Result<Self> {
        let status = rustix::fs::fstat(file)?;
        Ok(Self::Inode {
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
    pub(crate) tar: Arc<File>,
    presence: PresenceReader,
    recorder: Recorder,
    /// Since when it is let go. It stays for a while, for events that were raised before.
    released: Option<Instant>,
}

impl Layer {
    /// Which of its bytes a reader wants: all when the kernel does not say.
    pub(crate) fn wanted(&self, reader: &Reader) -> Extent {
        let all = Extent::between(0, self.spec.size);
        reader.range().map_or(all, |wanted| wanted.intersect(&all))
    }

    /// Bytes of its file.
    pub(crate) fn file_size(&self) -> u64 {
        self.spec.size.next_multiple_of(BLOCK)
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

    /// A layer that is served, as a file.
    pub(crate) fn get_file(&self, node: Node) -> Option<FlatFile> {
        let layer = self.get(FileId::Node(node))?;
        let size = layer.file_size();
        layer.released.is_none().then_some(FlatFile { node, size })
    }

    /// Layers that are not let go.
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

    /// Adds a layer, then has it watched: an event must find its layer.
    pub(crate) fn register(&mut self, source: &Source, spec: LayerSpec, tar: OwnedFd) -> Reply {
        let refused = |error: &dyn std::error::Error| Reply::Refused(error.to_string());
        let tar = Arc::new(File::from(tar));
        let file = match source.file_of(&spec, tar.as_fd()) {
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
            Some(known) if known.spec == spec && known.released.is_some() => {
                // Whoever opened it again has closed what they had before: to keep that open would
                // be to be its other opener, and it could never be released. It may also have been
                // removed and made anew: then what was present is not.
                known.presence = match presence_of(&spec) {
                    Ok(presence) => presence,
                    Err(refused) => return refused,
                };
                known.tar = tar;
                known.released = None;
            }
            Some(known) if known.spec == spec => {}
            Some(_) => return Reply::Refused("this file is attached otherwise".to_owned()),
            None => {
                let presence = match presence_of(&spec) {
                    Ok(presence) => presence,
                    Err(refused) => return refused,
                };
                self.insert(file, spec, tar, presence);
            }
        }
        let layer = self.by_file.get(&file);
        let watched = layer.map(|layer| source.watch(layer.tar.as_fd()));
        if let Some(Err(error)) = watched {
            self.remove(file);
            return refused(&error);
        }
        Reply::Done
    }

    fn insert(&mut self, file: FileId, spec: LayerSpec, tar: Arc<File>, presence: PresenceReader) {
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

    /// Lets a layer go. A mark is removed where the layer is whole, or only we have it open; whether
    /// a FUSE file is open the daemon has found out.
    pub(crate) fn release(&mut self, source: &Source, id: &DiffId) -> Reply {
        let layer = self
            .by_id
            .get(id)
            .and_then(|file| self.by_file.get_mut(file));
        let Some(layer) = layer.filter(|layer| layer.released.is_none()) else {
            return Reply::Unknown;
        };
        let Source::Events(group) = source else {
            layer.released = Some(Instant::now());
            return Reply::Done;
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

/// What is present of a layer.
fn presence_of(spec: &LayerSpec) -> Result<PresenceReader, Reply> {
    let presence = PresenceReader::open(&spec.presence);
    let presence = presence.map_err(|error| Reply::Refused(error.to_string()))?;
    // Another tar may have taken its place, of which all is present.
    match presence.tar_size() == spec.size {
        true => Ok(presence),
        false => Err(Reply::Refused(
            "its presence file is of another tar".to_owned(),
        )),
    }
}
