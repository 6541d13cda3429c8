//! `doctor --explain`: why a container's start took as long as it did, in words.

use std::fmt::Write as _;
use std::process::ExitCode;

use thaw_node::{Explanation, FileWaits, Period};

use super::Context;
use crate::output::{bytes, causes, milliseconds, table, waterfall};
use crate::protocol::Request;

pub(super) fn explain(context: &Context, container: String) -> anyhow::Result<ExitCode> {
    let explanation: Explanation = context.client.ask(Request::Explain { container })?;
    context.print(&explanation, describe)?;
    Ok(ExitCode::SUCCESS)
}

fn describe(explanation: &Explanation) -> String {
    let Explanation {
        container,
        spans,
        waits,
        ..
    } = explanation;
    let mut text = format!(
        "{} ({}), {}\n{}: {}\n\n",
        container.name, container.image, container.status, container.way.how, container.way.why
    );
    let ends = spans.iter().map(|span| span.begin + span.took);
    text.push_str(&waterfall(spans, ends.max().unwrap_or_default()));
    if let Some(report) = &explanation.report {
        let _ = writeln!(
            text,
            "moved by this node since then: {}",
            causes(&report.traffic)
        );
    }
    for link in &explanation.links {
        let round_trip = link.round_trip.map_or("?".to_owned(), milliseconds);
        let rate = link.rate.map_or("?".to_owned(), bytes);
        let whose = link.mirror_of.as_ref();
        let whose = whose.map_or(String::new(), |it| format!(" (a mirror of {it})"));
        let _ = writeln!(
            text,
            "from {}{whose}: {round_trip} to an answer, {rate}/s",
            link.registry
        );
    }
    if !waits.periods.is_empty() {
        let rows: Vec<Vec<String>> = waits.periods.iter().map(period).collect();
        let _ = write!(text, "\n{}", table(&["AFTER", "WAITS", "TOGETHER"], &rows));
    }
    if !explanation.files.is_empty() {
        let rows: Vec<Vec<String>> = explanation.files.iter().map(file).collect();
        let header = ["FILE", "WAITS", "TOGETHER", "ASKED FOR", "FAILED"];
        let _ = write!(text, "\n{}", table(&header, &rows));
    }
    text.push('\n');
    for finding in &explanation.findings {
        let _ = writeln!(text, "- {finding}");
    }
    for advice in &explanation.advice {
        let _ = writeln!(text, "would help: {advice}");
    }
    text
}

fn period(period: &Period) -> Vec<String> {
    let when = match period.end {
        Some(end) => format!("{} to {end} s", period.begin),
        None => format!("{} s", period.begin),
    };
    vec![when, period.count.to_string(), milliseconds(period.took)]
}

fn file(file: &FileWaits) -> Vec<String> {
    vec![
        file.path.escape_debug().to_string(),
        file.waits.to_string(),
        milliseconds(file.took),
        bytes(file.bytes),
        file.failed.to_string(),
    ]
}
