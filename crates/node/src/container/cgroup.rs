//! The control group of a container: frozen while nobody needs it, and asked what it has used. Both
//! versions of control groups, also side by side (cgroups(7)).

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Where hierarchies are mounted.
const ROOT: &str = "/sys/fs/cgroup";
/// For how long a group may take to be frozen.
const PATIENCE: Duration = Duration::from_secs(2);

/// One control group.
#[derive(Clone, Debug)]
pub struct Cgroup {
    freezer: Freezer,
    memory: Option<PathBuf>,
}

#[derive(Clone, Debug)]
enum Freezer {
    /// `freezer.state` (Documentation/admin-guide/cgroup-v1/freezer-subsystem.rst).
    V1(PathBuf),
    /// `cgroup.freeze` (Documentation/admin-guide/cgroup-v2.rst).
    V2(PathBuf),
}

impl Cgroup {
    /// The group with that path below each hierarchy; `None` where it cannot be frozen.
    #[must_use]
    pub fn of(path: &str) -> Option<Self> {
        let path = path.trim_start_matches('/');
        let root = Path::new(ROOT);
        let found = |dir: PathBuf, file: &str| dir.join(file).exists().then_some(dir);
        let v2 = || {
            let mut roots = [root.to_owned(), root.join("unified")].into_iter();
            roots.find_map(|root| found(root.join(path), "cgroup.freeze"))
        };
        let v1 = found(root.join("freezer").join(path), "freezer.state");
        let freezer = match v1 {
            Some(dir) => Freezer::V1(dir),
            None => Freezer::V2(v2()?),
        };
        let memory = match &freezer {
            Freezer::V2(dir) => found(dir.clone(), "memory.max"),
            Freezer::V1(_) => found(root.join("memory").join(path), "memory.limit_in_bytes"),
        };
        Some(Self { freezer, memory })
    }

    /// Stops every process of the group where it is; returns when they are.
    ///
    /// # Errors
    /// Those of the kernel, or that it takes too long.
    pub fn freeze(&self) -> io::Result<()> {
        self.set(true)?;
        let deadline = Instant::now() + PATIENCE;
        while !self.is_frozen()? {
            if Instant::now() >= deadline {
                self.set(false)?;
                return Err(io::ErrorKind::TimedOut.into());
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        Ok(())
    }

    /// Has them go on.
    ///
    /// # Errors
    /// Those of the kernel.
    pub fn thaw(&self) -> io::Result<()> {
        self.set(false)
    }

    fn set(&self, frozen: bool) -> io::Result<()> {
        match &self.freezer {
            Freezer::V1(dir) => {
                let state = if frozen { "FROZEN" } else { "THAWED" };
                fs::write(dir.join("freezer.state"), state)
            }
            Freezer::V2(dir) => {
                let state = if frozen { "1" } else { "0" };
                fs::write(dir.join("cgroup.freeze"), state)
            }
        }
    }

    /// Whether all of its processes are.
    ///
    /// # Errors
    /// Those of the kernel.
    pub fn is_frozen(&self) -> io::Result<bool> {
        match &self.freezer {
            Freezer::V1(dir) => {
                let state = fs::read_to_string(dir.join("freezer.state"))?;
                Ok(state.trim() == "FROZEN")
            }
            Freezer::V2(dir) => {
                let events = fs::read_to_string(dir.join("cgroup.events"))?;
                Ok(events.lines().any(|line| line == "frozen 1"))
            }
        }
    }

    /// The most bytes of memory that it has had.
    #[must_use]
    pub fn peak_memory(&self) -> Option<u64> {
        let file = match &self.freezer {
            Freezer::V1(_) => "memory.max_usage_in_bytes",
            Freezer::V2(_) => "memory.peak",
        };
        let text = fs::read_to_string(self.memory.as_ref()?.join(file)).ok()?;
        text.trim().parse().ok()
    }

    /// How many of its processes the kernel has killed for want of memory.
    #[must_use]
    pub fn memory_kills(&self) -> u64 {
        let file = match &self.freezer {
            Freezer::V1(_) => "memory.oom_control",
            Freezer::V2(_) => "memory.events",
        };
        let read = |dir: &PathBuf| fs::read_to_string(dir.join(file)).ok();
        let text = self.memory.as_ref().and_then(read).unwrap_or_default();
        let count = text.lines().find_map(|line| line.strip_prefix("oom_kill "));
        count
            .and_then(|count| count.trim().parse().ok())
            .unwrap_or(0)
    }
}
