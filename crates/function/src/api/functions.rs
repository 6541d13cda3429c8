//! Functions.

use hyper::{Method, Response};
use jiff::Timestamp;
use serde_json::Value;

use super::{Call, Dialect, deleted, fields, function, json, list, not_supported, tags, warned};
use crate::catalog::function_key;
use crate::error::Refusal;
use crate::host::Host;
use crate::http::Body;
use crate::model::{
    Alias, AsyncConfig, Config, Disabled, Function, FunctionName, Scaling, Service, Trigger,
    Version, check_name,
};
use crate::unique;

/// `GET` and `POST` of a service's functions; with the API of 2023 of all.
pub(super) fn all(host: &Host, call: &Call, service: &str) -> Result<Response<Body>, Refusal> {
    if call.dialect != Dialect::V2023 {
        super::services::find(host, service)?;
    }
    match call.method {
        Method::GET => {
            let prefix = match call.dialect {
                Dialect::V2023 => String::new(),
                _ => format!("{service}/"),
            };
            let functions: Vec<Function> = host.catalog.list(&prefix)?;
            let name = |function: &Function| match call.dialect {
                Dialect::V2023 => function.name.flat(),
                _ => function.name.function.clone(),
            };
            let shown = functions
                .iter()
                .map(|it| Ok((name(it), show(host, call, it)?)));
            let mut items: Vec<(String, Value)> = shown.collect::<Result<_, Refusal>>()?;
            items.sort_by(|a, b| a.0.cmp(&b.0));
            json(&list::page(call, "functions", items)?)
        }
        Method::POST => create(host, call, service),
        _ => Err(not_supported(call)),
    }
}

pub(super) fn one(
    host: &Host,
    call: &Call,
    name: &FunctionName,
    qualifier: &str,
) -> Result<Response<Body>, Refusal> {
    match call.method {
        Method::GET => answered(host, call, &host.function(name, qualifier)?),
        Method::PUT => update(host, call, name),
        Method::DELETE => remove(host, call, name),
        _ => Err(not_supported(call)),
    }
}

/// The code of a function that is an image is in its registry.
pub(super) fn code(call: &Call) -> Result<Response<Body>, Refusal> {
    let _ = call;
    Err(Refusal::invalid(
        "the function is an image: pull it from its registry",
    ))
}

fn show(host: &Host, call: &Call, it: &Function) -> Result<Value, Refusal> {
    let mut shown = function::show(it, host.acceleration.status(it), call);
    if call.dialect == Dialect::V2023
        && let Some(tags) = tags::shown(host, &it.name)?
    {
        shown["tags"] = tags;
    }
    Ok(shown)
}

/// An answer with a function. Its `Etag` does not change while its image is being accelerated: nobody
/// has changed the function then.
fn answered(host: &Host, call: &Call, it: &Function) -> Result<Response<Body>, Refusal> {
    super::tagged_as(&show(host, call, it)?, &stored(it)?)
}

/// A function without what becomes of it by itself, the same for every version of the API.
fn stored(it: &Function) -> Result<Value, Refusal> {
    let mut it = it.clone();
    it.previous = None;
    it.last_version = 0;
    super::stored(&it)
}

pub(super) fn missing(name: &FunctionName) -> Refusal {
    Refusal::missing(
        "FunctionNotFound",
        format!("function '{name}' does not exist"),
    )
}

fn create(host: &Host, call: &Call, service: &str) -> Result<Response<Body>, Refusal> {
    let body = call.json()?;
    let fields = fields(&body)?;
    let name = fields.required("functionName")?;
    check_name("functionName", name, 64)?;
    let name = super::full_name(service, name);
    let mut config = Config::default();
    function::patch(&mut config, &fields, call.dialect)?;
    let taken = || {
        let message = format!("function '{name}' exists already");
        Refusal::conflict("FunctionAlreadyExists", message)
    };
    let key = function_key(&name);
    if host.catalog.get::<Function>(&key)?.is_some() {
        return Err(taken());
    }
    host.resolve_image(&mut config)?;
    let now = Timestamp::now();
    let function = Function {
        name: name.clone(),
        id: unique::id(),
        config,
        number: 1,
        created: now,
        modified: now,
        last_version: 0,
        previous: None,
        disabled: None,
    };
    host.catalog.change(|open| {
        if !service.is_empty() && open.get::<Service>(service)?.is_none() {
            return Err(super::services::missing(service));
        }
        if open.get::<Function>(&key)?.is_some() {
            return Err(taken());
        }
        tags::of_new(open, &name, &fields)?;
        Ok(open.put(&function)?)
    })?;
    host.function_changed(&function);
    warned(&fields, answered(host, call, &function)?)
}

fn update(host: &Host, call: &Call, name: &FunctionName) -> Result<Response<Body>, Refusal> {
    let body = call.json()?;
    let fields = fields(&body)?;
    let key = function_key(name);
    let before: Function = host.catalog.get(&key)?.ok_or_else(|| missing(name))?;
    call.expect(&stored(&before)?)?;
    let mut config = before.config.clone();
    function::patch(&mut config, &fields, call.dialect)?;
    // The registry is asked outside of the change, which others wait for.
    host.resolve_image(&mut config)?;
    let function = host.catalog.change(|open| {
        let mut function: Function = open.get(&key)?.ok_or_else(|| missing(name))?;
        call.expect(&stored(&function)?)?;
        if function.number != before.number {
            let message = format!("function '{name}' is being changed by another: try again");
            return Err(Refusal::conflict("ConcurrentUpdateError", message));
        }
        host.follow(&mut function, config);
        function.number += 1;
        function.modified = Timestamp::now();
        open.put(&function)?;
        Ok(function)
    })?;
    host.function_changed(&function);
    warned(&fields, answered(host, call, &function)?)
}

fn remove(host: &Host, call: &Call, name: &FunctionName) -> Result<Response<Body>, Refusal> {
    let key = function_key(name);
    host.catalog.change(|open| {
        let function: Function = open.get(&key)?.ok_or_else(|| missing(name))?;
        call.expect(&stored(&function)?)?;
        let below = format!("{key}/");
        let triggers: Vec<Trigger> = open.list(&below)?;
        if let Some(trigger) = triggers.first() {
            let trigger = &trigger.name;
            let message = format!("function '{name}' still has trigger '{trigger}'");
            return Err(Refusal::conflict("FunctionNotEmpty", message));
        }
        for config in open.list::<AsyncConfig>(&below)? {
            open.remove::<AsyncConfig>(&crate::catalog::Entity::key(&config))?;
        }
        for scaling in open.list::<Scaling>(&below)? {
            open.remove::<Scaling>(&crate::catalog::Entity::key(&scaling))?;
        }
        if name.service.is_empty() {
            let owned = crate::model::Owner::of(name).key();
            for alias in open.list::<Alias>(&owned)? {
                open.remove::<Alias>(&crate::catalog::Entity::key(&alias))?;
            }
            for version in open.list::<Version>(&owned)? {
                open.remove::<Version>(&crate::catalog::Entity::key(&version))?;
            }
        }
        open.remove::<Function>(&key)?;
        tags::forget_function(open, name)
    })?;
    host.function_removed(name);
    deleted()
}

/// `invoke/enable` and `invoke/disable`: whether a function may be invoked.
pub(super) fn restrict(
    host: &Host,
    call: &Call,
    name: &FunctionName,
    to: &str,
) -> Result<Response<Body>, Refusal> {
    let enabled = match (&call.method, to) {
        (&Method::POST, "enable") => true,
        (&Method::POST, "disable") => false,
        _ => return Err(not_supported(call)),
    };
    let body = call.json()?;
    let fields = fields(&body)?;
    let reason = fields.text("reason")?.unwrap_or_default().to_owned();
    let since = Timestamp::now();
    host.catalog.change(|open| {
        let function: Option<Function> = open.get(&function_key(name))?;
        let mut function = function.ok_or_else(|| missing(name))?;
        function.disabled = (!enabled).then_some(Disabled { reason, since });
        Ok(open.put(&function)?)
    })?;
    warned(&fields, json(&serde_json::json!({ "success": true }))?)
}

/// The instances that a function has now.
pub(super) fn instances(
    host: &Host,
    call: &Call,
    name: &FunctionName,
    qualifier: &str,
) -> Result<Response<Body>, Refusal> {
    if call.method != Method::GET {
        return Err(not_supported(call));
    }
    let id = host.function(name, qualifier)?.id;
    let wanted = match qualifier {
        "" => None,
        qualifier => Some(host.numbers(name, qualifier)?),
    };
    let pools = host.fleet.all().into_iter();
    let pools = pools.filter(|pool| {
        let number = &pool.target.number;
        pool.target.id == id && wanted.as_ref().is_none_or(|all| all.contains(number))
    });
    let mut all: Vec<Value> = pools
        .flat_map(|pool| {
            let version = pool.target.version.clone();
            let shown = pool.instances().into_iter().map(move |instance| {
                serde_json::json!({
                    "instanceId": instance.id,
                    "versionId": version,
                    "qualifier": version,
                    "status": "Running",
                    "resourceType": "OnDemand",
                })
            });
            shown.collect::<Vec<_>>()
        })
        .collect();
    all.sort_by_key(|it| it["instanceId"].to_string());
    all.truncate(list::limit(call)?);
    json(&serde_json::json!({ "instances": all, "requestId": call.request_id }))
}
