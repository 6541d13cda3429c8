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
//! serving: where a request comes within [`GUEST_PATIENCE`](work::GUEST_PATIENCE) it is recorded up to
//! that request's answer, else up to the moment at which the function listens.
//!
//! A function that is no server starts for an event alone: no start of it is made up. Its first
//! accelerated ones say what it reads.
//!
//! What later starts had to wait for is kept by the node as it is read. When
//! [`OFTEN`](stage::OFTEN) starts have missed more than [`MUCH`] up to their first answers, the working
//! set is published anew, with all of that. Where no request came to the recording, the first such start is enough: it is the first to show what
//! an answer takes.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use jiff::Timestamp;
use serde_json::{Value, json};
use thaw_image::{Digest, Progress};
use tokio::sync::Notify;

use crate::catalog::Catalog;
use crate::error::Refusal;
use crate::machine::{Lazily, Missed};
use crate::model::{Acceleration as Wanted, Function, FunctionName, LATEST, Target};

mod stage;
mod work;

use stage::{Index, Recording, Stage};

/// Bytes that a start may wait for beside its working set; or a twentieth of that, if it is more.
const MUCH: u64 = 256 << 10;

/// Whose working set a function's starts use.
pub(crate) fn profile(name: &FunctionName) -> String {
    match name.service.as_str() {
        "" => format!("fn.{}", name.function),
        service => format!("fn.{service}.{}", name.function),
    }
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
}

#[cfg(test)]
mod tests;
