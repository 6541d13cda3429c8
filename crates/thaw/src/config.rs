//! Configuration: one TOML file and the flags, merged here into plain settings. Nothing below the
//! binary reads a file of its own or the environment.

mod network;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::Context;
use serde::Deserialize;
use thaw_registry::{ProxySettings, RegistrySettings};

use crate::cli::Global;

const DEFAULT_FILE: &str = "/etc/thaw/config.toml";
const DEFAULT_ROOT: &str = "/var/lib/thaw";

/// The configuration file. Every key is optional.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub(crate) struct File {
    /// The store.
    pub(crate) root: Option<PathBuf>,
    /// Hosts that are spoken to in plain HTTP.
    pub(crate) plain_http: Vec<String>,
    /// Repositories whose accelerations are trusted for every image, e.g. `registry.example/accel`.
    pub(crate) trusted_repositories: Vec<String>,
    /// OCI runtime.
    pub(crate) runtime: Option<String>,
    /// Seconds a read may wait for bytes before it gets EIO.
    pub(crate) fault_timeout_seconds: Option<u64>,
    /// Docker's configuration file, for credentials.
    pub(crate) docker_config: Option<PathBuf>,
    /// PEM files with certificate authorities that are trusted beside the system's.
    pub(crate) ca: Vec<PathBuf>,
    /// HTTP proxies.
    pub(crate) proxy: network::Proxy,
    /// Single registries, by host and port as in references.
    pub(crate) registry: BTreeMap<String, network::Registry>,
}

/// What file and flags come to.
#[derive(Clone, Debug)]
pub(crate) struct Config {
    pub(crate) root: PathBuf,
    pub(crate) plain_http: Vec<String>,
    pub(crate) trusted_repositories: Vec<String>,
    pub(crate) runtime: Option<String>,
    pub(crate) fault_timeout: std::time::Duration,
    pub(crate) docker_config: Option<PathBuf>,
    pub(crate) ca: Vec<PathBuf>,
    pub(crate) proxy: ProxySettings,
    pub(crate) registries: BTreeMap<String, RegistrySettings>,
    /// The file that was read, for the daemon that a command starts.
    pub(crate) file: Option<PathBuf>,
}

impl Config {
    /// Reads the file that the flags name, or the default one where it exists.
    ///
    /// # Errors
    /// When the named file is missing, or a file has a key or value that is not known.
    pub(crate) fn load(global: &Global) -> anyhow::Result<Self> {
        let file = match &global.config {
            Some(path) => Some(path.clone()),
            None => Some(PathBuf::from(DEFAULT_FILE)).filter(|path| path.exists()),
        };
        // Whoever is told of it may have another working directory.
        let file = file.map(std::path::absolute).transpose()?;
        let read = file.as_deref().map(parse).transpose()?.unwrap_or_default();
        let root = global
            .root
            .clone()
            .or(read.root)
            .unwrap_or_else(|| DEFAULT_ROOT.into());
        let root = std::path::absolute(&root)
            .with_context(|| format!("the store {} is no path", root.display()))?;
        // Files beside it may be named without their directory.
        let base = file.as_deref().and_then(Path::parent);
        let base = base.unwrap_or(Path::new("/"));
        let registries = read.registry.into_iter();
        let registries: anyhow::Result<_> =
            registries.map(|it| network::registry(it, base)).collect();
        let registries = registries.with_context(|| {
            let name = file.as_deref().unwrap_or(base).display();
            format!("in the configuration {name}")
        })?;
        Ok(Self {
            root,
            plain_http: [read.plain_http, global.plain_http.clone()].concat(),
            trusted_repositories: read.trusted_repositories,
            runtime: read.runtime,
            fault_timeout: std::time::Duration::from_secs(read.fault_timeout_seconds.unwrap_or(30)),
            docker_config: read.docker_config.or_else(docker_config),
            ca: read.ca.iter().map(|path| base.join(path)).collect(),
            proxy: read.proxy.settings(|name| std::env::var(name).ok()),
            registries,
            file,
        })
    }

    /// What a daemon started by a command is told, so that it is configured alike.
    pub(crate) fn daemon_args(&self) -> Vec<String> {
        let mut args = Vec::new();
        if let Some(file) = &self.file {
            args.extend(["--config".to_owned(), file.display().to_string()]);
        }
        for host in &self.plain_http {
            args.extend(["--plain-http".to_owned(), host.clone()]);
        }
        args
    }
}

fn parse(path: &Path) -> anyhow::Result<File> {
    let text = std::fs::read_to_string(path)
        .with_context(|| format!("cannot read the configuration {}", path.display()))?;
    toml::from_str(&text).with_context(|| format!("in the configuration {}", path.display()))
}

/// Where Docker keeps credentials: `$DOCKER_CONFIG/config.json`, else `~/.docker/config.json`.
fn docker_config() -> Option<PathBuf> {
    let dir = match std::env::var_os("DOCKER_CONFIG") {
        Some(dir) => PathBuf::from(dir),
        None => PathBuf::from(std::env::var_os("HOME")?).join(".docker"),
    };
    Some(dir.join("config.json"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unknown_keys_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("c.toml");
        std::fs::write(&path, "rooot = \"/x\"\n").unwrap();
        assert!(format!("{:#}", parse(&path).unwrap_err()).contains("rooot"));
        std::fs::write(&path, "root = \"/x\"\nfault-timeout-seconds = 5\n").unwrap();
        assert_eq!(parse(&path).unwrap().fault_timeout_seconds, Some(5));
    }

    /// The first example of the documentation.
    fn documented() -> String {
        let text = include_str!("../../../docs/configuration.md");
        let (_, rest) = text.split_once("```toml\n").unwrap();
        rest.split_once("```").unwrap().0.to_owned()
    }

    #[test]
    fn every_key_is_documented() {
        let File {
            root,
            plain_http,
            trusted_repositories,
            runtime,
            fault_timeout_seconds,
            docker_config,
            ca,
            proxy,
            registry,
        } = toml::from_str(&documented()).unwrap();
        assert!(root.is_some() && runtime.is_some() && docker_config.is_some());
        assert!(fault_timeout_seconds.is_some());
        for list in [plain_http, trusted_repositories] {
            assert!(!list.is_empty());
        }
        assert!(!ca.is_empty());
        let network::Proxy {
            http,
            https,
            none_for,
        } = proxy;
        assert!(http.is_some() && https.is_some() && none_for.is_some());
        let network::Registry {
            mirrors,
            plain_http,
            ca,
            client_cert,
            client_key,
        } = registry.into_values().next().unwrap();
        assert!(!mirrors.is_empty());
        assert!(plain_http.is_some() && !ca.is_empty());
        assert!(client_cert.is_some() && client_key.is_some());
    }
}
