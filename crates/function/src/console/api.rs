//! What the page asks.
//!
//! ```text
//! POST GET DELETE  session                 sign in; who is signed in, and the token; sign out
//! GET              events                  the list of functions, again whenever it changes
//! GET              functions               the list
//! GET              function?name=          all there is to know of one
//! GET              working-set?name=       its files, and how many bytes of each
//! GET              logs?name=&follow=      as the commands have it
//! POST             acceleration?name=&to=  likewise
//! ANY              VERSION/…               Function Compute's API: a session instead of a signature
//! ```

use std::future::Future;
use std::sync::Arc;

use bytes::Bytes;
use hyper::body::Incoming;
use hyper::header::{self, HeaderMap, HeaderValue};
use hyper::{Method, Request, Response};
use serde_json::{Value, json};
use tokio::sync::OwnedSemaphorePermit;

use super::events::{self, Events};
use super::sessions::Visitor;
use super::{gate, nothing_at};
use crate::api::Dialect;
use crate::error::Refusal;
use crate::fields::Fields;
use crate::host::Host;
use crate::http::{Body, until};
use crate::model::{Function, FunctionName};
use crate::query::Query;
use crate::server::{Peer, Stop, perform, read, receive, segments};

/// Bytes of a sign-in.
const MAX_SIGN_IN: usize = 4 << 10;
/// Files of a working set that are told.
const MAX_FILES: usize = 5000;

/// Answers a request for what is below `/console/api/`.
pub(super) async fn answer(
    host: &Arc<Host>,
    request: Request<Incoming>,
    below: &str,
    request_id: &str,
) -> Result<Response<Body>, Refusal> {
    let path = request.uri().path().to_owned();
    let nothing = || nothing_at(&path);
    let segments = segments(below).map_err(|_| nothing())?;
    let names: Vec<&str> = segments.iter().map(String::as_str).collect();
    let method = request.method().clone();
    if method == Method::POST && names == ["session"] {
        gate::check_origin(request.headers())?;
        return sign_in(host, request).await;
    }
    let visitor = gate::visitor(host, request.headers())?;
    match method {
        Method::GET | Method::HEAD => gate::check_reading(request.headers())?,
        _ => gate::check_change(request.headers(), &visitor)?,
    }
    let query = Query::parse(request.uri().query().unwrap_or_default());
    match (&method, names.as_slice()) {
        (&Method::GET, ["session"]) => crate::api::json(&facts(host, &visitor)),
        (&Method::DELETE, ["session"]) => Ok(sign_out(host, request.headers())),
        (&Method::GET, ["events"]) => {
            let room = host.console.events.room()?;
            let body = Events::follow(host);
            Ok(stream(
                body,
                "text/event-stream",
                end(&request, visitor, room),
            ))
        }
        (&Method::GET, ["functions"]) => {
            crate::api::json(&tokio::task::block_in_place(|| events::list(host))?)
        }
        (&Method::GET, ["function"]) => {
            crate::api::json(&tokio::task::block_in_place(|| function(host, &query))?)
        }
        (&Method::GET, ["working-set"]) => {
            crate::api::json(&tokio::task::block_in_place(|| working_set(host, &query))?)
        }
        (&Method::GET, ["logs"]) => {
            let end = end(&request, visitor, host.console.events.room()?);
            let logs = crate::admin::answer(host, request, &segments).await?;
            Ok(stream(logs.into_body(), "text/plain; charset=utf-8", end))
        }
        (&Method::POST, ["acceleration"]) => crate::admin::answer(host, request, &segments).await,
        (_, [version, rest @ ..]) if let Some(dialect) = Dialect::of(version) => {
            let rest: Vec<String> = rest.iter().map(|&it| it.to_owned()).collect();
            let request = receive(host, request, &rest).await?;
            perform(host, request, dialect, rest, Peer::Remote, request_id).await
        }
        _ => Err(nothing()),
    }
}

async fn sign_in(host: &Arc<Host>, request: Request<Incoming>) -> Result<Response<Body>, Refusal> {
    let (head, body) = request.into_parts();
    let body = read(host, body, MAX_SIGN_IN).await?;
    let body: Value = serde_json::from_slice(&body)
        .map_err(|error| Refusal::invalid(format!("the body is no JSON: {error}")))?;
    let required = |name| Fields::of(&body)?.required(name);
    let (id, secret) = (required("accessKeyId")?, required("accessKeySecret")?);
    let cookie = host.console.sessions.sign_in(host, id, secret).await?;
    let mut response = crate::api::json(&json!({}))?;
    if let Some(line) = gate::set_cookie(&head.headers, &cookie) {
        response.headers_mut().insert(header::SET_COOKIE, line);
    }
    Ok(response)
}

fn sign_out(host: &Host, headers: &HeaderMap) -> Response<Body> {
    if let Some(cookie) = gate::cookie(headers) {
        host.console.sessions.end(cookie);
    }
    let mut response = Response::new(crate::http::full(Bytes::from_static(b"{}")));
    if let Some(line) = gate::set_cookie(headers, "") {
        response.headers_mut().insert(header::SET_COOKIE, line);
    }
    response
}

/// What the page has to know before anything else.
fn facts(host: &Host, visitor: &Visitor) -> Value {
    json!({
        "key": visitor.key,
        "token": visitor.token,
        "region": host.place.region,
        "account": host.place.account,
    })
}

fn named(host: &Host, query: &Query) -> Result<Function, Refusal> {
    let name = query.get("name");
    let name = name.ok_or_else(|| Refusal::invalid("name is missing"))?;
    host.function(&FunctionName::parse(name), "")
}

/// The files that starts of a function read, the largest parts first.
fn working_set(host: &Host, query: &Query) -> Result<Value, Refusal> {
    let function = named(host, query)?;
    let Some(manifest) = function.config.container.digest else {
        return Ok(json!({ "files": [] }));
    };
    let profile = crate::acceleration::profile(&function.name);
    let files = host.fleet.machine.working_set(&manifest, &profile);
    let mut files: Vec<(String, u64)> = files.into_iter().collect();
    files.sort_by(|a, b| b.1.cmp(&a.1).then_with(|| a.0.cmp(&b.0)));
    files.truncate(MAX_FILES);
    let files = files.iter();
    let files = files.map(|(path, bytes)| json!({ "path": path, "bytes": bytes }));
    Ok(json!({ "files": files.collect::<Vec<Value>>() }))
}

/// All there is to know of a function, with its instances.
fn function(host: &Host, query: &Query) -> Result<Value, Refusal> {
    let function = named(host, query)?;
    let mut facts = crate::admin::facts(host, &function, true);
    facts["live"] = json!(live(host, &function));
    Ok(facts)
}

fn live(host: &Host, function: &Function) -> Vec<Value> {
    let pools = host.fleet.all().into_iter();
    let mine = pools.filter(|pool| pool.target.id == function.id);
    let instances = mine.flat_map(|pool| pool.instances());
    let facts = instances.map(|it| {
        json!({
            "id": it.id,
            "version": it.target.version,
            "current": it.target.number == function.number,
            "how": it.started.way.how.to_string(),
            "why": it.started.way.why,
            "answered": it.answered(),
            "peakMemory": it.peak_memory(),
        })
    });
    facts.collect()
}

/// When what a visitor follows is over: the session has ended, or the host does.
fn end<B>(
    request: &Request<B>,
    visitor: Visitor,
    room: OwnedSemaphorePermit,
) -> impl Future<Output = ()> + Send + 'static {
    let stop = request.extensions().get::<Stop>().cloned();
    async move {
        let _room = room;
        let stopped = async {
            match stop {
                Some(mut stop) => stop.wait().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! { () = visitor.ended() => {}, () = stopped => {} }
    }
}

fn stream(
    body: Body,
    kind: &'static str,
    end: impl Future<Output = ()> + Send + 'static,
) -> Response<Body> {
    let mut response = Response::new(until(end, body));
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
    // For proxies that would collect it first.
    headers.insert("x-accel-buffering", HeaderValue::from_static("no"));
    response
}
