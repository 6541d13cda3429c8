//! Daemon and keeper are killed under a load of reads that compare every byte: a hole must never be
//! read, by anybody. Needs root and Linux 6.14.

#![allow(clippy::unwrap_used)]

mod support;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use support::{FILE, Rig, finish, noise, start};
use thaw_mount::{FaultHandler, FaultTransport, Keeper, Unmount};

const ROUNDS: u64 = 20;
const FILES: u64 = 32;
const LONG: Duration = Duration::from_secs(30);

#[test]
#[ignore = "not a test: the keeper process of the others"]
fn keeper_process() -> ExitCode {
    support::be_keeper()
}

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

#[test]
fn a_dead_keeper_costs_errors_and_never_bytes() {
    let mut failures = 0;
    for round in 0..ROUNDS {
        let rig = Rig::new(content(round));
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
        mount.unmount(Unmount::Now).unwrap();
        finish(&rig, &keeper);
    }
    println!("{failures} reads failed in {ROUNDS} rounds with two deaths each");
}

/// The daemon that will be killed: mounts, serves some misses slowly and hangs at the others.
#[test]
#[ignore = "not a test: the daemon process of the others"]
fn daemon_process() {
    let root = PathBuf::from(std::env::var_os("DEATHS_ROOT").unwrap());
    let round = std::env::var("DEATHS_ROUND").unwrap().parse().unwrap();
    let rig = Rig::at(root.clone(), content(round), None, |store, id, size| {
        store.layers().open(id, size).unwrap()
    });
    let handler = rig.handler();
    handler.delay_us.store(300, Ordering::SeqCst);
    let keeper = start(&rig, &handler, LONG);
    let target = rig.mount(&rig.attach(&keeper)).detach();
    assert_eq!(target, rig.target());
    fs::write(root.join("ready"), "").unwrap();
    wait_for(|| root.join("hang").exists());
    handler.hang.store(true, Ordering::SeqCst);
    thread::sleep(LONG);
}

fn spawn_daemon(root: &Path, round: u64) -> std::process::Child {
    Command::new(std::env::current_exe().unwrap())
        .args(["daemon_process", "--exact", "--ignored", "--nocapture"])
        .env("DEATHS_ROOT", root)
        .env("DEATHS_ROUND", round.to_string())
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .spawn()
        .unwrap()
}

/// Takes over what a dead daemon left at `root`.
fn succeed(root: &Path, round: u64) -> (Keeper, Rig) {
    // Its handler is not known before its layers are adopted: the gate that `serve` opens.
    let late = Arc::new(Late::default());
    let handler: Arc<dyn FaultHandler> = Arc::clone(&late) as _;
    let (keeper, inherited) = Keeper::start(support::settings(root), &handler).unwrap();
    assert_eq!(inherited.len(), 2);
    let rig = Rig::adopt(root, content(round), inherited);
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
}

#[test]
fn a_dead_daemon_costs_time_and_nothing_else() {
    for round in 0..ROUNDS {
        let dir = tempfile::tempdir_in("/var/tmp").unwrap();
        let root = dir.path().to_owned();
        let mut daemon = spawn_daemon(&root, round);
        wait_for(|| root.join("ready").exists());
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
        let (keeper, rig) = succeed(&root, round);
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
        mount.unmount(Unmount::Now).unwrap();
        finish(&rig, &keeper);
    }
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

#[test]
fn a_second_daemon_is_refused_while_the_first_lives() {
    let rig = Rig::new(content(0));
    let handler = rig.handler();
    let keeper = start(&rig, &handler, LONG);
    let other: Arc<dyn FaultHandler> = rig.handler();
    let refused = Keeper::start(support::settings(&rig.root), &other).unwrap_err();
    assert!(
        matches!(refused, thaw_mount::MountError::Owned(_)),
        "{refused}"
    );
    keeper.shut_down().unwrap();
}

#[test]
fn a_keeper_with_nothing_to_keep_ends_by_itself() {
    let rig = Rig::new(content(0));
    let handler = rig.handler();
    let keeper = start(&rig, &handler, LONG);
    let pid = keeper.child_pid().unwrap();
    drop(keeper);
    // It is our child, and stays a zombie.
    wait_for(|| {
        let status = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        status.is_empty() || status.contains(") Z ")
    });
}
