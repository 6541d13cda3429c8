//! Functions as people read them.

use std::fmt::Write as _;

use serde_json::Value;

use crate::output::{self, bytes, percent};

/// Cold starts that are shown.
const COLD_STARTS: usize = 5;

/// A text; empty where there is none.
pub(super) fn text<'v>(value: &'v Value, field: &str) -> &'v str {
    value[field].as_str().unwrap_or_default()
}

/// A list; empty where there is none.
fn list<'v>(value: &'v Value, field: &str) -> &'v [Value] {
    value[field]
        .as_array()
        .map(Vec::as_slice)
        .unwrap_or_default()
}

fn milliseconds(value: &Value) -> String {
    value
        .as_f64()
        .map_or("–".to_owned(), |time| format!("{time:.0} ms"))
}

pub(super) fn table_of(functions: &Value) -> String {
    let functions = functions.as_array().map(Vec::as_slice).unwrap_or_default();
    let row = |it: &Value| {
        let number = |field: &str| it[field].as_u64().unwrap_or(0).to_string();
        vec![
            text(it, "name").to_owned(),
            text(it, "image").to_owned(),
            text(&it["acceleration"], "status").to_owned(),
            it["instances"]["running"].to_string(),
            number("invocations"),
            number("errors"),
            milliseconds(&it["lastColdStart"]),
        ]
    };
    let rows: Vec<Vec<String>> = functions.iter().map(row).collect();
    let header = [
        "FUNCTION",
        "IMAGE",
        "ACCELERATION",
        "INSTANCES",
        "INVOCATIONS",
        "ERRORS",
        "COLD START",
    ];
    output::table(&header, &rows)
}

pub(super) fn function(facts: &Value) -> String {
    let mut lines = configuration(facts);
    lines.extend(use_of(facts));
    for (index, line) in acceleration(&facts["acceleration"]).lines().enumerate() {
        let what = if index == 0 { "acceleration" } else { "" };
        lines.push((what, line.to_owned()));
    }
    let triggers = list(facts, "triggers").iter();
    lines.extend(triggers.map(|it| ("trigger", trigger(it))));
    let starts = list(facts, "coldStarts").iter().rev().take(COLD_STARTS);
    lines.extend(starts.map(|start| {
        let (at, how) = (text(start, "at"), text(start, "how"));
        let ready = milliseconds(&start["ready"]);
        let from = match start["local"] == true {
            true => ", local: the image was here".to_owned(),
            false => format!(", {} moved", bytes(start["moved"].as_u64().unwrap_or(0))),
        };
        ("cold start", format!("{at}  {ready}, {how}{from}"))
    }));
    let line = |(what, value): &(&str, String)| format!("{what:13} {value}\n");
    lines.iter().map(line).collect()
}

/// What a function was made as.
fn configuration(facts: &Value) -> Vec<(&'static str, String)> {
    let config = &facts["configuration"];
    let (memory, cpu, disk) = (&config["memorySize"], &config["cpu"], &config["diskSize"]);
    let (timeout, each) = (&config["timeout"], &config["instanceConcurrency"]);
    let port = &config["customContainerConfig"]["port"];
    vec![
        ("function", text(facts, "name").to_owned()),
        ("image", text(facts, "image").to_owned()),
        ("digest", text(facts, "digest").to_owned()),
        (
            "size",
            format!("{memory} MiB, {cpu} CPUs, {disk} MiB of disk"),
        ),
        (
            "requests",
            format!("port {port}, timeout {timeout} s, {each} at once in each instance"),
        ),
    ]
}

/// What it does now, and has done.
fn use_of(facts: &Value) -> Vec<(&'static str, String)> {
    let count = &facts["instances"];
    let (running, busy) = (&count["running"], &count["busy"]);
    let (starting, waiting) = (&count["starting"], &count["waiting"]);
    let (count, errors) = (&facts["invocations"], &facts["errors"]);
    let used = facts["gbSeconds"].as_f64().unwrap_or(0.0);
    vec![
        (
            "instances",
            format!("{running} running, {busy} busy, {starting} starting; {waiting} requests wait"),
        ),
        ("scaling", bounds(&facts["scaling"]).trim_end().to_owned()),
        (
            "invocations",
            format!("{count}, {errors} failed, {used:.3} GB-seconds"),
        ),
    ]
}

fn trigger(trigger: &Value) -> String {
    let (name, kind) = (text(trigger, "triggerName"), text(trigger, "triggerType"));
    match trigger["httpTrigger"]["urlInternet"].as_str() {
        Some(url) => format!("{name} ({kind}) {url}"),
        None => format!("{name} ({kind}) {}", text(trigger, "triggerConfig")),
    }
}

pub(super) fn bounds(bounds: &Value) -> String {
    let most = bounds["max"].as_u64();
    let most = most.map_or("no bound".to_owned(), |most| format!("at most {most}"));
    let (least, current) = (&bounds["min"], &bounds["current"]);
    format!("at least {least}, {most}; {current} now\n")
}

/// How far the acceleration of an image is.
pub(super) fn acceleration(facts: &Value) -> String {
    let mut shown = match text(facts, "status") {
        "None" => return "None: instances start from the original\n".to_owned(),
        "Ready" => "Ready: new instances start accelerated\n".to_owned(),
        "Preparing" => {
            "Preparing: instances start from the original until it is ready\n".to_owned()
        }
        "Failed" => "Failed: instances start from the original\n".to_owned(),
        other => format!("{other}\n"),
    };
    if let Some(doing) = facts["doing"].as_str() {
        let number = |field: &str| facts[field].as_u64().unwrap_or(0);
        let (done, total) = (number("doneBytes"), number("totalBytes"));
        let _ = match total {
            0 => writeln!(shown, "now: {doing}"),
            total => writeln!(
                shown,
                "now: {doing}, {} of {} ({})",
                bytes(done),
                bytes(total),
                percent(done, total)
            ),
        };
    }
    for (field, what) in [
        ("failed", "the image could not be indexed"),
        ("notRecorded", "the working set could not be recorded"),
    ] {
        let failure = &facts[field];
        if let Some(reason) = failure["reason"].as_str() {
            let (times, again) = (&failure["times"], text(failure, "again"));
            let _ = writeln!(
                shown,
                "{what}: {reason} (tried {times} times, again at {again})"
            );
        }
    }
    if let Some(reason) = facts["notPushed"].as_str() {
        let _ = writeln!(shown, "kept on this host only: {reason}");
    }
    let set = &facts["workingSet"];
    if let (Some(blocks), Some(packed)) = (set["blocks"].as_u64(), set["packed"].as_u64()) {
        let (blocks, packed) = (bytes(blocks), bytes(packed));
        let _ = writeln!(shown, "working set: {blocks}, packed {packed}");
    }
    shown
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn an_acceleration_says_how_far_it_is_and_why_it_failed() {
        let doing = json!({
            "status": "Preparing", "doing": "indexing", "doneBytes": 1 << 20, "totalBytes": 4 << 20,
        });
        assert_eq!(
            acceleration(&doing),
            "Preparing: instances start from the original until it is ready\n\
             now: indexing, 1.00 MiB of 4.00 MiB (25.0 %)\n"
        );
        let failed = json!({
            "status": "Failed",
            "failed": { "reason": "no such image", "times": 2, "again": "2026-01-01T00:00:00Z" },
        });
        assert_eq!(
            acceleration(&failed),
            "Failed: instances start from the original\n\
             the image could not be indexed: no such image (tried 2 times, again at \
             2026-01-01T00:00:00Z)\n"
        );
        let ready = json!({ "status": "Ready", "workingSet": { "blocks": 7168, "packed": 3584 } });
        assert!(acceleration(&ready).ends_with("working set: 7.00 KiB, packed 3.50 KiB\n"));
    }
}
