//! The client: connections and what was learnt of registries, shared by all of a
//! process's repositories.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use reqwest::Url;
use thaw_image::ImageReference;
use tokio::sync::Semaphore;

use crate::auth::Auth;
use crate::bridge::Bridge;
use crate::call::Counters;
use crate::http::{Remote, locked};
use crate::layout::Layout;
use crate::link::Link;
use crate::parallel::AHEAD;
use crate::referrers::Support;
use crate::repository::RegistryRepository;
use crate::route::{Rests, Route};
use crate::settings::{RegistrySettings, Settings};
use crate::transport::{Transport, host_of, split_mirror};
use crate::{RegistryError, Repository, Stats};

/// What all repositories share.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) http: Transport,
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
    /// Segments of streams that may come before their turn.
    pub(crate) ahead: Arc<Semaphore>,
    /// Mirrors that are left alone, and registries that have mirrors.
    pub(crate) rests: Mutex<Rests>,
    /// Registries that speak plain HTTP.
    plain_http: Mutex<HashSet<String>>,
}

impl Shared {
    /// Whether a registry is spoken to in plain HTTP.
    fn is_plain(&self, registry: &str) -> bool {
        let own = self.settings.registries.get(registry);
        let said = own.and_then(|own| own.plain_http);
        let unsaid = || is_loopback(registry) && !own.is_some_and(RegistrySettings::is_apart);
        self.plain_hosts().contains(registry) || said.unwrap_or_else(unsaid)
    }

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
            http: Transport::new(&settings)?,
            plain_http: Mutex::new(settings.plain_http.iter().cloned().collect()),
            settings,
            auth: Auth::default(),
            total: Counters::default(),
            links: Mutex::default(),
            connected: Mutex::default(),
            locations: Mutex::default(),
            support: Mutex::default(),
            rests: Mutex::default(),
            ahead: Arc::new(Semaphore::new(AHEAD)),
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
                let route = self.route(&reference.registry, &reference.repository)?;
                let bridge = Arc::clone(&self.bridge);
                Ok(Arc::new(RegistryRepository::new(bridge, route)))
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

    /// Who is asked for what a registry has, in order: its mirrors (host and port), then itself.
    #[must_use]
    pub fn hosts(&self, registry: &str) -> Vec<String> {
        let own = self.shared.settings.registries.get(registry);
        let mirrors = own.map_or(&[][..], |own| &own.mirrors).iter();
        let mirrors = mirrors.map(|mirror| split_mirror(mirror).0);
        mirrors.chain([registry]).map(ToOwned::to_owned).collect()
    }

    /// Forgets what was measured.
    pub fn forget_links(&self) {
        locked(&self.shared.links).clear();
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

    /// A repository and its mirrors, which may have it below a name of their own.
    fn route(&self, registry: &str, repository: &str) -> Result<Route, RegistryError> {
        let origin = self.remote(registry, repository)?;
        let mirrors = self.shared.settings.registries.get(registry);
        let mirrors = mirrors.map_or(&[][..], |own| &own.mirrors);
        let mirror = |name: &String| {
            let (host, prefix) = split_mirror(name);
            let name = match prefix {
                "" => repository.to_owned(),
                prefix => format!("{prefix}/{repository}"),
            };
            Ok(Arc::new(self.remote(host, &name)?.mirroring(&origin)))
        };
        let mirrors: Result<_, RegistryError> = mirrors.iter().map(mirror).collect();
        Ok(Route::new(mirrors?, Arc::new(origin)))
    }

    fn remote(&self, registry: &str, repository: &str) -> Result<Remote, RegistryError> {
        let host = host_of(registry);
        let scheme = if self.shared.is_plain(registry) {
            "http"
        } else {
            "https"
        };
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
