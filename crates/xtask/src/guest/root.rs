//! A guest's disk: the program, what it runs, and images.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use super::{fresh, output, systemd};
use crate::command::{self, cargo, find};

const STEPS: &str = include_str!("steps.sh");
/// Bytes of the disk; it is sparse.
const DISK_BYTES: u64 = 1 << 30;

/// Makes the disk anew, from a build of now.
pub(super) fn disk(dir: &Path) -> Result<PathBuf> {
    let build = ["build", "--workspace", "--locked", "--bin", "thaw"];
    command::run(cargo().args(build).args(["--example", "guest_images"]))?;
    let built = command::root().join("target/debug");
    let root = dir.join("root");
    fresh(&root)?;
    for name in [
        "bin", "etc", "proc", "sys", "dev", "tmp", "run", "root", "mnt", "images",
    ] {
        fs::create_dir_all(root.join(name))?;
    }
    fs::write(root.join("etc/passwd"), "root:x:0:0::/root:/bin/sh\n")?;
    fs::write(root.join("init"), STEPS)?;
    fs::set_permissions(root.join("init"), fs::Permissions::from_mode(0o755))?;
    command::run(Command::new(built.join("examples/guest_images")).arg(root.join("images")))?;
    program(&built.join("thaw"), &root)?;
    for name in ["crun", "busybox", "mkfs.ext4"] {
        let path = find(name).with_context(|| format!("no {name} here"))?;
        program(&path, &root)?;
    }
    systemd::install(&root)?;
    let disk = dir.join("disk.ext4");
    fs::remove_file(&disk).ok();
    fs::File::create(&disk)?.set_len(DISK_BYTES)?;
    let format = ["-q", "-t", "ext4", "-d"];
    command::run(Command::new("mke2fs").args(format).arg(&root).arg(&disk))?;
    Ok(disk)
}

/// Puts a program into the guest's `/bin`, without what is for debuggers, and its libraries where
/// they are here.
pub(super) fn program(path: &Path, root: &Path) -> Result<()> {
    let name = path.file_name().context("a program without a name")?;
    let target = root.join("bin").join(name);
    command::run(Command::new("strip").arg("-o").arg(&target).arg(path))?;
    for library in libraries(path) {
        let inside = library.strip_prefix("/").unwrap_or(&library);
        let target = root.join(inside);
        if let Some(parent) = target.parent() {
            fs::create_dir_all(parent)?;
        }
        fs::copy(&library, &target)
            .with_context(|| format!("cannot copy {}", library.display()))?;
    }
    let shell = root.join("bin/sh");
    if name == "busybox" && !shell.exists() {
        symlink("busybox", shell)?;
    }
    Ok(())
}

/// What ldd(1) lists; nothing for a static program.
fn libraries(program: &Path) -> BTreeSet<PathBuf> {
    let listed = output(Command::new("ldd").arg(program)).unwrap_or_default();
    let words = listed.split_whitespace();
    words
        .filter(|word| word.starts_with('/'))
        .map(PathBuf::from)
        .collect()
}
