//! Asynchronous invocations: kept on the disk until they are done.
//!
//! ```text
//! Enqueued ─▶ Running ─┬ Succeeded ─▶ on-success destination
//!               ▲      ├ Retrying (pauses that double) ─╮
//!               ╰──────┼────────────────────────────────╯
//!                      └ Failed, Expired (too old) ─▶ on-failure destination
//! ```
//!
//! One that is stopped while it waits does not run; one that runs is `Stopping` until its instance, which
//! may be in the middle of anything, is given up, and then `Stopped`. Nobody is told of either.
//!
//! An invocation is answered with 202 when it is on the disk. One that ran when the host was killed
//! runs again: so an event may be handed over twice then, and at no other time but after an error.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use bytes::Bytes;
use hyper::{Response, StatusCode};
use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::sync::{Notify, Semaphore};

use crate::catalog::{Catalog, Change, Entity, Table, function_key};
use crate::error::Refusal;
use crate::host::Host;
use crate::http::{Body, full};
use crate::model::FunctionName;

mod attempt;

use attempt::run;

/// Invocations of the queue that run at once.
const MAX_RUNNING: usize = 64;
/// Invocations that may wait.
const MAX_WAITING: usize = 100_000;
/// Of one function: one that is slow leaves room for the others.
const MAX_OF_FUNCTION: usize = 16;
/// For how long the outcome of an invocation is remembered, in hours.
const REMEMBERED: i64 = 24;

/// How far an invocation is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Status {
    Enqueued,
    Running,
    Retrying,
    Succeeded,
    Failed,
    Expired,
    Stopping,
    Stopped,
}

impl Status {
    const fn is_over(self) -> bool {
        matches!(
            self,
            Self::Succeeded | Self::Failed | Self::Expired | Self::Stopped
        )
    }
}

/// One invocation.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Task {
    pub(crate) function: FunctionName,
    pub(crate) qualifier: String,
    pub(crate) id: String,
    request_id: String,
    /// In base64.
    body: String,
    pub(crate) status: Status,
    /// Failed attempts.
    attempts: u32,
    /// When it runs next.
    due: Timestamp,
    pub(crate) enqueued: Timestamp,
    ended: Option<Timestamp>,
    /// What went wrong last.
    error: Option<String>,
}

impl Task {
    fn key_of(function: &FunctionName, id: &str) -> String {
        format!("{}/{id}", function_key(function))
    }

    fn stopped(&mut self) {
        self.status = Status::Stopped;
        self.ended = Some(Timestamp::now());
        self.body = String::new();
    }
}

impl Entity for Task {
    const TABLE: Table = Table::new("tasks");
    fn key(&self) -> String {
        Self::key_of(&self.function, &self.id)
    }
}

/// All asynchronous invocations.
#[derive(Debug)]
pub(crate) struct Queue {
    catalog: Arc<Catalog>,
    /// Those that wait: when they are due, and their keys.
    waiting: Mutex<BTreeSet<(Timestamp, String)>>,
    /// Those that run, by function.
    running: Mutex<HashMap<FunctionName, usize>>,
    /// Tells those that run that they are to stop, by key.
    stops: Mutex<HashMap<String, Arc<Notify>>>,
    wake: Notify,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Queue {
    pub(crate) fn new(catalog: Arc<Catalog>) -> Self {
        Self {
            catalog,
            waiting: Mutex::default(),
            running: Mutex::default(),
            stops: Mutex::default(),
            wake: Notify::new(),
        }
    }

    /// Adds an invocation; the answer is 202.
    ///
    /// # Errors
    /// An id that is taken, a queue that is full, and those of the catalog.
    pub(crate) fn add(
        &self,
        function: &FunctionName,
        qualifier: &str,
        body: &Bytes,
        id: Option<String>,
        request_id: &str,
    ) -> Result<Response<Body>, Refusal> {
        if lock(&self.waiting).len() >= MAX_WAITING {
            let message = format!("{MAX_WAITING} asynchronous invocations wait already");
            return Err(Refusal::exhausted(message));
        }
        let task = new_task(function, qualifier, body, id, request_id)?;
        tokio::task::block_in_place(|| self.catalog.change(|open| put_new(open, &task)))?;
        self.has_been_put(&task);
        let mut response = Response::new(full(""));
        *response.status_mut() = StatusCode::ACCEPTED;
        Ok(response)
    }

    /// A task was put into the catalog.
    fn has_been_put(&self, task: &Task) {
        lock(&self.waiting).insert((task.due, task.key()));
        self.wake.notify_one();
    }

    /// Adds an event within a change; [`Queue::begin`] it when that is made.
    pub(crate) fn put(
        open: &Change,
        function: &FunctionName,
        qualifier: &str,
        body: &Bytes,
        request_id: &str,
    ) -> Result<Task, Refusal> {
        let task = new_task(function, qualifier, body, None, request_id)?;
        put_new(open, &task)?;
        Ok(task)
    }

    /// Has a task of [`Queue::put`] run.
    pub(crate) fn begin(&self, task: &Task) {
        self.has_been_put(task);
    }

    /// What is known of a function's invocations, the newest first.
    pub(crate) fn list(&self, function: &FunctionName) -> Result<Vec<Task>, Refusal> {
        let prefix = format!("{}/", function_key(function));
        let mut tasks: Vec<Task> = self.catalog.list(&prefix)?;
        tasks.sort_by_cached_key(|task| std::cmp::Reverse((task.enqueued, task.id.clone())));
        Ok(tasks)
    }

    /// What is known of one invocation.
    pub(crate) fn one(&self, function: &FunctionName, id: &str) -> Result<Value, Refusal> {
        let task: Option<Task> = self.catalog.get(&Task::key_of(function, id))?;
        task.as_ref().map(show).ok_or_else(|| missing(id))
    }

    /// Has an invocation that waits not run, and one that runs broken off.
    pub(crate) fn stop(&self, function: &FunctionName, id: &str) -> Result<(), Refusal> {
        let key = Task::key_of(function, id);
        self.catalog.change(|open| {
            let mut task: Task = open.get(&key)?.ok_or_else(|| missing(id))?;
            if task.status.is_over() {
                return Ok(());
            }
            if matches!(task.status, Status::Running | Status::Stopping) {
                task.status = Status::Stopping;
            } else {
                task.stopped();
            }
            Ok(open.put(&task)?)
        })?;
        if let Some(stop) = lock(&self.stops).get(&key) {
            stop.notify_one();
        }
        Ok(())
    }

    /// Runs what is due, as long as the host lives.
    pub(crate) async fn work(host: Arc<Host>) {
        let queue = Arc::clone(&host.queue);
        if let Err(error) = queue.load() {
            tracing::error!(%error, "the queue cannot be read");
        }
        let running = Arc::new(Semaphore::new(MAX_RUNNING));
        loop {
            let Ok(permit) = Arc::clone(&running).acquire_owned().await else {
                return;
            };
            let key = queue.next().await;
            if host.fleet.is_closing() {
                // The next host has it: it is in the catalog as one that waits.
                return;
            }
            let host = Arc::clone(&host);
            tokio::spawn(async move {
                if let Err(error) = run(&host, &key).await {
                    tracing::error!(%error, key, "an asynchronous invocation");
                }
                drop(permit);
            });
        }
    }

    /// Those of a host before: what ran then waits again.
    fn load(&self) -> Result<(), Refusal> {
        let tasks: Vec<Task> = self.catalog.list("")?;
        let open = tasks.iter().filter(|task| !task.status.is_over());
        open.for_each(|task| self.has_been_put(task));
        Ok(())
    }

    /// Forgets outcomes that are old by `now`.
    pub(crate) fn forget(&self, now: Timestamp) -> Result<(), Refusal> {
        let forgotten = now - SignedDuration::from_hours(REMEMBERED);
        let tasks: Vec<Task> = self.catalog.list("")?;
        let is_old = |task: &&Task| task.ended.is_some_and(|ended| ended < forgotten);
        for task in tasks.iter().filter(is_old) {
            let key = task.key();
            self.catalog.change(|open| Ok(open.remove::<Task>(&key)?))?;
        }
        Ok(())
    }

    /// The key of the next task that is due and whose function has room. It counts as running.
    async fn next(&self) -> String {
        loop {
            let now = Timestamp::now();
            let pause = match self.take(now) {
                Ok(key) => return key,
                Err(Some(due)) => due.duration_since(now).unsigned_abs(),
                Err(None) => Duration::from_secs(60),
            };
            let pause = tokio::time::sleep(pause.min(Duration::from_secs(60)));
            tokio::select! { () = self.wake.notified() => {}, () = pause => {} }
        }
    }

    fn take(&self, now: Timestamp) -> Result<String, Option<Timestamp>> {
        let mut waiting = lock(&self.waiting);
        let mut running = lock(&self.running);
        let has_room = |key: &str| {
            let used = running.get(&function_of(key)).copied().unwrap_or(0);
            used < MAX_OF_FUNCTION
        };
        let mut due = waiting.iter().take_while(|(due, _)| *due <= now);
        let Some(found) = due.find(|(_, key)| has_room(key)).cloned() else {
            let mut later = waiting.iter().filter(|(due, _)| *due > now);
            return Err(later.next().map(|(due, _)| *due));
        };
        waiting.remove(&found);
        *running.entry(function_of(&found.1)).or_default() += 1;
        Ok(found.1)
    }

    fn over(&self, key: &str) {
        let mut running = lock(&self.running);
        let function = function_of(key);
        if let Some(count) = running.get_mut(&function) {
            *count -= 1;
            if *count == 0 {
                running.remove(&function);
            }
        }
        drop(running);
        self.wake.notify_one();
    }
}

/// The function in a task's key.
fn function_of(key: &str) -> FunctionName {
    let mut parts = key.splitn(3, '/');
    let mut part = || parts.next().unwrap_or_default().to_owned();
    FunctionName {
        service: part(),
        function: part(),
    }
}

fn missing(id: &str) -> Refusal {
    let message = format!("invocation '{id}' does not exist");
    Refusal::missing("StatefulAsyncInvocationNotFound", message)
}

fn new_task(
    function: &FunctionName,
    qualifier: &str,
    body: &Bytes,
    id: Option<String>,
    request_id: &str,
) -> Result<Task, Refusal> {
    let now = Timestamp::now();
    let id = id.unwrap_or_else(|| request_id.to_owned());
    let fits = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
    if id.is_empty() || id.len() > 128 || !id.chars().all(fits) {
        return Err(Refusal::invalid(
            "an invocation's id has to have 1 to 128 letters, digits, _ and -",
        ));
    }
    Ok(Task {
        function: function.clone(),
        qualifier: qualifier.to_owned(),
        id,
        request_id: request_id.to_owned(),
        body: BASE64.encode(body),
        status: Status::Enqueued,
        attempts: 0,
        due: now,
        enqueued: now,
        ended: None,
        error: None,
    })
}

fn put_new(open: &Change, task: &Task) -> Result<(), Refusal> {
    if open.get::<Task>(&task.key())?.is_some() {
        let message = format!("there is an invocation '{}' already", task.id);
        return Err(Refusal::conflict(
            "StatefulAsyncInvocationAlreadyExists",
            message,
        ));
    }
    Ok(open.put(task)?)
}

pub(crate) fn show(task: &Task) -> Value {
    let time = |time: Timestamp| time.as_millisecond();
    json!({
        "invocationId": task.id,
        "taskId": task.id,
        "requestId": task.request_id,
        "serviceName": task.function.service,
        "functionName": task.function.function,
        "qualifier": task.qualifier,
        "status": task.status,
        "alreadyRetriedTimes": task.attempts,
        "startedTime": time(task.enqueued),
        "endTime": task.ended.map(time),
        "invocationErrorMessage": task.error,
    })
}
