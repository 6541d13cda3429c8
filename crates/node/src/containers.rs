//! Containers of this node: an overlay over the image's mount, a bundle, and their end.
//!
//! The process of a container belongs to its monitor; this node only makes its root filesystem
//! and takes it away again. `prepare` is called before the monitor, `release` after it.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use thaw_image::Progress;
use thaw_mount::{BindMount, Overlay, OverlayMount, Unmount, WritableMount};

use crate::Node;
pub(crate) use crate::container::WRITABLE;
use crate::container::{self, Container, Containers, NewContainer};
use crate::error::NodeError;
use crate::explain::{START, Start};
use crate::lives::Life;
use crate::node::lock;
use crate::open::ImageMount;
use crate::reports::{Mounted, PreparedContainer, StartReport, Traffic};
use crate::settings::{ImageWish, Storage};
use crate::source::chain;
use crate::timing::Timing;

/// A filesystem with fewer bytes left is full: ext4 takes large parts whole or not at all, so the last
/// ones stay free when writing a megabyte at once has failed.
const FULL: u64 = 1 << 20;

/// A mount that somebody uses.
#[derive(Debug)]
pub(crate) struct Held {
    pub(crate) image: Arc<ImageMount>,
    /// What had been moved before the start.
    before: Spent,
    round_trips: u64,
    mounted: Mounts,
    #[expect(dead_code, reason = "held for its Drop")]
    life: Life,
}

/// What was moved and waited for up to some moment.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Spent {
    pub(crate) traffic: Traffic,
    pub(crate) waits: u64,
}

/// What a start began with, what it takes, and who waits for it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Beginning<'a> {
    pub(crate) before: Spent,
    pub(crate) timing: &'a Timing,
    pub(crate) progress: &'a dyn Progress,
}

#[derive(Debug)]
enum Mounts {
    /// A container's root filesystem, and the filesystem that holds its writable part where that is bounded.
    Overlay(Option<OverlayMount>, Option<WritableMount>),
    /// The image alone.
    Image(Option<BindMount>),
}

impl Held {
    /// A container's root filesystem.
    pub(crate) fn of_container(
        image: Arc<ImageMount>,
        overlay: OverlayMount,
        writable: Option<WritableMount>,
        before: Spent,
        life: Life,
    ) -> Self {
        Self {
            image,
            before,
            round_trips: 0,
            mounted: Mounts::Overlay(Some(overlay), writable),
            life,
        }
    }

    /// An image that `mount` mounted.
    pub(crate) fn of_mount(
        image: Arc<ImageMount>,
        mount: BindMount,
        before: Spent,
        life: Life,
    ) -> Self {
        Self {
            image,
            before,
            round_trips: 0,
            mounted: Mounts::Image(Some(mount)),
            life,
        }
    }

    fn unmount(&mut self, when: Unmount) -> Result<(), NodeError> {
        match &mut self.mounted {
            Mounts::Overlay(overlay, writable) => {
                if let Some(overlay) = overlay.take() {
                    overlay.unmount(when)?;
                }
                if let Some(writable) = writable.take() {
                    writable.unmount(when)?;
                }
            }
            Mounts::Image(mount) => {
                if let Some(mount) = mount.take() {
                    mount.unmount(when)?;
                }
            }
        }
        Ok(())
    }

    /// Leaves the mounts when this process ends.
    pub(crate) fn leave(&mut self) {
        match &mut self.mounted {
            Mounts::Overlay(overlay, writable) => {
                overlay.take().map(OverlayMount::detach);
                writable.take().map(WritableMount::detach);
            }
            Mounts::Image(mount) => {
                mount.take().map(BindMount::detach);
            }
        }
    }
}

impl Node {
    /// Makes a container: mounts its image, puts a writable layer over it, writes its bundle.
    ///
    /// # Errors
    /// [`NodeError`]; then nothing of the container is left.
    pub fn prepare(
        &self,
        wish: &ImageWish,
        options: container::Options,
        storage: Option<Storage>,
        fill: bool,
        progress: &dyn Progress,
    ) -> Result<PreparedContainer, NodeError> {
        let span = tracing::info_span!("start", image = wish.reference);
        let _start = span.enter();
        let timing = Timing::default();
        self.containers.expect(&options)?;
        let before = self.spent();
        let image = self.mounted(wish, progress, &timing)?;
        image.warm();
        let beginning = Beginning {
            before,
            timing: &timing,
            progress,
        };
        let prepared = self.prepare_over(&image, wish, options, storage, beginning)?;
        tracing::info!(
            container = prepared.id,
            way = %prepared.way.how,
            why = prepared.way.why,
            round_trips = timing.round_trips(),
            took = ?timing.elapsed(),
            steps = timing.line(),
            "prepared"
        );
        if fill {
            self.fill(&image);
        }
        self.expect_to_begin(&prepared.id);
        Ok(prepared)
    }

    pub(crate) fn prepare_over(
        &self,
        image: &Arc<ImageMount>,
        wish: &ImageWish,
        options: container::Options,
        storage: Option<Storage>,
        beginning: Beginning<'_>,
    ) -> Result<PreparedContainer, NodeError> {
        let timing = beginning.timing;
        let reference = wish.reference.clone();
        let container = self.containers.create(NewContainer {
            image: reference,
            options,
        })?;
        let made = self.make_root(image, &container, wish, storage, beginning);
        if made.is_err() {
            lock(&self.held).remove(container.id().as_str());
            container.remove(true).ok();
        }
        let (spans, notices) = made?;
        let now = timing.elapsed();
        for span in spans {
            timing.add(&span.name, now.saturating_sub(span.duration), span.duration);
        }
        Ok(PreparedContainer {
            id: container.id().to_string(),
            name: container.state()?.name,
            dir: container.dir().to_owned(),
            manifest: image.image.digest,
            way: image.way_now(),
            spans: timing.spans(),
            notices,
        })
    }

    fn make_root(
        &self,
        image: &Arc<ImageMount>,
        container: &Container,
        wish: &ImageWish,
        storage: Option<Storage>,
        beginning: Beginning<'_>,
    ) -> Result<(Vec<container::Span>, Vec<String>), NodeError> {
        let Beginning {
            before,
            timing,
            progress,
        } = beginning;
        let lead = timing.elapsed();
        let dir = container.dir();
        let life = self.lives.begin(container.id().as_str(), image.diff_ids());
        let mut held = timing.span("overlay", || overlay(image, dir, storage, before, life))?;
        held.round_trips = timing.round_trips();
        lock(&self.held).insert(container.id().to_string(), held);
        let start = Start {
            way: image.way_now(),
            manifest: image.image.digest,
            profile: wish.profile.clone(),
            set: wish.profile.as_deref().and_then(|it| image.streams.set(it)),
            round_trips: timing.round_trips(),
            lead,
            spans: timing.spans(),
        };
        crate::records::write(&dir.join(START), &start).map_err(NodeError::records)?;
        let served = image.body.layers().iter();
        let served = served.filter(|layer| self.marks.contain(&layer.diff_id()));
        crate::keepsake::leave(dir, served, &self.settings)?;
        let prepared = container.prepare(&dir.join("rootfs"), &image.image.config, progress)?;
        Ok((prepared.spans.0, prepared.warnings))
    }

    /// A container has ended: takes its root filesystem away, and the container if asked.
    ///
    /// # Errors
    /// [`NodeError`]; a container that is not known is none.
    pub fn release(&self, id: &str, remove: bool) -> Result<(), NodeError> {
        let _turn = self.releases.take(id);
        if remove {
            lock(&self.ended).remove(id);
        } else if let Ok(report) = self.report(id) {
            lock(&self.ended).insert(id.to_owned(), report);
        }
        let held = lock(&self.held).remove(id);
        let was_held = held.is_some();
        if let Some(mut held) = held {
            if let Err(error) = self.harvest(&held.image) {
                tracing::debug!(error = chain(&error), "no trace kept");
            }
            self.was_used(&held.image.image.digest);
            held.unmount(Unmount::Lazy)?;
        }
        if remove && let Ok(container) = self.containers.find(id) {
            if !was_held {
                unmount_left(container.dir())?;
            }
            container.remove(true)?;
        }
        Ok(())
    }

    /// How a start went so far, or up to the container's end.
    ///
    /// # Errors
    /// [`NodeError::NotMounted`] for a container that is not held, and was not since the node was opened.
    pub fn report(&self, id: &str) -> Result<StartReport, NodeError> {
        let (image, before, round_trips) = match lock(&self.held).get(id) {
            Some(held) => (Arc::clone(&held.image), held.before, held.round_trips),
            None => {
                let ended = lock(&self.ended).get(id).cloned();
                return ended.ok_or_else(|| NodeError::NotMounted(PathBuf::from(id)));
            }
        };
        let now = self.spent();
        Ok(StartReport {
            way: image.way_now(),
            traffic: now.traffic.since(&before.traffic),
            waits: now.waits.saturating_sub(before.waits),
            round_trips,
        })
    }

    /// Mounts an image's root filesystem at a directory, read-only.
    ///
    /// # Errors
    /// [`NodeError`]; then nothing is mounted there.
    pub fn mount(
        &self,
        wish: &ImageWish,
        dir: &Path,
        progress: &dyn Progress,
    ) -> Result<Mounted, NodeError> {
        if lock(&self.mounts).contains_key(dir) {
            return Err(NodeError::AlreadyMounted(dir.to_owned()));
        }
        let timing = Timing::default();
        let image = self.mounted(wish, progress, &timing)?;
        std::fs::create_dir_all(dir).map_err(NodeError::dir("make", dir))?;
        let mount = BindMount::new(image.dir(), dir)?;
        let life = self.life_at(dir, &image);
        let held = Held::of_mount(Arc::clone(&image), mount, self.spent(), life);
        lock(&self.mounts).insert(dir.to_owned(), held);
        Ok(Mounted {
            dir: dir.to_owned(),
            manifest: image.image.digest,
            way: image.way_now(),
            spans: timing.spans(),
        })
    }

    /// An image is mounted at a directory from now on.
    pub(crate) fn life_at(&self, dir: &Path, image: &ImageMount) -> Life {
        self.lives.begin(&dir.to_string_lossy(), image.diff_ids())
    }

    /// Undoes [`Node::mount`]; answers with the directory.
    ///
    /// # Errors
    /// [`NodeError::NotMounted`], or that something still uses it.
    pub fn unmount(&self, dir: &Path) -> Result<Vec<PathBuf>, NodeError> {
        let Some(mut held) = lock(&self.mounts).remove(dir) else {
            return Err(NodeError::NotMounted(dir.to_owned()));
        };
        self.harvest(&held.image).ok();
        self.was_used(&held.image.image.digest);
        if let Err(error) = held.unmount(Unmount::Now) {
            lock(&self.mounts).insert(dir.to_owned(), held);
            return Err(error);
        }
        Ok(vec![dir.to_owned()])
    }

    /// Undoes every [`Node::mount`], and takes away the root filesystems of containers that have
    /// ended, and images that nothing uses; answers with the directories of the former.
    ///
    /// # Errors
    /// The first thing that could not be unmounted.
    pub fn unmount_all(&self) -> Result<Vec<PathBuf>, NodeError> {
        let dirs: Vec<PathBuf> = lock(&self.mounts).keys().cloned().collect();
        for dir in &dirs {
            self.unmount(dir)?;
        }
        self.release_ended()?;
        Ok(dirs)
    }

    /// Unmounts what only containers have that have ended.
    ///
    /// # Errors
    /// The first thing that could not be unmounted.
    pub(crate) fn release_ended(&self) -> Result<(), NodeError> {
        let ended: Vec<String> = self
            .containers
            .list()?
            .into_iter()
            .filter(|state| !self.containers.get(state.id.clone()).is_live())
            .map(|state| state.id.to_string())
            .collect();
        for id in ended {
            self.release(&id, false)?;
        }
        self.unmount_unused();
        Ok(())
    }

    /// The containers of this store.
    #[must_use]
    pub fn all_containers(&self) -> &Containers {
        &self.containers
    }
}

/// Unmounts what a node before this one had mounted for a container that nobody has taken over: it died
/// before the container was started.
fn unmount_left(dir: &Path) -> Result<(), NodeError> {
    if let Some(overlay) = OverlayMount::adopt(&dir.join("rootfs"))? {
        overlay.unmount(Unmount::Lazy)?;
    }
    if let Some(writable) = WritableMount::adopt(&dir.join(WRITABLE))? {
        writable.unmount(Unmount::Lazy)?;
    }
    Ok(())
}

/// Whether the filesystem that a container writes to is used up, by the container's directory.
#[must_use]
pub fn disk_is_full(dir: &Path) -> bool {
    rustix::fs::statvfs(dir.join(WRITABLE)).is_ok_and(|it| {
        let no_inodes = it.f_files > 0 && it.f_favail == 0;
        it.f_bavail.saturating_mul(it.f_frsize) < FULL || no_inodes
    })
}

/// Mounts a container's root filesystem below its directory.
fn overlay(
    image: &Arc<ImageMount>,
    dir: &Path,
    storage: Option<Storage>,
    before: Spent,
    life: Life,
) -> Result<Held, NodeError> {
    let (writable, target) = (dir.join(WRITABLE), dir.join("rootfs"));
    for path in [&writable, &target] {
        std::fs::create_dir_all(path).map_err(NodeError::dir("make", path))?;
    }
    let bounded = storage
        .map(|storage| match storage {
            Storage::Disk(size) => WritableMount::disk(&dir.join("writable.ext4"), &writable, size),
            Storage::Memory(size) => WritableMount::memory(&writable, size),
        })
        .transpose()?;
    let (upper, work) = (writable.join("upper"), writable.join("work"));
    for path in [&upper, &work] {
        std::fs::create_dir_all(path).map_err(NodeError::dir("make", path))?;
    }
    // The directories themselves: an overlay over the image's own overlay would be one more level.
    let lower = match image.body.directories() {
        Some(directories) => directories.lower(),
        None => vec![image.dir().to_owned()],
    };
    let overlay = Overlay {
        source: image.dir().to_owned(),
        lower,
        upper: Some((upper, work)),
        volatile: true,
    };
    let overlay = OverlayMount::new(&overlay, &target)?;
    Ok(Held::of_container(
        Arc::clone(image),
        overlay,
        bounded,
        before,
        life,
    ))
}
