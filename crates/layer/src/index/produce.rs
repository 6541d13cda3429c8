//! The first thread: reads the blob, hashes it, inflates it, and decides where chunks start.

use std::io::{self, Read};
use std::ops::Range;
use std::sync::mpsc::{Receiver, SyncSender};

use thaw_image::{Digest, Hasher, MAX_CHUNK_BLOB};

use super::{Bound, Expected, LayerError, Unseekable};
use crate::inflate::{Decoder, Input, Output, Stop, WINDOW, Window};

/// Bytes of the blob that are read ahead.
const INPUT_BYTES: usize = 256 << 10;
/// Bytes of tar that go to the second thread at once.
const BATCH_BYTES: usize = 512 << 10;
/// Bytes of tar in a chunk of a plain tar. No codec asks for larger ones, and on a link of 1
/// Gbit/s so much takes as long to come as a round trip of 2 ms takes.
const STORED_SPACING: usize = 256 << 10;
/// Largest window of a zstd frame that is accepted, as a power of two: what is held in memory. The
/// same that zstd(1) accepts.
const ZSTD_WINDOW_LOG: u32 = 27;

/// A piece of the tar, and what happens in it.
pub(super) struct Batch {
    pub(super) buffer: Vec<u8>,
    /// Where in the buffer the piece is.
    pub(super) fresh: Range<usize>,
    /// In order, each with its place in the buffer.
    pub(super) events: Vec<(usize, Event)>,
}

pub(super) enum Event {
    /// A chunk starts here, and at this bit of the blob.
    Chunk { bit: u64, start: Start },
    /// The window of the chunk that started last, and behind it the header of its block if it
    /// started inside of one.
    Window(Vec<u8>),
    /// The last chunk ends here, and at this bit of the blob.
    End { bit: u64 },
    /// There can be no seek table.
    Unseekable(Unseekable),
}

/// How a chunk can be decoded.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Start {
    Stored,
    Member,
    Block,
    InBlock,
}

/// Why the first thread stopped early.
pub(super) enum Failure {
    Layer(LayerError),
    /// The second thread is gone, and knows why.
    Hangup,
}

impl From<LayerError> for Failure {
    fn from(error: LayerError) -> Self {
        Self::Layer(error)
    }
}

/// The blob as it is read: hashed, counted, and not longer than it may be.
pub(super) struct Intake<'a> {
    pub(super) input: &'a mut (dyn Read + Send),
    pub(super) progress: &'a mut (dyn FnMut(u64) + Send),
    pub(super) hasher: Hasher,
    pub(super) read: u64,
    pub(super) size: u64,
}

impl Intake<'_> {
    /// Reads until `buffer` is full or the blob ends; how much.
    fn fill(&mut self, buffer: &mut [u8]) -> Result<usize, LayerError> {
        let filled = read_full(self.input, buffer).map_err(LayerError::Read)?;
        self.count(filled, &buffer[..filled])?;
        Ok(filled)
    }

    fn refill(&mut self, input: &mut Input) -> Result<(), LayerError> {
        let new = input.fill(|buffer| self.input.read(buffer));
        let new = new.map_err(LayerError::Read)?;
        self.count(new.len(), new)
    }

    fn count(&mut self, len: usize, new: &[u8]) -> Result<(), LayerError> {
        self.hasher.update(new);
        self.read += len as u64;
        (self.progress)(self.read);
        if self.read > self.size {
            return Err(LayerError::BlobSize {
                expected: self.size,
                actual: self.read,
            });
        }
        Ok(())
    }

    /// Reads what is left and compares size and digest with what was promised.
    pub(super) fn verify(mut self, expected: &Expected) -> Result<(), LayerError> {
        let mut buffer = vec![0; INPUT_BYTES];
        while self.fill(&mut buffer)? > 0 {}
        if self.read != expected.blob_size {
            return Err(LayerError::BlobSize {
                expected: expected.blob_size,
                actual: self.read,
            });
        }
        let actual: Digest = self.hasher.finish();
        if actual != expected.blob {
            return Err(LayerError::BlobDigest {
                expected: expected.blob,
                actual,
            });
        }
        Ok(())
    }
}

/// Batches on their way to the second thread, and empty buffers on their way back.
pub(super) struct Link {
    pub(super) batches: SyncSender<Batch>,
    pub(super) empty: Receiver<Vec<u8>>,
    /// Events of the batch that is being filled.
    pub(super) events: Vec<(usize, Event)>,
    /// Bytes of tar sent.
    pub(super) sent: u64,
    pub(super) bound: Bound,
}

impl Link {
    fn empty_buffer(&self, len: usize) -> Vec<u8> {
        self.empty.try_recv().unwrap_or_else(|_| vec![0; len])
    }

    fn send(&mut self, buffer: Vec<u8>, fresh: Range<usize>) -> Result<(), Failure> {
        self.sent += fresh.len() as u64;
        self.bound.check(self.sent)?;
        let events = std::mem::take(&mut self.events);
        let batch = Batch {
            buffer,
            fresh,
            events,
        };
        self.batches.send(batch).map_err(|_| Failure::Hangup)
    }
}

/// Sends a plain tar, in chunks of [`STORED_SPACING`].
pub(super) fn stored(intake: &mut Intake<'_>, mut link: Link) -> Result<(), Failure> {
    loop {
        let mut buffer = link.empty_buffer(BATCH_BYTES);
        let filled = intake.fill(&mut buffer)?;
        for at in (0..filled).step_by(STORED_SPACING) {
            let bit = (link.sent + at as u64) * 8;
            let start = Start::Stored;
            link.events.push((at, Event::Chunk { bit, start }));
        }
        if filled < BATCH_BYTES {
            let bit = (link.sent + filled as u64) * 8;
            link.events.push((filled, Event::End { bit }));
            return link.send(buffer, 0..filled);
        }
        link.send(buffer, 0..filled)?;
    }
}

/// Sends the tar in zstd frames.
pub(super) fn zstd(intake: &mut Intake<'_>, mut link: Link) -> Result<(), Failure> {
    link.events.push((0, Event::Unseekable(Unseekable::Zstd)));
    let mut input = ZstdInput {
        intake,
        failure: None,
    };
    let sent = frames(&mut input, &mut link);
    match input.failure {
        Some(failure) => Err(failure.into()),
        None => sent,
    }
}

fn frames(input: &mut ZstdInput<'_, '_>, link: &mut Link) -> Result<(), Failure> {
    let mut decoder = zstd::stream::read::Decoder::new(input).map_err(LayerError::Zstd)?;
    let limited = decoder.window_log_max(ZSTD_WINDOW_LOG);
    limited.map_err(LayerError::Zstd)?;
    loop {
        let mut buffer = link.empty_buffer(BATCH_BYTES);
        let filled = read_full(&mut decoder, &mut buffer).map_err(LayerError::Zstd)?;
        link.send(buffer, 0..filled)?;
        if filled < BATCH_BYTES {
            return Ok(());
        }
    }
}

/// The blob as zstd reads it.
struct ZstdInput<'a, 'b> {
    intake: &'a mut Intake<'b>,
    /// Why reading failed, which zstd's error cannot say.
    failure: Option<LayerError>,
}

impl Read for ZstdInput<'_, '_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.intake.fill(buffer).map_err(|error| {
            self.failure = Some(error);
            io::ErrorKind::Other.into()
        })
    }
}

/// Reads until `buffer` is full or there is no more; how much.
fn read_full(input: &mut dyn Read, buffer: &mut [u8]) -> io::Result<usize> {
    let mut filled = 0;
    while filled < buffer.len() {
        match input.read(&mut buffer[filled..]) {
            Ok(0) => break,
            Ok(count) => filled += count.min(buffer.len() - filled),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(filled)
}

/// Sends the tar in a gzip stream, in chunks of at least `spacing` bytes.
pub(super) fn gzip(intake: &mut Intake<'_>, link: Link, spacing: u64) -> Result<(), Failure> {
    let mut input = Input::with_capacity(INPUT_BYTES);
    let mut decoder = Decoder::new(true);
    let mut cutter = Cutter {
        link,
        output: Output::new(&[], BATCH_BYTES),
        spacing,
        chunk: None,
        window: Box::new([0; WINDOW]),
        header: Vec::new(),
        tracking: false,
    };
    loop {
        let stop = decoder.run(&mut input, &mut cutter.output);
        let stop = stop.map_err(|source| LayerError::Gzip {
            offset: input.bit_position() / 8,
            source,
        })?;
        match stop {
            Stop::Input => intake.refill(&mut input)?,
            Stop::Output => cutter.flush()?,
            Stop::Member => cutter.boundary(input.bit_position(), Start::Member, &[]),
            Stop::Block => cutter.boundary(input.bit_position(), Start::Block, &[]),
            Stop::Symbol => {
                cutter.boundary(input.bit_position(), Start::InBlock, decoder.header());
            }
            Stop::End => return cutter.end(decoder.data_end()),
        }
    }
}

/// Decides where chunks start, and keeps the window of the one that started last until it is
/// known what of it is needed.
struct Cutter {
    link: Link,
    output: Output,
    /// Endless once there can be no seek table.
    spacing: u64,
    /// Where the chunk at hand starts: in the tar, and its bit in the blob.
    chunk: Option<(u64, u64)>,
    window: Window,
    /// The header of the block inside of which the chunk at hand starts.
    header: Vec<u8>,
    /// `window` and `header` are those of the chunk at hand, and not yet sent.
    tracking: bool,
}

impl Cutter {
    /// The bytes of tar so far.
    fn tar(&self) -> u64 {
        self.link.sent + self.output.fresh_len() as u64
    }

    /// A chunk may start here.
    fn boundary(&mut self, bit: u64, start: Start, header: &[u8]) {
        let tar = self.tar();
        let is_early = |(first, _)| tar - first < self.spacing;
        if self.chunk.is_some_and(is_early) || !self.fits(bit) {
            return;
        }
        self.settle();
        self.event(Event::Chunk { bit, start });
        self.chunk = Some((tar, bit));
        self.output
            .pause_after(usize::try_from(self.spacing).unwrap_or(usize::MAX));
        if start != Start::Member {
            self.output.track(&mut self.window);
            self.header.extend_from_slice(header);
            self.tracking = true;
        }
    }

    /// Whether the chunk at hand may end here. Where it may not there is no seek table.
    fn fits(&mut self, bit: u64) -> bool {
        let is_large = |(_, first)| bit.div_ceil(8) - first / 8 > MAX_CHUNK_BLOB;
        if self.chunk.is_some_and(is_large) {
            self.spacing = u64::MAX;
            self.settle();
            self.event(Event::Unseekable(Unseekable::ChunkBlob));
            return false;
        }
        true
    }

    fn event(&mut self, event: Event) {
        let at = self.output.position();
        self.link.events.push((at, event));
    }

    /// Sends what decoding the chunk at hand takes beside its bytes of the blob, if anything.
    fn settle(&mut self) {
        if !std::mem::take(&mut self.tracking) {
            return;
        }
        let is_used = self.output.settle(&mut self.window);
        if is_used || !self.header.is_empty() {
            let mut window = self.window.to_vec();
            window.append(&mut self.header);
            self.event(Event::Window(window));
        }
    }

    /// Hands the full buffer over.
    fn flush(&mut self) -> Result<(), Failure> {
        if self.output.is_settled() {
            self.settle();
        }
        let next = self.link.empty_buffer(Output::buffer_len(BATCH_BYTES));
        let (buffer, fresh) = self.output.swap(next);
        self.link.send(buffer, fresh)
    }

    fn end(&mut self, bit: u64) -> Result<(), Failure> {
        self.settle();
        if self.fits(bit) {
            self.event(Event::End { bit });
        }
        self.flush()
    }
}
