//! Everything at once, for as long as `THAW_CHAOS_SECONDS` says (20): processes are killed and
//! stopped, the registry misbehaves in every way, the disk fills up, blocks are given back; and
//! containers read, and every byte is compared. `cargo xtask chaos` runs it for longer.
//!
//! No byte is wrong, no read takes longer than it may, and when there is peace again everything can
//! be read and nothing is left. Errors in between are allowed: `EIO` and `ENOSPC`. Monitors are not
//! killed: with fanotify the death of all holders is the one case that is not closed.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use rustix::fs::{Advice, fadvise};
use rustix::process::{Pid, Signal, kill_process};
use thaw_testkit::thaw::Thaw;

use super::disks::Disk;
use super::unruly::{Chance, Unruly};
use super::{BOUND, FILE_BYTES, Scene, nothing_is_left, processes};

by_every_transport!(nothing_is_ever_wrong);

/// Of trouble, until there is peace.
const ROUND: Duration = Duration::from_secs(4);
/// Seconds that a read may wait.
const SECONDS: u32 = 5;
/// For a file, whose read is some faults one after the other, on a busy machine.
const LONGEST: Duration = Duration::from_secs(4 * SECONDS as u64);
const EIO: i32 = 5;
const ENOSPC: i32 = 28;

/// What was seen.
#[derive(Debug, Default)]
struct Seen {
    bytes: AtomicU64,
    errors: AtomicU64,
    longest: AtomicU64,
}

fn nothing_is_ever_wrong(transport: &str) {
    let seconds = std::env::var("THAW_CHAOS_SECONDS");
    let seconds = seconds.map_or(20, |text| text.parse().expect("a number of seconds"));
    let seed = std::env::var("THAW_CHAOS_SEED").ok();
    let seed = seed.map_or_else(
        || u64::from(std::process::id()),
        |text| text.parse().unwrap(),
    );
    println!("{transport}: THAW_CHAOS_SEED={seed}");
    let chance = Chance::new(seed);
    let scene = Scene::new();
    let unruly = Unruly::new(&scene.host, seed);
    let image = scene
        .image
        .replace(&scene.host, &unruly.address.to_string());
    let disk = Disk::new(64);
    let node = disk.store();
    let config = disk.path().join("config.toml");
    fs::write(&config, format!("fault-timeout-seconds = {SECONDS}\n")).unwrap();
    let seen = Seen::default();
    let mut deeds = BTreeMap::new();
    let begin = Instant::now();
    let mut rounds = 0;
    while rounds == 0 || begin.elapsed() < Duration::from_secs(seconds) {
        round(
            &scene, &image, &unruly, &node, &disk, transport, &chance, &seen, &mut deeds,
        );
        rounds += 1;
    }
    let load = |counter: &AtomicU64| counter.load(Ordering::SeqCst);
    println!(
        "{transport}: {rounds} rounds in {} s, {} MB compared, {} reads failed, the longest took {} ms",
        begin.elapsed().as_secs(),
        load(&seen.bytes) >> 20,
        load(&seen.errors),
        load(&seen.longest)
    );
    println!("{transport}: {deeds:?}; registry {:?}", unruly.done());
    assert!(load(&seen.bytes) > 0, "nothing was read");
}

#[expect(clippy::too_many_arguments, reason = "it is all of the scene")]
fn round(
    scene: &Scene,
    image: &str,
    unruly: &Unruly,
    node: &Thaw,
    disk: &Disk,
    transport: &str,
    chance: &Chance,
    seen: &Seen,
    deeds: &mut BTreeMap<&'static str, u64>,
) {
    unruly.calm(true);
    let config = disk.path().join("config.toml");
    let all = ["--net", "none", "--transport", transport];
    let config = ["--config", config.to_str().unwrap()];
    // Mostly all is read on demand; else fill and working set bring it, as long as they live.
    let more: &[&str] = match chance.below(4) {
        0 => &["--fill"],
        _ => &["--profile", "none"],
    };
    let flags = [&config[..], &all, more].concat();
    let roots = ["one", "two"].map(|name| scene.start_as(node, name, image, &flags));
    let over = AtomicBool::new(false);
    unruly.calm(false);
    thread::scope(|scope| {
        for (number, root) in roots.iter().enumerate() {
            let over = &over;
            scope.spawn(move || {
                let mut turn = number;
                while !over.load(Ordering::SeqCst) {
                    read_some(scene, node, root, turn, seen, over);
                    turn += 7;
                }
            });
        }
        let begin = Instant::now();
        while begin.elapsed() < ROUND {
            thread::sleep(Duration::from_millis(100 + chance.below(900)));
            *deeds.entry(trouble(node, disk, chance)).or_default() += 1;
            drop_pages(scene, &roots[usize::try_from(chance.below(2)).unwrap()]);
            // Else the next command, or a monitor, starts the next daemon.
            if chance.below(2) == 0 {
                node.output(configured(disk, &["images"])).unwrap();
            }
        }
        over.store(true, Ordering::SeqCst);
    });
    unruly.calm(true);
    fs::remove_file(disk.path().join("ballast")).ok();
    for root in &roots {
        for name in scene.files.keys() {
            let begin = Instant::now();
            while let Err(error) = scene.read(root, name) {
                assert!(
                    begin.elapsed() < BOUND,
                    "{name}: {error} after peace: {}",
                    logs(node)
                );
                thread::sleep(Duration::from_millis(50));
            }
        }
    }
    node.run(["rm", "-f", "one", "two"]).unwrap();
    nothing_is_left(node);
}

/// A command whose daemon, if it starts one, has the bound of this test.
fn configured(disk: &Disk, words: &[&str]) -> Vec<String> {
    let config = disk.path().join("config.toml");
    let flags = ["--config", config.to_str().unwrap()];
    flags.iter().chain(words).map(ToString::to_string).collect()
}

/// Reads files in another order each time.
fn read_some(scene: &Scene, node: &Thaw, root: &Path, turn: usize, seen: &Seen, over: &AtomicBool) {
    let names: Vec<&String> = scene.files.keys().collect();
    for step in 0..names.len() {
        if over.load(Ordering::SeqCst) {
            return;
        }
        let name = names[(step * 5 + turn) % names.len()];
        let begin = Instant::now();
        match scene.read(root, name) {
            Ok(()) => seen.bytes.fetch_add(FILE_BYTES as u64, Ordering::SeqCst),
            Err(error) => {
                let allowed = [Some(EIO), Some(ENOSPC)];
                let is_allowed = allowed.contains(&error.raw_os_error());
                assert!(is_allowed, "{name}: {error}\n{}", logs(node));
                seen.errors.fetch_add(1, Ordering::SeqCst)
            }
        };
        let took = begin.elapsed();
        assert!(took < LONGEST, "{name} was waited for too long: {took:?}");
        let took = u64::try_from(took.as_millis()).unwrap();
        seen.longest.fetch_max(took, Ordering::SeqCst);
    }
}

/// What daemons, keepers and monitors have logged.
fn logs(node: &Thaw) -> String {
    let mut paths: Vec<_> = ["daemon.log", "keeper.log"]
        .map(|name| node.root().join(name))
        .into();
    let containers = fs::read_dir(node.root().join("containers")).unwrap();
    paths.extend(
        containers
            .flatten()
            .map(|entry| entry.path().join("monitor.log")),
    );
    let log = |path: &std::path::PathBuf| {
        let text = fs::read_to_string(path).unwrap_or_default();
        let lines: Vec<&str> = text.lines().rev().take(60).collect();
        let last = lines.into_iter().rev().collect::<Vec<_>>().join("\n");
        format!("== {}\n{last}\n", path.display())
    };
    paths.iter().map(log).collect()
}

/// Has the next reads ask again.
fn drop_pages(scene: &Scene, root: &Path) {
    for name in scene.files.keys() {
        if let Ok(file) = fs::File::open(root.join(name)) {
            fadvise(&file, 0, None, Advice::DontNeed).ok();
        }
    }
}

/// Sends a signal to processes that may be gone by now.
fn send(pids: &[u32], signal: Signal) {
    for pid in pids {
        let pid = Pid::from_raw(pid.cast_signed()).unwrap();
        kill_process(pid, signal).ok();
    }
}

/// One bad thing; says which.
fn trouble(node: &Thaw, disk: &Disk, chance: &Chance) -> &'static str {
    let daemon: Vec<u32> = node.daemon().into_iter().collect();
    let keepers = || processes(node, "keeper");
    let a_while = || thread::sleep(Duration::from_millis(200 + chance.below(1500)));
    match chance.below(10) {
        0..=2 => {
            send(&daemon, Signal::KILL);
            "daemon killed"
        }
        3 => {
            send(&keepers(), Signal::KILL);
            "keeper killed"
        }
        4 | 5 => {
            send(&[daemon, keepers()].concat(), Signal::KILL);
            "both killed"
        }
        6 => {
            send(&daemon, Signal::STOP);
            a_while();
            send(&daemon, Signal::CONT);
            "daemon stopped"
        }
        7 => {
            let keepers = keepers();
            send(&keepers, Signal::STOP);
            a_while();
            send(&keepers, Signal::CONT);
            "keeper stopped"
        }
        8 => {
            let ballast = disk.path().join("ballast");
            let file = fs::File::create(&ballast).unwrap();
            let len = 60 << 20;
            // As much as there is.
            let flags = rustix::fs::FallocateFlags::empty();
            for part in (0..len).step_by(1 << 20) {
                if rustix::fs::fallocate(&file, flags, part, 1 << 20).is_err() {
                    break;
                }
            }
            a_while();
            fs::remove_file(&ballast).unwrap();
            "disk full"
        }
        _ => {
            node.output(configured(disk, &["gc", "--cache-size", "1m"]))
                .unwrap();
            "blocks given back"
        }
    }
}
