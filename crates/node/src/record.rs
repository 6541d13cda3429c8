//! Working sets: recorded from one observed start, or gathered from all that ran here.
//!
//! The observed start has a mount of its own: its pages are in no cache, and every layer raises
//! events, also one that is whole; so what the keeper traces is all that the start reads. Every
//! other start adds its misses: its trace is kept under `traces/` when its container ends, and an
//! absence removes nothing.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use thaw_accelerate::{Origin, PackOptions, WorkingSetArtifact};
use thaw_cache::LayerTar;
use thaw_image::{DiffId, Digest, Extent, Progress};

use crate::Node;
use crate::accelerate::{Target, publish};
use crate::container;
use crate::containers::Beginning;
use crate::error::NodeError;
use crate::launch::Launched;
use crate::open::ImageMount;
use crate::ready::Ready;
use crate::records::ArtifactRecord;
use crate::reports::{How, RecordOptions, Recorded, Way};
use crate::resolve::Resolved;
use crate::root::{Body, Root};
use crate::settings::{Destination, ImageWish, Storage};
use crate::timing::Timing;

/// The profile that a wish is for.
pub(crate) fn profile(wish: &ImageWish) -> &str {
    wish.profile.as_deref().unwrap_or("default")
}

/// zstd level of a guessed working set.
const GUESSED_LEVEL: i32 = 1;

/// What was read, in order of first read.
type Reads = Vec<(DiffId, Extent)>;

/// Returns when a start is over; the error is why it will not be.
type Until<'a> = &'a dyn Fn(&mut Launched) -> Result<(), String>;

/// What starts of one image and profile have read, in order of first read.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
struct Gathered {
    /// Whose it is: the file's name is a digest of both.
    #[serde(default)]
    of: Option<(Digest, String)>,
    starts: u64,
    extents: Vec<(DiffId, Extent)>,
}

/// A file of [`Gathered`].
#[derive(Debug)]
pub(crate) struct TraceFile {
    pub(crate) path: PathBuf,
    pub(crate) bytes: u64,
    /// The image's manifest and the profile, where the file can be read.
    pub(crate) of: Option<(Digest, String)>,
    /// Bytes that were read, each once.
    pub(crate) read: u64,
}

impl Gathered {
    /// Bytes that were read, each once.
    fn read(&self) -> u64 {
        self.extents.iter().map(|(_, extent)| extent.len).sum()
    }
}

/// A guess is made with every acceleration and replaced by the first recording: it is not worth
/// the time of the highest compression.
fn packing(origin: Origin) -> PackOptions {
    let recorded = PackOptions::default();
    match origin {
        Origin::Recorded => recorded,
        Origin::Static => PackOptions {
            level: GUESSED_LEVEL,
            ..recorded
        },
    }
}

impl Node {
    /// Starts the image under observation until it is ready, and publishes what it read as the
    /// working set of `wish`'s profile.
    ///
    /// # Errors
    /// [`NodeError::Recording`] when it does not get ready; nothing is published then.
    pub fn record(
        &self,
        wish: &ImageWish,
        destination: &Destination,
        ready: &Ready,
        options: &RecordOptions,
        container: container::Options,
        progress: &dyn Progress,
    ) -> Result<Recorded, NodeError> {
        let until = |launched: &mut Launched| {
            let deadline = Instant::now() + options.patience;
            crate::ready::wait(&launched.container, ready, deadline)
        };
        self.record_until(wish, destination, container, None, &until, progress)
    }

    /// [`Node::record`] of a start that is over when `until` returns; its error is why it will not
    /// be.
    ///
    /// # Errors
    /// [`NodeError::Recording`] with what `until` says; nothing is published then.
    pub fn record_until(
        &self,
        wish: &ImageWish,
        destination: &Destination,
        container: container::Options,
        storage: Option<Storage>,
        until: Until<'_>,
        progress: &dyn Progress,
    ) -> Result<Recorded, NodeError> {
        let timing = Timing::default();
        let resolved = self.resolve(wish, &timing)?;
        if let Some(why) = self.directories(wish.transport) {
            return Err(NodeError::Recording(why));
        }
        let found = match self.local(&resolved.image)? {
            Some(found) => found,
            None => {
                // The registry has it, and nobody here has started it yet: to be opened once makes it
                // known.
                drop(self.mounted(wish, progress, &timing)?);
                let found = self.local(&resolved.image)?;
                found.ok_or(NodeError::Unknown(resolved.image.digest))?
            }
        };
        let names = self.claim(&resolved, &found, progress, &timing)?;
        let parts = self.parts(&resolved, &found, names)?;
        let dir = self
            .settings
            .root
            .join("mounts")
            .join(format!("record-{}", resolved.image.digest.hex()));
        let _whole_layers_too = self.marks.record();
        let mount = self.mount_parts(&parts, &dir, wish.transport, true)?;
        let way = Way {
            how: How::Lazy,
            why: "recorded".to_owned(),
        };
        let image = Arc::new(ImageMount::new(
            &resolved,
            None,
            way,
            Body::Layout(parts),
            Root::Layout(mount),
            dir,
        ));
        let transport = self.transport(wish.transport)?;
        transport.start_trace(&image.diff_ids())?;
        progress.say("recording a start");
        let read = || -> Result<Reads, NodeError> {
            let entries = transport.trace(&image.diff_ids())?.entries.into_iter();
            Ok(entries.map(|entry| (entry.layer, entry.extent)).collect())
        };
        let outcome = self.observe(
            &image,
            wish,
            (container, storage),
            (until, &read),
            &timing,
            progress,
        );
        image.unmount()?;
        let (ready_after, trace) = outcome?;
        progress.say("packing the working set");
        let target = self.target(&resolved, destination)?;
        let mut recorded = self.publish_set(
            &resolved,
            image.body.layers(),
            &trace,
            (profile(wish), Origin::Recorded),
            &target,
        )?;
        recorded.ready_after = Some(ready_after);
        let ids = image.diff_ids();
        drop(image);
        self.let_go(&ids);
        Ok(recorded)
    }

    /// Runs the container until it is ready; answers how long that took, and what was read by then:
    /// what it reads while it ends is no part of a start.
    fn observe(
        &self,
        image: &Arc<ImageMount>,
        wish: &ImageWish,
        (options, storage): (container::Options, Option<Storage>),
        (until, read): (Until<'_>, &dyn Fn() -> Result<Reads, NodeError>),
        timing: &Timing,
        progress: &dyn Progress,
    ) -> Result<(Duration, Reads), NodeError> {
        let beginning = Beginning {
            before: self.spent(),
            timing,
            progress,
        };
        let prepared = self.prepare_over(image, wish, options, storage, beginning)?;
        let id = prepared.id.clone();
        let begin = Instant::now();
        let outcome = self.run(prepared).and_then(|mut launched| {
            let ready = until(&mut launched).map_err(NodeError::Recording);
            let outcome = ready.and_then(|()| Ok((begin.elapsed(), read()?)));
            if launched.container.stop(Duration::from_secs(5)).is_ok() {
                // It ends with the container.
                launched.monitor.wait().ok();
            }
            outcome
        });
        self.release(&id, true)?;
        outcome
    }

    /// Publishes what the starts on this machine have read, behind what the working set that they began with
    /// has: a start that did not read some of that removes nothing.
    ///
    /// # Errors
    /// [`NodeError::NoTraces`] where none was kept.
    pub fn publish_traces(
        &self,
        wish: &ImageWish,
        destination: &Destination,
        progress: &dyn Progress,
    ) -> Result<Recorded, NodeError> {
        let timing = Timing::default();
        let image = self.mounted(wish, progress, &timing)?;
        let resolved = self.resolve(wish, &timing)?;
        self.harvest(&image)?;
        let gathered = self.gathered(&image.image.digest, profile(wish));
        if gathered.extents.is_empty() {
            return Err(NodeError::NoTraces(image.image.reference.to_string()));
        }
        let before = self.recorded_before(&resolved, profile(wish))?;
        let target = self.target(&resolved, destination)?;
        self.publish_set(
            &resolved,
            image.body.layers(),
            &thaw_accelerate::merge_traces(&before, &gathered.extents),
            (profile(wish), Origin::Recorded),
            &target,
        )
    }

    /// What the recorded working set that is known here has.
    fn recorded_before(&self, resolved: &Resolved, profile: &str) -> Result<Reads, NodeError> {
        let image = &resolved.image;
        let record = self.records.image(&image.digest);
        let known = record.and_then(|record| record.working_sets.get(profile).cloned());
        let policy = self.settings.policy(&image.reference);
        let known = known.filter(|known| policy.allows(known));
        let find = |known| self.known_set(known, &image.digest, &resolved.repository);
        let known = known.map(find).transpose()?.flatten();
        let Some(set) = known.filter(|set| set.parts.origin == Origin::Recorded) else {
            return Ok(Vec::new());
        };
        match crate::stream::load(self.store.blobs(), &set) {
            Ok((index, _)) => Ok(index.reads()),
            Err(reason) => {
                let set = set.manifest.digest();
                tracing::warn!(%set, reason, "what this working set has is not taken over");
                Ok(Vec::new())
            }
        }
    }

    /// The working set of a trace, published.
    pub(crate) fn publish_set(
        &self,
        resolved: &Resolved,
        layers: &[Arc<LayerTar>],
        trace: &[(DiffId, Extent)],
        (profile, origin): (&str, Origin),
        target: &Target<'_>,
    ) -> Result<Recorded, NodeError> {
        let sizes: Vec<(DiffId, u64)> = layers
            .iter()
            .map(|layer| (layer.diff_id(), layer.tar_size()))
            .collect();
        let read = |diff_id: &DiffId, extent: Extent| self.read_layer(layers, diff_id, extent);
        let packed = thaw_accelerate::pack(trace, &sizes, &read, &packing(origin))?;
        let artifact = WorkingSetArtifact::build(&resolved.subject, profile, origin, packed)?;
        let place = publish(target, artifact.manifest(), |target| {
            artifact.publish(target)
        })?;
        for (descriptor, bytes) in artifact.blobs() {
            self.store.blobs().put(&descriptor.digest, bytes)?;
        }
        let digest = *artifact.manifest().digest();
        self.store
            .blobs()
            .put(&digest, artifact.manifest().bytes())?;
        self.update_image(resolved, |record| {
            record.add_working_set(profile, ArtifactRecord::made(digest));
        })?;
        Ok(Recorded {
            profile: profile.to_owned(),
            working_set: digest,
            repository: place.repository,
            not_pushed: place.not_pushed,
            signed_by: place.signed_by,
            blocks: artifact.set().unpacked_size(),
            packed: artifact.set().data_size(),
            ready_after: None,
        })
    }

    /// Bytes of one of `layers`, fetched first if they are not here.
    pub(crate) fn read_layer(
        &self,
        layers: &[Arc<LayerTar>],
        diff_id: &DiffId,
        extent: Extent,
    ) -> std::io::Result<Vec<u8>> {
        let layer = layers.iter().find(|layer| layer.diff_id() == *diff_id);
        let layer = layer.ok_or_else(|| std::io::Error::other("not a layer of the image"))?;
        let mut bytes = vec![0; usize::try_from(extent.len).unwrap_or(0)];
        let deadline = Instant::now() + self.settings.fault_timeout;
        let mut read = || layer.read_present(&mut bytes, extent.offset);
        // What came may be given back before it is read.
        while !read().map_err(std::io::Error::other)? {
            let filled = self.fetcher.demand_only(&layer.diff_id(), extent, deadline);
            filled.map_err(std::io::Error::other)?;
        }
        Ok(bytes)
    }

    /// Keeps what was read of an image since it was mounted, for each profile by which it was started
    /// meanwhile: who has read what of a mount that several share, nobody knows.
    pub(crate) fn harvest(&self, image: &ImageMount) -> Result<(), NodeError> {
        let Some(transport) = self.running_transport().filter(|_| image.is_traced()) else {
            return Ok(());
        };
        let trace = transport.trace(&image.diff_ids())?;
        let entries = trace.entries.into_iter();
        let new: Vec<_> = entries.map(|entry| (entry.layer, entry.extent)).collect();
        for profile in image.profiles() {
            self.gather(&image.image.digest, &profile, &new)?;
        }
        Ok(())
    }

    /// Adds to what starts with a profile have read of an image.
    fn gather(
        &self,
        image: &Digest,
        profile: &str,
        new: &[(DiffId, Extent)],
    ) -> Result<(), NodeError> {
        let mut gathered = self.gathered(image, profile);
        let known = gathered.extents.len();
        gathered.extents = thaw_accelerate::merge_traces(&gathered.extents, new);
        gathered.starts += 1;
        gathered.of = Some((*image, profile.to_owned()));
        if gathered.extents.len() == known {
            return Ok(());
        }
        let path = self.trace_path(image, profile);
        let dir = self.settings.root.join("traces");
        std::fs::create_dir_all(&dir).map_err(NodeError::dir("make", &dir))?;
        crate::records::write(&path, &gathered).map_err(NodeError::records)
    }

    /// Bytes that the starts here have read of an image, each once.
    pub(crate) fn read_here(&self, manifest: &Digest, profile: &str) -> u64 {
        self.gathered(manifest, profile).read()
    }

    fn gathered(&self, manifest: &Digest, profile: &str) -> Gathered {
        let bytes = std::fs::read(self.trace_path(manifest, profile)).unwrap_or_default();
        serde_json::from_slice(&bytes).unwrap_or_default()
    }

    /// All that starts have read here, by image and profile.
    pub(crate) fn traces(&self) -> std::io::Result<Vec<TraceFile>> {
        let list = match std::fs::read_dir(self.settings.root.join("traces")) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
            list => list?,
        };
        let mut traces = Vec::new();
        for entry in list {
            let entry = entry?;
            let text = match std::fs::read(entry.path()) {
                // It was just removed, or renamed into place.
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => continue,
                text => text?,
            };
            let gathered: Gathered = serde_json::from_slice(&text).unwrap_or_default();
            traces.push(TraceFile {
                path: entry.path(),
                bytes: text.len() as u64,
                read: gathered.read(),
                of: gathered.of,
            });
        }
        traces.sort_by(|a, b| (&a.of, &a.path).cmp(&(&b.of, &b.path)));
        Ok(traces)
    }

    fn trace_path(&self, manifest: &Digest, profile: &str) -> PathBuf {
        // The profile is a user's text: its digest is a safe file name.
        let name = Digest::of(format!("{manifest} {profile}").as_bytes());
        self.settings.root.join("traces").join(name.hex())
    }
}
