//! Streams over links that hold more than one connection fills.
//!
//! A connection moves at most its window in each round trip. Where the link holds more than a
//! segment (its rate times its round trip), a stream is cut into segments, several of which are
//! on their way at once:
//!
//! ```text
//! segment 1  ████████──▶ reader
//! segment 2  ██████        waits here for its turn
//! segment 3  ███
//! ```
//!
//! Near registries, and slow links, have one request for all of it: there more of them would only
//! take bytes from those that somebody waits for.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;
use thaw_image::{Digest, Extent};
use tokio::sync::{OwnedSemaphorePermit, mpsc};
use tokio::task::JoinSet;

use crate::RegistryError;
use crate::bridge::Sender;
use crate::range::{Patience, RangeRead};
use crate::route::Route;

/// Bytes of a segment.
pub(crate) const SEGMENT: u64 = 2 << 20;
/// Most segments of a stream on their way at once.
pub(crate) const SEGMENTS: usize = 4;
/// Most segments of all streams together that are on their way before their turn: what they bring
/// is in memory until then.
pub(crate) const AHEAD: usize = 8;

type Pieces = mpsc::UnboundedReceiver<Result<Bytes, RegistryError>>;

/// A segment on its way; one that came before its turn holds its share of [`AHEAD`].
struct Coming {
    pieces: Pieces,
    _ahead: Option<OwnedSemaphorePermit>,
}

/// A blob's bytes on their way to a reader.
pub(crate) struct Stream {
    route: Arc<Route>,
    blob: Digest,
    sender: Sender,
}

impl Stream {
    pub(crate) const fn new(route: Arc<Route>, blob: Digest, sender: Sender) -> Self {
        Self {
            route,
            blob,
            sender,
        }
    }

    /// Sends all of `extent`, or the error that ended it.
    pub(crate) async fn send(&self, extent: Extent) {
        if extent.len < 2 * SEGMENT || self.route.first().link().segments() < 2 {
            self.forward(self.read(extent)).await;
            return;
        }
        // Some registries answer each range with all of the blob: the first segment tells.
        let (first, rest) = split(extent);
        let Some(read) = self.forward(self.read(first)).await else {
            return;
        };
        if read.knows_ranges() {
            self.send_segments(rest).await;
        } else {
            self.forward(self.read(rest)).await;
        }
    }

    fn read(&self, extent: Extent) -> RangeRead {
        let places = self.route.places();
        RangeRead::anywhere(places, self.blob, extent, Patience::WhileMoving)
    }

    /// Hands a read's bytes to the reader; `None` where it failed or nobody reads any more.
    async fn forward(&self, mut read: RangeRead) -> Option<RangeRead> {
        loop {
            match read.next().await {
                Ok(Some(bytes)) => self.sender.send(bytes).await.then_some(())?,
                Ok(None) => return Some(read),
                Err(error) => {
                    self.sender.fail(error).await;
                    return None;
                }
            }
        }
    }

    async fn send_segments(&self, mut rest: Extent) {
        // Dropped, it ends its tasks.
        let mut tasks = JoinSet::new();
        let mut coming: VecDeque<Coming> = VecDeque::new();
        loop {
            let wanted = self.route.first().link().segments().max(2);
            while !rest.is_empty() && coming.len() < wanted {
                let ahead = Arc::clone(&self.route.origin().shared.ahead);
                let ahead = ahead.try_acquire_owned().ok();
                if ahead.is_none() && !coming.is_empty() {
                    break;
                }
                let (segment, others) = split(rest);
                rest = others;
                coming.push_back(Coming {
                    pieces: fetch(&mut tasks, self.read(segment)),
                    _ahead: ahead,
                });
            }
            let Some(mut next) = coming.pop_front() else {
                return;
            };
            while let Some(piece) = next.pieces.recv().await {
                let read = match piece {
                    Ok(bytes) => self.sender.send(bytes).await,
                    Err(error) => return self.sender.fail(error).await,
                };
                if !read {
                    return;
                }
            }
        }
    }
}

/// Starts to fetch a segment. The channel needs no bound: there are no more bytes than its own.
fn fetch(tasks: &mut JoinSet<()>, mut read: RangeRead) -> Pieces {
    let (sender, pieces) = mpsc::unbounded_channel();
    tasks.spawn(async move {
        while let Some(piece) = read.next().await.transpose() {
            let ended = piece.is_err();
            if sender.send(piece).is_err() || ended {
                return;
            }
        }
    });
    pieces
}

/// The next segment, and what is behind it.
fn split(extent: Extent) -> (Extent, Extent) {
    let end = extent.end();
    let middle = end.min(extent.offset + SEGMENT);
    (
        Extent::between(extent.offset, middle),
        Extent::between(middle, end),
    )
}
