//! The body of an answer on its way from a container to a client. As long as it flows the instance is
//! busy; when it is over the connection is kept for the next request.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use hyper::body::{Frame, Incoming, SizeHint};
use hyper::client::conn::http1::SendRequest;
use tokio::time::{Instant, Sleep};

use crate::http::{Body, BodyError};
use crate::pool::Lease;

/// Called once, when it is over; with what went wrong.
type Over = Box<dyn FnOnce(Option<String>) + Send + Sync>;

/// An answer's body.
pub(crate) struct Flow {
    body: Incoming,
    deadline: Pin<Box<Sleep>>,
    sender: Option<SendRequest<Body>>,
    lease: Option<Lease>,
    over: Option<Over>,
}

impl Flow {
    /// Until `deadline`, with the connection it comes by. `over` is called at its end.
    pub(crate) fn new(
        body: Incoming,
        deadline: Instant,
        sender: SendRequest<Body>,
        lease: Lease,
        over: Over,
    ) -> Self {
        Self {
            body,
            deadline: Box::pin(tokio::time::sleep_until(deadline)),
            sender: Some(sender),
            lease: Some(lease),
            over: Some(over),
        }
    }

    fn finish(&mut self, error: Option<String>) {
        if let Some(mut lease) = self.lease.take() {
            match (&error, self.sender.take()) {
                (None, Some(sender)) => Arc::clone(&lease.instance).keep(sender),
                (Some(_), _) => lease.condemn(),
                (None, None) => {}
            }
        }
        if let Some(over) = self.over.take() {
            over(error);
        }
    }
}

impl Drop for Flow {
    fn drop(&mut self) {
        // A client that goes away leaves a connection in an unknown state, and a sound instance.
        self.sender = None;
        self.finish(None);
    }
}

impl hyper::body::Body for Flow {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let polled = Pin::new(&mut self.body).poll_frame(cx);
        match polled {
            Poll::Ready(Some(Ok(frame))) => {
                if self.body.is_end_stream() {
                    self.finish(None);
                }
                Poll::Ready(Some(Ok(frame)))
            }
            Poll::Ready(Some(Err(error))) => {
                self.finish(Some(error.to_string()));
                Poll::Ready(Some(Err(error.into())))
            }
            Poll::Ready(None) => {
                self.finish(None);
                Poll::Ready(None)
            }
            Poll::Pending => match self.deadline.as_mut().poll(cx) {
                Poll::Ready(()) => {
                    let message = "the function's time is over";
                    self.finish(Some(message.to_owned()));
                    Poll::Ready(Some(Err(message.into())))
                }
                Poll::Pending => Poll::Pending,
            },
        }
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
