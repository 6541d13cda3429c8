//! Asynchronous invocations and their states.

use hyper::{Method, Response};
use serde_json::{Value, json};

use super::{Call, Dialect, deleted, json, list, not_supported};
use crate::error::Refusal;
use crate::host::Host;
use crate::http::Body;
use crate::model::FunctionName;
use crate::queue::Task;

pub(super) fn operate(
    host: &Host,
    call: &Call,
    name: &FunctionName,
    segments: &[&str],
) -> Result<Response<Body>, Refusal> {
    match (&call.method, segments) {
        (&Method::GET, []) => page(host, call, name),
        (&Method::GET, [id]) => json(&host.queue.one(name, id)?),
        (&Method::PUT, [id] | [id, "stop"]) => {
            host.queue.stop(name, id)?;
            deleted()
        }
        _ => Err(not_supported(call)),
    }
}

/// The newest first, unless asked otherwise.
fn page(host: &Host, call: &Call, name: &FunctionName) -> Result<Response<Body>, Refusal> {
    let (field, prefix) = match call.dialect {
        Dialect::V2023 => ("tasks", "prefix"),
        _ => ("invocations", "invocationIdPrefix"),
    };
    let query = |name: &str| call.query.get(name);
    let number = |name: &str| {
        let number = query(name).map(|text| text.parse::<i64>());
        let number = number.transpose();
        number.map_err(|_| Refusal::invalid(format!("{name} has to be a number of milliseconds")))
    };
    let (from, to) = (number("startedTimeBegin")?, number("startedTimeEnd")?);
    let qualifier = query("qualifier").map(super::limits::plain);
    let prefix = query(prefix).unwrap_or_default();
    let mut tasks = host.queue.list(name)?;
    tasks.retain(|task| {
        let begun = task.enqueued.as_millisecond();
        query("status").is_none_or(|status| format!("{:?}", task.status) == status)
            && qualifier.is_none_or(|it| it == super::limits::plain(&task.qualifier))
            && task.id.starts_with(prefix)
            && from.is_none_or(|from| begun >= from)
            && to.is_none_or(|to| begun <= to)
    });
    let ascending = query("sortOrderByTime").is_some_and(|it| it.eq_ignore_ascii_case("asc"));
    if ascending {
        tasks.reverse();
    }
    // A token is a place in the order, which stays where its task is forgotten.
    let begin = query("nextToken").map(place_of).transpose()?;
    let reached = |task: &&Task| match &begin {
        None => true,
        Some(begin) if ascending => place(task) >= *begin,
        Some(begin) => place(task) <= *begin,
    };
    let mut wanted = tasks.iter().filter(reached);
    let shown = wanted.by_ref().take(list::limit(call)?);
    let shown: Vec<Value> = shown.map(crate::queue::show).collect();
    let mut answer = json!({ field: shown });
    if let Some(next) = wanted.next() {
        let (time, id) = place(next);
        answer["nextToken"] = json!(format!("{time}.{id}"));
    }
    json(&answer)
}

fn place(task: &Task) -> (i64, String) {
    (task.enqueued.as_microsecond(), task.id.clone())
}

fn place_of(token: &str) -> Result<(i64, String), Refusal> {
    let place = token.split_once('.').and_then(|(time, id)| {
        let time = time.parse().ok()?;
        Some((time, id.to_owned()))
    });
    place.ok_or_else(|| Refusal::invalid("nextToken is none that was given out"))
}
