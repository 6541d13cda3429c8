//! A node as the machine.

use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use thaw_image::{Digest, Progress, Silent};
use thaw_node::container::{Cgroup, Container, Status};
use thaw_node::{Destination, How, ImageWish, Launched, Node, Pull, Storage, Transport};

use super::{Indexed, Lazily, Machine, Missed, Order, Reach, Started, WorkingSet};

fn to_set(recorded: thaw_node::Recorded) -> WorkingSet {
    WorkingSet {
        blocks: recorded.blocks,
        packed: recorded.packed,
    }
}

/// A node.
#[derive(Debug)]
pub(crate) struct NodeMachine {
    node: Arc<Node>,
    /// Images that are being fetched: whoever wants one that another fetches waits for it, so that it
    /// comes over the wire once.
    fetching: Mutex<HashMap<Digest, Arc<Mutex<()>>>>,
}

impl NodeMachine {
    pub(crate) fn new(node: Arc<Node>) -> Self {
        Self {
            node,
            fetching: Mutex::default(),
        }
    }

    /// What the node is asked for. An acceleration from the image's repository is trusted where the
    /// user named a tag; so the tag is what is asked for, as long as it means what it meant when it
    /// was resolved, and the digest else.
    fn reference(&self, image: &str, manifest: Digest) -> String {
        let now = self.node.manifest(&wish(image, Pull::Auto, None));
        match now {
            Ok(now) if now == manifest => image.to_owned(),
            _ => pinned(image, manifest),
        }
    }

    /// Whether the registry has an acceleration of an image already that may be used; then, the bytes of
    /// the image's blobs.
    fn is_accelerated(&self, image: &str) -> Option<u64> {
        let facts = self.node.inspect(&wish(image, Pull::Lazy, None)).ok()?;
        let there = facts.acceleration.is_some_and(|it| !it.is_local());
        (there && facts.way.how == How::Lazy).then_some(facts.compressed)
    }

    fn fetching(&self, manifest: Digest) -> Arc<Mutex<()>> {
        let mut all = self.fetching.lock().unwrap_or_else(PoisonError::into_inner);
        all.retain(|_, lock| Arc::strong_count(lock) > 1);
        Arc::clone(all.entry(manifest).or_default())
    }
}

/// An error with its causes.
fn words(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}

fn wish(image: &str, pull: Pull, profile: Option<String>) -> ImageWish {
    ImageWish {
        reference: image.to_owned(),
        platform: None,
        pull,
        profile,
        transport: Transport::Auto,
        refresh: false,
    }
}

/// A reference with its manifest's digest.
pub(crate) fn pinned(image: &str, manifest: Digest) -> String {
    match image.contains('@') || image.starts_with("oci:") {
        true => image.to_owned(),
        false => format!("{image}@{manifest}"),
    }
}

fn how_it_ended(container: &Container) -> String {
    match container.state().map(|state| state.status()) {
        Ok(Status::Exited { code }) => format!("its process ended with exit code {code}"),
        _ => "its process ended".to_owned(),
    }
}

fn started(launched: &Launched) -> Started {
    let pid = launched.started.pid;
    let namespace = File::open(format!("/proc/{pid}/ns/net"));
    let prepared = &launched.prepared;
    let mut spans = prepared.spans.clone();
    let mut at = spans.iter().map(|span| span.begin + span.took).max();
    for span in &launched.started.spans.0 {
        let begin = at.unwrap_or_default();
        spans.push(thaw_node::Span {
            name: span.name.clone(),
            begin,
            took: span.duration,
        });
        at = Some(begin + span.duration);
    }
    Started {
        id: prepared.id.clone(),
        reach: namespace.ok().map(|namespace| Reach(namespace.into())),
        cgroup: Cgroup::of(&launched.container.id().cgroup()),
        monitor: None,
        dir: prepared.dir.clone(),
        way: prepared.way.clone(),
        spans,
    }
}

impl Machine for NodeMachine {
    fn resolve(&self, image: &str) -> Result<Digest, String> {
        let wish = ImageWish {
            refresh: true,
            ..wish(image, Pull::Auto, None)
        };
        self.node.manifest(&wish).map_err(|error| words(&error))
    }

    fn start(&self, order: &Order) -> Result<Started, String> {
        let (pull, profile) = match order.lazily {
            Lazily::Ready => (Pull::Auto, Some(order.profile.clone())),
            Lazily::IfThere => (Pull::Auto, None),
            Lazily::Never => (Pull::Full, None),
        };
        let wish = wish(&self.reference(&order.image, order.manifest), pull, profile);
        let fetching = self.fetching(order.manifest);
        let turn = fetching.lock().unwrap_or_else(PoisonError::into_inner);
        let (options, storage) = (order.options.clone(), Some(Storage::Disk(order.storage)));
        let prepared = self.node.prepare(&wish, options, storage, false, &Silent);
        drop(turn);
        let prepared = prepared.map_err(|error| words(&error))?;
        let id = prepared.id.clone();
        let mut launched = self.node.run(prepared).map_err(|error| {
            self.node.release(&id, true).ok();
            words(&error)
        })?;
        let mut started = started(&launched);
        if started.reach.is_none() && order.is_server {
            // It is gone: its monitor is about to write down how it ended.
            launched.container.stop(Duration::ZERO).ok();
            launched.monitor.wait().ok();
            let ended = how_it_ended(&launched.container);
            let log = crate::logs::last_lines(&launched.prepared.dir, 5);
            self.node.release(&launched.prepared.id, true).ok();
            return Err(format!("{ended}{log}"));
        }
        started.monitor = Some(launched.monitor);
        Ok(started)
    }

    fn stop(&self, id: &str, patience: Duration) -> Result<(), String> {
        let Some(container) = self.node.container(id) else {
            return Ok(());
        };
        container.stop(patience).map_err(|error| words(&error))
    }

    fn remove(&self, id: &str) -> Result<(), String> {
        self.node.release(id, true).map_err(|error| words(&error))
    }

    fn containers(&self, prefix: &str) -> Vec<(String, PathBuf)> {
        self.node.containers_named(prefix)
    }

    fn accelerate(
        &self,
        image: &str,
        manifest: Digest,
        progress: &dyn Progress,
    ) -> Result<Indexed, String> {
        if let Some(compressed) = self.is_accelerated(&self.reference(image, manifest)) {
            return Ok(Indexed {
                compressed,
                not_pushed: None,
            });
        }
        let wish = wish(&pinned(image, manifest), Pull::Full, None);
        let fetched = || {
            let fetching = self.fetching(manifest);
            let _turn = fetching.lock().unwrap_or_else(PoisonError::into_inner);
            self.node.pull(&wish, progress)
        };
        fetched().map_err(|error| words(&error))?;
        let destination = Destination::default();
        let accelerated = self.node.accelerate(&wish, &destination, true, progress);
        let accelerated = accelerated.map_err(|error| words(&error))?;
        Ok(Indexed {
            compressed: accelerated.compressed,
            not_pushed: accelerated.not_pushed,
        })
    }

    fn working_set(&self, manifest: &Digest, profile: &str) -> BTreeMap<String, u64> {
        let files = self.node.working_set_files(manifest, profile);
        files.unwrap_or_else(|error| {
            tracing::warn!(%manifest, error = words(&error), "its working set cannot be shown");
            BTreeMap::new()
        })
    }

    fn record(
        &self,
        order: &Order,
        until: &mut dyn FnMut(Started) -> Result<(), String>,
    ) -> Result<WorkingSet, String> {
        let reference = self.reference(&order.image, order.manifest);
        let wish = wish(&reference, Pull::Auto, Some(order.profile.clone()));
        let until = Mutex::new(until);
        let observe = |launched: &mut Launched| {
            let mut until = until.lock().unwrap_or_else(PoisonError::into_inner);
            until(started(launched))
        };
        let recorded = self.node.record_until(
            &wish,
            &Destination::default(),
            order.options.clone(),
            Some(Storage::Disk(order.storage)),
            &observe,
            &Silent,
        );
        let recorded = recorded.map_err(|error| words(&error))?;
        Ok(to_set(recorded))
    }

    fn moved(&self, id: &str) -> u64 {
        let report = self.node.report(id);
        report.map_or(0, |report| report.traffic.total())
    }

    fn missed(&self, id: &str) -> Missed {
        let report = self.node.report(id).ok();
        let missed = report.map(|report| Missed {
            waits: report.waits,
            bytes: report.traffic.demand,
        });
        missed.unwrap_or_default()
    }

    fn improve(&self, order: &Order) -> Result<WorkingSet, String> {
        let reference = self.reference(&order.image, order.manifest);
        let wish = wish(&reference, Pull::Auto, Some(order.profile.clone()));
        let published = self
            .node
            .publish_traces(&wish, &Destination::default(), &Silent);
        published.map(to_set).map_err(|error| words(&error))
    }
}
