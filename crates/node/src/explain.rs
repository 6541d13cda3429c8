//! Why was this start slow? What a container's start has cost, for which files, from where, and
//! what would help.
//!
//! Three things are kept of a start: what its daemon and its monitor did (`start.json` and
//! `state.json` in the container's directory), and each read that waited ([`Waits`](crate::waits)).
//! A wait is of a layer, not of a container: where several containers have the same layers at a time,
//! each is told all of them, and of the others.

mod files;
mod set;
mod words;

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use thaw_image::{DiffId, Digest, WorkingSet};

use crate::Node;
use crate::container::{Phase, State};
use crate::error::NodeError;
use crate::image::Image;
use crate::node::lock;
use crate::open::ImageMount;
use crate::records::ImageRecord;
use crate::reports::{Explanation, LinkFacts, Period, WaitFacts, Way};
use crate::root::Body;
use crate::timing::Span;
use crate::waits::Wait;

/// Files that are named: those that cost most.
const FILES: usize = 20;
/// Where one period of a container's life ends and the next begins, in seconds.
const PERIODS: [u64; 4] = [1, 10, 60, u64::MAX];

/// How a container was started: `start.json` in its directory.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Start {
    pub(crate) way: Way,
    pub(crate) manifest: Digest,
    pub(crate) profile: Option<String>,
    /// The working set that came ahead of it.
    #[serde(default)]
    pub(crate) set: Option<Digest>,
    pub(crate) round_trips: u64,
    /// How long the daemon worked on it before the container was made.
    pub(crate) lead: Duration,
    /// What the daemon did, without the bundle's own steps.
    pub(crate) spans: Vec<Span>,
}

/// Its name.
pub(crate) const START: &str = "start.json";

impl Node {
    /// Why a container's start took as long as it did.
    ///
    /// # Errors
    /// [`NodeError::Container`] for one that is not known.
    pub fn explain(&self, name: &str) -> Result<Explanation, NodeError> {
        let container = self.containers.find(name)?;
        let state = container.state()?;
        let start = read_start(container.dir());
        let record = start
            .as_ref()
            .and_then(|start| self.records.image(&start.manifest));
        let image = record
            .as_ref()
            .map(|record| self.recorded_image(record))
            .transpose()?
            .flatten();
        let mount = start
            .as_ref()
            .and_then(|start| self.mount_of(&start.manifest));
        let layers: BTreeSet<DiffId> = image
            .iter()
            .flat_map(|image| image.layers.iter().map(|layer| layer.diff_id))
            .collect();
        let created = moment(state.created);
        // The image was looked for before the container was made.
        let lead = start.as_ref().map(|start| start.lead).unwrap_or_default();
        let from = created.checked_sub(lead).unwrap_or(created);
        let until = self.end_of(&state);
        let mut waits = self.waits.between(from, until);
        waits.retain(|wait| layers.contains(&wait.layer));
        // That which the start had, whatever is known today.
        let set = start.as_ref().and_then(|start| {
            let set = start.set.as_ref()?;
            self.kept_set(set, &start.manifest)
        });
        let layout = self.layout_of(mount.as_deref(), image.as_ref())?;
        let files = files::by_cost(&waits, layout.as_deref(), FILES);
        let report = self.report(state.id.as_str()).ok();
        let facts = WaitFacts {
            count: waits.len() as u64,
            failed: waits.iter().filter(|wait| wait.failed.is_some()).count() as u64,
            took: waits.iter().map(|wait| wait.took).sum(),
            known: self.waits.known_from() <= created,
            periods: periods(&waits, from),
            outside_set: set.as_ref().map(|set| outside(set, &waits)),
            shared_with: self.lives.others(state.id.as_str(), &layers, from, until),
            error: waits
                .iter()
                .rev()
                .find_map(|wait| wait.failed.as_deref().map(ToOwned::to_owned)),
        };
        let mut explanation = Explanation {
            container: self.container_facts(&state),
            spans: spans(start.as_ref(), &state),
            report,
            waits: facts,
            files,
            links: self.links_of(record.as_ref()),
            findings: Vec::new(),
            advice: Vec::new(),
        };
        let published = record.as_ref().is_some_and(|record| {
            let acceleration = record.acceleration.as_ref();
            acceleration.is_some_and(|used| used.repository.is_some())
        });
        let had_set = start.as_ref().and_then(|start| start.set);
        let set_now = record.as_ref().zip(start.as_ref());
        let set_now = set_now.and_then(|(record, start)| {
            let set = record.working_sets.get(start.profile.as_deref()?)?;
            Some(set.manifest)
        });
        let transport = self.running_transport().map(|running| running.kind());
        words::add(
            &mut explanation,
            &words::Known {
                published,
                had_set: had_set.is_some(),
                newer_set: set_now.is_some() && set_now != had_set,
                transport: transport.map(|kind| kind.name()),
            },
        );
        Ok(explanation)
    }

    fn mount_of(&self, manifest: &Digest) -> Option<std::sync::Arc<ImageMount>> {
        let slot = lock(&self.images).get(manifest).cloned()?;
        // Whoever holds the slot is mounting the image.
        slot.try_lock().ok()?.clone()
    }

    /// The layout, if it is here.
    fn layout_of(
        &self,
        mount: Option<&ImageMount>,
        image: Option<&Image>,
    ) -> Result<Option<Vec<u8>>, NodeError> {
        let path = match (mount, image) {
            (Some(mount), _) => match &mount.body {
                Body::Layout(parts) => Some(parts.layout.clone()),
                Body::Directories(_) => None,
            },
            (None, Some(image)) => self.local(image)?.map(|found| {
                let blobs = self.store.blobs();
                blobs.path(&found.acceleration.layout.digest)
            }),
            (None, None) => None,
        };
        // Without it, waits have no file names.
        Ok(path.and_then(|path| std::fs::read(path).ok()))
    }

    /// When a container ended, on this process's clock; `None`: it has not, as far as is known.
    fn end_of(&self, state: &State) -> Option<Instant> {
        match &state.phase {
            Phase::Exited { finished, .. } => Some(moment(*finished)),
            // Who should have said so may be gone.
            Phase::Created { .. } | Phase::Running { .. } => self.lives.end_of(state.id.as_str()),
        }
    }

    /// How the registries are reached that the image's bytes come from.
    fn links_of(&self, record: Option<&ImageRecord>) -> Vec<LinkFacts> {
        let measured = self.registry.links();
        let acceleration = record.and_then(|record| record.acceleration.as_ref());
        let names = [
            record.map(|record| record.reference.as_str()),
            acceleration.and_then(|used| used.repository.as_deref()),
        ];
        let mut links: Vec<LinkFacts> = Vec::new();
        for name in names.into_iter().flatten() {
            let Ok(thaw_image::ImageReference::Registry(reference)) = name.parse() else {
                continue;
            };
            for host in self.registry.hosts(&reference.registry) {
                let Some(link) = measured.get(&host) else {
                    continue;
                };
                let is_mirror = host != reference.registry;
                let facts = LinkFacts {
                    registry: host,
                    mirror_of: is_mirror.then(|| reference.registry.clone()),
                    round_trip: link.round_trip,
                    rate: link.rate,
                };
                if !links.contains(&facts) {
                    links.push(facts);
                }
            }
        }
        links
    }
}

pub(crate) fn read_start(dir: &std::path::Path) -> Option<Start> {
    let bytes = std::fs::read(dir.join(START)).ok()?;
    serde_json::from_slice(&bytes).ok()
}

/// A time on this process's clock.
fn moment(at: jiff::Timestamp) -> Instant {
    let age = jiff::Timestamp::now().duration_since(at);
    let age = Duration::try_from(age).unwrap_or_default();
    let now = Instant::now();
    now.checked_sub(age).unwrap_or(now)
}

/// What daemon and monitor did, on one clock that began with the daemon's work.
fn spans(start: Option<&Start>, state: &State) -> Vec<Span> {
    let mut spans: Vec<Span> = start.map(|start| start.spans.clone()).unwrap_or_default();
    let ends = spans.iter().map(|span| span.begin + span.took);
    let mut at = ends.max().unwrap_or_default();
    for step in &state.spans.0 {
        spans.push(Span {
            name: step.name.clone(),
            begin: at,
            took: step.duration,
        });
        at += step.duration;
    }
    spans
}

fn periods(waits: &[Wait], from: Instant) -> Vec<Period> {
    let mut periods = Vec::new();
    let mut begin = 0;
    for end in PERIODS {
        let within = waits.iter().filter(|wait| {
            let at = wait.begun.saturating_duration_since(from).as_secs();
            begin <= at && at < end
        });
        let (count, took) = within.fold((0, Duration::ZERO), |(count, took), wait| {
            (count + 1, took + wait.took)
        });
        if count > 0 {
            periods.push(Period {
                begin,
                end: (end != u64::MAX).then_some(end),
                count,
                took,
            });
        }
        begin = end;
    }
    periods
}

/// Waits for blocks that the working set has none of.
fn outside(set: &WorkingSet, waits: &[Wait]) -> u64 {
    let mut runs: BTreeMap<DiffId, Vec<thaw_image::Extent>> = BTreeMap::new();
    for run in set.frames.iter().flat_map(|frame| &frame.runs) {
        if let Some((layer, _)) = set.layers.get(usize::from(run.layer)) {
            runs.entry(*layer).or_default().push(set.extent(run));
        }
    }
    for runs in runs.values_mut() {
        runs.sort_by_key(|run| run.offset);
    }
    let is_outside = |wait: &&Wait| {
        let runs = runs.get(&wait.layer).map_or(&[][..], Vec::as_slice);
        // Runs do not overlap: only those that begin before the wait's end can have some of it.
        let end = runs.partition_point(|run| run.offset < wait.extent.end());
        let last = runs[..end].last();
        last.is_none_or(|run| run.end() <= wait.extent.offset)
    };
    waits.iter().filter(is_outside).count() as u64
}
