//! What clients may do wrong without harm to anybody else: their bodies, and how they read.

use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Limited;
use hyper::body::{Frame, SizeHint};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep};

use crate::error::Refusal;
use crate::http::{BodyError, broken_off};

/// How a client sends its request's body.
#[derive(Debug, Default)]
pub(crate) struct Sending {
    failed: Mutex<Option<Refusal>>,
    waiting: AtomicBool,
}

impl Sending {
    /// What is wrong with the body, where that is why a request got no answer. A container that was sent
    /// half of it has done nothing wrong.
    pub(crate) fn fault(&self) -> Option<Refusal> {
        let mut failed = self.failed.lock().unwrap_or_else(PoisonError::into_inner);
        let late = self.waiting.load(Ordering::Relaxed);
        failed
            .take()
            .or_else(|| late.then(|| Refusal::invalid("the body did not come in time")))
    }
}

/// The body of a client's request, on its way to a container.
pub(crate) struct Sent<B> {
    body: Pin<Box<Limited<B>>>,
    most: usize,
    sending: Arc<Sending>,
}

impl<B> Sent<B> {
    /// One of at most `most` bytes.
    pub(crate) fn new(body: B, most: usize) -> (Self, Arc<Sending>) {
        let sending = Arc::new(Sending::default());
        let sent = Self {
            body: Box::pin(Limited::new(body, most)),
            most,
            sending: Arc::clone(&sending),
        };
        (sent, sending)
    }
}

impl<B> hyper::body::Body for Sent<B>
where
    B: hyper::body::Body<Data = Bytes>,
    B::Error: Into<BodyError>,
{
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let polled = self.body.as_mut().poll_frame(cx);
        let sending = &self.sending;
        sending
            .waiting
            .store(polled.is_pending(), Ordering::Relaxed);
        if let Poll::Ready(Some(Err(error))) = &polled {
            let refusal = broken_off(error, self.most);
            *sending
                .failed
                .lock()
                .unwrap_or_else(PoisonError::into_inner) = Some(refusal);
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// A connection whose other end has to read now and then.
pub(crate) struct Read<S> {
    stream: S,
    patience: Duration,
    /// Until when it has to take something.
    deadline: Option<Pin<Box<Sleep>>>,
}

impl<S> Read<S> {
    /// It breaks when nothing can be written for `patience`.
    pub(crate) fn new(stream: S, patience: Duration) -> Self {
        Self {
            stream,
            patience,
            deadline: None,
        }
    }

    /// What a write came to, or that it has taken too long.
    fn bound<T>(
        &mut self,
        cx: &mut Context<'_>,
        written: Poll<std::io::Result<T>>,
    ) -> Poll<std::io::Result<T>> {
        if written.is_ready() {
            self.deadline = None;
            return written;
        }
        let until = Instant::now() + self.patience;
        let deadline = self
            .deadline
            .get_or_insert_with(|| Box::pin(tokio::time::sleep_until(until)));
        deadline
            .as_mut()
            .poll(cx)
            .map(|()| Err(std::io::ErrorKind::TimedOut.into()))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Read<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buffer)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Read<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<std::io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(cx, bytes);
        self.bound(cx, written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        parts: &[std::io::IoSlice<'_>],
    ) -> Poll<std::io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write_vectored(cx, parts);
        self.bound(cx, written)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        let flushed = Pin::new(&mut self.stream).poll_flush(cx);
        self.bound(cx, flushed)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    #[tokio::test]
    async fn who_does_not_read_loses_the_connection() {
        let (near, mut far) = tokio::io::duplex(1000);
        let mut near = Read::new(near, Duration::from_millis(100));
        let writing = tokio::spawn(async move { near.write_all(&[1; 5000]).await });
        // Slowly is well enough.
        for _ in 0..4 {
            tokio::time::sleep(Duration::from_millis(60)).await;
            far.read_exact(&mut [0; 700]).await.unwrap();
        }
        let error = writing.await.unwrap().unwrap_err();
        assert_eq!(error.kind(), std::io::ErrorKind::TimedOut);
    }
}
