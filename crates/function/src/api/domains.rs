//! Custom domains: host names that lead to functions.

use hyper::{Method, Response};
use jiff::Timestamp;
use serde_json::{Map, Value, json};

use super::{
    Call, Dialect, deleted, fields, flat_name, full_name, json, list, not_supported, stored,
    tagged_as, warned,
};
use crate::error::Refusal;
use crate::fields::{Fields, has_content};
use crate::host::Host;
use crate::http::Body;
use crate::model::{Domain, Route};
use crate::proxy;

/// Given back as they came.
const KEPT: [&str; 3] = ["certConfig", "tlsConfig", "wafConfig"];

pub(super) fn operate(
    host: &Host,
    call: &Call,
    segments: &[&str],
) -> Result<Response<Body>, Refusal> {
    match (&call.method, segments) {
        (&Method::GET, []) => {
            let domains: Vec<Domain> = host.catalog.list("")?;
            let items = domains.iter().map(|it| (it.name.clone(), show(call, it)));
            json(&list::page(call, "customDomains", items.collect())?)
        }
        (&Method::POST, []) => create(host, call),
        (&Method::GET, [name]) => {
            let domain: Option<Domain> = host.catalog.get(&name.to_ascii_lowercase())?;
            let domain = domain.ok_or_else(|| missing(name))?;
            tagged_as(&show(call, &domain), &stored(&domain)?)
        }
        (&Method::PUT, [name]) => update(host, call, name),
        (&Method::DELETE, [name]) => {
            let key = name.to_ascii_lowercase();
            host.catalog.change(|open| {
                let domain: Domain = open.get(&key)?.ok_or_else(|| missing(name))?;
                call.expect(&stored(&domain)?)?;
                open.remove::<Domain>(&key)?;
                Ok(())
            })?;
            host.domains_changed();
            deleted()
        }
        _ => Err(not_supported(call)),
    }
}

fn missing(name: &str) -> Refusal {
    Refusal::missing(
        "DomainNameNotFound",
        format!("domain '{name}' does not exist"),
    )
}

fn create(host: &Host, call: &Call) -> Result<Response<Body>, Refusal> {
    let body = call.json()?;
    let fields = fields(&body)?;
    let name = fields.required("domainName")?.to_ascii_lowercase();
    if !proxy::is_domain(&name) {
        return Err(Refusal::invalid(
            "domainName has to be a host name with a dot, and no address nor below localhost: those are \
             the host's own",
        ));
    }
    let now = Timestamp::now();
    let mut domain = Domain {
        name: name.clone(),
        protocol: "HTTP".to_owned(),
        routes: Vec::new(),
        kept: Map::new(),
        created: now,
        modified: now,
    };
    patch(&mut domain, &fields, call)?;
    host.catalog.change(|open| {
        if open.get::<Domain>(&name)?.is_some() {
            let message = format!("domain '{name}' exists already");
            return Err(Refusal::conflict("DomainNameAlreadyExists", message));
        }
        Ok(open.put(&domain)?)
    })?;
    host.domains_changed();
    warned(&fields, tagged_as(&show(call, &domain), &stored(&domain)?)?)
}

fn update(host: &Host, call: &Call, name: &str) -> Result<Response<Body>, Refusal> {
    let body = call.json()?;
    let fields = fields(&body)?;
    let key = name.to_ascii_lowercase();
    let domain = host.catalog.change(|open| {
        let mut domain: Domain = open.get(&key)?.ok_or_else(|| missing(name))?;
        call.expect(&stored(&domain)?)?;
        patch(&mut domain, &fields, call)?;
        domain.modified = Timestamp::now();
        open.put(&domain)?;
        Ok(domain)
    })?;
    host.domains_changed();
    warned(&fields, tagged_as(&show(call, &domain), &stored(&domain)?)?)
}

fn patch(domain: &mut Domain, fields: &Fields<'_>, call: &Call) -> Result<(), Refusal> {
    if let Some(protocol) = fields.text("protocol")? {
        if !protocol.eq_ignore_ascii_case("http") {
            fields.keep("protocol");
        }
        protocol.clone_into(&mut domain.protocol);
    }
    // Who is kept out there would get in here.
    for name in ["authConfig", "corsConfig"] {
        if fields.get(name).is_some_and(has_content) {
            let message = format!("{name} is not supported here: leave it out");
            return Err(Refusal::invalid(message));
        }
    }
    for name in KEPT {
        if let Some(value) = fields.keep(name) {
            domain.kept.insert(name.to_owned(), value.clone());
        }
    }
    let Some(config) = fields.object("routeConfig")? else {
        return Ok(());
    };
    let routes = config.objects("routes")?.unwrap_or_default();
    domain.routes = routes
        .iter()
        .map(|fields| route(fields, call))
        .collect::<Result<_, _>>()?;
    Ok(())
}

fn route(fields: &Fields<'_>, call: &Call) -> Result<Route, Refusal> {
    let path = fields.required("path")?;
    if !path.starts_with('/') {
        return Err(Refusal::invalid("a route's path has to begin with /"));
    }
    if fields.get("rewriteConfig").is_some_and(has_content) {
        return Err(Refusal::invalid(
            "routeConfig: rewriteConfig is not supported here: functions see paths as they came",
        ));
    }
    let function = fields.required("functionName")?;
    let function = match call.dialect {
        Dialect::V2023 => flat_name(function),
        _ => full_name(fields.required("serviceName")?, function),
    };
    let methods = fields.texts("methods")?.unwrap_or_default();
    let methods = methods.iter().map(|method| method.to_ascii_uppercase());
    Ok(Route {
        path: path.to_owned(),
        function,
        qualifier: fields.text("qualifier")?.unwrap_or_default().to_owned(),
        methods: methods.collect(),
    })
}

fn show(call: &Call, domain: &Domain) -> Value {
    let route = |route: &Route| {
        let mut shown = json!({
            "path": route.path,
            "qualifier": route.qualifier,
            "methods": route.methods,
        });
        match call.dialect {
            Dialect::V2023 => shown["functionName"] = json!(route.function.flat()),
            _ => {
                shown["serviceName"] = json!(route.function.service);
                shown["functionName"] = json!(route.function.function);
            }
        }
        shown
    };
    let mut shown = json!({
        "domainName": domain.name,
        "accountId": call.place.account,
        "protocol": domain.protocol,
        "apiVersion": "2016-08-15",
        "routeConfig": { "routes": domain.routes.iter().map(route).collect::<Vec<_>>() },
        "createdTime": super::function::time(domain.created),
        "lastModifiedTime": super::function::time(domain.modified),
    });
    if let Value::Object(shown) = &mut shown {
        shown.extend(domain.kept.clone());
    }
    shown
}
