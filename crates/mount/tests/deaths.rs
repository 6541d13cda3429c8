//! Daemon and keeper are killed under a load of reads that compare every byte: a hole must never be
//! read, by anybody. Needs root and Linux 6.14.

#![allow(clippy::unwrap_used)]

mod support;

use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use support::{FILE, Rig, World, finish, noise, start, unmount};
use thaw_mount::{FaultHandler, FaultTransport, Keeper, Keepsake, TransportKind, WritableMount};
use thaw_sys::socket;

const ROUNDS: u64 = 20;
const FILES: u64 = 32;
const LONG: Duration = Duration::from_secs(30);

#[test]
#[ignore = "not a test: the keeper process of the others"]
fn keeper_process() -> ExitCode {
    support::be_keeper()
}

every_world!(
    a_dead_keeper_costs_no_bytes,
    a_dead_daemon_costs_time_and_nothing_else,
    daemon_and_keeper_may_die_together,
    what_a_keeper_has_can_be_held_too,
    a_keeper_is_taken_over_where_none_could_be_begun,
    a_keeper_of_another_version_is_replaced,
    a_second_daemon_is_refused_while_the_first_lives,
    a_keeper_with_nothing_to_keep_ends_by_itself,
);

fn content(round: u64) -> Vec<Vec<u8>> {
    vec![
        noise(1000 + round, FILES * FILE),
        noise(2000 + round, FILES * FILE),
    ]
}

/// Reads everything in pieces, from four threads, each in another order. Gives the number of
/// reads that failed; one that fails is tried again until it does not.
fn read_all(rig: &Rig, progress: &AtomicU64) -> u64 {
    let failed = AtomicU64::new(0);
    thread::scope(|scope| {
        for reader in 0..4u64 {
            let failed = &failed;
            scope.spawn(move || {
                for step in 0..2 * FILES {
                    let at = (step * (2 * reader + 7) + reader * 13) % (2 * FILES);
                    let (layer, file) = (usize::from(at >= FILES), at % FILES);
                    let until = Instant::now() + LONG;
                    for piece in 0..4 {
                        while rig.read(layer, file, piece * FILE / 4, FILE / 4).is_err() {
                            failed.fetch_add(1, Ordering::SeqCst);
                            assert!(Instant::now() < until, "reads fail on and on");
                        }
                    }
                    progress.fetch_add(1, Ordering::SeqCst);
                }
            });
        }
    });
    failed.load(Ordering::SeqCst)
}

fn wait_for(mut condition: impl FnMut() -> bool) {
    let until = Instant::now() + Duration::from_secs(20);
    while !condition() {
        assert!(Instant::now() < until, "did not happen in time");
        thread::sleep(Duration::from_millis(1));
    }
}

fn a_dead_keeper_costs_no_bytes(world: World) {
    let mut failures = 0;
    for round in 0..ROUNDS {
        let rig = Rig::new(world, content(round));
        let handler = rig.handler();
        handler.delay_us.store(300, Ordering::SeqCst);
        let keeper = start(&rig, &handler, LONG);
        let mount = rig.mount(&rig.attach(&keeper));
        let progress = AtomicU64::new(0);
        failures += thread::scope(|scope| {
            let reader = scope.spawn(|| read_all(&rig, &progress));
            for kill in 1..=2 {
                wait_for(|| progress.load(Ordering::SeqCst) >= kill * (10 + round));
                let pid = keeper.child_pid().and_then(|pid| i32::try_from(pid).ok());
                if let Some(pid) = pid.and_then(Pid::from_raw) {
                    kill_process(pid, Signal::KILL).unwrap();
                }
            }
            reader.join().unwrap()
        });
        unmount(mount);
        finish(&rig, &keeper);
    }
    println!("{failures} reads failed in {ROUNDS} rounds with two deaths each");
    // What a dead keeper had read is denied with an event group, and comes again with FUSE.
    assert!(world.kind() == TransportKind::Fanotify || failures == 0);
}

/// The daemon that will be killed: mounts, serves some misses slowly and hangs at the others.
#[test]
#[ignore = "not a test: the daemon process of the others"]
fn daemon_process() {
    let root = PathBuf::from(std::env::var_os("DEATHS_ROOT").unwrap());
    let round = std::env::var("DEATHS_ROUND").unwrap().parse().unwrap();
    let world = match std::env::var("DEATHS_WORLD").unwrap().as_str() {
        "Fanotify" => World::Fanotify,
        "Directly" => World::Directly,
        "Fuse" => World::Fuse,
        _ => World::FuseOnLoops,
    };
    // As of a transport that has ended: whoever holds what this process has must not be taken in.
    let _ended = thaw_sys::fanotify::Group::new().unwrap();
    let rig = Rig::at(root.clone(), world, content(round), |store, id, size| {
        store.layers().open(id, size).unwrap()
    });
    let handler = rig.handler();
    handler.delay_us.store(300, Ordering::SeqCst);
    let keeper = start(&rig, &handler, LONG);
    let target = rig.mount(&rig.attach(&keeper)).detach();
    assert_eq!(target, rig.target());
    let pid = keeper.child_pid().unwrap().to_string();
    fs::write(root.join("starting"), pid).unwrap();
    fs::rename(root.join("starting"), root.join("ready")).unwrap();
    wait_for(|| root.join("hang").exists());
    handler.hang.store(true, Ordering::SeqCst);
    thread::sleep(LONG);
}

fn spawn_daemon(root: &Path, world: World, round: u64) -> Child {
    let mut program = spawn("daemon_process");
    program
        .env("DEATHS_ROOT", root)
        .env("DEATHS_WORLD", format!("{world:?}"))
        .env("DEATHS_ROUND", round.to_string());
    let daemon = program.spawn().unwrap();
    wait_for(|| root.join("ready").exists());
    daemon
}

/// This program as another process.
fn spawn(test: &str) -> Command {
    let mut program = Command::new(std::env::current_exe().unwrap());
    program
        .args([test, "--exact", "--ignored", "--nocapture"])
        .stdin(Stdio::null())
        .stdout(Stdio::null());
    program
}

/// The third process, which holds what the daemon has.
#[test]
#[ignore = "not a test: the holding process of the others"]
fn holding_process() {
    let root = PathBuf::from(std::env::var_os("DEATHS_ROOT").unwrap());
    let daemon = std::env::var("DEATHS_DAEMON").unwrap().parse().unwrap();
    let tars = fs::read_dir(root.join("layers")).unwrap();
    let tars: Vec<_> = tars.map(|dir| dir.unwrap().path().join("tar")).collect();
    let socket = root.join("keeper.sock");
    let _held = Keepsake::of(daemon, &tars, socket.clone()).unwrap();
    if let Ok(version) = std::env::var("DEATHS_VERSION") {
        // A welcome, as this version decodes it, or one of another form.
        let mut welcome = [[64].as_slice(), &[0; 16]].concat();
        match version.parse::<u8>() {
            Ok(number) => welcome[1] = number,
            Err(_) => welcome.truncate(5),
        }
        let listener = socket::listen(&socket).unwrap();
        fs::write(root.join("held"), "").unwrap();
        wait_for(|| match socket::accept(&listener).unwrap() {
            Some((daemon, _)) => {
                socket::send(&daemon, &welcome, &[], socket::Wait::Block).unwrap();
                thread::sleep(LONG);
                true
            }
            None => false,
        });
    }
    fs::write(root.join("held"), "").unwrap();
    thread::sleep(LONG);
}

/// Where a daemon may work; what is mounted there goes with it.
struct Place {
    root: PathBuf,
    _tmpfs: Option<WritableMount>,
    _dir: tempfile::TempDir,
}

impl Place {
    fn new(world: World) -> Self {
        let dir = tempfile::tempdir_in("/var/tmp").unwrap();
        let root = dir.path().to_owned();
        let tmpfs = (world == World::FuseOnLoops)
            .then(|| WritableMount::memory(&root, Some(1 << 30)).unwrap());
        Self {
            root,
            _tmpfs: tmpfs,
            _dir: dir,
        }
    }

    fn kill_keeper(&self) {
        let pid = fs::read_to_string(self.root.join("ready")).unwrap();
        let pid = Pid::from_raw(pid.parse().unwrap()).unwrap();
        kill_process(pid, Signal::KILL).unwrap();
    }
}

/// Takes over what a dead daemon left at `root`.
fn succeed(root: &Path, world: World, round: u64, holders: &[u32]) -> (Keeper, Rig) {
    // Its handler is not known before its layers are adopted: the gate that `serve` opens.
    let late = Arc::new(Late::default());
    let handler: Arc<dyn FaultHandler> = Arc::clone(&late) as _;
    let mut settings = support::settings(root, world);
    settings.holders = holders.iter().map(|pid| pid.cast_signed()).collect();
    let (keeper, inherited) = Keeper::start(settings, &handler).unwrap();
    assert_eq!(inherited.len(), 2);
    assert_eq!(keeper.kind(), world.kind());
    let rig = Rig::adopt(root, world, content(round), inherited);
    late.0.set(rig.handler()).ok().unwrap();
    keeper.serve();
    (keeper, rig)
}

#[derive(Default)]
struct Late(std::sync::OnceLock<Arc<support::Filler>>);

impl FaultHandler for Late {
    fn fault(
        &self,
        layer: &thaw_image::DiffId,
        extent: thaw_image::Extent,
        deadline: Instant,
    ) -> Result<(), thaw_mount::Denial> {
        self.0.get().unwrap().fault(layer, extent, deadline)
    }

    fn host(&self, layer: &thaw_image::DiffId) -> Arc<str> {
        self.0.get().unwrap().host(layer)
    }
}

fn a_dead_daemon_costs_time_and_nothing_else(world: World) {
    for round in 0..ROUNDS {
        let place = Place::new(world);
        let root = place.root.clone();
        let mut daemon = spawn_daemon(&root, world, round);
        // To read through, and to compare with; it opens no tar.
        let bytes = content(round);
        let progress = Arc::new(AtomicU64::new(0));
        let readers: Vec<_> = (0..4)
            .map(|reader| {
                let (bytes, root) = (bytes.clone(), root.clone());
                let progress = Arc::clone(&progress);
                thread::spawn(move || read_at(&root, &bytes, reader, &progress))
            })
            .collect();
        wait_for(|| progress.load(Ordering::SeqCst) >= 4 + 2 * round);
        if round % 2 == 0 {
            fs::write(root.join("hang"), "").unwrap();
            thread::sleep(Duration::from_millis(20));
        }
        daemon.kill().unwrap();
        daemon.wait().unwrap();
        thread::sleep(Duration::from_millis(5 * (round % 4)));
        let (keeper, rig) = succeed(&root, world, round, &[]);
        for reader in readers {
            reader.join().unwrap();
        }
        let counters = keeper.counters().unwrap();
        assert_eq!(
            (counters.failed, counters.expired, counters.unknown),
            (0, 0, 0)
        );
        let mount = thaw_mount::LayoutMount::adopt(&rig.target())
            .unwrap()
            .unwrap();
        unmount(mount);
        finish(&rig, &keeper);
    }
}

/// A third process that holds what the process `from` has.
fn hold(root: &Path, from: u32) -> Child {
    let holder = spawn("holding_process")
        .env("DEATHS_ROOT", root)
        .env("DEATHS_DAEMON", from.to_string())
        .spawn()
        .unwrap();
    wait_for(|| root.join("held").exists());
    holder
}

/// The daemon is dead before a third process comes: it has from the keeper what it holds.
fn what_a_keeper_has_can_be_held_too(world: World) {
    let place = Place::new(world);
    let root = place.root.clone();
    let socket = root.join("keeper.sock");
    assert_eq!(thaw_mount::keeper_of(&socket), None);
    let mut daemon = spawn_daemon(&root, world, 0);
    daemon.kill().unwrap();
    daemon.wait().unwrap();
    let keeper = thaw_mount::keeper_of(&socket).unwrap();
    let mut holder = hold(&root, keeper.cast_unsigned());
    place.kill_keeper();
    wait_for(|| thaw_mount::keeper_of(&socket).is_none());
    let (keeper, rig) = succeed(&root, world, 0, &[holder.id()]);
    for file in 0..4 {
        rig.read(0, file, 0, FILE).unwrap();
    }
    let mount = thaw_mount::LayoutMount::adopt(&rig.target()).unwrap();
    unmount(mount.unwrap());
    holder.kill().unwrap();
    holder.wait().unwrap();
    finish(&rig, &keeper);
}

/// A third process holds what they held: with FUSE not even the reads that the keeper had fail.
fn daemon_and_keeper_may_die_together(world: World) {
    let place = Place::new(world);
    let root = place.root.clone();
    let mut daemon = spawn_daemon(&root, world, 0);
    let mut holder = hold(&root, daemon.id());
    fs::write(root.join("hang"), "").unwrap();
    thread::sleep(Duration::from_millis(50));
    let read = |file| {
        let path = root.join("mnt").join(format!("f0-{file}"));
        thread::spawn(move || fs::read(path))
    };
    let readers: Vec<_> = (0..4).map(read).collect();
    thread::sleep(Duration::from_millis(50));
    place.kill_keeper();
    daemon.kill().unwrap();
    daemon.wait().unwrap();
    thread::sleep(Duration::from_millis(100));
    assert!(
        readers.iter().all(|reader| !reader.is_finished())
            || world.kind() == TransportKind::Fanotify
    );
    let (keeper, rig) = succeed(&root, world, 0, &[holder.id()]);
    for (file, reader) in (0..).zip(readers) {
        match reader.join().unwrap() {
            Ok(bytes) => assert_eq!(bytes, rig.expected(0, file * FILE, FILE)),
            Err(error) => assert!(world.kind() == TransportKind::Fanotify, "{error}"),
        }
        rig.read(0, file, 0, FILE).unwrap();
    }
    let mount = thaw_mount::LayoutMount::adopt(&rig.target()).unwrap();
    unmount(mount.unwrap());
    holder.kill().unwrap();
    holder.wait().unwrap();
    finish(&rig, &keeper);
}

/// A daemon comes with an upgrade, and the keeper that it finds is of the version before: it has all
/// that another one needs.
fn a_keeper_of_another_version_is_replaced(world: World) {
    for version in ["99", "of another form"] {
        let place = Place::new(world);
        let root = place.root.clone();
        let mut daemon = spawn_daemon(&root, world, 0);
        let mut foreign = spawn("holding_process")
            .env("DEATHS_ROOT", &root)
            .env("DEATHS_DAEMON", daemon.id().to_string())
            .env("DEATHS_VERSION", version)
            .spawn()
            .unwrap();
        wait_for(|| root.join("held").exists());
        // The daemon first: it would start another keeper, of this version.
        daemon.kill().unwrap();
        daemon.wait().unwrap();
        place.kill_keeper();
        let (keeper, rig) = succeed(&root, world, 0, &[]);
        for file in 0..4 {
            rig.read(0, file, 0, FILE).unwrap();
        }
        let ended = foreign.wait().unwrap();
        assert_eq!(ended.signal(), Some(9), "two read one source");
        let mount = thaw_mount::LayoutMount::adopt(&rig.target()).unwrap();
        unmount(mount.unwrap());
        finish(&rig, &keeper);
    }
}

/// FUSE fails closed where an event group would let holes be read.
fn without_a_holder_reads_fail(world: World) {
    let place = Place::new(world);
    let root = place.root.clone();
    let mut daemon = spawn_daemon(&root, world, 0);
    let read = |file: u64| fs::read(root.join("mnt").join(format!("f1-{file}")));
    read(0).unwrap();
    fs::write(root.join("hang"), "").unwrap();
    thread::sleep(Duration::from_millis(50));
    thread::scope(|scope| {
        let waiting = scope.spawn(|| read(1));
        thread::sleep(Duration::from_millis(50));
        // The daemon first: it would start another keeper.
        daemon.kill().unwrap();
        place.kill_keeper();
        daemon.wait().unwrap();
        waiting.join().unwrap().unwrap_err();
    });
    read(2).unwrap_err();
    assert_eq!(
        read(0).unwrap(),
        &content(0)[1][..usize::try_from(FILE).unwrap()]
    );
    drop(thaw_mount::LayoutMount::adopt(&root.join("mnt")).unwrap());
    // The next one begins afresh, over what the dead left mounted.
    let rig = Rig::at(root.clone(), world, content(0), |store, id, size| {
        store.layers().open(id, size).unwrap()
    });
    let keeper = start(&rig, &rig.handler(), LONG);
    let mount = rig.mount(&rig.attach(&keeper));
    rig.read(1, 2, 0, FILE).unwrap();
    unmount(mount);
    finish(&rig, &keeper);
}

#[test]
fn without_a_holder_reads_of_fuse_fail() {
    without_a_holder_reads_fail(World::Fuse);
}

#[test]
fn without_a_holder_reads_of_loops_over_fuse_fail() {
    without_a_holder_reads_fail(World::FuseOnLoops);
}

/// Reads every file once; no read may fail.
fn read_at(root: &Path, bytes: &[Vec<u8>], reader: u64, progress: &AtomicU64) {
    for step in 0..2 * FILES {
        let at = (step * (2 * reader + 7) + reader * 13) % (2 * FILES);
        let (layer, file) = (usize::from(at >= FILES), at % FILES);
        let path = root.join("mnt").join(format!("f{layer}-{file}"));
        let read = fs::read(&path).unwrap();
        let start = usize::try_from(file * FILE).unwrap();
        assert!(
            read == bytes[layer][start..start + read.len()],
            "wrong bytes in {path:?}"
        );
        progress.fetch_add(1, Ordering::SeqCst);
    }
}

fn a_second_daemon_is_refused_while_the_first_lives(world: World) {
    let rig = Rig::new(world, content(0));
    let handler = rig.handler();
    let keeper = start(&rig, &handler, LONG);
    let other: Arc<dyn FaultHandler> = rig.handler();
    let refused = Keeper::start(support::settings(&rig.root, world), &other).unwrap_err();
    assert!(
        matches!(refused, thaw_mount::MountError::Owned(_)),
        "{refused}"
    );
    keeper.shut_down().unwrap();
}

fn a_keeper_is_taken_over_where_none_could_be_begun(world: World) {
    let rig = Rig::new(world, content(0));
    let handler: Arc<dyn FaultHandler> = rig.handler();
    let succeed = || {
        let mut settings = support::settings(&rig.root, world);
        settings.transport = None;
        Keeper::start(settings, &handler)
    };
    let refused = succeed().unwrap_err();
    assert!(
        matches!(refused, thaw_mount::MountError::NoKeeper),
        "{refused}"
    );
    drop(start(&rig, &rig.handler(), LONG));
    let (keeper, _) = succeed().unwrap();
    assert_eq!(keeper.kind(), world.kind());
    keeper.shut_down().unwrap();
}

fn a_keeper_with_nothing_to_keep_ends_by_itself(world: World) {
    let rig = Rig::new(world, content(0));
    let handler = rig.handler();
    let keeper = start(&rig, &handler, LONG);
    let pid = keeper.child_pid().unwrap();
    drop(keeper);
    // It is our child, and stays a zombie.
    wait_for(|| {
        let status = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        status.is_empty() || status.contains(") Z ")
    });
    let table = thaw_mount::mount_table().unwrap();
    let devices = rig.root.join("devices");
    assert!(table.iter().all(|entry| entry.target != devices));
}
