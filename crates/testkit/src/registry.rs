//! A real registry: Debian's docker-registry 2.8 with files as storage.
//!
//! It has the referrers *tag* fallback only, no referrers API, and no conditional writes: the
//! registry that most people have.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde::Deserialize;
use tempfile::TempDir;

use crate::process::Killed;
use crate::scratch;

const START_LIMIT: Duration = Duration::from_secs(20);

/// How to start a registry.
#[derive(Debug)]
pub struct Options {
    /// Where blobs and manifests lie; `None`: in a directory that goes with the registry.
    pub storage: Option<PathBuf>,
    /// Address and port to listen on; port 0 takes a free one.
    pub address: String,
    /// A network namespace to run in (a path under `/run/netns`).
    pub namespace: Option<PathBuf>,
    /// Whether nobody may push.
    pub read_only: bool,
    /// Whether [`USER`] and [`PASSWORD`] are asked for.
    pub password: bool,
}

/// Who may use a registry with a password.
pub const USER: &str = "me";
/// The password of [`USER`].
pub const PASSWORD: &str = "secret";
/// The two as `htpasswd -B` writes them.
const HTPASSWD: &str = "me:$2y$05$2ui4PmX4Kz0dq1Vad8N5/.eZwZHKBGnZDphoqlsAaDO6cEvs0ndcu\n";

impl Default for Options {
    fn default() -> Self {
        Self {
            storage: None,
            address: "127.0.0.1:0".into(),
            namespace: None,
            read_only: false,
            password: false,
        }
    }
}

/// A running registry; ends on drop.
#[derive(Debug)]
pub struct Registry {
    // Before the directory: the process ends before its files go.
    process: Killed,
    directory: TempDir,
    storage: PathBuf,
    host: String,
}

/// One request that the registry answered.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Request {
    /// `GET`, `HEAD`, …
    #[serde(rename = "http.request.method")]
    pub method: String,
    /// Path and query.
    #[serde(rename = "http.request.uri")]
    pub uri: String,
    /// Status of the answer.
    #[serde(rename = "http.response.status", default)]
    pub status: u16,
    /// Bytes of the answer's body.
    #[serde(rename = "http.response.written", default)]
    pub written: u64,
}

impl Registry {
    /// Starts a registry on a free loopback port, with nothing in it.
    ///
    /// # Errors
    /// When docker-registry is missing or does not come up.
    pub fn start() -> Result<Self> {
        Self::start_with(&Options::default())
    }

    /// Starts a registry.
    ///
    /// # Errors
    /// When docker-registry is missing or does not come up; the error carries its log.
    pub fn start_with(options: &Options) -> Result<Self> {
        let directory = scratch::directory()?;
        let storage = options.storage.clone();
        let storage = storage.unwrap_or_else(|| directory.path().join("storage"));
        let config = directory.path().join("config.yml");
        let htpasswd = directory.path().join("htpasswd");
        std::fs::write(&htpasswd, HTPASSWD)?;
        std::fs::write(&config, configuration(&storage, &htpasswd, options))?;
        let log = File::create(directory.path().join("log"))?;
        let mut command = match &options.namespace {
            None => Command::new("docker-registry"),
            Some(namespace) => {
                let mut command = Command::new("nsenter");
                command
                    .arg(format!("--net={}", namespace.display()))
                    .arg("docker-registry");
                command
            }
        };
        let process = Killed::spawn(
            command
                .arg("serve")
                .arg(&config)
                .env("OTEL_TRACES_EXPORTER", "none")
                .stdin(Stdio::null())
                .stdout(log.try_clone()?)
                .stderr(log),
        )?;
        let mut registry = Self {
            process,
            directory,
            storage,
            host: String::new(),
        };
        registry.host = registry.wait_for_address()?;
        Ok(registry)
    }

    /// Its log names the address as soon as it can be connected to.
    fn wait_for_address(&mut self) -> Result<String> {
        let start = Instant::now();
        loop {
            let log = self.log();
            let address = log
                .split_once("listening on ")
                .and_then(|(_, rest)| rest.split(['"', ' ']).next());
            if let Some(address) = address {
                return Ok(address.to_owned());
            }
            if self.process.ended() || start.elapsed() > START_LIMIT {
                bail!("docker-registry did not come up; its log:\n{log}");
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// `address:port`, the first part of references to its images.
    #[must_use]
    pub fn host(&self) -> &str {
        &self.host
    }

    /// Where its blobs and manifests lie.
    #[must_use]
    pub fn storage(&self) -> &Path {
        &self.storage
    }

    /// All that it has logged.
    #[must_use]
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.directory.path().join("log")).unwrap_or_default()
    }

    /// The requests it has answered so far, in order.
    #[must_use]
    pub fn requests(&self) -> Vec<Request> {
        let answered = |line: &&str| line.contains("\"msg\":\"response completed");
        let log = self.log();
        let lines = log.lines().filter(answered);
        lines
            .filter_map(|line| serde_json::from_str(line).ok())
            .collect()
    }

    /// The file that holds a blob, e.g. to damage it.
    #[must_use]
    pub fn blob(&self, digest: &thaw_image::Digest) -> PathBuf {
        let hex = digest.hex();
        self.storage
            .join("docker/registry/v2/blobs/sha256")
            .join(&hex[..2])
            .join(hex)
            .join("data")
    }

    /// Reads all blobs once, so that the next reader waits for the network and not for our disk.
    ///
    /// # Errors
    /// When one cannot be read.
    pub fn warm(&self) -> Result<()> {
        read_all(&self.storage).context("cannot read the registry's storage")
    }
}

fn read_all(directory: &Path) -> std::io::Result<()> {
    for entry in std::fs::read_dir(directory)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            read_all(&entry.path())?;
        } else {
            std::io::copy(&mut File::open(entry.path())?, &mut std::io::sink())?;
        }
    }
    Ok(())
}

/// YAML is a superset of JSON, so no quoting rules of its own are needed.
fn configuration(storage: &Path, htpasswd: &Path, options: &Options) -> String {
    let mut configuration = serde_json::json!({
        "version": 0.1,
        "log": { "level": "info", "formatter": "json", "accesslog": { "disabled": true } },
        "storage": {
            "filesystem": { "rootdirectory": storage },
            "delete": { "enabled": true },
            "maintenance": {
                "uploadpurging": { "enabled": false },
                "readonly": { "enabled": options.read_only },
            },
        },
        "http": { "addr": options.address, "secret": "not a secret" },
    });
    if options.password {
        configuration["auth"] = serde_json::json!({
            "htpasswd": { "realm": "test", "path": htpasswd },
        });
    }
    configuration.to_string()
}
