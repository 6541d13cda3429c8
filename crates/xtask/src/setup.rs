//! Installs by name what is missing, and nothing else.

use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::command::{self, find};

/// A Debian package, the program (or file) that shows it is there, and why it is wanted.
pub(crate) struct Need {
    package: &'static str,
    shown_by: &'static str,
    why: &'static str,
}

const fn need(package: &'static str, shown_by: &'static str, why: &'static str) -> Need {
    Need {
        package,
        shown_by,
        why,
    }
}

const NEEDS: &[Need] = &[
    need("gcc", "gcc", "links the binaries, builds zstd"),
    need("libc6-dev", "/usr/include/stdlib.h", "links the binaries"),
    need(
        "ca-certificates",
        "/etc/ssl/certs/ca-certificates.crt",
        "TLS to package indexes",
    ),
    need("iproute2", "ip", "network namespaces of the bench"),
    need("mount", "mount", "mounts of the tests"),
    need(
        "openssl",
        "openssl",
        "certificates of the tests, and the independent judge of signatures",
    ),
    need("util-linux", "setpriv", "other users in the tests"),
    need(
        "systemd",
        "systemd-analyze",
        "reads the units, in the tests",
    ),
    need(
        "e2fsprogs",
        "mke2fs",
        "a fresh ext4 for each run of the bench",
    ),
    need(
        "util-linux-extra",
        "fincore",
        "what is in the page cache, in bench and tests",
    ),
    need("crun", "crun", "runs containers"),
    need("runc", "runc", "runs containers"),
    need(
        "containerd",
        "containerd",
        "the baseline of the bench, and a judge of unpacking",
    ),
    need(
        "docker-registry",
        "docker-registry",
        "the registry of the tests",
    ),
    need("skopeo", "skopeo", "copies images into the registry"),
    need("umoci", "umoci", "the independent judge of unpacking"),
    need(
        "mmdebstrap",
        "mmdebstrap",
        "builds the base of the real images",
    ),
    need(
        "busybox-static",
        "busybox",
        "the program in small test images",
    ),
    need("erofs-utils", "mkfs.erofs", "an outside check of layouts"),
    need("strace", "strace", "the order of what a daemon syncs"),
    need("attr", "setfattr", "extended attributes in tests"),
    need("acl", "setfacl", "POSIX ACLs in tests"),
    need("libcap2-bin", "setcap", "file capabilities in tests"),
    need("python3", "python3", "the real images' programs"),
    need(
        "python3-pip",
        "pip3",
        "fetches the real images' packages, and clients of the function host",
    ),
    need("nodejs", "node", "runs clients of the function host"),
    need("npm", "npm", "fetches clients of the function host"),
    need(
        "chromium",
        "chromium",
        "the browser that the console is tested in",
    ),
    need("chromium-driver", "chromedriver", "steers that browser"),
    need("wrk", "wrk", "loads the function host in the bench"),
    need(
        "fonts-noto-cjk",
        "/usr/share/fonts/opentype/noto/NotoSansCJK-Regular.ttc",
        "the console's Chinese",
    ),
];

/// What `guest` needs beside those.
pub(crate) const GUEST: [Need; 2] = [
    need(
        "qemu-system-x86",
        "qemu-system-x86_64",
        "runs guests with other kernels",
    ),
    need("binutils", "strip", "small programs for guests"),
];

/// Installs what is missing for tests and bench.
pub(crate) fn run() -> Result<()> {
    run_with(&[])
}

/// Installs what is missing, of `more` too. Not as root, or not on Debian, it says what to install instead.
pub(crate) fn run_with(more: &[Need]) -> Result<()> {
    let needs = || NEEDS.iter().chain(more);
    let missing: Vec<&Need> = needs().filter(|need| !present(need)).collect();
    if missing.is_empty() {
        println!("setup: all {} packages are there", needs().count());
        return Ok(());
    }
    for need in &missing {
        println!("setup: {} is missing ({})", need.package, need.why);
    }
    let names: Vec<&str> = missing.iter().map(|need| need.package).collect();
    let by_hand = format!(
        "apt-get install --no-install-recommends {}",
        names.join(" ")
    );
    if !is_root()? {
        bail!("not root, so nothing was installed; run as root: {by_hand}");
    }
    if find("apt-get").is_none() {
        bail!("no apt-get here; install by your own means what `{by_hand}` would");
    }
    install(&names)
}

fn present(need: &Need) -> bool {
    Path::new(need.shown_by).is_absolute() && Path::new(need.shown_by).exists()
        || find(need.shown_by).is_some()
}

fn is_root() -> Result<bool> {
    Ok(fs::metadata("/proc/self")
        .context("cannot read /proc/self")?
        .uid()
        == 0)
}

fn install(names: &[&str]) -> Result<()> {
    let _quiet = NoServices::new()?;
    command::run(apt_get().arg("update"))?;
    command::run(
        apt_get()
            .args(["install", "--yes", "--no-install-recommends"])
            .args(names),
    )
}

fn apt_get() -> Command {
    let mut command = Command::new("apt-get");
    command
        .arg("--quiet")
        .env("DEBIAN_FRONTEND", "noninteractive");
    command
}

/// Keeps packages from starting their services while it lives: tests start their own registry and
/// containerd, on ports and directories of their own. Debian asks `policy-rc.d` before each start;
/// 101 means no (invoke-rc.d(8)).
struct NoServices(Option<&'static Path>);

impl NoServices {
    fn new() -> Result<Self> {
        let path = Path::new("/usr/sbin/policy-rc.d");
        match fs::File::create_new(path) {
            Ok(_) => {}
            // Whoever wrote it has decided about services already.
            Err(error) if error.kind() == ErrorKind::AlreadyExists => return Ok(Self(None)),
            Err(error) => return Err(error).context("cannot create /usr/sbin/policy-rc.d"),
        }
        let guard = Self(Some(path));
        fs::write(path, "#!/bin/sh\nexit 101\n").context("cannot write policy-rc.d")?;
        fs::set_permissions(path, fs::Permissions::from_mode(0o755))?;
        Ok(guard)
    }
}

impl Drop for NoServices {
    fn drop(&mut self) {
        if let Some(path) = self.0 {
            let _ = fs::remove_file(path);
        }
    }
}
