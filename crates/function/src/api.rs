//! Function Compute's API: three versions of it over one model.
//!
//! ```text
//! METHOD /2016-08-15/services/demo/functions/web?…   ─┬→ segments → one operation → JSON
//! METHOD /2021-04-06/services/demo/functions/web?…   ─┤   (Dialect: how names, versions and
//! METHOD /2023-03-30/functions/web?…                 ─┘    triggers are written)
//! ```
//!
//! An operation reads [`Fields`] of the body and changes the catalog. What the documentation leaves
//! open is as lenient as the clients need it.

mod aliases;
mod domains;
mod everywhere;
pub(crate) mod function;
mod functions;
mod limits;
mod list;
mod services;
mod tags;
mod tasks;
mod triggers;
mod versions;

use std::sync::Arc;

use bytes::Bytes;
use hyper::header::{self, HeaderMap, HeaderValue};
use hyper::{Method, Response, StatusCode};
use serde_json::Value;

use crate::contract::Place;
use crate::error::Refusal;
use crate::fields::Fields;
use crate::host::Host;
use crate::http::{Body, full};
use crate::model::FunctionName;
use crate::query::Query;

/// Warnings of an answer, and characters of one.
const MAX_WARNINGS: usize = 20;
const MAX_WARNING: usize = 200;

/// A version of the API.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Dialect {
    V2016,
    V2021,
    V2023,
}

impl Dialect {
    /// By the first segment of a path.
    pub(crate) fn of(segment: &str) -> Option<Self> {
        match segment {
            "2016-08-15" => Some(Self::V2016),
            "2021-04-06" => Some(Self::V2021),
            "2023-03-30" => Some(Self::V2023),
            _ => None,
        }
    }
}

/// A request of the API, of a caller who may.
#[derive(Debug)]
pub(crate) struct Call {
    pub(crate) dialect: Dialect,
    pub(crate) method: Method,
    /// Of the path, decoded, without the version.
    pub(crate) segments: Vec<String>,
    pub(crate) query: Query,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
    pub(crate) request_id: String,
    /// How the caller reached the host: `http://HOST:PORT`.
    pub(crate) origin: String,
    pub(crate) place: Arc<Place>,
}

impl Call {
    /// The body as JSON; an empty one is an empty object.
    pub(crate) fn json(&self) -> Result<Value, Refusal> {
        if self.body.is_empty() {
            return Ok(Value::Object(serde_json::Map::new()));
        }
        serde_json::from_slice(&self.body)
            .map_err(|error| Refusal::invalid(format!("the body is no JSON: {error}")))
    }

    /// Whether the resource is still what the caller thinks it is.
    fn expect(&self, now: &Value) -> Result<(), Refusal> {
        let Some(wanted) = self.headers.get(header::IF_MATCH) else {
            return Ok(());
        };
        let wanted = wanted.to_str().unwrap_or_default();
        let tag = etag(now);
        let mut all = wanted.split(',').map(|it| it.trim().trim_matches('"'));
        if wanted.is_empty() || wanted == "*" || all.any(|it| it == tag) {
            return Ok(());
        }
        let message = "the resource has been changed since: read it again (If-Match)";
        let status = StatusCode::PRECONDITION_FAILED;
        Err(Refusal::new(status, "PreconditionFailed", message))
    }
}

/// Carries a call out.
pub(crate) async fn answer(host: &Arc<Host>, call: Call) -> Result<Response<Body>, Refusal> {
    if let Some(invocation) = invocation(&call)? {
        return crate::invoke::by_api(host, call, invocation).await;
    }
    // Changes wait for the disk.
    tokio::task::block_in_place(|| operate(host, &call))
}

/// The function that a call invokes, and its version.
pub(crate) struct Invocation {
    pub(crate) name: FunctionName,
    pub(crate) qualifier: String,
}

fn invocation(call: &Call) -> Result<Option<Invocation>, Refusal> {
    let segments: Vec<&str> = call.segments.iter().map(String::as_str).collect();
    let (name, qualifier) = match (call.dialect, segments.as_slice()) {
        (Dialect::V2023, ["functions", function, "invocations"]) => (flat_name(function), ""),
        (Dialect::V2023, _) => return Ok(None),
        (_, ["services", service, "functions", function, "invocations"]) => {
            let (service, qualifier) = split_qualifier(service);
            (full_name(service, function), qualifier)
        }
        _ => return Ok(None),
    };
    if call.method != Method::POST {
        return Err(not_supported(call));
    }
    let qualifier = call.query.get("qualifier").unwrap_or(qualifier);
    Ok(Some(Invocation {
        name,
        qualifier: qualifier.to_owned(),
    }))
}

fn operate(host: &Host, call: &Call) -> Result<Response<Body>, Refusal> {
    let segments: Vec<&str> = call.segments.iter().map(String::as_str).collect();
    match (call.dialect, segments.as_slice()) {
        (Dialect::V2023, ["functions", rest @ ..]) => match rest {
            [] => functions::all(host, call, ""),
            [function, rest @ ..] => of_function(host, call, &flat_name(function), "", rest),
        },
        (_, ["custom-domains", rest @ ..]) => domains::operate(host, call, rest),
        (Dialect::V2023, ["tags-v2"]) => tags::several(host, call),
        (Dialect::V2023, [all]) if call.method == Method::GET => match *all {
            "provision-configs" => everywhere::least(host, call, "provisionConfigs"),
            "scaling-configs" => everywhere::least(host, call, "scalingConfigs"),
            "concurrency-configs" => everywhere::most(host, call),
            "async-invoke-configs" => everywhere::async_configs(host, call, None),
            _ => Err(not_supported(call)),
        },
        (Dialect::V2023, _) => Err(not_supported(call)),
        (_, ["services", rest @ ..]) => of_services(host, call, rest),
        (_, ["tag"]) => tags::one(host, call),
        (_, [all]) if call.method == Method::GET => match *all {
            "account-settings" => json(&serde_json::json!({ "availableAZs": [] })),
            "tags" => tags::tagged(host, call),
            "provision-configs" => everywhere::least(host, call, "provisionConfigs"),
            "on-demand-configs" => everywhere::most(host, call),
            "stateful-async-invocation-functions" => everywhere::stateful(host, call),
            _ => Err(not_supported(call)),
        },
        _ => Err(not_supported(call)),
    }
}

fn of_services(host: &Host, call: &Call, segments: &[&str]) -> Result<Response<Body>, Refusal> {
    match segments {
        [] => services::all(host, call),
        [service] => services::one(host, call, service),
        [service, "versions", rest @ ..] => versions::operate(
            host,
            call,
            &crate::model::Owner::Service((*service).to_owned()),
            rest,
        ),
        [service, "aliases", rest @ ..] => aliases::operate(
            host,
            call,
            &crate::model::Owner::Service((*service).to_owned()),
            rest,
        ),
        [service, "functions"] => functions::all(host, call, split_qualifier(service).0),
        [service, "functions", function, rest @ ..] => {
            let (service, qualifier) = split_qualifier(service);
            of_function(host, call, &full_name(service, function), qualifier, rest)
        }
        _ => Err(not_supported(call)),
    }
}

fn of_function(
    host: &Host,
    call: &Call,
    name: &FunctionName,
    qualifier: &str,
    segments: &[&str],
) -> Result<Response<Body>, Refusal> {
    let qualifier = call.query.get("qualifier").unwrap_or(qualifier);
    let owner = || crate::model::Owner::of(name);
    match segments {
        [] => functions::one(host, call, name, qualifier),
        ["code"] => functions::code(call),
        ["triggers", rest @ ..] => triggers::operate(host, call, name, rest),
        ["versions", rest @ ..] => versions::operate(host, call, &owner(), rest),
        ["aliases", rest @ ..] => aliases::operate(host, call, &owner(), rest),
        ["async-invoke-config"] => limits::async_config(host, call, name, qualifier),
        ["async-invoke-configs"] if call.method == Method::GET => {
            everywhere::async_configs(host, call, Some(name))
        }
        ["stateful-async-invocations" | "async-tasks", rest @ ..] => {
            tasks::operate(host, call, name, rest)
        }
        ["invoke", to] => functions::restrict(host, call, name, to),
        ["instances"] => functions::instances(host, call, name, qualifier),
        ["on-demand-config" | "concurrency"] => limits::most(host, call, name, qualifier),
        ["provision-config" | "scaling-config"] => limits::least(host, call, name, qualifier),
        _ => Err(not_supported(call)),
    }
}

/// `SERVICE` or `SERVICE.QUALIFIER`, as the API of 2016 has it.
pub(crate) fn split_qualifier(service: &str) -> (&str, &str) {
    service.split_once('.').unwrap_or((service, ""))
}

pub(crate) fn flat_name(function: &str) -> FunctionName {
    FunctionName::parse(&function.replace('/', "\0"))
}

pub(crate) fn full_name(service: &str, function: &str) -> FunctionName {
    FunctionName {
        service: service.to_owned(),
        function: function.to_owned(),
    }
}

fn not_supported(call: &Call) -> Refusal {
    let path = call.segments.join("/");
    let message = format!("{} /{path} is not supported here", call.method);
    Refusal::new(StatusCode::BAD_REQUEST, "PathNotSupported", message)
}

/// The body's fields.
fn fields(body: &Value) -> Result<Fields<'_>, Refusal> {
    Fields::of(body)
}

/// An answer with a resource.
pub(crate) fn json(value: &Value) -> Result<Response<Body>, Refusal> {
    answered(StatusCode::OK, value, None)
}

/// The same answer, with what of the request does nothing.
fn warned(fields: &Fields<'_>, mut response: Response<Body>) -> Result<Response<Body>, Refusal> {
    for warning in fields.warnings().iter().take(MAX_WARNINGS) {
        // Names of fields are the caller's, and may have anything in them.
        let text: String = warning.chars().take(MAX_WARNING).collect();
        let text = text.escape_default().to_string();
        let value = HeaderValue::from_str(&text);
        let value = value.map_err(|error| Refusal::internal(error.to_string()))?;
        response.headers_mut().append("x-thaw-warning", value);
    }
    Ok(response)
}

/// What of a resource its `Etag` follows from: all that is stored of it, the same for every version of
/// the API and wherever it is asked for.
fn stored(entity: &impl serde::Serialize) -> Result<Value, Refusal> {
    serde_json::to_value(entity).map_err(|error| Refusal::internal(error.to_string()))
}

/// An answer with a resource that has an `Etag`.
fn tagged(value: &Value) -> Result<Response<Body>, Refusal> {
    tagged_as(value, value)
}

/// The same, where not all that is shown is what callers can change: that is `content`.
fn tagged_as(value: &Value, content: &Value) -> Result<Response<Body>, Refusal> {
    answered(StatusCode::OK, value, Some(etag(content)))
}

/// A resource is gone.
fn deleted() -> Result<Response<Body>, Refusal> {
    let response = Response::builder().status(StatusCode::NO_CONTENT);
    // Without a type: clients would read the empty body as JSON.
    response
        .body(full(Bytes::new()))
        .map_err(|error| Refusal::internal(error.to_string()))
}

fn answered(
    status: StatusCode,
    value: &Value,
    etag: Option<String>,
) -> Result<Response<Body>, Refusal> {
    let mut response = Response::builder()
        .status(status)
        .header(header::CONTENT_TYPE, "application/json");
    if let Some(etag) = etag {
        response = response.header(header::ETAG, etag);
    }
    response
        .body(full(Bytes::from(value.to_string())))
        .map_err(|error| Refusal::internal(error.to_string()))
}

/// The same for the same content.
fn etag(value: &Value) -> String {
    let digest = thaw_image::Digest::of(value.to_string().as_bytes());
    digest.hex().chars().take(32).collect()
}
