//! The machine's clock jumps: no deadline hangs on it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use thaw_testkit::thaw::Thaw;

use super::{CONFIGURED_BOUND, Scene, bound, kill, nothing_is_left, processes, target, thaw};

by_every_transport!(a_clock_that_jumps);

/// Gives every process that loads it another day at each look at the clock, a later one and an
/// earlier one in turn. The monotonic clock is as it is.
const JUMPS: &str = r#"
#define _GNU_SOURCE
#include <dlfcn.h>
#include <time.h>
static int jump(void) {
    static int looks;
    int look = __atomic_add_fetch(&looks, 1, __ATOMIC_RELAXED);
    return (look % 2 ? 86400 : -86400) * (look % 100);
}
int clock_gettime(clockid_t clock, struct timespec *time) {
    int (*real)(clockid_t, struct timespec *) = dlsym(RTLD_NEXT, "clock_gettime");
    int done = real(clock, time);
    if (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE)
        time->tv_sec += jump();
    return done;
}
"#;

/// The library that does that, in `dir`.
fn library(dir: &Path) -> PathBuf {
    let (source, library) = (dir.join("jumps.c"), dir.join("jumps.so"));
    fs::write(&source, JUMPS).unwrap();
    let mut compile = Command::new("cc");
    compile
        .args(["-shared", "-fPIC", "-o"])
        .args([&library, &source]);
    assert!(compile.arg("-ldl").status().unwrap().success());
    library
}

fn a_clock_that_jumps(transport: &str) {
    let scene = Scene::new();
    let node = thaw();
    let library = library(scene.directory.path());
    // Whoever is started by such a command has such a clock, too: daemon and keeper.
    let run = |args: &[&str]| run(&node, &library, args);
    let today = std::time::UNIX_EPOCH.elapsed().unwrap().as_secs() / 86_400;
    assert_ne!(day(&library), today, "the clock does not jump");
    let dir = target(&node);
    let config = bound(&node, 3);
    let options = ["mount", "--pull", "lazy", "--config", &config];
    let by = [
        "--transport",
        transport,
        &scene.image,
        dir.to_str().unwrap(),
    ];
    run(&[&options[..], &by].concat());
    let daemon = node.daemon().unwrap();
    // The daemon fetches, and the keeper knows when the time is over.
    for process in [daemon, processes(&node, "keeper")[0]] {
        let maps = fs::read_to_string(format!("/proc/{process}/maps")).unwrap();
        assert!(maps.contains("jumps.so"), "{maps}");
    }
    scene.read(&dir, "srv/f0-1").unwrap();

    // A read waits as if nothing had happened, and not for ever.
    kill(&[daemon]);
    thread::scope(|scope| {
        let reader = scope.spawn(|| scene.read(&dir, "srv/f1-3"));
        thread::sleep(Duration::from_millis(500));
        assert!(!reader.is_finished(), "its time was over at once");
        run(&["images", "--config", &config]);
        reader.join().unwrap().unwrap();
    });
    kill(&[node.daemon().unwrap()]);
    let begin = Instant::now();
    let error = scene.read(&dir, "srv/f2-3").unwrap_err();
    assert_eq!(error.raw_os_error(), Some(5), "{error}");
    assert!(
        begin.elapsed() < CONFIGURED_BOUND,
        "its time was never over"
    );
    run(&["images", "--config", &config]);
    for name in scene.files.keys() {
        scene.read(&dir, name).unwrap();
    }
    nothing_is_left(&node);
}

fn run(node: &Thaw, library: &Path, args: &[&str]) {
    let mut command = node.command(args);
    let output = command.env("LD_PRELOAD", library).output().unwrap();
    assert!(output.status.success(), "{output:?}");
}

/// What time it is for a program with such a clock, in days.
fn day(library: &Path) -> u64 {
    let mut date = Command::new("date");
    let output = date.arg("+%s").env("LD_PRELOAD", library).output().unwrap();
    let seconds = String::from_utf8(output.stdout).unwrap();
    seconds.trim().parse::<u64>().unwrap() / 86_400
}
