//! Faults through the keeper, on real mounts, by each transport. Needs root and Linux 6.14.

#![allow(clippy::unwrap_used)]

mod support;

use std::ffi::OsString;
use std::fs;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use support::{FILE, Filler, Layer, Rig, World, connect, finish, noise, start, unmount};
use thaw_image::{BLOCK, Extent};
use thaw_mount::{
    Denial, FaultHandler, FaultTransport, Keeper, MountError, Released, TransportKind, Unmount,
};
use thaw_sys::fuse::{Device, Files, FlatFile, Node, Read};
use thaw_sys::wake::{Awake, LATENCY};

const LONG: Duration = Duration::from_secs(30);

every_world!(
    an_absent_range_is_filled_and_a_present_one_asks_nobody,
    a_program_is_executed_from_absent_bytes,
    a_failure_is_the_readers_error_and_the_next_read_tries_again,
    a_reader_waits_no_longer_than_the_deadline,
    a_read_that_fails_has_waited_once,
    the_bound_is_that_of_the_daemon_that_serves,
    readers_of_one_page_wait_together,
    a_layer_that_is_made_anew_is_not_what_it_was,
    a_layer_that_is_made_anew_behind_its_keeper_is_served,
    what_a_keeper_does_not_know_is_forgotten,
    readers_in_parallel_are_served_in_parallel,
    the_trace_has_each_block_once_in_the_order_of_reads,
    an_image_of_128_layers_is_mounted,
    processors_do_not_halt_while_reads_follow_one_another,
    a_keeper_that_may_open_few_files_says_so_and_serves,
    a_fence_is_refused_where_nobody_sees_the_end_of_a_read,
);

#[test]
#[ignore = "not a test: the keeper process of the others"]
fn keeper_process() -> ExitCode {
    support::be_keeper()
}

fn an_absent_range_is_filled_and_a_present_one_asks_nobody(world: World) {
    let rig = Rig::new(world, vec![noise(1, 20 * FILE + 700)]);
    rig.layers[0].fill(Extent::between(0, FILE));
    let handler = rig.handler();
    let keeper = start(&rig, &handler, LONG);
    let mount = rig.mount(&rig.attach(&keeper));

    rig.read(0, 0, 0, FILE).unwrap();
    assert_eq!(handler.calls(), 0);
    rig.read(0, 1, 5000, 100).unwrap();
    let calls = handler.calls.lock().unwrap().clone();
    assert!(
        calls[0].1.contains(&Extent {
            offset: FILE + 5000,
            len: 100
        }),
        "{calls:?}"
    );
    for file in 0..20 {
        rig.read(0, file, 0, FILE).unwrap();
    }
    // The file at the end of the tar, which is no whole block.
    rig.read(0, 20, 0, 700).unwrap();

    let counters = keeper.counters().unwrap();
    assert_eq!(counters.misses, handler.calls() as u64);
    assert_eq!(counters.filled, counters.misses);
    assert_eq!(counters.waits.iter().sum::<u64>(), counters.misses);
    assert!(counters.hits > 0 && counters.events == counters.hits + counters.misses);
    unmount(mount);
    finish(&rig, &keeper);
}

fn a_program_is_executed_from_absent_bytes(world: World) {
    let program = support::executable("/bin/echo");
    let len = (program.len() as u64).min(FILE);
    assert_eq!(len, program.len() as u64, "the program fits into one file");
    let rig = Rig::new(world, vec![program]);
    let handler = rig.handler();
    let keeper = start(&rig, &handler, LONG);
    let mount = rig.mount(&rig.attach(&keeper));
    let run = Command::new(rig.file(0, 0)).arg("mapped").output().unwrap();
    assert_eq!(run.stdout, b"mapped\n");
    assert!(handler.calls() > 0);
    unmount(mount);
    finish(&rig, &keeper);
}

fn a_failure_is_the_readers_error_and_the_next_read_tries_again(world: World) {
    let rig = Rig::new(world, vec![noise(2, 4 * FILE)]);
    let handler = rig.handler();
    let keeper = start(&rig, &handler, LONG);
    let mount = rig.mount(&rig.attach(&keeper));
    // EROFS has one error for every failed read of a page.
    for denial in [Denial::Io, Denial::NoSpace] {
        *handler.denial.lock().unwrap() = Some(denial);
        let error = rig.read(0, 1, 0, 4096).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(5));
    }
    *handler.denial.lock().unwrap() = None;
    // Said to be filled, and is not: only the bits count.
    handler.lie.store(true, Ordering::SeqCst);
    assert!(rig.read(0, 1, 0, 4096).is_err());
    handler.lie.store(false, Ordering::SeqCst);
    rig.read(0, 1, 0, 4096).unwrap();
    assert!(keeper.counters().unwrap().failed >= 3);
    unmount(mount);
    finish(&rig, &keeper);
}

fn a_reader_waits_no_longer_than_the_deadline(world: World) {
    let rig = Rig::new(world, vec![noise(3, 4 * FILE)]);
    let handler = rig.handler();
    let keeper = start(&rig, &handler, Duration::from_millis(300));
    let mount = rig.mount(&rig.attach(&keeper));
    handler.hang.store(true, Ordering::SeqCst);
    let started = Instant::now();
    assert!(rig.read(0, 1, 0, 512).is_err());
    let waited = started.elapsed();
    assert!(
        waited >= Duration::from_millis(290) && waited < Duration::from_secs(3),
        "{waited:?}"
    );
    assert!(keeper.counters().unwrap().expired > 0);
    handler.hang.store(false, Ordering::SeqCst);
    retry(|| rig.read(0, 1, 0, 512).ok());
    unmount(mount);
    finish(&rig, &keeper);
}

fn the_bound_is_that_of_the_daemon_that_serves(world: World) {
    let rig = Rig::new(world, vec![noise(3, 4 * FILE)]);
    let handler = rig.handler();
    let keeper = start(&rig, &handler, Duration::from_secs(600));
    let mount = rig.mount(&rig.attach(&keeper));
    drop(keeper);
    let (keeper, inherited) = connect(&rig, &handler, Duration::from_millis(300));
    assert_eq!(inherited.len(), 1);
    drop(inherited);
    handler.hang.store(true, Ordering::SeqCst);
    assert!(rig.read(0, 1, 0, 512).is_err());
    assert!(keeper.counters().unwrap().expired > 0);
    handler.hang.store(false, Ordering::SeqCst);
    retry(|| rig.read(0, 1, 0, 512).ok());
    unmount(mount);
    finish(&rig, &keeper);
}

/// Where it could not read ahead the kernel asks again, for the page alone.
fn a_read_that_fails_has_waited_once(world: World) {
    let rig = Rig::new(world, vec![noise(5, 8 * FILE)]);
    let handler = rig.handler();
    let keeper = start(&rig, &handler, Duration::from_secs(1));
    let mount = rig.mount(&rig.attach(&keeper));
    handler.hang.store(true, Ordering::SeqCst);
    // A busy machine may take longer from one to the other than is waited for.
    let is_asked_once = |file| {
        let before = handler.calls();
        rig.read(0, file, 0, FILE).is_err() && handler.calls() == before + 1
    };
    assert!((0..8).any(is_asked_once), "{:?}", handler.calls.lock());
    handler.hang.store(false, Ordering::SeqCst);
    // Who was denied once is not denied for ever.
    retry(|| rig.read(0, 0, 0, FILE).ok());
    unmount(mount);
    finish(&rig, &keeper);
}

/// They stand behind one another for the lock of their page, and each asks when the one before it was denied.
fn readers_of_one_page_wait_together(world: World) {
    let rig = Rig::new(world, vec![noise(6, 8 * FILE)]);
    let handler = rig.handler();
    let keeper = start(&rig, &handler, Duration::from_secs(1));
    let mount = rig.mount(&rig.attach(&keeper));
    handler.hang.store(true, Ordering::SeqCst);
    // A busy machine may take longer from one to the other than is waited for.
    let are_asked_for_once = |file| {
        let before = handler.calls();
        let failed = thread::scope(|scope| {
            let rig = &rig;
            let read = |_| scope.spawn(move || rig.read(0, file, 0, 4096).is_err());
            let readers: Vec<_> = (0..16).map(read).collect();
            readers.into_iter().all(|reader| reader.join().unwrap())
        });
        failed && handler.calls() == before + 1
    };
    assert!((0..8).any(are_asked_for_once), "{:?}", handler.calls.lock());
    handler.hang.store(false, Ordering::SeqCst);
    retry(|| rig.read(0, 1, 0, 4096).ok());
    unmount(mount);
    finish(&rig, &keeper);
}

/// What a file had, one of the same name and number may not have.
fn a_layer_that_is_made_anew_is_not_what_it_was(world: World) {
    let mut rig = Rig::new(world, vec![noise(7, 4 * FILE)]);
    let handler = rig.handler();
    let keeper = start(&rig, &handler, LONG);
    let mount = rig.mount(&rig.attach(&keeper));
    for file in 0..4 {
        rig.read(0, file, 0, FILE).unwrap();
    }
    unmount(mount);
    let id = rig.layers[0].id();
    retry(|| keeper.release(&id).ok());
    let bytes = Arc::clone(&rig.layers[0].bytes);
    make_anew(&mut rig, &handler, bytes);
    let mount = rig.mount(&rig.attach(&keeper));
    for file in 0..4 {
        rig.read(0, file, 0, FILE).unwrap();
    }
    unmount(mount);
    finish(&rig, &keeper);
}

/// Makes the only layer of a rig anew, for a tar of `bytes`.
fn make_anew(rig: &mut Rig, handler: &Filler, bytes: Arc<Vec<u8>>) {
    let id = rig.layers[0].id();
    handler.layers.lock().unwrap().clear();
    rig.layers.clear();
    rig.store.layers().remove(&id).unwrap();
    let tar = rig.store.layers().open(&id, bytes.len() as u64).unwrap();
    let known = (Arc::clone(&tar), Arc::clone(&bytes));
    handler.layers.lock().unwrap().push(known);
    rig.layers.push(Layer { tar, bytes });
}

/// Nobody has let it go: the new file has nobody who answers for it.
fn a_layer_that_is_made_anew_behind_its_keeper_is_served(world: World) {
    let mut rig = Rig::new(world, vec![noise(7, 4 * FILE)]);
    let handler = rig.handler();
    let keeper = start(&rig, &handler, LONG);
    let mount = rig.mount(&rig.attach(&keeper));
    (0..4).for_each(|file| rig.read(0, file, 0, FILE).unwrap());
    unmount(mount);
    let bytes = Arc::clone(&rig.layers[0].bytes);
    make_anew(&mut rig, &handler, bytes);
    // A mount that was taken away lazily may be in use still.
    let attach = || keeper.attach(&rig.layers[0].spec(), rig.layers[0].tar.file().as_fd());
    let mount = rig.mount(&[retry(|| attach().ok())]);
    (0..4).for_each(|file| rig.read(0, file, 0, FILE).unwrap());
    unmount(mount);
    finish(&rig, &keeper);
}

/// The next keeper refuses a layer whose presence file is another's by now.
fn what_a_keeper_does_not_know_is_forgotten(world: World) {
    let mut rig = Rig::new(world, vec![noise(8, 4 * FILE)]);
    let handler = rig.handler();
    let keeper = start(&rig, &handler, LONG);
    rig.attach(&keeper);
    let (id, longer) = (rig.layers[0].id(), noise(8, 4 * FILE + BLOCK));
    make_anew(&mut rig, &handler, Arc::new(longer));
    let first = retry(|| keeper.child_pid());
    let pid = Pid::from_raw(first.cast_signed()).unwrap();
    kill_process(pid, Signal::KILL).unwrap();
    retry(|| keeper.child_pid().filter(|pid| *pid != first));
    let released = keeper.release(&id);
    assert!(
        matches!(released, Err(MountError::Unknown(_))),
        "{released:?}"
    );
    rig.attach(&keeper);
    finish(&rig, &keeper);
}

fn readers_in_parallel_are_served_in_parallel(world: World) {
    let rig = Rig::new(world, vec![noise(4, 16 * FILE)]);
    let handler = rig.handler();
    let keeper = start(&rig, &handler, LONG);
    let mount = rig.mount(&rig.attach(&keeper));
    handler.delay_us.store(200_000, Ordering::SeqCst);
    thread::scope(|scope| {
        for file in 0..16 {
            let rig = &rig;
            scope.spawn(move || rig.read(0, file, 0, 512).unwrap());
        }
    });
    let most = handler.most.load(Ordering::SeqCst);
    assert!(most >= 12, "at most {most} at once");
    unmount(mount);
    finish(&rig, &keeper);
}

/// FUSE serves layers that are whole, too, as long as they are open.
fn a_layer_is_let_go_when_nobody_has_it_open(world: World) {
    let rig = Rig::new(world, vec![noise(5, 4 * FILE)]);
    let layer = &rig.layers[0];
    layer.fill(layer.all());
    let handler = rig.handler();
    let keeper = start(&rig, &handler, LONG);
    let mount = rig.mount(&rig.attach(&keeper));
    let early = keeper.release(&layer.id()).unwrap_err();
    assert!(matches!(early, MountError::InUse(_)), "{early}");
    rig.read(0, 0, 0, 100).unwrap();
    let refused = keeper.shut_down().unwrap_err();
    assert!(matches!(refused, MountError::Refused(_)), "{refused}");
    // A lazy unmount is no proof: the open file keeps the superblock.
    let open = std::fs::File::open(rig.file(0, 1)).unwrap();
    mount.unmount(Unmount::Lazy).unwrap();
    let still = keeper.release(&layer.id()).unwrap_err();
    assert!(matches!(still, MountError::InUse(_)), "{still}");
    drop(open);
    let released = retry(|| keeper.release(&layer.id()).ok());
    assert_eq!(released, Released::Unused);
    // Once more: the kernel remembers the file of before.
    let mount = rig.mount(&rig.attach(&keeper));
    rig.read(0, 1, 0, FILE).unwrap();
    unmount(mount);
    finish(&rig, &keeper);
}

#[test]
fn on_fuse_a_layer_is_let_go_when_nobody_has_it_open() {
    a_layer_is_let_go_when_nobody_has_it_open(World::Fuse);
}

#[test]
fn on_loops_a_layer_is_let_go_when_nobody_has_it_open() {
    a_layer_is_let_go_when_nobody_has_it_open(World::FuseOnLoops);
}

#[test]
fn a_layer_is_let_go_when_it_is_whole_or_unused_and_not_before() {
    let rig = Rig::new(
        World::Fanotify,
        vec![noise(5, 4 * FILE), noise(6, 4 * FILE)],
    );
    let handler = rig.handler();
    let keeper = start(&rig, &handler, LONG);
    let mount = rig.mount(&rig.attach(&keeper));
    let (whole, part) = (&rig.layers[0], &rig.layers[1]);
    let early = keeper.release(&whole.id()).unwrap_err();
    assert!(matches!(early, MountError::InUse(_)), "{early}");
    // Still served.
    rig.read(0, 0, 0, 100).unwrap();

    whole.fill(whole.all());
    assert_eq!(keeper.release(&whole.id()).unwrap(), Released::Whole);
    let unknown = keeper.release(&whole.id()).unwrap_err();
    assert!(matches!(unknown, MountError::Unknown(_)), "{unknown}");
    let before = keeper.counters().unwrap().events;
    rig.read(0, 3, 0, FILE).unwrap();
    assert_eq!(keeper.counters().unwrap().events, before);

    let refused = keeper.shut_down().unwrap_err();
    assert!(matches!(refused, MountError::Refused(_)), "{refused}");
    // A lazy unmount is no proof: the open file keeps the superblock.
    let open = std::fs::File::open(rig.file(1, 0)).unwrap();
    mount.unmount(Unmount::Lazy).unwrap();
    assert!(matches!(
        keeper.release(&part.id()),
        Err(MountError::InUse(_))
    ));
    drop(open);
    let released = retry(|| keeper.release(&part.id()).ok());
    assert_eq!(released, Released::Unused);
    keeper.shut_down().unwrap();
}

/// What the kernel does a little later, such as the end of a superblock.
fn retry<T>(mut try_it: impl FnMut() -> Option<T>) -> T {
    let until = Instant::now() + Duration::from_secs(5);
    loop {
        if let Some(done) = try_it() {
            return done;
        }
        assert!(Instant::now() < until, "did not happen in time");
        thread::sleep(Duration::from_millis(10));
    }
}

fn processors_do_not_halt_while_reads_follow_one_another(world: World) {
    let rig = Rig::new(world, vec![noise(8, 100 * FILE)]);
    rig.layers[0].fill(Extent::between(0, 50 * FILE));
    let handler = rig.handler();
    let keeper = start(&rig, &handler, LONG);
    let mount = rig.mount(&rig.attach(&keeper));
    let descriptors = format!("/proc/{}/fd", keeper.child_pid().unwrap());
    let holds = || {
        let mut open = fs::read_dir(&descriptors).unwrap();
        open.any(|fd| fs::read_link(fd.unwrap().path()).is_ok_and(|to| to == Path::new(LATENCY)))
    };
    // A mount may read, too.
    retry(|| (!holds()).then_some(()));
    let mut held = 0;
    for file in 0..100 {
        rig.read(0, file, 0, FILE).unwrap();
        held += u32::from(holds());
    }
    // Where a halt costs nothing, as on a machine of its own, it is never asked for.
    assert_eq!(held > 0, Awake::is_of_use(), "while files are read");
    retry(|| (!holds()).then_some(()));
    unmount(mount);
    finish(&rig, &keeper);
}

#[test]
fn a_whole_layer_is_read_without_any_process() {
    let rig = Rig::new(World::Fanotify, vec![noise(7, 8 * FILE)]);
    let handler = rig.handler();
    let keeper = start(&rig, &handler, LONG);
    let mount = rig.mount(&rig.attach(&keeper));
    rig.layers[0].fill(rig.layers[0].all());
    keeper.release(&rig.layers[0].id()).unwrap();
    keeper.shut_down().unwrap();
    drop(keeper);
    for file in 0..8 {
        rig.read(0, file, 0, FILE).unwrap();
    }
    unmount(mount);
}

fn the_trace_has_each_block_once_in_the_order_of_reads(world: World) {
    let rig = Rig::new(world, vec![noise(8, 8 * FILE), noise(9, 8 * FILE)]);
    let handler = rig.handler();
    let keeper = start(&rig, &handler, LONG);
    let mount = rig.mount(&rig.attach(&keeper));
    let ids = [rig.layers[0].id(), rig.layers[1].id()];
    rig.read(0, 7, 0, 512).unwrap();
    keeper.start_trace(&ids).unwrap();
    for (layer, file) in [(1, 3), (0, 5), (1, 0), (0, 5)] {
        rig.read(layer, file, 0, FILE).unwrap();
    }
    let trace = keeper.trace(&ids).unwrap();
    assert_eq!(trace.dropped, 0);
    // What was read of each file, in order.
    let mut order: Vec<(usize, u64)> = Vec::new();
    let mut total = 0;
    let mut seen = std::collections::HashSet::new();
    for pair in trace.entries.windows(2) {
        assert!(pair[0].at <= pair[1].at);
    }
    for entry in &trace.entries {
        let layer = ids.iter().position(|id| *id == entry.layer).unwrap();
        let file = entry.extent.offset / FILE;
        if order.last() != Some(&(layer, file)) {
            order.push((layer, file));
        }
        let blocks = entry.extent.blocks();
        for block in blocks.first..blocks.end() {
            assert!(
                seen.insert((layer, block)),
                "block {block} of layer {layer} twice"
            );
        }
        total += entry.extent.len;
    }
    assert_eq!(order, [(1, 3), (0, 5), (1, 0)]);
    assert_eq!(total, 3 * FILE);
    unmount(mount);
    finish(&rig, &keeper);
}

fn an_image_of_128_layers_is_mounted(world: World) {
    let rig = Rig::new(world, (0..128).map(|n| noise(100 + n, 8192)).collect());
    let handler = rig.handler();
    let keeper = start(&rig, &handler, LONG);
    let mount = rig.mount(&rig.attach(&keeper));
    for layer in 0..128 {
        rig.read(layer, 0, 0, 8192).unwrap();
    }
    assert!(handler.calls() >= 128);
    unmount(mount);
    finish(&rig, &keeper);
}

fn a_keeper_that_may_open_few_files_says_so_and_serves(world: World) {
    let rig = Rig::new(world, vec![noise(1, 64 * FILE)]);
    let handler = rig.handler();
    let said = rig.root.join("said");
    let mut settings = support::settings(&rig.root, world);
    let script = "RUST_LOG=warn exec setpriv --bounding-set=-sys_resource \
                  prlimit --nofile=64:64 \"$@\" 2> \"$0\"";
    let mut args: Vec<OsString> = vec!["-c".into(), script.into(), said.clone().into()];
    args.push(settings.exe.into());
    args.append(&mut settings.args);
    (settings.exe, settings.args) = ("/bin/sh".into(), args);
    let for_keeper: Arc<dyn FaultHandler> = Arc::clone(&handler) as _;
    let (keeper, _) = Keeper::start(settings, &for_keeper).unwrap();
    keeper.serve();
    let mount = rig.mount(&rig.attach(&keeper));
    thread::scope(|scope| {
        for file in 0..64 {
            let rig = &rig;
            scope.spawn(move || rig.read(0, file, 0, FILE).unwrap());
        }
    });
    let said = fs::read_to_string(said).unwrap();
    assert!(
        said.contains("open files") && said.contains("limit=64"),
        "{said}"
    );
    unmount(mount);
    finish(&rig, &keeper);
}

/// What was let through may be read at any later moment: nothing may lose its bytes.
fn a_fence_is_refused_where_nobody_sees_the_end_of_a_read(world: World) {
    let rig = Rig::new(world, vec![noise(9, 4 * FILE)]);
    let handler = rig.handler();
    let keeper = start(&rig, &handler, LONG);
    let mount = rig.mount(&rig.attach(&keeper));
    rig.read(0, 0, 0, FILE).unwrap();
    match (world.kind(), keeper.fence()) {
        (TransportKind::Fanotify, Err(MountError::Refused(_))) | (TransportKind::Fuse, Ok(())) => {}
        (kind, fenced) => panic!("{kind:?}: {fenced:?}"),
    }
    // It serves as before.
    rig.read(0, 1, 0, FILE).unwrap();
    unmount(mount);
    finish(&rig, &keeper);
}

/// A disk with one file, each read of which lasts until the test answers it. Unmounted when dropped.
struct SlowDisk {
    path: PathBuf,
    reads: Receiver<Read>,
}

struct SlowFile(u64);

impl Files for SlowFile {
    fn find(&self, name: &[u8]) -> Option<FlatFile> {
        (name == b"tar").then(|| self.get(Node(2)))?
    }

    fn get(&self, node: Node) -> Option<FlatFile> {
        let size = self.0;
        (node == Node(2)).then_some(FlatFile { node, size })
    }
}

impl SlowDisk {
    fn new(path: PathBuf, size: u64) -> Self {
        fs::create_dir(&path).unwrap();
        let device = Arc::new(Device::mount(&path).unwrap());
        let (arrive, reads) = channel();
        // It ends with the mount.
        thread::spawn(move || {
            while let Ok(found) = device.read(&SlowFile(size)) {
                // Dropped, they fail.
                found.into_iter().for_each(|read| drop(arrive.send(read)));
                thread::sleep(Duration::from_millis(1));
            }
        });
        Self { path, reads }
    }
}

impl Drop for SlowDisk {
    fn drop(&mut self) {
        let _ = thaw_sys::mount::unmount(&self.path, Unmount::Lazy);
    }
}

#[test]
fn a_fence_waits_for_the_reads_that_were_let_through() {
    let rig = Rig::new(World::Fuse, vec![noise(10, 4 * FILE)]);
    let layer = &rig.layers[0];
    layer.fill(layer.all());
    let disk = SlowDisk::new(rig.root.join("slow"), layer.bytes.len() as u64);
    let tar = fs::File::open(disk.path.join("tar")).unwrap();
    let keeper = start(&rig, &rig.handler(), LONG);
    let mount = rig.mount(&[keeper.attach(&layer.spec(), tar.as_fd()).unwrap()]);
    let answer = |read: Read| {
        let end = (read.offset() + u64::from(read.size())).min(layer.bytes.len() as u64);
        let bytes = rig.expected(0, read.offset(), end - read.offset());
        read.answer(bytes).unwrap();
    };
    let waited = thread::scope(|scope| {
        let reader = scope.spawn(|| rig.read(0, 1, 0, 4096));
        let first = disk.reads.recv_timeout(LONG).unwrap();
        let fence = scope.spawn(|| keeper.fence());
        thread::sleep(Duration::from_millis(200));
        let waited = !fence.is_finished();
        answer(first);
        while !(reader.is_finished() && fence.is_finished()) {
            let next = disk.reads.recv_timeout(Duration::from_millis(1));
            next.into_iter().for_each(answer);
        }
        reader.join().unwrap().unwrap();
        fence.join().unwrap().unwrap();
        waited
    });
    drop(tar);
    unmount(mount);
    finish(&rig, &keeper);
    assert!(waited, "a read had no bytes yet");
}
