//! What a command and the daemon say to each other: one request line, one line that the daemon
//! begins, any number of progress lines, one reply line; JSON, over the Unix socket in the store.
//!
//! A daemon that ends before it has said that it begins has done nothing of the request: the
//! command asks the next one.

use std::path::{Path, PathBuf};

use anyhow::Context;
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use thaw_node::container::Options as ContainerOptions;
use thaw_node::{GcOptions, ImageWish, Ready, RecordOptions, Storage};
use thaw_sign::PrivateKey;

/// Both sides say it; another version is refused with a message that says what to do.
pub(crate) const VERSION: u32 = 5;
/// Longest line either side accepts.
pub(crate) const MAX_LINE: u64 = 64 << 20;

/// A request with the version of who sent it.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Envelope {
    pub(crate) version: u32,
    /// Registries that the command may speak plain HTTP with.
    pub(crate) plain_http: Vec<String>,
    pub(crate) request: Request,
}

/// What a command can ask.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Request {
    /// Make a container's root filesystem and bundle; who asks then runs it.
    Prepare {
        image: ImageWish,
        container: Box<ContainerOptions>,
        fill: bool,
        storage: Option<Storage>,
    },
    /// A container has ended: unmount its root filesystem, and remove it if asked.
    Release {
        id: String,
        remove: bool,
    },
    /// How a running start went: bytes and waits so far.
    Report {
        id: String,
    },
    Mount {
        image: ImageWish,
        dir: PathBuf,
    },
    Mounts,
    Unmount {
        dir: Option<PathBuf>,
    },
    Pull {
        image: ImageWish,
    },
    Accelerate {
        image: ImageWish,
        destination: Destination,
        record: Option<Box<Record>>,
    },
    FromTraces {
        image: ImageWish,
        destination: Destination,
    },
    Inspect {
        image: ImageWish,
    },
    Ps {
        all: bool,
    },
    Images,
    Gc(GcOptions),
    Metrics,
    /// Why a container's start took as long as it did.
    Explain {
        container: String,
    },
    Login {
        registry: String,
        user: String,
        password: String,
    },
    Shutdown,
}

impl Request {
    /// Whether doing it twice is the same as doing it once: a daemon that ended in the middle of it
    /// costs nothing but time.
    pub(crate) fn may_be_repeated(&self) -> bool {
        match self {
            Self::Release { .. }
            | Self::Report { .. }
            | Self::Pull { .. }
            | Self::Inspect { .. }
            | Self::Ps { .. }
            | Self::Images
            | Self::Mounts
            | Self::Metrics
            | Self::Explain { .. }
            | Self::Login { .. } => true,
            Self::Prepare { .. }
            | Self::Mount { .. }
            | Self::Unmount { .. }
            | Self::Accelerate { .. }
            | Self::FromTraces { .. }
            | Self::Gc(_)
            | Self::Shutdown => false,
        }
    }
}

/// Where artifacts that are made go.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Destination {
    pub(crate) to: Option<String>,
    pub(crate) local: bool,
    pub(crate) sign: Option<KeyFile>,
}

/// A private key. Whoever asks has read it: the daemon may read more than they.
#[derive(Serialize, Deserialize)]
pub(crate) struct KeyFile {
    name: String,
    pem: String,
}

impl KeyFile {
    /// Reads a file, and sees that it is a key that signs.
    pub(crate) fn read(path: &Path) -> anyhow::Result<Self> {
        let key = Self {
            name: path.display().to_string(),
            pem: std::fs::read_to_string(path)
                .with_context(|| format!("cannot read the private key {}", path.display()))?,
        };
        key.parse()?;
        Ok(key)
    }

    /// The key.
    pub(crate) fn parse(&self) -> anyhow::Result<PrivateKey> {
        Ok(PrivateKey::from_pem(&self.name, self.pem.as_bytes())?)
    }
}

impl std::fmt::Debug for KeyFile {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("KeyFile")
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}

/// How to record a start.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Record {
    pub(crate) ready: Ready,
    pub(crate) options: RecordOptions,
    pub(crate) container: ContainerOptions,
}

/// A line from the daemon.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Line {
    /// The request is understood, and is begun now.
    Begin,
    Progress(ProgressLine),
    Reply(serde_json::Value),
    Error(Failure),
}

/// How far the work is.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum ProgressLine {
    Begin { part: String, total: Option<u64> },
    Advance { part: String, bytes: u64 },
    Finish { part: String },
    Say { what: String },
}

/// A request that failed.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Failure {
    /// The whole chain of causes, the outermost first.
    pub(crate) message: String,
    /// Exit code that the command ends with.
    pub(crate) code: u8,
}

/// Reads a reply into what the request promises.
pub(crate) fn reply<T: DeserializeOwned>(value: serde_json::Value) -> anyhow::Result<T> {
    serde_json::from_value(value)
        .map_err(|error| anyhow::anyhow!("the daemon's answer has another shape: {error}"))
}
