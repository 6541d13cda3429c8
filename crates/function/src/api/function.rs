//! A function's configuration as each version of the API writes it.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde_json::{Map, Value, json};

use super::{Call, Dialect};
use crate::contract::Place;
use crate::error::Refusal;
use crate::fields::{Fields, has_content};
use crate::model::{Acceleration, Config, Function, HealthCheck, Hook};

/// Given back as they came: a function runs here as well without them.
const KEPT: [&str; 13] = [
    "role",
    "logConfig",
    "vpcConfig",
    "nasConfig",
    "tracingConfig",
    "ossMountConfig",
    "customDNS",
    "instanceType",
    "instanceSoftConcurrency",
    "disableOndemand",
    "resourceGroupId",
    "idleTimeout",
    "layers",
];

/// Bytes that names and values of the environment may have together.
const MAX_ENVIRONMENT: usize = 4 << 10;

/// Brings the fields of a request into a configuration; those that are not there stay.
///
/// # Errors
/// [`Refusal`] that names the field.
pub(crate) fn patch(
    config: &mut Config,
    fields: &Fields<'_>,
    dialect: Dialect,
) -> Result<(), Refusal> {
    refuse_unable(fields)?;
    if let Some(text) = fields.text("description")? {
        text.clone_into(&mut config.description);
    }
    if let Some(text) = fields.text("handler")? {
        text.clone_into(&mut config.handler);
    }
    let number = |name, range| fields.number(name, range);
    config.timeout = number("timeout", 1..=86_400)?.unwrap_or(config.timeout);
    config.memory = number("memorySize", 128..=32_768)?.unwrap_or(config.memory);
    config.disk = number("diskSize", 64..=102_400)?.unwrap_or(config.disk);
    let concurrency = number("instanceConcurrency", 1..=200)?;
    config.concurrency = concurrency.unwrap_or(config.concurrency);
    config.cpu = fields.fraction("cpu", 0.05..=64.0)?.or(config.cpu);
    config.internet = fields.flag("internetAccess")?.or(config.internet);
    if let Some(pairs) = fields.pairs("environmentVariables")? {
        config.environment = environment(pairs)?;
    }
    if dialect != Dialect::V2023 {
        config.port = port(fields, "caPort")?.unwrap_or(config.port);
        if let Some(check) = fields.object("customHealthCheckConfig")? {
            config.health = health(&check)?;
        }
        if let Some(handler) = fields.text("initializer")? {
            let timeout = number("initializationTimeout", 1..=600)?.unwrap_or(3);
            let handler = handler.to_owned();
            config.initializer = Some(Hook { handler, timeout });
        }
    }
    if let Some(hooks) = fields.object("instanceLifecycleConfig")? {
        lifecycle(config, &hooks)?;
    }
    if let Some(container) = fields.object("customContainerConfig")? {
        image(config, &container, dialect)?;
    }
    if !config.container.is_server() {
        refuse_requests(config)?;
    }
    keep(&mut config.kept, fields);
    Ok(())
}

/// Nobody would hear the requests that the host makes of a server.
fn refuse_requests(config: &Config) -> Result<(), Refusal> {
    let has = [
        (config.initializer.is_some(), "an initializer"),
        (config.pre_freeze.is_some(), "a preFreeze hook"),
        (config.pre_stop.is_some(), "a preStop hook"),
        (config.health.is_some(), "a health check"),
    ];
    let Some((_, what)) = has.iter().find(|(has, _)| *has) else {
        return Ok(());
    };
    Err(Refusal::invalid(format!(
        "customContainerConfig.webServerMode: a function that is no server cannot have {what}"
    )))
}

fn lifecycle(config: &mut Config, hooks: &Fields<'_>) -> Result<(), Refusal> {
    if let Some(it) = hooks.object("initializer")? {
        config.initializer = hook(&it)?;
    }
    if let Some(it) = hooks.object("preFreeze")? {
        config.pre_freeze = hook(&it)?;
    }
    if let Some(it) = hooks.object("preStop")? {
        config.pre_stop = hook(&it)?;
    }
    Ok(())
}

/// A hook without a handler is none.
fn hook(fields: &Fields<'_>) -> Result<Option<Hook>, Refusal> {
    let timeout = fields.number("timeout", 1..=600)?.unwrap_or(3);
    if fields.get("command").is_some() {
        return Err(Refusal::invalid(
            "instanceLifecycleConfig: a command cannot be run as a hook here; have the container \
             answer the request instead (handler)",
        ));
    }
    let handler = fields.text("handler")?.map(str::to_owned);
    Ok(handler.map(|handler| Hook { handler, timeout }))
}

fn image(config: &mut Config, fields: &Fields<'_>, dialect: Dialect) -> Result<(), Refusal> {
    let container = &mut config.container;
    if let Some(image) = fields.text("image")? {
        // A tag that was moved is followed when its image is named again, and only then.
        container.digest = None;
        image.clone_into(&mut container.image);
    }
    let (program, arguments) = match dialect {
        Dialect::V2023 => ("entrypoint", "command"),
        _ => ("command", "args"),
    };
    if let Some(list) = fields.texts(program)? {
        container.command = list;
    }
    if let Some(list) = fields.texts(arguments)? {
        container.arguments = list;
    }
    // A field that is left out means the default, which is that it is accelerated.
    container.acceleration = match fields.text("accelerationType")? {
        None => Acceleration::Default,
        Some(text) if text.eq_ignore_ascii_case("default") => Acceleration::Default,
        Some(text) if text.eq_ignore_ascii_case("none") => Acceleration::None,
        Some(_) => {
            return Err(Refusal::invalid(
                "customContainerConfig.accelerationType has to be Default or None",
            ));
        }
    };
    container.web_server = fields.flag("webServerMode")?.or(container.web_server);
    if dialect == Dialect::V2023 {
        config.port = port(fields, "port")?.unwrap_or(config.port);
        if let Some(check) = fields.object("healthCheckConfig")? {
            config.health = health(&check)?;
        }
    }
    for name in ["instanceID", "acrInstanceId"] {
        if let Some(value) = fields.keep(name) {
            container.kept.insert(name.to_owned(), value.clone());
        }
    }
    if fields.get("registryConfig").is_some() {
        return Err(Refusal::invalid(
            "customContainerConfig.registryConfig: credentials of registries belong to the host \
             (thaw login)",
        ));
    }
    Ok(())
}

fn port(fields: &Fields<'_>, name: &str) -> Result<Option<u16>, Refusal> {
    let port = fields.number(name, 1..=65_535)?;
    Ok(port.and_then(|port| u16::try_from(port).ok()))
}

fn health(fields: &Fields<'_>) -> Result<Option<HealthCheck>, Refusal> {
    let Some(path) = fields.text("httpGetUrl")? else {
        return Ok(None);
    };
    let number = |name, otherwise| {
        let number = fields.number(name, 0..=3600)?;
        Ok::<_, Refusal>(number.unwrap_or(otherwise))
    };
    Ok(Some(HealthCheck {
        path: path.to_owned(),
        initial_delay: number("initialDelaySeconds", 0)?,
        period: number("periodSeconds", 3)?,
        timeout: number("timeoutSeconds", 1)?,
        failures: number("failureThreshold", 3)?,
        successes: number("successThreshold", 1)?,
    }))
}

fn environment(pairs: Vec<(String, String)>) -> Result<BTreeMap<String, String>, Refusal> {
    let size = pairs.iter().map(|(name, value)| name.len() + value.len());
    if size.sum::<usize>() > MAX_ENVIRONMENT {
        let message = format!("environmentVariables have more than {MAX_ENVIRONMENT} bytes");
        return Err(Refusal::invalid(message));
    }
    for (name, value) in &pairs {
        let bad = name.is_empty() || name.contains(['=', '\0']) || value.contains('\0');
        if bad || name.starts_with("FC_") {
            let message = "names must not begin with FC_, nor be empty or have = in them";
            return Err(Refusal::invalid(format!(
                "environmentVariables: {name:?}: {message}"
            )));
        }
    }
    Ok(pairs.into_iter().collect())
}

fn keep(kept: &mut Map<String, Value>, fields: &Fields<'_>) {
    for name in KEPT {
        if let Some(value) = fields.keep(name) {
            kept.insert(name.to_owned(), value.clone());
        }
    }
}

/// What a function would not work without, and what is not here.
fn refuse_unable(fields: &Fields<'_>) -> Result<(), Refusal> {
    let runtime = fields.text("runtime")?.unwrap_or("custom-container");
    if runtime != "custom-container" {
        return Err(Refusal::invalid(format!(
            "runtime {runtime:?} is not here: functions are images (custom-container)"
        )));
    }
    let gpus = fields.number("gpuMemorySize", 0..=u32::MAX)?.unwrap_or(0);
    if gpus > 0 || fields.get("gpuConfig").is_some_and(has_content) {
        return Err(Refusal::invalid(
            "gpuMemorySize, gpuConfig: there are no GPUs here",
        ));
    }
    if fields.get("layers").is_some_and(has_content) {
        return Err(Refusal::invalid("layers: an image has its own"));
    }
    if fields.get("microSandboxConfig").is_some_and(has_content) {
        return Err(Refusal::invalid(
            "microSandboxConfig is not supported here: leave it out",
        ));
    }
    // Requests would reach instances that they must not share, or not the one that knows them.
    for (name, only) in [
        ("instanceIsolationMode", "SHARE"),
        ("sessionAffinity", "NONE"),
    ] {
        if let Some(other) = fields
            .text(name)?
            .filter(|it| !it.eq_ignore_ascii_case(only))
        {
            return Err(Refusal::invalid(format!(
                "{name} {other:?} is not supported here: there is {only}"
            )));
        }
    }
    refuse_networks(fields)
}

/// Networks and filesystems that a function would miss.
pub(super) fn refuse_networks(fields: &Fields<'_>) -> Result<(), Refusal> {
    let within = |object: &str, field: &str| {
        let object = fields.object(object)?;
        let value = object.and_then(|object| object.get(field).cloned());
        Ok::<_, Refusal>(value.as_ref().is_some_and(has_content))
    };
    for (object, field) in [
        ("vpcConfig", "vpcId"),
        ("nasConfig", "mountPoints"),
        ("ossMountConfig", "mountPoints"),
        ("polarFsConfig", "mountPoints"),
        ("juiceFsConfig", "mountPoints"),
    ] {
        if within(object, field)? {
            let message = format!("{object} is not supported here: leave it out");
            return Err(Refusal::invalid(message));
        }
    }
    Ok(())
}

/// A time as the API writes it.
pub(super) fn time(time: Timestamp) -> String {
    time.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

/// A function as the API shows it. `status`: of its image's acceleration, where it has one.
pub(crate) fn show(function: &Function, status: Option<&str>, call: &Call) -> Value {
    let dialect = call.dialect;
    let config = &function.config;
    let mut shown = json!({
        "functionName": function.name.function,
        "functionId": function.id,
        "description": config.description,
        "runtime": "custom-container",
        "handler": config.handler,
        "timeout": config.timeout,
        "memorySize": config.memory,
        "cpu": config.cpus(),
        "diskSize": config.disk,
        "instanceConcurrency": config.concurrency,
        "environmentVariables": config.environment,
        "customContainerConfig": container(config, status, dialect),
        "codeSize": 0,
        "codeChecksum": config.container.checksum(),
        "createdTime": time(function.created),
        "lastModifiedTime": time(function.modified),
    });
    let Value::Object(fields) = &mut shown else {
        return shown;
    };
    fields.extend(config.kept.clone());
    fields.remove("tags");
    if dialect == Dialect::V2023 {
        in_2023(fields, function, &call.place);
    } else {
        before_2023(fields, config);
    }
    shown
}

fn container(config: &Config, status: Option<&str>, dialect: Dialect) -> Value {
    let container = &config.container;
    let mut shown = container.kept.clone();
    let mut put = |name: &str, value: Value| shown.insert(name.to_owned(), value);
    put("image", json!(container.image));
    let acceleration = match container.acceleration {
        Acceleration::Default => "Default",
        Acceleration::None => "None",
    };
    put("accelerationType", json!(acceleration));
    if let Some(status) = status {
        put("accelerationInfo", json!({ "status": status }));
    }
    if dialect == Dialect::V2023 {
        put("entrypoint", json!(container.command));
        put("command", json!(container.arguments));
        put("port", json!(config.port));
        put("resolvedImageUri", json!(container.pinned()));
        put(
            "healthCheckConfig",
            config.health.as_ref().map_or(Value::Null, show_health),
        );
    } else {
        let text = |list: &[String]| match list {
            [] => json!(""),
            list => json!(json!(list).to_string()),
        };
        put("command", text(&container.command));
        put("args", text(&container.arguments));
    }
    // Version 2023 does not know it: said there where it matters.
    if dialect != Dialect::V2023 || !container.is_server() {
        put("webServerMode", json!(container.is_server()));
    }
    Value::Object(shown)
}

fn show_hook(hook: Option<&Hook>) -> Value {
    hook.map_or(
        Value::Null,
        |hook| json!({ "handler": hook.handler, "timeout": hook.timeout }),
    )
}

fn show_health(check: &HealthCheck) -> Value {
    json!({
        "httpGetUrl": check.path,
        "initialDelaySeconds": check.initial_delay,
        "periodSeconds": check.period,
        "timeoutSeconds": check.timeout,
        "failureThreshold": check.failures,
        "successThreshold": check.successes,
    })
}

fn before_2023(shown: &mut Map<String, Value>, config: &Config) {
    shown.insert("caPort".to_owned(), json!(config.port));
    let initializer = config.initializer.as_ref();
    let (handler, timeout) = initializer.map_or(("", 3), |it| (it.handler.as_str(), it.timeout));
    shown.insert("initializer".to_owned(), json!(handler));
    shown.insert("initializationTimeout".to_owned(), json!(timeout));
    let hooks = json!({
        "preFreeze": show_hook(config.pre_freeze.as_ref()),
        "preStop": show_hook(config.pre_stop.as_ref()),
    });
    shown.insert("instanceLifecycleConfig".to_owned(), hooks);
    if let Some(check) = &config.health {
        shown.insert("customHealthCheckConfig".to_owned(), show_health(check));
    }
}

fn in_2023(shown: &mut Map<String, Value>, function: &Function, place: &Place) {
    let config = &function.config;
    let name = function.name.flat();
    let Place { region, account } = place;
    let arn = format!("acs:fc:{region}:{account}:functions/{name}");
    let hooks = json!({
        "initializer": show_hook(config.initializer.as_ref()),
        "preStop": show_hook(config.pre_stop.as_ref()),
    });
    for (field, value) in [
        ("functionName", json!(name)),
        ("functionArn", json!(arn)),
        ("instanceLifecycleConfig", hooks),
        ("internetAccess", json!(config.internet.unwrap_or(true))),
        // It can be invoked at once, from the original image.
        ("state", json!("Active")),
        ("lastUpdateStatus", json!(update_status(function))),
    ] {
        shown.insert(field.to_owned(), value);
    }
    if let Some(disabled) = &function.disabled {
        let restriction = json!({
            "disable": true,
            "reason": disabled.reason,
            "lastModifiedTime": time(disabled.since),
        });
        shown.insert("invocationRestriction".to_owned(), restriction);
    }
}

/// Whether the last change serves already.
fn update_status(function: &Function) -> &'static str {
    match function.previous {
        Some(_) => "InProgress",
        None => "Successful",
    }
}
