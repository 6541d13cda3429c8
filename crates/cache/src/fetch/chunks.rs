//! Reading, decoding and writing chunks of a seek table.
//!
//! Some chunks that lie together in the blob are read in one request, and beside it the windows
//! that they need in another. A source that cannot give its bytes is followed by the next one,
//! each with its share of the time that is left. A chunk whose bytes are wrong is fetched once
//! more, alone: from the next source, or from the same if there is only one.

use std::sync::Arc;
use std::time::{Duration, Instant};

use thaw_image::{
    BlobSource, Chunk, CodecState, Digest, Extent, SeekTable, SourceError, Verified, WindowRef,
};

use super::Shared;
use super::board::{Job, Want};
use super::error::FetchError;
use super::origin::Attached;
use super::stats::{Cause, count};
use crate::file::chain;

/// Windows this close in their blob are read in one request.
const WINDOW_GAP: u64 = 64 << 10;
/// Most bytes of windows in one request.
const WINDOW_SPAN: u64 = 1 << 20;

/// For whom chunks are fetched, and how long that may take.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Errand {
    pub(crate) cause: Cause,
    /// `None`: the sources bound their own time.
    pub(crate) deadline: Option<Instant>,
}

impl Errand {
    /// When the first of `left` sources must have answered, so that each has the same share.
    fn share(&self, left: usize) -> Option<Instant> {
        let now = Instant::now();
        let rest = self.deadline?.saturating_duration_since(now);
        Some(now + rest / u32::try_from(left.max(1)).unwrap_or(u32::MAX))
    }

    fn is_over(&self) -> bool {
        self.deadline.is_some_and(|end| Instant::now() >= end)
    }
}

/// The bytes of one request, from which several chunks may be decoded.
#[derive(Debug)]
pub(crate) struct Loaded {
    attached: Arc<Attached>,
    table: Arc<SeekTable>,
    errand: Errand,
    /// Index of the source that gave the bytes.
    source: usize,
    blob: (Extent, Vec<u8>),
    windows: Vec<(Extent, Vec<u8>)>,
}

/// Fetches chunks of one origin in one request, and answers for each of them.
pub(crate) fn fetch(shared: &Shared, attached: &Arc<Attached>, wants: Vec<Want>, errand: Errand) {
    let Some(table) = attached.table() else {
        return; // Dropped tickets say that it was given up; no want is made without a table.
    };
    let (wants, present): (Vec<_>, Vec<_>) = wants
        .into_iter()
        .partition(|want| is_missing(attached, table, want.number));
    for want in present {
        want.ticket.answer(Ok(()));
    }
    let chunks: Vec<&Chunk> = wants
        .iter()
        .map(|want| &table.chunks[want.number])
        .collect();
    if chunks.is_empty() {
        return;
    }
    match load(shared, attached, table, &chunks, 0, errand) {
        Ok(loaded) => spread(shared, Arc::new(loaded), wants),
        Err(error) => {
            for want in wants {
                want.ticket.answer(Err(error.clone()));
            }
        }
    }
}

/// Whether a chunk has bytes that are not written yet.
pub(crate) fn is_missing(attached: &Attached, table: &SeekTable, number: usize) -> bool {
    table.chunks.get(number).is_some_and(|chunk| {
        let missing = attached.layer.missing(chunk.tar);
        missing.iter().any(|m| !m.intersect(&chunk.tar).is_empty())
    })
}

/// Finishes the first chunk here, and the others wherever a demand thread is idle.
fn spread(shared: &Shared, loaded: Arc<Loaded>, wants: Vec<Want>) {
    let mut wants = wants.into_iter();
    if loaded.errand.cause == Cause::Demand {
        let first = wants.next();
        let rest = wants.rev().map(|want| Job::Decode(loaded.clone(), want));
        shared.board.push_first(rest.collect::<Vec<_>>());
        first
            .into_iter()
            .for_each(|want| finish(shared, &loaded, want));
    } else {
        wants.for_each(|want| finish(shared, &loaded, want));
    }
}

/// Decodes one chunk, writes it, and answers for it.
pub(crate) fn finish(shared: &Shared, loaded: &Loaded, want: Want) {
    let result = loaded.decode(shared, want.number).and_then(|bytes| {
        let chunk = &loaded.table.chunks[want.number];
        let written = loaded.attached.layer.write(chunk.tar.offset, &bytes)?;
        shared.counters.written(loaded.errand.cause, written);
        Ok(())
    });
    want.ticket.answer(result);
}

impl Loaded {
    pub(crate) fn host(&self) -> &Arc<str> {
        &self.attached.host
    }

    /// The chunk's bytes: from what was read, or else from one more try.
    fn decode(&self, shared: &Shared, number: usize) -> Result<Verified, FetchError> {
        let chunk = &self.table.chunks[number];
        let error = match self.decode_once(shared, chunk) {
            Ok(bytes) => return Ok(bytes),
            Err(error) => error,
        };
        count(&shared.counters.mismatches);
        let origin = &self.attached.origin;
        let layer = self.attached.layer.diff_id();
        tracing::warn!(
            image = origin.image, %layer, chunk = number, source = self.source_name(),
            error = chain(&error), "wrong bytes for a chunk; trying once more"
        );
        let next = (self.source + 1) % origin.blobs.len().max(1);
        let windows = origin.windows.as_ref().map(|(source, _)| source);
        for source in origin.blobs.get(self.source).into_iter().chain(windows) {
            source.distrust();
        }
        let again = load(
            shared,
            &self.attached,
            &self.table,
            &[chunk],
            next,
            self.errand,
        )?;
        again.decode_once(shared, chunk).map_err(|error| {
            count(&shared.counters.mismatches);
            FetchError::WrongChunk {
                image: origin.image.clone(),
                layer,
                chunk: number,
                source_name: again.source_name(),
                source: Arc::new(error),
            }
        })
    }

    fn decode_once(
        &self,
        shared: &Shared,
        chunk: &Chunk,
    ) -> Result<Verified, thaw_layer::DecodeError> {
        shared.counters.unpacked(self.errand.cause, chunk.tar.len);
        let blob = part(&self.blob, chunk.blob).unwrap_or_default();
        let window = window_of(chunk)
            .and_then(|wanted| self.windows.iter().find_map(|window| part(window, wanted)));
        thaw_layer::decode(self.table.format, chunk, blob, window)
    }

    fn source_name(&self) -> String {
        let source = self.attached.origin.blobs.get(self.source);
        source.map(|source| source.name()).unwrap_or_default()
    }
}

/// Where a chunk's window lies in the windows blob, if it needs one.
fn window_of(chunk: &Chunk) -> Option<Extent> {
    match chunk.state {
        CodecState::Deflate {
            window: WindowRef { offset, len },
            ..
        } if len > 0 => Extent::checked(offset, u64::from(len)),
        _ => None,
    }
}

fn part((at, bytes): &(Extent, Vec<u8>), wanted: Extent) -> Option<&[u8]> {
    let from = usize::try_from(wanted.offset.checked_sub(at.offset)?).ok()?;
    let to = from.checked_add(usize::try_from(wanted.len).ok()?)?;
    bytes.get(from..to)
}

/// Reads the bytes of chunks, and their windows at the same time.
fn load(
    shared: &Shared,
    attached: &Arc<Attached>,
    table: &Arc<SeekTable>,
    chunks: &[&Chunk],
    first_source: usize,
    errand: Errand,
) -> Result<Loaded, FetchError> {
    let start = chunks.iter().map(|c| c.blob.offset).min().unwrap_or(0);
    let end = chunks.iter().map(|c| c.blob.end()).max().unwrap_or(0);
    let span = Extent::between(start, end);
    let reader = Reader {
        shared,
        attached,
        errand,
        tar: chunks.first().map_or(Extent::default(), |c| c.tar),
    };
    let spans = window_spans(chunks);
    let (blob, windows) = if spans.is_empty() {
        (reader.blob(span, first_source), Ok(Vec::new()))
    } else {
        std::thread::scope(|scope| {
            let windows = scope.spawn(|| reader.windows(&spans));
            let blob = reader.blob(span, first_source);
            (blob, windows.join().unwrap_or(Err(FetchError::Stopped)))
        })
    };
    let (source, bytes) = blob?;
    Ok(Loaded {
        attached: attached.clone(),
        table: table.clone(),
        errand,
        source,
        blob: (span, bytes),
        windows: windows?,
    })
}

/// The ranges of the windows blob that the chunks need, near ones joined.
fn window_spans(chunks: &[&Chunk]) -> Vec<Extent> {
    let mut wanted: Vec<Extent> = chunks.iter().filter_map(|c| window_of(c)).collect();
    wanted.sort();
    let mut spans: Vec<Extent> = Vec::new();
    for window in wanted {
        match spans.last_mut() {
            Some(last)
                if window.offset <= last.end().saturating_add(WINDOW_GAP)
                    && window.end() - last.offset <= WINDOW_SPAN =>
            {
                *last = Extent::between(last.offset, last.end().max(window.end()));
            }
            _ => spans.push(window),
        }
    }
    spans
}

/// Reads for chunks of one origin.
struct Reader<'a> {
    shared: &'a Shared,
    attached: &'a Attached,
    errand: Errand,
    /// The tar range of the first chunk, for messages.
    tar: Extent,
}

impl Reader<'_> {
    /// Reads from the first source that gives the bytes, starting with number `first`.
    fn blob(&self, span: Extent, first: usize) -> Result<(usize, Vec<u8>), FetchError> {
        let sources = &self.attached.origin.blobs;
        let mut failure = None;
        for turn in 0..sources.len() {
            if failure.is_some() && self.errand.is_over() {
                break;
            }
            let number = (first + turn) % sources.len();
            let until = self.errand.share(sources.len() - turn);
            let blob = &self.attached.origin.layer_blob;
            match self.read(&*sources[number], blob, span, until) {
                Ok(bytes) => return Ok((number, bytes)),
                Err(error) => failure = Some(error),
            }
        }
        Err(failure.unwrap_or(FetchError::Stopped))
    }

    fn windows(&self, spans: &[Extent]) -> Result<Vec<(Extent, Vec<u8>)>, FetchError> {
        let origin = &self.attached.origin;
        let Some((source, blob)) = &origin.windows else {
            let layer = self.attached.layer.diff_id();
            let why = "its chunks need windows, and there is no windows blob";
            return Err(FetchError::table(&origin.image, layer, why));
        };
        let read = |span: &Extent| {
            let bytes = self.read(&**source, blob, *span, self.errand.deadline)?;
            Ok((*span, bytes))
        };
        spans.iter().map(read).collect()
    }

    fn read(
        &self,
        source: &dyn BlobSource,
        blob: &Digest,
        span: Extent,
        until: Option<Instant>,
    ) -> Result<Vec<u8>, FetchError> {
        let started = Instant::now();
        let bytes = source.read_at(blob, span, until).and_then(|bytes| {
            let got = bytes.len() as u64;
            if got == span.len {
                return Ok(bytes);
            }
            Err(SourceError::Truncated {
                source_name: source.name(),
                blob: *blob,
                offset: span.offset,
                wanted: span.len,
                got,
            })
        });
        let bytes = bytes.map_err(|error| FetchError::Source {
            image: self.attached.origin.image.clone(),
            layer: self.attached.layer.diff_id(),
            extent: self.tar,
            source: Arc::new(error),
        })?;
        self.shared
            .note_read(self.errand.cause, span.len, started.elapsed());
        Ok(bytes)
    }
}

impl Shared {
    /// Counts a ranged read, and learns from it what the next will take.
    pub(crate) fn note_read(&self, cause: Cause, bytes: u64, took: Duration) {
        self.counters.fetched(cause, bytes);
        if cause == Cause::Demand {
            count(&self.counters.requests);
            self.pace.note_request(bytes, took);
        }
    }
}
