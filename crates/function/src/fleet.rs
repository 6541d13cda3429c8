//! All pools, and what they share: the machine, its memory, starts.
//!
//! The host never promises more memory than it has: an instance is started when its memory is set
//! aside, and what is idle for longest ends to make room.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use hyper::StatusCode;
use thaw_node::container::{Limits as ContainerLimits, Network, Options, ProcessOptions};
use tokio::sync::Notify;

use crate::acceleration::Acceleration;
use crate::contract::{EVENT, Place, environment};
use crate::error::Refusal;
use crate::instance::Instance;
use crate::machine::{Lazily, Machine, Order, Started};
use crate::model::{FunctionName, Target};
use crate::pool::Pool;
use crate::reach::Connector;
use crate::starts::Starts;
use crate::stats::{ColdStart, Stats};
use crate::unique;

/// How names of containers begin.
pub(crate) const PREFIX: &str = "fn-";
/// For how long a container may take until it listens.
const READY_PATIENCE: Duration = Duration::from_secs(120);
/// For how long a container may take to end when it is asked to.
const STOP_PATIENCE: Duration = Duration::from_secs(3);
/// Processes and threads of an instance.
const MAX_PIDS: u32 = 1024;

/// What the host may do.
#[derive(Clone, Debug)]
pub struct Limits {
    /// For how long a request waits for an instance.
    pub patience: Duration,
    /// Requests of one function that wait.
    pub line: usize,
    /// For how long an instance is idle before it is frozen; `None`: none is.
    pub freeze_after: Option<Duration>,
    /// For how long an instance is idle before it ends.
    pub keep: Duration,
    /// Instances of one function, where it says nothing itself.
    pub instances: u32,
    /// MiB of all instances together.
    pub memory: u64,
    /// Containers that are being started at once.
    pub starts: usize,
    /// Pause after the first failed start of a function; it doubles with each further one.
    pub pause: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            patience: Duration::from_secs(300),
            line: 1000,
            freeze_after: Some(Duration::from_millis(20)),
            keep: Duration::from_secs(300),
            instances: 100,
            memory: machine_memory() * 9 / 10,
            starts: 2 * std::thread::available_parallelism().map_or(2, usize::from),
            pause: Duration::from_millis(200),
        }
    }
}

/// MiB that this machine has.
fn machine_memory() -> u64 {
    let text = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix("MemTotal:"));
    let kib = line.and_then(|line| line.trim().trim_end_matches(" kB").parse::<u64>().ok());
    kib.map_or(1024, |kib| kib / 1024)
}

/// Least and most instances, by function and version.
pub(crate) type Bounds = HashMap<(FunctionName, String), (u32, Option<u32>)>;

/// All instances of a host.
pub(crate) struct Fleet {
    pub(crate) machine: Arc<dyn Machine>,
    pub(crate) limits: Limits,
    pub(crate) place: Arc<Place>,
    pub(crate) stats: Arc<Stats>,
    pub(crate) acceleration: Arc<Acceleration>,
    connector: Connector,
    /// By function and configuration.
    pools: Mutex<HashMap<(String, u64), Arc<Pool>>>,
    /// Least and most instances, by function and version.
    bounds: Mutex<Bounds>,
    memory: Arc<Memory>,
    starts: Arc<Starts>,
    /// Whether the host is about to end, and whether it ends: nothing is started any more.
    closing: AtomicBool,
    closed: AtomicBool,
    /// Containers that are being taken away.
    ending: tokio::sync::watch::Sender<usize>,
}

impl std::fmt::Debug for Fleet {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Fleet")
            .field("limits", &self.limits)
            .finish_non_exhaustive()
    }
}

impl Fleet {
    /// # Errors
    /// When no thread can be started.
    pub(crate) fn new(
        machine: Arc<dyn Machine>,
        limits: Limits,
        place: Arc<Place>,
        stats: Arc<Stats>,
        acceleration: Arc<Acceleration>,
    ) -> std::io::Result<Arc<Self>> {
        Ok(Arc::new(Self {
            machine,
            place,
            stats,
            acceleration,
            connector: Connector::start()?,
            pools: Mutex::default(),
            bounds: Mutex::default(),
            memory: Arc::new(Memory::new(limits.memory)),
            starts: Starts::new(limits.starts),
            closing: AtomicBool::new(false),
            closed: AtomicBool::new(false),
            ending: tokio::sync::watch::Sender::new(0),
            limits,
        }))
    }

    fn pools(&self) -> MutexGuard<'_, HashMap<(String, u64), Arc<Pool>>> {
        self.pools.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// All pools that there are.
    pub(crate) fn all(&self) -> Vec<Arc<Pool>> {
        self.pools().values().cloned().collect()
    }

    /// The pool of a target.
    pub(crate) fn pool(self: &Arc<Self>, target: &Arc<Target>) -> Arc<Pool> {
        let mut pools = self.pools();
        let key = (target.id.clone(), target.number);
        let new = || Pool::new(Arc::clone(target), Arc::clone(self));
        Arc::clone(pools.entry(key).or_insert_with(new))
    }

    /// Pools whose targets nothing leads to any more end.
    pub(crate) fn retire(&self, keep: impl Fn(&Target) -> bool) {
        for pool in self.all() {
            if !keep(&pool.target) {
                pool.retire();
            }
        }
    }

    /// Says how many instances there have to be and may be.
    pub(crate) fn set_bounds(&self, bounds: Bounds) {
        *self.bounds.lock().unwrap_or_else(PoisonError::into_inner) = bounds;
    }

    /// Least and most instances of a target.
    pub(crate) fn bounds(&self, target: &Target) -> (u32, u32) {
        let bounds = self.bounds.lock().unwrap_or_else(PoisonError::into_inner);
        let of = |version: &str| bounds.get(&(target.name.clone(), version.to_owned()));
        let (least, most) = of(&target.version).copied().unwrap_or_default();
        (least, most.unwrap_or(self.limits.instances))
    }

    /// Ends what has been idle for long, and starts what has to be there.
    pub(crate) fn tend(&self) {
        for pool in self.all() {
            pool.reap(self.limits.keep);
        }
        self.pools().retain(|_, pool| !pool.is_over());
    }

    /// Starts an instance: it answers when this returns. With `event` it is no server, and works on that
    /// alone.
    ///
    /// # Errors
    /// [`Refusal`]; then nothing is left of it.
    pub(crate) async fn start(
        &self,
        target: &Arc<Target>,
        event: Option<&str>,
    ) -> Result<Arc<Instance>, Refusal> {
        let begun = Instant::now();
        if self.closed.load(Ordering::Acquire) {
            return Err(Refusal::internal("the host is ending"));
        }
        let memory = self.set_aside(target).await?;
        let turn = self.starts.turn(&target.name).await;
        let _turn = turn.ok_or_else(|| Refusal::internal("the host is ending"))?;
        let lazily = self.acceleration.lazily(target);
        let mut order = self.order(target, lazily)?;
        let told = event.map(|event| format!("{EVENT}={event}"));
        order.options.process.env.extend(told);
        let machine = Arc::clone(&self.machine);
        let started = tokio::task::spawn_blocking(move || machine.start(&order)).await;
        let started = started.map_err(|error| Refusal::internal(error.to_string()))?;
        let started = started.map_err(|error| not_started(target, "CAExited", &error))?;
        let made = begun.elapsed();
        let taken = match event {
            Some(_) => Ok(self.take_in(started, target, Some(memory))),
            None => self.guest(started, target, Some(memory)).await,
        };
        let instance = match taken {
            Ok(instance) => instance,
            Err((refusal, instance)) => {
                self.end(&instance);
                return Err(refusal);
            }
        };
        let moved = self.machine.moved(&instance.id);
        self.stats.cold_start(
            &target.name,
            ColdStart::new(
                &instance,
                lazily == Lazily::Ready,
                moved,
                made,
                begun.elapsed(),
            ),
        );
        Ok(instance)
    }

    /// Waits until a container answers, and initializes it.
    ///
    /// # Errors
    /// [`Refusal`], with the container, which is to be ended.
    pub(crate) async fn guest(
        &self,
        started: Started,
        target: &Arc<Target>,
        memory: Option<SetAside>,
    ) -> Result<Arc<Instance>, (Refusal, Arc<Instance>)> {
        let instance = self.take_in(started, target, memory);
        let ready = instance.ready(Instant::now() + READY_PATIENCE).await;
        let ready = match ready {
            Ok(()) => instance
                .initialize()
                .await
                .map_err(|error| not_started(target, "InitializationError", &error)),
            Err(error) if instance.end().is_some() => Err(not_started(target, "CAExited", &error)),
            Err(error) => Err(not_started(target, "FunctionNotStarted", &error)),
        };
        match ready {
            Ok(()) => Ok(instance),
            Err(refusal) => Err((refusal, instance)),
        }
    }

    fn take_in(
        &self,
        started: Started,
        target: &Arc<Target>,
        memory: Option<SetAside>,
    ) -> Arc<Instance> {
        let (connector, place) = (self.connector.clone(), Arc::clone(&self.place));
        Instance::new(started, Arc::clone(target), connector, place, memory)
    }

    /// Memory for an instance; what is idle for longest ends for it.
    pub(crate) async fn set_aside(&self, target: &Target) -> Result<SetAside, Refusal> {
        let wanted = u64::from(target.config.memory);
        let deadline = Instant::now() + self.limits.patience;
        let mut hungry = None;
        loop {
            let freed = self.memory.freed.notified();
            let has_some = self.has_instances(&target.name);
            let yields = has_some && self.others_hunger(&target.name);
            if !yields && let Some(memory) = self.memory.take(wanted) {
                return Ok(memory);
            }
            if !has_some && hungry.is_none() {
                hungry = Some(self.memory.hunger(&target.name));
            }
            if !self.make_room() && wanted > self.limits.memory {
                break;
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if tokio::time::timeout(left, freed).await.is_err() {
                break;
            }
        }
        let all = self.limits.memory;
        Err(Refusal::exhausted(format!(
            "there are no {wanted} MiB of memory for an instance of function '{}': the host has \
             {all} MiB for all",
            target.name
        )))
    }

    fn has_instances(&self, function: &FunctionName) -> bool {
        let mut pools = self.all().into_iter();
        pools.any(|pool| pool.target.name == *function && pool.counts().running > 0)
    }

    /// Whether memory is wanted for the first instance of another function than this one.
    pub(crate) fn others_hunger(&self, function: &FunctionName) -> bool {
        let hungry = self.memory.hungry();
        hungry.iter().any(|other| other != function)
    }

    /// Ends the instance that is idle for longest; whether there was one.
    fn make_room(&self) -> bool {
        let idle = self.all().into_iter().filter_map(|pool| {
            let (since, instance) = pool.idlest()?;
            Some((since, pool, instance))
        });
        let idlest = idle.min_by_key(|(since, _, _)| *since);
        idlest.is_some_and(|(_, pool, instance)| pool.evict(&instance))
    }

    /// What the machine is told to start.
    pub(crate) fn order(&self, target: &Target, lazily: Lazily) -> Result<Order, Refusal> {
        let config = &target.config;
        let container = &config.container;
        let manifest = container.digest.ok_or_else(|| {
            Refusal::internal(format!("the image of '{}' is not resolved", target.name))
        })?;
        let instance = unique::id();
        let short = instance.split('-').next().unwrap_or_default();
        let name = format!("{PREFIX}{}-{short}", target.name.function);
        let entrypoint = (!container.command.is_empty()).then(|| container.command.clone());
        Ok(Order {
            image: container.image.clone(),
            manifest,
            lazily,
            profile: crate::acceleration::profile(&target.name),
            options: Options {
                name: Some(name),
                process: ProcessOptions {
                    command: container.arguments.clone(),
                    env: environment(target, &self.place, &instance),
                    ..ProcessOptions::default()
                },
                entrypoint,
                net: if target.internet {
                    Network::Isolated
                } else {
                    Network::None
                },
                limits: ContainerLimits {
                    memory: Some(u64::from(config.memory) << 20),
                    cpus: Some(config.cpus()),
                    pids: Some(MAX_PIDS),
                },
                ..Options::default()
            },
            storage: u64::from(config.disk) << 20,
            is_server: container.is_server(),
        })
    }

    /// Ends an instance and takes it away, in the background.
    pub(crate) fn end(&self, instance: &Arc<Instance>) {
        let (instance, machine) = (Arc::clone(instance), Arc::clone(&self.machine));
        let (ending, stats) = (self.ending.clone(), Arc::clone(&self.stats));
        ending.send_modify(|count| *count += 1);
        tokio::spawn(async move {
            instance.say_goodbye().await;
            let id = instance.id.clone();
            let (dir, name) = (instance.started.dir.clone(), instance.target.name.clone());
            let removed = tokio::task::spawn_blocking(move || {
                let removed = machine.stop(&id, STOP_PATIENCE);
                stats.logs.keep(&name, &id, &dir);
                let removed = removed.and_then(|()| machine.remove(&id));
                removed.map_err(|error| (id, error))
            });
            if let Ok(Err((id, error))) = removed.await {
                tracing::warn!(container = id, error, "an instance is not taken away");
            }
            drop(instance);
            ending.send_modify(|count| *count -= 1);
        });
    }

    /// Whether the host is about to end.
    pub(crate) fn is_closing(&self) -> bool {
        self.closing.load(Ordering::Acquire)
    }

    /// Nothing is begun any more that nobody asks for.
    pub(crate) fn begin_closing(&self) {
        self.closing.store(true, Ordering::Release);
    }

    /// Ends everything; returns when that is done, or after `patience`.
    pub(crate) async fn close(&self, patience: Duration) {
        self.closed.store(true, Ordering::Release);
        let all = self.all();
        let deadline = Instant::now() + patience;
        for pool in &all {
            pool.retire();
        }
        while Instant::now() < deadline && !all.iter().all(|pool| pool.is_over()) {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        for instance in all.iter().flat_map(|pool| pool.instances()) {
            self.end(&instance);
        }
        let mut ending = self.ending.subscribe();
        let done = ending.wait_for(|count| *count == 0);
        tokio::time::timeout(STOP_PATIENCE * 3, done).await.ok();
    }
}

fn not_started(target: &Target, code: &'static str, error: &str) -> Refusal {
    let message = format!("function '{}' cannot be started: {error}", target.name);
    Refusal::new(StatusCode::PRECONDITION_FAILED, code, message)
}

/// The memory that instances may have together, in MiB.
#[derive(Debug)]
struct Memory {
    all: u64,
    taken: Mutex<u64>,
    /// Functions without an instance that wait for memory.
    hungry: Mutex<Vec<FunctionName>>,
    freed: Notify,
}

/// That a function without an instance waits for memory, as long as it lives.
#[derive(Debug)]
struct Hunger {
    memory: Arc<Memory>,
    function: FunctionName,
}

impl Drop for Hunger {
    fn drop(&mut self) {
        let mut hungry = self.memory.hungry();
        if let Some(at) = hungry.iter().position(|it| *it == self.function) {
            hungry.swap_remove(at);
        }
        drop(hungry);
        self.memory.freed.notify_waiters();
    }
}

/// Memory that is set aside; given back when it is dropped.
#[derive(Debug)]
pub(crate) struct SetAside {
    memory: Arc<Memory>,
    size: u64,
}

impl Memory {
    fn new(all: u64) -> Self {
        Self {
            all,
            taken: Mutex::new(0),
            hungry: Mutex::default(),
            freed: Notify::new(),
        }
    }

    fn hungry(&self) -> MutexGuard<'_, Vec<FunctionName>> {
        self.hungry.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn hunger(self: &Arc<Self>, function: &FunctionName) -> Hunger {
        self.hungry().push(function.clone());
        Hunger {
            memory: Arc::clone(self),
            function: function.clone(),
        }
    }

    fn take(self: &Arc<Self>, size: u64) -> Option<SetAside> {
        let mut taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        if *taken + size > self.all {
            return None;
        }
        *taken += size;
        Some(SetAside {
            memory: Arc::clone(self),
            size,
        })
    }
}

impl Drop for SetAside {
    fn drop(&mut self) {
        let memory = &self.memory;
        *memory.taken.lock().unwrap_or_else(PoisonError::into_inner) -= self.size;
        memory.freed.notify_waiters();
    }
}

#[cfg(test)]
mod tests;
