//! `doctor`: what this machine has and lacks. Asks the kernel itself; needs no daemon.

use std::fmt::Write as _;
use std::process::ExitCode;

use serde::Serialize;
use thaw_mount::Capabilities;

use super::Context;
use crate::output::table;

/// Programs that some command needs, and what for.
const PROGRAMS: [(&str, &str); 4] = [
    ("crun", "runs containers (preferred)"),
    ("runc", "runs containers"),
    ("ip", "connects containers to a bridge (iproute2)"),
    (
        "nft",
        "gives containers a way out of the host (or iptables)",
    ),
];

#[derive(Serialize)]
struct Diagnosis {
    kernel: String,
    transport: String,
    reason: String,
    checks: Vec<Check>,
}

#[derive(Serialize)]
struct Check {
    name: String,
    ok: bool,
    evidence: String,
}

pub(super) fn doctor(context: &Context) -> anyhow::Result<ExitCode> {
    let root = context.client.root();
    std::fs::create_dir_all(root)?;
    let diagnosis = diagnose(&Capabilities::probe(root));
    context.print(&diagnosis, describe)?;
    let runs = diagnosis
        .checks
        .iter()
        .any(|check| check.ok && (check.name == "crun" || check.name == "runc"));
    Ok(if runs && diagnosis.transport != "none" {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

fn diagnose(capabilities: &Capabilities) -> Diagnosis {
    let mut checks: Vec<Check> = capabilities
        .abilities()
        .into_iter()
        .map(|(name, ability)| Check {
            name: name.to_owned(),
            ok: ability.available,
            evidence: ability.evidence.clone(),
        })
        .collect();
    let needed = [
        &capabilities.root,
        &capabilities.pre_content_events,
        &capabilities.file_backed_erofs,
        &capabilities.overlayfs,
    ];
    let lacking = needed.iter().find(|ability| !ability.available);
    let (transport, reason) = match lacking {
        None => (
            "fanotify",
            "pre-content events work on the store's filesystem".to_owned(),
        ),
        Some(ability) => ("none", ability.evidence.clone()),
    };
    for (program, purpose) in PROGRAMS {
        let found = find(program);
        let evidence = match &found {
            Some(path) => format!("{purpose}: {}", path.display()),
            None => format!("{purpose}: not in PATH; install it"),
        };
        checks.push(Check {
            name: program.to_owned(),
            ok: found.is_some(),
            evidence,
        });
    }
    Diagnosis {
        kernel: capabilities.kernel.release.clone(),
        transport: transport.to_owned(),
        reason,
        checks,
    }
}

fn find(program: &str) -> Option<std::path::PathBuf> {
    let paths = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&paths)
        .chain(["/usr/sbin".into(), "/sbin".into()])
        .map(|dir| dir.join(program))
        .find(|path| path.is_file())
}

fn describe(diagnosis: &Diagnosis) -> String {
    let rows: Vec<Vec<String>> = diagnosis
        .checks
        .iter()
        .map(|check| {
            let mark = if check.ok { "ok" } else { "lacking" };
            vec![check.name.clone(), mark.to_owned(), check.evidence.clone()]
        })
        .collect();
    let mut text = format!("Linux {}\n\n", diagnosis.kernel);
    text.push_str(&table(&["WHAT", "STATE", "WHY"], &rows));
    let _ = match diagnosis.transport.as_str() {
        "none" => writeln!(
            text,
            "\nlazy starts are not possible here: {}\nimages cannot be mounted; a kernel from 6.14 \
             on, with the store on ext4, xfs or btrfs, can",
            diagnosis.reason
        ),
        name => writeln!(text, "\nfault transport: {name} ({})", diagnosis.reason),
    };
    text
}
