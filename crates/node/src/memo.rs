//! What a node leaves beside an image's mount for the next one, who cannot see it in the mount
//! table: `ROOT/mounts/<manifest hex>.json`, as long as the mount is there.

use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::records::{self, ArtifactRecord};
use crate::reports::Way;

/// How an image was mounted.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Memo {
    /// Lazy or full, and why.
    pub(crate) way: Way,
    /// Whose starts it is traced for.
    pub(crate) profile: Option<String>,
    /// The names that the image was started by.
    #[serde(default)]
    pub(crate) names: Vec<String>,
    /// The acceleration that it was made of, where it has a layout: by now another one may be remembered of the image.
    #[serde(default)]
    pub(crate) by: Option<ArtifactRecord>,
    /// By whose word something came into its layers.
    #[serde(default)]
    pub(crate) heard: Vec<ArtifactRecord>,
    /// Whether it is to be completed while nobody waits.
    #[serde(default)]
    pub(crate) fill: bool,
}

fn path(dir: &Path) -> PathBuf {
    dir.with_extension("json")
}

impl Memo {
    /// Leaves it for the mount at `dir`. Without it the next node knows less, and nothing breaks.
    pub(crate) fn leave(&self, dir: &Path) {
        if let Err(error) = records::write(&path(dir), self) {
            tracing::warn!(dir = %dir.display(), %error, "the next daemon is left no memo");
        }
    }

    /// What was left for the mount at `dir`.
    pub(crate) fn of(dir: &Path) -> Option<Self> {
        serde_json::from_slice(&std::fs::read(path(dir)).ok()?).ok()
    }
}

/// The mount at `dir` is gone.
pub(crate) fn forget(dir: &Path) {
    std::fs::remove_file(path(dir)).ok();
}

/// Takes away what was left below `mounts` for mounts that are not there: the machine was
/// restarted, or they could not be taken over.
pub(crate) fn sweep(mounts: &Path, there: impl Fn(&str) -> bool) -> io::Result<()> {
    for entry in std::fs::read_dir(mounts)? {
        let path = entry?.path();
        let name = path.file_stem().and_then(|name| name.to_str());
        if path.is_file() && !name.is_some_and(&there) {
            std::fs::remove_file(path)?;
        }
    }
    Ok(())
}
