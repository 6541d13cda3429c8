//! Everything at once, for as long as `THAW_CHAOS_SECONDS` says (20): processes are killed and
//! stopped, the registry misbehaves in every way, the disk fills up, blocks are given back; and
//! containers read, and every byte is compared. `cargo xtask chaos` runs it for longer.
//!
//! No byte is wrong, no read takes longer than it may, and when there is peace again everything can
//! be read and nothing is left. Errors in between are allowed: `EIO` and `ENOSPC`. Monitors are not
//! killed: with fanotify the death of all holders is the one case that is not closed.
//!
//! However short it is, all of it happens: first everything once, then by chance.

use std::collections::BTreeMap;
use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use rustix::fs::{Advice, FallocateFlags, fadvise, fallocate};
use rustix::io::Errno;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use thaw_testkit::thaw::Thaw;

use super::chance::{Chance, Deck};
use super::disks::Disk;
use super::readers::{Reader, Reading, Seen};
use super::unruly::Unruly;
use super::{BOUND, Scene, nothing_is_left, processes};

by_every_transport!(nothing_is_ever_wrong);

/// Of trouble, until there is peace.
const ROUND: Duration = Duration::from_secs(4);
/// How much longer than asked for it may take until everything was done.
const PATIENCE: Duration = Duration::from_secs(60);
/// Seconds that a read may wait.
const SECONDS: u64 = 5;
/// No call may take longer. It is two faults: the kernel reads ahead, and where that fails, the page alone. For
/// each, besides the bound, nobody may be there who counts it: monitors wait for half of the bound before
/// they start a daemon.
const LONGEST: Duration = Duration::from_secs(2 * (SECONDS + SECONDS.div_ceil(2)));

/// What is done, but for what the registry does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Deed {
    DaemonKilled,
    KeeperKilled,
    BothKilled,
    DaemonStopped,
    KeeperStopped,
    DiskFilled,
    BlocksGivenBack,
}

/// Deaths are the most of it.
const DEEDS: [Deed; 10] = [
    Deed::DaemonKilled,
    Deed::DaemonKilled,
    Deed::DaemonKilled,
    Deed::KeeperKilled,
    Deed::BothKilled,
    Deed::BothKilled,
    Deed::DaemonStopped,
    Deed::KeeperStopped,
    Deed::DiskFilled,
    Deed::BlocksGivenBack,
];

fn nothing_is_ever_wrong(transport: &str) {
    let seconds = std::env::var("THAW_CHAOS_SECONDS");
    let seconds = seconds.map_or(20, |text| text.parse().expect("a number of seconds"));
    let seconds = Duration::from_secs(seconds);
    let seed = std::env::var("THAW_CHAOS_SEED").ok();
    let seed = seed.map_or_else(
        || u64::from(std::process::id()),
        |text| text.parse().unwrap(),
    );
    println!("{transport}: THAW_CHAOS_SEED={seed}");
    let mut chaos = Chaos::new(transport, seed);
    let begin = Instant::now();
    let mut rounds = 0;
    let due = loop {
        chaos.round(rounds % 4 == 1);
        rounds += 1;
        let (took, due) = (begin.elapsed(), chaos.due());
        if took >= seconds && (due.is_empty() || took >= seconds + PATIENCE) {
            break due;
        }
    };
    let Seen {
        bytes,
        errors,
        longest,
    } = &*chaos.seen;
    let load = |counter: &AtomicU64| counter.load(Ordering::SeqCst);
    println!(
        "{transport}: {rounds} rounds in {} s, {} MB compared, {} files not read, the longest call took {} ms",
        begin.elapsed().as_secs(),
        load(bytes) >> 20,
        load(errors),
        load(longest)
    );
    let (deeds, registry) = (chaos.deeds.done(), chaos.unruly.done());
    println!("{transport}: {deeds:?}; registry {registry:?}");
    assert!(due.is_empty(), "never done: {due:?}");
}

/// All of the scene. Fields end in this order.
struct Chaos<'a> {
    node: Thaw,
    disk: Disk,
    unruly: Unruly,
    scene: Scene,
    files: Arc<BTreeMap<String, Vec<u8>>>,
    /// By way of the unruly registry.
    image: String,
    transport: &'a str,
    chance: Chance,
    deeds: Deck<Deed>,
    seen: Arc<Seen>,
    /// Those of the round.
    readings: Vec<Reading<()>>,
    over: Arc<AtomicBool>,
}

impl<'a> Chaos<'a> {
    fn new(transport: &'a str, seed: u64) -> Self {
        let chance = Chance::new(seed);
        let scene = Scene::new();
        let unruly = Unruly::new(&scene.host, seed);
        let disk = Disk::new(64);
        let config = disk.path().join("config.toml");
        fs::write(&config, format!("fault-timeout-seconds = {SECONDS}\n")).unwrap();
        Self {
            node: disk.store(),
            disk,
            image: scene
                .image
                .replace(&scene.host, &unruly.address.to_string()),
            unruly,
            files: Arc::new(scene.files.clone()),
            scene,
            transport,
            deeds: Deck::new(DEEDS.into(), &chance),
            chance,
            seen: Arc::default(),
            readings: Vec::new(),
            over: Arc::default(),
        }
    }

    /// What has not happened yet.
    fn due(&self) -> Vec<String> {
        let deeds = self.deeds.due().into_iter();
        let mut due: Vec<String> = deeds.map(|deed| format!("{deed:?}")).collect();
        let faults = self.unruly.done().into_iter();
        due.extend(
            faults
                .filter(|(_, times)| *times == 0)
                .map(|(name, _)| name),
        );
        let none = |counter: &AtomicU64| counter.load(Ordering::SeqCst) == 0;
        due.extend(none(&self.seen.bytes).then(|| "a read".to_owned()));
        // Where the disk is full.
        due.extend(none(&self.seen.errors).then(|| "a read that fails".to_owned()));
        due
    }

    /// Mostly all is read on demand; else fill and working set bring it, as long as they live.
    fn round(&mut self, filled: bool) {
        self.unruly.calm(true);
        let config = self.config();
        let all = ["--net", "none", "--transport", self.transport];
        let more: &[&str] = match filled {
            true => &["--fill"],
            false => &["--profile", "none"],
        };
        let flags = [&["--config", config.as_str()], &all[..], more].concat();
        let readers = ["one", "two"].map(|container| {
            let root = self
                .scene
                .start_as(&self.node, container, &self.image, &flags);
            Reader {
                container,
                root,
                files: Arc::clone(&self.files),
                seen: Arc::clone(&self.seen),
                limit: LONGEST,
                over: Arc::clone(&self.over),
                call: Arc::default(),
            }
        });
        self.unruly.calm(false);
        for (turn, reader) in readers.iter().enumerate() {
            let reading = Reading::begin(reader, move |reader| reader.read_on(turn));
            self.readings.push(reading);
        }
        let begin = Instant::now();
        while begin.elapsed() < ROUND {
            self.wait(100, 900);
            let deed = self.deeds.draw(&self.chance, |_| true).unwrap();
            let done = self.trouble(deed, &readers[0]);
            if done {
                self.deeds.count(deed);
            }
            let one = usize::try_from(self.chance.below(2)).unwrap();
            self.drop_pages(&readers[one].root);
            // Else the next command, or a monitor, starts the next daemon.
            if !done || self.chance.below(2) == 0 {
                self.output(&["images"]);
            }
        }
        self.over.store(true, Ordering::SeqCst);
        self.until(|| self.readings.iter().all(Reading::is_over));
        self.readings.drain(..).for_each(Reading::end);
        self.over.store(false, Ordering::SeqCst);
        self.unruly.calm(true);
        fs::remove_file(self.disk.path().join("ballast")).ok();
        for reader in &readers {
            self.read(reader, Reader::read_all);
        }
        self.node.run(["rm", "-f", "one", "two"]).unwrap();
        nothing_is_left(&self.node);
    }

    /// Waits for it, but not for a call that does not return.
    fn until(&self, it: impl Fn() -> bool) {
        while !it() {
            self.readings.iter().for_each(Reading::watch);
            thread::sleep(Duration::from_millis(10));
        }
    }

    fn wait(&self, least: u64, more: u64) {
        let begin = Instant::now();
        let time = Duration::from_millis(least + self.chance.below(more));
        self.until(|| begin.elapsed() >= time);
    }

    fn read<T: Send + 'static>(&self, reader: &Reader, read: fn(&Reader) -> T) -> T {
        let reading = Reading::begin(reader, read);
        self.until(|| {
            reading.watch();
            reading.is_over()
        });
        reading.end()
    }

    fn config(&self) -> String {
        let path = self.disk.path().join("config.toml");
        path.to_str().unwrap().to_owned()
    }

    /// What a command prints that succeeds; its daemon, if it starts one, has the bound of this test.
    fn output(&self, words: &[&str]) -> Option<Vec<u8>> {
        let config = self.config();
        let flags = ["--config", config.as_str()];
        let mut command = self.node.command([&flags, words].concat());
        let (begin, thread) = (Instant::now(), thread::spawn(move || command.output()));
        self.until(|| {
            assert!(begin.elapsed() < BOUND, "{words:?} takes too long");
            thread.is_finished()
        });
        let output = thread.join().unwrap().unwrap();
        output.status.success().then_some(output.stdout)
    }

    /// Has the next reads ask again.
    fn drop_pages(&self, root: &Path) {
        for name in self.files.keys() {
            if let Ok(file) = fs::File::open(root.join(name)) {
                fadvise(&file, 0, None, Advice::DontNeed).ok();
            }
        }
    }

    /// One bad thing; whether it was done.
    fn trouble(&self, deed: Deed, reader: &Reader) -> bool {
        let daemon: Vec<u32> = self.node.daemon().into_iter().collect();
        let keepers = processes(&self.node, "keeper");
        match deed {
            Deed::DaemonKilled => send(&daemon, Signal::KILL),
            Deed::KeeperKilled => send(&keepers, Signal::KILL),
            Deed::BothKilled => {
                let killed = [daemon, keepers].map(|pids| send(&pids, Signal::KILL));
                killed == [true; 2]
            }
            Deed::DaemonStopped => self.stop(&daemon),
            Deed::KeeperStopped => self.stop(&keepers),
            Deed::DiskFilled => {
                let ballast = self.disk.path().join("ballast");
                fill(&ballast);
                let full = is_full(&self.disk.path());
                let missed = self.read(reader, Reader::misses);
                self.wait(200, 1500);
                fs::remove_file(&ballast).unwrap();
                full && missed
            }
            Deed::BlocksGivenBack => {
                let given = self.output(&["gc", "--cache-size", "1m", "--json"]);
                let Some(given) = given else { return false };
                let given: Value = serde_json::from_slice(&given).unwrap();
                let given = given["removals"].as_array().unwrap();
                // With fanotify nothing goes that is in use: it was asked for, which is all there is.
                self.transport == "fanotify" || !given.is_empty()
            }
        }
    }

    fn stop(&self, pids: &[u32]) -> bool {
        let stopped = send(pids, Signal::STOP);
        self.wait(200, 1500);
        send(pids, Signal::CONT);
        stopped
    }
}

impl Drop for Chaos<'_> {
    fn drop(&mut self) {
        if !thread::panicking() {
            return;
        }
        self.over.store(true, Ordering::SeqCst);
        println!("{}", logs(self.node.root()));
        // Whoever may hang: the next daemon cleans up.
        for word in ["daemon", "keeper", "monitor"] {
            send(&processes(&self.node, word), Signal::KILL);
        }
    }
}

/// Sends a signal to processes that may be gone by now; says whether one was there.
fn send(pids: &[u32], signal: Signal) -> bool {
    let sent = pids.iter().filter(|pid| {
        let pid = Pid::from_raw(pid.cast_signed()).unwrap();
        kill_process(pid, signal).is_ok()
    });
    sent.count() > 0
}

/// Takes every block that the disk has.
fn fill(ballast: &Path) {
    let file = fs::File::create(ballast).unwrap();
    let (mut len, mut piece) = (0, 1 << 20);
    while piece >= 4 << 10 {
        match fallocate(&file, FallocateFlags::empty(), len, piece) {
            Ok(()) => len += piece,
            Err(error) => {
                assert_eq!(error, Errno::NOSPC);
                piece /= 2;
            }
        }
    }
}

/// Whether nothing more can be written there.
fn is_full(dir: &Path) -> bool {
    let rest = dir.join("rest");
    let written = fs::write(&rest, [1; 4 << 10]);
    fs::remove_file(&rest).ok();
    written.is_err_and(|error| error.kind() == ErrorKind::StorageFull)
}

/// What daemons, keepers and monitors have logged.
fn logs(store: &Path) -> String {
    let mut paths: Vec<_> = ["daemon.log", "keeper.log"]
        .map(|name| store.join(name))
        .into();
    let containers = fs::read_dir(store.join("containers")).into_iter().flatten();
    paths.extend(
        containers
            .flatten()
            .map(|entry| entry.path().join("monitor.log")),
    );
    let log = |path: &PathBuf| {
        let text = fs::read_to_string(path).unwrap_or_default();
        let lines: Vec<&str> = text.lines().rev().take(60).collect();
        let last = lines.into_iter().rev().collect::<Vec<_>>().join("\n");
        format!("== {}\n{last}\n", path.display())
    };
    paths.iter().map(log).collect()
}
