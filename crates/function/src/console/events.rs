//! Server-sent events: the list of functions, whenever it is another than before.
//!
//! One task looks, for all clients, as long as there are any.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use serde_json::{Value, json};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};

use crate::error::Refusal;
use crate::host::Host;
use crate::http::{Body, channel};
use crate::model::Function;

/// How often the functions are looked at.
const PAUSE: Duration = Duration::from_millis(500);
/// How often a client without news is told that the connection lives.
const KEEP_ALIVE: Duration = Duration::from_secs(15);
/// Clients at once, of events and of logs.
const MAX_CLIENTS: usize = 32;

/// What clients follow.
#[derive(Debug)]
pub(super) struct Events {
    /// The list as it was last; empty before the first look.
    latest: watch::Sender<Bytes>,
    /// Whether somebody looks.
    looking: Mutex<bool>,
    room: Arc<Semaphore>,
}

impl Default for Events {
    fn default() -> Self {
        Self {
            latest: watch::Sender::default(),
            looking: Mutex::default(),
            room: Arc::new(Semaphore::new(MAX_CLIENTS)),
        }
    }
}

/// The list of functions.
pub(super) fn list(host: &Host) -> Result<Value, Refusal> {
    let all: Vec<Function> = host.catalog.list("")?;
    let facts = all.iter().map(|it| crate::admin::facts(host, it, false));
    Ok(json!({ "functions": facts.collect::<Vec<Value>>() }))
}

impl Events {
    /// Room for one more that follows something, given back when it is dropped.
    ///
    /// # Errors
    /// `ResourceExhausted`.
    pub(super) fn room(&self) -> Result<OwnedSemaphorePermit, Refusal> {
        let room = Arc::clone(&self.room).try_acquire_owned();
        room.map_err(|_| {
            let message = format!("{MAX_CLIENTS} pages follow events or logs already: close some");
            Refusal::exhausted(message)
        })
    }

    /// A client's events.
    pub(super) fn follow(host: &Arc<Host>) -> Body {
        let events = &host.console.events;
        let mut latest = {
            // Whoever looks stops under this lock where nobody follows.
            let mut looking = events
                .looking
                .lock()
                .unwrap_or_else(PoisonError::into_inner);
            if !std::mem::replace(&mut *looking, true) {
                tokio::spawn(look(Arc::clone(host)));
            }
            events.latest.subscribe()
        };
        latest.mark_changed();
        let (sender, body) = channel();
        tokio::spawn(async move {
            loop {
                let news = tokio::time::timeout(KEEP_ALIVE, latest.changed()).await;
                let part = match news {
                    Ok(Ok(())) => latest.borrow_and_update().clone(),
                    Ok(Err(_)) => return,
                    Err(_) => Bytes::from_static(b": still here\n\n"),
                };
                tokio::select! {
                    sent = sender.send(part) => if sent.is_err() { return },
                    () = sender.closed() => return,
                }
            }
        });
        body
    }
}

/// Looks at the functions until nobody wants to know.
async fn look(host: Arc<Host>) {
    let events = &host.console.events;
    loop {
        match tokio::task::block_in_place(|| list(&host)) {
            Ok(list) => {
                let event = Bytes::from(format!("event: functions\ndata: {list}\n\n"));
                events.latest.send_if_modified(|before| {
                    let is_new = *before != event;
                    *before = event;
                    is_new
                });
            }
            Err(error) => tracing::warn!(%error, "the console cannot list the functions"),
        }
        tokio::time::sleep(PAUSE).await;
        let mut looking = events
            .looking
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if events.latest.receiver_count() == 0 {
            *looking = false;
            return;
        }
    }
}
