//! The runtime-spec document (`config.json`), with the defaults that containers have in production.
//!
//! It is written as the JSON it is; a test reads it with the types of `oci-spec`. Keys are sorted
//! and nothing depends on the time, so that one input has one document.

use serde_json::{Value, json};

use super::host::Host;
use super::options::{Limits, Network, Tmpfs};
use super::process::{CAPABILITIES, Process};
use super::{ContainerId, seccomp};

/// Everything a document follows from.
#[derive(Debug)]
pub(super) struct Spec<'a> {
    pub(super) id: &'a ContainerId,
    pub(super) hostname: &'a str,
    pub(super) rootfs: &'a str,
    pub(super) read_only: bool,
    pub(super) process: &'a Process<'a>,
    pub(super) net: Network,
    /// The network namespace to join; a fresh one where there is none.
    pub(super) netns: Option<&'a str>,
    pub(super) limits: Limits,
    /// Mounts beyond those every container has, each after those that it lies in.
    pub(super) mounts: Vec<Mount>,
    pub(super) host: &'a Host,
}

/// One mount, as the runtime-spec has it ("Mounts").
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Mount {
    target: String,
    kind: &'static str,
    source: String,
    options: Vec<String>,
}

/// What the kernel shows of the machine and a container must not see.
const MASKED: [&str; 11] = [
    "/proc/acpi",
    "/proc/asound",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/proc/timer_list",
    "/sys/devices/virtual/powercap",
    "/sys/firmware",
];

/// What it may see and not change.
const READ_ONLY: [&str; 5] = [
    "/proc/bus",
    "/proc/fs",
    "/proc/irq",
    "/proc/sys",
    "/proc/sysrq-trigger",
];

impl Mount {
    fn new(target: &str, kind: &'static str, source: &str, options: &[&str]) -> Self {
        Self {
            target: target.to_owned(),
            kind,
            source: source.to_owned(),
            options: options.iter().map(|option| (*option).to_owned()).collect(),
        }
    }

    /// A directory or file of the host. It sees no later mounts of the host, nor the host its.
    pub(super) fn bind(source: &str, target: &str, read_only: bool) -> Self {
        let access = if read_only { "ro" } else { "rw" };
        Self::new(target, "bind", source, &["rbind", "rprivate", access])
    }

    /// A fresh file system in memory.
    pub(super) fn tmpfs(tmpfs: &Tmpfs) -> Self {
        let asked = |option: &str| tmpfs.options.iter().any(|asked| asked == option);
        let kept = [("nosuid", "suid"), ("nodev", "dev"), ("noexec", "exec")]
            .into_iter()
            .filter(|(default, contrary)| !asked(default) && !asked(contrary))
            .map(|(default, _)| default);
        let mut mount = Self::new(&tmpfs.target, "tmpfs", "tmpfs", &kept.collect::<Vec<_>>());
        mount.options.extend_from_slice(&tmpfs.options);
        mount
    }

    pub(super) fn target(&self) -> &str {
        &self.target
    }

    fn to_json(&self) -> Value {
        json!({
            "destination": self.target,
            "type": self.kind,
            "source": self.source,
            "options": self.options,
        })
    }
}

impl Spec<'_> {
    /// The document.
    pub(super) fn to_json(&self) -> Value {
        let mut mounts = kernel_mounts();
        // A mount of the user's replaces the default at the same place.
        mounts.retain(|mount| self.mounts.iter().all(|other| other.target != mount.target));
        mounts.extend_from_slice(&self.mounts);
        json!({
            "ociVersion": "1.0.2",
            "hostname": self.hostname,
            "root": { "path": self.rootfs, "readonly": self.read_only },
            "process": self.process.to_json(),
            "mounts": mounts.iter().map(Mount::to_json).collect::<Vec<_>>(),
            "linux": self.linux(),
        })
    }

    fn linux(&self) -> Value {
        let mut linux = json!({
            "cgroupsPath": self.id.cgroup(),
            "namespaces": self.namespaces(),
            "maskedPaths": MASKED,
            "readonlyPaths": READ_ONLY,
            "resources": self.resources(),
        });
        if self.host.seccomp {
            linux["seccomp"] = seccomp::filter(std::env::consts::ARCH, &CAPABILITIES);
        }
        if self.net != Network::Host {
            // A network of its own has no ports that only root may have, and anyone may ping.
            linux["sysctl"] = json!({
                "net.ipv4.ip_unprivileged_port_start": "0",
                "net.ipv4.ping_group_range": "0 2147483647",
            });
        }
        linux
    }

    fn namespaces(&self) -> Vec<Value> {
        let mut kinds = vec!["pid", "ipc", "uts", "mount"];
        if self.host.unified {
            kinds.push("cgroup");
        }
        let mut namespaces: Vec<Value> = kinds.iter().map(|kind| json!({ "type": kind })).collect();
        match (self.net, self.netns) {
            (Network::Host, _) => {}
            (_, Some(path)) => namespaces.push(json!({ "type": "network", "path": path })),
            (_, None) => namespaces.push(json!({ "type": "network" })),
        }
        namespaces
    }

    fn resources(&self) -> Value {
        let mut resources = json!({ "devices": device_rules() });
        if let Some(memory) = self.limits.memory {
            resources["memory"] = json!({ "limit": memory });
            if self.host.swap {
                resources["memory"]["swap"] = json!(memory.saturating_mul(2));
            }
        }
        if let Some(cpus) = self.limits.cpus {
            const PERIOD: u32 = 100_000;
            // In range: parsed as 0.01 to 4,096; the kernel's least quota is 1,000 microseconds.
            #[allow(clippy::cast_possible_truncation)]
            let quota = (cpus * f64::from(PERIOD)) as i64;
            resources["cpu"] = json!({ "quota": quota.max(1000), "period": PERIOD });
        }
        if let Some(pids) = self.limits.pids {
            resources["pids"] = json!({ "limit": pids });
        }
        resources
    }
}

/// The file systems that every container has.
fn kernel_mounts() -> Vec<Mount> {
    let safe = ["nosuid", "noexec", "nodev"];
    let with = |more: &[&'static str]| [&safe, more].concat();
    vec![
        Mount::new("/proc", "proc", "proc", &safe),
        Mount::new(
            "/dev",
            "tmpfs",
            "tmpfs",
            &["nosuid", "strictatime", "mode=755", "size=65536k"],
        ),
        Mount::new(
            "/dev/pts",
            "devpts",
            "devpts",
            &[
                "nosuid",
                "noexec",
                "newinstance",
                "ptmxmode=0666",
                "mode=0620",
                "gid=5",
            ],
        ),
        Mount::new(
            "/dev/shm",
            "tmpfs",
            "shm",
            &with(&["mode=1777", "size=65536k"]),
        ),
        Mount::new("/dev/mqueue", "mqueue", "mqueue", &safe),
        Mount::new("/sys", "sysfs", "sysfs", &with(&["ro"])),
        Mount::new(
            "/sys/fs/cgroup",
            "cgroup",
            "cgroup",
            &with(&["relatime", "ro"]),
        ),
    ]
}

/// No device but those without harm; any may be made (mknod), and then not opened.
fn device_rules() -> Vec<Value> {
    let mut rules = vec![
        json!({ "allow": false, "access": "rwm" }),
        json!({ "allow": true, "type": "c", "access": "m" }),
        json!({ "allow": true, "type": "b", "access": "m" }),
    ];
    // null, zero, full, random, urandom, tty, console, ptmx.
    for (major, minor) in [
        (1, 3),
        (1, 5),
        (1, 7),
        (1, 8),
        (1, 9),
        (5, 0),
        (5, 1),
        (5, 2),
    ] {
        rules.push(json!({
            "allow": true, "type": "c", "major": major, "minor": minor, "access": "rwm",
        }));
    }
    // Pseudo-terminals.
    rules.push(json!({ "allow": true, "type": "c", "major": 136, "access": "rwm" }));
    rules
}

#[cfg(test)]
mod tests {
    use oci_spec::runtime::LinuxNamespaceType;

    use super::*;
    use crate::container::user::User;

    fn host(unified: bool) -> Host {
        Host {
            unified,
            swap: true,
            files: 1 << 20,
            oom_score: 0,
            apparmor: None,
            seccomp: true,
            name: "machine".into(),
        }
    }

    fn document(unified: bool, net: Network, netns: Option<&str>) -> Value {
        let host = host(unified);
        let process = Process {
            args: vec!["/bin/app".into(), "--serve".into()],
            env: vec!["PATH=/bin".into()],
            cwd: "/srv".into(),
            user: User {
                uid: 33,
                gid: 34,
                groups: vec![34, 50],
                home: "/srv".into(),
            },
            tty: false,
            new_privileges: false,
            host: &host,
        };
        let spec = Spec {
            id: &"ab".repeat(32).parse().unwrap(),
            hostname: "box",
            rootfs: "/store/mounts/x/root",
            read_only: true,
            process: &process,
            net,
            netns,
            limits: Limits {
                memory: Some(512 << 20),
                cpus: Some(1.5),
                pids: Some(100),
            },
            mounts: vec![
                Mount::bind("/host/data", "/data", true),
                Mount::bind("/host/deep", "/data/deep", false),
                Mount::tmpfs(&"/dev/shm:size=1m,exec".parse().unwrap()),
            ],
            host: &host,
        };
        spec.to_json()
    }

    /// `THAW_BLESS=1 cargo test -p thaw-node` writes the expected file anew.
    #[test]
    fn a_fixed_input_has_a_fixed_document() {
        let netns = "/run/netns/thaw-abababababab";
        let mut document = document(true, Network::Bridge, Some(netns));
        // The filter follows from the machine, and has tests of its own.
        document["linux"]["seccomp"] = json!("seccomp");
        let text = serde_json::to_string_pretty(&document).unwrap() + "\n";
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/container_config.json");
        if std::env::var_os("THAW_BLESS").is_some() {
            std::fs::write(path, &text).unwrap();
        }
        assert_eq!(text, std::fs::read_to_string(path).unwrap());
    }

    #[test]
    fn the_document_is_a_runtime_spec() {
        for (unified, net) in [
            (true, Network::Bridge),
            (false, Network::Host),
            (false, Network::None),
        ] {
            let text = document(unified, net, None).to_string();
            let spec: oci_spec::runtime::Spec = serde_json::from_str(&text).unwrap();
            let linux = spec.linux().as_ref().unwrap();
            let has = |kind| {
                let mut namespaces = linux.namespaces().iter().flatten();
                namespaces.any(|namespace| namespace.typ() == kind)
            };
            assert_eq!(has(LinuxNamespaceType::Cgroup), unified);
            assert_eq!(has(LinuxNamespaceType::Network), net != Network::Host);
            assert!(linux.seccomp().is_some());
            let capabilities = spec
                .process()
                .as_ref()
                .unwrap()
                .capabilities()
                .clone()
                .unwrap();
            assert_eq!(capabilities.bounding().as_ref().unwrap().len(), 14);
        }
    }

    #[test]
    fn a_mount_replaces_the_default_at_its_place() {
        let document = document(false, Network::None, None);
        let targets: Vec<&str> = document["mounts"]
            .as_array()
            .unwrap()
            .iter()
            .map(|mount| mount["destination"].as_str().unwrap())
            .collect();
        let place = |target| targets.iter().position(|other| *other == target).unwrap();
        assert_eq!(
            targets
                .iter()
                .filter(|target| **target == "/dev/shm")
                .count(),
            1
        );
        let shm = &document["mounts"][place("/dev/shm")]["options"];
        assert_eq!(shm, &json!(["nosuid", "nodev", "size=1m", "exec"]));
    }
}
