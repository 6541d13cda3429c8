//! Giving space back: plan, then do. What is mounted stays; all else goes with the last image that
//! refers to it.

use std::collections::BTreeSet;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use thaw_cache::{RemoveError, tree_bytes};
use thaw_image::{DiffId, Digest};
use thaw_registry::Manifest;

use crate::Node;
use crate::containers::Held;
use crate::error::NodeError;
use crate::node::{lock, try_lock};
use crate::records::{ArtifactRecord, ImageRecord};
use crate::reports::{Collected, GcOptions, Removal};

/// Why what nothing refers to stays.
const AT_WORK: &str = "an image is being pulled, started or accelerated";
/// For how long work in the background may go on with a layer that is to be removed.
const BACKGROUND_PATIENCE: Duration = Duration::from_secs(5);

/// What a plan would take away.
#[derive(Debug, Default)]
struct Plan {
    images: Vec<ImageRecord>,
    layers: Vec<DiffId>,
    blobs: Vec<Digest>,
    /// What layers lack, by image.
    corrections: Vec<Digest>,
    traces: Vec<PathBuf>,
    containers: Vec<String>,
    /// Whether the bridge goes, too.
    network: bool,
    told: Collected,
}

impl Node {
    /// Removes what nothing refers to, and images that were named; with `all` every image that is not
    /// in use, and containers that have ended.
    ///
    /// # Errors
    /// [`NodeError`] when the store cannot be read, or something cannot be removed. Nothing is when an
    /// image that was named is not here, or is in use.
    pub fn gc(&self, options: &GcOptions) -> Result<Collected, NodeError> {
        if options.all && !options.dry_run {
            self.unmount_all()?;
        } else if !options.images.is_empty() && !options.dry_run {
            self.release_ended()?;
        }
        // The records that are read speak for nothing that is pulled or started from here on.
        let planning = self.works.planning();
        let mut plan = self.plan(options)?;
        plan.told.dry_run = options.dry_run;
        if !options.dry_run {
            self.carry_out(&mut plan)?;
        }
        drop(planning);
        if let Some(size) = options.cache_size.or(self.settings.cache_size) {
            // In a dry run those that go for another reason are still here.
            let planned = plan.layers.iter().map(|layer| layer.0).collect();
            let (mut trimmed, _) = self.trim(size, options.dry_run, &planned)?;
            plan.told.removals.append(&mut trimmed);
        }
        if options.all && !options.dry_run {
            self.end_transport();
            // In this order: what was not measured is not written again.
            self.registry.forget_links();
            self.records.forget_measured().map_err(NodeError::records)?;
        }
        Ok(plan.told)
    }

    fn plan(&self, options: &GcOptions) -> Result<Plan, NodeError> {
        let mut plan = Plan::default();
        let named = self.named(options)?;
        if options.all {
            self.plan_containers(&mut plan)?;
            self.plan_mounts(&mut plan);
            self.plan_volumes(&mut plan)?;
        }
        let (mut used_layers, mut used_blobs) = (BTreeSet::new(), BTreeSet::new());
        let mut used_images = BTreeSet::new();
        let at_work = self.works.on();
        for record in self.records.images().map_err(NodeError::records)? {
            let image = self.recorded_image(&record)?;
            // What is only mounted, and used by nobody, is unmounted before anything is removed.
            let is_wanted = at_work.contains(&record.manifest);
            let in_use = is_wanted
                || self.runs(&record.manifest)
                || (!options.dry_run && self.is_mounted(&record.manifest));
            let why = match &image {
                None => Some("its manifest is not in the store"),
                Some(_) if named.contains(&record.manifest) => Some("it was named"),
                Some(_) if options.all && !in_use => Some("not in use"),
                Some(_) => None,
            };
            if let Some(why) = why {
                plan.told.removals.push(removal(of_image(&record), why, 0));
                plan.images.push(record);
                continue;
            }
            used_images.insert(record.manifest);
            used_blobs.extend(self.blobs_of(&record)?);
            used_layers.extend(
                image
                    .iter()
                    .flat_map(|image| &image.layers)
                    .map(|l| l.diff_id),
            );
            if options.all {
                let name = of_image(&record);
                let why = match is_wanted {
                    true => AT_WORK,
                    false => "a container or a mount uses it",
                };
                plan.told.kept.push(removal(name, why, 0));
            }
        }
        // What is remembered of an image may be younger than its mount.
        for (manifest, by) in self.mounted_by() {
            if !options.dry_run || used_images.contains(&manifest) {
                used_blobs.extend(self.blobs_of_artifact(&by)?);
            }
        }
        used_layers.extend(at_work.iter().copied().map(DiffId));
        used_images.extend(at_work);
        for (diff_id, bytes) in self.disk_usage()? {
            if !used_layers.contains(&diff_id) {
                let name = of_layer(&diff_id);
                plan.told
                    .removals
                    .push(removal(name, "no image has it", bytes));
                plan.layers.push(diff_id);
            }
        }
        for (manifest, bytes) in self.store.corrections().list()? {
            if !used_images.contains(&manifest) {
                let name = of_corrections(&manifest);
                plan.told
                    .removals
                    .push(removal(name, "no image has it", bytes));
                plan.corrections.push(manifest);
            }
        }
        let wanted = self.works.any();
        for (digest, bytes) in self.store.blobs().list()? {
            if !used_blobs.contains(&digest) {
                let name = of_blob(&digest);
                if wanted {
                    plan.told.kept.push(removal(name, AT_WORK, bytes));
                    continue;
                }
                plan.told
                    .removals
                    .push(removal(name, "no image refers to it", bytes));
                plan.blobs.push(digest);
            }
        }
        self.plan_traces(&mut plan, &used_images)?;
        for path in self.containers.leftovers()? {
            // It may be somebody else's by now, or gone.
            let bytes = tree_bytes(&path).unwrap_or(0);
            let why = "whoever made or removed it was killed";
            let removals = &mut plan.told.removals;
            removals.push(removal(of_leftover(&path), why, bytes));
        }
        Ok(plan)
    }

    /// The images that were named.
    fn named(&self, options: &GcOptions) -> Result<BTreeSet<Digest>, NodeError> {
        let mut named = BTreeSet::new();
        for name in &options.images {
            let images = self.records.named(name).map_err(NodeError::records)?;
            if images.is_empty() {
                return Err(NodeError::NoImage(name.clone()));
            }
            for image in images {
                let manifest = image.manifest;
                let is_wanted = self.works.on().contains(&manifest);
                if is_wanted
                    || self.is_used(&manifest)
                    || (!options.dry_run && self.is_mounted(&manifest))
                {
                    return Err(NodeError::ImageInUse(name.clone()));
                }
                named.insert(manifest);
            }
        }
        Ok(named)
    }

    /// What starts have read goes with the image, whether or not it was ever published.
    fn plan_traces(&self, plan: &mut Plan, used: &BTreeSet<Digest>) -> Result<(), NodeError> {
        for trace in self.traces().map_err(NodeError::records)? {
            let name = match &trace.of {
                Some((manifest, _)) if used.contains(manifest) => continue,
                Some((manifest, profile)) => format!("trace \"{profile}\" of {manifest}"),
                None => format!("trace {}", trace.path.display()),
            };
            plan.told
                .removals
                .push(removal(name, "no image has it", trace.bytes));
            plan.traces.push(trace.path);
        }
        Ok(())
    }

    fn plan_containers(&self, plan: &mut Plan) -> Result<(), NodeError> {
        for state in self.containers.list()? {
            let name = format!("container {}", state.name);
            if self.containers.get(state.id.clone()).is_live() {
                plan.told.kept.push(removal(name, "it runs", 0));
            } else {
                plan.told.removals.push(removal(name, "it has ended", 0));
                plan.containers.push(state.id.to_string());
            }
        }
        for container in self.containers.unreadable()? {
            let name = format!("container {}", container.id().short());
            let why = "nothing can be read of it";
            plan.told.removals.push(removal(name, why, 0));
            plan.containers.push(container.id().to_string());
        }
        if self.containers.network_is_unused()? {
            let name = "the network of containers".to_owned();
            plan.told
                .removals
                .push(removal(name, "none is connected", 0));
            plan.network = true;
        }
        Ok(())
    }

    /// In a dry run: what `mount` mounted, which goes first.
    fn plan_mounts(&self, plan: &mut Plan) {
        for dir in lock(&self.mounts).keys() {
            let name = format!("mount {}", dir.display());
            plan.told.removals.push(removal(name, "it is unmounted", 0));
        }
    }

    /// Named volumes hold what people put there.
    fn plan_volumes(&self, plan: &mut Plan) -> Result<(), NodeError> {
        let dir = self.settings.root.join("volumes");
        let list = std::fs::read_dir(&dir).map_err(NodeError::dir("list", &dir))?;
        for volume in list {
            let volume = volume.map_err(NodeError::dir("list", &dir))?.file_name();
            // One that is only being made, or was.
            if volume.as_bytes().starts_with(b".") {
                continue;
            }
            let name = format!("volume {}", volume.display());
            let why = "its data is yours: remove its directory by hand";
            plan.told.kept.push(removal(name, why, 0));
        }
        Ok(())
    }

    fn carry_out(&self, plan: &mut Plan) -> Result<(), NodeError> {
        for id in &plan.containers {
            self.release(id, true)?;
        }
        // Removed, or left to those who are at work on it since it was planned.
        let mut left = Vec::new();
        for path in self.containers.sweep()? {
            left.push((of_leftover(&path), "it cannot be removed: the log says why"));
        }
        let mut unless_left = |removed: Option<()>, name: String, why| {
            left.extend(removed.is_none().then_some((name, why)));
        };
        for record in &plan.images {
            let remove = || self.records.remove_image(&record.manifest);
            let removed = self.works.unless_on(&record.manifest, remove);
            let removed = removed.transpose().map_err(NodeError::records)?;
            unless_left(removed.map(drop), of_image(record), AT_WORK);
        }
        for manifest in &plan.corrections {
            let remove = || self.store.corrections().remove(manifest);
            let removed = self.unless_wanted(manifest, remove)?;
            unless_left(removed, of_corrections(manifest), AT_WORK);
        }
        self.let_go(&plan.layers);
        for diff_id in &plan.layers {
            if self.marks.contain(diff_id) {
                tracing::warn!(layer = %diff_id, "stays: something still has it open");
                unless_left(None, of_layer(diff_id), "something still has it open");
                continue;
            }
            unless_left(self.remove_layer(diff_id)?, of_layer(diff_id), AT_WORK);
            let forget = || self.records.remove_layer(diff_id);
            let forgotten = self.works.unless_on(&diff_id.0, forget);
            forgotten.transpose().map_err(NodeError::records)?;
        }
        for digest in &plan.blobs {
            let remove = || self.store.blobs().remove(digest);
            let removed = self.works.unless_any(remove).transpose()?;
            unless_left(removed.map(drop), of_blob(digest), AT_WORK);
        }
        for trace in &plan.traces {
            std::fs::remove_file(trace).map_err(NodeError::dir("remove", trace))?;
        }
        if plan.network && self.containers.remove_network()? {
            let name = "forwarding of packets (net.ipv4.ip_forward)".to_owned();
            let why = "other networks of this machine may need it by now";
            plan.told.kept.push(removal(name, why, 0));
        }
        for (name, why) in left {
            plan.told.leave(&name, why);
        }
        Ok(())
    }

    /// Whether a container that lives, or a `mount`, has this image.
    pub(crate) fn is_used(&self, manifest: &Digest) -> bool {
        let held = |held: &Held| held.image.image.digest == *manifest;
        self.runs(manifest) || lock(&self.mounts).values().any(held)
    }

    /// Whether a container that lives has this image.
    fn runs(&self, manifest: &Digest) -> bool {
        let lives = |id: &str| {
            let id = id.parse();
            id.is_ok_and(|id| self.containers.get(id).is_live())
        };
        lock(&self.held)
            .iter()
            .any(|(id, held)| held.image.image.digest == *manifest && lives(id))
    }

    fn is_mounted(&self, manifest: &Digest) -> bool {
        let slot = lock(&self.images).get(manifest).map(std::sync::Arc::clone);
        // One that somebody mounts just now counts.
        slot.is_some_and(|slot| try_lock(&slot).is_none_or(|mount| mount.is_some()))
    }

    /// Removes a layer that nothing mounted uses. Work in the background may have it for a moment. `None` where it stays.
    fn remove_layer(&self, layer: &DiffId) -> Result<Option<()>, NodeError> {
        self.stop_fill(layer);
        self.unless_wanted(&layer.0, || self.store.trees().remove(&layer.0))?;
        self.unless_wanted(&layer.0, || self.store.layers().remove(layer))
    }

    /// Removes what work in the background may have for a moment: filling it, or making it durable. What somebody is at work on
    /// since it was planned stays: `None`.
    fn unless_wanted(
        &self,
        it: &Digest,
        remove: impl Fn() -> Result<(), RemoveError>,
    ) -> Result<Option<()>, NodeError> {
        let begin = Instant::now();
        loop {
            match self.works.unless_on(it, &remove) {
                Some(Err(RemoveError::InUse { .. })) if begin.elapsed() < BACKGROUND_PATIENCE => {
                    std::thread::sleep(Duration::from_millis(5));
                }
                other => return Ok(other.transpose()?),
            }
        }
    }

    /// Every blob of the store that an image needs.
    pub(crate) fn blobs_of(&self, record: &ImageRecord) -> Result<Vec<Digest>, NodeError> {
        let mut blobs = vec![record.manifest, record.config];
        let acceleration = record.acceleration.iter();
        for artifact in acceleration.chain(record.working_sets.values()) {
            blobs.extend(self.blobs_of_artifact(artifact)?);
        }
        Ok(blobs)
    }

    fn blobs_of_artifact(&self, artifact: &ArtifactRecord) -> Result<Vec<Digest>, NodeError> {
        let mut blobs = vec![artifact.manifest];
        let bytes = self.store.blobs().get(&artifact.manifest)?;
        let Some(Ok(manifest)) = bytes.map(|bytes| Manifest::parse(bytes, None)) else {
            return Ok(blobs);
        };
        for part in manifest.content()?.layers {
            blobs.push(part.digest);
            let unpacked = part
                .annotations
                .get(thaw_image::media::ANNOTATION_UNPACKED_DIGEST);
            blobs.extend(unpacked.and_then(|digest| digest.parse::<Digest>().ok()));
        }
        Ok(blobs)
    }
}

fn of_image(record: &ImageRecord) -> String {
    format!("image {}", record.reference)
}

fn of_layer(layer: &DiffId) -> String {
    format!("layer {layer}")
}

fn of_corrections(manifest: &Digest) -> String {
    format!("directories of image {manifest}")
}

fn of_leftover(path: &Path) -> String {
    format!("leftover {}", path.display())
}

fn of_blob(digest: &Digest) -> String {
    format!("blob {digest}")
}

fn removal(what: String, why: &str, bytes: u64) -> Removal {
    Removal {
        what,
        why: why.to_owned(),
        bytes,
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;

    use rustix::fs::{CWD, FileType, Mode, mknodat};
    use thaw_image::Silent;
    use thaw_testkit::image::{Entry, Image, Layer};

    use super::*;
    use crate::settings::{ImageWish, Settings};
    use crate::timing::Timing;

    /// An image that is in no registry.
    fn image(dir: &Path) -> ImageWish {
        let path = dir.join("image");
        let layer = Layer::new([Entry::directory("./"), Entry::file("name", "image\n")]);
        Image::new([layer]).write(&path, "latest").unwrap();
        ImageWish::of(&path)
    }

    /// Does something while `gc` reads the records of images for the last time, having listed them: one of them is a pipe.
    fn while_it_plans(node: &Node, images: &[String], meanwhile: impl FnOnce()) -> Collected {
        let path = node.settings.root.join("images/manifests/pipe");
        let make = || mknodat(CWD, &path, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
        let open = || File::options().write(true).open(&path).unwrap();
        let options = GcOptions {
            images: images.to_vec(),
            ..GcOptions::default()
        };
        make();
        let collected = std::thread::scope(|scope| {
            let gc = scope.spawn(|| node.gc(&options).unwrap());
            // It reads them once for each name.
            for _ in images {
                let read = open();
                std::fs::remove_file(&path).unwrap();
                make();
                drop(read);
            }
            let read = open();
            meanwhile();
            drop(read);
            gc.join().unwrap()
        });
        std::fs::remove_file(&path).unwrap();
        collected
    }

    fn has_image(list: &[Removal]) -> bool {
        list.iter().any(|it| it.what.starts_with("image "))
    }

    /// Pulls it; whether all of it was here.
    fn pull(node: &Node, wish: &ImageWish) -> bool {
        node.pull(wish, &Silent).unwrap().already_here
    }

    fn node(dir: &Path) -> Node {
        Node::open(Settings::of(&dir.join("store"))).unwrap()
    }

    #[test]
    fn a_pull_that_ends_while_it_is_planned_what_goes_loses_nothing() {
        let dir = tempfile::tempdir_in(env!("CARGO_MANIFEST_DIR")).unwrap();
        let (node, wish) = (node(dir.path()), image(dir.path()));
        let resolved = node.resolve(&wish, &Timing::default()).unwrap();
        while_it_plans(&node, &[], || {
            node.pull_all(&resolved, &Silent).unwrap();
            drop(resolved);
        });
        assert!(pull(&node, &wish));
    }

    /// A container that nobody has started, in the node's store.
    fn container(node: &Node) -> crate::container::Container {
        let new = crate::container::NewContainer {
            image: "image".to_owned(),
            options: crate::container::Options::default(),
        };
        node.all_containers().create(new).unwrap()
    }

    fn gc_all(node: &Node) -> Collected {
        let options = GcOptions {
            all: true,
            ..GcOptions::default()
        };
        node.gc(&options).unwrap()
    }

    #[test]
    fn a_container_that_cannot_be_read_goes_unless_somebody_has_to_do_with_it() {
        let dir = tempfile::tempdir_in(env!("CARGO_MANIFEST_DIR")).unwrap();
        let node = node(dir.path());
        let [empty, none, locked] = [(); 3].map(|()| container(&node));
        let state = |of: &crate::container::Container| of.dir().join("state.json");
        File::create(state(&empty)).unwrap();
        File::create(state(&locked)).unwrap();
        std::fs::remove_file(state(&none)).unwrap();
        let monitor = File::open(locked.dir()).unwrap();
        rustix::fs::flock(&monitor, rustix::fs::FlockOperation::LockExclusive).unwrap();
        let collected = gc_all(&node);
        for container in [&empty, &none] {
            let name = format!("container {}", container.id().short());
            assert!(collected.removals.iter().any(|it| it.what == name));
            assert!(!container.dir().exists());
        }
        assert!(locked.dir().exists());
        drop(monitor);
        gc_all(&node);
        assert!(!locked.dir().exists());
    }

    #[test]
    fn a_container_whose_monitor_is_at_it_has_not_ended() {
        let dir = tempfile::tempdir_in(env!("CARGO_MANIFEST_DIR")).unwrap();
        let node = node(dir.path());
        let container = container(&node);
        // Who made it has ended.
        let path = container.dir().join("state.json");
        let mut state: serde_json::Value =
            serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
        state["phase"]["owner"]["start"] = 1.into();
        std::fs::write(&path, state.to_string()).unwrap();
        let monitor = File::open(container.dir()).unwrap();
        rustix::fs::flock(&monitor, rustix::fs::FlockOperation::LockExclusive).unwrap();
        let collected = gc_all(&node);
        let of_it = |it: &Removal| it.what.starts_with("container ");
        assert!(collected.kept.iter().any(of_it) && !collected.removals.iter().any(of_it));
        drop(monitor);
        assert!(gc_all(&node).removals.iter().any(of_it));
        assert!(!container.dir().exists());
    }

    #[test]
    fn a_dry_run_names_what_was_left_and_the_next_one_removes_it() {
        let dir = tempfile::tempdir_in(env!("CARGO_MANIFEST_DIR")).unwrap();
        let node = node(dir.path());
        let left = ["containers/.gone-abc", "containers/.new", "volumes/.new-a"];
        let left = left.map(|name| node.settings.root.join(name));
        for path in &left {
            std::fs::create_dir(path).unwrap();
            std::fs::write(path.join("file"), [1; 100_000]).unwrap();
        }
        let told = |dry_run| {
            let options = GcOptions {
                dry_run,
                ..GcOptions::default()
            };
            let mut removals = node.gc(&options).unwrap().removals;
            removals.retain(|it| it.what.starts_with("leftover "));
            assert!(removals.iter().all(|it| it.bytes >= 100_000));
            let mut names: Vec<_> = removals.into_iter().map(|it| it.what).collect();
            names.sort();
            names
        };
        let expected = left.each_ref().map(|path| of_leftover(path));
        assert_eq!(told(true), expected);
        assert!(left.iter().all(|path| path.exists()));
        assert_eq!(told(false), expected);
        assert!(!left.iter().any(|path| path.exists()));
        assert_eq!(told(false), [""; 0]);
    }

    #[test]
    fn what_is_pulled_while_it_is_planned_what_goes_stays() {
        let dir = tempfile::tempdir_in(env!("CARGO_MANIFEST_DIR")).unwrap();
        let (node, wish) = (node(dir.path()), image(dir.path()));
        while_it_plans(&node, &[], || assert!(!pull(&node, &wish)));
        assert!(pull(&node, &wish));
        // So does what was named, and was not in use.
        let named = [wish.reference.clone()];
        let collected = while_it_plans(&node, &named, || assert!(pull(&node, &wish)));
        assert!(has_image(&collected.kept) && !has_image(&collected.removals));
        assert!(pull(&node, &wish));
        let collected = while_it_plans(&node, &named, || ());
        assert!(!has_image(&collected.kept) && has_image(&collected.removals));
        assert!(!pull(&node, &wish));
    }
}
