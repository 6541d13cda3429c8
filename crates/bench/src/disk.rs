//! A freshly made ext4 for one run.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};
use rustix::mount::{UnmountFlags, unmount};
use tempfile::TempDir;
use thaw_testkit::{process, scratch};

/// Sparse: room for the largest image several times over.
const SIZE: u64 = 16 << 30;

/// An ext4 on a loop device on a file; all of it goes on drop.
#[derive(Debug)]
pub(crate) struct Disk {
    device: String,
    mount: PathBuf,
    _directory: TempDir,
}

impl Disk {
    pub(crate) fn new() -> Result<Self> {
        let directory = scratch::directory()?;
        let file = directory.path().join("disk");
        fs::File::create(&file)?.set_len(SIZE)?;
        // Everything is laid out now, not by a kernel thread in the middle of a run.
        let options = "lazy_itable_init=0,lazy_journal_init=0";
        process::run(
            Command::new("mke2fs")
                .args(["-q", "-t", "ext4", "-E", options])
                .arg(&file),
        )?;
        let mount = directory.path().join("m");
        fs::create_dir(&mount)?;
        // Direct: the file's own page cache would hold everything a second time.
        let output = process::run(
            Command::new("losetup")
                .args(["--find", "--show", "--direct-io=on"])
                .arg(&file),
        )?;
        let disk = Self {
            device: String::from_utf8_lossy(&output.stdout).trim().to_owned(),
            mount,
            _directory: directory,
        };
        process::run(
            Command::new("mount")
                .args(["-t", "ext4", &disk.device])
                .arg(&disk.mount),
        )?;
        Ok(disk)
    }

    pub(crate) fn path(&self) -> &Path {
        &self.mount
    }

    /// Sets how far the kernel reads ahead, in KiB.
    pub(crate) fn read_ahead(&self, kibibytes: u32) -> Result<()> {
        let name = self.device.trim_start_matches("/dev/");
        let path = format!("/sys/block/{name}/queue/read_ahead_kb");
        fs::write(&path, kibibytes.to_string()).with_context(|| format!("cannot set {path}"))
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let table = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
        let points = table
            .lines()
            .filter_map(|line| line.split(' ').nth(4))
            .map(PathBuf::from);
        let mut points: Vec<_> = points
            .filter(|point| point.starts_with(&self.mount))
            .collect();
        points.reverse();
        for point in points {
            let _ = unmount(&point, UnmountFlags::DETACH);
        }
        let _ = process::run(Command::new("losetup").args(["--detach", &self.device]));
    }
}

/// Writes everything out and forgets every page, inode and name.
pub(crate) fn drop_caches() -> Result<()> {
    rustix::fs::sync();
    fs::write("/proc/sys/vm/drop_caches", "3").context("cannot drop caches; this needs root")
}
