//! The host: the catalog, the instances, and what happens by itself.
//!
//! What a name and a version lead to is worked out once and remembered until the catalog changes.

use std::collections::{HashMap, HashSet};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use hyper::Response;
use jiff::{SignedDuration, Timestamp};
use thaw_node::Node;

use crate::acceleration::Acceleration;
use crate::catalog::{Catalog, CatalogError, function_key};
use crate::contract::Place;
use crate::error::Refusal;
use crate::fleet::{Fleet, Limits};
use crate::http::{Body, Room};
use crate::keys::Keys;
use crate::logs::Logs;
use crate::machine::{Machine, NodeMachine};
use crate::model::{
    Acceleration as Wanted, Config, Domain, Function, FunctionName, LATEST, Owner, Previous,
    Scaling, Target, Trigger, Version,
};
use crate::queue::Queue;
use crate::remembered::Remembered;
use crate::stats::Stats;
use crate::timers::Timers;

mod targets;

use targets::Choices;

/// How often instances are looked after.
const TEND_PAUSE: Duration = Duration::from_secs(1);

/// Bytes of bodies that are being received, together.
const MAX_BODIES: usize = 256 << 20;
/// Between two looks for outcomes that are to be forgotten.
const FORGET_PAUSE: Duration = Duration::from_secs(3600);
/// For how long an image that is to be accelerated is waited for by a function that has another one.
const FOLLOW_PATIENCE: SignedDuration = SignedDuration::from_mins(5);

/// How a host is set up.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Where its state is: the directory `functions` below the store's.
    pub dir: PathBuf,
    /// What it may do.
    pub limits: Limits,
    /// What functions are told of where they are.
    pub region: String,
    /// Whose keys they are.
    pub account: String,
    /// Whether requests need no signatures.
    pub no_auth: bool,
}

/// Why a host cannot begin.
#[derive(Debug, thiserror::Error)]
pub enum HostError {
    /// A file or directory of its state.
    #[error("cannot use {}", path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// Why not.
        #[source]
        source: std::io::Error,
    },
    /// The database.
    #[error("cannot open {}", path.display())]
    Catalog {
        /// Its file.
        path: PathBuf,
        /// Why not.
        #[source]
        source: CatalogError,
    },
    /// Threads.
    #[error("cannot start a thread")]
    Thread(#[source] std::io::Error),
    /// What is in the database.
    #[error("cannot go on where the host before left off: {0}")]
    Resume(Refusal),
}

/// A function host.
pub struct Host {
    pub(crate) settings: Settings,
    pub(crate) catalog: Arc<Catalog>,
    pub(crate) keys: Keys,
    pub(crate) place: Arc<Place>,
    pub(crate) stats: Arc<Stats>,
    pub(crate) acceleration: Arc<Acceleration>,
    pub(crate) fleet: Arc<Fleet>,
    pub(crate) queue: Arc<Queue>,
    pub(crate) timers: Timers,
    pub(crate) replays: Mutex<crate::auth::Replays>,
    pub(crate) console: crate::console::Console,
    /// For bodies of requests.
    pub(crate) bodies: Room,
    /// Where the host listens for everybody: what root is told of URLs.
    pub(crate) address: OnceLock<SocketAddr>,
    /// What names and versions lead to.
    targets: Remembered<(FunctionName, String), Choices>,
    /// HTTP triggers of functions.
    pub(crate) triggers: Remembered<FunctionName, Vec<Trigger>>,
    /// Functions whose configurations wait for their images.
    following: Mutex<HashSet<FunctionName>>,
    /// Host names that lead to functions.
    domains: Remembered<(), HashMap<String, Domain>>,
}

impl std::fmt::Debug for Host {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Host")
            .field("dir", &self.settings.dir)
            .finish_non_exhaustive()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn file(path: &Path) -> impl FnOnce(std::io::Error) -> HostError {
    let path = path.to_owned();
    move |source| HostError::File { path, source }
}

impl Host {
    /// Opens the state, and takes away the instances of a host before.
    ///
    /// # Errors
    /// [`HostError`].
    pub fn open(node: Arc<Node>, settings: Settings) -> Result<Arc<Self>, HostError> {
        Self::with(Arc::new(NodeMachine::new(node)), settings)
    }

    pub(crate) fn with(
        machine: Arc<dyn Machine>,
        settings: Settings,
    ) -> Result<Arc<Self>, HostError> {
        let dir = &settings.dir;
        std::fs::create_dir_all(dir).map_err(file(dir))?;
        let path = dir.join("state.redb");
        let catalog = Catalog::open(&path).map_err(|source| HostError::Catalog { path, source })?;
        let catalog = Arc::new(catalog);
        let master = dir.join("master.key");
        let keys = Keys::open(&master).map_err(file(&master))?;
        let logs = dir.join("logs");
        let stats = Stats::new(Logs::open(logs.clone()).map_err(file(&logs))?);
        let acceleration = Arc::new(Acceleration::new(Arc::clone(&catalog)));
        let place = Arc::new(Place {
            region: settings.region.clone(),
            account: settings.account.clone(),
        });
        let fleet = Fleet::new(
            machine,
            settings.limits.clone(),
            Arc::clone(&place),
            Arc::clone(&stats),
            Arc::clone(&acceleration),
        );
        let host = Arc::new(Self {
            keys,
            place,
            stats,
            acceleration,
            fleet: fleet.map_err(HostError::Thread)?,
            queue: Arc::new(Queue::new(Arc::clone(&catalog))),
            timers: Timers::default(),
            replays: Mutex::default(),
            console: crate::console::Console::default(),
            bodies: Room::new(MAX_BODIES),
            address: OnceLock::new(),
            targets: Remembered::default(),
            triggers: Remembered::default(),
            following: Mutex::default(),
            domains: Remembered::default(),
            catalog,
            settings,
        });
        host.resume().map_err(HostError::Resume)?;
        Ok(host)
    }

    /// Goes on where a host before this one was ended, or killed.
    fn resume(&self) -> Result<(), Refusal> {
        let machine = &self.fleet.machine;
        for (id, _) in machine.containers(crate::fleet::PREFIX) {
            tracing::info!(container = id, "left by the host before: it is taken away");
            let gone = machine
                .stop(&id, Duration::ZERO)
                .and_then(|()| machine.remove(&id));
            if let Err(error) = gone {
                tracing::warn!(container = id, error, "it stays");
            }
        }
        for function in self.catalog.list::<Function>("")? {
            self.acceleration.want(&function)?;
            if function.previous.is_some() {
                lock(&self.following).insert(function.name);
            }
        }
        self.scaling_changed();
        Ok(())
    }

    /// Does what happens by itself, until the runtime ends. Called within it.
    pub fn work(self: &Arc<Self>) {
        tokio::spawn(Arc::clone(&self.acceleration).work(Arc::clone(&self.fleet)));
        tokio::spawn(Queue::work(Arc::clone(self)));
        tokio::spawn(Timers::work(Arc::clone(self)));
        let host = Arc::clone(self);
        tokio::spawn(async move {
            let mut forgotten = None::<Instant>;
            loop {
                if let Err(error) = tokio::task::block_in_place(|| host.go_over()) {
                    tracing::error!(%error, "functions that wait for their images");
                }
                if forgotten.is_none_or(|last| last.elapsed() >= FORGET_PAUSE) {
                    forgotten = Some(Instant::now());
                    let forget = || host.queue.forget(Timestamp::now());
                    if let Err(error) = tokio::task::block_in_place(forget) {
                        tracing::error!(%error, "old invocations are not forgotten");
                    }
                }
                host.keep_least();
                host.fleet.tend();
                tokio::time::sleep(TEND_PAUSE).await;
            }
        });
    }

    /// Begins nothing any more that nobody asks for.
    pub(crate) fn begin_closing(&self) {
        self.fleet.begin_closing();
    }

    /// Ends all instances: what they have begun they may finish within `patience`.
    pub async fn close(&self, patience: Duration) {
        self.begin_closing();
        self.acceleration.rest(patience).await;
        self.fleet.close(patience).await;
    }

    /// The domain of that name.
    pub(crate) fn domain(&self, name: &str) -> Result<Option<Domain>, Refusal> {
        let all = self.domains.get(&self.catalog, (), |()| {
            let all: Vec<Domain> = self.catalog.list("")?;
            // One that a host before this one took under a name of its own leads nowhere.
            let all = all.into_iter();
            let all = all.filter(|domain| crate::proxy::is_domain(&domain.name));
            let by_name = all.map(|domain| (domain.name.clone(), domain));
            Ok(by_name.collect())
        })?;
        Ok(all.get(name).cloned())
    }

    /// Finds the manifest that a function's image is now, unless it is known.
    ///
    /// # Errors
    /// That there is no such image, or that its registry cannot be asked.
    pub(crate) fn resolve_image(&self, config: &mut Config) -> Result<(), Refusal> {
        let container = &mut config.container;
        if container.image.is_empty() {
            return Err(Refusal::invalid("customContainerConfig.image is missing"));
        }
        if container.digest.is_none() {
            let resolved = self.fleet.machine.resolve(&container.image);
            let digest = resolved.map_err(|error| {
                let image = &container.image;
                Refusal::invalid(format!("the image {image} cannot be used: {error}"))
            })?;
            container.digest = Some(digest);
        }
        Ok(())
    }

    /// Gives a function another configuration. With another image, which is to be accelerated, the one
    /// that it has serves until that is done.
    pub(crate) fn follow(&self, function: &mut Function, config: Config) {
        let (old, new) = (&function.config.container, &config.container);
        let waits = new.acceleration == Wanted::Default
            && old.digest.is_some()
            && old.digest != new.digest
            && !self.acceleration.is_indexed(new.digest);
        let before = std::mem::replace(&mut function.config, config);
        function.previous = match (waits, function.previous.take()) {
            (false, _) => None,
            // What waits itself has not served yet.
            (true, Some(previous)) => Some(previous),
            (true, None) => Some(Box::new(Previous {
                config: before,
                number: function.number,
                until: Timestamp::now() + FOLLOW_PATIENCE,
            })),
        };
    }

    /// Has functions go over to configurations whose images are ready, or that were waited for long
    /// enough.
    fn go_over(&self) -> Result<(), Refusal> {
        let waiting: Vec<FunctionName> = lock(&self.following).iter().cloned().collect();
        for name in waiting {
            let changed = self.catalog.change(|open| {
                let function: Option<Function> = open.get(&function_key(&name))?;
                let Some(mut function) = function else {
                    return Ok(true);
                };
                let Some(previous) = &function.previous else {
                    return Ok(true);
                };
                let ready = self.acceleration.status(&function) == Some("Ready");
                if !ready && previous.until > Timestamp::now() {
                    return Ok(false);
                }
                tracing::info!(function = %name, ready, "its new configuration serves");
                function.previous = None;
                open.put(&function)?;
                Ok(true)
            })?;
            if changed {
                lock(&self.following).remove(&name);
                self.retire_unused();
            }
        }
        Ok(())
    }

    /// A function was made or changed.
    pub(crate) fn function_changed(&self, function: &Function) {
        if let Err(error) = self.acceleration.want(function) {
            tracing::warn!(function = %function.name, %error, "it is not accelerated");
        }
        if function.previous.is_some() {
            lock(&self.following).insert(function.name.clone());
        }
        self.retire_unused();
    }

    /// A function is gone.
    pub(crate) fn function_removed(&self, name: &FunctionName) {
        self.acceleration.forget(name);
        self.stats.forget(name);
        self.scaling_changed();
        self.retire_unused();
    }

    /// Versions and aliases have changed.
    pub(crate) fn versions_changed(&self) {
        self.retire_unused();
    }

    /// Triggers have changed.
    pub(crate) fn triggers_changed(&self) {
        self.timers.changed();
    }

    /// Domains have changed: they are read anew by themselves.
    pub(crate) fn domains_changed(&self) {}

    /// Ends instances of configurations that nothing leads to any more.
    fn retire_unused(&self) {
        self.fleet.retire(|target| self.leads_to(target));
    }

    /// Whether the function as it is, or any of its versions, has a target's configuration: those that
    /// have the same share its instances.
    fn leads_to(&self, target: &Target) -> bool {
        let has_it = |it: &Function| it.id == target.id && it.serving() == target.number;
        if self.function(&target.name, "").is_ok_and(|it| has_it(&it)) {
            return true;
        }
        let owned = Owner::of(&target.name).key();
        let versions: Vec<Version> = self.catalog.list(&owned).unwrap_or_default();
        let mut published = versions.iter();
        published.any(|it| it.functions.get(&target.name.function).is_some_and(has_it))
    }

    /// Numbers of instances have changed.
    pub(crate) fn scaling_changed(&self) {
        let all: Vec<Scaling> = match self.catalog.list("") {
            Ok(all) => all,
            Err(error) => {
                tracing::error!(%error, "numbers of instances cannot be read");
                return;
            }
        };
        let bounds = all.into_iter().filter_map(|scaling| {
            let version = match scaling.qualifier.as_str() {
                "" => LATEST.to_owned(),
                qualifier => qualifier.to_owned(),
            };
            Some(((scaling.function?, version), (scaling.least, scaling.most)))
        });
        self.fleet.set_bounds(bounds.collect());
    }

    /// Makes pools for what has to have instances.
    fn keep_least(&self) {
        if self.fleet.is_closing() {
            return;
        }
        let all: Vec<Scaling> = self.catalog.list("").unwrap_or_default();
        for scaling in all.into_iter().filter(|scaling| scaling.least > 0) {
            let Some(name) = scaling.function else {
                continue;
            };
            if let Ok(target) = self.target(&name, &scaling.qualifier) {
                self.fleet.pool(&target).start_enough();
            }
        }
    }

    /// Instances of a function's version that there are.
    pub(crate) fn instances_of(&self, name: &FunctionName, qualifier: &str) -> u32 {
        let Ok(target) = self.target(name, qualifier) else {
            return 0;
        };
        let mine = |pool: &Arc<crate::pool::Pool>| {
            pool.target.id == target.id && pool.target.number == target.number
        };
        let pools = self.fleet.all().into_iter().filter(mine);
        pools.map(|pool| pool.counts().running).sum()
    }

    /// Puts an event into the queue.
    ///
    /// # Errors
    /// Those of the catalog, or an id that is taken.
    pub(crate) fn enqueue(
        &self,
        name: &FunctionName,
        qualifier: &str,
        body: Bytes,
        id: Option<String>,
        request_id: &str,
    ) -> Result<Response<Body>, Refusal> {
        self.queue.add(name, qualifier, &body, id, request_id)
    }
}

#[cfg(test)]
mod tests;
