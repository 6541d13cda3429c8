//! What a test run must not leave behind: mounts, network namespaces, network links, loop devices,
//! processes, control groups.
//!
//! The state of the machine is taken before and after; what is there only afterwards is a leak.
//! Something else on the machine that mounts or starts things meanwhile shows up as well.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};

/// Children that were told to end may take this long.
const GRACE: Duration = Duration::from_secs(5);

/// Programs that only tests start here.
const OURS: &[&str] = &["thaw", "docker-registry", "containerd", "crun", "runc"];

/// What is there now, one line per thing.
#[derive(Debug)]
pub(crate) struct Machine(BTreeSet<String>);

impl Machine {
    /// Looks.
    pub(crate) fn now() -> Self {
        let all = [
            mounts(),
            namespaces(),
            links(),
            loops(),
            processes(),
            groups(),
        ];
        Self(all.into_iter().flatten().collect())
    }

    /// Fails when something is there that was not there at `self`.
    pub(crate) fn check(&self) -> Result<()> {
        let start = Instant::now();
        loop {
            let new = self.new_things();
            if new.is_empty() {
                println!(
                    "leaks: none (mounts, network namespaces and links, loop devices, processes, \
                     control groups)"
                );
                return Ok(());
            }
            if start.elapsed() > GRACE {
                bail!("the tests left something behind:\n  {}", new.join("\n  "));
            }
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    fn new_things(&self) -> Vec<String> {
        Self::now().0.difference(&self.0).cloned().collect()
    }
}

/// Mount id, root and mount point, so that a second mount over the same directory counts too.
fn mounts() -> Vec<String> {
    let table = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    table.lines().map(|line| format!("mount {line}")).collect()
}

fn namespaces() -> Vec<String> {
    names("/run/netns")
        .map(|name| format!("network namespace {name}"))
        .collect()
}

fn links() -> Vec<String> {
    names("/sys/class/net")
        .map(|name| format!("network link {name}"))
        .collect()
}

fn loops() -> Vec<String> {
    names("/sys/block")
        .filter_map(|name| {
            let backing = Path::new("/sys/block")
                .join(&name)
                .join("loop/backing_file");
            let file = fs::read_to_string(backing).ok()?;
            Some(format!("loop device {name} on {}", file.trim()))
        })
        .collect()
}

fn processes() -> Vec<String> {
    names("/proc")
        .filter(|name| name.bytes().all(|byte| byte.is_ascii_digit()))
        .filter_map(|pid| {
            let comm = fs::read_to_string(format!("/proc/{pid}/comm")).ok()?;
            let comm = comm.trim();
            // Cargo and its test programs carry the name too, and end by themselves.
            let ours = OURS.iter().any(|name| comm.starts_with(name)) && comm != "thaw-xtask";
            ours.then(|| format!("process {pid} {comm}"))
        })
        .collect()
}

/// Those of containers, in every hierarchy; with version 2 there is one.
fn groups() -> Vec<String> {
    let root = Path::new("/sys/fs/cgroup");
    let hierarchies = names("/sys/fs/cgroup").map(|name| root.join(name));
    let all = hierarchies.chain([root.to_owned()]);
    let ours = all.map(|hierarchy| hierarchy.join("thaw"));
    ours.flat_map(|ours| {
        let inside = fs::read_dir(ours).into_iter().flatten().flatten();
        let groups = inside.filter(|entry| entry.path().is_dir());
        groups.map(|entry| format!("control group {}", entry.path().display()))
    })
    .collect()
}

fn names(directory: &str) -> impl Iterator<Item = String> {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    entries.map(|entry| entry.file_name().to_string_lossy().into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sees_what_is_there() {
        let now = Machine::now();
        assert!(
            now.0
                .iter()
                .any(|line| line.starts_with("mount ") && line.contains(" / / "))
        );
    }

    #[test]
    fn a_process_that_stays_is_a_leak() {
        let program = std::env::temp_dir().join(format!("thaw-leak-{}", std::process::id()));
        fs::copy("/bin/sleep", &program).unwrap();
        let mut before = Machine::now();
        before.0.insert("process 0 gone-by-now".into());
        let mut child = std::process::Command::new(&program)
            .arg("60")
            .spawn()
            .unwrap();
        let leak = format!("process {} thaw-leak", child.id());
        // Whoever spawns goes on a moment before the kernel gives the child its name (fs/exec.c).
        let comm = format!("/proc/{}/comm", child.id());
        while !fs::read_to_string(&comm).unwrap().starts_with("thaw-leak") {
            std::thread::yield_now();
        }
        let leaked = before.new_things();
        child.kill().unwrap();
        child.wait().unwrap();
        fs::remove_file(&program).unwrap();
        assert!(
            leaked.iter().any(|line| line.starts_with(&leak)),
            "{leaked:?}"
        );
        assert!(!leaked.iter().any(|line| line.contains("gone-by-now")));
        assert!(
            !before
                .new_things()
                .iter()
                .any(|line| line.starts_with(&leak))
        );
    }
}
