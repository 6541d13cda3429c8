//! Misses: readers that wait for the daemon, until it says that their bytes are there, or their
//! deadline passes.

use std::time::{Duration, Instant};

use thaw_image::Extent;

use super::Server;
use crate::Denial;
use crate::keeper::layers::FileId;
use crate::keeper::message::Notice;
use crate::keeper::source::Reader;

/// A reader that waits for the daemon.
pub(super) struct Pending {
    reader: Reader,
    file: FileId,
    extent: Extent,
    since: Instant,
    /// Whether the daemon has said once that it is filled, and it was not.
    again: bool,
}

impl Server {
    pub(super) fn remaining(&self, pending: &Pending) -> Duration {
        self.settings
            .fault_timeout
            .saturating_sub(pending.since.elapsed())
    }

    pub(super) fn miss(&mut self, reader: Reader, file: FileId, extent: Extent) {
        self.counters.misses += 1;
        if self.denied.have(file, extent, Instant::now()) {
            self.counters.expired += 1;
            return reader.deny(Denial::Io);
        }
        self.next_miss += 1;
        let pending = Pending {
            reader,
            file,
            extent,
            since: Instant::now(),
            again: false,
        };
        self.announce(self.next_miss, &pending);
        self.pending.insert(self.next_miss, pending);
    }

    /// Remembers a reader that is denied, if it has waited for long.
    fn denies(&mut self, pending: &Pending) {
        if pending.since.elapsed() >= self.settings.fault_timeout / 2 {
            self.denied
                .add(pending.file, pending.extent, Instant::now());
        }
    }

    /// Tells the daemon of a miss, if there is one.
    pub(super) fn announce(&mut self, miss: u64, pending: &Pending) {
        let remaining = self.remaining(pending);
        let layer = self.layers.get(pending.file);
        if let (Some(daemon), Some(layer)) = (&mut self.daemon, layer) {
            daemon.queue(
                &Notice::Miss {
                    miss,
                    layer: layer.spec.diff_id,
                    extent: pending.extent,
                    remaining,
                },
                None,
            );
        }
    }

    pub(super) fn is_present(&self, pending: &Pending) -> bool {
        let layer = self.layers.get(pending.file);
        layer.is_some_and(|layer| layer.has(pending.extent))
    }

    /// Answers a miss. Whatever the daemon says, only the bits let a reader through.
    pub(super) fn conclude(&mut self, miss: u64, outcome: Result<(), Denial>) {
        // It may have expired before.
        let Some(pending) = self.pending.remove(&miss) else {
            return;
        };
        if outcome.is_ok() && !pending.again && !self.is_present(&pending) {
            // It was there, and was given back before we looked: the daemon is asked once more.
            let pending = Pending {
                again: true,
                ..pending
            };
            self.announce(miss, &pending);
            self.pending.insert(miss, pending);
            return;
        }
        self.counters.waited(pending.since.elapsed());
        let outcome = outcome.and_then(|()| {
            if self.is_present(&pending) {
                return Ok(());
            }
            if let Some(untold) = self.failures.pass(Instant::now()) {
                let layer = self.layers.get(pending.file);
                let layer = layer.map(|layer| layer.spec.diff_id.to_string());
                let extent = pending.extent;
                tracing::error!(layer, ?extent, untold, "said to be filled, and is not");
            }
            Err(Denial::Io)
        });
        match outcome {
            Ok(()) => self.counters.filled += 1,
            Err(_) => {
                self.counters.failed += 1;
                self.denies(&pending);
            }
        }
        self.answer(pending, outcome);
    }

    fn answer(&mut self, pending: Pending, outcome: Result<(), Denial>) {
        let layer = self.layers.get(pending.file).ok_or(Denial::Io);
        match outcome.and(layer) {
            Ok(layer) => {
                let size = layer.file_size();
                self.supply.allow(pending.reader, &layer.tar, size);
            }
            Err(denial) => pending.reader.deny(denial),
        }
    }

    /// Gives up on misses whose deadline has passed.
    pub(super) fn expire(&mut self) {
        while let Some((miss, pending)) = self.pending.first_key_value() {
            if !self.remaining(pending).is_zero() {
                break;
            }
            let miss = *miss;
            if self.is_present(pending) {
                self.conclude(miss, Ok(()));
                continue;
            }
            if let Some(pending) = self.pending.remove(&miss) {
                self.counters.expired += 1;
                self.counters.waited(pending.since.elapsed());
                if let Some(untold) = self.failures.pass(Instant::now()) {
                    let pid = pending.reader.pid();
                    tracing::warn!(pid, untold, "a read has waited too long");
                }
                self.denies(&pending);
                pending.reader.deny(Denial::Io);
            }
        }
        self.layers.forget_released(self.settings.fault_timeout);
    }
}
