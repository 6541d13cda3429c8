//! The guest whose first process is systemd: what goes to its disk beside what the others have, and
//! what it must say.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;

use anyhow::{Context, Result, ensure};

use super::{Expected, hold, root, section};
use crate::command;

const STEPS: &str = include_str!("systemd.sh");
/// Units of systemd that ours stand on. Its services are left out: they do nothing for what is tried.
const TARGETS: [&str; 12] = [
    "basic",
    "sysinit",
    "sockets",
    "timers",
    "paths",
    "slices",
    "local-fs",
    "swap",
    "shutdown",
    "umount",
    "network-online",
    "multi-user",
];
const UNIT: &str = "[Unit]
Requires=basic.target
After=basic.target
[Service]
ExecStart=/systemd.sh
StandardOutput=file:/dev/ttyS0
StandardError=file:/dev/ttyS0
";
/// What the kernel is told.
pub(super) const ARGUMENTS: &str =
    "guest_init=/bin/systemd systemd.unit=guest.service systemd.show_status=no";

const EXPECTED: [Expected; 7] = [
    Expected {
        step: "what is read",
        there: &["128\n", "code 0"],
    },
    Expected {
        step: "begun by its socket",
        there: &[
            "thaw.service inactive",
            "thaw.service active",
            "one daemon",
            "score -500",
            " lazy ",
            "of-layer-000: OK",
        ],
    },
    Expected {
        step: "restarted",
        there: &["another daemon", "of-layer-001: OK", "it runs on"],
    },
    Expected {
        step: "daemon and keeper killed",
        there: &["of-layer-002: OK", "thaw.service active", "restarts 1"],
    },
    Expected {
        step: "hangs",
        there: &["of-layer-003: OK", "thaw.service active", "another daemon"],
    },
    Expected {
        step: "stopped",
        there: &["thaw.service inactive", "0 mounts", "0 processes"],
    },
    Expected {
        step: "functions",
        there: &[
            "thaw-serve.service inactive\ncode 0\nthaw-serve.service active\ncode 0\nthaw-serve.service inactive",
        ],
    },
];

/// Puts systemd and our units below `root`.
pub(super) fn install(root: &Path) -> Result<()> {
    for path in ["/lib/systemd/systemd", "/bin/systemctl"] {
        root::program(Path::new(path), root)?;
    }
    let units = root.join("etc/systemd/system");
    for dir in [&units, &root.join("usr"), &root.join("var")] {
        fs::create_dir_all(dir)?;
    }
    symlink("/bin", root.join("usr/bin"))?;
    for target in TARGETS {
        let name = format!("{target}.target");
        let from = Path::new("/lib/systemd/system").join(&name);
        fs::copy(&from, units.join(&name))
            .with_context(|| format!("cannot copy {}", from.display()))?;
    }
    for entry in fs::read_dir(command::root().join("packaging/systemd"))? {
        let path = entry?.path();
        fs::copy(&path, units.join(path.file_name().unwrap_or_default()))?;
    }
    fs::write(units.join("guest.service"), UNIT)?;
    fs::write(root.join("etc/machine-id"), "")?;
    fs::write(root.join("systemd.sh"), STEPS)?;
    fs::set_permissions(root.join("systemd.sh"), fs::Permissions::from_mode(0o755))?;
    Ok(())
}

/// Holds what the guest said against what it must say.
pub(super) fn check(said: &str) -> Result<()> {
    for Expected { step, there } in &EXPECTED {
        hold(said, &format!("systemd: {step}"), there)?;
    }
    ensure!(section(said, "end").is_some(), "it did not get to its end");
    Ok(())
}
