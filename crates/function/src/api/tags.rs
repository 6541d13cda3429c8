//! Tags of services and functions: `/tag`, in 2023 `/tags-v2`.
//!
//! A resource is named as Function Compute does it, `acs:fc:REGION:ACCOUNT:services/S[/functions/F]` or
//! `acs:fc:REGION:ACCOUNT:functions/F`, or by what stands behind the account alone. Its tags go with it.

use std::collections::{BTreeMap, BTreeSet};

use hyper::{Method, Response};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::{Call, Dialect, deleted, fields, flat_name, full_name, json, list, not_supported};
use crate::catalog::{Change, Entity, Table, function_key};
use crate::error::Refusal;
use crate::fields::Fields;
use crate::host::Host;
use crate::http::Body;
use crate::model::{Function, FunctionName, Service};

/// Tags that a resource has at most, and characters of a key or value.
const MAX_TAGS: usize = 20;
const MAX_TEXT: usize = 128;
/// Resources that one call names at most.
const MAX_RESOURCES: usize = 50;

/// What can have tags.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
enum Resource {
    Service(String),
    Function(FunctionName),
}

impl Resource {
    fn parse(text: &str) -> Option<Self> {
        let path = match text.strip_prefix("acs:fc:") {
            Some(rest) => rest.splitn(3, ':').nth(2)?,
            None => text,
        };
        match path.split('/').collect::<Vec<_>>().as_slice() {
            ["services", service] => Some(Self::Service((*service).to_owned())),
            ["services", service, "functions", function] => {
                Some(Self::Function(full_name(service, function)))
            }
            ["functions", function] => Some(Self::Function(flat_name(function))),
            _ => None,
        }
    }

    fn named(text: &str) -> Result<Self, Refusal> {
        Self::parse(text).ok_or_else(|| {
            Refusal::invalid(format!(
                "the resource {text:?} is neither a service nor a function, such as \
                 acs:fc:REGION:ACCOUNT:services/SERVICE/functions/FUNCTION"
            ))
        })
    }

    /// The resource of that name, which has to be there.
    fn find(open: &Change, text: &str) -> Result<Self, Refusal> {
        let resource = Self::named(text)?;
        match &resource {
            Self::Service(name) => {
                let found: Option<Service> = open.get(name)?;
                found.ok_or_else(|| super::services::missing(name))?;
            }
            Self::Function(name) => {
                let found: Option<Function> = open.get(&function_key(name))?;
                found.ok_or_else(|| super::functions::missing(name))?;
            }
        }
        Ok(resource)
    }

    fn key(&self) -> String {
        match self {
            Self::Service(name) => name.clone(),
            Self::Function(name) => function_key(name),
        }
    }

    fn arn(&self, call: &Call) -> String {
        let (region, account) = (&call.place.region, &call.place.account);
        let path = match (self, call.dialect) {
            (Self::Service(name), _) => format!("services/{name}"),
            (Self::Function(name), Dialect::V2023) => format!("functions/{}", name.flat()),
            (Self::Function(name), _) if name.service.is_empty() => {
                format!("functions/{}", name.function)
            }
            (Self::Function(name), _) => {
                format!("services/{}/functions/{}", name.service, name.function)
            }
        };
        format!("acs:fc:{region}:{account}:{path}")
    }
}

/// The tags of a resource.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Tags {
    resource: Resource,
    tags: BTreeMap<String, String>,
}

impl Entity for Tags {
    const TABLE: Table = Table::new("tags");
    fn key(&self) -> String {
        self.resource.key()
    }
}

/// `/tag` of 2016 and 2021.
pub(super) fn one(host: &Host, call: &Call) -> Result<Response<Body>, Refusal> {
    match call.method {
        Method::GET => {
            let arn = call.query.get("resourceArn");
            let arn = arn.ok_or_else(|| Refusal::invalid("resourceArn is missing"))?;
            let resource = Resource::named(arn)?;
            match &resource {
                Resource::Service(name) => drop(super::services::find(host, name)?),
                Resource::Function(name) => drop(host.function(name, "")?),
            }
            let tags: Option<Tags> = host.catalog.get(&resource.key())?;
            let tags = tags.map(|found| found.tags).unwrap_or_default();
            json(&json!({ "resourceArn": arn, "tags": tags }))
        }
        Method::POST => {
            let body = call.json()?;
            let fields = fields(&body)?;
            let tags = fields.pairs("tags")?.unwrap_or_default();
            let arn = fields.required("resourceArn")?;
            host.catalog.change(|open| add(open, &[arn], &tags))?;
            json(&json!({}))
        }
        Method::PUT | Method::DELETE => {
            let body = call.json()?;
            let fields = fields(&body)?;
            let keys = fields.texts("tagKeys")?.unwrap_or_default();
            let all = fields.flag("all")?.unwrap_or(false);
            let arn = fields.required("resourceArn")?;
            host.catalog
                .change(|open| remove(open, &[arn], (!all).then_some(&keys)))?;
            json(&json!({}))
        }
        _ => Err(not_supported(call)),
    }
}

/// The names of the services that have all of these tags.
pub(super) fn services_with(
    host: &Host,
    wanted: &[(&str, &str)],
) -> Result<BTreeSet<String>, Refusal> {
    let all: Vec<Tags> = host.catalog.list("")?;
    let has = |it: &Tags, key: &str, value: &str| it.tags.get(key).is_some_and(|own| own == value);
    let found = all.into_iter().filter_map(|it| {
        let has_all = wanted.iter().all(|(key, value)| has(&it, key, value));
        match it.resource {
            Resource::Service(name) if has_all => Some(name),
            _ => None,
        }
    });
    Ok(found.collect())
}

/// `/tags` of 2021: all resources that have some.
pub(super) fn tagged(host: &Host, call: &Call) -> Result<Response<Body>, Refusal> {
    let all: Vec<Tags> = host.catalog.list("")?;
    let items = all.iter().map(|it| {
        let arn = it.resource.arn(call);
        (arn.clone(), json!({ "resourceArn": arn, "tags": it.tags }))
    });
    json(&list::page(call, "resources", items.collect())?)
}

/// `/tags-v2` of 2023.
pub(super) fn several(host: &Host, call: &Call) -> Result<Response<Body>, Refusal> {
    let listed = |name: &str| {
        let text = call.query.get(name).unwrap_or("[]");
        let value: Value = serde_json::from_str(text)
            .map_err(|_| Refusal::invalid(format!("{name} has to be a list as JSON")))?;
        Ok::<_, Refusal>(value)
    };
    match call.method {
        Method::GET => {
            let wanted = texts(&listed("ResourceId")?, "ResourceId")?;
            json(&found(host, call, &wanted, &pairs(&listed("Tag")?)?)?)
        }
        Method::POST => {
            let body = call.json()?;
            let fields = fields(&body)?;
            let resources = fields.texts("ResourceId")?.unwrap_or_default();
            let tags = pairs(fields.get("Tag").unwrap_or(&Value::Null))?;
            let resources: Vec<&str> = resources.iter().map(String::as_str).collect();
            host.catalog.change(|open| add(open, &resources, &tags))?;
            deleted()
        }
        Method::DELETE => {
            let resources = texts(&listed("ResourceId")?, "ResourceId")?;
            let keys = texts(&listed("TagKey")?, "TagKey")?;
            let all = call.query.get("All");
            let all = all.is_some_and(|all| all.eq_ignore_ascii_case("true"));
            let resources: Vec<&str> = resources.iter().map(String::as_str).collect();
            host.catalog
                .change(|open| remove(open, &resources, (!all).then_some(&keys)))?;
            deleted()
        }
        _ => Err(not_supported(call)),
    }
}

/// One line for each tag of the resources that are wanted; with none named, of all.
fn found(
    host: &Host,
    call: &Call,
    wanted: &[String],
    tags: &[(String, String)],
) -> Result<Value, Refusal> {
    let wanted: Vec<Resource> = wanted.iter().filter_map(|it| Resource::parse(it)).collect();
    let all: Vec<Tags> = host.catalog.list("")?;
    let all = all.iter().filter(|it| {
        let named = wanted.is_empty() || wanted.contains(&it.resource);
        named
            && tags
                .iter()
                .all(|(key, value)| it.tags.get(key) == Some(value))
    });
    let lines = all.flat_map(|it| {
        let arn = it.resource.arn(call);
        let kind = match it.resource {
            Resource::Service(_) => "service",
            Resource::Function(_) => "function",
        };
        it.tags.iter().map(move |(key, value)| {
            let line = json!({
                "ResourceId": arn, "ResourceType": kind, "TagKey": key, "TagValue": value,
            });
            (format!("{arn}#{key}"), line)
        })
    });
    let mut page = list::page(call, "TagResources", lines.collect())?;
    if let Some(token) = page.get("nextToken").cloned() {
        page["NextToken"] = token;
    }
    page["RequestId"] = json!(call.request_id);
    Ok(page)
}

/// The tags of a function that is made (`[{Key, Value}]`).
pub(super) fn of_new(
    open: &Change,
    name: &FunctionName,
    fields: &Fields<'_>,
) -> Result<(), Refusal> {
    let Some(value) = fields.get("tags") else {
        return Ok(());
    };
    put(open, Resource::Function(name.clone()), &pairs(value)?)
}

/// The tags of a function, as it is shown.
pub(super) fn shown(host: &Host, name: &FunctionName) -> Result<Option<Value>, Refusal> {
    let found: Option<Tags> = host.catalog.get(&function_key(name))?;
    let found = found.filter(|found| !found.tags.is_empty());
    let pairs = found.map(|found| {
        let pairs = found.tags.into_iter();
        pairs
            .map(|(key, value)| json!({ "Key": key, "Value": value }))
            .collect()
    });
    Ok(pairs)
}

/// The function is gone.
pub(super) fn forget_function(open: &Change, name: &FunctionName) -> Result<(), Refusal> {
    open.remove::<Tags>(&function_key(name))?;
    Ok(())
}

/// The service is gone.
pub(super) fn forget_service(open: &Change, name: &str) -> Result<(), Refusal> {
    open.remove::<Tags>(name)?;
    Ok(())
}

fn add(open: &Change, resources: &[&str], tags: &[(String, String)]) -> Result<(), Refusal> {
    if tags.is_empty() || resources.is_empty() || resources.len() > MAX_RESOURCES {
        return Err(Refusal::invalid(format!(
            "a call has at least one tag, and from 1 to {MAX_RESOURCES} resources"
        )));
    }
    for name in resources {
        put(open, Resource::find(open, name)?, tags)?;
    }
    Ok(())
}

fn put(open: &Change, resource: Resource, tags: &[(String, String)]) -> Result<(), Refusal> {
    let before: Option<Tags> = open.get(&resource.key())?;
    let mut all = before.map(|before| before.tags).unwrap_or_default();
    all.extend(tags.iter().cloned());
    let fits = |text: &str| text.chars().count() <= MAX_TEXT;
    let good = |(key, value): (&String, &String)| !key.is_empty() && fits(key) && fits(value);
    if all.len() > MAX_TAGS || !all.iter().all(good) {
        return Err(Refusal::invalid(format!(
            "a resource has at most {MAX_TAGS} tags, with keys of 1 to {MAX_TEXT} characters and \
             values of at most {MAX_TEXT}"
        )));
    }
    open.put(&Tags {
        resource,
        tags: all,
    })?;
    Ok(())
}

/// `keys`: `None` stands for all.
fn remove(open: &Change, resources: &[&str], keys: Option<&Vec<String>>) -> Result<(), Refusal> {
    for name in resources {
        let resource = Resource::find(open, name)?;
        let Some(mut tags) = open.get::<Tags>(&resource.key())? else {
            continue;
        };
        tags.tags
            .retain(|key, _| keys.is_some_and(|keys| !keys.contains(key)));
        if tags.tags.is_empty() {
            open.remove::<Tags>(&resource.key())?;
        } else {
            open.put(&tags)?;
        }
    }
    Ok(())
}

fn texts(value: &Value, name: &str) -> Result<Vec<String>, Refusal> {
    let wrong = || Refusal::invalid(format!("{name} has to be a list of strings as JSON"));
    let list = value.as_array().ok_or_else(wrong)?;
    let texts = list.iter().map(|text| text.as_str().map(str::to_owned));
    texts.collect::<Option<_>>().ok_or_else(wrong)
}

/// `[{Key, Value}]`, in any case.
fn pairs(value: &Value) -> Result<Vec<(String, String)>, Refusal> {
    let Value::Array(list) = value else {
        return Ok(Vec::new());
    };
    let pair = |value: &Value| {
        let fields = Fields::of(value)?;
        let text = fields.text("value")?.unwrap_or_default();
        Ok((fields.required("key")?.to_owned(), text.to_owned()))
    };
    list.iter().map(pair).collect()
}
