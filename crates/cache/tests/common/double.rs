//! A source of blobs that fails, lies and dawdles to order, and counts what it is asked.

use std::collections::HashMap;
use std::io::{self, Read};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use thaw_image::{BlobSource, Digest, Extent, SourceError};

/// What the next calls do.
#[derive(Debug, Clone, Default)]
pub(crate) struct Behaviour {
    /// Before each answer.
    pub(crate) delay: Duration,
    /// Whether answers are kept back, until they no longer are.
    pub(crate) holds: bool,
    /// Calls that fail, counted from now.
    pub(crate) failures: usize,
    /// Whether bytes are wrong.
    pub(crate) lies: bool,
    /// Whether a byte is lacking.
    pub(crate) is_short: bool,
    /// Bytes per second of a stream.
    pub(crate) stream_rate: Option<u64>,
    /// A stream fails after so many bytes.
    pub(crate) stream_breaks_after: Option<usize>,
    /// Whether the deadline is heeded.
    pub(crate) heeds_deadline: bool,
    /// How long before it, as one that tries no more where the next try would be cut off.
    pub(crate) early: Duration,
}

#[derive(Debug, Default)]
pub(crate) struct Double {
    name: String,
    blobs: Mutex<HashMap<Digest, Arc<Vec<u8>>>>,
    behaviour: Mutex<Behaviour>,
    /// Every ranged read.
    pub(crate) reads: Mutex<Vec<Extent>>,
    /// Every stream.
    pub(crate) streams: Mutex<Vec<Extent>>,
    now: AtomicUsize,
    pub(crate) peak: AtomicUsize,
}

impl Double {
    pub(crate) fn new(name: &str) -> Arc<Self> {
        Arc::new(Self {
            name: name.into(),
            ..Self::default()
        })
    }

    pub(crate) fn add(&self, bytes: &[u8]) -> Digest {
        let digest = Digest::of(bytes);
        let blob = Arc::new(bytes.to_vec());
        self.blobs.lock().unwrap().insert(digest, blob);
        digest
    }

    pub(crate) fn behave(&self, change: impl FnOnce(&mut Behaviour)) {
        change(&mut self.behaviour.lock().unwrap());
    }

    pub(crate) fn calls(&self) -> usize {
        self.reads.lock().unwrap().len()
    }

    fn failed(&self, reason: &str) -> SourceError {
        SourceError::Failed {
            source_name: self.name.clone(),
            reason: reason.into(),
            source: None,
        }
    }

    /// The bytes as the behaviour has them.
    fn bytes(&self, blob: &Digest, extent: Extent) -> Result<Vec<u8>, SourceError> {
        let behaviour = {
            let mut behaviour = self.behaviour.lock().unwrap();
            let now = behaviour.clone();
            behaviour.failures = behaviour.failures.saturating_sub(1);
            now
        };
        std::thread::sleep(behaviour.delay);
        while self.behaviour.lock().unwrap().holds {
            std::thread::sleep(Duration::from_millis(1));
        }
        if behaviour.failures > 0 {
            return Err(self.failed("to order"));
        }
        let bytes = self.blobs.lock().unwrap().get(blob).cloned();
        let bytes = bytes.ok_or_else(|| SourceError::NotFound {
            source_name: self.name.clone(),
            blob: *blob,
        })?;
        let from = usize::try_from(extent.offset).unwrap();
        let mut part = bytes[from..from + usize::try_from(extent.len).unwrap()].to_vec();
        if behaviour.lies {
            let middle = part.len() / 2;
            part[middle] ^= 1;
        }
        if behaviour.is_short {
            part.pop();
        }
        Ok(part)
    }
}

impl BlobSource for Double {
    fn read_at(
        &self,
        blob: &Digest,
        extent: Extent,
        deadline: Option<Instant>,
    ) -> Result<Vec<u8>, SourceError> {
        self.reads.lock().unwrap().push(extent);
        let now = self.now.fetch_add(1, Ordering::SeqCst) + 1;
        self.peak.fetch_max(now, Ordering::SeqCst);
        let heeds = self.behaviour.lock().unwrap().heeds_deadline;
        let (delay, early) = {
            let behaviour = self.behaviour.lock().unwrap();
            (behaviour.delay, behaviour.early)
        };
        let left = deadline.map(|end| end.saturating_duration_since(Instant::now()));
        let result = match left.filter(|left| heeds && *left < delay) {
            Some(left) => {
                std::thread::sleep(left.saturating_sub(early));
                Err(SourceError::TimedOut {
                    source_name: self.name.clone(),
                    after: left,
                })
            }
            None => self.bytes(blob, extent),
        };
        self.now.fetch_sub(1, Ordering::SeqCst);
        result
    }

    fn stream(&self, blob: &Digest, extent: Extent) -> Result<Box<dyn Read + Send>, SourceError> {
        self.streams.lock().unwrap().push(extent);
        let bytes = self.bytes(blob, extent)?;
        let behaviour = self.behaviour.lock().unwrap().clone();
        Ok(Box::new(Stream {
            bytes,
            at: 0,
            behaviour,
        }))
    }

    fn name(&self) -> String {
        self.name.clone()
    }
}

struct Stream {
    bytes: Vec<u8>,
    at: usize,
    behaviour: Behaviour,
}

impl Read for Stream {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let limit = self.behaviour.stream_breaks_after.unwrap_or(usize::MAX);
        if self.at >= limit {
            return Err(io::Error::other("the stream broke, to order"));
        }
        let count = buffer
            .len()
            .min(self.bytes.len() - self.at)
            .min(limit - self.at)
            .min(16 << 10);
        if let Some(rate) = self.behaviour.stream_rate {
            std::thread::sleep(Duration::from_secs_f64(count as f64 / rate as f64));
        }
        buffer[..count].copy_from_slice(&self.bytes[self.at..self.at + count]);
        self.at += count;
        Ok(count)
    }
}
