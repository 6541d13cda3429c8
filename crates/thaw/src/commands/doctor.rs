//! `doctor`: what this machine has and lacks, how images will start here, and what to do about it.
//! Asks the kernel itself; needs no daemon.

use std::fmt::Write as _;
use std::process::ExitCode;

use anyhow::Context as _;
use serde::Serialize;
use thaw_mount::{Capabilities, Cgroup};

use super::Context;
use crate::output::table;

/// What a kernel must have for which way, and what to do where it has it not.
const KERNEL: [(&str, Use, &str); 5] = [
    ("root", Use::Mount, "run thaw as root"),
    (
        "erofs",
        Use::Mount,
        "take a kernel with CONFIG_EROFS_FS, or load the module erofs",
    ),
    (
        "file-backed erofs",
        Use::Mount,
        "take Linux 6.12 or newer with CONFIG_EROFS_FS_BACKED_BY_FILE",
    ),
    (
        "overlayfs",
        Use::Mount,
        "take a kernel with CONFIG_OVERLAY_FS, or load the module overlay",
    ),
    (
        "pre-content events",
        Use::Lazy,
        "take Linux 6.14 or newer with CONFIG_FANOTIFY_ACCESS_PERMISSIONS, and a store (--root) on \
         ext4, xfs or btrfs",
    ),
];

/// Programs of which one is enough, and what for.
const PROGRAMS: [(&str, &[&str], Use, &str); 3] = [
    (
        "container runtime",
        &["crun", "runc"],
        Use::Run,
        "runs containers",
    ),
    (
        "iproute2",
        &["ip"],
        Use::Network,
        "puts containers on the bridge",
    ),
    (
        "packet filter",
        &["iptables", "nft"],
        Use::Network,
        "gives containers on the bridge a way out of the host",
    ),
];

/// What a thing is needed for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
enum Use {
    /// Mounting an image at all.
    Mount,
    /// Mounting one before it is here.
    Lazy,
    /// Running a container.
    Run,
    /// `--net bridge`.
    Network,
    /// Nothing yet.
    None,
}

#[derive(Debug, Serialize)]
struct Diagnosis {
    kernel: String,
    store: String,
    /// `lazy`, `full`, or `none`: how images start here.
    start: &'static str,
    /// `fanotify` or `none`.
    transport: &'static str,
    reason: String,
    /// What to do, the most important first.
    advice: Vec<String>,
    checks: Vec<Check>,
}

#[derive(Debug, Serialize)]
struct Check {
    name: String,
    ok: bool,
    needed_for: Use,
    evidence: String,
    /// What to do where it is lacking.
    advice: Option<String>,
}

pub(super) fn doctor(context: &Context) -> anyhow::Result<ExitCode> {
    let root = context.client.root();
    std::fs::create_dir_all(root)
        .with_context(|| format!("cannot make the store {}", root.display()))?;
    let mut diagnosis = diagnose(&Capabilities::probe(root), find);
    diagnosis.store = root.display().to_string();
    context.print(&diagnosis, describe)?;
    Ok(if diagnosis.advice.is_empty() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

fn diagnose(
    capabilities: &Capabilities,
    find: impl Fn(&str) -> Option<std::path::PathBuf>,
) -> Diagnosis {
    let mut checks = kernel_checks(capabilities);
    checks.push(Check {
        name: "control groups".to_owned(),
        ok: capabilities.cgroup != Cgroup::None,
        needed_for: Use::Run,
        evidence: match capabilities.cgroup {
            Cgroup::None => "nothing is mounted at /sys/fs/cgroup",
            Cgroup::V1 => "version 1",
            Cgroup::Hybrid => "version 1, beside a version 2 without controllers",
            Cgroup::V2 => "version 2",
        }
        .to_owned(),
        advice: Some("mount control groups at /sys/fs/cgroup".to_owned()),
    });
    for (name, programs, needed_for, purpose) in PROGRAMS {
        let found = programs.iter().find_map(|program| find(program));
        let evidence = match &found {
            Some(path) => format!("{purpose}: {}", path.display()),
            None => format!("{purpose}: not in PATH"),
        };
        checks.push(Check {
            name: name.to_owned(),
            ok: found.is_some(),
            needed_for,
            evidence,
            advice: Some(format!("install {}", programs.join(" or "))),
        });
    }
    for check in &mut checks {
        if check.ok || check.needed_for == Use::None {
            check.advice = None;
        }
    }
    conclude(capabilities.kernel.release.clone(), checks)
}

fn kernel_checks(capabilities: &Capabilities) -> Vec<Check> {
    let abilities = capabilities.abilities().into_iter();
    let checks = abilities.map(|(name, ability)| {
        let known = KERNEL.iter().find(|(known, ..)| *known == name);
        Check {
            name: name.to_owned(),
            ok: ability.available,
            needed_for: known.map_or(Use::None, |(_, needed_for, _)| *needed_for),
            evidence: ability.evidence.clone(),
            advice: known.map(|(.., advice)| (*advice).to_owned()),
        }
    });
    checks.collect()
}

/// How images start, from what is there.
fn conclude(kernel: String, checks: Vec<Check>) -> Diagnosis {
    let lacking = |wanted: Use| {
        let mut checks = checks.iter();
        checks.find(|check| !check.ok && check.needed_for == wanted)
    };
    let (start, transport, reason) = match (lacking(Use::Mount), lacking(Use::Lazy)) {
        (None, None) => {
            let reason = "pre-content events work on the store's filesystem";
            ("lazy", "fanotify", reason.to_owned())
        }
        (None, Some(check)) => ("full", "none", check.evidence.clone()),
        (Some(check), _) => ("none", "none", check.evidence.clone()),
    };
    let mut advice: Vec<String> = Vec::new();
    for check in &checks {
        advice.extend(check.advice.clone().filter(|new| !advice.contains(new)));
    }
    Diagnosis {
        kernel,
        store: String::new(),
        start,
        transport,
        reason,
        advice,
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
            let mark = match (check.ok, check.needed_for) {
                (true, _) => "ok",
                (false, Use::None) => "not there",
                (false, _) => "lacking",
            };
            vec![check.name.clone(), mark.to_owned(), check.evidence.clone()]
        })
        .collect();
    let Diagnosis {
        kernel,
        store,
        reason,
        transport,
        ..
    } = diagnosis;
    let mut text = format!("Linux {kernel}, store {store}\n\n");
    text.push_str(&table(&["WHAT", "STATE", "WHY"], &rows));
    let _ = match diagnosis.start {
        "lazy" => writeln!(
            text,
            "\nimages start lazily; fault transport: {transport} ({reason})"
        ),
        "full" => writeln!(text, "\nimages start by a full pull only: {reason}"),
        _ => writeln!(text, "\nimages cannot be mounted here: {reason}"),
    };
    for advice in &diagnosis.advice {
        let _ = writeln!(text, "to do: {advice}");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(name: &str, ok: bool, needed_for: Use) -> Check {
        Check {
            name: name.to_owned(),
            ok,
            needed_for,
            evidence: format!("seen: {name}"),
            advice: (!ok).then(|| format!("get {name}")),
        }
    }

    #[test]
    fn what_is_lacking_decides_how_images_start() {
        let told = |mount, lazy| {
            let checks = vec![
                check("erofs", mount, Use::Mount),
                check("events", lazy, Use::Lazy),
                check("fuse", false, Use::None),
            ];
            let diagnosis = conclude("6.18".to_owned(), checks);
            (diagnosis.start, diagnosis.transport, diagnosis.reason)
        };
        assert_eq!(told(true, true).0, "lazy");
        assert_eq!(
            told(true, false),
            ("full", "none", "seen: events".to_owned())
        );
        assert_eq!(
            told(false, false),
            ("none", "none", "seen: erofs".to_owned())
        );
    }

    #[test]
    fn a_machine_without_programs_is_told_what_to_install() {
        let capabilities = Capabilities::probe(&std::env::temp_dir());
        let diagnosis = diagnose(&capabilities, |_| None);
        let text = describe(&diagnosis);
        for advice in [
            "install crun or runc",
            "install ip",
            "install iptables or nft",
        ] {
            assert!(text.contains(&format!("to do: {advice}\n")), "{text}");
        }
        let diagnosis = diagnose(&capabilities, |program| Some(program.into()));
        assert!(!describe(&diagnosis).contains("install"));
    }
}
