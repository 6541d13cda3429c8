//! Invocations: an event for `/invoke`, or a request as it came; errors of the function told from
//! those of the host.
//!
//! An event's answer is read whole, for its headers say how long it took and what was printed. An HTTP
//! request's answer flows.

use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use bytes::Bytes;
use hyper::header::{self, HeaderMap, HeaderValue};
use hyper::{Method, Request, Response};
use jiff::Timestamp;
use serde_json::{Value, json};
use tokio::task::JoinHandle;
use tokio::time::Instant;

use crate::api::{Call, Invocation as Wanted};
use crate::contract::{Purpose, tell};
use crate::error::Refusal;
use crate::host::Host;
use crate::http::{Body, collect, full};
use crate::instance::{Instance, SendError, describe, full_disk};
use crate::logs::Tail;
use crate::model::Target;
use crate::pool::Lease;
use crate::stats::Invocation;

mod http;
mod job;

pub(crate) use http::http;

/// Bytes of an event that is answered at once, and of an answer.
pub(crate) const MAX_EVENT: usize = 32 << 20;
/// Bytes of an event that is queued.
pub(crate) const MAX_ASYNC_EVENT: usize = 128 << 10;
/// For how long what an instance prints may take to be in its log.
const LOG_PATIENCE: Duration = Duration::from_millis(100);
/// The same where it is known that more comes.
const MARK_PATIENCE: Duration = Duration::from_secs(2);
/// How often is looked.
const LOG_POLL: Duration = Duration::from_millis(5);

/// What the container says of its success in a header.
pub(crate) fn function_status(headers: &HeaderMap) -> Option<u16> {
    headers.get("x-fc-status")?.to_str().ok()?.parse().ok()
}

/// The answer to an event.
#[derive(Debug)]
pub(crate) struct Answered {
    pub(crate) body: Bytes,
    content_type: Option<HeaderValue>,
    /// `UnhandledInvocationError` and its kin.
    pub(crate) error: Option<&'static str>,
    took: Duration,
    peak_memory: Option<u64>,
    log: Option<Vec<u8>>,
    /// Where that is to be read.
    tail: Option<Tail>,
}

impl Answered {
    /// A success that says nothing.
    fn empty() -> Self {
        Self {
            body: Bytes::new(),
            content_type: None,
            error: None,
            took: Duration::ZERO,
            peak_memory: None,
            log: None,
            tail: None,
        }
    }

    fn failed(kind: &'static str, message: &str) -> Self {
        Self {
            body: Bytes::from(json!({ "errorMessage": message, "errorType": kind }).to_string()),
            content_type: Some(HeaderValue::from_static("application/json")),
            error: Some(kind),
            ..Self::empty()
        }
    }
}

/// An invocation by the API.
pub(crate) async fn by_api(
    host: &Arc<Host>,
    call: Call,
    wanted: Wanted,
) -> Result<Response<Body>, Refusal> {
    let target = host.target(&wanted.name, &wanted.qualifier)?;
    let header = |name: &str| call.headers.get(name).and_then(|value| value.to_str().ok());
    match header("x-fc-invocation-type").unwrap_or("Sync") {
        kind if kind.eq_ignore_ascii_case("sync") => {}
        kind if kind.eq_ignore_ascii_case("async") => {
            if call.body.len() > MAX_ASYNC_EVENT {
                let message =
                    format!("an event that is queued has at most {MAX_ASYNC_EVENT} bytes");
                return Err(Refusal::invalid(message));
            }
            let id = header("x-fc-stateful-async-invocation-id");
            let id = id
                .or_else(|| header("x-fc-async-task-id"))
                .map(str::to_owned);
            return host.enqueue(
                &wanted.name,
                &wanted.qualifier,
                call.body,
                id,
                &call.request_id,
            );
        }
        kind => {
            let message = format!("X-Fc-Invocation-Type {kind:?} has to be Sync or Async");
            return Err(Refusal::invalid(message));
        }
    }
    let with_log = header("x-fc-log-type").is_some_and(|kind| kind.eq_ignore_ascii_case("tail"));
    // It goes on when the caller does not wait for it: an instance that works is not to be frozen.
    let (host, id) = (Arc::clone(host), call.request_id);
    let invocation = {
        let target = Arc::clone(&target);
        async move { event(&host, &target, call.body, &id, with_log).await }
    };
    let answered = tokio::spawn(invocation).await;
    let answered = answered.map_err(|error| Refusal::internal(error.to_string()))?;
    Ok(to_response(&target, answered?))
}

fn to_response(target: &Target, answered: Answered) -> Response<Body> {
    let mut response = Response::new(full(answered.body));
    let headers = response.headers_mut();
    let mut put = |name: &'static str, value: &str| {
        if let Ok(value) = HeaderValue::from_str(value) {
            headers.insert(name, value);
        }
    };
    put(
        "x-fc-invocation-duration",
        &answered.took.as_millis().to_string(),
    );
    put("x-fc-invocation-service-version", &target.version);
    put("x-fc-code-checksum", &target.config.container.checksum());
    if let Some(bytes) = answered.peak_memory {
        let mebibytes = bytes as f64 / f64::from(1 << 20);
        put("x-fc-max-memory-usage", &format!("{mebibytes:.2}"));
    }
    if let Some(error) = answered.error {
        put("x-fc-error-type", error);
    }
    if let Some(log) = answered.log {
        put("x-fc-log-result", &BASE64.encode(log));
    }
    let kind = answered.content_type;
    let kind = kind.unwrap_or(HeaderValue::from_static("application/octet-stream"));
    headers.insert(header::CONTENT_TYPE, kind);
    response
}

/// Hands an event to a function.
///
/// # Errors
/// [`Refusal`] where the host itself cannot: what is the function's fault is an answer.
pub(crate) async fn event(
    host: &Arc<Host>,
    target: &Arc<Target>,
    body: Bytes,
    request_id: &str,
    with_log: bool,
) -> Result<Answered, Refusal> {
    let begin = Instant::now();
    host.acceleration.invoked(&target.name);
    let mut cold = false;
    let mut outcome = try_event(host, target, body, request_id, with_log, &mut cold).await;
    let error = match &outcome {
        Ok(answered) => answered.error.map(|kind| {
            let text: String = String::from_utf8_lossy(&answered.body)
                .chars()
                .take(300)
                .collect();
            format!("{kind}: {text}")
        }),
        Err(refusal) => Some(refusal.message.clone()),
    };
    count(host, target, request_id, cold, begin.elapsed(), error);
    if let Ok(answered) = &mut outcome
        && let Some(tail) = answered.tail.take()
    {
        answered.log = Some(printed(&tail, request_id).await);
    }
    outcome
}

fn count(
    host: &Host,
    target: &Target,
    request_id: &str,
    cold: bool,
    took: Duration,
    error: Option<String>,
) {
    let invocation = Invocation {
        at: Timestamp::now(),
        request_id: request_id.to_owned(),
        cold,
        accelerated: host.acceleration.is_ready(target),
        took: took.as_secs_f64() * 1000.0,
        error,
    };
    host.stats
        .invocation(&target.name, target.config.memory, invocation);
}

async fn try_event(
    host: &Arc<Host>,
    target: &Arc<Target>,
    body: Bytes,
    request_id: &str,
    with_log: bool,
    cold: &mut bool,
) -> Result<Answered, Refusal> {
    if !target.config.container.is_server() {
        return job::run(host, target, &body, request_id, with_log, cold).await;
    }
    let mut lease = match room(host, target).await {
        Ok(lease) => lease,
        Err(refusal) if refusal.code == "InitializationError" => {
            return Ok(Answered::failed("InitializationError", &refusal.message));
        }
        Err(refusal) => return Err(refusal),
    };
    *cold = lease.cold;
    let instance = Arc::clone(&lease.instance);
    let tail = with_log.then(|| instance.tail());
    let mut request = Request::new(full(body));
    *request.method_mut() = Method::POST;
    *request.uri_mut() = hyper::Uri::from_static("/invoke");
    let headers = request.headers_mut();
    let kind = HeaderValue::from_static("application/octet-stream");
    headers.insert(header::CONTENT_TYPE, kind);
    tell(headers, target, &host.place, request_id, Purpose::Event);
    let patience = Duration::from_secs(target.config.timeout.into());
    let begin = Instant::now();
    // Where the invocation is broken off, the program goes on with it: nobody else is to meet that.
    lease.condemn();
    let mut answered = match converse(&instance, request, patience).await {
        Ok(answered) => {
            lease.spare();
            answered
        }
        Err(error) => {
            let message = explain(&instance, &error).await;
            Answered::failed("UnhandledInvocationError", &message)
        }
    };
    answered.took = begin.elapsed();
    answered.peak_memory = instance.peak_memory();
    drop(note_missed(host, &lease));
    drop(lease);
    answered.tail = tail;
    Ok(answered)
}

/// What an invocation has printed. It comes by a pipe, and by the process that keeps the log: where the
/// function marks the end, that is waited for.
async fn printed(tail: &Tail, request_id: &str) -> Vec<u8> {
    let begin = Instant::now();
    loop {
        tokio::time::sleep(LOG_POLL).await;
        let found = tail.read(request_id);
        let patience = if found.marked {
            MARK_PATIENCE
        } else {
            LOG_PATIENCE
        };
        if found.whole || begin.elapsed() >= patience {
            return found.log;
        }
    }
}

/// Notes what an instance that was started for a request had to wait for up to its answer.
fn note_missed(host: &Arc<Host>, lease: &Lease) -> Option<JoinHandle<()>> {
    let instance = &lease.instance;
    if !lease.cold || instance.started.way.how != thaw_node::How::Lazy {
        return None;
    }
    let (host, id) = (Arc::clone(host), instance.id.clone());
    let name = instance.target.name.clone();
    Some(tokio::task::spawn_blocking(move || {
        let missed = host.fleet.machine.missed(&id);
        tracing::debug!(function = %name, ?missed, "up to its first answer");
        if let Err(error) = host.acceleration.note_missed(&name, missed) {
            tracing::warn!(function = %name, %error, "what it missed is not noted");
        }
    }))
}

/// An instance that is awake.
async fn room(host: &Arc<Host>, target: &Arc<Target>) -> Result<Lease, Refusal> {
    loop {
        let mut lease = host.fleet.pool(target).acquire().await?;
        match lease.instance.wake().await {
            Ok(_) => return Ok(lease),
            Err(error) => {
                tracing::warn!(container = lease.instance.id, %error, "it does not wake up");
                lease.condemn();
            }
        }
    }
}

/// A request and all of its answer.
async fn converse(
    instance: &Instance,
    request: Request<Body>,
    patience: Duration,
) -> Result<Answered, SendError> {
    let deadline = Instant::now() + patience;
    let answer = instance.send(request, patience).await?;
    let (head, body) = answer.response.into_parts();
    let read = tokio::time::timeout_at(deadline, collect(body, MAX_EVENT)).await;
    let body = match read {
        Ok(Ok(body)) => body,
        Ok(Err(refusal)) => return Err(SendError::Broken(refusal.message)),
        Err(_) => return Err(SendError::TimedOut(patience)),
    };
    instance.keep(answer.sender);
    let status = function_status(&head.headers).unwrap_or(head.status.as_u16());
    let mut answered = Answered {
        content_type: head.headers.get(header::CONTENT_TYPE).cloned(),
        body,
        ..Answered::empty()
    };
    if status >= 400 {
        answered.error = Some("UnhandledInvocationError");
        let full = instance.disk_is_full().then(|| full_disk(&instance.target));
        if let Some(body) = error_body(&answered.body, full.as_deref()) {
            answered.body = body;
        }
    }
    Ok(answered)
}

/// The body of a function's own error, where it has to be another than the function's: one that is no
/// object, or does not say that the disk is full.
fn error_body(body: &Bytes, full: Option<&str>) -> Option<Bytes> {
    let object = serde_json::from_slice::<serde_json::Map<String, Value>>(body);
    let is_object = object.is_ok();
    let mut object = object.unwrap_or_else(|_| {
        let text = String::from_utf8_lossy(body).into_owned();
        [("errorMessage".to_owned(), json!(text))]
            .into_iter()
            .collect()
    });
    if let Some(full) = full {
        let said = object.get("errorMessage").and_then(Value::as_str);
        let said = said.map_or_else(|| full.to_owned(), |said| format!("{said}; {full}"));
        object.insert("errorMessage".to_owned(), json!(said));
    }
    (!is_object || full.is_some()).then(|| Bytes::from(Value::Object(object).to_string()))
}

/// Why a request got no answer, in words: what happened to its container says more than the connection.
async fn explain(instance: &Arc<Instance>, error: &SendError) -> String {
    if let SendError::TimedOut(patience) = error {
        return timed_out(*patience);
    }
    if instance.ran_out_of_memory() {
        let memory = instance.target.config.memory;
        return format!(
            "a process ran out of memory: the instance may have {memory} MiB (memorySize)"
        );
    }
    // Its end is written down a moment after its connections break.
    let ended = tokio::time::timeout(Duration::from_secs(2), instance.wait()).await;
    match ended {
        Ok(Some(end)) => {
            let log = crate::logs::last_lines(&instance.started.dir, 5);
            format!("{}{log}", describe(&end, &instance.target))
        }
        _ => error.to_string(),
    }
}

fn timed_out(patience: Duration) -> String {
    let seconds = patience.as_secs();
    format!("Function timed out after {seconds} seconds (timeout)")
}
