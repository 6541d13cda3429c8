//! What a fault costs. Run with
//! `cargo test --release -p thaw-mount --test measure -- --ignored --nocapture measure`.

#![allow(clippy::unwrap_used)]

mod support;

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use support::{FILE, Rig, World, finish, noise, start};
use thaw_mount::{Device, FaultTransport, Unmount};

const FILES: u64 = 2000;

#[test]
#[ignore = "not a test: the keeper process of the others"]
fn keeper_process() -> ExitCode {
    support::be_keeper()
}

fn report(what: &str, mut times: Vec<Duration>) {
    times.sort();
    let at = |percent: usize| times[times.len() * percent / 100];
    let mean = times.iter().sum::<Duration>() / u32::try_from(times.len()).unwrap();
    println!(
        "{what}: median {:?}, p90 {:?}, p99 {:?}, mean {mean:?}",
        at(50),
        at(90),
        at(99)
    );
}

/// Opens each file and reads 4 KiB of it: one page-cache miss each.
fn touch(rig: &Rig) -> Vec<Duration> {
    let mut buffer = [0; 4096];
    let order = (0..FILES).map(|n| n * 7 % FILES);
    order
        .map(|file| {
            let open = File::open(rig.file(0, file)).unwrap();
            let started = Instant::now();
            open.read_exact_at(&mut buffer, 0).unwrap();
            started.elapsed()
        })
        .collect()
}

#[test]
#[ignore = "a measurement"]
fn measure() {
    for world in [World::Fanotify, World::Fuse, World::FuseOnLoops] {
        println!("\n{world:?}");
        measure_in(world);
    }
}

fn measure_in(world: World) {
    let rig = Rig::new(world, vec![noise(1, FILES * FILE)]);
    let handler = rig.handler();
    let keeper = start(&rig, &handler, Duration::from_secs(30));
    let devices = rig.attach(&keeper);
    let mount = rig.mount(&devices);
    report("absent block, filled from memory", touch(&rig));
    mount.unmount(Unmount::Now).unwrap();

    rig.layers[0].fill(rig.layers[0].all());
    // The tar is in the page cache, the mount's own cache is empty.
    let mount = rig.mount(&devices);
    let before = keeper.counters().unwrap();
    let started = Instant::now();
    report("present block, tar cached", touch(&rig));
    let events = keeper.counters().unwrap().hits - before.hits;
    println!(
        "{events} events, one reader: {:.0}/s",
        per_second(events, started)
    );
    mount.unmount(Unmount::Now).unwrap();

    let mount = rig.mount(&devices);
    let before = keeper.counters().unwrap();
    let started = Instant::now();
    std::thread::scope(|scope| {
        for part in 0..4 {
            let rig = &rig;
            scope.spawn(move || {
                for file in (part..FILES).step_by(4) {
                    rig.read(0, file, 0, FILE).unwrap();
                }
            });
        }
    });
    let events = keeper.counters().unwrap().hits - before.hits;
    println!(
        "{events} events, four readers: {:.0}/s",
        per_second(events, started)
    );
    mount.unmount(Unmount::Now).unwrap();

    keeper.release(&rig.layers[0].id()).unwrap();
    let plain = Device {
        path: rig.layers[0].tar.path().to_owned(),
    };
    let mount = rig.mount(&[plain]);
    report("nobody asked, tar cached", touch(&rig));
    mount.unmount(Unmount::Now).unwrap();

    rig.attach(&keeper);
    rustix::fs::sync();
    std::fs::write("/proc/sys/vm/drop_caches", "1").unwrap();
    let mount = rig.mount(&devices);
    report("present block, nothing cached", touch(&rig));
    mount.unmount(Unmount::Now).unwrap();
    finish(&rig, &keeper);
}

#[expect(clippy::cast_precision_loss, reason = "a figure for people")]
fn per_second(events: u64, since: Instant) -> f64 {
    events as f64 / since.elapsed().as_secs_f64()
}
