//! An invocation of the queue that runs: handed over, and what comes of it.

use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use bytes::Bytes;
use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};
use tokio::sync::Notify;

use super::{Queue, Status, Task, lock};
use crate::catalog::function_key;
use crate::error::Refusal;
use crate::host::Host;
use crate::model::{AsyncConfig, LATEST};

/// Pause before the first retry, in seconds; it doubles with each further one.
const FIRST_PAUSE: i64 = 1;
/// Longest pause.
const MAX_PAUSE: i64 = 300;

/// Runs a task once, and writes down what came of it.
pub(super) async fn run(host: &Arc<Host>, key: &str) -> Result<(), Refusal> {
    let stop = Arc::new(Notify::new());
    lock(&host.queue.stops).insert(key.to_owned(), Arc::clone(&stop));
    let outcome = tokio::select! {
        outcome = attempt(host, key) => outcome,
        () = stop.notified() => Ok(None),
    };
    lock(&host.queue.stops).remove(key);
    host.queue.over(key);
    let done = match outcome? {
        Some(done) if !is_stopping(host, key)? => done,
        _ => return tokio::task::block_in_place(|| settle_stopped(host, key)),
    };
    conclude(host, done)
}

fn is_stopping(host: &Host, key: &str) -> Result<bool, Refusal> {
    let task: Option<Task> = host.catalog.get(key)?;
    Ok(task.is_none_or(|task| task.status == Status::Stopping))
}

/// Ends what was to be stopped.
fn settle_stopped(host: &Host, key: &str) -> Result<(), Refusal> {
    host.catalog.change(|open| {
        let task: Option<Task> = open.get(key)?;
        if let Some(mut task) = task.filter(|task| task.status == Status::Stopping) {
            task.stopped();
            open.put(&task)?;
        }
        Ok(())
    })
}

/// Writes down what came of an attempt: the task is over, or it is tried again.
fn conclude(
    host: &Host,
    (mut task, outcome): (Task, Result<Bytes, String>),
) -> Result<(), Refusal> {
    let config = config(host, &task)?;
    let now = Timestamp::now();
    match &outcome {
        Ok(_) => task.status = Status::Succeeded,
        Err(error) => {
            task.attempts += 1;
            task.error = Some(error.clone());
            let expired = is_expired(&task, &config, now);
            task.status = match (expired, task.attempts > config.retries) {
                (true, _) => Status::Expired,
                (_, true) => Status::Failed,
                _ => Status::Retrying,
            };
        }
    }
    if task.status == Status::Retrying {
        let doubled = FIRST_PAUSE << (task.attempts - 1).min(12);
        task.due = now + SignedDuration::from_secs(doubled.min(MAX_PAUSE));
        tokio::task::block_in_place(|| host.catalog.put(&task))?;
        host.queue.has_been_put(&task);
        return Ok(());
    }
    task.ended = Some(now);
    let destination = match task.status {
        Status::Succeeded => &config.on_success,
        _ => &config.on_failure,
    };
    let next = crate::destination::parse(destination);
    let message = Bytes::from(result(&task, &outcome).to_string());
    task.body = String::new();
    let follower = tokio::task::block_in_place(|| {
        host.catalog.change(|open| {
            open.put(&task)?;
            let Some((function, qualifier)) = &next else {
                return Ok(None);
            };
            let id = crate::unique::id();
            Queue::put(open, function, qualifier, &message, &id).map(Some)
        })
    })?;
    if let Some(follower) = follower {
        host.queue.begin(&follower);
    }
    Ok(())
}

/// What a destination is told.
fn result(task: &Task, outcome: &Result<Bytes, String>) -> Value {
    let answer = match outcome {
        Ok(body) => String::from_utf8_lossy(body).into_owned(),
        Err(error) => error.clone(),
    };
    let body = BASE64.decode(&task.body).unwrap_or_default();
    json!({
        "timestamp": Timestamp::now().as_millisecond(),
        "requestContext": {
            "requestId": task.request_id,
            "functionArn": format!("acs:fc:::services/{}.{}/functions/{}",
                task.function.service, task.qualifier, task.function.function),
            "condition": match task.status {
                Status::Succeeded => "",
                Status::Expired => "EventAgeExceeded",
                _ => "RetriesExhausted",
            },
            "approximateInvokeCount": task.attempts + u32::from(outcome.is_ok()),
        },
        "requestPayload": String::from_utf8_lossy(&body),
        "responseContext": {
            "statusCode": 200,
            "functionError": if outcome.is_ok() { "" } else { "UnhandledInvocationError" },
        },
        "responsePayload": answer,
    })
}

/// `None` where there is nothing to be done any more.
async fn attempt(
    host: &Arc<Host>,
    key: &str,
) -> Result<Option<(Task, Result<Bytes, String>)>, Refusal> {
    let task = tokio::task::block_in_place(|| {
        host.catalog.change(|open| {
            let task: Option<Task> = open.get(key)?;
            let is_wanted = |task: &Task| !task.status.is_over() && task.status != Status::Stopping;
            let Some(mut task) = task.filter(is_wanted) else {
                return Ok(None);
            };
            task.status = Status::Running;
            open.put(&task)?;
            Ok(Some(task))
        })
    })?;
    let Some(task) = task else {
        return Ok(None);
    };
    if is_expired(&task, &config(host, &task)?, Timestamp::now()) {
        let error = "it has waited for longer than its maximum age";
        return Ok(Some((task, Err(error.to_owned()))));
    }
    let body = Bytes::from(BASE64.decode(&task.body).unwrap_or_default());
    let outcome = match host.target(&task.function, &task.qualifier) {
        Err(refusal) => Err(refusal),
        Ok(target) => crate::invoke::event(host, &target, body, &task.request_id, false).await,
    };
    let outcome = match outcome {
        Ok(answered) if answered.error.is_none() => Ok(answered.body),
        Ok(answered) => Err(String::from_utf8_lossy(&answered.body).into_owned()),
        Err(refusal) => Err(refusal.message),
    };
    Ok(Some((task, outcome)))
}

/// Whether an invocation is older than it may become.
fn is_expired(task: &Task, config: &AsyncConfig, now: Timestamp) -> bool {
    now.duration_since(task.enqueued).as_secs() >= i64::from(config.max_age)
}

fn config(host: &Host, task: &Task) -> Result<AsyncConfig, Refusal> {
    let qualifier = if task.qualifier == LATEST {
        ""
    } else {
        &task.qualifier
    };
    let key = format!("{}/{qualifier}", function_key(&task.function));
    let config: Option<AsyncConfig> = host.catalog.get(&key)?;
    let plain = || AsyncConfig::plain(&task.function, &task.qualifier, task.enqueued);
    Ok(config.unwrap_or_else(plain))
}
