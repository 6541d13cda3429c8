//! How a function is invoked asynchronously, and how many instances it has.

use hyper::{Method, Response};
use jiff::Timestamp;
use serde_json::{Value, json};

use super::{Call, Dialect, deleted, fields, json, not_supported, warned};
use crate::catalog::{Entity, function_key};
use crate::error::Refusal;
use crate::fields::Fields;
use crate::host::Host;
use crate::http::Body;
use crate::model::{AsyncConfig, FunctionName, LATEST, Scaling};

/// `async-invoke-config`.
pub(super) fn async_config(
    host: &Host,
    call: &Call,
    function: &FunctionName,
    qualifier: &str,
) -> Result<Response<Body>, Refusal> {
    host.function(function, "")?;
    let qualifier = plain(qualifier);
    let key = format!("{}/{qualifier}", function_key(function));
    let before: Option<AsyncConfig> = host.catalog.get(&key)?;
    let missing = || {
        let message = format!("function '{function}' has no configuration of asynchronous calls");
        Refusal::missing("AsyncConfigNotExists", message)
    };
    match call.method {
        Method::GET => json(&show_async(call, &before.ok_or_else(missing)?)),
        Method::PUT => {
            let body = call.json()?;
            let fields = fields(&body)?;
            let config = read_async(&fields, before, function, qualifier)?;
            host.catalog.put(&config)?;
            warned(&fields, json(&show_async(call, &config))?)
        }
        Method::DELETE => {
            let removed = host
                .catalog
                .change(|open| Ok(open.remove::<AsyncConfig>(&key)?))?;
            if removed { deleted() } else { Err(missing()) }
        }
        _ => Err(not_supported(call)),
    }
}

fn read_async(
    fields: &Fields<'_>,
    before: Option<AsyncConfig>,
    function: &FunctionName,
    qualifier: &str,
) -> Result<AsyncConfig, Refusal> {
    let now = Timestamp::now();
    let mut config = before.unwrap_or_else(|| AsyncConfig::plain(function, qualifier, now));
    config.modified = now;
    let retries = fields.number("maxAsyncRetryAttempts", 0..=8)?;
    config.retries = retries.unwrap_or(config.retries);
    let age = fields.number("maxAsyncEventAgeInSeconds", 1..=604_800)?;
    config.max_age = age.unwrap_or(config.max_age);
    let stateful = fields.flag("statefulInvocation")?;
    let stateful = stateful.or(fields.flag("asyncTask")?);
    config.stateful = stateful.unwrap_or(config.stateful);
    if let Some(destinations) = fields.object("destinationConfig")? {
        for (name, place) in [
            ("onSuccess", &mut config.on_success),
            ("onFailure", &mut config.on_failure),
        ] {
            if let Some(destination) = destinations.object(name)? {
                *place = destination
                    .text("destination")?
                    .unwrap_or_default()
                    .to_owned();
                crate::destination::check(place)?;
            }
        }
    }
    Ok(config)
}

pub(super) fn show_async(call: &Call, config: &AsyncConfig) -> Value {
    let destination = |text: &str| match text {
        "" => Value::Null,
        text => json!({ "destination": text }),
    };
    json!({
        "service": config.function.service,
        "function": config.function.function,
        "functionArn": arn(call, &config.function),
        "qualifier": config.qualifier,
        "maxAsyncRetryAttempts": config.retries,
        "maxAsyncEventAgeInSeconds": config.max_age,
        "statefulInvocation": config.stateful,
        "asyncTask": config.stateful,
        "destinationConfig": {
            "onSuccess": destination(&config.on_success),
            "onFailure": destination(&config.on_failure),
        },
        "createdTime": super::function::time(config.created),
        "lastModifiedTime": super::function::time(config.modified),
    })
}

/// `on-demand-config` (`maximumInstanceCount`), in 2023 `concurrency` (`reservedConcurrency`).
pub(super) fn most(
    host: &Host,
    call: &Call,
    function: &FunctionName,
    qualifier: &str,
) -> Result<Response<Body>, Refusal> {
    let mut scaling = scaling(host, function, qualifier)?;
    match call.method {
        Method::GET => json(&show_most(call, function, &scaling)),
        Method::PUT => {
            let field = most_field(call);
            let body = call.json()?;
            let fields = fields(&body)?;
            let most = fields.number(field, 0..=10_000)?;
            let most = most.ok_or_else(|| Refusal::invalid(format!("{field} is missing")))?;
            scaling.most = Some(most);
            change(host, &scaling)?;
            warned(&fields, json(&show_most(call, function, &scaling))?)
        }
        Method::DELETE => {
            scaling.most = None;
            change(host, &scaling)?;
            deleted()
        }
        _ => Err(not_supported(call)),
    }
}

const fn most_field(call: &Call) -> &'static str {
    match call.dialect {
        Dialect::V2023 => "reservedConcurrency",
        _ => "maximumInstanceCount",
    }
}

pub(super) fn show_most(call: &Call, function: &FunctionName, scaling: &Scaling) -> Value {
    let mut shown = json!({
        "resource": resource(call, function, &scaling.qualifier),
        "functionArn": arn(call, function),
    });
    if let Some(most) = scaling.most {
        shown[most_field(call)] = json!(most);
    }
    shown
}

/// `provision-config` (`target`), in 2023 also `scaling-config` (`minInstances`).
pub(super) fn least(
    host: &Host,
    call: &Call,
    function: &FunctionName,
    qualifier: &str,
) -> Result<Response<Body>, Refusal> {
    let mut scaling = scaling(host, function, qualifier)?;
    match call.method {
        Method::GET => json(&show_least(host, call, function, &scaling)),
        Method::PUT => {
            let body = call.json()?;
            let fields = fields(&body)?;
            let mut least = None;
            for field in ["target", "defaultTarget", "minInstances"] {
                least = least.or(fields.number(field, 0..=1000)?);
            }
            scaling.least = least.ok_or_else(|| Refusal::invalid("target is missing"))?;
            change(host, &scaling)?;
            warned(&fields, json(&show_least(host, call, function, &scaling))?)
        }
        Method::DELETE => {
            scaling.least = 0;
            change(host, &scaling)?;
            deleted()
        }
        _ => Err(not_supported(call)),
    }
}

pub(super) fn show_least(
    host: &Host,
    call: &Call,
    function: &FunctionName,
    scaling: &Scaling,
) -> Value {
    let current = host.instances_of(function, &scaling.qualifier);
    json!({
        "target": scaling.least,
        "defaultTarget": scaling.least,
        "minInstances": scaling.least,
        "targetInstances": scaling.least,
        "current": current,
        "currentInstances": current,
        "resource": resource(call, function, &scaling.qualifier),
        "functionArn": arn(call, function),
    })
}

fn scaling(host: &Host, function: &FunctionName, qualifier: &str) -> Result<Scaling, Refusal> {
    host.function(function, "")?;
    let empty = Scaling {
        function: Some(function.clone()),
        qualifier: plain(qualifier).to_owned(),
        ..Scaling::default()
    };
    Ok(host.catalog.get(&empty.key())?.unwrap_or(empty))
}

fn change(host: &Host, scaling: &Scaling) -> Result<(), Refusal> {
    host.catalog.put(scaling)?;
    host.scaling_changed();
    Ok(())
}

/// The latest version has two names.
pub(super) fn plain(qualifier: &str) -> &str {
    if qualifier == LATEST { "" } else { qualifier }
}

pub(super) fn resource(call: &Call, function: &FunctionName, qualifier: &str) -> String {
    let account = &call.place.account;
    let qualifier = if qualifier.is_empty() {
        LATEST
    } else {
        qualifier
    };
    match function.service.as_str() {
        "" => format!("{account}#{}#{qualifier}", function.function),
        service => format!("{account}#{service}#{qualifier}#{}", function.function),
    }
}

fn arn(call: &Call, function: &FunctionName) -> String {
    let crate::contract::Place { region, account } = &*call.place;
    format!("acs:fc:{region}:{account}:functions/{}", function.flat())
}
