//! A keeper that lives and answers nobody, or none that can be started: a daemon sees to it that no reader waits beyond the bound,
//! also where nobody else holds what it has. Needs root and Linux 6.14.

#![allow(clippy::unwrap_used)]

mod support;

use std::fs;
use std::io;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use support::{FILE, Rig, World, connect, finish, noise, start, unmount};
use thaw_mount::{FaultHandler, Keeper};

/// So that a silent keeper is asked every second.
const BOUND: Duration = Duration::from_secs(8);
/// Longer than a reader may wait on a busy machine.
const PATIENCE: Duration = Duration::from_secs(30);

every_world!(
    a_keeper_that_hangs_is_replaced_by_its_daemon,
    a_keeper_that_hangs_is_replaced_by_the_next_daemon,
    where_no_keeper_can_be_started_reads_fail,
);

#[test]
#[ignore = "not a test: the keeper process of the others"]
fn keeper_process() -> ExitCode {
    let program = PathBuf::from(std::env::args_os().next().unwrap());
    while program.with_file_name("hangs").exists() {
        thread::sleep(Duration::from_millis(50));
    }
    support::be_keeper()
}

fn content() -> Vec<Vec<u8>> {
    vec![noise(3, 32 * FILE)]
}

fn signal(keeper: &Keeper, signal: Signal) {
    let pid = keeper.child_pid().unwrap().cast_signed();
    kill_process(Pid::from_raw(pid).unwrap(), signal).unwrap();
}

/// Reads a file in a thread of its own, which may wait for ever.
fn read(path: PathBuf) -> Receiver<io::Result<Vec<u8>>> {
    let (sender, receiver) = channel();
    thread::spawn(move || sender.send(fs::read(path)));
    receiver
}

fn reads(rig: &Rig, files: std::ops::Range<u64>) {
    for file in files {
        let read = read(rig.file(0, file)).recv_timeout(PATIENCE);
        let read = read.expect("a read in time").unwrap();
        assert!(read == rig.expected(0, file * FILE, FILE));
    }
}

fn eventually(what: &str, mut is_so: impl FnMut() -> bool) {
    let begin = Instant::now();
    while !is_so() {
        assert!(begin.elapsed() < PATIENCE, "{what}: it does not come");
        thread::sleep(Duration::from_millis(5));
    }
}

fn a_keeper_that_hangs_is_replaced_by_its_daemon(world: World) {
    let rig = Rig::new(world, content());
    let keeper = start(&rig, &rig.handler(), BOUND);
    let mount = rig.mount(&rig.attach(&keeper));
    reads(&rig, 0..2);
    let first = keeper.child_pid();
    signal(&keeper, Signal::STOP);
    // What it had is denied by then, or comes.
    let waited = read(rig.file(0, 2)).recv_timeout(PATIENCE);
    drop(waited.expect("an end of the read"));
    eventually("another keeper", || {
        keeper.child_pid().is_some_and(|pid| Some(pid) != first)
    });
    reads(&rig, 2..6);
    unmount(mount);
    finish(&rig, &keeper);
}

fn a_keeper_that_hangs_is_replaced_by_the_next_daemon(world: World) {
    let rig = Rig::new(world, content());
    let handler = rig.handler();
    let keeper = start(&rig, &handler, BOUND);
    let mount = rig.mount(&rig.attach(&keeper));
    reads(&rig, 0..2);
    let first = keeper.child_pid();
    signal(&keeper, Signal::STOP);
    drop(keeper);
    let waiting = read(rig.file(0, 2));
    let (keeper, inherited) = connect(&rig, &handler, BOUND);
    assert_eq!(inherited.len(), 1);
    assert_ne!(keeper.child_pid(), first);
    drop(waiting.recv_timeout(PATIENCE).expect("an end of the read"));
    reads(&rig, 2..6);
    unmount(mount);
    finish(&rig, &keeper);
}

/// Has the program of keepers be another one from now on.
fn make_program(path: &Path, program: Option<&Path>) {
    fs::remove_file(path).ok();
    if let Some(program) = program {
        symlink(program, path).unwrap();
    }
}

fn where_no_keeper_can_be_started_reads_fail(world: World) {
    let rig = Rig::new(world, content());
    let own = std::env::current_exe().unwrap();
    let handler: Arc<dyn FaultHandler> = rig.handler();
    let mut settings = support::settings(&rig.root, world);
    settings.fault_timeout = BOUND;
    settings.exe = rig.root.join("program");
    make_program(&settings.exe, Some(&own));
    let exe = settings.exe.clone();
    let (keeper, _) = Keeper::start(settings, &handler).unwrap();
    keeper.serve();
    let mount = rig.mount(&rig.attach(&keeper));
    let (mut file, hangs) = (0, exe.with_file_name("hangs"));
    // It is gone; it ends at once, as one of another version does; it hangs.
    for other in [None, Some("/bin/false".as_ref()), Some(&*own)] {
        reads(&rig, file..file + 2);
        make_program(&exe, other);
        fs::write(&hangs, "").unwrap();
        signal(&keeper, Signal::KILL);
        eventually("the death of the keeper", || keeper.child_pid().is_none());
        let waited = read(rig.file(0, file + 2)).recv_timeout(PATIENCE);
        let waited = waited.expect("an end of the read");
        assert!(waited.is_err(), "nobody is there to fill it");
        make_program(&exe, Some(&own));
        fs::remove_file(&hangs).unwrap();
        eventually("another keeper", || keeper.child_pid().is_some());
        file += 3;
    }
    reads(&rig, 0..file);
    unmount(mount);
    finish(&rig, &keeper);
}
