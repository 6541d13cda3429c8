//! The client: settings, connections and what was learnt of registries, shared by all of a
//! process's repositories.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::ffi::OsString;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use reqwest::{NoProxy, Proxy, Url};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls::{ClientConfig, RootCertStore};
use thaw_image::ImageReference;

use crate::auth::Auth;
use crate::bridge::Bridge;
use crate::http::{Counters, Remote, locked};
use crate::layout::Layout;
use crate::link::Link;
use crate::referrers::Support;
use crate::repository::RegistryRepository;
use crate::{RegistryError, Repository, Stats};

/// Windows of HTTP/2: one stream must fill a fast and long link.
const STREAM_WINDOW: u32 = 4 << 20;
const CONNECTION_WINDOW: u32 = 16 << 20;
const IDLE_CONNECTIONS: usize = 16;

/// How registries are reached. Nothing here is read from the environment: the program does that.
/// (Where the system keeps its certificates, `SSL_CERT_FILE` and `SSL_CERT_DIR` may say.)
#[derive(Clone, Debug)]
pub struct Settings {
    /// Registries (host and port as in references) that speak plain HTTP. Loopback ones always
    /// do, as for Docker.
    pub plain_http: Vec<String>,
    /// Docker's `config.json`, for credentials; it need not exist.
    pub docker_config: Option<PathBuf>,
    /// Directories with credential helpers, written as in `PATH`.
    pub helper_path: OsString,
    /// For an answer of a credential helper.
    pub helper_timeout: Duration,
    /// PEM files with certificate authorities to trust beside the system's.
    pub certificate_authorities: Vec<PathBuf>,
    /// Address of an HTTP proxy. Loopback registries are reached without.
    pub proxy: Option<String>,
    /// Hosts to reach without the proxy, separated by commas, as in `NO_PROXY`.
    pub no_proxy: String,
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

impl Default for Settings {
    fn default() -> Self {
        Self {
            plain_http: Vec::new(),
            docker_config: None,
            helper_path: OsString::new(),
            helper_timeout: Duration::from_secs(10),
            certificate_authorities: Vec::new(),
            proxy: None,
            no_proxy: String::new(),
            connect_timeout: Duration::from_secs(5),
            request_timeout: Duration::from_secs(10),
            deadline: Duration::from_secs(30),
            user_agent: concat!("thaw/", env!("CARGO_PKG_VERSION")).to_owned(),
        }
    }
}

/// What all repositories share.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) http: reqwest::Client,
    pub(crate) settings: Settings,
    pub(crate) auth: Auth,
    /// Of all requests, whichever repository they were for.
    pub(crate) total: Counters,
    /// How registries are reached, as measured.
    pub(crate) links: Mutex<BTreeMap<String, Link>>,
    /// Registries to which several connections were opened, and when.
    pub(crate) connected: Mutex<HashMap<String, Instant>>,
    /// Where blobs were found after a redirect, by their own address, and since when that is known.
    pub(crate) locations: Mutex<HashMap<Url, (Url, Instant)>>,
    /// How registries list referrers, and since when that is known.
    pub(crate) support: Mutex<HashMap<String, (Support, Instant)>>,
    /// Registries that speak plain HTTP.
    plain_http: Mutex<HashSet<String>>,
}

impl Shared {
    fn plain_hosts(&self) -> MutexGuard<'_, HashSet<String>> {
        let hosts = self.plain_http.lock();
        hosts.unwrap_or_else(PoisonError::into_inner)
    }
}

/// A client of any number of registries and layouts. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Client {
    shared: Arc<Shared>,
    bridge: Arc<Bridge>,
}

impl Client {
    /// Starts the threads behind it. No connection is made.
    ///
    /// # Errors
    /// [`RegistryError::Setup`] where the settings make no sense.
    pub fn new(settings: Settings) -> Result<Self, RegistryError> {
        let shared = Shared {
            http: http_client(&settings)?,
            plain_http: Mutex::new(settings.plain_http.iter().cloned().collect()),
            settings,
            auth: Auth::default(),
            total: Counters::default(),
            links: Mutex::default(),
            connected: Mutex::default(),
            locations: Mutex::default(),
            support: Mutex::default(),
        };
        Ok(Self {
            shared: Arc::new(shared),
            bridge: Arc::new(Bridge::new()?),
        })
    }

    /// Speaks plain HTTP with a registry from now on; answers whether that is news. Repositories
    /// that are open already stay as they are.
    pub fn allow_plain_http(&self, registry: &str) -> bool {
        self.shared.plain_hosts().insert(registry.to_owned())
    }

    /// The repository that holds the image, with counters of its own: nothing is asked of a
    /// registry yet.
    ///
    /// # Errors
    /// [`RegistryError::File`] and [`RegistryError::Malformed`] where a directory is no OCI
    /// layout; [`RegistryError::Malformed`] for a host that makes no address.
    pub fn open(&self, reference: &ImageReference) -> Result<Arc<dyn Repository>, RegistryError> {
        match reference {
            ImageReference::Layout { dir, .. } => Ok(Arc::new(Layout::open(dir)?)),
            ImageReference::Registry(reference) => {
                let remote = self.remote(&reference.registry, &reference.repository)?;
                let bridge = Arc::clone(&self.bridge);
                Ok(Arc::new(RegistryRepository::new(bridge, Arc::new(remote))))
            }
        }
    }

    /// What all repositories of this client asked of the network so far.
    #[must_use]
    pub fn stats(&self) -> Stats {
        self.shared.total.snapshot()
    }

    /// How each registry (host and port) is reached, as far as it was measured.
    #[must_use]
    pub fn links(&self) -> BTreeMap<String, Link> {
        locked(&self.shared.links).clone()
    }

    /// Takes over what was measured before. What this client measured itself stays.
    pub fn remember_links(&self, links: BTreeMap<String, Link>) {
        let mut known = locked(&self.shared.links);
        for (registry, link) in links {
            known.entry(registry).or_insert(link);
        }
    }

    /// Checks a password with a registry, and keeps it where Docker would.
    ///
    /// # Errors
    /// [`RegistryError::Denied`] where the registry refuses it, [`RegistryError::Credentials`]
    /// and [`RegistryError::File`] where it cannot be kept.
    pub fn login(&self, registry: &str, user: &str, password: &str) -> Result<(), RegistryError> {
        let remote = self.remote(registry, "")?;
        let (registry, user) = (registry.to_owned(), user.to_owned());
        let password = password.to_owned();
        self.bridge.run(async move {
            remote.check_password(&user, &password).await?;
            let settings = &remote.shared.settings;
            settings.keep_credentials(&registry, &user, &password).await
        })
    }

    fn remote(&self, registry: &str, repository: &str) -> Result<Remote, RegistryError> {
        let host = match registry {
            "docker.io" => "registry-1.docker.io",
            other => other,
        };
        let plain = is_loopback(host) || self.shared.plain_hosts().contains(host);
        let scheme = if plain { "http" } else { "https" };
        let slash = if repository.is_empty() { "" } else { "/" };
        let base = Url::parse(&format!("{scheme}://{host}/v2/{repository}{slash}"));
        let base = base.map_err(|error| RegistryError::Malformed {
            place: registry.to_owned(),
            what: "registry host".to_owned(),
            reason: error.to_string(),
        })?;
        let shared = Arc::clone(&self.shared);
        Ok(Remote::new(shared, registry, repository, base))
    }
}

/// 127.0.0.0/8, ::1 and localhost, with or without a port.
fn is_loopback(host: &str) -> bool {
    let name = match host.strip_prefix('[') {
        Some(rest) => rest.split(']').next().unwrap_or_default(),
        None => host.split(':').next().unwrap_or_default(),
    };
    let address = name.parse::<std::net::IpAddr>();
    name == "localhost" || address.is_ok_and(|address| address.is_loopback())
}

fn http_client(settings: &Settings) -> Result<reqwest::Client, RegistryError> {
    let setup = |error: reqwest::Error| RegistryError::Setup(error.to_string());
    let mut builder = reqwest::Client::builder()
        .tls_backend_preconfigured(tls(settings)?)
        .user_agent(&settings.user_agent)
        .connect_timeout(settings.connect_timeout)
        .pool_max_idle_per_host(IDLE_CONNECTIONS)
        .redirect(reqwest::redirect::Policy::none())
        .retry(reqwest::retry::never())
        .referer(false)
        .no_proxy()
        // A connection that died unseen must be given up before the requests on it are: they
        // would be tried again on the same one.
        .tcp_user_timeout(settings.request_timeout)
        .http2_keep_alive_interval(settings.request_timeout / 4)
        .http2_keep_alive_timeout(settings.request_timeout / 4)
        .http2_initial_stream_window_size(STREAM_WINDOW)
        .http2_initial_connection_window_size(CONNECTION_WINDOW);
    if let Some(proxy) = &settings.proxy {
        let around = format!("localhost,127.0.0.0/8,::1,{}", settings.no_proxy);
        let proxy = Proxy::all(proxy).map_err(setup)?;
        builder = builder.proxy(proxy.no_proxy(NoProxy::from_string(&around)));
    }
    builder.build().map_err(setup)
}

/// The system's certificate authorities and the settings' own. A system without any can still
/// reach registries that need none.
fn tls(settings: &Settings) -> Result<ClientConfig, RegistryError> {
    let setup = |error: rustls::Error| RegistryError::Setup(error.to_string());
    let mut roots = RootCertStore::empty();
    let system = rustls_native_certs::load_native_certs();
    let (good, bad) = roots.add_parsable_certificates(system.certs);
    tracing::debug!(good, bad, errors = ?system.errors, "loaded the system's certificates");
    for path in &settings.certificate_authorities {
        let bad = |error: rustls::pki_types::pem::Error| {
            RegistryError::Setup(format!("certificates in {}: {error}", path.display()))
        };
        for certificate in CertificateDer::pem_file_iter(path).map_err(bad)? {
            roots.add(certificate.map_err(bad)?).map_err(setup)?;
        }
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(setup)?
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(config)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loopback_is_plain() {
        for host in [
            "localhost",
            "localhost:5000",
            "127.0.0.1:1",
            "127.9.9.9",
            "[::1]:5000",
        ] {
            assert!(is_loopback(host), "{host}");
        }
        for host in [
            "localhost.example",
            "10.0.0.1:5000",
            "[::2]:5000",
            "127.example",
        ] {
            assert!(!is_loopback(host), "{host}");
        }
    }
}
