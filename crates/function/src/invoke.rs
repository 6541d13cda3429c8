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
use hyper::{Method, Request, Response, StatusCode};
use jiff::Timestamp;
use serde_json::{Value, json};
use tokio::task::JoinHandle;
use tokio::time::Instant;

use crate::api::{Call, Invocation as Wanted};
use crate::client::Sent;
use crate::contract::{Purpose, strip, tell};
use crate::error::Refusal;
use crate::flow::Flow;
use crate::host::Host;
use crate::http::{Body, collect, full};
use crate::instance::{Instance, SendError, describe, full_disk};
use crate::logs::Tail;
use crate::model::Target;
use crate::pool::Lease;
use crate::stats::Invocation;

mod job;

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

/// Hands an HTTP request to a function; the answer flows.
///
/// # Errors
/// [`Refusal`] where the host itself cannot.
pub(crate) async fn http<B>(
    host: &Arc<Host>,
    target: &Arc<Target>,
    request: Request<B>,
    request_id: &str,
) -> Result<Response<Body>, Refusal>
where
    B: hyper::body::Body<Data = Bytes> + Send + Sync + 'static,
    B::Error: Into<crate::http::BodyError>,
{
    use http_body_util::BodyExt as _;
    if !target.config.container.is_server() {
        return Err(job::no_server(target));
    }
    let begin = Instant::now();
    host.acceleration.invoked(&target.name);
    let mut upgrade = Upgrade::wanted(&request);
    let (mut head, body) = request.into_parts();
    let client = upgrade
        .is_some()
        .then(|| head.extensions.remove::<hyper::upgrade::OnUpgrade>());
    // One that can be asked twice is, where the first instance does not answer.
    let mut again = matches!(
        head.method,
        Method::GET | Method::HEAD | Method::OPTIONS | Method::TRACE
    ) && body.is_end_stream()
        && upgrade.is_none();
    tell(
        &mut head.headers,
        target,
        &host.place,
        request_id,
        Purpose::Http,
    );
    if let Some(crate::proxy::BasePath(base)) = head.extensions.remove() {
        head.headers.insert("x-fc-base-path", base);
    }
    if let Some(upgrade) = &upgrade {
        upgrade.put(&mut head.headers);
    }
    if !body.is_end_stream() && !head.headers.contains_key(header::CONTENT_LENGTH) {
        // Else one of GET would be left out.
        let chunked = HeaderValue::from_static("chunked");
        head.headers.insert(header::TRANSFER_ENCODING, chunked);
    }
    let patience = Duration::from_secs(target.config.timeout.into());
    let (body, sending) = Sent::new(body, MAX_EVENT);
    let mut body = Some(body.boxed());
    loop {
        let mut lease = room(host, target).await?;
        let (instance, cold) = (Arc::clone(&lease.instance), lease.cold);
        let mut request = Request::new(body.take().unwrap_or_else(|| full("")));
        *request.method_mut() = head.method.clone();
        *request.uri_mut() = head.uri.clone();
        *request.headers_mut() = head.headers.clone();
        let answer = match instance.send(request, patience).await {
            Ok(answer) => answer,
            Err(SendError::Unsent(_) | SendError::Broken(_)) if again => {
                again = false;
                lease.condemn();
                continue;
            }
            Err(error) => {
                if let Some(fault) = sending.fault() {
                    return Err(fault);
                }
                lease.condemn();
                let message = explain(&instance, &error).await;
                count(
                    host,
                    target,
                    request_id,
                    cold,
                    begin.elapsed(),
                    Some(message.clone()),
                );
                return Ok(function_error(&message));
            }
        };
        let mut response = answer.response;
        let failed = function_status(response.headers()).is_some_and(|status| status >= 400);
        let is_bad = failed || response.status().is_server_error();
        let disk = (is_bad && instance.disk_is_full()).then(|| full_disk(target));
        let failed = disk.or(failed.then(|| "UnhandledInvocationError".to_owned()));
        if response.status() == StatusCode::SWITCHING_PROTOCOLS {
            let server = hyper::upgrade::on(&mut response);
            if let (Some(upgrade), Some(Some(client))) = (upgrade.take(), client) {
                strip(response.headers_mut());
                upgrade.put(response.headers_mut());
                tokio::spawn(join(client, server, begin + patience, lease));
                return Ok(response.map(|_| full("")));
            }
            lease.condemn();
            return Ok(function_error("the function switched protocols unasked"));
        }
        let counted = (Arc::clone(host), Arc::clone(target), request_id.to_owned());
        let over = move |error: Option<String>| {
            let (host, target, id) = counted;
            count(&host, &target, &id, cold, begin.elapsed(), error.or(failed));
        };
        drop(note_missed(host, &lease));
        let (mut head, body) = response.into_parts();
        strip(&mut head.headers);
        let flow = Flow::new(body, begin + patience, answer.sender, lease, Box::new(over));
        return Ok(Response::from_parts(head, flow.boxed()));
    }
}

/// The answer where the function is at fault.
fn function_error(message: &str) -> Response<Body> {
    let body = json!({
        "errorMessage": message,
        "errorType": "UnhandledInvocationError",
        "ErrorCode": "UnhandledInvocationError",
        "ErrorMessage": message,
    });
    let mut response = Response::new(full(Bytes::from(body.to_string())));
    *response.status_mut() = StatusCode::BAD_GATEWAY;
    let headers = response.headers_mut();
    headers.insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static("application/json"),
    );
    let kind = HeaderValue::from_static("UnhandledInvocationError");
    headers.insert("x-fc-error-type", kind);
    response
}

/// Another protocol that a client wants to speak (RFC 9110, section 7.8).
struct Upgrade(HeaderValue);

impl Upgrade {
    fn wanted<B>(request: &Request<B>) -> Option<Self> {
        let headers = request.headers();
        let connection = headers.get(header::CONNECTION)?.to_str().ok()?;
        let mut words = connection.split(',').map(str::trim);
        let asked = words.any(|word| word.eq_ignore_ascii_case("upgrade"));
        headers
            .get(header::UPGRADE)
            .filter(|_| asked)
            .cloned()
            .map(Self)
    }

    fn put(&self, headers: &mut HeaderMap) {
        headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
        headers.insert(header::UPGRADE, self.0.clone());
    }
}

/// Carries bytes both ways until one side ends, or the function's time is over.
async fn join(
    client: hyper::upgrade::OnUpgrade,
    server: hyper::upgrade::OnUpgrade,
    deadline: Instant,
    lease: Lease,
) {
    let carried = async {
        let (client, server) = tokio::try_join!(client, server)?;
        let mut client = hyper_util::rt::TokioIo::new(client);
        let mut server = hyper_util::rt::TokioIo::new(server);
        let copied = tokio::io::copy_bidirectional(&mut client, &mut server).await;
        Ok::<_, hyper::Error>(copied.is_ok())
    };
    if let Ok(Err(error)) = tokio::time::timeout_at(deadline, carried).await {
        tracing::debug!(%error, "a connection was not switched");
    }
    drop(lease);
}
