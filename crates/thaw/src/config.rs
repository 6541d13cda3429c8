//! Configuration: one TOML file and the flags, merged here into plain settings, each with where it
//! comes from. Nothing below the binary reads a file of its own or the environment.

mod check;
mod keys;
mod network;
mod size;
mod socket;
mod trust;

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::net::SocketAddr;
use std::num::NonZeroU64;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, bail};
use serde::Serialize;
use serde_json::{Value, json};
use thaw_registry::{ProxySettings, RegistrySettings};

use crate::cli::Global;
pub(crate) use check::{Problem, parse};
pub(crate) use keys::{File, Key, example};
pub(crate) use socket::Socket;
pub(crate) use trust::Trust;

const DEFAULT_FILE: &str = "/etc/thaw/config.toml";
pub(crate) const DEFAULT_ROOT: &str = "/var/lib/thaw";
/// Bytes of the store's path: a socket's takes 107 (unix(7)), and the longest name in the store is
/// `/functions.sock`.
const MAX_ROOT: usize = 107 - 15;
pub(crate) const DEFAULT_FAULT_TIMEOUT: NonZeroU64 = NonZeroU64::new(30).unwrap();
/// A request whose connection died unseen is made again after ten seconds: there is time for one such.
/// Longer than that most images take to arrive whole.
const DEFAULT_SEARCH_TIMEOUT: NonZeroU64 = NonZeroU64::new(15).unwrap();

/// What file, environment and flags come to.
#[derive(Clone, Debug)]
pub(crate) struct Config {
    pub(crate) root: PathBuf,
    pub(crate) plain_http: Vec<String>,
    pub(crate) trusted_repositories: Vec<String>,
    pub(crate) runtime: Option<String>,
    pub(crate) fault_timeout: Duration,
    pub(crate) search_timeout: Duration,
    pub(crate) cache_size: Option<u64>,
    pub(crate) direct_reads: bool,
    pub(crate) docker_config: Option<PathBuf>,
    pub(crate) metrics_listen: Option<SocketAddr>,
    pub(crate) ca: Vec<PathBuf>,
    pub(crate) proxy: ProxySettings,
    pub(crate) registries: BTreeMap<String, RegistrySettings>,
    pub(crate) trust: Vec<Trust>,
    pub(crate) socket: Option<Socket>,
    /// The file that was read, for the daemon that a command starts.
    pub(crate) file: Option<PathBuf>,
    /// All of the above by key, in the order of the keys.
    pub(crate) settings: Vec<Setting>,
}

/// A key, the value in force, and whence.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Setting {
    pub(crate) key: &'static str,
    pub(crate) value: Value,
    /// More than one where they add up.
    pub(crate) from: Vec<Origin>,
}

/// Where a value comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Origin {
    Default,
    File,
    Environment,
    Flag,
}

impl Origin {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Default => "default",
            Self::File => "file",
            Self::Environment => "environment",
            Self::Flag => "flag",
        }
    }
}

/// What of the environment counts.
#[derive(Clone, Debug, Default)]
struct Environment {
    docker_config: Option<OsString>,
    home: Option<OsString>,
    /// Variables that name proxies.
    proxies: BTreeMap<&'static str, String>,
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
        let read = file.as_deref().map(read).transpose()?.unwrap_or_default();
        let what = match &file {
            Some(file) => format!("in the configuration {}", file.display()),
            None => "in the configuration".to_owned(),
        };
        Self::of(global, file, read).context(what)
    }

    /// What `file`, of which this was read, comes to with flags and environment.
    ///
    /// # Errors
    /// When a value makes no sense.
    pub(crate) fn of(global: &Global, file: Option<PathBuf>, read: File) -> anyhow::Result<Self> {
        let proxies = network::VARIABLES.into_iter();
        let environment = Environment {
            docker_config: std::env::var_os("DOCKER_CONFIG"),
            // A service manager gives its services none.
            home: std::env::home_dir().map(PathBuf::into_os_string),
            proxies: proxies
                .filter_map(|name| Some((name, std::env::var(name).ok()?)))
                .collect(),
        };
        // Files beside it may be named without their directory.
        let base = file.as_deref().and_then(Path::parent);
        let base = base.unwrap_or(Path::new("/"));
        let merged = Self::merge(global, &environment, read, base)?;
        Ok(Self { file, ..merged })
    }

    fn merge(
        global: &Global,
        environment: &Environment,
        read: File,
        base: &Path,
    ) -> anyhow::Result<Self> {
        use Origin::{Default, Environment, File as InFile, Flag};
        // Whole: a key that is added is not forgotten here.
        let File {
            root,
            plain_http,
            trusted_repositories,
            runtime,
            fault_timeout_seconds,
            search_timeout_seconds,
            cache_size,
            direct_reads,
            docker_config,
            metrics_listen,
            ca,
            proxy,
            registry,
            trust,
            socket,
        } = read;
        let mut merged = Merged::default();
        let typed = match global.root_from_environment {
            true => Environment,
            false => Flag,
        };
        let root = [
            (typed, global.root.clone()),
            (InFile, root),
            (Default, Some(DEFAULT_ROOT.into())),
        ];
        let root = match root.into_iter().find(|(_, root)| root.is_some()) {
            Some((from, Some(root))) => (from, Some(store(&root)?)),
            _ => (Default, None),
        };
        let docker = environment.docker_config.as_ref();
        let home = environment.home.as_ref();
        let docker = docker.map(|dir| Path::new(dir).join("config.json"));
        let home = home.map(|dir| Path::new(dir).join(".docker/config.json"));
        Ok(Self {
            root: merged.first("root", [root]).unwrap_or_default(),
            plain_http: merged.all(
                "plain-http",
                [
                    (InFile, plain_http),
                    (Flag, Some(global.plain_http.clone())),
                ],
            ),
            trusted_repositories: merged
                .all("trusted-repositories", [(InFile, trusted_repositories)]),
            runtime: merged.first("runtime", [(InFile, runtime)]),
            fault_timeout: merged.seconds(
                "fault-timeout-seconds",
                fault_timeout_seconds,
                DEFAULT_FAULT_TIMEOUT,
            ),
            search_timeout: merged.seconds(
                "search-timeout-seconds",
                search_timeout_seconds,
                DEFAULT_SEARCH_TIMEOUT,
            ),
            cache_size: merged
                .first("cache-size", [(InFile, cache_size)])
                .map(|size| size.bytes),
            direct_reads: merged
                .first(
                    "direct-reads",
                    [(InFile, direct_reads), (Default, Some(true))],
                )
                .unwrap_or(true),
            docker_config: merged.first(
                "docker-config",
                [
                    (InFile, docker_config),
                    (Environment, docker),
                    (Default, home),
                ],
            ),
            metrics_listen: merged.first("metrics-listen", [(InFile, metrics_listen)]),
            ca: {
                let ca = merged.first("ca", [(InFile, ca)]).unwrap_or_default();
                ca.iter().map(|path| base.join(path)).collect()
            },
            proxy: merged.proxy(proxy.unwrap_or_default(), environment),
            registries: {
                let registries = merged.first("registry", [(InFile, registry)]);
                let registries = registries.unwrap_or_default().into_iter();
                let registries = registries.map(|it| network::registry(it, base));
                registries.collect::<anyhow::Result<_>>()?
            },
            trust: {
                let rules = merged.first("trust", [(InFile, trust)]);
                let rules = rules.unwrap_or_default().into_iter();
                rules.map(|rule| rule.with_files_from(base)).collect()
            },
            socket: {
                let socket = merged.first("socket", [(InFile, socket)]);
                socket.map(|socket| socket.checked(base)).transpose()?
            },
            file: None,
            settings: merged.0,
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

/// Merges one key after the other, and keeps what came of each.
#[derive(Default)]
struct Merged(Vec<Setting>);

impl Merged {
    /// The first that is given.
    fn first<T: Serialize, const N: usize>(
        &mut self,
        key: &'static str,
        given: [(Origin, Option<T>); N],
    ) -> Option<T> {
        let mut given = given.into_iter();
        let found = given.find_map(|(from, value)| Some((from, value?)));
        let (from, value) = match found {
            Some((from, value)) => (from, Some(value)),
            None => (Origin::Default, None),
        };
        self.tell(key, &value, vec![from]);
        value
    }

    /// A file's time, or what it is by default.
    fn seconds(
        &mut self,
        key: &'static str,
        read: Option<NonZeroU64>,
        default: NonZeroU64,
    ) -> Duration {
        let given = [(Origin::File, read), (Origin::Default, Some(default))];
        Duration::from_secs(self.first(key, given).map_or(0, NonZeroU64::get))
    }

    /// All that are given, one behind the other.
    fn all<const N: usize>(
        &mut self,
        key: &'static str,
        given: [(Origin, Option<Vec<String>>); N],
    ) -> Vec<String> {
        let (mut values, mut from) = (Vec::new(), Vec::new());
        for (origin, more) in given {
            let more = more.unwrap_or_default();
            if !more.is_empty() {
                from.push(origin);
                values.extend(more);
            }
        }
        if from.is_empty() {
            from.push(Origin::Default);
        }
        self.tell(key, &values, from);
        values
    }

    /// Each of a file's proxies, or the environment's.
    fn proxy(&mut self, proxy: network::Proxy, environment: &Environment) -> ProxySettings {
        let own = proxy.clone().settings(|_| None);
        let all = proxy.settings(|name| environment.proxies.get(name).cloned());
        let mut from = Vec::new();
        if own != ProxySettings::default() {
            from.push(Origin::File);
        }
        if all != own {
            from.push(Origin::Environment);
        }
        if from.is_empty() {
            from.push(Origin::Default);
        }
        let value = match all == ProxySettings::default() {
            true => Value::Null,
            false => json!({ "http": all.http, "https": all.https, "none-for": all.none_for }),
        };
        self.tell("proxy", &value, from);
        all
    }

    fn tell(&mut self, key: &'static str, value: &impl Serialize, from: Vec<Origin>) {
        // Only such a path has no JSON.
        let value = serde_json::to_value(value);
        let value = value.unwrap_or_else(|_| "(a path that is not UTF-8)".into());
        self.0.push(Setting { key, value, from });
    }
}

/// The store, by the path that the kernel knows it by.
fn store(root: &Path) -> anyhow::Result<PathBuf> {
    let real = crate::path::real(root)
        .with_context(|| format!("the store {} is no path", root.display()))?;
    let len = real.as_os_str().len();
    if len > MAX_ROOT {
        bail!(
            "the store {} has a path of {len} bytes; there may be {MAX_ROOT}, or its sockets could not be named",
            real.display()
        );
    }
    Ok(real)
}

fn read(path: &Path) -> anyhow::Result<File> {
    let text = std::fs::read_to_string(path)
        .with_context(|| format!("cannot read the configuration {}", path.display()))?;
    parse(&text).or_else(|problems| {
        let problems: Vec<String> = problems.iter().map(Problem::to_string).collect();
        bail!(
            "in the configuration {}: {}",
            path.display(),
            problems.join("; ")
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn merged(global: &Global, text: &str) -> Config {
        let environment = Environment {
            docker_config: None,
            home: Some("/home/me".into()),
            proxies: BTreeMap::new(),
        };
        let read = parse(text).unwrap();
        Config::merge(global, &environment, read, Path::new("/etc/thaw")).unwrap()
    }

    fn from(config: &Config, key: &str) -> (Value, Vec<Origin>) {
        let mut settings = config.settings.iter();
        let setting = settings.find(|setting| setting.key == key).unwrap();
        (setting.value.clone(), setting.from.clone())
    }

    #[test]
    fn what_is_read_is_what_is_documented() {
        let config = merged(&Global::default(), "");
        let told: Vec<&str> = config.settings.iter().map(|setting| setting.key).collect();
        let documented: Vec<String> = keys::KEYS.iter().map(Key::name).collect();
        assert_eq!(told, documented);
        let default = |key: &str| Key::find(key).unwrap().default;
        assert_eq!(default("root"), config.root.to_str().unwrap());
        for (key, time) in [
            ("fault-timeout-seconds", config.fault_timeout),
            ("search-timeout-seconds", config.search_timeout),
        ] {
            assert_eq!(default(key), time.as_secs().to_string());
        }
        for setting in &config.settings {
            assert_eq!(setting.from, [Origin::Default], "{}", setting.key);
        }
    }

    #[test]
    fn flags_go_before_the_environment_and_that_before_the_file() {
        let text = "root = \"/file\"\nplain-http = [\"a\"]\ndocker-config = \"/d.json\"\n";
        let mut global = Global {
            plain_http: vec!["b".to_owned()],
            ..Global::default()
        };
        let file = merged(&global, text);
        assert_eq!(from(&file, "root"), ("/file".into(), vec![Origin::File]));
        let both = vec![Origin::File, Origin::Flag];
        assert_eq!(from(&file, "plain-http"), (vec!["a", "b"].into(), both));
        assert_eq!(from(&file, "docker-config").1, [Origin::File]);

        global.root = Some("/typed".into());
        let flag = merged(&global, text);
        assert_eq!(from(&flag, "root"), ("/typed".into(), vec![Origin::Flag]));
        global.root_from_environment = true;
        assert_eq!(
            from(&merged(&global, text), "root").1,
            [Origin::Environment]
        );

        let environment = Environment {
            docker_config: Some("/docker".into()),
            home: None,
            proxies: BTreeMap::from([("http_proxy", "p:1".to_owned())]),
        };
        let read = parse("[proxy]\nhttps = \"q:1\"\n").unwrap();
        let config = Config::merge(&global, &environment, read, Path::new("/")).unwrap();
        let wanted = ("/docker/config.json".into(), vec![Origin::Environment]);
        assert_eq!(from(&config, "docker-config"), wanted);
        let proxies = json!({ "http": "p:1", "https": "q:1", "none-for": "" });
        let wanted = (proxies, vec![Origin::File, Origin::Environment]);
        assert_eq!(from(&config, "proxy"), wanted);
    }

    /// The first example of the documentation.
    fn documented() -> String {
        let text = include_str!("../../../docs/configuration.md");
        let (_, rest) = text.split_once("```toml\n").unwrap();
        rest.split_once("```").unwrap().0.to_owned()
    }

    /// Whether every key has a value that says something.
    fn is_full(value: &Value) -> bool {
        match value {
            Value::Null => false,
            Value::Array(values) => !values.is_empty() && values.iter().all(is_full),
            Value::Object(values) => !values.is_empty() && values.values().all(is_full),
            _ => true,
        }
    }

    #[test]
    fn every_key_is_documented() {
        let read = parse(&documented()).unwrap();
        let read = serde_json::to_value(read).unwrap();
        assert!(is_full(&read), "{read:#}");
    }
}
