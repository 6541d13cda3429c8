//! The one pass: every layer is streamed once, and at its end everything is known.
//!
//! ```text
//! blob ─▶ download ─▶ inflate, checkpoints ─▶ hash, scan ─┬▶ tar (to the sink, or nowhere)
//!                                                         ├▶ seek table
//!                                                         ├▶ windows (spooled to a file)
//!                                                         └▶ entries ─▶ merge ─▶ layout
//! ```
//!
//! Layers run side by side, the largest first, on as many workers as there are processors; the
//! same blob is read once however often the image lists it. A layer that was indexed before, and
//! whose tar is here, is not read again: its entries and table are [`Known`].
//!
//! Memory: below 512 MiB, whatever the image. A worker takes at most 16 MiB (windows go to a file),
//! and there are at most [`MAX_WORKERS`]; zstd may ask for a window of 128 MiB, so one layer of that
//! is read at a time. Over a long link registries keep 16 MiB more for all of them. What grows with the image are its entries, its tables, the tree that they are
//! merged into and the layout: they take from one [`Budget`] of 256 MiB, which is enough for some
//! 500,000 files. An image that needs more is refused, with the layer at which it was used up.

mod error;
mod place;

use std::collections::{HashMap, VecDeque};
use std::io::{self, Read};
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};

use thaw_image::{BlobSource, Digest, Extent, Progress};
use thaw_layer::tar::Entries;
use thaw_layer::{Budget, Expected, HEAD_BYTES, LayerError, Outputs, Packing, detect};

pub use self::error::{LayerFailure, PrepareError};
pub use self::place::{Known, LayerIndex, LayerRef, LocalTar, Place, TarSink, WindowsFile};
use crate::layout::{self, Layout};
use crate::merge;

/// How much of a kept tar is read at once.
const SCAN_BYTES: usize = 1 << 20;
/// Most layers that are read at a time.
const MAX_WORKERS: usize = 8;

/// One layer, read.
#[derive(Clone, Debug)]
pub struct PreparedLayer {
    /// Which.
    pub layer: LayerRef,
    /// Bytes of its tar.
    pub tar_size: u64,
    /// Its seek table; where there can be none the reason, and its tar must be whole before the
    /// image is mounted.
    pub index: Result<LayerIndex, String>,
}

/// An image that was read once: all that an acceleration is made of.
#[derive(Debug)]
pub struct Prepared {
    /// Layers, the lowest first.
    pub layers: Vec<PreparedLayer>,
    /// The merged metadata.
    pub layout: Layout,
}

/// What a worker found.
struct Done<'a> {
    /// Until they are merged.
    entries: Option<Entries<'a>>,
    tar_size: u64,
    index: Result<LayerIndex, String>,
}

/// Reads every layer of an image once, checks them, and merges them. `spacing`: bytes of tar for
/// each chunk of a seek table.
///
/// # Errors
/// [`PrepareError`]: a layer that lies about its digest, size or diffID is named.
pub fn prepare(
    layers: &[LayerRef],
    source: &dyn BlobSource,
    place: &dyn Place,
    options: &thaw_layer::Options,
    progress: &dyn Progress,
) -> Result<Prepared, PrepareError> {
    let budget = Budget::new(options.max_memory);
    let mut done = read_all(layers, source, place, options, &budget, progress)?;
    progress.say("merging layers");
    let merged = with_entries(layers, &mut done);
    let read = |layer: usize, extent| read_tar(&layers[layer], &done, source, place, extent);
    let layout = layout::build(merged, &budget, &read)?;
    let layers = prepared_layers(layers, &done);
    Ok(Prepared { layers, layout })
}

/// Reads layers and keeps their tars, without merging: for those that must be whole before their
/// image is mounted.
///
/// # Errors
/// As [`prepare`].
pub fn fetch(
    layers: &[LayerRef],
    source: &dyn BlobSource,
    place: &dyn Place,
    options: &thaw_layer::Options,
    progress: &dyn Progress,
) -> Result<Vec<PreparedLayer>, PrepareError> {
    let budget = Budget::new(options.max_memory);
    let done = read_all(layers, source, place, options, &budget, progress)?;
    Ok(prepared_layers(layers, &done))
}

/// Reads layers, and gives their members; the lowest first.
pub(crate) fn read_entries<'b>(
    layers: &[LayerRef],
    source: &dyn BlobSource,
    place: &dyn Place,
    options: &thaw_layer::Options,
    budget: &'b Budget,
    progress: &dyn Progress,
) -> Result<Vec<(merge::Layer, Rc<Entries<'b>>)>, PrepareError> {
    let mut done = read_all(layers, source, place, options, budget, progress)?;
    Ok(with_entries(layers, &mut done))
}

impl Known {
    fn scan(mut self, budget: &Budget) -> Result<Done<'_>, LayerFailure> {
        let mut scanner = thaw_layer::tar::Scanner::new(budget);
        let mut buffer = vec![0; SCAN_BYTES];
        loop {
            match self.tar.read(&mut buffer)? {
                0 => break,
                read => scanner.push(&buffer[..read]).map_err(LayerError::from)?,
            }
        }
        Ok(Done {
            entries: Some(scanner.finish().map_err(LayerError::from)?),
            tar_size: self.tar_size,
            index: self.index,
        })
    }
}

/// The layers with their entries, which are taken out of `done`: they take much memory, and nobody
/// needs them once they are merged.
fn with_entries<'a>(
    layers: &[LayerRef],
    done: &mut HashMap<Digest, Done<'a>>,
) -> Vec<(merge::Layer, Rc<Entries<'a>>)> {
    let mut taken = HashMap::new();
    for (blob, done) in done.iter_mut() {
        taken.extend(done.entries.take().map(|entries| (*blob, Rc::new(entries))));
    }
    let with = |layer: &LayerRef| {
        let merged = merge::Layer {
            diff_id: layer.diff_id,
            tar_size: done[&layer.blob].tar_size,
        };
        (merged, taken[&layer.blob].clone())
    };
    layers.iter().map(with).collect()
}

fn prepared_layers(layers: &[LayerRef], done: &HashMap<Digest, Done<'_>>) -> Vec<PreparedLayer> {
    let read = |layer: &LayerRef| {
        let Done {
            tar_size, index, ..
        } = &done[&layer.blob];
        PreparedLayer {
            layer: layer.clone(),
            tar_size: *tar_size,
            index: index.clone(),
        }
    };
    layers.iter().map(read).collect()
}

fn read_all<'b>(
    layers: &[LayerRef],
    source: &dyn BlobSource,
    place: &dyn Place,
    options: &thaw_layer::Options,
    budget: &'b Budget,
    progress: &dyn Progress,
) -> Result<HashMap<Digest, Done<'b>>, PrepareError> {
    let distinct = distinct_by_size(layers);
    let pass = Pass {
        source,
        place,
        options,
        budget,
        progress,
        stop: AtomicBool::new(false),
        zstd: Mutex::default(),
    };
    let queue = Mutex::new(distinct);
    let results: Mutex<HashMap<Digest, Result<Done<'_>, LayerFailure>>> = Mutex::default();
    let workers = std::thread::available_parallelism()
        .map_or(2, usize::from)
        .clamp(2, MAX_WORKERS);
    std::thread::scope(|scope| {
        for _ in 0..workers.min(layers.len()) {
            scope.spawn(|| {
                loop {
                    // A statement of its own: in the head of `while let` the lock would be held as
                    // long as the layer is read.
                    let Some(layer) = lock(&queue).pop_front() else {
                        return;
                    };
                    if pass.stopped() {
                        return;
                    }
                    let outcome = pass.layer(&layer);
                    // Where another has failed before, this one was only stopped by that.
                    if outcome.is_err() && pass.stop.swap(true, Ordering::Relaxed) {
                        return;
                    }
                    lock(&results).insert(layer.blob, outcome);
                }
            });
        }
    });
    if place.cancelled() {
        return Err(PrepareError::Cancelled);
    }
    let results = results.into_inner().unwrap_or_else(PoisonError::into_inner);
    all_good(layers, results)
}

/// Each blob once, the largest first: it decides when the pass ends.
fn distinct_by_size(layers: &[LayerRef]) -> VecDeque<LayerRef> {
    let mut seen = std::collections::HashSet::new();
    let mut distinct: Vec<LayerRef> = layers
        .iter()
        .filter(|layer| seen.insert(layer.blob))
        .cloned()
        .collect();
    distinct.sort_by_key(|layer| std::cmp::Reverse(layer.size));
    distinct.into()
}

/// The failure that has stopped the others, or everything.
fn all_good<'b>(
    layers: &[LayerRef],
    mut results: HashMap<Digest, Result<Done<'b>, LayerFailure>>,
) -> Result<HashMap<Digest, Done<'b>>, PrepareError> {
    let mut done = HashMap::new();
    let mut missing = false;
    for (index, layer) in layers.iter().enumerate() {
        match results.remove(&layer.blob) {
            Some(Ok(good)) => {
                done.insert(layer.blob, good);
            }
            Some(Err(source)) => {
                let (number, total) = (index + 1, layers.len());
                return Err(PrepareError::Layer {
                    number,
                    total,
                    blob: layer.blob,
                    source: Box::new(source),
                });
            }
            None => missing |= !done.contains_key(&layer.blob),
        }
    }
    if missing {
        Err(PrepareError::Cancelled)
    } else {
        Ok(done)
    }
}

/// Bytes of a tar that was read before: from where tars are kept, else decoded again.
fn read_tar(
    layer: &LayerRef,
    done: &HashMap<Digest, Done<'_>>,
    source: &dyn BlobSource,
    place: &dyn Place,
    extent: Extent,
) -> io::Result<Vec<u8>> {
    if let Some(read) = place.read(&layer.diff_id, extent) {
        return read;
    }
    match done.get(&layer.blob).map(|done| &done.index) {
        Some(Ok(index)) => crate::reader::read(index, source, extent),
        _ => Err(io::Error::other(
            "the layer has no seek table and its tar is not kept",
        )),
    }
}

/// One pass over an image.
struct Pass<'a, 'b> {
    source: &'a dyn BlobSource,
    place: &'a dyn Place,
    options: &'a thaw_layer::Options,
    budget: &'b Budget,
    progress: &'a dyn Progress,
    stop: AtomicBool,
    /// Held by who reads zstd, whose window may have 128 MiB.
    zstd: Mutex<()>,
}

impl<'b> Pass<'_, 'b> {
    fn stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed) || self.place.cancelled()
    }

    fn layer(&self, layer: &LayerRef) -> Result<Done<'b>, LayerFailure> {
        if let Some(known) = self.place.known(layer) {
            match known.scan(self.budget) {
                // The disk does not give what it has: it is fetched again.
                Err(LayerFailure::Disk(_)) => {}
                done => return done,
            }
        }
        if let Some(done) = self.local(layer) {
            return done;
        }
        let part = layer.blob.hex()[..12].to_owned();
        self.progress.begin(&part, Some(layer.size));
        let mut done = self.read(layer, &part);
        let is_wrong = matches!(
            done,
            Err(LayerFailure::Layer(_) | LayerFailure::Unsupported(_))
        );
        if is_wrong && !self.stopped() && self.source.distrust() {
            self.progress.begin(&part, Some(layer.size));
            done = self.read(layer, &part);
        }
        self.progress.finish(&part);
        done
    }

    /// Reads a tar that is here: a plain tar is its own blob. `None` where there is none, or it is not
    /// right after all and has to be fetched.
    fn local(&self, layer: &LayerRef) -> Option<Result<Done<'b>, LayerFailure>> {
        let LocalTar { mut tar, size } = self.place.local(layer)?;
        let expected = Expected {
            blob: layer.diff_id.0,
            blob_size: size,
            diff_id: layer.diff_id,
        };
        match self.pass(layer, &mut tar, Packing::Tar, &expected, &mut |_| ()) {
            Err(LayerFailure::Layer(error)) => {
                tracing::warn!(layer = %layer.diff_id, %error, "its tar is not used");
                None
            }
            done => Some(done),
        }
    }

    fn read(&self, layer: &LayerRef, part: &str) -> Result<Done<'b>, LayerFailure> {
        let whole = Extent {
            offset: 0,
            len: layer.size,
        };
        let mut stream = Stoppable {
            inner: self.source.stream(&layer.blob, whole)?,
            pass: self,
        };
        let mut head = Vec::with_capacity(HEAD_BYTES);
        (&mut stream)
            .take(HEAD_BYTES as u64)
            .read_to_end(&mut head)?;
        let packing = detect(&layer.media_type, &head)?;
        let _turn = (packing == Packing::Zstd).then(|| lock(&self.zstd));
        let mut input = io::Cursor::new(head).chain(stream);
        let expected = Expected {
            blob: layer.blob,
            blob_size: layer.size,
            diff_id: layer.diff_id,
        };
        let mut before = 0;
        let mut advance = |bytes: u64| {
            self.progress.advance(part, bytes.saturating_sub(before));
            before = bytes;
        };
        self.pass(layer, &mut input, packing, &expected, &mut advance)
    }

    /// One pass over a layer's bytes.
    fn pass(
        &self,
        layer: &LayerRef,
        input: &mut (dyn Read + Send),
        packing: Packing,
        expected: &Expected,
        advance: &mut (dyn FnMut(u64) + Send),
    ) -> Result<Done<'b>, LayerFailure> {
        let mut sink = self.place.tar(layer)?;
        let mut windows = tempfile::Builder::new()
            .prefix("windows-")
            .tempfile_in(self.place.scratch())?;
        let outputs = Outputs {
            tar: sink.as_mut(),
            windows: windows.as_file_mut(),
        };
        let index = thaw_layer::index(
            input,
            packing,
            expected,
            self.options,
            outputs,
            self.budget,
            advance,
        )?;
        let tar_size = index.proof.size();
        sink.commit(&index.proof)?;
        Ok(Done {
            entries: Some(index.entries),
            tar_size,
            index: match index.seek {
                Ok(seek) => Ok(LayerIndex::new(seek, windows)),
                Err(reason) => Err(reason.to_string()),
            },
        })
    }
}

/// Ends a download when the pass is to end.
struct Stoppable<'a> {
    inner: Box<dyn Read + Send>,
    pass: &'a Pass<'a, 'a>,
}

impl Read for Stoppable<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.pass.stopped() {
            return Err(io::Error::other("cancelled"));
        }
        self.inner.read(buffer)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
