//! Triggers of a function.

use hyper::{Method, Response};
use jiff::Timestamp;
use serde_json::{Value, json};

use super::{Call, Dialect, deleted, fields, list, not_supported, stored, tagged_as, warned};
use crate::catalog::function_key;
use crate::error::Refusal;
use crate::fields::Fields;
use crate::host::Host;
use crate::http::Body;
use crate::model::{Function, FunctionName, Trigger, TriggerKind, check_name};
use crate::schedule::Schedule;
use crate::unique;

pub(super) fn operate(
    host: &Host,
    call: &Call,
    function: &FunctionName,
    segments: &[&str],
) -> Result<Response<Body>, Refusal> {
    match (&call.method, segments) {
        (&Method::GET, []) => {
            host.function(function, "")?;
            let prefix = format!("{}/", function_key(function));
            let triggers: Vec<Trigger> = host.catalog.list(&prefix)?;
            let items = triggers.iter().map(|it| (it.name.clone(), show(call, it)));
            super::json(&list::page(call, "triggers", items.collect())?)
        }
        (&Method::POST, []) => create(host, call, function),
        (&Method::GET, [name]) => {
            let trigger: Option<Trigger> = host.catalog.get(&key(function, name))?;
            let trigger = trigger.ok_or_else(|| missing(function, name))?;
            tagged_as(&show(call, &trigger), &stored(&trigger)?)
        }
        (&Method::PUT, [name]) => update(host, call, function, name),
        (&Method::DELETE, [name]) => {
            host.catalog.change(|open| {
                let key = key(function, name);
                let trigger: Option<Trigger> = open.get(&key)?;
                let trigger = trigger.ok_or_else(|| missing(function, name))?;
                call.expect(&stored(&trigger)?)?;
                open.remove::<Trigger>(&key)?;
                Ok(())
            })?;
            host.triggers_changed();
            deleted()
        }
        _ => Err(not_supported(call)),
    }
}

fn key(function: &FunctionName, name: &str) -> String {
    format!("{}/{name}", function_key(function))
}

fn missing(function: &FunctionName, name: &str) -> Refusal {
    let message = format!("trigger '{name}' of function '{function}' does not exist");
    Refusal::missing("TriggerNotFound", message)
}

fn create(host: &Host, call: &Call, function: &FunctionName) -> Result<Response<Body>, Refusal> {
    let body = call.json()?;
    let fields = fields(&body)?;
    let name = fields.required("triggerName")?;
    check_name("triggerName", name, 128)?;
    let config = config(&fields)?;
    let config = config.ok_or_else(|| Refusal::invalid("triggerConfig is missing"))?;
    let of_config = Fields::of(&config)?;
    let kind = kind(fields.required("triggerType")?, &of_config)?;
    let now = Timestamp::now();
    let text = |name| Ok::<_, Refusal>(fields.text(name)?.unwrap_or_default().to_owned());
    let trigger = Trigger {
        function: function.clone(),
        name: name.to_owned(),
        id: unique::id(),
        description: text("description")?,
        qualifier: text("qualifier")?,
        source_arn: text("sourceArn")?,
        role: text("invocationRole")?,
        kind,
        config: config.clone(),
        created: now,
        modified: now,
    };
    host.catalog.change(|open| {
        let exists = open.get::<Function>(&function_key(function))?;
        exists.ok_or_else(|| {
            let message = format!("function '{function}' does not exist");
            Refusal::missing("FunctionNotFound", message)
        })?;
        let others: Vec<Trigger> = open.list(&format!("{}/", function_key(function)))?;
        if others.iter().any(|other| other.name == name) {
            let message = format!("trigger '{name}' exists already");
            return Err(Refusal::conflict("TriggerAlreadyExists", message));
        }
        let is_http = |it: &Trigger| matches!(it.kind, TriggerKind::Http { .. });
        let same = |it: &&Trigger| is_http(it) && it.qualifier == trigger.qualifier;
        if let Some(other) = others.iter().find(same).filter(|_| is_http(&trigger)) {
            let message = format!("there is an HTTP trigger already: '{}'", other.name);
            return Err(Refusal::conflict("TriggerAlreadyExists", message));
        }
        Ok(open.put(&trigger)?)
    })?;
    host.triggers_changed();
    let answer = tagged_as(&show(call, &trigger), &stored(&trigger)?)?;
    warned(&of_config, warned(&fields, answer)?)
}

fn update(
    host: &Host,
    call: &Call,
    function: &FunctionName,
    name: &str,
) -> Result<Response<Body>, Refusal> {
    let body = call.json()?;
    let fields = fields(&body)?;
    let config = config(&fields)?;
    let nothing = json!({});
    let of_config = Fields::of(config.as_ref().unwrap_or(&nothing))?;
    let trigger = host.catalog.change(|open| {
        let trigger: Option<Trigger> = open.get(&key(function, name))?;
        let mut trigger = trigger.ok_or_else(|| missing(function, name))?;
        call.expect(&stored(&trigger)?)?;
        if let Some(config) = &config {
            trigger.kind = kind(trigger.kind.name(), &of_config)?;
            trigger.config = config.clone();
        }
        for (field, place) in [
            ("description", &mut trigger.description),
            ("qualifier", &mut trigger.qualifier),
            ("invocationRole", &mut trigger.role),
        ] {
            if let Some(text) = fields.text(field)? {
                text.clone_into(place);
            }
        }
        trigger.modified = Timestamp::now();
        open.put(&trigger)?;
        Ok(trigger)
    })?;
    host.triggers_changed();
    let answer = tagged_as(&show(call, &trigger), &stored(&trigger)?)?;
    warned(&of_config, warned(&fields, answer)?)
}

/// The configuration: an object, or a text of JSON as later versions write it.
fn config(fields: &Fields<'_>) -> Result<Option<Value>, Refusal> {
    let wrong = || Refusal::invalid("triggerConfig has to be a JSON object");
    let config = match fields.get("triggerConfig") {
        None => return Ok(None),
        Some(Value::String(text)) => serde_json::from_str(text).map_err(|_| wrong())?,
        Some(value) => value.clone(),
    };
    match config {
        Value::Object(_) => Ok(Some(config)),
        _ => Err(wrong()),
    }
}

fn kind(name: &str, config: &Fields<'_>) -> Result<TriggerKind, Refusal> {
    match name.to_ascii_lowercase().as_str() {
        "http" => http(config),
        "timer" => timer(config),
        "oss" => object(config),
        _ => Err(Refusal::invalid(format!(
            "triggerType {name:?} is not here: there are http, timer and oss"
        ))),
    }
}

fn http(fields: &Fields<'_>) -> Result<TriggerKind, Refusal> {
    let anonymous = match fields.text("authType")?.unwrap_or("function") {
        text if text.eq_ignore_ascii_case("anonymous") => true,
        text if text.eq_ignore_ascii_case("function") => false,
        other => {
            return Err(Refusal::invalid(format!(
                "triggerConfig.authType {other:?} is not here: there are anonymous and function"
            )));
        }
    };
    fields.keep("disableURLInternet");
    let methods = fields.texts("methods")?.unwrap_or_default();
    let methods = methods.iter().map(|method| method.to_ascii_uppercase());
    Ok(TriggerKind::Http {
        anonymous,
        methods: methods.collect(),
    })
}

fn timer(fields: &Fields<'_>) -> Result<TriggerKind, Refusal> {
    let schedule = fields.required("cronExpression")?;
    Schedule::parse(schedule)
        .map_err(|error| Refusal::invalid(format!("triggerConfig.cronExpression: {error}")))?;
    Ok(TriggerKind::Timer {
        schedule: schedule.to_owned(),
        enabled: fields.flag("enable")?.unwrap_or(true),
        payload: fields.text("payload")?.unwrap_or_default().to_owned(),
    })
}

fn object(fields: &Fields<'_>) -> Result<TriggerKind, Refusal> {
    let events = fields.texts("events")?.unwrap_or_default();
    if events.is_empty() {
        return Err(Refusal::invalid(
            "triggerConfig.events is missing: e.g. [\"oss:ObjectCreated:*\"]",
        ));
    }
    let filter = fields.object("filter")?;
    let key = filter.map(|filter| filter.object("key")).transpose()?;
    let key = key.flatten();
    let part = |name| {
        let text = key.as_ref().map(|key| key.text(name)).transpose()?;
        Ok::<_, Refusal>(text.flatten().unwrap_or_default().to_owned())
    };
    Ok(TriggerKind::Object {
        events,
        prefix: part("prefix")?,
        suffix: part("suffix")?,
    })
}

fn show(call: &Call, trigger: &Trigger) -> Value {
    let config = match call.dialect {
        Dialect::V2016 => trigger.config.clone(),
        _ => json!(trigger.config.to_string()),
    };
    let mut shown = json!({
        "triggerName": trigger.name,
        "triggerId": trigger.id,
        "triggerType": trigger.kind.name(),
        "triggerConfig": config,
        "description": trigger.description,
        "qualifier": trigger.qualifier,
        "sourceArn": trigger.source_arn,
        "invocationRole": trigger.role,
        "createdTime": super::function::time(trigger.created),
        "lastModifiedTime": super::function::time(trigger.modified),
    });
    if matches!(trigger.kind, TriggerKind::Http { .. }) {
        let url = format!("{}{}", call.origin, crate::proxy::path(trigger));
        match call.dialect {
            Dialect::V2023 => {
                shown["httpTrigger"] = json!({ "urlInternet": url, "urlIntranet": url })
            }
            _ => {
                shown["urlInternet"] = json!(url);
                shown["urlIntranet"] = json!(url);
            }
        }
    }
    shown
}
