//! `fn invoke`: one event, and what the function makes of it.

use std::fs::File;
use std::io::{IsTerminal, Read, Write};
use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context as _, bail};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use bytes::Bytes;
use hyper::Method;
use hyper::header::HeaderName;
use serde_json::{Value, json};

use super::show::text;
use crate::cli::function::Invoke;
use crate::commands::Context;
use crate::functions::{Answer, Host, escaped, path};
use crate::output::complain;

/// Bytes of an event that the host takes.
const MAX_EVENT: u64 = 32 << 20;

const KIND: HeaderName = HeaderName::from_static("x-fc-invocation-type");
const LOG: HeaderName = HeaderName::from_static("x-fc-log-type");

pub(super) fn invoke(context: &Context, host: &Host, args: &Invoke) -> anyhow::Result<ExitCode> {
    let event = event(args)?;
    let qualifier = args.qualifier.as_deref().map(escaped);
    let tail = match qualifier {
        Some(qualifier) => format!("/invocations?qualifier={qualifier}"),
        None => "/invocations".to_owned(),
    };
    let mut headers = Vec::new();
    if args.asynchronous {
        headers.push((KIND, "Async"));
    }
    if args.tail {
        headers.push((LOG, "Tail"));
    }
    let path = path(&args.function.name, &tail);
    let answer = host.request(Method::POST, &path, &headers, event)?;
    let answer = answer.accepted()?;
    if args.asynchronous {
        let queued = json!({ "invocation": answer.header("x-fc-request-id") });
        context.print(&queued, |it| format!("{}\n", text(it, "invocation")))?;
        return Ok(ExitCode::SUCCESS);
    }
    if context.global.json {
        context.print(&facts(&answer), |_| String::new())?;
    } else {
        answered(&answer)?;
    }
    match answer.header("x-fc-error-type") {
        "" => Ok(ExitCode::SUCCESS),
        _ => Ok(ExitCode::FAILURE),
    }
}

/// Prints the answer; a failure and the log to standard error.
fn answered(answer: &Answer) -> anyhow::Result<()> {
    std::io::stderr().write_all(&log(answer))?;
    let kind = answer.header("x-fc-error-type");
    if kind.is_empty() {
        let mut out = std::io::stdout().lock();
        out.write_all(&answer.body)?;
        if out.is_terminal() && !answer.body.ends_with(b"\n") {
            writeln!(out)?;
        }
        out.flush()?;
        return Ok(());
    }
    let said = serde_json::from_slice::<Value>(&answer.body).ok();
    let message = said.as_ref().and_then(|said| said["errorMessage"].as_str());
    let body = String::from_utf8_lossy(&answer.body);
    let message = message.unwrap_or(&body);
    complain(format_args!("the function failed ({kind}): {message}"));
    Ok(())
}

fn log(answer: &Answer) -> Vec<u8> {
    BASE64
        .decode(answer.header("x-fc-log-result"))
        .unwrap_or_default()
}

/// The answer for programs. A body that is no text is in Base64.
fn facts(answer: &Answer) -> Value {
    let header = |name| Some(answer.header(name)).filter(|value| !value.is_empty());
    let number = |name| header(name).and_then(|text| text.parse::<f64>().ok());
    let mut facts = json!({
        "requestId": header("x-fc-request-id"),
        "milliseconds": number("x-fc-invocation-duration"),
        "memory": number("x-fc-max-memory-usage"),
        "version": header("x-fc-invocation-service-version"),
        "error": header("x-fc-error-type"),
    });
    match std::str::from_utf8(&answer.body) {
        Ok(body) => facts["body"] = json!(body),
        Err(_) => facts["bodyBase64"] = json!(BASE64.encode(&answer.body)),
    }
    if answer.headers.contains_key("x-fc-log-result") {
        facts["log"] = json!(String::from_utf8_lossy(&log(answer)));
    }
    facts
}

fn event(args: &Invoke) -> anyhow::Result<Bytes> {
    if let Some(text) = &args.event {
        return Ok(Bytes::copy_from_slice(text.as_bytes()));
    }
    match args.file.as_deref() {
        Some(path) if path == Path::new("-") => read("standard input", std::io::stdin()),
        Some(path) => {
            let name = path.display().to_string();
            let file = File::open(path).with_context(|| format!("cannot read {name}"))?;
            read(&name, file)
        }
        None if std::io::stdin().is_terminal() => Ok(Bytes::new()),
        None => read("standard input", std::io::stdin()),
    }
}

fn read(name: &str, from: impl Read) -> anyhow::Result<Bytes> {
    let mut bytes = Vec::new();
    let mut from = from.take(MAX_EVENT + 1);
    from.read_to_end(&mut bytes)
        .with_context(|| format!("cannot read {name}"))?;
    if bytes.len() as u64 > MAX_EVENT {
        bail!("{name} has more than the {MAX_EVENT} bytes that an event may have");
    }
    Ok(Bytes::from(bytes))
}
