//! The body of an answer on its way from a container to a client. As long as it flows the instance is
//! busy; when it is over the connection is kept for the next request.
//!
//! The function's time may end while the client reads nothing, and so nobody asks for the next part:
//! a task of its own looks at the clock.

use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use hyper::body::{Frame, Incoming, SizeHint};
use hyper::client::conn::http1::SendRequest;
use tokio::task::AbortHandle;
use tokio::time::Instant;

use crate::http::{Body, BodyError};
use crate::pool::Lease;

/// Called once, when it is over; with what went wrong.
type Over = Box<dyn FnOnce(Option<String>) + Send + Sync>;

/// An answer's body.
pub(crate) struct Flow {
    state: Arc<Mutex<State>>,
    clock: AbortHandle,
}

struct State {
    /// `None`: its time is over.
    body: Option<Incoming>,
    sender: Option<SendRequest<Body>>,
    lease: Option<Lease>,
    over: Option<Over>,
    /// Who waits for the container.
    waiting: Option<Waker>,
}

const LATE: &str = "the function's time is over";

impl Flow {
    /// Until `deadline`, with the connection it comes by. `over` is called at its end.
    pub(crate) fn new(
        body: Incoming,
        deadline: Instant,
        sender: SendRequest<Body>,
        lease: Lease,
        over: Over,
    ) -> Self {
        let state = Arc::new(Mutex::new(State {
            body: Some(body),
            sender: Some(sender),
            lease: Some(lease),
            over: Some(over),
            waiting: None,
        }));
        let late = Arc::clone(&state);
        let clock = tokio::spawn(async move {
            tokio::time::sleep_until(deadline).await;
            lock(&late).end();
        });
        Self {
            state,
            clock: clock.abort_handle(),
        }
    }
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

impl State {
    /// It is over. With `kept` the connection is in a known state, and good for the next request; a
    /// container that is `guilty` gets no further one.
    fn finish(&mut self, error: Option<String>, kept: bool, guilty: bool) {
        let sender = self.sender.take().filter(|_| kept);
        if let Some(mut lease) = self.lease.take() {
            if guilty {
                lease.condemn();
            } else if let Some(sender) = sender {
                Arc::clone(&lease.instance).keep(sender);
            }
        }
        if let Some(over) = self.over.take() {
            over(error);
        }
    }

    /// The function's time is over: through its own fault, if it was waited for.
    fn end(&mut self) {
        if self.lease.is_none() {
            return;
        }
        self.body = None;
        let waiting = self.waiting.take();
        let guilty = waiting.is_some();
        let who = match guilty {
            true => LATE.to_owned(),
            false => "the client did not read the answer in time".to_owned(),
        };
        self.finish(Some(who), false, guilty);
        if let Some(waiting) = waiting {
            waiting.wake();
        }
    }
}

impl Drop for Flow {
    fn drop(&mut self) {
        self.clock.abort();
        // A client that goes away leaves a connection in an unknown state, and a sound instance.
        lock(&self.state).finish(None, false, false);
    }
}

impl hyper::body::Body for Flow {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let mut state = lock(&self.state);
        state.waiting = None;
        let Some(body) = &mut state.body else {
            return Poll::Ready(Some(Err(LATE.into())));
        };
        match Pin::new(&mut *body).poll_frame(cx) {
            Poll::Ready(Some(Ok(frame))) => {
                if body.is_end_stream() {
                    state.finish(None, true, false);
                }
                Poll::Ready(Some(Ok(frame)))
            }
            Poll::Ready(Some(Err(error))) => {
                state.finish(Some(error.to_string()), false, true);
                Poll::Ready(Some(Err(error.into())))
            }
            Poll::Ready(None) => {
                state.finish(None, true, false);
                Poll::Ready(None)
            }
            Poll::Pending => {
                state.waiting = Some(cx.waker().clone());
                Poll::Pending
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        let state = lock(&self.state);
        state.body.as_ref().is_some_and(Incoming::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        let state = lock(&self.state);
        state
            .body
            .as_ref()
            .map(Incoming::size_hint)
            .unwrap_or_default()
    }
}
