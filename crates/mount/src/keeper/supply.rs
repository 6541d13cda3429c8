//! Lets readers go on whose bytes are there.
//!
//! An event is only allowed. A FUSE read is given its bytes: at once where the page cache has them,
//! which never sleeps; else one of a few threads waits for the disk, so that the keeper does not.

use std::fs::File;
use std::io::{self, IoSliceMut};
use std::os::unix::fs::FileExt;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, OnceLock, PoisonError, Weak};
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
    _epoch: Arc<Epoch>,
}

/// What gives readers their bytes.
#[derive(Debug)]
pub(crate) struct Supply {
    /// At most as many as the kernel lets wait.
    jobs: Sender<Job>,
    buffer: Vec<u8>,
    /// Held by the jobs since the last fence.
    epoch: Arc<Epoch>,
}

/// The time between two fences, as long as a read that was let through in it, or before, has no bytes: an
/// earlier one holds the next.
#[derive(Debug, Default)]
struct Epoch(OnceLock<Arc<Epoch>>);

/// The reads that were let through before some moment.
#[derive(Debug)]
pub(crate) struct Fence(Weak<Epoch>);

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
        let next = Arc::<Epoch>::default();
        let before = std::mem::replace(&mut self.epoch, Arc::clone(&next));
        before.0.get_or_init(|| next);
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

#[cfg(test)]
mod tests {
    use std::os::fd::OwnedFd;
    use std::os::unix::net::UnixDatagram;

    use thaw_sys::fuse::Device;

    use super::*;
    use crate::keeper::layers::Layers;

    const SIZE: u32 = 512;

    /// A FUSE connection whose other end is the test, not the kernel.
    struct Connection {
        kernel: UnixDatagram,
        device: Arc<Device>,
    }

    impl Connection {
        fn new() -> Self {
            let (kernel, ours) = UnixDatagram::pair().unwrap();
            ours.set_nonblocking(true).unwrap();
            kernel.set_nonblocking(true).unwrap();
            let device = Arc::new(Device::from_fd(OwnedFd::from(ours)));
            Self { kernel, device }
        }

        /// A reader that wants the first bytes of a file, as `struct fuse_in_header` and `struct
        /// fuse_read_in` say it.
        fn reader(&self, unique: u64) -> Reader {
            const READ: u32 = 15;
            let mut request = [0; 80];
            request[..4].copy_from_slice(&80u32.to_ne_bytes());
            request[4..8].copy_from_slice(&READ.to_ne_bytes());
            request[8..16].copy_from_slice(&unique.to_ne_bytes());
            request[56..60].copy_from_slice(&SIZE.to_ne_bytes());
            self.kernel.send(&request).unwrap();
            let mut reads = self.device.read(&Layers::new()).unwrap();
            assert_eq!(reads.len(), 1);
            Reader::Read(reads.remove(0))
        }

        /// The next answer: whose it is, and its bytes, or else its error.
        fn answer(&self) -> Option<(u64, Result<Vec<u8>, i32>)> {
            let mut answer = [0; 1024];
            let len = self.kernel.recv(&mut answer).ok()?;
            let unique = u64::from_ne_bytes(answer[8..16].try_into().unwrap());
            let outcome = match i32::from_ne_bytes(answer[4..8].try_into().unwrap()) {
                0 => Ok(answer[16..len].to_vec()),
                error => Err(-error),
            };
            Some((unique, outcome))
        }
    }

    /// One without threads: what has to wait for the disk is in the queue.
    fn supply() -> (Supply, Receiver<Job>) {
        let (jobs, queue) = channel();
        let supply = Supply {
            jobs,
            buffer: Vec::new(),
            epoch: Arc::default(),
        };
        (supply, queue)
    }

    /// A tar whose bytes no page cache has: it has none.
    fn slow_tar() -> Arc<File> {
        Arc::new(tempfile::tempfile().unwrap())
    }

    fn give(supply: &mut Supply, reader: Reader, tar: &Arc<File>) {
        supply.allow(reader, tar, SIZE.into());
    }

    #[test]
    fn a_fence_is_passed_when_what_was_let_through_before_it_is_answered() {
        let connection = Connection::new();
        let (mut supply, queue) = supply();
        let tar = slow_tar();
        let wait = |supply: &mut Supply, unique| {
            give(supply, connection.reader(unique), &tar);
            queue.try_recv().unwrap()
        };
        let before = [wait(&mut supply, 1), wait(&mut supply, 2)];
        let fence = supply.fence();
        let after = wait(&mut supply, 3);
        assert!(!fence.is_passed());
        let [first, second] = before;
        drop(first);
        assert!(!fence.is_passed(), "one of them has no bytes yet");
        drop(second);
        assert!(fence.is_passed(), "the later one is not behind it");
        let next = supply.fence();
        assert!(!next.is_passed());
        drop(after);
        assert!(next.is_passed());
    }

    /// As when the daemon that asked for the first one has died.
    #[test]
    fn a_second_fence_is_not_passed_before_the_first() {
        let connection = Connection::new();
        let (mut supply, queue) = supply();
        give(&mut supply, connection.reader(1), &slow_tar());
        let job = queue.try_recv().unwrap();
        drop(supply.fence());
        let [second, third] = [supply.fence(), supply.fence()];
        assert!(!second.is_passed() && !third.is_passed());
        drop(job);
        assert!(second.is_passed() && third.is_passed());
    }

    #[test]
    fn a_fence_is_passed_at_once_when_nobody_waits() {
        let connection = Connection::new();
        let (mut supply, _queue) = supply();
        assert!(supply.fence().is_passed());
        // A reader that has its answer does not wait.
        let (jobs, _) = channel();
        supply.jobs = jobs;
        give(&mut supply, connection.reader(1), &slow_tar());
        assert_eq!(connection.answer(), Some((1, Err(5))));
        assert!(supply.fence().is_passed());
    }

    #[test]
    fn a_thread_answers_what_is_before_a_fence_and_it_is_passed() {
        let connection = Connection::new();
        let (mut supply, queue) = supply();
        let tar = slow_tar();
        give(&mut supply, connection.reader(1), &tar);
        let fence = supply.fence();
        assert!(!fence.is_passed());
        assert_eq!(connection.answer(), None, "its bytes are not there yet");
        let bytes = vec![7; SIZE as usize];
        tar.write_all_at(&bytes, 0).unwrap();
        // The thread ends with the last job.
        drop(supply);
        work(&Mutex::new(queue));
        assert_eq!(connection.answer(), Some((1, Ok(bytes))));
        assert!(fence.is_passed());
    }
}
