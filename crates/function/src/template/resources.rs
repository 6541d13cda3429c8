//! The resources of a template: services with their functions, and custom domains.

use serde_json::{Map, Value as Json};

use super::report::{At, Report};
use super::schema::{
    ASYNC_FIELD, BUCKET, DOMAIN, FUNCTION, Property, ROUTE, SERVICE, TRIGGER, TRIGGERS,
};
use super::yaml::{Node, Value};
use super::{DomainSpec, FunctionSpec, ServiceSpec, Template, TemplateError, TriggerSpec};
use crate::schedule::Schedule;

const VERSION: &str = "2015-09-01";
const TRANSFORM: &str = "Aliyun::Serverless-2018-04-03";
const SERVICE_TYPE: &str = "Aliyun::Serverless::Service";
const FUNCTION_TYPE: &str = "Aliyun::Serverless::Function";
const DOMAIN_TYPE: &str = "Aliyun::Serverless::CustomDomain";

/// Resources that this host has nothing for, and that functions do without.
const OTHER_TYPES: [&str; 6] = [
    "Api",
    "Flow",
    "Log",
    "Log::Logstore",
    "MNSTopic",
    "TableStore",
];

/// What a template may have beside its resources that says nothing of them.
const ASIDE: [&str; 4] = ["Description", "Metadata", "Outputs", "Parameters"];

/// The one runtime that functions have here.
const RUNTIME: &str = "custom-container";

/// Characters of a service's name, of a function's, and of a trigger's.
const SERVICE_NAME: usize = 128;
const FUNCTION_NAME: usize = 64;
const TRIGGER_NAME: usize = 128;

/// What the template of this tree asks for.
pub(super) fn read(root: &Node) -> Result<Template, TemplateError> {
    let (mut report, mut template) = (Report::default(), Template::default());
    let path = String::new();
    let root = At { path, node: root };
    let resources = head(&root, &mut report);
    report.check()?;
    if let Some(resources) = resources {
        report.references(&resources);
        // They would be mistakes once more, of their types.
        report.check()?;
        for (name, resource) in report.entries(&resources) {
            self::resource(name, &resource, &mut template, &mut report);
        }
    }
    report.check()?;
    template.warnings = report.warnings;
    Ok(template)
}

/// Checks what is around the resources.
fn head<'n>(root: &At<'n>, report: &mut Report) -> Option<At<'n>> {
    let mut resources = None;
    let (mut version, mut transform) = (false, false);
    for (key, at) in report.entries(root) {
        match key {
            "ROSTemplateFormatVersion" => {
                version = true;
                if !at.is(VERSION) {
                    report.mistake(&at, format!("has to be '{VERSION}'"));
                }
            }
            "Transform" => {
                transform = true;
                if !at.is(TRANSFORM) {
                    report.mistake(&at, format!("has to be '{TRANSFORM}'"));
                }
            }
            "Resources" => resources = Some(at),
            "Globals" | "Conditions" | "Mappings" => {
                report.mistake(
                    &at,
                    "is not applied here: write the properties where they belong",
                );
            }
            key if ASIDE.contains(&key) => report.warn(&at, "is left out"),
            _ => report.warn(&at, "is not known and is left out"),
        }
    }
    if matches!(root.node.value, Value::Map(_)) {
        let there = [
            (version, "ROSTemplateFormatVersion"),
            (transform, "Transform"),
            (resources.is_some(), "Resources"),
        ];
        for (_, key) in there.iter().filter(|(there, _)| !there) {
            report.missing(root, key);
        }
    }
    resources
}

impl At<'_> {
    /// Whether it is this text, or a list of nothing else.
    fn is(&self, expected: &str) -> bool {
        match &self.node.value {
            Value::Text(text) => text == expected,
            Value::List(list) => match list.as_slice() {
                [only] => matches!(&only.value, Value::Text(text) if text == expected),
                _ => false,
            },
            _ => false,
        }
    }
}

fn resource(name: &str, at: &At<'_>, template: &mut Template, report: &mut Report) {
    match kind(at, report) {
        Some(SERVICE_TYPE) => template.services.push(service(name, at, report)),
        Some(DOMAIN_TYPE) => template.domains.extend(domain(name, at, report)),
        Some(FUNCTION_TYPE) => report.mistake(at, "has to be inside of a service"),
        Some(other) => {
            let known = other.strip_prefix("Aliyun::Serverless::");
            if known.is_some_and(|known| OTHER_TYPES.contains(&known)) {
                report.warn(
                    at,
                    "is of a type that this host does not make, and is left out",
                );
            } else {
                report.mistake(
                    at,
                    format!("is of the type {other}, which is not known here"),
                );
            }
        }
        None => {}
    }
}

/// The `Type` of a resource.
fn kind<'n>(at: &At<'n>, report: &mut Report) -> Option<&'n str> {
    match at.get("Type") {
        Some(kind) => report.text(&kind),
        None if matches!(at.node.value, Value::Map(_)) => {
            report.missing(at, "Type");
            None
        }
        None => {
            report.mistake(at, "has to be a resource with a Type");
            None
        }
    }
}

fn service(name: &str, at: &At<'_>, report: &mut Report) -> ServiceSpec {
    check_name(name, SERVICE_NAME, at, report);
    let mut fields = match at.get("Properties") {
        Some(properties) => report.fields(&properties, SERVICE),
        None => Map::new(),
    };
    fields.insert("serviceName".to_owned(), name.into());
    let children = report.entries(at).into_iter();
    let children = children.filter(|(key, _)| !["Type", "Properties"].contains(key));
    let mut functions = Vec::new();
    for (key, child) in children {
        match kind(&child, report) {
            Some(FUNCTION_TYPE) => functions.extend(function(key, &child, report)),
            Some(other) => {
                let what =
                    format!("is of the type {other}: only {FUNCTION_TYPE} can be in a service");
                report.mistake(&child, what);
            }
            None => {}
        }
    }
    let name = name.to_owned();
    ServiceSpec {
        name,
        fields,
        functions,
    }
}

fn function(name: &str, at: &At<'_>, report: &mut Report) -> Option<FunctionSpec> {
    check_name(name, FUNCTION_NAME, at, report);
    for (key, child) in report.entries(at) {
        if !["Type", "Properties", "Events"].contains(&key) {
            report.warn(&child, "is not known and is left out");
        }
    }
    let Some(properties) = at.get("Properties") else {
        report.missing(at, "Properties");
        return None;
    };
    if let Some(runtime) = properties.get("Runtime")
        && !runtime.is(RUNTIME)
    {
        // What else is there is another runtime's.
        let what = match &runtime.node.value {
            Value::Text(other) => format!("is {other}: functions are images here, write {RUNTIME}"),
            _ => format!("has to be {RUNTIME}"),
        };
        report.mistake(&runtime, what);
        return None;
    }
    let mut fields = report.fields(&properties, FUNCTION);
    fields.insert("functionName".to_owned(), name.into());
    let async_config = match fields.remove(ASYNC_FIELD) {
        Some(Json::Object(config)) => Some(config),
        _ => None,
    };
    let events = at.get("Events").map(|events| report.entries(&events));
    let events = events.unwrap_or_default().into_iter();
    let triggers = events.filter_map(|(name, event)| trigger(name, &event, report));
    let triggers = triggers.collect();
    let name = name.to_owned();
    Some(FunctionSpec {
        name,
        fields,
        triggers,
        async_config,
    })
}

fn trigger(name: &str, at: &At<'_>, report: &mut Report) -> Option<TriggerSpec> {
    check_name(name, TRIGGER_NAME, at, report);
    let kind = kind(at, report)?;
    let Some(known) = TRIGGERS.iter().find(|t| t.name.eq_ignore_ascii_case(kind)) else {
        report.mistake(
            at,
            format!("is of the type {kind}, which is no trigger that is known here"),
        );
        return None;
    };
    let Some(properties) = at.get("Properties") else {
        report.missing(at, "Properties");
        return None;
    };
    let Some(table) = known.table else {
        report.warn(at, "is left out: nothing here fires such a trigger");
        return None;
    };
    let mut config = config(table, &properties, report);
    let mut fields = Map::new();
    if let Some(Json::String(bucket)) = config.remove(BUCKET) {
        config.insert(
            "sourceArn".to_owned(),
            format!("acs:oss:*:*:{bucket}").into(),
        );
    }
    for field in TRIGGER {
        if let Some(value) = config.remove(field) {
            fields.insert(field.to_owned(), value);
        }
    }
    fields.insert("triggerName".to_owned(), name.into());
    fields.insert("triggerType".to_owned(), known.kind.into());
    fields.insert("triggerConfig".to_owned(), config.into());
    let (name, kind) = (name.to_owned(), known.kind);
    Some(TriggerSpec { name, kind, fields })
}

/// What a trigger's properties are, in the words of the API.
fn config(table: &[Property], at: &At<'_>, report: &mut Report) -> Map<String, Json> {
    let mut config = report.fields(at, table);
    if let Some(Json::String(auth)) = config.get_mut("authType") {
        *auth = auth.to_ascii_lowercase();
        if !["anonymous", "function"].contains(&auth.as_str()) {
            report.mistake(at, "has an AuthType that is neither anonymous nor function");
        }
    }
    if let Some(Json::String(cron)) = config.get("cronExpression")
        && let Err(error) = Schedule::parse(cron)
    {
        report.mistake(at, format!("has a CronExpression that is none: {error}"));
    }
    config
}

fn domain(name: &str, at: &At<'_>, report: &mut Report) -> Option<DomainSpec> {
    let Some(properties) = at.get("Properties") else {
        report.missing(at, "Properties");
        return None;
    };
    let mut fields = report.fields(&properties, DOMAIN);
    let name = match fields.get("domainName") {
        Some(Json::String(name)) => name.clone(),
        _ => name.to_owned(),
    };
    let label = |b: u8| b.is_ascii_alphanumeric() || b"-.*".contains(&b);
    if name.eq_ignore_ascii_case("auto") {
        report.mistake(
            &properties,
            "has a DomainName that asks for one to be made: write your own",
        );
    } else if name.len() > 253 || !name.contains('.') || !name.bytes().all(label) {
        report.mistake(at, "is no name of a host: give it one, or a DomainName");
    }
    fields.insert("domainName".to_owned(), name.clone().into());
    let routes = properties.get("RouteConfig").and_then(|routes| {
        for (key, child) in report.entries(&routes) {
            if !key.eq_ignore_ascii_case("Routes") {
                report.warn(&child, "is not known and is left out");
            }
        }
        routes.get("Routes").or_else(|| routes.get("routes"))
    });
    if let Some(at) = routes {
        let routes = report.entries(&at).into_iter();
        let routes: Vec<Json> = routes.map(|(path, at)| route(path, &at, report)).collect();
        let config = Map::from_iter([("routes".to_owned(), routes.into())]);
        fields.insert("routeConfig".to_owned(), config.into());
    }
    Some(DomainSpec { name, fields })
}

fn route(path: &str, at: &At<'_>, report: &mut Report) -> Json {
    if !path.starts_with('/') {
        report.mistake(at, "is no path: it has to begin with a slash");
    }
    let mut route = report.fields(at, ROUTE);
    route.insert("path".to_owned(), path.into());
    route.into()
}

/// The service's own rule for names. They become parts of paths.
fn check_name(name: &str, most: usize, at: &At<'_>, report: &mut Report) {
    let first = |c: char| c.is_ascii_alphabetic() || c == '_';
    let rest = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
    if name.len() > most || !name.starts_with(first) || !name.chars().all(rest) {
        let what = format!(
            "is no name: it has to be of at most {most} letters, digits, - and _, and begin with a letter or _"
        );
        report.mistake(at, what);
    }
}
