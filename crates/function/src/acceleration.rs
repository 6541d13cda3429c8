//! Images accelerated behind functions that keep serving.
//!
//! ```text
//! function ─ image ─▶ Queued ─▶ indexed ─▶ recorded for each function ─▶ Ready
//!                        ▲ ╰──────── Failed (why; tried again after a pause, or by hand)
//!                        ╰ found so when the host is started
//! ```
//!
//! One job indexes one image, however many functions have it; then a start of each function is
//! recorded. One job runs at a time: it uses all processors, and functions that serve go before it.
//! What is to become ready goes before what is to become better; of either, functions that are being
//! invoked come first, then whoever has waited longest.
//!
//! A recording is a start of the function with nothing of the image in a cache. It takes part in
//! serving: where a request comes within [`GUEST_PATIENCE`] it is recorded up to that request's
//! answer, else up to the moment at which the function listens.
//!
//! A function that is no server starts for an event alone: no start of it is made up. Its first
//! accelerated ones say what it reads.
//!
//! What later starts had to wait for is kept by the node as it is read. When [`OFTEN`] starts have missed
//! more than [`MUCH`] up to their first answers, the working set is published anew, with all of that.
//! Where no request came to the recording, the first such start is enough: it is the first to show what
//! an answer takes.

use std::cmp::Reverse;
use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use thaw_image::{Digest, Progress};
use tokio::sync::Notify;

use crate::catalog::{Catalog, Entity, Table};
use crate::error::Refusal;
use crate::fleet::Fleet;
use crate::machine::{Lazily, Missed};
use crate::model::{Acceleration as Wanted, Function, FunctionName, LATEST, Target};
use crate::stats::ColdStart;

/// For how long a recorded instance waits for a request.
const GUEST_PATIENCE: Duration = Duration::from_secs(5);
/// Bytes that a start may wait for beside its working set; or a twentieth of that, if it is more.
const MUCH: u64 = 256 << 10;
/// Starts that miss more until a better working set is published.
const OFTEN: u32 = 3;
/// Pause after the first failure, in seconds; it doubles with each further one.
const FIRST_PAUSE: i64 = 30;
/// Longest pause, in seconds.
const MAX_PAUSE: i64 = 6 * 3600;

/// Whose working set a function's starts use.
pub(crate) fn profile(name: &FunctionName) -> String {
    match name.service.as_str() {
        "" => format!("fn.{}", name.function),
        service => format!("fn.{service}.{}", name.function),
    }
}

/// How far something is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
enum Stage {
    #[default]
    Queued,
    Done,
    Failed {
        why: String,
        /// Failures one after the other.
        times: u32,
        /// When it is tried again.
        again: Timestamp,
    },
}

/// The pause after so many failures, one after the other.
fn pause_after(times: u32) -> SignedDuration {
    let doubled = FIRST_PAUSE << times.saturating_sub(1).min(20);
    SignedDuration::from_secs(doubled.min(MAX_PAUSE))
}

impl Stage {
    /// After a failure more.
    fn failed(&self, why: String) -> Self {
        let times = match self {
            Self::Failed { times, .. } => times + 1,
            Self::Queued | Self::Done => 1,
        };
        let again = Timestamp::now() + pause_after(times);
        Self::Failed { why, times, again }
    }

    fn is_due(&self, now: Timestamp) -> bool {
        match self {
            Self::Queued => true,
            Self::Done => false,
            Self::Failed { again, .. } => *again <= now,
        }
    }
}

/// An image that functions want accelerated.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Index {
    manifest: Digest,
    /// As a user named it.
    image: String,
    stage: Stage,
    since: Timestamp,
    #[serde(default)]
    compressed: u64,
    #[serde(default)]
    not_pushed: Option<String>,
}

impl Entity for Index {
    const TABLE: Table = Table::new("accelerations");
    fn key(&self) -> String {
        self.manifest.to_string()
    }
}

/// A function's working set of an image.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Recording {
    function: FunctionName,
    manifest: Digest,
    stage: Stage,
    since: Timestamp,
    #[serde(default)]
    blocks: u64,
    #[serde(default)]
    packed: u64,
    /// Starts since it was published that had to wait for much that is not in it.
    #[serde(default)]
    missed: u32,
    /// Whether it reaches up to an answer.
    #[serde(default)]
    answered: bool,
}

impl Recording {
    /// Whether enough starts have missed much for it to be published anew.
    fn is_poor(&self) -> bool {
        self.missed >= if self.answered { OFTEN } else { 1 }
    }

    fn key_of(function: &FunctionName) -> String {
        crate::catalog::function_key(function)
    }
}

impl Entity for Recording {
    const TABLE: Table = Table::new("recordings");
    fn key(&self) -> String {
        Self::key_of(&self.function)
    }
}

/// What is to be done next.
#[derive(Debug)]
enum Job {
    Index(Index),
    Record(Recording, Box<Function>),
    Improve(Recording, Box<Function>),
}

/// What is being done.
#[derive(Debug, Default)]
struct Doing {
    what: Mutex<String>,
    done: AtomicU64,
    total: AtomicU64,
}

impl Doing {
    fn begin(&self, what: &str) {
        what.clone_into(&mut self.what.lock().unwrap_or_else(PoisonError::into_inner));
        self.done.store(0, Ordering::Relaxed);
        self.total.store(0, Ordering::Relaxed);
    }
}

impl Progress for Doing {
    fn begin(&self, _part: &str, total: Option<u64>) {
        self.total.fetch_add(total.unwrap_or(0), Ordering::Relaxed);
    }
    fn advance(&self, _part: &str, bytes: u64) {
        self.done.fetch_add(bytes, Ordering::Relaxed);
    }
    fn finish(&self, _part: &str) {}
    fn say(&self, what: &str) {
        what.clone_into(&mut self.what.lock().unwrap_or_else(PoisonError::into_inner));
    }
}

/// All accelerations of a host.
#[derive(Debug)]
pub(crate) struct Acceleration {
    catalog: Arc<Catalog>,
    /// There may be something to do.
    wake: Notify,
    /// The image that is worked on, and how far that is.
    running: Mutex<Option<(Digest, Arc<Doing>)>>,
    /// What is known of stages, so that starts need not ask the catalog.
    ready: Mutex<HashMap<FunctionName, Digest>>,
    /// When functions were invoked last.
    invoked: Mutex<HashMap<FunctionName, Timestamp>>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Acceleration {
    pub(crate) fn new(catalog: Arc<Catalog>) -> Self {
        Self {
            catalog,
            wake: Notify::new(),
            running: Mutex::default(),
            ready: Mutex::default(),
            invoked: Mutex::default(),
        }
    }

    /// A function was made or changed: has its image accelerated, if it wants that.
    ///
    /// # Errors
    /// Those of the catalog.
    pub(crate) fn want(&self, function: &Function) -> Result<(), Refusal> {
        let container = &function.config.container;
        let (Wanted::Default, Some(manifest)) = (container.acceleration, container.digest) else {
            lock(&self.ready).remove(&function.name);
            return Ok(());
        };
        self.catalog.change(|open| {
            let now = Timestamp::now();
            let index: Option<Index> = open.get(&manifest.to_string())?;
            if index.is_none() {
                open.put(&Index {
                    manifest,
                    image: container.image.clone(),
                    stage: Stage::Queued,
                    since: now,
                    compressed: 0,
                    not_pushed: None,
                })?;
            }
            let recording: Option<Recording> = open.get(&Recording::key_of(&function.name))?;
            if recording.is_none_or(|recording| recording.manifest != manifest) {
                open.put(&Recording {
                    function: function.name.clone(),
                    manifest,
                    stage: Stage::Queued,
                    since: now,
                    blocks: 0,
                    packed: 0,
                    missed: 0,
                    answered: false,
                })?;
            }
            Ok(())
        })?;
        self.note_ready(function)?;
        self.wake.notify_one();
        Ok(())
    }

    /// A function is gone.
    pub(crate) fn forget(&self, function: &FunctionName) {
        lock(&self.ready).remove(function);
        let key = Recording::key_of(function);
        let removed = self
            .catalog
            .change(|open| Ok(open.remove::<Recording>(&key)?));
        if let Err(error) = removed {
            tracing::warn!(%error, %function, "its recording is not forgotten");
        }
    }

    /// Somebody has invoked it: its image comes before others.
    pub(crate) fn invoked(&self, function: &FunctionName) {
        let now = Timestamp::now();
        let mut invoked = lock(&self.invoked);
        match invoked.get_mut(function) {
            Some(last) => *last = now,
            None => {
                invoked.insert(function.clone(), now);
            }
        }
    }

    /// Whether what was made for a target is ready. Asked for each request, so of memory alone.
    pub(crate) fn is_ready(&self, target: &Target) -> bool {
        let container = &target.config.container;
        // Of the latest version, what the pool's target said when it was made says nothing of now.
        let wanted = target.version == LATEST || container.acceleration == Wanted::Default;
        let ready = lock(&self.ready).get(&target.name).copied();
        wanted && ready.is_some() && ready == container.digest
    }

    /// How a start of a target may use an acceleration.
    pub(crate) fn lazily(&self, target: &Target) -> Lazily {
        if self.is_ready(target) {
            return Lazily::Ready;
        }
        let Some(digest) = target
            .config
            .container
            .digest
            .filter(|_| self.wants(target))
        else {
            return Lazily::Never;
        };
        // A version of before, or what serves until the image of the latest is ready: its working set
        // is in the registry, and is not recorded again.
        let recording = self.catalog.get(&Recording::key_of(&target.name));
        let recording: Option<Recording> = recording.ok().flatten();
        let is_of_before = recording.is_none_or(|recording| recording.manifest != digest);
        match is_of_before && self.is_indexed(Some(digest)) {
            true => Lazily::Ready,
            false => Lazily::IfThere,
        }
    }

    /// Whether a target wants its image accelerated, as of now: the switch leaves the pool of the latest
    /// version as it is, and with it the pool's target.
    fn wants(&self, target: &Target) -> bool {
        let now = (target.version == LATEST).then(|| {
            let key = crate::catalog::function_key(&target.name);
            self.catalog.get::<Function>(&key).ok().flatten()
        });
        let now = now.flatten().map(|function| function.config.container);
        let container = now.as_ref().unwrap_or(&target.config.container);
        container.acceleration == Wanted::Default
    }

    /// Whether an image has its index already.
    pub(crate) fn is_indexed(&self, manifest: Option<Digest>) -> bool {
        let index = manifest.map(|manifest| self.catalog.get::<Index>(&manifest.to_string()));
        matches!(index, Some(Ok(Some(index))) if index.stage == Stage::Done)
    }

    /// `accelerationInfo.status` of a function: `Preparing`, `Ready` or `Failed`.
    pub(crate) fn status(&self, function: &Function) -> Option<&'static str> {
        let (index, recording) = self.stages(function)?;
        Some(match (&index.stage, recording.map(|it| it.stage)) {
            (Stage::Done, Some(Stage::Done | Stage::Failed { .. })) => "Ready",
            (Stage::Failed { .. }, _) => "Failed",
            _ => "Preparing",
        })
    }

    fn stages(&self, function: &Function) -> Option<(Index, Option<Recording>)> {
        let container = &function.config.container;
        let (Wanted::Default, Some(manifest)) = (container.acceleration, container.digest) else {
            return None;
        };
        let index: Index = self.catalog.get(&manifest.to_string()).ok()??;
        let recording = self.catalog.get(&Recording::key_of(&function.name));
        let recording: Option<Recording> = recording.ok()?;
        Some((index, recording.filter(|it| it.manifest == manifest)))
    }

    /// All that is known of a function's acceleration.
    pub(crate) fn facts(&self, function: &Function) -> Value {
        let Some((index, recording)) = self.stages(function) else {
            return json!({ "status": "None" });
        };
        let mut facts = json!({
            "status": self.status(function),
            "manifest": index.manifest.to_string(),
            "since": index.since.to_string(),
            "compressed": index.compressed,
            "notPushed": index.not_pushed,
        });
        if let Some((manifest, doing)) = &*lock(&self.running)
            && *manifest == index.manifest
        {
            facts["doing"] = json!(*lock(&doing.what));
            facts["doneBytes"] = json!(doing.done.load(Ordering::Relaxed));
            facts["totalBytes"] = json!(doing.total.load(Ordering::Relaxed));
        }
        let mut failure = |name: &str, stage: &Stage| {
            if let Stage::Failed { why, times, again } = stage {
                let again = again.to_string();
                facts[name] = json!({ "reason": why, "times": times, "again": again });
            }
        };
        failure("failed", &index.stage);
        if let Some(recording) = recording {
            failure("notRecorded", &recording.stage);
            if recording.stage == Stage::Done {
                let (blocks, packed) = (recording.blocks, recording.packed);
                facts["workingSet"] = json!({
                    "blocks": blocks,
                    "packed": packed,
                    "missed": recording.missed,
                    "answered": recording.answered,
                });
            }
        }
        facts
    }

    /// Has what failed be tried again at once.
    ///
    /// # Errors
    /// Those of the catalog.
    pub(crate) fn retry(&self, function: &Function) -> Result<(), Refusal> {
        if let Some((mut index, recording)) = self.stages(function) {
            if matches!(index.stage, Stage::Failed { .. }) {
                index.stage = Stage::Queued;
                self.catalog.put(&index)?;
            }
            if let Some(mut recording) = recording {
                recording.stage = Stage::Queued;
                self.catalog.put(&recording)?;
            }
        }
        self.wake.notify_one();
        Ok(())
    }

    /// What a start of a function had to wait for up to its first answer. Where that is much again and
    /// again, a better working set is published.
    ///
    /// # Errors
    /// Those of the catalog.
    pub(crate) fn note_missed(&self, name: &FunctionName, missed: Missed) -> Result<(), Refusal> {
        self.catalog.change(|open| {
            let recording: Option<Recording> = open.get(&Recording::key_of(name))?;
            let Some(mut recording) = recording.filter(|it| it.stage == Stage::Done) else {
                return Ok(());
            };
            if missed.bytes > MUCH.max(recording.packed / 20) {
                recording.missed += 1;
                open.put(&recording)?;
            }
            Ok(())
        })?;
        self.wake.notify_one();
        Ok(())
    }

    fn note_ready(&self, function: &Function) -> Result<(), Refusal> {
        let is_ready = self.status(function) == Some("Ready");
        match function.config.container.digest.filter(|_| is_ready) {
            Some(digest) => lock(&self.ready).insert(function.name.clone(), digest),
            None => lock(&self.ready).remove(&function.name),
        };
        Ok(())
    }

    /// Does what there is to do, as long as the host lives.
    pub(crate) async fn work(self: Arc<Self>, fleet: Arc<Fleet>) {
        while !fleet.is_closing() {
            let next = tokio::task::block_in_place(|| self.next());
            let outcome = match next {
                Ok(Some(Job::Index(index))) => self.index(&fleet, index).await,
                Ok(Some(Job::Record(recording, function))) => {
                    self.record(&fleet, recording, &function).await
                }
                Ok(Some(Job::Improve(recording, function))) => {
                    self.improve(&fleet, recording, &function).await
                }
                Ok(None) => {
                    let pause = tokio::time::sleep(Duration::from_secs(5));
                    tokio::select! { () = self.wake.notified() => {}, () = pause => {} }
                    Ok(())
                }
                Err(error) => Err(error),
            };
            if let Err(error) = outcome {
                tracing::error!(%error, "accelerating");
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
        }
    }

    /// Returns when nothing is being done, or after `patience`.
    pub(crate) async fn rest(&self, patience: Duration) {
        let begin = Instant::now();
        while lock(&self.running).is_some() && begin.elapsed() < patience {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// What is due: first what is not ready yet; of functions that were invoked last, then of those that
    /// have waited longest.
    fn next(&self) -> Result<Option<Job>, Refusal> {
        let now = Timestamp::now();
        let functions: Vec<Function> = self.catalog.list("")?;
        let mut due = Vec::new();
        for function in functions {
            let Some((index, recording)) = self.stages(&function) else {
                continue;
            };
            let invoked = lock(&self.invoked).get(&function.name).copied();
            let job = match recording {
                _ if index.stage.is_due(now) => Job::Index(index),
                Some(recording) if index.stage == Stage::Done && recording.stage.is_due(now) => {
                    Job::Record(recording, Box::new(function))
                }
                Some(recording) if recording.stage == Stage::Done && recording.is_poor() => {
                    Job::Improve(recording, Box::new(function))
                }
                _ => continue,
            };
            let (better, since) = match &job {
                Job::Index(index) => (false, index.since),
                Job::Record(recording, _) => (false, recording.since),
                Job::Improve(recording, _) => (true, recording.since),
            };
            due.push(((better, Reverse(invoked), since), job));
        }
        let first = due.into_iter().min_by_key(|(rank, _)| *rank);
        Ok(first.map(|(_, job)| job))
    }

    fn begin(&self, manifest: Digest, what: &str) -> Arc<Doing> {
        let doing = Arc::new(Doing::default());
        doing.begin(what);
        *lock(&self.running) = Some((manifest, Arc::clone(&doing)));
        doing
    }

    async fn index(&self, fleet: &Arc<Fleet>, mut index: Index) -> Result<(), Refusal> {
        let doing = self.begin(index.manifest, "indexing");
        let (machine, image) = (Arc::clone(&fleet.machine), index.image.clone());
        tracing::info!(image, "accelerating");
        let manifest = index.manifest;
        let work = move || machine.accelerate(&image, manifest, doing.as_ref());
        let done = tokio::task::spawn_blocking(work).await;
        *lock(&self.running) = None;
        match done.map_err(|error| error.to_string()).flatten() {
            Ok(indexed) => {
                index.stage = Stage::Done;
                index.compressed = indexed.compressed;
                index.not_pushed = indexed.not_pushed;
            }
            Err(why) => {
                tracing::warn!(image = index.image, why, "not accelerated");
                index.stage = index.stage.failed(why);
            }
        }
        tokio::task::block_in_place(|| self.catalog.put(&index))
    }

    async fn record(
        &self,
        fleet: &Arc<Fleet>,
        mut recording: Recording,
        function: &Function,
    ) -> Result<(), Refusal> {
        let _doing = self.begin(recording.manifest, "recording a start");
        tracing::info!(function = %recording.function, "recording a start");
        let recorded = self.observe(fleet, function).await;
        *lock(&self.running) = None;
        match recorded {
            Ok((set, answered)) => {
                recording.stage = Stage::Done;
                recording.answered = answered;
                recording.missed = 0;
                recording.blocks = set.blocks;
                recording.packed = set.packed;
            }
            Err(why) => {
                // It can be used all the same: a guessed working set came with the index.
                tracing::warn!(function = %recording.function, why, "not recorded");
                recording.stage = recording.stage.failed(why);
            }
        }
        tokio::task::block_in_place(|| {
            self.catalog.change(|open| {
                let now: Option<Recording> = open.get(&recording.key())?;
                // It may have got another image meanwhile.
                if now.is_some_and(|now| now.manifest == recording.manifest) {
                    open.put(&recording)?;
                }
                Ok(())
            })?;
            self.note_ready(function)
        })
    }

    /// Publishes a function's working set with what its starts have missed.
    async fn improve(
        &self,
        fleet: &Arc<Fleet>,
        mut recording: Recording,
        function: &Function,
    ) -> Result<(), Refusal> {
        let order = fleet.order(&as_target(function), Lazily::Ready)?;
        let machine = Arc::clone(&fleet.machine);
        let improved = tokio::task::spawn_blocking(move || machine.improve(&order)).await;
        match improved.map_err(|error| error.to_string()).flatten() {
            Ok(set) => {
                tracing::info!(function = %recording.function, "its working set is better now");
                recording.answered = true;
                recording.blocks = set.blocks;
                recording.packed = set.packed;
            }
            Err(why) => {
                tracing::warn!(function = %recording.function, why, "no better working set");
            }
        }
        recording.missed = 0;
        tokio::task::block_in_place(|| self.catalog.put(&recording))
    }

    /// A recorded start, and whether it has answered a request.
    async fn observe(
        &self,
        fleet: &Arc<Fleet>,
        function: &Function,
    ) -> Result<(crate::machine::WorkingSet, bool), String> {
        if !function.config.container.is_server() {
            return Ok(Default::default());
        }
        let target = Arc::new(as_target(function));
        let words = |refusal: Refusal| refusal.message;
        let memory = fleet.set_aside(&target).await.map_err(words)?;
        let mut memory = Some(memory);
        let order = fleet.order(&target, Lazily::Ready).map_err(words)?;
        let (fleet, runtime) = (Arc::clone(fleet), tokio::runtime::Handle::current());
        let work = move || {
            let machine = Arc::clone(&fleet.machine);
            let mut answered = false;
            let begun = Instant::now();
            let set = machine.record(&order, &mut |started| {
                let made = begun.elapsed();
                runtime.block_on(async {
                    let taken = fleet.guest(started, &target, memory.take()).await;
                    let instance = taken.map_err(|(refusal, _)| refusal.message)?;
                    let (moved, ready) = (machine.moved(&instance.id), begun.elapsed());
                    let pool = fleet.pool(&target);
                    answered = pool.invite(&instance, GUEST_PATIENCE).await;
                    if answered {
                        // Somebody has waited for it, as for any other.
                        let start = ColdStart::new(&instance, false, moved, made, ready);
                        fleet.stats.cold_start(&target.name, start);
                    }
                    match instance.end() {
                        None => Ok(()),
                        Some(end) => Err(crate::instance::describe(&end, &target)),
                    }
                })
            })?;
            Ok((set, answered))
        };
        let done = tokio::task::spawn_blocking(work).await;
        done.map_err(|error| error.to_string()).flatten()
    }
}

/// A function's latest configuration, to be recorded.
fn as_target(function: &Function) -> Target {
    Target {
        name: function.name.clone(),
        id: function.id.clone(),
        config: function.config.clone(),
        version: LATEST.to_owned(),
        number: function.number,
        internet: function.config.internet.unwrap_or(true),
    }
}

#[cfg(test)]
mod tests;
