//! Versions: what the functions of a service, or one function without a service, were when they were
//! published.

use std::collections::BTreeMap;

use hyper::{Method, Response};
use jiff::Timestamp;
use serde_json::{Map, Value, json};

use super::{Call, deleted, fields, json, list, not_supported, warned};
use crate::catalog::{Change, Entity, function_key};
use crate::error::Refusal;
use crate::host::Host;
use crate::http::Body;
use crate::model::{Alias, Function, Owner, Service, Version};

pub(super) fn operate(
    host: &Host,
    call: &Call,
    owner: &Owner,
    segments: &[&str],
) -> Result<Response<Body>, Refusal> {
    match (&call.method, segments) {
        (&Method::GET, []) => page(host, call, owner),
        (&Method::POST, []) => publish(host, call, owner),
        (&Method::DELETE, [version]) => {
            host.catalog.change(|open| remove(open, owner, version))?;
            host.versions_changed();
            deleted()
        }
        _ => Err(not_supported(call)),
    }
}

/// The key of a version; `None` for what is no number.
pub(crate) fn key(owner: &Owner, version: &str) -> Option<String> {
    let number: u64 = version.parse().ok()?;
    Some(format!("{}{number:020}", owner.key()))
}

pub(crate) fn missing(version: &str) -> Refusal {
    Refusal::missing(
        "VersionNotFound",
        format!("version '{version}' does not exist"),
    )
}

/// Newest first, unless asked otherwise.
fn page(host: &Host, call: &Call, owner: &Owner) -> Result<Response<Body>, Refusal> {
    let mut versions: Vec<Version> = host.catalog.list(&owner.key())?;
    let forward = call.query.get("direction") == Some("FORWARD");
    if !forward {
        versions.reverse();
    }
    let after = call.query.get("nextToken").or(call.query.get("startKey"));
    let after = after.map(str::parse::<u64>).transpose();
    let after = after.map_err(|_| {
        Refusal::invalid("nextToken and startKey have to be the number of a version")
    })?;
    let limit = list::limit(call)?;
    let reached = |version: &Version| match after {
        Some(number) if forward => version.number >= number,
        Some(number) => version.number <= number,
        None => true,
    };
    let mut wanted = versions.iter().filter(|version| reached(version));
    let page: Vec<Value> = wanted.by_ref().take(limit).map(show).collect();
    let mut answer = Map::new();
    answer.insert("versions".to_owned(), json!(page));
    let direction = if forward { "FORWARD" } else { "BACKWARD" };
    answer.insert("direction".to_owned(), json!(direction));
    if let Some(next) = wanted.next() {
        answer.insert("nextToken".to_owned(), json!(next.number.to_string()));
    }
    json(&Value::Object(answer))
}

fn publish(host: &Host, call: &Call, owner: &Owner) -> Result<Response<Body>, Refusal> {
    let body = call.json()?;
    let fields = fields(&body)?;
    let description = fields.text("description")?.unwrap_or_default();
    let version = host.catalog.change(|open| {
        let (number, functions) = snapshot(open, owner)?;
        let now = Timestamp::now();
        let version = Version {
            owner: owner.clone(),
            number,
            description: description.to_owned(),
            functions,
            created: now,
            modified: now,
        };
        open.put(&version)?;
        Ok(version)
    })?;
    host.versions_changed();
    warned(&fields, json(&show(&version))?)
}

/// The next number, and what the functions are now.
fn snapshot(open: &Change, owner: &Owner) -> Result<(u64, BTreeMap<String, Function>), Refusal> {
    let by_name = |functions: Vec<Function>| {
        let named = functions.into_iter().map(|mut it| {
            // A version is what was asked for.
            it.previous = None;
            (it.name.function.clone(), it)
        });
        named.collect()
    };
    match owner {
        Owner::Service(name) => {
            let service: Option<Service> = open.get(name)?;
            let mut service = service.ok_or_else(|| super::services::missing(name))?;
            service.last_version += 1;
            open.put(&service)?;
            let functions = open.list(&format!("{name}/"))?;
            Ok((service.last_version, by_name(functions)))
        }
        Owner::Function(name) => {
            let function: Option<Function> = open.get(&function_key(name))?;
            let mut function = function.ok_or_else(|| {
                let message = format!("function '{name}' does not exist");
                Refusal::missing("FunctionNotFound", message)
            })?;
            function.last_version += 1;
            open.put(&function)?;
            Ok((function.last_version, by_name(vec![function])))
        }
    }
}

fn remove(open: &Change, owner: &Owner, version: &str) -> Result<(), Refusal> {
    let key = key(owner, version).ok_or_else(|| missing(version))?;
    let uses = |alias: &Alias| alias.version == version || alias.weights.contains_key(version);
    let aliases: Vec<Alias> = open.list(&owner.key())?;
    if let Some(alias) = aliases.iter().find(|alias| uses(alias)) {
        let message = format!("alias '{}' leads to version {version}", alias.name);
        return Err(Refusal::conflict("VersionInUse", message));
    }
    match open.remove::<Version>(&key)? {
        true => Ok(()),
        false => Err(missing(version)),
    }
}

fn show(version: &Version) -> Value {
    debug_assert!(version.key().ends_with(&format!("{:020}", version.number)));
    json!({
        "versionId": version.number.to_string(),
        "description": version.description,
        "createdTime": super::function::time(version.created),
        "lastModifiedTime": super::function::time(version.modified),
    })
}
