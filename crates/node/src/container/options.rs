//! What a user asks of a container. The values travel over the daemon's socket and are stored in
//! `state.json`; the texts of a command line become values in [`super::parse`].

use std::net::IpAddr;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// Everything `run` can be told about a container. The default is what no option at all means.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Options {
    /// Unique name; two generated words where there is none.
    pub name: Option<String>,
    /// What the process is.
    pub process: ProcessOptions,
    /// Instead of the image's entrypoint; its command is then dropped too. Empty means none.
    pub entrypoint: Option<Vec<String>>,
    /// Host name inside; the first 12 characters of the id where there is none.
    pub hostname: Option<String>,
    /// Signal that `stop` sends first, instead of the image's.
    pub stop_signal: Option<Signal>,
    /// How the container reaches the network.
    pub net: Network,
    /// Name servers instead of the host's.
    pub dns: Vec<IpAddr>,
    /// Ports of the container that the host listens for. Only with [`Network::Bridge`].
    pub publish: Vec<PortMapping>,
    /// Directories and files from outside.
    pub volumes: Vec<Volume>,
    /// Fresh file systems in memory.
    pub tmpfs: Vec<Tmpfs>,
    /// Whether the root filesystem cannot be written.
    pub read_only: bool,
    /// Bounds on what it may use.
    pub limits: Limits,
    /// OCI runtime instead of the settings': a path, or a name in `PATH`.
    pub runtime: Option<String>,
    /// Whether set-user-id programs and file capabilities work inside. Off by default.
    pub new_privileges: bool,
    /// Whether it is removed when it has ended.
    pub remove: bool,
}

/// A process in a container: the first one, or one that `exec` adds.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ProcessOptions {
    /// Program and arguments; behind the entrypoint, where there is one.
    pub command: Vec<String>,
    /// `NAME=VALUE`, over those of the image.
    pub env: Vec<String>,
    /// Working directory, made when it is missing.
    pub workdir: Option<String>,
    /// `USER[:GROUP]`, each by name or number.
    pub user: Option<String>,
    /// Whether it has a terminal.
    pub tty: bool,
    /// Whether it reads the caller's standard input; else that is `/dev/null`.
    pub interactive: bool,
}

/// Bounds on what a container may use.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Limits {
    /// Bytes of memory; as much swap again, where the kernel counts swap.
    pub memory: Option<u64>,
    /// Processors, in fractions.
    pub cpus: Option<f64>,
    /// Processes and threads.
    pub pids: Option<u32>,
}

/// How a container reaches the network.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Network {
    /// A network namespace of its own on a bridge of the host.
    #[default]
    Bridge,
    /// The same, and neither the host nor another container is reached by it: only what is beyond.
    Isolated,
    /// The host's network.
    Host,
    /// A network namespace with nothing but a loopback interface.
    None,
}

impl Network {
    /// Whether the container is connected to the bridge.
    #[must_use]
    pub const fn has_bridge(self) -> bool {
        matches!(self, Self::Bridge | Self::Isolated)
    }
}

/// A directory or file from outside.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Volume {
    /// Where it comes from.
    pub source: VolumeSource,
    /// Absolute path inside.
    pub target: String,
    /// Whether it cannot be written.
    #[serde(default)]
    pub read_only: bool,
}

/// Where a volume comes from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum VolumeSource {
    /// A path of the host, which must exist.
    Host(PathBuf),
    /// A volume of the store, made when it is missing.
    Named(String),
    /// A fresh one that lives as long as the container.
    Own,
}

/// A port of the container that the host listens for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PortMapping {
    /// Address of the host; all of them where there is none.
    #[serde(default)]
    pub ip: Option<IpAddr>,
    /// Port of the host; 0 takes a free one.
    pub host: u16,
    /// Port of the container.
    pub container: u16,
    /// Protocol.
    #[serde(default)]
    pub protocol: Protocol,
}

/// A transport protocol.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    /// TCP.
    #[default]
    Tcp,
    /// UDP.
    Udp,
}

/// A fresh file system in memory.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tmpfs {
    /// Absolute path inside.
    pub target: String,
    /// Mount options beyond `nosuid,nodev,noexec`; `suid`, `dev` and `exec` take those back.
    #[serde(default)]
    pub options: Vec<String>,
}

/// A signal's number, from 1 to 64.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "i32", into = "i32")]
pub struct Signal(i32);

impl Signal {
    /// What `stop` sends where nobody says otherwise.
    pub const TERM: Self = Self(15);
    /// What cannot be ignored.
    pub const KILL: Self = Self(9);

    /// The signal of that number; `None` outside 1 to 64.
    #[must_use]
    pub fn new(number: i32) -> Option<Self> {
        (1..=64).contains(&number).then_some(Self(number))
    }

    /// Its number.
    #[must_use]
    pub const fn number(self) -> i32 {
        self.0
    }
}

impl From<Signal> for i32 {
    fn from(signal: Signal) -> Self {
        signal.0
    }
}

impl TryFrom<i32> for Signal {
    type Error = String;

    fn try_from(number: i32) -> Result<Self, Self::Error> {
        Self::new(number).ok_or_else(|| format!("signal {number} is not between 1 and 64"))
    }
}
