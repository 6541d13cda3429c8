//! `doctor`: what this machine has and lacks, how images will start here, and what to do about it.
//! Asks the kernel itself; needs no daemon.

use std::fmt::Write as _;
use std::path::Path;
use std::process::ExitCode;

use anyhow::Context as _;
use serde::Serialize;
use thaw_mount::{Capabilities, Cgroup, TransportChoice, TransportKind};
use thaw_sys::wake::{self, Awake};

use super::Context;
use crate::output::table;

/// What a kernel must have, and what to do where it has it not.
const KERNEL: [(&str, &str); 7] = [
    ("root", "run thaw as root"),
    (
        "erofs",
        "take a kernel with CONFIG_EROFS_FS, or load the module erofs",
    ),
    (
        "file-backed erofs",
        "take Linux 6.12 or newer with CONFIG_EROFS_FS_BACKED_BY_FILE, and a store (--root) on ext4, \
         xfs or btrfs",
    ),
    (
        "overlayfs",
        "take a kernel with CONFIG_OVERLAY_FS, or load the module overlay",
    ),
    (
        "pre-content events",
        "take Linux 6.14 or newer with CONFIG_FANOTIFY_ACCESS_PERMISSIONS, and a store (--root) on \
         ext4, xfs or btrfs",
    ),
    (
        "fuse",
        "without pre-content events, load the module fuse, or take a kernel with CONFIG_FUSE_FS",
    ),
    (
        "loop devices",
        "without mounts from files, load the module loop, or take Linux 6.4 or newer with \
         CONFIG_BLK_DEV_LOOP",
    ),
];

/// Programs of which one is enough, and what for.
const PROGRAMS: [(&str, &[&str], Use, &str); 4] = [
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
    (
        "e2fsprogs",
        &["mkfs.ext4"],
        Use::Storage,
        "makes the writable part of functions, and of containers with --storage-size",
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
    /// The same, in a better way than the one that works.
    Better,
    /// Running a container.
    Run,
    /// `--net bridge`.
    Network,
    /// `--storage-size`.
    Storage,
    /// Nothing yet.
    None,
}

/// How images start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Start {
    /// Lazily, by this transport.
    Lazy(TransportKind),
    /// In full, by their layout.
    Full,
    /// In full, unpacked into directories: no layout can be mounted.
    Directories,
}

impl Start {
    fn of(capabilities: &Capabilities) -> Self {
        if !capabilities.layouts().available {
            return Self::Directories;
        }
        let selected = thaw_mount::select(TransportChoice::Auto, capabilities);
        selected.map_or(Self::Full, Self::Lazy)
    }
}

#[derive(Debug, Serialize)]
struct Diagnosis {
    kernel: String,
    store: String,
    /// `lazy`, `full`, or `none`: how images start here.
    start: &'static str,
    /// `fanotify`, `fuse`, `directories` or `none`.
    transport: &'static str,
    reason: String,
    /// What to do, the most important first.
    advice: Vec<String>,
    /// What to do for a better way.
    better: Vec<String>,
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
    let capabilities = Capabilities::probe(root);
    let mut diagnosis = diagnose(&capabilities, find);
    diagnosis.store = root.display().to_string();
    if capabilities.file_backed_erofs.available {
        diagnosis.checks.push(direct_reads(root));
    }
    diagnosis.checks.extend(idle_processors());
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
    let start = Start::of(capabilities);
    let mut checks = kernel_checks(capabilities, start);
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
    let mut diagnosis = conclude(capabilities.kernel.release.clone(), checks, start);
    if start == Start::Directories && diagnosis.start == "full" {
        diagnosis
            .reason
            .clone_from(&capabilities.layouts().evidence);
    }
    diagnosis
}

/// What an ability is needed for where images start like this.
fn needed_for(name: &str, capabilities: &Capabilities, start: Start) -> Use {
    match (name, start) {
        ("root" | "overlayfs", _) => Use::Mount,
        ("erofs" | "file-backed erofs" | "loop devices", Start::Directories) => Use::Better,
        (_, Start::Directories) => Use::None,
        ("erofs", _) => Use::Mount,
        ("file-backed erofs" | "pre-content events", Start::Lazy(TransportKind::Fuse)) => {
            Use::Better
        }
        ("file-backed erofs" | "pre-content events", _) | ("fuse", Start::Full) => Use::Lazy,
        ("loop devices", Start::Full) if !capabilities.file_backed_erofs.available => Use::Lazy,
        _ => Use::None,
    }
}

fn kernel_checks(capabilities: &Capabilities, start: Start) -> Vec<Check> {
    let abilities = capabilities.abilities().into_iter();
    let checks = abilities.map(|(name, ability)| {
        let known = KERNEL.iter().find(|(known, _)| *known == name);
        Check {
            name: name.to_owned(),
            ok: ability.available,
            needed_for: needed_for(name, capabilities, start),
            evidence: ability.evidence.clone(),
            advice: known.map(|(_, advice)| (*advice).to_owned()),
        }
    });
    checks.collect()
}

/// How images start, from what is there.
fn conclude(kernel: String, checks: Vec<Check>, taken: Start) -> Diagnosis {
    let lacking = |wanted: Use| {
        let mut checks = checks.iter();
        checks.find(|check| !check.ok && check.needed_for == wanted)
    };
    let evidence = |wanted| lacking(wanted).map(|check| check.evidence.clone());
    let (start, transport, reason) = match (evidence(Use::Mount), taken) {
        (Some(evidence), _) => ("none", "none", evidence),
        (None, Start::Lazy(TransportKind::Fanotify)) => {
            let reason = "pre-content events work on the store's filesystem";
            ("lazy", "fanotify", reason.to_owned())
        }
        (None, Start::Lazy(TransportKind::Fuse)) => {
            ("lazy", "fuse", evidence(Use::Better).unwrap_or_default())
        }
        (None, Start::Full) => ("full", "none", evidence(Use::Lazy).unwrap_or_default()),
        (None, Start::Directories) => {
            let reason = evidence(Use::Better).unwrap_or_default();
            ("full", "directories", reason)
        }
    };
    let advice_for = |better: bool| {
        let mut advice: Vec<String> = Vec::new();
        for check in checks
            .iter()
            .filter(|it| (it.needed_for == Use::Better) == better)
        {
            advice.extend(check.advice.clone().filter(|new| !advice.contains(new)));
        }
        advice
    };
    let (advice, better) = (advice_for(false), advice_for(true));
    Diagnosis {
        kernel,
        store: String::new(),
        start,
        transport,
        reason,
        advice,
        better,
        checks,
    }
}

/// Whether what is read of a mounted image is kept in memory once.
fn direct_reads(store: &Path) -> Check {
    let found = thaw_mount::direct_reads(store);
    Check {
        name: "direct reads".to_owned(),
        ok: found.available,
        needed_for: Use::None,
        evidence: found.evidence,
        advice: None,
    }
}

/// Whether reads that follow one another pay for halts, in a machine whose processors halt.
fn idle_processors() -> Option<Check> {
    let awake = Awake::is_of_use().then(Awake::new)?;
    Some(Check {
        name: "idle processors".to_owned(),
        ok: awake.is_ok(),
        needed_for: Use::None,
        evidence: match awake {
            Ok(_awake) => "none halts while reads follow one another".to_owned(),
            Err(error) => format!(
                "they halt between two reads, which makes them slower: {}: {error}",
                wake::LATENCY
            ),
        },
        advice: None,
    })
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
                (false, Use::None | Use::Better) => "not there",
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
        "full" if *transport == "directories" => writeln!(
            text,
            "\nimages start by a full pull, unpacked into directories: {reason}"
        ),
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
    let better_way = match *transport {
        "directories" => "lazy starts",
        _ => "pre-content events",
    };
    for better in &diagnosis.better {
        let _ = writeln!(text, "for {better_way}: {better}");
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
        let told = |mount, events, taken| {
            let checks = vec![
                check("erofs", mount, Use::Mount),
                check(
                    "events",
                    taken == Start::Lazy(TransportKind::Fanotify),
                    events,
                ),
                check("loop", false, Use::None),
            ];
            let diagnosis = conclude("6.18".to_owned(), checks, taken);
            let how = (diagnosis.start, diagnosis.transport);
            (how, diagnosis.reason, diagnosis.advice.len())
        };
        let best = told(true, Use::Lazy, Start::Lazy(TransportKind::Fanotify));
        assert_eq!(best.0, ("lazy", "fanotify"));
        let seen = |what: &str| format!("seen: {what}");
        // The advice for a better way makes nothing fail.
        let fuse = told(true, Use::Better, Start::Lazy(TransportKind::Fuse));
        assert_eq!(fuse, (("lazy", "fuse"), seen("events"), 1));
        let full = told(true, Use::Lazy, Start::Full);
        assert_eq!(full, (("full", "none"), seen("events"), 2));
        let directories = told(true, Use::Better, Start::Directories);
        assert_eq!(directories, (("full", "directories"), seen("events"), 1));
        let none = told(false, Use::Lazy, Start::Full);
        assert_eq!(none, (("none", "none"), seen("erofs"), 3));
    }

    #[test]
    fn a_machine_without_events_is_served_by_fuse() {
        let mut capabilities = Capabilities::probe(std::path::Path::new("/var/tmp"));
        capabilities.pre_content_events.available = false;
        let text = |capabilities: &Capabilities| {
            describe(&diagnose(capabilities, |program| Some(program.into())))
        };
        let told = text(&capabilities);
        assert!(told.contains("fault transport: fuse"), "{told}");
        assert!(
            told.contains("for pre-content events: take Linux 6.14"),
            "{told}"
        );
        assert!(!told.contains("to do:"), "{told}");
        capabilities.fuse.available = false;
        let told = text(&capabilities);
        assert!(told.contains("full pull only"), "{told}");
        assert!(
            told.contains("to do: without pre-content events, load the module fuse"),
            "{told}"
        );
    }

    #[test]
    fn a_machine_without_layouts_unpacks() {
        let mut capabilities = Capabilities::probe(std::path::Path::new("/var/tmp"));
        for ability in [
            &mut capabilities.file_backed_erofs,
            &mut capabilities.loop_devices,
        ] {
            ability.available = false;
            ability.evidence = "blocks of 512 bytes are not taken".to_owned();
        }
        let diagnosis = diagnose(&capabilities, |program| Some(program.into()));
        let told = describe(&diagnosis);
        assert!(
            told.contains("by a full pull, unpacked into directories: blocks of 512 bytes"),
            "{told}"
        );
        assert!(told.contains("for lazy starts: take Linux 6.12"), "{told}");
        assert!(told.contains("or take Linux 6.4"), "{told}");
        // It works as it is: that is no failure.
        assert!(!told.contains("to do:"), "{told}");
        capabilities.overlayfs.available = false;
        let told = describe(&diagnose(&capabilities, |program| Some(program.into())));
        assert!(told.contains("cannot be mounted here"), "{told}");
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
