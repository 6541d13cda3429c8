//! Lets readers go on whose bytes are there.
//!
//! An event is only allowed. A FUSE read is given its bytes: at once where the page cache has them,
//! which never sleeps; else one of a few threads waits for the disk, so that the keeper does not.

use std::fs::File;
use std::io::{self, IoSliceMut};
use std::os::unix::fs::FileExt;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::thread;

use rustix::io::{ReadWriteFlags, preadv2};
use thaw_sys::fuse::Read;

use super::source::Reader;
use crate::{Denial, TransportKind};

/// Reads that wait for the disk at the same time.
const THREADS: usize = 8;

/// A read whose bytes are in the tar, but maybe not in memory.
struct Job {
    read: Read,
    tar: Arc<File>,
    len: usize,
    _epoch: Arc<()>,
}

/// What gives readers their bytes.
#[derive(Debug)]
pub(crate) struct Supply {
    /// At most as many as the kernel lets wait.
    jobs: Sender<Job>,
    buffer: Vec<u8>,
    /// Held by the jobs since the last fence.
    epoch: Arc<()>,
}

/// The reads that were let through before some moment.
#[derive(Debug)]
pub(crate) struct Fence(Weak<()>);

impl Fence {
    /// Whether all of them have their bytes.
    pub(crate) fn is_passed(&self) -> bool {
        self.0.strong_count() == 0
    }
}

impl Supply {
    /// Threads are started where they will be needed.
    pub(crate) fn new(kind: TransportKind) -> io::Result<Self> {
        let (jobs, queue) = channel();
        let queue = Arc::new(Mutex::new(queue));
        let threads = match kind {
            TransportKind::Fanotify => 0,
            TransportKind::Fuse => THREADS,
        };
        for number in 0..threads {
            let queue = Arc::clone(&queue);
            thread::Builder::new()
                .name(format!("supply-{number}"))
                .spawn(move || work(&queue))?;
        }
        Ok(Self {
            jobs,
            buffer: Vec::new(),
            epoch: Arc::default(),
        })
    }

    /// What is let through from now on is not behind the fence.
    pub(crate) fn fence(&mut self) -> Fence {
        let before = std::mem::take(&mut self.epoch);
        Fence(Arc::downgrade(&before))
    }

    /// Lets a reader of `tar` go on; `size` bytes of it there are.
    pub(crate) fn allow(&mut self, reader: Reader, tar: &Arc<File>, size: u64) {
        match reader {
            Reader::Event(event) => {
                if let Err(error) = event.allow() {
                    tracing::debug!(%error, "a reader is gone");
                }
            }
            Reader::Read(read) => self.give(read, tar, size),
        }
    }

    fn give(&mut self, read: Read, tar: &Arc<File>, size: u64) {
        let left = size.saturating_sub(read.offset());
        let len = usize::try_from(left.min(u64::from(read.size()))).unwrap_or(0);
        if self.buffer.len() < len {
            self.buffer.resize(len, 0);
        }
        let bytes = &mut self.buffer[..len];
        let flags = ReadWriteFlags::NOWAIT;
        let got = preadv2(tar, &mut [IoSliceMut::new(bytes)], read.offset(), flags);
        if got == Ok(len) {
            return answer(read, Ok(bytes));
        }
        let tar = Arc::clone(tar);
        // Without a thread the job is dropped, and its reader is denied.
        let _epoch = Arc::clone(&self.epoch);
        let _ = self.jobs.send(Job {
            read,
            tar,
            len,
            _epoch,
        });
    }
}

fn work(queue: &Mutex<Receiver<Job>>) {
    let next = || {
        let queue = queue.lock().unwrap_or_else(PoisonError::into_inner);
        queue.recv().ok()
    };
    while let Some(Job {
        read,
        tar,
        len,
        _epoch,
    }) = next()
    {
        let mut bytes = vec![0; len];
        match tar.read_exact_at(&mut bytes, read.offset()) {
            Ok(()) => answer(read, Ok(&bytes)),
            Err(error) => {
                tracing::error!(%error, "cannot read a layer tar");
                answer(read, Err(Denial::Io));
            }
        }
    }
}

/// Answers a read. A reader that was killed meanwhile needs no answer.
fn answer(read: Read, outcome: Result<&[u8], Denial>) {
    match outcome {
        Ok(bytes) => {
            if let Err(error) = read.answer(bytes) {
                tracing::debug!(%error, "a reader is gone");
            }
        }
        Err(denial) => Reader::Read(read).deny(denial),
    }
}
