//! A store with layers of known bytes, a layout over them, and handlers that fill, fail or hang.

#![allow(dead_code, clippy::unwrap_used, missing_docs, unreachable_pub)]

use std::fs::{self, File};
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use tempfile::TempDir;
use thaw_cache::{LayerTar, Store};
use thaw_erofs::{Attributes, Content, Device as Slot, FileData, Inode, Tree};
use thaw_image::{BLOCK, DiffId, Digest, Extent, Verified};
use thaw_mount::{
    Denial, Device, FaultHandler, FaultTransport, Inherited, Keeper, KeeperSettings, LayerSpec,
    LayoutMount, MountError, TransportKind, Unmount, WritableMount,
};

/// Bytes of one of a layer's files.
pub const FILE: u64 = 64 << 10;

/// What a test runs on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum World {
    /// Pre-content events.
    Fanotify,
    /// Pre-content events, and EROFS that reads past the page cache of the tars.
    Directly,
    /// FUSE files as EROFS devices.
    Fuse,
    /// FUSE files behind loop devices: what tmpfs needs, and every kernel before 6.12.
    FuseOnLoops,
}

impl World {
    pub fn kind(self) -> TransportKind {
        match self {
            Self::Fanotify | Self::Directly => TransportKind::Fanotify,
            Self::Fuse | Self::FuseOnLoops => TransportKind::Fuse,
        }
    }
}

/// One body of tests for every world: `every_world!(name, ...)` makes tests of functions.
#[macro_export]
macro_rules! every_world {
    ($($name:ident),* $(,)?) => {
        mod fanotify {
            $(#[test] fn $name() { super::$name($crate::support::World::Fanotify); })*
        }
        mod directly {
            $(#[test] fn $name() { super::$name($crate::support::World::Directly); })*
        }
        mod fuse {
            $(#[test] fn $name() { super::$name($crate::support::World::Fuse); })*
        }
        mod fuse_on_loops {
            $(#[test] fn $name() { super::$name($crate::support::World::FuseOnLoops); })*
        }
    };
}

/// The test that is a keeper when the test program is executed again.
pub fn be_keeper() -> ExitCode {
    log();
    thaw_mount::keeper_main(io::stdin().as_fd().try_clone_to_owned().unwrap())
}

/// Shows what daemon and keeper say, at the level that `RUST_LOG` names.
pub fn log() {
    let filter = tracing_subscriber::EnvFilter::from_default_env();
    let _ = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(false)
        .with_writer(io::stderr)
        .try_init();
}

pub fn settings(root: &Path, world: World) -> KeeperSettings {
    let args = ["keeper_process", "--exact", "--ignored", "--nocapture"];
    let mut settings = KeeperSettings::new(
        std::env::current_exe().unwrap(),
        args.map(Into::into).to_vec(),
        root.join("keeper.sock"),
    );
    settings.transport = Some(world.kind());
    settings.idle_timeout = Duration::from_millis(300);
    settings
}

/// Bytes that are never zero, so that a hole is never right.
pub fn noise(seed: u64, len: u64) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let words = (0..len.div_ceil(8)).flat_map(|_| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state | 0x0101_0101_0101_0101).to_le_bytes()
    });
    words.take(usize::try_from(len).unwrap()).collect()
}

pub struct Layer {
    pub tar: Arc<LayerTar>,
    pub bytes: Arc<Vec<u8>>,
}

impl Layer {
    pub fn id(&self) -> DiffId {
        self.tar.diff_id()
    }

    pub fn spec(&self) -> LayerSpec {
        LayerSpec {
            diff_id: self.tar.diff_id(),
            size: self.tar.tar_size(),
            tar: self.tar.path().to_owned(),
            presence: self.tar.presence_path().to_owned(),
        }
    }

    pub fn fill(&self, extent: Extent) {
        fill(&self.tar, &self.bytes, extent).unwrap();
    }

    pub fn all(&self) -> Extent {
        Extent::between(0, self.tar.tar_size())
    }
}

fn fill(tar: &LayerTar, bytes: &[u8], extent: Extent) -> Result<(), Denial> {
    let blocks = extent.blocks().extent(tar.tar_size());
    let range = usize::try_from(blocks.offset).unwrap()..usize::try_from(blocks.end()).unwrap();
    let bytes = bytes[range].to_vec();
    let digest = Digest::of(&bytes);
    let verified = Verified::check(bytes, &digest).map_err(|_| Denial::Io)?;
    let written = tar.write(blocks.offset, &verified);
    written.map(drop).map_err(|_| Denial::NoSpace)
}

/// A store, its layers, and the layout over all of them: file `F` of layer `L` is `fL-F`.
pub struct Rig {
    pub store: Store,
    pub layers: Vec<Layer>,
    pub root: PathBuf,
    pub world: World,
    _tmpfs: Option<WritableMount>,
    _dir: Option<TempDir>,
}

impl Rig {
    pub fn new(world: World, contents: Vec<Vec<u8>>) -> Self {
        log();
        let dir = tempfile::tempdir_in("/var/tmp").unwrap();
        let root = dir.path().to_owned();
        let tmpfs = (world == World::FuseOnLoops)
            .then(|| WritableMount::memory(&root, Some(1 << 30)).unwrap());
        let mut rig = Self::at(root, world, contents, |store, id, size| {
            store.layers().open(id, size).unwrap()
        });
        (rig._tmpfs, rig._dir) = (tmpfs, Some(dir));
        rig
    }

    /// A store that exists, whose layers another process left marked.
    pub fn adopt(
        root: &Path,
        world: World,
        contents: Vec<Vec<u8>>,
        inherited: Vec<Inherited>,
    ) -> Self {
        let mut inherited = inherited;
        Self::at(root.to_owned(), world, contents, |store, id, size| {
            let at = inherited
                .iter()
                .position(|i| i.spec.diff_id == *id)
                .unwrap();
            let tar = inherited.swap_remove(at).tar;
            store.layers().adopt(id, size, File::from(tar)).unwrap()
        })
    }

    pub fn at(
        root: PathBuf,
        world: World,
        contents: Vec<Vec<u8>>,
        mut open: impl FnMut(&Store, &DiffId, u64) -> Arc<LayerTar>,
    ) -> Self {
        let store = Store::open(&root).unwrap();
        let layers: Vec<_> = contents
            .into_iter()
            .map(|bytes| Layer {
                tar: open(&store, &DiffId(Digest::of(&bytes)), bytes.len() as u64),
                bytes: Arc::new(bytes),
            })
            .collect();
        let _ = fs::create_dir(root.join("mnt"));
        let rig = Self {
            store,
            layers,
            root,
            world,
            _tmpfs: None,
            _dir: None,
        };
        rig.write_layout();
        rig
    }

    fn write_layout(&self) {
        let attributes = |mode| Attributes {
            mode,
            ..Attributes::default()
        };
        let mut tree = Tree::new(attributes(0o755));
        let mut slots = Vec::new();
        for (number, layer) in self.layers.iter().enumerate() {
            let slot = u16::try_from(number + 1).unwrap();
            let size = layer.tar.tar_size();
            slots.push(Slot {
                tag: layer.id().0.hex().into_bytes().try_into().unwrap(),
                blocks: size.div_ceil(BLOCK),
            });
            for file in 0..size.div_ceil(FILE) {
                let start = file * FILE;
                let data = FileData::contiguous(FILE.min(size - start), slot, start / BLOCK);
                let inode = tree.add(Inode {
                    attributes: attributes(0o755),
                    content: Content::File(data),
                });
                let name = format!("f{number}-{file}");
                tree.link(tree.root(), name.as_bytes(), inode).unwrap();
            }
        }
        let mut file = File::create(self.layout()).unwrap();
        thaw_erofs::write(&tree, &slots, &mut file).unwrap();
    }

    pub fn layout(&self) -> PathBuf {
        self.root.join("layout")
    }

    pub fn target(&self) -> PathBuf {
        self.root.join("mnt")
    }

    pub fn file(&self, layer: usize, file: u64) -> PathBuf {
        self.target().join(format!("f{layer}-{file}"))
    }

    pub fn attach(&self, transport: &dyn FaultTransport) -> Vec<Device> {
        let attach = |layer: &Layer| {
            transport
                .attach(&layer.spec(), layer.tar.file().as_fd())
                .unwrap()
        };
        self.layers.iter().map(attach).collect()
    }

    pub fn mount(&self, devices: &[Device]) -> LayoutMount {
        let mut mount = LayoutMount::new(&self.layout(), devices, &self.target(), None).unwrap();
        if self.world == World::Directly {
            let found = thaw_mount::direct_reads(&self.root);
            assert!(found.available, "{}", found.evidence);
            mount.read_directly(true).unwrap();
        }
        mount
    }

    pub fn expected(&self, layer: usize, offset: u64, len: u64) -> &[u8] {
        let start = usize::try_from(offset).unwrap();
        &self.layers[layer].bytes[start..start + usize::try_from(len).unwrap()]
    }

    /// Reads a piece of a file, and holds it to what it must be.
    pub fn read(&self, layer: usize, file: u64, at: u64, len: u64) -> io::Result<()> {
        let mut bytes = vec![0; usize::try_from(len).unwrap()];
        File::open(self.file(layer, file))?.read_exact_at(&mut bytes, at)?;
        assert!(
            bytes == self.expected(layer, file * FILE + at, len),
            "wrong bytes in f{layer}-{file} at {at}"
        );
        Ok(())
    }

    pub fn handler(&self) -> Arc<Filler> {
        let layer = |layer: &Layer| (Arc::clone(&layer.tar), Arc::clone(&layer.bytes));
        Arc::new(Filler {
            layers: Mutex::new(self.layers.iter().map(layer).collect()),
            calls: Mutex::default(),
            denial: Mutex::default(),
            hang: AtomicBool::new(false),
            lie: AtomicBool::new(false),
            delay_us: AtomicU64::new(0),
            now: AtomicU64::new(0),
            most: AtomicU64::new(0),
        })
    }
}

/// A tar and what belongs into it.
type Known = (Arc<LayerTar>, Arc<Vec<u8>>);

/// Fills from memory, unless told otherwise.
pub struct Filler {
    pub layers: Mutex<Vec<Known>>,
    pub calls: Mutex<Vec<(DiffId, Extent)>>,
    pub denial: Mutex<Option<Denial>>,
    pub hang: AtomicBool,
    pub lie: AtomicBool,
    pub delay_us: AtomicU64,
    now: AtomicU64,
    pub most: AtomicU64,
}

impl Filler {
    pub fn calls(&self) -> usize {
        self.calls.lock().unwrap().len()
    }
}

impl FaultHandler for Filler {
    fn fault(&self, layer: &DiffId, extent: Extent, deadline: Instant) -> Result<(), Denial> {
        let now = self.now.fetch_add(1, Ordering::SeqCst) + 1;
        self.most.fetch_max(now, Ordering::SeqCst);
        self.calls.lock().unwrap().push((*layer, extent));
        std::thread::sleep(Duration::from_micros(self.delay_us.load(Ordering::SeqCst)));
        while self.hang.load(Ordering::SeqCst) && Instant::now() < deadline + FAR {
            std::thread::sleep(Duration::from_millis(1));
        }
        self.now.fetch_sub(1, Ordering::SeqCst);
        if let Some(denial) = *self.denial.lock().unwrap() {
            return Err(denial);
        }
        if self.lie.load(Ordering::SeqCst) {
            return Ok(());
        }
        let layers = self.layers.lock().unwrap().clone();
        let (tar, bytes) = layers
            .iter()
            .find(|(tar, _)| tar.diff_id() == *layer)
            .ok_or(Denial::Io)?;
        fill(tar, bytes, extent)
    }

    fn host(&self, layer: &DiffId) -> Arc<str> {
        layer.to_string().into()
    }
}

const FAR: Duration = Duration::from_secs(20);

pub fn start(rig: &Rig, handler: &Arc<Filler>, timeout: Duration) -> Keeper {
    let (keeper, inherited) = connect(rig, handler, timeout);
    assert!(inherited.is_empty());
    keeper
}

pub fn connect(rig: &Rig, handler: &Arc<Filler>, timeout: Duration) -> (Keeper, Vec<Inherited>) {
    let handler: Arc<dyn FaultHandler> = Arc::clone(handler) as _;
    let mut settings = settings(&rig.root, rig.world);
    settings.fault_timeout = timeout;
    let (keeper, inherited) = Keeper::start(settings, &handler).unwrap();
    keeper.serve();
    (keeper, inherited)
}

/// Unmounts, when the files are closed that a process of another test has of ours between its fork
/// and its exec; [`finish`] waits for that.
pub fn unmount(mount: LayoutMount) {
    mount.unmount(Unmount::Lazy).unwrap();
}

/// The end of a test: the mount gone, every layer let go, the keeper ended.
pub fn finish(rig: &Rig, keeper: &Keeper) {
    let begin = Instant::now();
    for layer in &rig.layers {
        loop {
            match keeper.release(&layer.id()) {
                Err(MountError::InUse(_)) if begin.elapsed() < FAR => {
                    thread::sleep(Duration::from_millis(5));
                }
                released => {
                    released.unwrap();
                    break;
                }
            }
        }
    }
    keeper.shut_down().unwrap();
}

pub fn executable(path: &str) -> Vec<u8> {
    assert!(fs::metadata(path).unwrap().permissions().mode() & 0o111 != 0);
    fs::read(path).unwrap()
}
