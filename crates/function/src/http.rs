//! Bodies of requests and answers, of whichever source.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper::StatusCode;
use hyper::body::Frame;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};

use crate::error::Refusal;

/// Why a body broke off.
pub(crate) type BodyError = Box<dyn std::error::Error + Send + Sync>;

/// Any body.
pub(crate) type Body = BoxBody<Bytes, BodyError>;

/// A body that is there.
pub(crate) fn full(bytes: impl Into<Bytes>) -> Body {
    let body = Full::new(bytes.into());
    body.map_err(|never| match never {}).boxed()
}

/// A body that is made up as it goes: ends when its sender is dropped.
#[derive(Debug)]
struct Parts(mpsc::Receiver<Bytes>);

impl hyper::body::Body for Parts {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let part = self.0.poll_recv(cx);
        part.map(|part| part.map(|bytes| Ok(Frame::data(bytes))))
    }
}

/// A body, and who fills it. Sending fails when nobody reads it any more.
pub(crate) fn channel() -> (mpsc::Sender<Bytes>, Body) {
    let (sender, receiver) = mpsc::channel(16);
    (sender, Parts(receiver).boxed())
}

/// A body that is cut off when `end` is done; `end` is dropped when the body is over or nobody reads it.
pub(crate) fn until(end: impl Future<Output = ()> + Send + 'static, mut body: Body) -> Body {
    let (sender, cut) = channel();
    tokio::spawn(async move {
        let pass_on = async {
            while let Some(Ok(frame)) = body.frame().await {
                if let Ok(bytes) = frame.into_data()
                    && sender.send(bytes).await.is_err()
                {
                    return;
                }
            }
        };
        // Where nothing comes, sending does not tell that nobody reads.
        let gone = sender.clone();
        tokio::select! { () = end => {}, () = gone.closed() => {}, () = pass_on => {} }
    });
    cut
}

/// All of a body that has at most `most` bytes.
///
/// # Errors
/// `EntityTooLarge`, or that the caller broke off.
pub(crate) async fn collect<B>(body: B, most: usize) -> Result<Bytes, Refusal>
where
    B: hyper::body::Body,
    B::Data: Into<Bytes> + bytes::Buf,
    B::Error: Into<BodyError>,
{
    match Limited::new(body, most).collect().await {
        Ok(collected) => Ok(collected.to_bytes()),
        Err(error) => Err(broken_off(&error, most)),
    }
}

/// Why a body of at most `most` bytes did not come whole.
pub(crate) fn broken_off(error: &BodyError, most: usize) -> Refusal {
    if error.is::<LengthLimitError>() {
        let message = format!("the body has more than {most} bytes");
        return Refusal::new(StatusCode::BAD_REQUEST, "EntityTooLarge", message);
    }
    Refusal::invalid(format!("the body broke off: {error}"))
}

/// What bodies that are being received may take together.
#[derive(Clone, Debug)]
pub(crate) struct Room(Arc<Semaphore>);

impl Room {
    pub(crate) fn new(bytes: usize) -> Self {
        Self(Arc::new(Semaphore::new(bytes)))
    }

    /// All of a body that has at most `most` bytes. It takes its room until it is dropped.
    ///
    /// # Errors
    /// As [`collect`], and `ResourceThrottled` where others take all the room.
    pub(crate) async fn collect<B>(&self, mut body: B, most: usize) -> Result<Bytes, Refusal>
    where
        B: hyper::body::Body<Data = Bytes> + Unpin,
        B::Error: Into<BodyError>,
    {
        let (mut bytes, mut permit) = (Vec::new(), None::<OwnedSemaphorePermit>);
        let mut limited = Limited::new(&mut body, most);
        while let Some(frame) = limited.frame().await {
            let Ok(part) = frame.map_err(|error| broken_off(&error, most))?.into_data() else {
                continue;
            };
            let size = u32::try_from(part.len()).unwrap_or(u32::MAX);
            let more = Arc::clone(&self.0).try_acquire_many_owned(size);
            let more = more.map_err(|_| {
                let message = "the host has no room for more bodies: try again";
                let status = StatusCode::SERVICE_UNAVAILABLE;
                Refusal::new(status, "ResourceThrottled", message)
            })?;
            match &mut permit {
                Some(permit) => permit.merge(more),
                none => *none = Some(more),
            }
            bytes.extend_from_slice(&part);
        }
        Ok(Bytes::from_owner(Received {
            bytes,
            _room: permit,
        }))
    }
}

/// A body that has its room.
struct Received {
    bytes: Vec<u8>,
    _room: Option<OwnedSemaphorePermit>,
}

impl AsRef<[u8]> for Received {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[tokio::test]
    async fn bodies_take_room_as_long_as_they_live() {
        let room = Room::new(1000);
        let body = |size: usize| Full::new(Bytes::from(vec![7; size]));
        let first = room.collect(body(600), 800).await.unwrap();
        assert_eq!(first, vec![7; 600]);
        let refusal = room.collect(body(600), 800).await.unwrap_err();
        assert_eq!(refusal.code, "ResourceThrottled");
        let part = first.slice(1..2);
        drop(first);
        assert!(room.collect(body(600), 800).await.is_err(), "a part lives");
        drop(part);
        room.collect(body(600), 800).await.unwrap();
        let refusal = room.collect(body(900), 800).await.unwrap_err();
        assert_eq!(refusal.code, "EntityTooLarge");
        room.collect(body(800), 800).await.unwrap();
    }
}
