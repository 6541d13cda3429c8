//! One node's store: where things lie, and who may read them.
//!
//! ```text
//! ROOT/layers/<diffid hex>/tar               see `tar`
//! ROOT/layers/<diffid hex>/presence          see `presence`
//! ROOT/layers/<diffid hex>/presence.durable  what the last sync made sure of
//! ROOT/trees/<diffid hex>/                   see `trees`
//! ROOT/corrections/<manifest hex>/           see `trees`
//! ROOT/blobs/<digest hex>                    see `blobs`
//! ROOT/tmp/                                  files and trees that have no name yet; emptied by `Store::open`
//! ```
//!
//! Directories have mode 0700 and files 0600: an image may be private. One process owns a store;
//! who that is, is settled above (by the daemon's pid file).

use std::fs;
use std::path::{Path, PathBuf};

use crate::blobs::Blobs;
use crate::file::{self, FileError, failed};
use crate::layers::Layers;
use crate::trees::Trees;

/// The boot of the kernel: bytes that were written but not synced are believed only in the boot
/// in which they were written.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct BootId(pub [u8; 16]);

impl BootId {
    /// This boot (`/proc/sys/kernel/random/boot_id`).
    ///
    /// # Errors
    /// [`FileError`] where there is no such file, or it holds no UUID.
    pub fn current() -> Result<Self, FileError> {
        let path = Path::new("/proc/sys/kernel/random/boot_id");
        let text = fs::read_to_string(path).map_err(failed("read", path))?;
        let hex: String = text.trim().chars().filter(|c| *c != '-').collect();
        match u128::from_str_radix(&hex, 16) {
            Ok(id) if hex.len() == 32 => Ok(Self(id.to_be_bytes())),
            _ => Err(failed("parse", path)(
                std::io::ErrorKind::InvalidData.into(),
            )),
        }
    }
}

/// The directories of a store.
#[derive(Clone, Debug)]
pub(crate) struct Places {
    pub(crate) layers: PathBuf,
    pub(crate) blobs: PathBuf,
    pub(crate) tmp: PathBuf,
}

/// One node's store. See the [module](self).
#[derive(Clone, Debug)]
pub struct Store {
    blobs: Blobs,
    layers: Layers,
    trees: Trees,
    corrections: Trees,
}

impl Store {
    /// Opens the store below `root`; makes it if it is not there.
    ///
    /// # Errors
    /// [`FileError`] when a directory cannot be made or read.
    pub fn open(root: &Path) -> Result<Self, FileError> {
        Self::open_in_boot(root, BootId::current()?)
    }

    /// [`Store::open`] as if in another boot: what a test of reboots needs.
    ///
    /// # Errors
    /// As [`Store::open`].
    pub fn open_in_boot(root: &Path, boot: BootId) -> Result<Self, FileError> {
        let places = Places {
            layers: root.join("layers"),
            blobs: root.join("blobs"),
            tmp: root.join("tmp"),
        };
        for dir in [&places.layers, &places.blobs, &places.tmp] {
            file::make_dir(dir)?;
        }
        file::empty_dir(&places.tmp)?;
        Ok(Self {
            blobs: Blobs::open(places.clone())?,
            trees: Trees::open(root.join("trees"), places.tmp.clone(), boot)?,
            corrections: Trees::open(root.join("corrections"), places.tmp.clone(), boot)?,
            layers: Layers::new(places, boot),
        })
    }

    /// The blobs that are whole and verified.
    #[must_use]
    pub const fn blobs(&self) -> &Blobs {
        &self.blobs
    }

    /// The layer tars.
    #[must_use]
    pub const fn layers(&self) -> &Layers {
        &self.layers
    }

    /// Layers as directories, by diffID.
    #[must_use]
    pub const fn trees(&self) -> &Trees {
        &self.trees
    }

    /// What the directories of images' layers lack, by manifest.
    #[must_use]
    pub const fn corrections(&self) -> &Trees {
        &self.corrections
    }
}
