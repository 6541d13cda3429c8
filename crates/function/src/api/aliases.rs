//! Aliases: names for a version, or for two by weight.

use std::collections::BTreeMap;

use hyper::{Method, Response};
use jiff::Timestamp;
use serde_json::{Value, json};

use super::{Call, deleted, fields, json, list, not_supported, tagged, versions, warned};
use crate::catalog::Change;
use crate::error::Refusal;
use crate::fields::{Fields, has_content};
use crate::host::Host;
use crate::http::Body;
use crate::model::{Alias, LATEST, Owner, Version, check_name};

pub(super) fn operate(
    host: &Host,
    call: &Call,
    owner: &Owner,
    segments: &[&str],
) -> Result<Response<Body>, Refusal> {
    match (&call.method, segments) {
        (&Method::GET, []) => {
            let aliases: Vec<Alias> = host.catalog.list(&owner.key())?;
            let items = aliases.iter().map(|it| (it.name.clone(), show(it)));
            json(&list::page(call, "aliases", items.collect())?)
        }
        (&Method::POST, []) => create(host, call, owner),
        (&Method::GET, [name]) => {
            let alias: Option<Alias> = host.catalog.get(&key(owner, name))?;
            tagged(&show(&alias.ok_or_else(|| missing(name))?))
        }
        (&Method::PUT, [name]) => update(host, call, owner, name),
        (&Method::DELETE, [name]) => {
            host.catalog.change(|open| {
                let key = key(owner, name);
                let alias: Alias = open.get(&key)?.ok_or_else(|| missing(name))?;
                call.expect(&show(&alias))?;
                open.remove::<Alias>(&key)?;
                Ok(())
            })?;
            host.versions_changed();
            deleted()
        }
        _ => Err(not_supported(call)),
    }
}

/// The key of an alias.
pub(crate) fn key(owner: &Owner, name: &str) -> String {
    format!("{}{name}", owner.key())
}

pub(crate) fn missing(name: &str) -> Refusal {
    Refusal::missing("AliasNotFound", format!("alias '{name}' does not exist"))
}

fn create(host: &Host, call: &Call, owner: &Owner) -> Result<Response<Body>, Refusal> {
    let body = call.json()?;
    let fields = fields(&body)?;
    let name = fields.required("aliasName")?;
    check_name("aliasName", name, 128)?;
    if name == LATEST {
        return Err(Refusal::invalid(
            "aliasName: LATEST is the version that can be changed",
        ));
    }
    let now = Timestamp::now();
    let mut alias = Alias {
        owner: owner.clone(),
        name: name.to_owned(),
        version: fields.required("versionId")?.to_owned(),
        description: String::new(),
        weights: BTreeMap::new(),
        created: now,
        modified: now,
    };
    patch(&mut alias, &fields)?;
    host.catalog.change(|open| {
        check(open, &alias)?;
        if open.get::<Alias>(&key(owner, name))?.is_some() {
            let message = format!("alias '{name}' exists already");
            return Err(Refusal::conflict("AliasAlreadyExists", message));
        }
        Ok(open.put(&alias)?)
    })?;
    host.versions_changed();
    warned(&fields, tagged(&show(&alias))?)
}

fn update(host: &Host, call: &Call, owner: &Owner, name: &str) -> Result<Response<Body>, Refusal> {
    let body = call.json()?;
    let fields = fields(&body)?;
    let alias = host.catalog.change(|open| {
        let alias: Option<Alias> = open.get(&key(owner, name))?;
        let mut alias = alias.ok_or_else(|| missing(name))?;
        call.expect(&show(&alias))?;
        patch(&mut alias, &fields)?;
        alias.modified = Timestamp::now();
        check(open, &alias)?;
        open.put(&alias)?;
        Ok(alias)
    })?;
    host.versions_changed();
    warned(&fields, tagged(&show(&alias))?)
}

fn patch(alias: &mut Alias, fields: &Fields<'_>) -> Result<(), Refusal> {
    let policy = fields.text("resolvePolicy")?;
    if policy.is_some_and(|policy| !policy.eq_ignore_ascii_case("random"))
        || fields.get("routePolicy").is_some_and(has_content)
    {
        return Err(Refusal::invalid(
            "resolvePolicy, routePolicy: versions are chosen by weight here (Random)",
        ));
    }
    if let Some(version) = fields.text("versionId")? {
        version.clone_into(&mut alias.version);
    }
    if let Some(description) = fields.text("description")? {
        description.clone_into(&mut alias.description);
    }
    if let Some(pairs) = fields.pairs("additionalVersionWeight")? {
        let weight = |(version, text): (String, String)| {
            let weight = text.parse().ok().filter(|it| (0.0..=1.0).contains(it));
            let weight: Option<f64> = weight;
            weight.map(|weight| (version, weight))
        };
        let weights: Option<BTreeMap<_, _>> = pairs.into_iter().map(weight).collect();
        let weights = weights.filter(|all| all.len() <= 1);
        alias.weights = weights.ok_or_else(|| {
            Refusal::invalid("additionalVersionWeight has to have one version, from 0 to 1")
        })?;
    }
    Ok(())
}

/// Its versions have to be there.
fn check(open: &Change, alias: &Alias) -> Result<(), Refusal> {
    for version in std::iter::once(&alias.version).chain(alias.weights.keys()) {
        if version == LATEST {
            continue;
        }
        let key = versions::key(&alias.owner, version);
        let key = key.ok_or_else(|| versions::missing(version))?;
        open.get::<Version>(&key)?
            .ok_or_else(|| versions::missing(version))?;
    }
    Ok(())
}

fn show(alias: &Alias) -> Value {
    json!({
        "aliasName": alias.name,
        "versionId": alias.version,
        "description": alias.description,
        "additionalVersionWeight": alias.weights,
        "createdTime": super::function::time(alias.created),
        "lastModifiedTime": super::function::time(alias.modified),
    })
}
