//! What the parts cost. Run it alone, in release:
//! `cargo test --release -p thaw-cache --test measure -- --ignored --nocapture --test-threads 1`
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]
#![allow(clippy::cast_precision_loss, reason = "figures for people")]

mod common;

use std::hint::black_box;
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use common::{Scene, noise, scratch, store, stream, tar_of, verified, working_set};
use thaw_cache::{Placed, PresenceReader};
use thaw_image::{BLOCK, DiffId, Digest, Extent};

fn each(what: &str, times: u32, mut work: impl FnMut(u32)) {
    let started = Instant::now();
    (0..times).for_each(&mut work);
    let nanos = started.elapsed().as_nanos() as f64 / f64::from(times);
    println!("{what:<52} {nanos:>10.0} ns");
}

fn rate(what: &str, bytes: usize, took: Duration) {
    println!(
        "{what:<52} {:>10.0} MB/s",
        bytes as f64 / 1e6 / took.as_secs_f64()
    );
}

/// CPU time of this process, all threads.
fn cpu() -> Duration {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap();
    let fields: Vec<&str> = stat
        .rsplit(')')
        .next()
        .unwrap()
        .split_whitespace()
        .collect();
    let ticks: u64 = fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap();
    Duration::from_millis(ticks * 10)
}

/// Half noise, half text of a kind: packs to about a half.
fn mixed(len: usize) -> Vec<u8> {
    let mut bytes = noise(9, len);
    for chunk in bytes.chunks_mut(2_048) {
        let half = chunk.len() / 2;
        chunk[half..]
            .iter_mut()
            .for_each(|byte| *byte = b'a' + (*byte & 3));
    }
    bytes
}

#[test]
#[ignore = "a measurement"]
fn presence() {
    let scene = Scene::new(256 << 20, 1 << 20);
    let reader = PresenceReader::open(scene.layer.presence_path()).unwrap();
    let block = verified(&scene.content[..512]);
    let blocks = u32::try_from(scene.content.len() as u64 / BLOCK).unwrap();
    each("write one block (512 B) with its bit", 100_000, |n| {
        let at = u64::from(n * 5 % blocks) * BLOCK;
        black_box(scene.layer.write(at, &block).unwrap());
    });
    scene.demand(0, 256 << 20).unwrap();
    let extent = |n: u32, len| Extent {
        offset: u64::from(n) * 104_729 % (200 << 20),
        len,
    };
    each("LayerTar::contains, 128 KiB", 1_000_000, |n| {
        assert!(black_box(scene.layer.contains(extent(n, 128 << 10))));
    });
    each("PresenceReader::contains, 128 KiB", 1_000_000, |n| {
        assert!(black_box(reader.contains(extent(n, 128 << 10)).unwrap()));
    });
    let deadline = Instant::now() + Duration::from_secs(100);
    each(
        "Fetcher::demand of present blocks, 128 KiB",
        1_000_000,
        |n| {
            scene
                .fetcher
                .demand(&scene.id(), extent(n, 128 << 10), deadline)
                .unwrap();
        },
    );
}

#[test]
#[ignore = "a measurement"]
fn absent_chunks() {
    let scene = Scene::new(256 << 20, 256 << 10);
    each(
        "Fetcher::demand of an absent 256 KiB chunk, no link",
        1_000,
        |n| {
            scene.demand(u64::from(n) * (256 << 10), 4_096).unwrap();
        },
    );
}

#[test]
#[ignore = "a measurement"]
fn writes() {
    let dir = scratch();
    let store = store(dir.path(), 1);
    for run in [1u64, 32, 256] {
        let content = noise(run, 256 << 20);
        let id = DiffId(Digest::of(&content));
        let layer = store.layers().open(&id, content.len() as u64 * 2).unwrap();
        let frames: Vec<_> = content.chunks(4 << 20).map(verified).collect();
        let len = run * BLOCK;
        let started = Instant::now();
        for (number, frame) in (0u64..).zip(&frames) {
            let places: Vec<_> = (0..(4 << 20) / len)
                .map(|n| Placed {
                    from: n * len,
                    to: Extent {
                        offset: (number << 23) + n * len * 2,
                        len,
                    },
                })
                .collect();
            layer.write_runs(frame, &places).unwrap();
        }
        rate(
            &format!("write_runs, runs of {len} B with gaps"),
            content.len(),
            started.elapsed(),
        );
        drop(layer);
        store.layers().remove(&id).unwrap();
    }
}

#[test]
#[ignore = "a measurement"]
fn prefetch() {
    let content = mixed(512 << 20);
    let scene = Scene::build(
        scratch(),
        content,
        1 << 20,
        &[common::double::Double::new("none")],
    );
    // Frames of 1 MiB in runs of 32 KiB.
    let frames: Vec<Vec<_>> = (0..512u64)
        .map(|n| (0..32).map(|r| (n * 2_048 + r * 64, 64)).collect())
        .collect();
    let (set, data) = working_set(&scene.content, &frames);
    let digest = Digest::of(&data);
    scene.store.blobs().put(&digest, &data).unwrap();
    println!(
        "packed to {:.0} %",
        100.0 * data.len() as f64 / scene.content.len() as f64
    );
    let (started, before) = (Instant::now(), cpu());
    let source = Arc::new(scene.store.blobs().clone());
    let prefetch = scene
        .fetcher
        .prefetch("image", Arc::new(set), digest, source);
    prefetch
        .wait(Instant::now() + Duration::from_secs(100))
        .unwrap()
        .unwrap();
    rate(
        "prefetch from a local file, unpacked, wall",
        512 << 20,
        started.elapsed(),
    );
    rate(
        "prefetch from a local file, unpacked, per CPU",
        512 << 20,
        cpu() - before,
    );
    assert_eq!(prefetch.progress().failed, 0);
}

/// The bounds of the two above: what hashing, unpacking and the kernel's write take by themselves.
#[test]
#[ignore = "a measurement"]
fn bounds() {
    let content = mixed(256 << 20);
    let per_cpu = |what: &str, work: &mut dyn FnMut()| {
        let before = cpu();
        work();
        rate(what, content.len(), cpu() - before);
    };
    per_cpu("SHA-256, per CPU", &mut || {
        content.chunks(1 << 20).for_each(|chunk| {
            black_box(Digest::of(chunk));
        });
    });
    let packed: Vec<_> = content
        .chunks(1 << 20)
        .map(|chunk| zstd::bulk::compress(chunk, 3).unwrap())
        .collect();
    per_cpu("zstd, per CPU", &mut || {
        packed.iter().for_each(|chunk| {
            black_box(zstd::bulk::decompress(chunk, 1 << 20).unwrap());
        });
    });
    let dir = scratch();
    let file = std::fs::File::create(dir.path().join("file")).unwrap();
    per_cpu("pwrite(2) of 32 KiB into holes, per CPU", &mut || {
        for (number, chunk) in (0u64..).zip(content.chunks(32 << 10)) {
            file.write_all_at(chunk, number * (64 << 10)).unwrap();
        }
    });
}

#[test]
#[ignore = "a measurement"]
fn full_pull() {
    let dir = scratch();
    let store = store(dir.path(), 1);
    let content = tar_of(3, 1 << 30);
    let id = DiffId(Digest::of(&content));
    let mut incoming = store.layers().incoming(&id).unwrap();
    let started = Instant::now();
    content
        .chunks(256 << 10)
        .for_each(|piece| incoming.write_all(piece).unwrap());
    rate("Incoming::write, 1 GiB", content.len(), started.elapsed());
    let mut incoming = store.layers().incoming(&id).unwrap();
    let started = Instant::now();
    let proof = stream(&content, &mut incoming);
    rate("indexed on the way", content.len(), started.elapsed());
    let started = Instant::now();
    let layer = incoming.commit(&proof).unwrap();
    println!(
        "{:<52} {:>10.1} ms",
        "Incoming::commit",
        started.elapsed().as_secs_f64() * 1e3
    );
    let started = Instant::now();
    layer.sync().unwrap();
    println!(
        "{:<52} {:>10.1} ms",
        "LayerTar::sync after it",
        started.elapsed().as_secs_f64() * 1e3
    );
}
