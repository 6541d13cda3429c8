//! Fetching: what is read is there in time, and everything is fetched once.
//!
//! ```text
//! demand(layer, extent) ─▶ missing blocks ─┬─▶ frames of a working set   wait for the stream, or ask
//!                                          └─▶ chunks of the seek table ─▶ board: one flight per chunk
//!                                                                            │ neighbours merged
//!                                              demand threads ◀──────────────┘
//!                                              ranged read ∥ window read → decode → Verified → LayerTar
//!                                              (and ahead of them, where neighbours are read: `ahead`)
//! prefetch(set) ─▶ stream thread ─▶ bounded queue ─▶ decoders → Verified → LayerTar
//! fill(layer)   ─▶ fill thread, when nothing else goes on → whole, checked against its diffID
//! ```
//!
//! **Rules.** A demand never waits beyond its deadline; the fetch that it started may go on. A
//! demand goes before the working set, which goes before fill ([`gate`]). A host that hangs has no
//! more than its share of the demand threads ([`Shares`](crate::Shares)). A frame is waited for
//! when the stream, at its measured rate, brings it sooner than a request of its own would; else
//! it is asked for alone; if that fails its blocks come from chunks. Bytes that do not match
//! their digest are reported with image, layer, chunk and source, and are fetched once more, from
//! another source if there is one.
//!
//! **Locks.** `layers`, `sets`, the board's, a set's, the gate's, a tar's: none is taken while
//! another is held, except a flight's under the board's; none is held over I/O.

mod ahead;
mod board;
mod chunks;
mod demand;
mod error;
mod fill;
mod gate;
mod origin;
mod pace;
mod set;
mod stats;
mod stream;

use std::collections::HashMap;
use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{self, Sender, SyncSender};
use std::sync::{Arc, Mutex, PoisonError, RwLock, Weak};
use std::time::Instant;

use thaw_image::{BlobSource, DiffId, Digest, Extent, WorkingSet};

use crate::tar::LayerTar;
use board::{Board, Job, Merge};
use chunks::Errand;
use demand::Demand;
pub use error::{FetchError, FrameError};
pub use fill::Fill;
use gate::Gate;
use origin::Attached;
pub use origin::{Origin, TableSource};
use pace::Pace;
use set::ActiveSet;
pub use stats::{Cause, Moved, Stats, WAIT_CLASSES};
use stats::{Counters, count};
use stream::Packed;
pub use stream::{Frames, Prefetch, PrefetchProgress};

/// How much is done at once.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Settings {
    /// Threads that fetch what readers wait for: as many requests are in flight at most, and a
    /// third as many to one host ([`Shares`](crate::Shares)).
    pub demand_threads: usize,
    /// Threads that unpack working sets.
    pub background_threads: usize,
    /// Chunks with at most so many bytes of blob between them are read in one request.
    pub merge_gap: u64,
    /// Most bytes of blob in a request for several chunks.
    pub merge_bytes: u64,
    /// Most bytes of blob in a request that nobody waits for: of background fill, or ahead of
    /// demands.
    pub fill_bytes: u64,
    /// Bytes of tar behind a demanded chunk that are fetched ahead; 0: none.
    pub ahead_bytes: u64,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            demand_threads: 64,
            background_threads: 2,
            merge_gap: 64 << 10,
            merge_bytes: 4 << 20,
            fill_bytes: 1 << 20,
            ahead_bytes: 4 << 20,
        }
    }
}

/// A layer with its origins, the oldest first. Replaced when they change.
#[derive(Debug)]
pub(crate) struct Entry {
    layer: Arc<LayerTar>,
    /// Never empty.
    origins: Vec<Arc<Attached>>,
}

impl Entry {
    /// Whom to ask first: the oldest, unless it rests.
    fn first_origin(&self) -> &Arc<Attached> {
        let awake = self.origins.iter().find(|origin| !origin.rests());
        awake.unwrap_or(&self.origins[0])
    }

    /// All of them, those that rest last.
    fn in_order(&self) -> Vec<&Arc<Attached>> {
        let mut all: Vec<_> = self.origins.iter().collect();
        all.sort_by_key(|origin| origin.rests());
        all
    }
}

/// What the threads share.
#[derive(Debug)]
pub(crate) struct Shared {
    settings: Settings,
    layers: RwLock<HashMap<DiffId, Arc<Entry>>>,
    sets: RwLock<Vec<Arc<ActiveSet>>>,
    board: Arc<Board>,
    gate: Gate,
    pace: Pace,
    counters: Counters,
    next_id: AtomicU64,
    closed: AtomicBool,
}

/// Fetches what readers wait for, what they will read, and the rest. See the [module](self).
///
/// Dropping it ends its threads after what they do now.
#[derive(Debug)]
pub struct Fetcher {
    shared: Arc<Shared>,
    decoders: SyncSender<Packed>,
    fills: Mutex<Sender<Fill>>,
}

/// An origin of a layer, in use until this is dropped.
#[derive(Debug)]
#[must_use = "dropping it detaches the origin"]
pub struct Attachment {
    shared: Weak<Shared>,
    layer: DiffId,
    id: u64,
}

impl Fetcher {
    /// Starts the threads.
    ///
    /// # Errors
    /// What the system says when it gives no thread.
    pub fn new(settings: Settings) -> io::Result<Arc<Self>> {
        let shared = Arc::new(Shared {
            settings,
            layers: RwLock::default(),
            sets: RwLock::default(),
            board: Arc::new(Board::new(settings.demand_threads.max(1))),
            gate: Gate::default(),
            pace: Pace::default(),
            counters: Counters::default(),
            next_id: AtomicU64::new(0),
            closed: AtomicBool::new(false),
        });
        let (decoders, packed) = mpsc::sync_channel(settings.background_threads.max(1));
        let (fills, fill_queue) = mpsc::channel::<Fill>();
        // Made first: if a thread cannot be started, dropping it ends those that were.
        let fetcher = Arc::new(Self {
            shared: shared.clone(),
            decoders,
            fills: Mutex::new(fills),
        });
        for _ in 0..settings.demand_threads.max(1) {
            let shared = shared.clone();
            spawn("thaw-demand", move || shared.serve_demands())?;
        }
        let packed = Arc::new(Mutex::new(packed));
        for _ in 0..settings.background_threads.max(1) {
            let (shared, packed) = (shared.clone(), packed.clone());
            spawn("thaw-decode", move || {
                stream::decode_frames(&shared, &packed)
            })?;
        }
        spawn("thaw-fill", move || {
            fill_queue.iter().for_each(|fill| fill.run(&shared));
        })?;
        Ok(fetcher)
    }

    /// Says where a layer's bytes come from. Several images may attach the same layer: each
    /// origin is kept until its attachment is dropped, and the next is asked when one fails.
    pub fn attach(&self, layer: Arc<LayerTar>, origin: Origin) -> Attachment {
        let id = self.shared.next_id.fetch_add(1, Ordering::Relaxed);
        let diff_id = layer.diff_id();
        let attached = Arc::new(Attached::new(id, layer.clone(), origin));
        let mut layers = write(&self.shared.layers);
        let others = layers.get(&diff_id).map(|entry| entry.origins.clone());
        let mut origins = others.unwrap_or_default();
        origins.push(attached);
        layers.insert(diff_id, Arc::new(Entry { layer, origins }));
        Attachment {
            shared: Arc::downgrade(&self.shared),
            layer: diff_id,
            id,
        }
    }

    /// Waits until every block that `extent` touches is there, and fetches what is not. What lies
    /// behind it comes ahead of the next demand where neighbours are read.
    ///
    /// # Errors
    /// [`FetchError`]; none later than `deadline`, but for what the disk takes.
    pub fn demand(
        &self,
        layer: &DiffId,
        extent: Extent,
        deadline: Instant,
    ) -> Result<(), FetchError> {
        self.wait_for(layer, extent, deadline, true)
    }

    /// Like [`demand`](Fetcher::demand), of one who knows all that it will read: nothing comes
    /// ahead.
    ///
    /// # Errors
    /// Those of [`demand`](Fetcher::demand).
    pub fn demand_only(
        &self,
        layer: &DiffId,
        extent: Extent,
        deadline: Instant,
    ) -> Result<(), FetchError> {
        self.wait_for(layer, extent, deadline, false)
    }

    fn wait_for(
        &self,
        layer: &DiffId,
        extent: Extent,
        deadline: Instant,
        ahead: bool,
    ) -> Result<(), FetchError> {
        let entry = self.shared.entry(layer)?;
        if entry.layer.contains(extent) {
            count(&self.shared.counters.hits);
            entry.layer.settle();
            return Ok(());
        }
        let started = Instant::now();
        let demand = Demand {
            shared: &self.shared,
            entry: &entry,
            extent,
            started,
            deadline,
            ahead,
        };
        let result = demand.run();
        self.shared.counters.waited(started.elapsed());
        match &result {
            // Some of it may have been brought by another thread a moment ago.
            Ok(()) => entry.layer.settle(),
            Err(_) => count(&self.shared.counters.failures),
        }
        result
    }

    /// Whom readers of a layer wait for, as far as it is known.
    #[must_use]
    pub fn host(&self, layer: &DiffId) -> Arc<str> {
        let entry = self.shared.entry(layer);
        entry.map_or_else(|_| Arc::default(), |it| it.first_origin().awaited().clone())
    }

    /// Streams a working set in the background into the layers that are attached *now*: attach
    /// first. Its data blob is `data` of `source`; `image` is named where something is wrong with it.
    pub fn prefetch(
        &self,
        image: &str,
        set: Arc<WorkingSet>,
        data: Digest,
        source: Arc<dyn BlobSource>,
    ) -> Prefetch {
        let layer = |id: &DiffId| self.shared.entry(id).ok().map(|entry| entry.layer.clone());
        let set = ActiveSet::new(image, set, data, source, layer);
        Prefetch::start(&self.shared, self.decoders.clone(), set)
    }

    /// Completes an attached layer when nothing else goes on, then checks it against its diffID.
    /// Layers are filled one after the other, in the order of the calls.
    #[must_use]
    pub fn fill(&self, layer: &DiffId) -> Fill {
        let fill = Fill::new(*layer);
        let fills = self.fills.lock().unwrap_or_else(PoisonError::into_inner);
        // The thread ends only with this sender.
        let _ = fills.send(fill.clone());
        fill
    }

    /// What was done since the start.
    #[must_use]
    pub fn stats(&self) -> Stats {
        self.shared.counters.snapshot()
    }
}

impl Drop for Fetcher {
    fn drop(&mut self) {
        self.shared.closed.store(true, Ordering::Relaxed);
        self.shared.board.close();
    }
}

impl Drop for Attachment {
    fn drop(&mut self) {
        let Some(shared) = self.shared.upgrade() else {
            return;
        };
        let mut layers = write(&shared.layers);
        let Some(entry) = layers.get(&self.layer) else {
            return;
        };
        let mut origins = entry.origins.clone();
        origins.retain(|origin| origin.id != self.id);
        if origins.is_empty() {
            layers.remove(&self.layer);
        } else {
            let layer = entry.layer.clone();
            layers.insert(self.layer, Arc::new(Entry { layer, origins }));
        }
    }
}

impl Shared {
    fn entry(&self, layer: &DiffId) -> Result<Arc<Entry>, FetchError> {
        let layers = self.layers.read().unwrap_or_else(PoisonError::into_inner);
        let entry = layers.get(layer).cloned();
        entry.ok_or(FetchError::NotAttached { layer: *layer })
    }

    fn sets_of(&self, layer: &DiffId) -> Vec<Arc<ActiveSet>> {
        let sets = self.sets.read().unwrap_or_else(PoisonError::into_inner);
        sets.iter()
            .filter(|set| set.has_layer(layer))
            .cloned()
            .collect()
    }

    fn add_set(&self, set: &Arc<ActiveSet>) {
        write(&self.sets).push(set.clone());
    }

    fn remove_set(&self, set: &Arc<ActiveSet>) {
        write(&self.sets).retain(|other| !Arc::ptr_eq(other, set));
    }

    fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Relaxed)
    }

    /// The work of one demand thread.
    fn serve_demands(&self) {
        let merge = Merge {
            gap: self.settings.merge_gap,
            most: self.settings.merge_bytes,
        };
        while let Some(job) = self.board.next(merge) {
            let (host, is_ahead) = (job.host().clone(), matches!(job, Job::Ahead(..)));
            let _going = (!is_ahead).then(|| self.gate.demand(&host));
            let mut next = Some(job);
            while let Some(job) = next {
                let work = std::panic::AssertUnwindSafe(|| self.serve(job));
                if std::panic::catch_unwind(work).is_err() {
                    tracing::error!("a demand thread panicked; its readers get an error");
                }
                next = self.board.next_decode(&host);
            }
            self.board.done(&host, is_ahead);
        }
    }

    fn serve(&self, job: Job) {
        match job {
            Job::Table(attached, ticket, deadline) => {
                ticket.answer(attached.load_table(Some(deadline)))
            }
            Job::Chunks(attached, wants, deadline) => {
                let errand = Errand {
                    cause: Cause::Demand,
                    deadline: Some(deadline),
                };
                chunks::fetch(self, &attached, wants, errand);
            }
            Job::Decode(loaded, want) => chunks::finish(self, &loaded, want),
            Job::Frame(claim, deadline) => stream::fetch_frame(self, claim, deadline),
            Job::Ahead(attached, numbers) => ahead::fetch(self, &attached, &numbers),
        }
    }
}

fn write<T>(lock: &RwLock<T>) -> std::sync::RwLockWriteGuard<'_, T> {
    lock.write().unwrap_or_else(PoisonError::into_inner)
}

fn spawn(name: &str, work: impl FnOnce() + Send + 'static) -> io::Result<()> {
    let thread = std::thread::Builder::new().name(name.to_owned());
    thread.spawn(work).map(drop)
}
