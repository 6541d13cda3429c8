//! Where tests write: a directory on a real disk.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use tempfile::TempDir;

/// A new empty directory under the build's target directory, removed on drop. Never a tmpfs:
/// pre-content events need ext4, xfs or btrfs, and images are too big for memory.
///
/// # Errors
/// When it cannot be made.
pub fn directory() -> Result<TempDir> {
    let parent = target_directory().join("scratch");
    std::fs::create_dir_all(&parent)
        .with_context(|| format!("cannot create {}", parent.display()))?;
    tempfile::Builder::new()
        .prefix("t")
        .tempdir_in(&parent)
        .with_context(|| format!("cannot create a directory in {}", parent.display()))
}

/// Cargo's target directory: `CARGO_TARGET_DIR`, or `target` of the workspace. Without `..` in it:
/// paths below it are compared with those in the mount table.
#[must_use]
pub fn target_directory() -> PathBuf {
    let directory = match std::env::var_os("CARGO_TARGET_DIR") {
        Some(directory) => PathBuf::from(directory),
        None => Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target"),
    };
    directory.canonicalize().unwrap_or(directory)
}
