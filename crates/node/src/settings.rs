//! What a node is told when it is opened. No environment is read here.

use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use thaw_image::ImageReference;

/// How a node works.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The store.
    pub root: PathBuf,
    /// How registries are spoken to.
    pub registry: thaw_registry::Settings,
    /// Repositories whose accelerations are trusted for every image.
    pub trusted_repositories: Vec<String>,
    /// OCI runtime; `None`: crun where there is one, else runc.
    pub runtime: Option<String>,
    /// How long a read may wait for bytes before it gets EIO.
    pub fault_timeout: Duration,
    /// This program, for the keeper and the monitors.
    pub program: PathBuf,
}

impl Settings {
    /// Where the keeper listens.
    pub(crate) fn keeper_socket(&self) -> PathBuf {
        self.root.join("keeper.sock")
    }
}

/// How an image gets here.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Pull {
    /// Lazily if there is a trusted acceleration and it is not slower; in full otherwise.
    #[default]
    Auto,
    /// Lazily, or fail.
    Lazy,
    /// In full before the start.
    Full,
}

/// Which fault transport is asked for, or none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Transport {
    /// The best that works here: pre-content events, else FUSE, else directories.
    #[default]
    Auto,
    /// Pre-content events.
    Fanotify,
    /// A FUSE server.
    Fuse,
    /// None: layers are unpacked into directories, for overlayfs.
    Directories,
}

/// An image that somebody wants, and how.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ImageWish {
    /// What the user typed, an `oci:` directory made absolute.
    pub reference: String,
    /// `OS/ARCH[/VARIANT]`; `None`: this machine's.
    pub platform: Option<String>,
    /// How it gets here.
    pub pull: Pull,
    /// Whose working set is streamed; `None`: nobody's.
    pub profile: Option<String>,
    /// Which fault transport.
    pub transport: Transport,
    /// Ask the registry even if the reference is known here.
    pub refresh: bool,
}

impl ImageWish {
    /// The reference, parsed.
    ///
    /// # Errors
    /// [`thaw_image::ReferenceError`] with what is wrong in it.
    pub fn parse(&self) -> Result<ImageReference, thaw_image::ReferenceError> {
        self.reference.parse()
    }
}
