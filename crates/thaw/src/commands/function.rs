//! `fn`: functions, by the host that `serve` runs.

mod deploy;
mod invoke;
mod plan;
mod show;

use std::io::Write;
use std::process::ExitCode;

use anyhow::{Context as _, bail};
use hyper::Method;
use serde_json::{Value, json};

use super::Context;
use crate::cli::function::{Accelerate, Delete, Function, Logs, Scale, Switch};
use crate::functions::{Host, escaped, path};

pub(super) fn function(context: &Context, command: &Function) -> anyhow::Result<ExitCode> {
    let host = Host::of(context.client.root())?;
    match command {
        Function::List => {
            let all = host.ask(Method::GET, "/thaw/functions", "")?;
            context.print(&all["functions"], show::table_of)?;
        }
        Function::Show(named) => {
            let shown = all_facts(&host, &named.name)?;
            context.print(&shown, show::function)?;
        }
        Function::Invoke(args) => return invoke::invoke(context, &host, args),
        Function::Logs(args) => logs(context, &host, args)?,
        Function::Delete(args) => delete(context, &host, args)?,
        Function::Scale(args) => scale(context, &host, args)?,
        Function::Accelerate(args) => accelerate(context, &host, args)?,
        Function::Deploy(args) => deploy::deploy(context, &host, args)?,
    }
    Ok(ExitCode::SUCCESS)
}

/// What the host knows of a function, beside its configuration.
fn facts(host: &Host, name: &str) -> anyhow::Result<Value> {
    let path = format!("/thaw/functions?name={}", escaped(name));
    let facts = host.find(&path)?;
    facts.with_context(|| format!("there is no function '{name}': `thaw fn list` has them all"))
}

/// Facts, configuration, triggers and bounds of a function, as one.
fn all_facts(host: &Host, name: &str) -> anyhow::Result<Value> {
    let mut shown = facts(host, name)?;
    let mut put = |field: &str, value: Value| shown[field] = value;
    put("configuration", host.ask(Method::GET, &path(name, ""), "")?);
    put(
        "triggers",
        host.list(&path(name, "/triggers"), "triggers")?.into(),
    );
    put("scaling", bounds(host, name)?);
    Ok(shown)
}

/// Fewest and most instances of a function.
fn bounds(host: &Host, name: &str) -> anyhow::Result<Value> {
    let least = host.ask(Method::GET, &path(name, "/provision-config"), "")?;
    let most = host.ask(Method::GET, &path(name, "/concurrency"), "")?;
    Ok(json!({
        "min": least["target"],
        "max": most["reservedConcurrency"],
        "current": least["current"],
    }))
}

fn logs(context: &Context, host: &Host, args: &Logs) -> anyhow::Result<()> {
    let name = escaped(&args.function.name);
    let path = format!(
        "/thaw/logs?name={name}&lines={}&follow={}",
        args.lines, args.follow
    );
    let mut out = std::io::stdout().lock();
    let mut rest = Vec::new();
    host.follow(&path, |bytes| {
        if context.global.json {
            rest.extend_from_slice(bytes);
            while let Some(end) = rest.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = rest.drain(..=end).collect();
                serde_json::to_writer(&mut out, &parts(&line))?;
                writeln!(out)?;
            }
        } else {
            out.write_all(bytes)?;
        }
        out.flush()?;
        Ok(())
    })
}

/// `TIME INSTANCE TEXT`.
fn parts(line: &[u8]) -> Value {
    let line = String::from_utf8_lossy(line);
    let mut parts = line.trim_end_matches('\n').splitn(3, ' ');
    let mut part = || parts.next().unwrap_or_default();
    let (time, instance, text) = (part(), part(), part());
    json!({ "time": time, "instance": instance, "text": text })
}

fn delete(context: &Context, host: &Host, args: &Delete) -> anyhow::Result<()> {
    let name = &args.function.name;
    facts(host, &args.function.name)?;
    let triggers = host.list(&path(name, "/triggers"), "triggers")?;
    let triggers = triggers.iter().map(|it| it["triggerName"].as_str());
    let triggers: Vec<&str> = triggers.map(Option::unwrap_or_default).collect();
    if !triggers.is_empty() && !args.force {
        let triggers = triggers.join(", ");
        bail!("function '{name}' has triggers ({triggers}): delete them with it by --force");
    }
    for trigger in &triggers {
        let path = path(name, &format!("/triggers/{}", escaped(trigger)));
        host.ask(Method::DELETE, &path, "")?;
    }
    host.ask(Method::DELETE, &path(name, ""), "")?;
    let gone = json!({ "function": name, "triggers": triggers });
    context.print(&gone, |_| format!("{name} is deleted\n"))
}

fn scale(context: &Context, host: &Host, args: &Scale) -> anyhow::Result<()> {
    let name = &args.function.name;
    facts(host, &args.function.name)?;
    let now = bounds(host, name)?;
    let number = |value: &Value| value.as_u64().and_then(|value| u32::try_from(value).ok());
    let least = args.min.or(number(&now["min"])).unwrap_or(0);
    let most = args.max.map_or(number(&now["max"]), |most| most.0);
    if let Some(most) = most.filter(|most| *most < least) {
        bail!("at least {least} and at most {most} instances cannot both be: give --min and --max");
    }
    if let Some(least) = args.min {
        let body = json!({ "target": least }).to_string();
        host.ask(Method::PUT, &path(name, "/provision-config"), &body)?;
    }
    match args.max.map(|most| most.0) {
        None => {}
        Some(None) => {
            host.ask(Method::DELETE, &path(name, "/concurrency"), "")?;
        }
        Some(Some(most)) => {
            let body = json!({ "reservedConcurrency": most }).to_string();
            host.ask(Method::PUT, &path(name, "/concurrency"), &body)?;
        }
    }
    context.print(&bounds(host, name)?, show::bounds)
}

fn accelerate(context: &Context, host: &Host, args: &Accelerate) -> anyhow::Result<()> {
    let mut known = facts(host, &args.function.name)?;
    let to = match args.to {
        Switch::Status => None,
        Switch::On => Some("on"),
        Switch::Off => Some("off"),
        Switch::Retry => Some("retry"),
    };
    if let Some(to) = to {
        let name = escaped(&args.function.name);
        let path = format!("/thaw/acceleration?name={name}&to={to}");
        known = host.ask(Method::POST, &path, "")?;
    }
    context.print(&known["acceleration"], show::acceleration)
}
