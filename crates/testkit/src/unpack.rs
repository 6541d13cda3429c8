//! Another tool's unpacking of an image: the judge of ours.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use tempfile::TempDir;

use crate::image::Layout;
use crate::{process, scratch};

/// An unpacked root filesystem; removed on drop.
#[derive(Debug)]
pub struct Unpacked {
    _directory: TempDir,
    root: PathBuf,
}

impl Unpacked {
    /// The root filesystem.
    #[must_use]
    pub fn root(&self) -> &Path {
        &self.root
    }
}

/// Unpacks with umoci, which follows the image specification's merge rules by its own code. Needs
/// root for owners and devices. It knows gzip and plain tar layers.
///
/// # Errors
/// When umoci fails.
pub fn umoci(layout: &Layout) -> Result<Unpacked> {
    let directory = scratch::directory()?;
    let bundle = directory.path().join("bundle");
    let image = format!("{}:{}", layout.directory().display(), layout.tag());
    process::run(
        Command::new("umoci")
            .args(["unpack", "--image", &image])
            .arg(&bundle),
    )?;
    Ok(Unpacked {
        root: bundle.join("rootfs"),
        _directory: directory,
    })
}

/// Unpacks an image of a single layer with GNU tar, which knows nothing of whiteouts and all of
/// GNU's own extensions. Needs root for owners and devices.
///
/// # Errors
/// When there are more layers or fewer, or tar fails.
pub fn gnu_tar(layout: &Layout) -> Result<Unpacked> {
    let manifest = layout.manifest()?;
    let layers = manifest["layers"].as_array().context("no layers")?;
    ensure!(
        layers.len() == 1,
        "GNU tar unpacks one layer, not {}",
        layers.len()
    );
    let digest = layers[0]["digest"].as_str().context("no digest")?.parse()?;
    let directory = scratch::directory()?;
    let root = directory.path().join("root");
    std::fs::create_dir(&root)?;
    process::run(
        Command::new("tar")
            .args([
                "--extract",
                "--gzip",
                "--numeric-owner",
                "--preserve-permissions",
            ])
            .args(["--xattrs", "--xattrs-include=*", "--directory"])
            .arg(&root)
            .arg("--file")
            .arg(layout.blob_path(&digest)),
    )?;
    Ok(Unpacked {
        root,
        _directory: directory,
    })
}
