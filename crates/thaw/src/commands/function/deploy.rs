//! `fn deploy`: a template, what is there, the plan between them, and doing it.

use std::fs::File;
use std::io::{IsTerminal, Read, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use hyper::Method;
use serde_json::{Map, Value, json};
use thaw_function::{FunctionSpec, MAX_TEMPLATE_BYTES, Template, TriggerSpec};

use super::plan::{self, Action, Change, Step};
use super::show;
use crate::cli::function::Deploy;
use crate::commands::Context;
use crate::functions::{Host, escaped};

/// The version of the API whose words templates speak.
const API: &str = "/2016-08-15";
/// Where a template is when nobody says.
const NAMES: [&str; 2] = ["template.yml", "template.yaml"];

pub(super) fn deploy(context: &Context, host: &Host, args: &Deploy) -> anyhow::Result<()> {
    let template = read(args.template.as_deref())?;
    for warning in &template.warnings {
        context.notice(warning);
    }
    let steps = steps(context, host, &template)?;
    if !context.global.json {
        print!("{}", plan::text(&steps));
    }
    let todo = steps.iter().any(|step| step.action != Action::Unchanged);
    if args.dry_run || todo && !args.yes && !confirmed()? {
        return context.print(&json!({ "plan": steps, "done": false }), |_| String::new());
    }
    for step in &steps {
        carry_out(host, step)?;
    }
    let done = json!({ "plan": steps, "done": true, "urls": urls(host, &template)? });
    context.print(&done, |done| {
        let urls = done["urls"].as_array().map(Vec::as_slice);
        let line =
            |it: &Value| format!("{}  {}\n", show::text(it, "trigger"), show::text(it, "url"));
        urls.unwrap_or_default().iter().map(line).collect()
    })
}

fn read(path: Option<&Path>) -> anyhow::Result<Template> {
    let path = match path {
        Some(path) => path.to_owned(),
        None => {
            let found = NAMES.iter().map(PathBuf::from).find(|path| path.exists());
            found.context("there is no template.yml here: say which template")?
        }
    };
    let name = path.display();
    let mut text = String::new();
    let file = File::open(&path).with_context(|| format!("cannot read {name}"))?;
    // One byte more shows that it is too long.
    file.take(MAX_TEMPLATE_BYTES as u64 + 1)
        .read_to_string(&mut text)
        .with_context(|| format!("cannot read {name}"))?;
    Template::parse(&text).with_context(|| format!("{name} cannot be deployed"))
}

/// Asks on a terminal. Where there is none, nobody is there to be asked.
fn confirmed() -> anyhow::Result<bool> {
    if !std::io::stdin().is_terminal() {
        return Ok(true);
    }
    eprint!("Do it? [y/N] ");
    std::io::stderr().flush()?;
    let mut answer = String::new();
    std::io::stdin().read_line(&mut answer)?;
    Ok(matches!(answer.trim(), "y" | "Y" | "yes"))
}

/// All that a template asks for, in the order in which it can be done.
fn steps(context: &Context, host: &Host, template: &Template) -> anyhow::Result<Vec<Step>> {
    let mut steps = Vec::new();
    for service in &template.services {
        let path = format!("{API}/services");
        let own = format!("{path}/{}", escaped(&service.name));
        let present = host.find(&own)?;
        let (name, below) = (service.name.clone(), own.clone());
        let fields = service.fields.clone();
        let step = Step::new("service", name, (path, own), fields, present.as_ref());
        steps.push(step);
        for function in &service.functions {
            let name = format!("{}/{}", service.name, function.name);
            let found = of_function(context, host, &below, name, function)?;
            steps.extend(found);
        }
    }
    for domain in &template.domains {
        let path = format!("{API}/custom-domains");
        let own = format!("{path}/{}", escaped(&domain.name));
        let present = host.find(&own)?;
        let (name, fields) = (domain.name.clone(), domain.fields.clone());
        let step = Step::new("domain", name, (path, own), fields, present.as_ref());
        steps.push(step);
    }
    Ok(steps)
}

/// A function, its configuration of asynchronous invocations, and its triggers.
fn of_function(
    context: &Context,
    host: &Host,
    service: &str,
    name: String,
    function: &FunctionSpec,
) -> anyhow::Result<Vec<Step>> {
    let path = format!("{service}/functions");
    let own = format!("{path}/{}", escaped(&function.name));
    let present = host.find(&own)?;
    let fields = with_acceleration(function.fields.clone());
    let paths = (path, own.clone());
    let mut step = Step::new("function", name.clone(), paths, fields, present.as_ref());
    if let Some(present) = &present {
        match moved(host, &name, &step, present) {
            Ok(change) => change.into_iter().for_each(|change| step.change(change)),
            Err(error) => context.notice(&format!("{name} keeps its image: {error:#}")),
        }
    }
    let mut steps = vec![step];
    if let Some(config) = &function.async_config {
        let path = format!("{own}/async-invoke-config");
        let present = host.find(&path)?;
        let (name, config) = (name.clone(), config.clone());
        let paths = (path.clone(), path);
        steps.push(Step::new(
            "async config",
            name,
            paths,
            config,
            present.as_ref(),
        ));
    }
    for trigger in &function.triggers {
        steps.push(of_trigger(host, &own, &name, trigger)?);
    }
    Ok(steps)
}

/// A field that is left out means the default of the service, not what was there before.
fn with_acceleration(mut fields: Map<String, Value>) -> Map<String, Value> {
    if let Some(Value::Object(container)) = fields.get_mut("customContainerConfig") {
        let named = container.get("accelerationType").and_then(Value::as_str);
        let plain = match named {
            Some(name) if !name.eq_ignore_ascii_case("default") => {
                if name.eq_ignore_ascii_case("none") {
                    "None"
                } else {
                    name
                }
            }
            _ => "Default",
        };
        let plain = plain.to_owned();
        container.insert("accelerationType".to_owned(), plain.into());
    }
    fields
}

/// Whether the image's tag leads elsewhere than when the function was made.
fn moved(host: &Host, name: &str, step: &Step, present: &Value) -> anyhow::Result<Option<Change>> {
    let image = show::text(&step.body["customContainerConfig"], "image");
    if image != show::text(&present["customContainerConfig"], "image") {
        return Ok(None);
    }
    let path = format!("/thaw/image?reference={}", escaped(image));
    let now = host.ask(Method::GET, &path, "")?["digest"].take();
    let path = format!("/thaw/functions?name={}", escaped(name));
    let before = host.ask(Method::GET, &path, "")?["digest"].take();
    Ok((now != before).then(|| Change {
        field: format!("the image that {image} is"),
        from: Some(before),
        to: Some(now),
    }))
}

fn of_trigger(
    host: &Host,
    function: &str,
    name: &str,
    trigger: &TriggerSpec,
) -> anyhow::Result<Step> {
    let path = format!("{function}/triggers");
    let own = format!("{path}/{}", escaped(&trigger.name));
    let present = host.find(&own)?;
    let name = format!("{name}/{}", trigger.name);
    if let Some(present) = &present {
        let (is, kind) = (show::text(present, "triggerType"), trigger.kind);
        if is != kind {
            bail!(
                "trigger {name} is there, but of the type {is}, and the template has {kind}: \
                 delete it, or give it another name"
            );
        }
    }
    let fields = trigger.fields.clone();
    let paths = (path, own);
    Ok(Step::new("trigger", name, paths, fields, present.as_ref()))
}

fn carry_out(host: &Host, step: &Step) -> anyhow::Result<()> {
    let (create, update) = &step.paths;
    let (verb, method, path) = match step.action {
        Action::Unchanged => return Ok(()),
        Action::Create if create != update => ("create", Method::POST, create),
        Action::Create => ("create", Method::PUT, create),
        Action::Update => ("update", Method::PUT, update),
    };
    let body = Value::from(step.body.clone()).to_string();
    let done = host.ask(method, path, &body);
    done.with_context(|| format!("cannot {verb} the {} {}", step.what, step.name))?;
    Ok(())
}

/// Where the HTTP triggers of a template are.
fn urls(host: &Host, template: &Template) -> anyhow::Result<Vec<Value>> {
    let mut urls = Vec::new();
    for service in &template.services {
        for function in &service.functions {
            let name = format!("{}/{}", service.name, function.name);
            let mut http = function.triggers.iter().filter(|it| it.kind == "http");
            http.try_for_each(|trigger| {
                let path = format!(
                    "{API}/services/{}/functions/{}/triggers/{}",
                    escaped(&service.name),
                    escaped(&function.name),
                    escaped(&trigger.name)
                );
                let shown = host.ask(Method::GET, &path, "")?;
                let name = format!("{name}/{}", trigger.name);
                urls.push(json!({ "trigger": name, "url": shown["urlInternet"] }));
                Ok::<_, anyhow::Error>(())
            })?;
        }
    }
    Ok(urls)
}
