//! The host's own paths, below `/thaw/`: what Function Compute's API has no word for. Root asks them at
//! the Unix socket, through the commands.
//!
//! ```text
//! GET    /thaw/functions[?name=]       functions: image, acceleration, instances, counts
//! GET    /thaw/image?reference=        the manifest that a reference names now
//! POST   /thaw/acceleration?name=&to=  on, off or retry
//! GET    /thaw/logs?name=&lines=&follow=
//! GET POST DELETE /thaw/keys[/ID]
//! ```

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use hyper::body::Incoming;
use hyper::header::{self, HeaderValue};
use hyper::{Method, Request, Response};
use serde_json::{Value, json};

use crate::catalog::function_key;
use crate::error::Refusal;
use crate::host::Host;
use crate::http::{Body, channel, full};
use crate::model::{Acceleration, Function, FunctionName};
use crate::query::Query;

/// How often a follower of logs looks for more.
const POLL: Duration = Duration::from_millis(200);
/// Lines that are shown where nobody says how many.
const LINES: usize = 200;
/// Most lines that are looked through at once.
const MAX_LINES: usize = 100_000;

/// Answers a request of root's.
///
/// # Errors
/// [`Refusal`].
pub(crate) async fn answer(
    host: &Arc<Host>,
    request: Request<Incoming>,
    segments: &[String],
) -> Result<Response<Body>, Refusal> {
    let query = Query::parse(request.uri().query().unwrap_or_default());
    let segments: Vec<&str> = segments.iter().map(String::as_str).collect();
    let method = request.method().clone();
    match (&method, segments.as_slice()) {
        (&Method::GET, ["logs"]) => logs(host, &query),
        _ => tokio::task::block_in_place(|| operate(host, &method, &segments, &query)),
    }
}

fn operate(
    host: &Arc<Host>,
    method: &Method,
    segments: &[&str],
    query: &Query,
) -> Result<Response<Body>, Refusal> {
    match (method, segments) {
        (&Method::GET, ["functions"]) => match query.get("name") {
            Some(name) => {
                let function = host.function(&FunctionName::parse(name), "")?;
                crate::api::json(&facts(host, &function, true))
            }
            None => {
                let all: Vec<Function> = host.catalog.list("")?;
                let all: Vec<Value> = all.iter().map(|it| facts(host, it, false)).collect();
                crate::api::json(&json!({ "functions": all }))
            }
        },
        (&Method::GET, ["image"]) => {
            let image = query.get("reference");
            let image = image.ok_or_else(|| Refusal::invalid("reference is missing"))?;
            let digest = host.fleet.machine.resolve(image).map_err(|error| {
                Refusal::invalid(format!("the image {image} cannot be used: {error}"))
            })?;
            crate::api::json(&json!({ "digest": digest.to_string() }))
        }
        (&Method::POST, ["acceleration"]) => acceleration(host, query),
        (&Method::GET, ["keys"]) => {
            crate::api::json(&json!({ "keys": host.keys.list(&host.catalog)? }))
        }
        (&Method::POST, ["keys"]) => {
            let description = query.get("description").unwrap_or_default();
            let key = host
                .keys
                .create(&host.catalog, &host.place.account, description)?;
            crate::api::json(&json!(key))
        }
        (&Method::DELETE, ["keys", id]) => {
            host.keys.delete(&host.catalog, id)?;
            crate::api::json(&json!({}))
        }
        _ => {
            let message = format!("{method} /thaw/{} is not there", segments.join("/"));
            Err(Refusal::missing("PathNotFound", message))
        }
    }
}

fn named(query: &Query) -> Result<FunctionName, Refusal> {
    let name = query.get("name");
    let name = name.ok_or_else(|| Refusal::invalid("name is missing"))?;
    Ok(FunctionName::parse(name))
}

/// Turns the acceleration of a function's image on or off, or has it tried again.
fn acceleration(host: &Arc<Host>, query: &Query) -> Result<Response<Body>, Refusal> {
    let name = named(query)?;
    let wanted = match query.get("to") {
        Some("on") => Acceleration::Default,
        Some("off") => Acceleration::None,
        Some("retry") => {
            let function = host.function(&name, "")?;
            host.acceleration.retry(&function)?;
            return crate::api::json(&facts(host, &function, true));
        }
        _ => return Err(Refusal::invalid("to has to be on, off or retry")),
    };
    let function = host.catalog.change(|open| {
        let function: Option<Function> = open.get(&function_key(&name))?;
        let mut function = function.ok_or_else(|| {
            let message = format!("function '{name}' does not exist");
            Refusal::missing("FunctionNotFound", message)
        })?;
        // The instances that run go on: nothing that they follow from is changed.
        function.config.container.acceleration = wanted;
        open.put(&function)?;
        Ok(function)
    })?;
    host.function_changed(&function);
    crate::api::json(&facts(host, &function, true))
}

/// What there is to know of a function.
pub(crate) fn facts(host: &Host, function: &Function, all: bool) -> Value {
    let config = &function.config;
    let name = &function.name;
    let mut counts = crate::pool::Counts::default();
    for pool in host
        .fleet
        .all()
        .iter()
        .filter(|pool| pool.target.id == function.id)
    {
        let of = pool.counts();
        counts.running += of.running;
        counts.busy += of.busy;
        counts.starting += of.starting;
        counts.waiting += of.waiting;
    }
    let acceleration = host.acceleration.facts(function);
    host.stats.read(name, |counted| {
        let last = counted.cold_starts.back();
        let mut facts = json!({
            "name": name.to_string(),
            "service": name.service,
            "function": name.function,
            "image": config.container.image,
            "memory": config.memory,
            "acceleration": acceleration,
            "instances": counts,
            "invocations": counted.invocations,
            "errors": counted.errors,
            "gbSeconds": counted.gb_seconds,
            "lastColdStart": last.map(|start| start.ready),
            "created": function.created.to_string(),
            "modified": function.modified.to_string(),
        });
        if all {
            facts["digest"] = json!(config.container.digest.map(|digest| digest.to_string()));
            facts["acceleratedGbSeconds"] = json!(counted.accelerated_gb_seconds);
            facts["acceleratedInvocations"] = json!(counted.accelerated_invocations);
            facts["coldStarts"] = json!(counted.cold_starts);
            facts["last"] = json!(counted.last);
        }
        facts
    })
}

/// The containers of a function that there are: instance and directory.
fn live(host: &Host, name: &FunctionName) -> Vec<(String, PathBuf)> {
    let pools = host.fleet.all().into_iter();
    let mine = pools.filter(|pool| pool.target.name == *name);
    let instances = mine.flat_map(|pool| pool.instances());
    let live = instances.map(|instance| (instance.id.clone(), instance.started.dir.clone()));
    live.collect()
}

fn logs(host: &Arc<Host>, query: &Query) -> Result<Response<Body>, Refusal> {
    let name = named(query)?;
    host.function(&name, "")?;
    let lines = query.get("lines").and_then(|text| text.parse().ok());
    let lines: usize = lines.unwrap_or(LINES).min(MAX_LINES);
    let first = host.stats.logs.last(&name, &live(host, &name), lines);
    let text = |lines: &[String]| -> String { lines.iter().map(|it| format!("{it}\n")).collect() };
    let body = match query.get("follow") {
        Some("true" | "1") => {
            let (sender, body) = channel();
            let host = Arc::clone(host);
            tokio::spawn(async move {
                let mut last = first.last().cloned().unwrap_or_default();
                if sender.send(Bytes::from(text(&first))).await.is_err() {
                    return;
                }
                while !sender.is_closed() {
                    tokio::time::sleep(POLL).await;
                    let mut new = host.stats.logs.last(&name, &live(&host, &name), MAX_LINES);
                    new.retain(|line| *line > last);
                    let Some(newest) = new.last() else {
                        continue;
                    };
                    last.clone_from(newest);
                    if sender.send(Bytes::from(text(&new))).await.is_err() {
                        return;
                    }
                }
            });
            body
        }
        _ => full(Bytes::from(text(&first))),
    };
    let mut response = Response::new(body);
    let kind = HeaderValue::from_static("text/plain; charset=utf-8");
    response.headers_mut().insert(header::CONTENT_TYPE, kind);
    Ok(response)
}
