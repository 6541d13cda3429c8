//! A small filesystem of its own, whose power can fail.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Result;
use tempfile::TempDir;

use crate::process::run;
use crate::scratch;

/// An ext4 filesystem in a file; gone with the value. Needs root.
#[derive(Debug)]
pub struct Disk {
    root: PathBuf,
    image: PathBuf,
    _dir: TempDir,
}

impl Disk {
    /// One of `bytes` bytes.
    ///
    /// # Errors
    /// When it cannot be made or mounted.
    pub fn new(bytes: u64) -> Result<Self> {
        let dir = scratch::directory()?;
        let image = dir.path().join("image");
        File::create(&image)?.set_len(bytes)?;
        run(Command::new("mkfs.ext4").arg("-q").arg(&image))?;
        Self::mount(dir, image)
    }

    /// Nothing is written out for as long as a test takes, unless somebody asks for it.
    fn mount(dir: TempDir, image: PathBuf) -> Result<Self> {
        let root = dir.path().join("mounted");
        fs::create_dir(&root)?;
        let options = ["-o", "loop,commit=900"];
        run(Command::new("mount").args(options).arg(&image).arg(&root))?;
        Ok(Self {
            root,
            image,
            _dir: dir,
        })
    }

    /// Where it is mounted.
    #[must_use]
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// What is on the disk at this moment, mounted: what the kernel has not written yet is lost.
    /// Nobody may write meanwhile.
    ///
    /// # Errors
    /// When it cannot be copied or mounted.
    pub fn after_a_power_cut(&self) -> Result<Self> {
        let dir = scratch::directory()?;
        let image = dir.path().join("image");
        fs::copy(&self.image, &image)?;
        Self::mount(dir, image)
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.root).status();
    }
}
