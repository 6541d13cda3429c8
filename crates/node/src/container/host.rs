//! What this machine gives to a container, read once for each start: the configuration follows
//! from it, so that the rest is a pure function.

use std::fs;
use std::path::Path;

use rustix::process::{Resource, getrlimit};
use rustix::thread::CapabilitySet;

/// Facts about the machine and this process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Host {
    /// Whether `/sys/fs/cgroup` is the unified hierarchy (cgroup v2). Version 1 and hybrid
    /// layouts look the same to a container, which then gets no cgroup namespace: as the field has it.
    pub(super) unified: bool,
    /// Whether the kernel counts swap beside memory.
    pub(super) swap: bool,
    /// Open files that a container may have: the field's 1,048,576, or our own bound where we may
    /// not go beyond it.
    pub(super) files: u64,
    /// The OOM score adjustment a container may have: 0, or our own where we may not lower it.
    pub(super) oom_score: i32,
    /// The AppArmor profile to run under, where the kernel has AppArmor and a container profile.
    pub(super) apparmor: Option<String>,
    /// Whether the kernel filters system calls.
    pub(super) seccomp: bool,
    /// The host's own name.
    pub(super) name: String,
}

/// What containers get elsewhere, and what the kernel allows at most by default (`fs.nr_open`).
const FILES: u64 = 1 << 20;

/// Profiles that container tools load, in the order in which one is taken.
const APPARMOR: [&str; 3] = [
    "thaw-default",
    "docker-default",
    "cri-containerd.apparmor.d",
];

impl Host {
    /// Reads the facts. What cannot be read counts as absent.
    pub(super) fn probe() -> Self {
        let cgroup = Path::new("/sys/fs/cgroup");
        let unified = cgroup.join("cgroup.controllers").exists();
        let resource = rustix::thread::capabilities(None)
            .is_ok_and(|sets| sets.effective.contains(CapabilitySet::SYS_RESOURCE));
        let hard = getrlimit(Resource::Nofile).maximum.unwrap_or(FILES);
        let own_score = read("/proc/self/oom_score_adj").parse().unwrap_or(0);
        Self {
            unified,
            swap: unified || cgroup.join("memory/memory.memsw.limit_in_bytes").exists(),
            files: if resource { FILES } else { FILES.min(hard) },
            oom_score: if resource { 0 } else { own_score.max(0) },
            apparmor: apparmor(),
            seccomp: Path::new("/proc/sys/kernel/seccomp").exists(),
            name: read("/proc/sys/kernel/hostname"),
        }
    }
}

fn apparmor() -> Option<String> {
    if read("/sys/module/apparmor/parameters/enabled") != "Y" {
        return None;
    }
    let loaded = read("/sys/kernel/security/apparmor/profiles");
    let is_loaded = |name: &&&str| {
        loaded
            .lines()
            .any(|line| line.split(' ').next() == Some(name))
    };
    APPARMOR
        .iter()
        .find(is_loaded)
        .map(|name| (*name).to_owned())
}

fn read(path: &str) -> String {
    fs::read_to_string(path)
        .map(|text| text.trim_end().to_owned())
        .unwrap_or_default()
}
