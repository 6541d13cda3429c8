//! The uncompressed side: history and new bytes in one buffer.
//!
//! ```text
//!   data: | history, at most 32 KiB | new bytes | room ... | SLACK |
//!         0                       fresh         at
//! ```
//!
//! Matches are copied 16 bytes at a time and may write behind their end: that is what the slack
//! is for. A buffer is full when it has no room for the longest match, so no match is ever cut.

/// Most bytes that a match may lie back (RFC 1951, 2).
pub(crate) const WINDOW: usize = 32 << 10;
/// Most bytes of one match.
pub(super) const MAX_MATCH: usize = 258;
/// Room behind the longest match, for copies in steps of 16.
const SLACK: usize = 32;

/// The last 32 KiB before a checkpoint, as raw bytes.
pub(crate) type Window = Box<[u8; WINDOW]>;

/// Where decoded bytes go.
#[derive(Debug)]
pub(crate) struct Output {
    pub(super) data: Vec<u8>,
    /// End of what is written.
    pub(super) at: usize,
    /// First byte that is new.
    fresh: usize,
    /// First byte that a match may refer to: where its gzip member starts, if that is here.
    pub(super) floor: usize,
    /// Where the decoder stops at the next symbol; may lie behind the buffer.
    pub(super) pause: Option<usize>,
    pub(super) tracker: Tracker,
}

/// Which bytes before a checkpoint the data behind it refers to.
#[derive(Debug)]
pub(super) struct Tracker {
    /// Where in the buffer the checkpoint is; `None` when nothing is tracked.
    pub(super) start: Option<usize>,
    /// For each of the 32 KiB before the checkpoint, whether it is referred to.
    pub(super) used: Box<[bool; WINDOW]>,
}

impl Output {
    /// Room for `new` bytes at a time behind a history; `history` is what is known of it.
    pub(crate) fn new(history: &[u8], new: usize) -> Self {
        let mut data = vec![0; Self::buffer_len(new)];
        data[..history.len()].copy_from_slice(history);
        Self {
            data,
            at: history.len(),
            fresh: history.len(),
            floor: 0,
            pause: None,
            tracker: Tracker {
                start: None,
                used: Box::new([false; WINDOW]),
            },
        }
    }

    /// Bytes of a buffer with room for `new` bytes at a time.
    pub(crate) fn buffer_len(new: usize) -> usize {
        WINDOW + new + MAX_MATCH + SLACK
    }

    /// How far the buffer may be written before it is full.
    pub(super) fn limit(&self) -> usize {
        self.data.len().saturating_sub(MAX_MATCH + SLACK)
    }

    /// How many bytes are new.
    pub(crate) fn fresh_len(&self) -> usize {
        self.at - self.fresh
    }

    /// Where in the buffer the next byte goes.
    pub(crate) fn position(&self) -> usize {
        self.at
    }

    /// Appends some of `bytes`, as many as there is room for; how many.
    pub(super) fn append(&mut self, bytes: &[u8]) -> usize {
        let count = bytes.len().min(self.limit().saturating_sub(self.at));
        self.data[self.at..self.at + count].copy_from_slice(&bytes[..count]);
        self.at += count;
        count
    }

    /// Starts a gzip member here: nothing may refer to what was before.
    pub(super) fn start_member(&mut self) {
        self.floor = self.at;
    }

    /// Has the decoder stop at the first symbol of a block that starts `bytes` from here, or later.
    pub(crate) fn pause_after(&mut self, bytes: usize) {
        self.pause = Some(self.at.saturating_add(bytes));
    }

    /// How many bytes may come before the decoder has to stop.
    pub(super) fn pauses_in(&self) -> usize {
        self.pause.unwrap_or(usize::MAX).saturating_sub(self.at)
    }

    /// Goes on in `next`, of [`Output::buffer_len`] bytes, behind a copy of the history. Gives
    /// the buffer, and where in it the new bytes are.
    pub(crate) fn swap(&mut self, mut next: Vec<u8>) -> (Vec<u8>, std::ops::Range<usize>) {
        let kept = self.at.min(WINDOW);
        let shift = self.at - kept;
        next[..kept].copy_from_slice(&self.data[shift..self.at]);
        let full = std::mem::replace(&mut self.data, next);
        let fresh = self.fresh..self.at;
        self.floor = self.floor.saturating_sub(shift);
        self.pause = self.pause.map(|at| at.saturating_sub(shift));
        // What is further back than the history cannot be referred to any more.
        self.tracker.start = self.tracker.start.and_then(|at| at.checked_sub(shift));
        (self.at, self.fresh) = (kept, kept);
        (full, fresh)
    }

    /// The new bytes, in a buffer of their own.
    pub(crate) fn into_fresh(mut self) -> Vec<u8> {
        self.data.truncate(self.at);
        self.data.drain(..self.fresh);
        self.data
    }

    /// Sets a checkpoint here: copies what is before it into `window`, and notes from now on what
    /// of that is referred to.
    pub(crate) fn track(&mut self, window: &mut Window) {
        let known = self.at.min(WINDOW);
        window[..WINDOW - known].fill(0);
        window[WINDOW - known..].copy_from_slice(&self.data[self.at - known..self.at]);
        self.tracker.used.fill(false);
        self.tracker.start = Some(self.at);
    }

    /// Whether the checkpoint's window is settled: nothing behind here can refer to it.
    pub(crate) fn is_settled(&self) -> bool {
        self.tracker
            .start
            .is_none_or(|start| self.at - start >= WINDOW)
    }

    /// Ends tracking: zeroes what of `window` nothing refers to; whether anything is left.
    pub(crate) fn settle(&mut self, window: &mut Window) -> bool {
        self.tracker.start = None;
        for (byte, used) in window.iter_mut().zip(self.tracker.used.iter()) {
            *byte *= u8::from(*used);
        }
        self.tracker.used.contains(&true)
    }
}

impl Tracker {
    /// Notes a match of `len` bytes from `from` that may begin before the checkpoint at `start`.
    #[inline]
    pub(super) fn note(&mut self, start: usize, from: usize, len: usize) {
        if from < start {
            let first = WINDOW.saturating_sub(start - from);
            let last = WINDOW.min(first + len);
            self.used[first..last].fill(true);
        }
    }
}
