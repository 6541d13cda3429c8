//! What the host knows of services, functions and what belongs to them: one model under every
//! version of the API.
//!
//! A function is named by its service and its own name. The API of 2023 knows no services: its
//! functions are in the service without a name, and those of a service it names
//! `SERVICE$FUNCTION`.
//!
//! What runs is a [`Target`]: one configuration of one function, that of a published version or
//! the latest. It has a number that no other configuration of the function has.

use std::collections::BTreeMap;
use std::fmt;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use thaw_image::Digest;

use crate::error::Refusal;

/// The version that can be changed.
pub(crate) const LATEST: &str = "LATEST";

/// A function's full name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub(crate) struct FunctionName {
    /// Its service; empty for functions without one.
    pub(crate) service: String,
    /// Its own name.
    pub(crate) function: String,
}

impl FunctionName {
    /// Reads `SERVICE/FUNCTION`, `SERVICE$FUNCTION` or `FUNCTION`.
    pub(crate) fn parse(text: &str) -> Self {
        let (service, function) = text.split_once(['/', '$']).unwrap_or(("", text));
        Self {
            service: service.to_owned(),
            function: function.to_owned(),
        }
    }

    /// As the API of 2023 has it.
    pub(crate) fn flat(&self) -> String {
        match self.service.as_str() {
            "" => self.function.clone(),
            service => format!("{service}${}", self.function),
        }
    }
}

impl fmt::Display for FunctionName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.service.as_str() {
            "" => f.write_str(&self.function),
            service => write!(f, "{service}/{}", self.function),
        }
    }
}

/// A group of functions that share settings and versions.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Service {
    pub(crate) name: String,
    pub(crate) id: String,
    pub(crate) description: String,
    pub(crate) role: String,
    /// Whether its functions reach beyond the host.
    pub(crate) internet: bool,
    /// What is given back as it came.
    pub(crate) kept: Map<String, Value>,
    pub(crate) created: Timestamp,
    pub(crate) modified: Timestamp,
    /// The last version that was published.
    pub(crate) last_version: u64,
}

/// A function.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Function {
    pub(crate) name: FunctionName,
    pub(crate) id: String,
    pub(crate) config: Config,
    /// Grows with each change.
    pub(crate) number: u64,
    pub(crate) created: Timestamp,
    pub(crate) modified: Timestamp,
    /// The last version that was published, where its service has no name.
    #[serde(default)]
    pub(crate) last_version: u64,
    /// What serves until the image of the configuration is accelerated.
    #[serde(default)]
    pub(crate) previous: Option<Box<Previous>>,
    /// Where it is not to be invoked.
    #[serde(default)]
    pub(crate) disabled: Option<Disabled>,
}

impl Function {
    /// The number of the configuration that serves.
    pub(crate) fn serving(&self) -> u64 {
        let previous = self.previous.as_ref();
        previous.map_or(self.number, |previous| previous.number)
    }
}

/// That a function is not to be invoked.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Disabled {
    pub(crate) reason: String,
    pub(crate) since: Timestamp,
}

/// A configuration that another one is to follow.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Previous {
    pub(crate) config: Config,
    pub(crate) number: u64,
    /// It serves no longer than that.
    pub(crate) until: Timestamp,
}

/// What of a function its instances follow from.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Config {
    pub(crate) description: String,
    pub(crate) handler: String,
    /// Of an invocation, in seconds.
    pub(crate) timeout: u32,
    /// In MiB.
    pub(crate) memory: u32,
    /// Processors; `None`: as many as go with the memory.
    pub(crate) cpu: Option<f64>,
    /// Of the writable part, in MiB.
    pub(crate) disk: u32,
    /// Requests that an instance takes at once.
    pub(crate) concurrency: u32,
    pub(crate) port: u16,
    /// Whether its instances reach beyond the host; `None`: as its service says.
    pub(crate) internet: Option<bool>,
    pub(crate) initializer: Option<Hook>,
    pub(crate) pre_freeze: Option<Hook>,
    pub(crate) pre_stop: Option<Hook>,
    pub(crate) environment: BTreeMap<String, String>,
    pub(crate) container: Container,
    pub(crate) health: Option<HealthCheck>,
    /// What is given back as it came.
    pub(crate) kept: Map<String, Value>,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            description: String::new(),
            handler: "index.handler".to_owned(),
            timeout: 3,
            memory: 128,
            cpu: None,
            disk: 512,
            concurrency: 1,
            port: 9000,
            internet: None,
            initializer: None,
            pre_freeze: None,
            pre_stop: None,
            environment: BTreeMap::new(),
            container: Container::default(),
            health: None,
            kept: Map::new(),
        }
    }
}

impl Config {
    /// Processors of an instance: at least as many as go with its memory, one for each 2 GiB. In thousandths:
    /// with all the digits of a fraction, what is shown may not be read as the same again.
    pub(crate) fn cpus(&self) -> f64 {
        let of_memory = || (f64::from(self.memory) / 2048.0).max(0.5);
        (self.cpu.unwrap_or_else(of_memory) * 1000.0).round() / 1000.0
    }
}

/// The image of a function, and what is run of it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Container {
    /// As the user named it.
    pub(crate) image: String,
    /// Its manifest, as of when the function was made or changed.
    pub(crate) digest: Option<Digest>,
    /// Instead of the image's entrypoint.
    pub(crate) command: Vec<String>,
    /// Instead of the image's command.
    pub(crate) arguments: Vec<String>,
    pub(crate) acceleration: Acceleration,
    /// Whether it serves HTTP; else a process is started for each event.
    pub(crate) web_server: Option<bool>,
    /// What is given back as it came.
    #[serde(default)]
    pub(crate) kept: Map<String, Value>,
}

impl Container {
    /// Whether it is a server that requests are handed to; else it is started for one event and ends.
    pub(crate) fn is_server(&self) -> bool {
        self.web_server.unwrap_or(true)
    }

    /// The image, with the manifest that it had when the function was made or changed.
    pub(crate) fn pinned(&self) -> String {
        let image = &self.image;
        match self.digest {
            Some(digest) => crate::machine::pinned(image, digest),
            None => image.clone(),
        }
    }

    /// A number that is the same for the same image.
    pub(crate) fn checksum(&self) -> String {
        let digest = Digest::of(self.pinned().as_bytes());
        let head: String = digest.hex().chars().take(15).collect();
        u64::from_str_radix(&head, 16)
            .unwrap_or_default()
            .to_string()
    }
}

/// Whether a function's image is accelerated. Function Compute's default is that it is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Acceleration {
    #[default]
    Default,
    None,
}

/// A request that the host makes at some moment of an instance's life.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Hook {
    pub(crate) handler: String,
    /// In seconds.
    pub(crate) timeout: u32,
}

/// How an instance shows that it is well.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct HealthCheck {
    pub(crate) path: String,
    /// These are in seconds.
    pub(crate) initial_delay: u32,
    pub(crate) period: u32,
    pub(crate) timeout: u32,
    pub(crate) failures: u32,
    pub(crate) successes: u32,
}

/// What invokes a function.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Trigger {
    pub(crate) function: FunctionName,
    pub(crate) name: String,
    pub(crate) id: String,
    pub(crate) description: String,
    /// Version or alias that it invokes; empty: the latest.
    pub(crate) qualifier: String,
    pub(crate) source_arn: String,
    pub(crate) role: String,
    pub(crate) kind: TriggerKind,
    /// The configuration as it came.
    pub(crate) config: Value,
    pub(crate) created: Timestamp,
    pub(crate) modified: Timestamp,
}

/// The kinds of triggers that work here.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) enum TriggerKind {
    Http {
        anonymous: bool,
        /// Upper case; empty: all.
        methods: Vec<String>,
    },
    Timer {
        schedule: String,
        enabled: bool,
        payload: String,
    },
    /// Events of an object store.
    Object {
        /// `oss:ObjectCreated:*` and the like.
        events: Vec<String>,
        prefix: String,
        suffix: String,
    },
}

impl TriggerKind {
    /// As the APIs name it.
    pub(crate) const fn name(&self) -> &'static str {
        match self {
            Self::Http { .. } => "http",
            Self::Timer { .. } => "timer",
            Self::Object { .. } => "oss",
        }
    }
}

/// What functions of a service, or one function without a service, were when they were published.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Version {
    pub(crate) owner: Owner,
    pub(crate) number: u64,
    pub(crate) description: String,
    pub(crate) functions: BTreeMap<String, Function>,
    pub(crate) created: Timestamp,
    pub(crate) modified: Timestamp,
}

/// Whose versions and aliases they are.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(crate) enum Owner {
    Service(String),
    Function(FunctionName),
}

impl Owner {
    /// Of which versions a function is part.
    pub(crate) fn of(name: &FunctionName) -> Self {
        match name.service.is_empty() {
            true => Self::Function(name.clone()),
            false => Self::Service(name.service.clone()),
        }
    }

    /// Begins the keys of what it owns: names have neither `/` nor `$`.
    pub(crate) fn key(&self) -> String {
        match self {
            Self::Service(service) => format!("{service}/"),
            Self::Function(name) => format!("${}/", name.function),
        }
    }
}

/// A name for a version, or for two by weight.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Alias {
    pub(crate) owner: Owner,
    pub(crate) name: String,
    pub(crate) version: String,
    pub(crate) description: String,
    /// Other versions, and which part of the invocations each gets.
    pub(crate) weights: BTreeMap<String, f64>,
    pub(crate) created: Timestamp,
    pub(crate) modified: Timestamp,
}

/// What happens to asynchronous invocations of a function.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct AsyncConfig {
    pub(crate) function: FunctionName,
    pub(crate) qualifier: String,
    pub(crate) retries: u32,
    /// In seconds.
    pub(crate) max_age: u32,
    pub(crate) on_success: String,
    pub(crate) on_failure: String,
    pub(crate) stateful: bool,
    pub(crate) created: Timestamp,
    pub(crate) modified: Timestamp,
}

impl AsyncConfig {
    /// What holds where nothing was configured.
    pub(crate) fn plain(function: &FunctionName, qualifier: &str, now: Timestamp) -> Self {
        Self {
            function: function.clone(),
            qualifier: qualifier.to_owned(),
            retries: 3,
            max_age: 86_400,
            on_success: String::new(),
            on_failure: String::new(),
            stateful: false,
            created: now,
            modified: now,
        }
    }
}

/// How many instances a function has at least and at most.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Scaling {
    pub(crate) function: Option<FunctionName>,
    pub(crate) qualifier: String,
    pub(crate) least: u32,
    /// `None`: as many as the host lets any function have.
    pub(crate) most: Option<u32>,
}

/// A host name of one's own that leads to functions.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Domain {
    pub(crate) name: String,
    pub(crate) protocol: String,
    pub(crate) routes: Vec<Route>,
    /// What is given back as it came.
    pub(crate) kept: Map<String, Value>,
    pub(crate) created: Timestamp,
    pub(crate) modified: Timestamp,
}

/// A part of a domain.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Route {
    /// Ends with `*` where it stands for everything that begins like that.
    pub(crate) path: String,
    pub(crate) function: FunctionName,
    pub(crate) qualifier: String,
    /// Upper case; empty: all.
    pub(crate) methods: Vec<String>,
}

/// One configuration of one function, as it is invoked.
#[derive(Clone, Debug)]
pub(crate) struct Target {
    pub(crate) name: FunctionName,
    pub(crate) id: String,
    pub(crate) config: Config,
    /// A published version, or [`LATEST`].
    pub(crate) version: String,
    /// Which of the function's configurations it is.
    pub(crate) number: u64,
    /// Whether instances reach beyond the host.
    pub(crate) internet: bool,
}

/// Checks a name that a user gives something: 1 to `most` characters `[A-Za-z0-9_-]`, no digit or
/// `-` first.
///
/// # Errors
/// [`Refusal`] that names the field.
pub(crate) fn check_name(field: &str, name: &str, most: usize) -> Result<(), Refusal> {
    let first = name.chars().next();
    let starts = first.is_some_and(|c| c.is_ascii_alphabetic() || c == '_');
    let rest = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
    if starts && name.len() <= most && name.chars().all(rest) {
        return Ok(());
    }
    let shown: String = name.chars().take(most).collect();
    Err(Refusal::invalid(format!(
        "{field} {shown:?} has to have 1 to {most} letters, digits, _ and -, and to begin with a \
         letter or _"
    )))
}
