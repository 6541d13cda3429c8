//! What a node is told when it is opened. No environment is read here.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use thaw_image::ImageReference;
use thaw_mount::Custodian;
use thaw_sign::{PrivateKey, PublicKey};

/// How a node works.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The store.
    pub root: PathBuf,
    /// How registries are spoken to.
    pub registry: thaw_registry::Settings,
    /// Repositories whose accelerations are trusted for every image.
    pub trusted_repositories: Vec<String>,
    /// Whose signatures count for which images.
    pub trust: Vec<TrustRule>,
    /// OCI runtime; `None`: crun where there is one, else runc.
    pub runtime: Option<String>,
    /// How long a read may wait for bytes before it gets EIO.
    pub fault_timeout: Duration,
    /// How long a start may look for accelerations, working sets and their signatures before it goes
    /// on without.
    pub search_timeout: Duration,
    /// Bytes that the layers may take on the disk; `None`: as many as there are.
    pub cache_size: Option<u64>,
    /// Whether mounts for which nothing arrives any more may read layers past their page cache.
    pub direct_reads: bool,
    /// This program, for the keeper and the monitors.
    pub program: PathBuf,
    /// Its arguments before the command: what the daemon that a monitor starts is configured with.
    pub arguments: Vec<String>,
    /// Who holds what lazy mounts need beyond the death of this process and its keeper.
    pub custodian: Option<Arc<dyn Custodian>>,
}

impl Settings {
    /// Of a store that asks for nothing.
    #[cfg(test)]
    pub(crate) fn of(root: &Path) -> Self {
        Self {
            root: root.to_owned(),
            registry: thaw_registry::Settings::default(),
            trusted_repositories: Vec::new(),
            trust: Vec::new(),
            runtime: None,
            fault_timeout: Duration::from_secs(60),
            search_timeout: Duration::from_secs(1),
            cache_size: None,
            direct_reads: false,
            program: "/nonexistent".into(),
            arguments: Vec::new(),
            custodian: None,
        }
    }

    /// Where the keeper listens.
    pub(crate) fn keeper_socket(&self) -> PathBuf {
        keeper_socket(&self.root)
    }
}

/// Where the keeper of the store at `root` listens.
#[must_use]
pub fn keeper_socket(root: &Path) -> PathBuf {
    root.join("keeper.sock")
}

/// The root of the store that has a layer's tar at `path`; `None` where no store has one.
#[must_use]
pub fn root_of_tar(path: &Path) -> Option<PathBuf> {
    let layer = thaw_cache::PresenceReader::beside(path)?.1.diff_id();
    let (dir, layers) = (path.parent()?, path.ancestors().nth(2)?);
    let is_of_a_store = layers.ends_with("layers") && dir.ends_with(layer.0.hex());
    layers
        .parent()
        .filter(|_| is_of_a_store)
        .map(Path::to_owned)
}

/// What counts for the images of some repositories. Several rules add up.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TrustRule {
    /// The repositories: `HOST[:PORT]/NAME`, with `*` for any characters.
    pub repositories: Vec<String>,
    /// Whose signatures count for their images.
    pub keys: Vec<PublicKey>,
    /// Whether nothing else counts, besides what was made on this node.
    pub require_signature: bool,
}

impl TrustRule {
    /// Whether it is about a repository.
    pub(crate) fn is_about(&self, repository: &str) -> bool {
        let mut patterns = self.repositories.iter();
        patterns.any(|pattern| matches(pattern, repository))
    }
}

/// Whether `text` is what `pattern` means, in which `*` stands for any characters.
fn matches(pattern: &str, text: &str) -> bool {
    let mut parts = pattern.split('*');
    let first = parts.next().unwrap_or_default();
    let Some(mut rest) = text.strip_prefix(first) else {
        return false;
    };
    let Some(last) = parts.next_back() else {
        return rest.is_empty();
    };
    // The earliest place leaves most for those behind.
    for part in parts {
        let Some((_, behind)) = rest.split_once(part) else {
            return false;
        };
        rest = behind;
    }
    rest.ends_with(last)
}

/// Where artifacts that are made go.
#[derive(Debug, Default)]
pub struct Destination {
    /// The repository; `None`: the image's own.
    pub to: Option<String>,
    /// Nowhere: they stay in the store.
    pub local: bool,
    /// Who signs them there.
    pub key: Option<PrivateKey>,
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

/// What a container writes lies in a filesystem of its own, and not in a directory of the store.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Storage {
    /// An ext4 of so many bytes, in a file of the store that takes space as it is written.
    Disk(u64),
    /// A tmpfs of at most so many bytes, else of half of the machine's memory.
    Memory(Option<u64>),
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

    /// All of what a layout directory has.
    #[cfg(test)]
    pub(crate) fn of(layout: &Path) -> Self {
        Self {
            reference: format!("oci:{}", layout.display()),
            platform: None,
            pull: Pull::Full,
            profile: None,
            transport: Transport::Fanotify,
            refresh: false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_star_stands_for_any_characters() {
        for (pattern, text, wanted) in [
            ("r.example/app", "r.example/app", true),
            ("r.example/app", "r.example/app2", false),
            ("r.example/*", "r.example/a/b", true),
            ("r.example/*", "r.example", false),
            ("r.example/*", "evil/r.example/a", false),
            ("*/app", "r.example/team/app", true),
            ("*/app", "r.example/app/x", false),
            ("*", "anything", true),
            ("r.*/a*/x", "r.example/ab/c/x", true),
            ("r.*/a*/x", "r.example/ba/x", false),
            ("a*a", "a", false),
            ("a**b", "ab", true),
            ("", "a", false),
        ] {
            assert_eq!(matches(pattern, text), wanted, "{pattern} {text}");
        }
    }
}
