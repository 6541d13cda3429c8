//! Working sets: streaming, demands beside the stream, frames that fail, and who goes first.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod common;

use std::sync::Arc;
use std::time::{Duration, Instant};

use common::double::Double;
use common::{Scene, working_set};
use thaw_cache::{FetchError, Prefetch};
use thaw_image::{Digest, WorkingSet};

/// 64 frames of 128 blocks each, in 8 MiB.
fn frames() -> Vec<Vec<(u64, u64)>> {
    (0..64)
        .map(|n| vec![(n * 256, 64), (n * 256 + 100, 64)])
        .collect()
}

struct Set {
    scene: Scene,
    set: Arc<WorkingSet>,
    data: Digest,
    source: Arc<Double>,
}

impl Set {
    fn new() -> Self {
        let scene = Scene::new(8 << 20, 100_000);
        let (set, data) = working_set(&scene.content, &frames());
        let source = Double::new("sets");
        Self {
            data: source.add(&data),
            set: Arc::new(set),
            source,
            scene,
        }
    }

    fn start(&self) -> Prefetch {
        self.scene
            .fetcher
            .prefetch("image", self.set.clone(), self.data, self.source.clone())
    }

    fn has(&self, frame: usize) -> bool {
        let runs = &self.set.frames[frame].runs;
        runs.iter()
            .all(|run| self.scene.layer.contains(self.set.extent(run)))
    }
}

fn soon() -> Instant {
    Instant::now() + Duration::from_secs(20)
}

/// For a demand that is to wait while other things are waited for.
fn late() -> Instant {
    Instant::now() + Duration::from_secs(60)
}

/// Waits until a source has been asked.
fn asked(requests: impl Fn() -> usize) {
    let deadline = soon();
    while requests() == 0 {
        assert!(Instant::now() < deadline, "nobody has asked");
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// A block that no frame has: it comes with a chunk.
const APART: u64 = (30 * 256 + 200) * 512;

#[test]
fn a_set_streams_in_by_one_request() {
    let set = Set::new();
    let prefetch = set.start();
    prefetch.wait(soon()).unwrap().unwrap();
    let progress = prefetch.progress();
    assert_eq!(
        (progress.frames, progress.settled, progress.failed),
        (64, 64, 0)
    );
    assert_eq!(progress.received, progress.data_size);
    assert!((0..64).all(|frame| set.has(frame)));
    assert_eq!(set.scene.layer.present_bytes(), 64 * 128 * 512);
    set.scene.scan();
    assert_eq!(set.source.streams.lock().unwrap().len(), 1);
    drop(prefetch);

    // All of it is there: nothing is asked for, and no demand makes a request.
    let again = set.start();
    again.wait(soon()).unwrap().unwrap();
    assert_eq!(set.source.streams.lock().unwrap().len(), 1);
    set.scene.demand(100 * 512, 1_000).unwrap();
    assert_eq!(set.scene.source.calls() + set.source.calls(), 0);
    assert_eq!(
        set.scene.fetcher.stats().working_set.written,
        64 * 128 * 512
    );
}

#[test]
fn a_demand_overtakes_a_slow_stream() {
    let set = Set::new();
    set.source.behave(|b| b.stream_rate = Some(1_000_000));
    let prefetch = set.start();
    std::thread::sleep(Duration::from_millis(100));
    // Of the last frame: four seconds away in the stream.
    set.scene.demand(63 * 256 * 512, 4_096).unwrap();
    assert!(set.has(63));
    assert_eq!(set.source.calls(), 1, "that frame alone");
    assert_eq!(set.scene.source.calls(), 0, "and no chunk");
    assert!(prefetch.progress().settled < 32);
    // Of a block that no frame has: a chunk.
    set.scene.demand((30 * 256 + 200) * 512, 512).unwrap();
    assert_eq!(set.scene.source.calls(), 1);
    assert!(prefetch.progress().settled < 32, "the stream still goes on");
    prefetch.cancel();
    let end = prefetch.wait(soon()).unwrap();
    assert!(matches!(end, Err(FetchError::Stopped)));
    set.scene.scan();
}

#[test]
fn a_demand_waits_for_a_stream_that_is_sooner() {
    let set = Set::new();
    // A request takes 400 ms, the frame that is being streamed at most 30.
    set.source.behave(|b| b.stream_rate = Some(2_000_000));
    let prefetch = set.start();
    std::thread::sleep(Duration::from_millis(300));
    let next = prefetch.progress().settled;
    set.source.behave(|b| b.delay = Duration::from_millis(400));
    set.scene.demand(next as u64 * 256 * 512, 4_096).unwrap();
    assert_eq!(set.source.calls() + set.scene.source.calls(), 0);
    assert!(set.scene.fetcher.stats().joins <= 1);
}

#[test]
fn wrong_frames_become_chunks() {
    let set = Set::new();
    set.source.behave(|b| b.lies = true);
    let prefetch = set.start();
    prefetch.wait(soon()).unwrap().unwrap();
    let progress = prefetch.progress();
    assert_eq!(progress.failed, 1, "one byte of the stream was wrong");
    let failed = (0..64).find(|frame| !set.has(*frame)).unwrap();
    set.scene.scan();
    set.scene.demand(failed as u64 * 256 * 512, 32_768).unwrap();
    assert!(set.scene.source.calls() > 0);
    assert_eq!(set.source.calls(), 0, "a failed frame is not tried again");
    set.scene.scan();
}

#[test]
fn a_frame_that_cannot_be_fetched_becomes_chunks() {
    for lies in [false, true] {
        let set = Set::new();
        set.source.behave(|b| b.stream_rate = Some(200_000));
        let prefetch = set.start();
        std::thread::sleep(Duration::from_millis(50));
        set.source.behave(|b| {
            b.lies = lies;
            b.failures = if lies { 0 } else { 1 };
        });
        set.scene.demand(63 * 256 * 512, 4_096).unwrap();
        assert_eq!(set.source.calls(), 1);
        assert_eq!(set.scene.source.calls(), 1);
        set.scene.scan();
        assert_eq!(prefetch.progress().failed, 1);
    }
}

#[test]
fn who_has_the_set_and_does_not_answer_fails_no_read() {
    let set = Set::new();
    set.source.behave(|b| b.stream_rate = Some(200_000));
    let prefetch = set.start();
    std::thread::sleep(Duration::from_millis(50));
    set.source.behave(|b| b.holds = true);
    let deadline = Instant::now() + Duration::from_secs(4);
    let read = set.scene.demand_by(63 * 256 * 512, 4_096, deadline);
    let asked = (set.source.calls(), set.scene.source.calls());
    set.source.behave(|b| b.holds = false);
    read.unwrap();
    assert_eq!(asked, (1, 1));
    drop(prefetch);
}

#[test]
fn a_broken_stream_goes_on_where_it_stopped() {
    let set = Set::new();
    let size = usize::try_from(set.set.data_size()).unwrap();
    set.source
        .behave(|b| b.stream_breaks_after = Some(size / 2));
    let prefetch = set.start();
    prefetch.wait(soon()).unwrap().unwrap();
    assert!((0..64).all(|frame| set.has(frame)));
    let streams = set.source.streams.lock().unwrap().clone();
    assert!(streams.len() >= 2 && streams[1].offset > 0, "{streams:?}");
    let asked: u64 = streams.iter().map(|s| s.len).sum();
    assert!(asked < 2 * size as u64);
}

#[test]
fn a_dead_stream_ends_with_an_error_and_harms_nobody() {
    let set = Set::new();
    set.source.behave(|b| b.failures = usize::MAX);
    let prefetch = set.start();
    let end = prefetch.wait(soon()).unwrap();
    assert!(matches!(end, Err(FetchError::Stream { .. })), "{end:?}");
    set.scene.demand(0, 8 << 20).unwrap();
    set.scene.scan();
}

#[test]
fn a_set_of_unknown_layers_asks_for_nothing() {
    let set = Set::new();
    let (mut other, _) = working_set(&[7; 100_000], &[vec![(0, 50)]]);
    other.layers[0].1 = 100_000;
    let source = Double::new("other");
    let prefetch = set
        .scene
        .fetcher
        .prefetch("image", Arc::new(other), set.data, source.clone());
    prefetch.wait(soon()).unwrap().unwrap();
    assert!(source.streams.lock().unwrap().is_empty());
}

#[test]
fn readers_beside_a_stream_get_the_right_bytes() {
    let set = Set::new();
    set.source.behave(|b| b.stream_rate = Some(20_000_000));
    let prefetch = set.start();
    std::thread::scope(|scope| {
        for reader in 0..8u64 {
            let scene = &set.scene;
            scope.spawn(move || {
                for step in 0..60u64 {
                    let offset = (reader * 7_919 + step * 104_729) % ((8 << 20) - 40_000);
                    scene.demand(offset, 4_096 + step * 500).unwrap();
                }
            });
        }
    });
    prefetch.wait(soon()).unwrap().unwrap();
    assert_eq!(prefetch.progress().failed, 0);
    set.scene.scan();
}

#[test]
fn fill_goes_when_neither_a_stream_nor_a_demand_does() {
    let set = Set::new();
    let scene = &set.scene;
    // A stream that has begun, and brings nothing yet.
    set.source.behave(|b| b.holds = true);
    let prefetch = set.start();
    asked(|| set.source.streams.lock().unwrap().len());
    let fill = scene.fetcher.fill(&scene.id());
    let is_held_up = || {
        let end = fill.wait(Instant::now() + Duration::from_millis(300));
        end.is_none() && scene.fetcher.stats().fill.fetched == 0
    };
    assert!(is_held_up(), "by the stream");
    assert_eq!(scene.source.calls(), 0);

    // The stream comes to its end, but a demand goes on.
    scene.source.behave(|b| b.holds = true);
    std::thread::scope(|scope| {
        let demand = scope.spawn(move || scene.demand_by(APART, 512, late()));
        asked(|| scene.source.calls());
        set.source.behave(|b| b.holds = false);
        prefetch.wait(soon()).unwrap().unwrap();
        assert!(is_held_up(), "by the demand");
        assert_eq!(scene.source.calls(), 1, "the demand's own request");
        scene.source.behave(|b| b.holds = false);
        demand.join().unwrap().unwrap();
    });

    fill.wait(soon()).unwrap().unwrap();
    assert!(scene.layer.is_whole());
    assert!(scene.fetcher.stats().fill.fetched > 0);
    scene.scan();
}

#[test]
fn a_demand_holds_a_stream_up_and_does_not_stop_it() {
    let set = Set::new();
    let scene = &set.scene;
    scene.source.behave(|b| b.holds = true);
    std::thread::scope(|scope| {
        let demand = scope.spawn(move || scene.demand_by(APART, 512, late()));
        asked(|| scene.source.calls());
        let started = Instant::now();
        let prefetch = set.start();
        prefetch.wait(soon()).unwrap().unwrap();
        // The demand was on its way all the time: before each of the 64 frames it was let past for
        // 20 ms, and no longer.
        let took = started.elapsed();
        assert!(took >= Duration::from_secs(1), "{took:?}");
        assert!(!demand.is_finished());
        scene.source.behave(|b| b.holds = false);
        demand.join().unwrap().unwrap();
    });
    assert!((0..64).all(|frame| set.has(frame)));
    scene.scan();
}
