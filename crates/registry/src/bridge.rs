//! The one bridge between plain threads, which block, and the asynchronous network code.
//!
//! A call is one task on this crate's own runtime, and the calling thread sleeps until it is done:
//! one wake-up for each call, however many packets it took. A stream is a task that stays a
//! bounded number of bytes ahead of its reader. An upload is the other way round: the calling thread
//! reads the body and stays as far ahead of the task that sends it.
//!
//! Tasks never hold the bridge, so that the runtime is never dropped by one of its own threads.

use std::future::Future;
use std::io::{self, Read};
use std::sync::Arc;

use bytes::{Buf, Bytes};
use thaw_image::Digest;
use tokio::runtime::{Builder, Runtime};
use tokio::sync::mpsc;
use tokio::task::{AbortHandle, JoinHandle};

use crate::RegistryError;

const WORKERS: usize = 2;
/// Largest piece that goes through a channel.
const PIECE: usize = 256 << 10;
/// Pieces that wait in a channel.
const PIECES: usize = 7;
/// Most bytes between a stream's task and its reader.
#[cfg(test)]
const IN_FLIGHT: usize = PIECE * (PIECES + 1);

/// The runtime.
#[derive(Debug)]
pub(crate) struct Bridge {
    /// `None` only while it is being dropped.
    runtime: Option<Runtime>,
}

impl Bridge {
    pub(crate) fn new() -> Result<Self, RegistryError> {
        let runtime = Builder::new_multi_thread()
            .worker_threads(WORKERS)
            .thread_name("thaw-registry")
            .enable_all()
            .build()
            .map_err(|error| RegistryError::Setup(error.to_string()))?;
        Ok(Self {
            runtime: Some(runtime),
        })
    }

    fn runtime(&self) -> &Runtime {
        self.runtime.as_ref().expect("taken only by drop")
    }

    /// Runs `future` and sleeps until it is done.
    pub(crate) fn run<T: Send + 'static>(
        &self,
        future: impl Future<Output = Result<T, RegistryError>> + Send + 'static,
    ) -> Result<T, RegistryError> {
        self.join(self.runtime().spawn(future))?
    }

    /// Starts `future`, and lets it run.
    pub(crate) fn spawn(&self, future: impl Future<Output = ()> + Send + 'static) {
        self.runtime().spawn(future);
    }

    fn join<T>(&self, task: JoinHandle<T>) -> Result<T, RegistryError> {
        let result = self.runtime().block_on(task);
        result.map_err(|error| RegistryError::Internal(error.to_string()))
    }

    /// Starts the task that `produce` makes of a sender, and gives its bytes, `len` of them.
    pub(crate) fn stream<F>(
        self: &Arc<Self>,
        blob: Digest,
        len: u64,
        produce: impl FnOnce(Sender) -> F,
    ) -> ChunkReader
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let (sender, chunks) = mpsc::channel(PIECES);
        let task = self.runtime().spawn(produce(Sender(sender)));
        ChunkReader {
            chunks,
            current: Bytes::new(),
            left: len,
            blob,
            failed: false,
            task: task.abort_handle(),
            _bridge: Arc::clone(self),
        }
    }

    /// Runs the task that `consume` makes of a receiver while this thread feeds it.
    ///
    /// A feeder that fails ends the task. A task that fails closes the channel: the feeder stops
    /// there, and what the task gives says why.
    pub(crate) fn feed<T, F>(
        &self,
        consume: impl FnOnce(mpsc::Receiver<Bytes>) -> F,
        feeder: impl FnOnce(Feed) -> Result<(), RegistryError>,
    ) -> Result<T, RegistryError>
    where
        T: Send + 'static,
        F: Future<Output = T> + Send + 'static,
    {
        let (sender, receiver) = mpsc::channel(PIECES);
        let task = self.runtime().spawn(consume(receiver));
        match feeder(Feed(sender)) {
            Ok(()) => self.join(task),
            Err(error) => {
                task.abort();
                Err(error)
            }
        }
    }
}

impl Drop for Bridge {
    fn drop(&mut self) {
        // A name look-up may hang in the C library: do not wait for it.
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

/// The sending end of a stream.
pub(crate) struct Sender(mpsc::Sender<Result<Bytes, RegistryError>>);

impl Sender {
    /// Hands bytes over, in pieces; `false` when nobody reads any more.
    pub(crate) async fn send(&self, mut bytes: Bytes) -> bool {
        while !bytes.is_empty() {
            let piece = bytes.split_to(bytes.len().min(PIECE));
            if self.0.send(Ok(piece)).await.is_err() {
                return false;
            }
        }
        true
    }

    /// Ends the stream with an error.
    pub(crate) async fn fail(&self, error: RegistryError) {
        // Nobody reads any more: nobody wants to know.
        let _ = self.0.send(Err(error)).await;
    }
}

/// The feeding end of an upload.
pub(crate) struct Feed(mpsc::Sender<Bytes>);

impl Feed {
    /// Most bytes to send at once.
    pub(crate) const PIECE: usize = PIECE;

    /// Hands bytes over; `false` when the upload has ended, well or badly.
    pub(crate) fn send(&self, bytes: Bytes) -> bool {
        self.0.blocking_send(bytes).is_ok()
    }
}

/// A stream of a blob, as a plain reader.
#[derive(Debug)]
pub(crate) struct ChunkReader {
    chunks: mpsc::Receiver<Result<Bytes, RegistryError>>,
    current: Bytes,
    left: u64,
    blob: Digest,
    failed: bool,
    task: AbortHandle,
    _bridge: Arc<Bridge>,
}

impl ChunkReader {
    /// A stream that failed or ended too early never looks like one that ended.
    fn refill(&mut self) -> io::Result<()> {
        if self.failed {
            return Err(io::Error::other("the stream has failed before"));
        }
        match self.chunks.blocking_recv() {
            Some(Ok(bytes)) => {
                self.left = self.left.saturating_sub(bytes.len() as u64);
                self.current = bytes;
                Ok(())
            }
            Some(Err(error)) => {
                self.failed = true;
                Err(io::Error::other(error.into_source(&self.blob)))
            }
            None => {
                self.failed = true;
                let error = RegistryError::Internal("the stream's task died".to_owned());
                Err(io::Error::other(error.into_source(&self.blob)))
            }
        }
    }
}

impl Read for ChunkReader {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        if out.is_empty() {
            return Ok(0);
        }
        while self.current.is_empty() {
            if self.left == 0 {
                return Ok(0);
            }
            self.refill()?;
        }
        let len = out.len().min(self.current.len());
        self.current.copy_to_slice(&mut out[..len]);
        Ok(len)
    }
}

impl Drop for ChunkReader {
    fn drop(&mut self) {
        self.task.abort();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_stream_stays_a_bounded_way_ahead() {
        let bridge = Arc::new(Bridge::new().unwrap());
        let sent = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&sent);
        let total = 4 * IN_FLIGHT;
        let mut reader = bridge.stream(Digest::of(b""), total as u64, |sender| async move {
            for _ in 0..total / PIECE {
                if !sender.send(Bytes::from(vec![7; PIECE])).await {
                    return;
                }
                count.fetch_add(PIECE, Ordering::SeqCst);
            }
        });
        std::thread::sleep(Duration::from_millis(100));
        assert!(sent.load(Ordering::SeqCst) <= IN_FLIGHT);
        let mut all = Vec::new();
        reader.read_to_end(&mut all).unwrap();
        assert_eq!(all.len(), total);
    }

    #[test]
    fn a_stream_that_dies_is_no_end() {
        let bridge = Arc::new(Bridge::new().unwrap());
        let mut reader = bridge.stream(Digest::of(b""), 10, |sender| async move {
            sender.send(Bytes::from_static(b"12345")).await;
        });
        let mut all = Vec::new();
        assert!(reader.read_to_end(&mut all).is_err());
        assert!(reader.read(&mut [0; 1]).is_err());
        assert_eq!(all, b"12345");
    }

    #[test]
    fn a_panic_is_an_error() {
        let bridge = Bridge::new().unwrap();
        let result = bridge.run(async { panic!("on purpose") as Result<(), RegistryError> });
        assert!(matches!(result, Err(RegistryError::Internal(_))));
    }
}
