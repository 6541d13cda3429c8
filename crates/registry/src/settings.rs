//! How registries are reached, as plain values: the program reads files of its own and the
//! environment, this crate does not. (Where the system keeps its certificates, `SSL_CERT_FILE` and
//! `SSL_CERT_DIR` may say.)

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use crate::RegistryError;
use crate::transport::Transport;

/// How registries are reached.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Registries (host and port as in references) that speak plain HTTP. Loopback ones always
    /// do, as for Docker, unless their [`RegistrySettings`] say otherwise.
    pub plain_http: Vec<String>,
    /// What is special about a registry, by its host and port as in references; its token server
    /// and its blob store have settings of their own where they are other hosts.
    pub registries: BTreeMap<String, RegistrySettings>,
    /// Docker's `config.json`, for credentials; it need not exist.
    pub docker_config: Option<PathBuf>,
    /// Directories with credential helpers, written as in `PATH`.
    pub helper_path: OsString,
    /// What is done to the command of a credential helper before it is started.
    pub prepare_helper: fn(&mut Command),
    /// For an answer of a credential helper.
    pub helper_timeout: Duration,
    /// PEM files with certificate authorities to trust beside the system's.
    pub certificate_authorities: Vec<PathBuf>,
    /// Proxies. Loopback registries are reached without.
    pub proxy: ProxySettings,
    /// For a connection, TLS included.
    pub connect_timeout: Duration,
    /// Longest time in which an answer does not begin, or no further byte of it comes.
    pub request_timeout: Duration,
    /// For a call with all its tries, where the caller names no deadline; for a stream the
    /// longest time without progress.
    pub deadline: Duration,
    /// `User-Agent`.
    pub user_agent: String,
}

impl Settings {
    /// Reads the files that they name, and sees whether a client can be made of them.
    ///
    /// # Errors
    /// [`RegistryError::Setup`], with the file or the address that makes no sense.
    pub fn check(&self) -> Result<(), RegistryError> {
        Transport::new(self).map(drop)
    }
}

/// How one registry is reached.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct RegistrySettings {
    /// Who is asked before it, in this order, for what it has: hosts and ports as in references,
    /// each followed by the name below which it has the repositories, if there is one. Their own
    /// settings and credentials are found by host and port.
    pub mirrors: Vec<String>,
    /// Whether it speaks plain HTTP; `None`: where it is a loopback one without certificates.
    pub plain_http: Option<bool>,
    /// PEM files with certificate authorities that are trusted for this registry, beside those
    /// that are for all.
    pub certificate_authorities: Vec<PathBuf>,
    /// What proves to it who we are.
    pub client_certificate: Option<ClientCertificate>,
}

impl RegistrySettings {
    /// Whether connections to it are unlike those to others.
    pub(crate) fn is_apart(&self) -> bool {
        !self.certificate_authorities.is_empty() || self.client_certificate.is_some()
    }
}

/// A client certificate, in PEM files.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ClientCertificate {
    /// The certificate, followed by those that lead to its authority.
    pub certificate: PathBuf,
    /// Its private key.
    pub key: PathBuf,
}

/// HTTP proxies.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct ProxySettings {
    /// Address of the one for plain HTTP.
    pub http: Option<String>,
    /// Address of the one for HTTPS, through which a tunnel is made.
    pub https: Option<String>,
    /// Hosts, domains and networks to reach without, separated by commas, as in `NO_PROXY`.
    pub none_for: String,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            plain_http: Vec::new(),
            registries: BTreeMap::new(),
            docker_config: None,
            helper_path: OsString::new(),
            prepare_helper: |_| (),
            helper_timeout: Duration::from_secs(10),
            certificate_authorities: Vec::new(),
            proxy: ProxySettings::default(),
            connect_timeout: Duration::from_secs(5),
            request_timeout: Duration::from_secs(10),
            deadline: Duration::from_secs(30),
            user_agent: concat!("thaw/", env!("CARGO_PKG_VERSION")).to_owned(),
        }
    }
}
