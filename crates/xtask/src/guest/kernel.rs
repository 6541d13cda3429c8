//! A kernel of Debian, with the modules that a guest needs.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use super::{fresh, output};
use crate::command;

/// Modules that a guest loads, where they are not in the kernel: its disk, and what is tried.
const WANTED: [&str; 9] = [
    "virtio_pci",
    "virtio_blk",
    "crc32c_generic",
    "libcrc32c",
    "ext4",
    "overlay",
    "erofs",
    "fuse",
    "loop",
];

/// A kernel, unpacked.
pub(super) struct Kernel {
    /// As `uname -r` says it.
    pub(super) version: String,
    /// What is booted.
    pub(super) image: PathBuf,
    /// Each behind those that it needs.
    pub(super) modules: Vec<PathBuf>,
}

impl Kernel {
    /// Of a package, which is downloaded if it is not in `dir`, or of a package's file.
    pub(super) fn get(name: &str, dir: &Path) -> Result<Self> {
        let file = match Path::new(name) {
            file if name.ends_with(".deb") => file.to_owned(),
            _ => download(&concrete(name)?, dir)?,
        };
        let stem = file.file_stem().unwrap_or_default();
        let unpacked = dir.join(stem);
        if !unpacked.join("done").exists() {
            fresh(&unpacked)?;
            command::run(Command::new("dpkg-deb").arg("-x").arg(&file).arg(&unpacked))?;
            fs::write(unpacked.join("done"), "")?;
        }
        let lib = [
            unpacked.join("lib/modules"),
            unpacked.join("usr/lib/modules"),
        ];
        let lib = lib.iter().find(|dir| dir.exists()).context("no modules")?;
        let mut versions = fs::read_dir(lib)?;
        let version = versions.next().context("no modules in the package")??;
        let version = version.file_name().to_string_lossy().into_owned();
        let mut kernel = Self {
            image: unpacked.join(format!("boot/vmlinuz-{version}")),
            modules: Vec::new(),
            version,
        };
        if lib.starts_with(unpacked.join("lib")) {
            kernel.find_modules(&unpacked)?;
        } else {
            kernel.find_modules(&unpacked.join("usr"))?;
        }
        Ok(kernel)
    }

    fn find_modules(&mut self, base: &Path) -> Result<()> {
        let list = base.join("lib/modules").join(&self.version);
        command::run(
            Command::new("busybox")
                .args(["depmod", "-b"])
                .arg(base)
                .arg(&self.version),
        )?;
        let needs = fs::read_to_string(list.join("modules.dep")).context("no modules.dep")?;
        for wanted in WANTED {
            let is_it = |line: &&str| {
                let path = line.split(':').next().unwrap_or_default();
                let name = path.rsplit('/').next().unwrap_or_default();
                name.split('.').next() == Some(wanted)
            };
            // What is not there is in the kernel, or nowhere: the guest will show.
            let Some((module, needs)) = needs.lines().find(is_it).and_then(|it| it.split_once(':'))
            else {
                continue;
            };
            let first = needs.split_whitespace().rev();
            for path in first.chain([module]) {
                let path = list.join(path);
                if !self.modules.contains(&path) {
                    self.modules.push(path);
                }
            }
        }
        Ok(())
    }
}

/// The package that a package without content stands for.
fn concrete(name: &str) -> Result<String> {
    let depends = output(Command::new("apt-cache").args(["depends", name]))?;
    let kernel = |line: &str| {
        let name = line.trim().strip_prefix("Depends: ")?;
        name.starts_with("linux-image-").then(|| name.to_owned())
    };
    Ok(depends
        .lines()
        .find_map(kernel)
        .unwrap_or_else(|| name.to_owned()))
}

/// The package's file, downloaded where it is not there.
fn download(package: &str, dir: &Path) -> Result<PathBuf> {
    let there = || -> Result<Option<PathBuf>> {
        for entry in fs::read_dir(dir)? {
            let name = entry?.file_name();
            let name = name.to_string_lossy();
            if name.starts_with(&format!("{package}_")) && name.ends_with(".deb") {
                return Ok(Some(dir.join(&*name)));
            }
        }
        Ok(None)
    };
    if let Some(file) = there()? {
        return Ok(file);
    }
    command::run(
        Command::new("apt-get")
            .current_dir(dir)
            .args(["download", package]),
    )?;
    match there()? {
        Some(file) => Ok(file),
        None => bail!(
            "apt-get has downloaded {package}, and it is not in {}",
            dir.display()
        ),
    }
}
