//! One job after the other: an image indexed, a start recorded, a working set made better.

use std::cmp::Reverse;
use std::sync::Arc;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use thaw_image::Digest;

use super::stage::{Index, Recording, Stage};
use super::{Acceleration, Doing, lock};
use crate::catalog::Entity as _;
use crate::error::Refusal;
use crate::fleet::Fleet;
use crate::machine::Lazily;
use crate::model::{Function, LATEST, Target};
use crate::stats::ColdStart;

/// For how long a recorded instance waits for a request.
pub(super) const GUEST_PATIENCE: Duration = Duration::from_secs(5);

/// What is to be done next.
#[derive(Debug)]
pub(super) enum Job {
    Index(Index),
    Record(Recording, Box<Function>),
    Improve(Recording, Box<Function>),
}

impl Acceleration {
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
    pub(super) fn next(&self) -> Result<Option<Job>, Refusal> {
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
