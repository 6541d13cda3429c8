//! The second thread: hashes the tar and its chunks, scans it, writes it, writes the windows.

use std::io::Write;
use std::sync::mpsc::{Receiver, Sender};

use thaw_image::{Chunk, ChunkHasher, CodecState, DiffId, Digest, Extent, Hasher, WindowRef};

use super::produce::{Batch, Event, Start};
use super::{LayerError, Unseekable};
use crate::budget::Budget;
use crate::tar::{Entries, Scanner};
use crate::window::Windows;

/// Bytes of memory for a chunk: in the table, and in the table's encoding.
const CHUNK_COST: usize = 2 * size_of::<Chunk>();

/// What the second thread found.
pub(super) struct Found<'b> {
    pub(super) diff_id: DiffId,
    pub(super) tar_size: u64,
    pub(super) chunks: Vec<Chunk>,
    /// Why the chunks are not to be used.
    pub(super) unseekable: Option<Unseekable>,
    pub(super) entries: Entries<'b>,
    pub(super) windows: Digest,
    pub(super) windows_size: u64,
}

pub(super) struct Consumer<'a, 'b> {
    tar: &'a mut (dyn Write + Send),
    windows: Windows<'a>,
    hasher: Hasher,
    scanner: Scanner<'b>,
    budget: &'b Budget,
    /// Bytes of tar so far.
    size: u64,
    open: Option<Open>,
    chunks: Vec<Chunk>,
    unseekable: Option<Unseekable>,
}

/// The chunk at hand.
struct Open {
    tar: u64,
    bit: u64,
    state: CodecState,
    hasher: ChunkHasher,
}

impl<'a, 'b> Consumer<'a, 'b> {
    pub(super) fn new(
        tar: &'a mut (dyn Write + Send),
        windows: Windows<'a>,
        budget: &'b Budget,
    ) -> Self {
        Self {
            tar,
            windows,
            hasher: Hasher::new(),
            scanner: Scanner::new(budget),
            budget,
            size: 0,
            open: None,
            chunks: Vec::new(),
            unseekable: None,
        }
    }

    /// Takes batches until there are no more, and sends their buffers back.
    pub(super) fn run(
        mut self,
        batches: Receiver<Batch>,
        empty: Sender<Vec<u8>>,
    ) -> Result<Found<'b>, LayerError> {
        for batch in batches {
            self.batch(&batch)?;
            // Nobody wants it any more when the first thread is done.
            let _ = empty.send(batch.buffer);
        }
        self.tar.flush().map_err(LayerError::WriteTar)?;
        let (windows, windows_size) = self.windows.finish().map_err(LayerError::WriteWindows)?;
        Ok(Found {
            diff_id: DiffId(self.hasher.finish()),
            tar_size: self.size,
            chunks: self.chunks,
            unseekable: self.unseekable,
            entries: self.scanner.finish()?,
            windows,
            windows_size,
        })
    }

    fn batch(&mut self, batch: &Batch) -> Result<(), LayerError> {
        let mut from = batch.fresh.start;
        for (at, event) in &batch.events {
            self.bytes(&batch.buffer[from..*at])?;
            self.event(event)?;
            from = *at;
        }
        self.bytes(&batch.buffer[from..batch.fresh.end])
    }

    fn bytes(&mut self, bytes: &[u8]) -> Result<(), LayerError> {
        self.hasher.update(bytes);
        if let Some(open) = &mut self.open {
            open.hasher.update(bytes);
        }
        self.size += bytes.len() as u64;
        self.scanner.push(bytes)?;
        self.tar.write_all(bytes).map_err(LayerError::WriteTar)
    }

    fn event(&mut self, event: &Event) -> Result<(), LayerError> {
        match event {
            Event::Chunk { bit, start } => {
                self.close(*bit)?;
                self.open = Some(Open {
                    tar: self.size,
                    bit: *bit,
                    state: state(*start, *bit),
                    hasher: ChunkHasher::new(),
                });
            }
            Event::Window(window) => {
                let place = self
                    .windows
                    .push(window)
                    .map_err(LayerError::WriteWindows)?;
                if let Some(open) = &mut self.open
                    && let CodecState::Deflate { window, .. } = &mut open.state
                {
                    *window = place;
                }
            }
            Event::End { bit } => self.close(*bit)?,
            Event::Unseekable(reason) => {
                self.unseekable = Some(*reason);
                self.open = None;
                self.chunks = Vec::new();
            }
        }
        Ok(())
    }

    /// Ends the chunk at hand at `bit` of the blob. One without bytes is none.
    fn close(&mut self, bit: u64) -> Result<(), LayerError> {
        let Some(open) = self.open.take() else {
            return Ok(());
        };
        if self.size > open.tar {
            self.budget.take(CHUNK_COST)?;
            self.chunks.push(Chunk {
                tar: Extent::between(open.tar, self.size),
                blob: Extent::between(open.bit / 8, bit.div_ceil(8)),
                state: open.state,
                digest: open.hasher.finish(),
            });
        }
        Ok(())
    }
}

fn state(start: Start, bit: u64) -> CodecState {
    match start {
        Start::Stored => CodecState::Stored,
        Start::Member => CodecState::GzipMember,
        Start::Block | Start::InBlock => CodecState::Deflate {
            skip_bits: (bit % 8) as u8,
            in_block: start == Start::InBlock,
            window: WindowRef::default(),
        },
    }
}
