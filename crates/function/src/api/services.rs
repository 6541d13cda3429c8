//! Services.

use hyper::{Method, Response};
use jiff::Timestamp;
use serde_json::{Map, Value, json};

use super::{Call, deleted, fields, json, list, not_supported, tagged, tags, warned};
use crate::error::Refusal;
use crate::fields::Fields;
use crate::host::Host;
use crate::http::Body;
use crate::model::{Alias, Function, Service, Version, check_name};
use crate::unique;

/// Given back as they came: a function needs none of them to run here.
const KEPT: [&str; 5] = [
    "logConfig",
    "vpcConfig",
    "nasConfig",
    "tracingConfig",
    "ossMountConfig",
];

pub(super) fn all(host: &Host, call: &Call) -> Result<Response<Body>, Refusal> {
    match call.method {
        Method::GET => {
            let mut services: Vec<Service> = host.catalog.list("")?;
            let wanted: Vec<_> = call.query.behind("tag_").collect();
            if !wanted.is_empty() {
                let tagged = tags::services_with(host, &wanted)?;
                services.retain(|service| tagged.contains(&service.name));
            }
            let items = services.iter().map(|it| (it.name.clone(), show(it)));
            json(&list::page(call, "services", items.collect())?)
        }
        Method::POST => create(host, call),
        _ => Err(not_supported(call)),
    }
}

pub(super) fn one(host: &Host, call: &Call, name: &str) -> Result<Response<Body>, Refusal> {
    match call.method {
        Method::GET => tagged(&show(&find(host, super::split_qualifier(name).0)?)),
        Method::PUT => update(host, call, name),
        Method::DELETE => remove(host, call, name),
        _ => Err(not_supported(call)),
    }
}

/// The service of that name.
pub(super) fn find(host: &Host, name: &str) -> Result<Service, Refusal> {
    host.catalog.get(name)?.ok_or_else(|| missing(name))
}

pub(super) fn missing(name: &str) -> Refusal {
    Refusal::missing(
        "ServiceNotFound",
        format!("service '{name}' does not exist"),
    )
}

fn create(host: &Host, call: &Call) -> Result<Response<Body>, Refusal> {
    let body = call.json()?;
    let fields = fields(&body)?;
    let name = fields.required("serviceName")?;
    check_name("serviceName", name, 128)?;
    let now = Timestamp::now();
    let mut service = Service {
        name: name.to_owned(),
        id: unique::id(),
        description: String::new(),
        role: String::new(),
        internet: true,
        kept: Map::new(),
        created: now,
        modified: now,
        last_version: 0,
    };
    patch(&mut service, &fields)?;
    host.catalog.change(|open| {
        if open.get::<Service>(name)?.is_some() {
            let message = format!("service '{name}' exists already");
            return Err(Refusal::conflict("ServiceAlreadyExists", message));
        }
        Ok(open.put(&service)?)
    })?;
    warned(&fields, tagged(&show(&service))?)
}

fn update(host: &Host, call: &Call, name: &str) -> Result<Response<Body>, Refusal> {
    let body = call.json()?;
    let fields = fields(&body)?;
    let service = host.catalog.change(|open| {
        let mut service: Service = open.get(name)?.ok_or_else(|| missing(name))?;
        call.expect(&show(&service))?;
        patch(&mut service, &fields)?;
        service.modified = Timestamp::now();
        open.put(&service)?;
        Ok(service)
    })?;
    warned(&fields, tagged(&show(&service))?)
}

fn remove(host: &Host, call: &Call, name: &str) -> Result<Response<Body>, Refusal> {
    host.catalog.change(|open| {
        let service: Service = open.get(name)?.ok_or_else(|| missing(name))?;
        call.expect(&show(&service))?;
        let prefix = format!("{name}/");
        let functions: Vec<Function> = open.list(&prefix)?;
        let aliases: Vec<Alias> = open.list(&prefix)?;
        let versions: Vec<Version> = open.list(&prefix)?;
        let what = match (functions.first(), aliases.first(), versions.first()) {
            (Some(function), _, _) => format!("function '{}'", function.name.function),
            (_, Some(alias), _) => format!("alias '{}'", alias.name),
            (_, _, Some(version)) => format!("version {}", version.number),
            (None, None, None) => {
                open.remove::<Service>(name)?;
                return tags::forget_service(open, name);
            }
        };
        let message = format!("service '{name}' still has {what}: delete that first");
        Err(Refusal::conflict("ServiceNotEmpty", message))
    })?;
    deleted()
}

fn patch(service: &mut Service, fields: &Fields<'_>) -> Result<(), Refusal> {
    if let Some(description) = fields.text("description")? {
        description.clone_into(&mut service.description);
    }
    if let Some(role) = fields.text("role")? {
        role.clone_into(&mut service.role);
    }
    if let Some(internet) = fields.flag("internetAccess")? {
        service.internet = internet;
    }
    super::function::refuse_networks(fields)?;
    for name in KEPT {
        if let Some(value) = fields.keep(name) {
            service.kept.insert(name.to_owned(), value.clone());
        }
    }
    Ok(())
}

pub(super) fn show(service: &Service) -> Value {
    let mut shown = json!({
        "serviceName": service.name,
        "serviceId": service.id,
        "description": service.description,
        "role": service.role,
        "internetAccess": service.internet,
        "createdTime": super::function::time(service.created),
        "lastModifiedTime": super::function::time(service.modified),
    });
    if let Value::Object(shown) = &mut shown {
        shown.extend(service.kept.clone());
    }
    shown
}
