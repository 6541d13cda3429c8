//! Demands: single flight, merging, healing, deadlines, full disks.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod common;

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Barrier, Mutex};
use std::time::{Duration, Instant};

use common::double::Double;
use common::{Scene, noise, origin, scratch, table};
use proptest::prelude::*;
use thaw_cache::{Attachment, FetchError, Fetcher, Settings};
use thaw_image::{DiffId, Digest, Extent, SourceError};

const KIB: u64 = 1 << 10;

#[test]
fn fifty_readers_of_one_chunk_make_one_request() {
    let scene = Scene::new(1 << 20, 100_000);
    scene.source.behave(|b| b.delay = Duration::from_millis(50));
    let start = Barrier::new(50);
    std::thread::scope(|scope| {
        for reader in 0..50 {
            let (scene, start) = (&scene, &start);
            scope.spawn(move || {
                start.wait();
                // All within chunk 3, and not in the blocks that it shares.
                scene.demand(301_000 + reader * 1_000, 4_096).unwrap();
            });
        }
    });
    assert_eq!(scene.source.calls(), 1);
    let stats = scene.fetcher.stats();
    assert_eq!(stats.faults, 50);
    assert_eq!(stats.joins, 49);
    assert_eq!(stats.demand.fetched, 100_000);
    // The chunk's whole blocks are there, its two edges are not.
    assert_eq!(stats.demand.written, scene.layer.present_bytes());
    assert_eq!(scene.layer.present_bytes(), (781 - 586) * 512);
    scene.demand(301_000, 4_096).unwrap();
    assert_eq!(scene.fetcher.stats().hits, 1);
    scene.scan();
}

#[test]
fn neighbours_are_one_request_up_to_its_limit() {
    let scene = Scene::new(4 << 20, 64_000);
    scene.demand(0, 640_000).unwrap();
    let read = Extent {
        offset: 0,
        len: 640_000,
    };
    // Ten chunks and no more: their end is the end of a block.
    assert_eq!(640_000 % 512, 0);
    let reads = scene.source.reads.lock().unwrap().clone();
    assert_eq!(reads, [read]);
    scene.scan();

    // What is more than one request may have is split.
    let one = Scene::new(12 << 20, 64_000);
    one.demand(0, 10 << 20).unwrap();
    let reads = one.source.reads.lock().unwrap().clone();
    assert!(reads.len() >= 3, "at most 4 MiB in a request: {reads:?}");
    assert!(reads.iter().all(|read| read.len <= 4 << 20), "{reads:?}");
    let total: u64 = reads.iter().map(|read| read.len).sum();
    assert!(total <= (10 << 20) + 64_000, "nothing is read twice");
    one.scan();
}

#[test]
fn queued_demands_of_neighbours_are_merged() {
    let settings = Settings {
        demand_threads: 1,
        ..Settings::default()
    };
    let dir = scratch();
    let content = noise(4, 1 << 20);
    let seek = Arc::new(table(&content, 65_536));
    let store = common::store(dir.path(), 1);
    let layer = store.layers().open(&seek.diff_id, seek.tar_size).unwrap();
    let source = Double::new("only");
    source.add(&content);
    source.behave(|b| b.delay = Duration::from_millis(200));
    let fetcher = Fetcher::new(settings).unwrap();
    let _attached = fetcher.attach(layer, origin(&seek, std::slice::from_ref(&source)));
    std::thread::scope(|scope| {
        for chunk in [0, 4, 6, 5, 7] {
            let (fetcher, seek) = (&fetcher, &seek);
            scope.spawn(move || {
                let extent = Extent {
                    offset: chunk * 65_536 + 5_000,
                    len: 4_096,
                };
                let deadline = Instant::now() + Duration::from_secs(10);
                fetcher.demand(&seek.diff_id, extent, deadline).unwrap();
            });
            if chunk == 0 {
                // The one thread is busy with this one while the others queue up.
                std::thread::sleep(Duration::from_millis(50));
            }
        }
    });
    let reads = source.reads.lock().unwrap().clone();
    assert_eq!(
        reads[1],
        Extent {
            offset: 4 * 65_536,
            len: 4 * 65_536
        },
        "{reads:?}"
    );
    assert_eq!(reads.len(), 2);
}

#[test]
fn what_lies_behind_a_demand_near_another_comes_by_itself() {
    let settings = Settings {
        ahead_bytes: 4 * 65_536,
        ..Settings::default()
    };
    let dir = scratch();
    let content = noise(5, 2 << 20);
    let seek = Arc::new(table(&content, 65_536));
    let store = common::store(dir.path(), 1);
    let layer = store.layers().open(&seek.diff_id, seek.tar_size).unwrap();
    let source = Double::new("only");
    source.add(&content);
    let fetcher = Fetcher::new(settings).unwrap();
    let _attached = fetcher.attach(layer.clone(), origin(&seek, std::slice::from_ref(&source)));
    let chunk = |number: u64| Extent {
        offset: number * 65_536,
        len: 65_536,
    };
    let demand = |number| {
        let deadline = Instant::now() + Duration::from_secs(10);
        fetcher
            .demand(&seek.diff_id, chunk(number), deadline)
            .unwrap();
    };
    let exactly = |number| {
        let deadline = Instant::now() + Duration::from_secs(10);
        fetcher
            .demand_only(&seek.diff_id, chunk(number), deadline)
            .unwrap();
    };
    // What is asked for exactly brings nothing with it, wherever it lies: what would have come has
    // been planned before the demands below, and would be among what came.
    exactly(26);
    exactly(27);
    demand(20);
    demand(2);
    demand(4);
    let deadline = Instant::now() + Duration::from_secs(10);
    while !layer.contains(chunk(8)) {
        assert!(Instant::now() < deadline, "nothing came ahead");
        std::thread::sleep(Duration::from_millis(1));
    }
    let here: Vec<u64> = (0..32).filter(|n| layer.contains(chunk(*n))).collect();
    assert_eq!(
        here,
        [2, 4, 5, 6, 7, 8, 20, 26, 27],
        "no more than was set, and none for a lone demand"
    );
    let stats = fetcher.stats();
    assert_eq!(stats.demand.fetched, 5 * 65_536);
    assert_eq!(stats.ahead.fetched, 4 * 65_536);
}

#[test]
fn a_lying_source_is_healed_by_the_next() {
    let (liar, honest) = (Double::new("liar"), Double::new("honest"));
    let scene = Scene::with(1 << 20, 100_000, &[liar.clone(), honest.clone()]);
    liar.behave(|b| b.lies = true);
    scene.demand(0, 250_000).unwrap();
    assert_eq!(
        scene.fetcher.stats().mismatches,
        1,
        "one byte of three chunks was wrong"
    );
    assert_eq!(honest.calls(), 1, "only that chunk was asked for again");
    scene.scan();

    // A lone liar gets one more try, and then the reader gets an error with all names.
    let scene = Scene::with(1 << 20, 100_000, std::slice::from_ref(&liar));
    let before = liar.calls();
    let error = scene.demand(0, 1_000).unwrap_err();
    assert_eq!(liar.calls() - before, 2);
    assert_eq!(error.errno(), 5);
    let text = error.to_string();
    assert!(
        text.contains("registry.test/app:1") && text.contains("liar"),
        "{text}"
    );
    assert!(text.contains("chunk 0 of layer sha256:"), "{text}");
    assert_eq!(scene.layer.present_bytes(), 0);
    scene.scan();
    liar.behave(|b| b.lies = false);
    scene.demand(0, 1_000).unwrap();
}

#[test]
fn a_failing_or_short_source_is_followed_by_the_next() {
    let (bad, good) = (Double::new("bad"), Double::new("good"));
    let scene = Scene::with(1 << 20, 100_000, &[bad.clone(), good.clone()]);
    bad.behave(|b| b.failures = 1);
    scene.demand(0, 10).unwrap();
    bad.behave(|b| b.is_short = true);
    scene.demand(500_000, 10).unwrap();
    assert_eq!(good.calls(), 2);
    good.behave(|b| b.failures = 1);
    let error = scene.demand(800_000, 10).unwrap_err();
    assert!(matches!(error, FetchError::Source { .. }), "{error}");
    scene.demand(0, 10).unwrap();
    scene.scan();
}

#[test]
fn another_image_with_the_same_layer_helps_out() {
    let (gone, there) = (Double::new("gone"), Double::new("there"));
    let scene = Scene::with(1 << 20, 100_000, std::slice::from_ref(&gone));
    gone.behave(|b| b.failures = usize::MAX);
    assert!(scene.demand(0, 10).is_err());
    there.add(&scene.content);
    let seek = Arc::new(table(&scene.content, 30_000));
    let second = scene.fetcher.attach(
        scene.layer.clone(),
        origin(&seek, std::slice::from_ref(&there)),
    );
    scene.demand(0, 10).unwrap();
    assert_eq!(there.calls(), 1);
    drop(second);
    assert!(scene.demand(900_000, 10).is_err());
    let fetcher = scene.fetcher.clone();
    let id = scene.id();
    drop(scene.attachment);
    let error = fetcher.demand(&id, Extent { offset: 0, len: 1 }, Instant::now());
    assert!(matches!(error, Err(FetchError::NotAttached { .. })));
}

#[test]
fn another_image_with_the_same_layer_goes_before_one_whose_registry_hangs() {
    let (hangs, there) = (Double::new("hangs"), Double::new("there"));
    let scene = Scene::with(1 << 20, 100_000, std::slice::from_ref(&hangs));
    hangs.behave(|b| {
        b.delay = Duration::from_secs(3600);
        b.heeds_deadline = true;
    });
    there.add(&scene.content);
    let seek = Arc::new(table(&scene.content, 30_000));
    let one = std::slice::from_ref(&there);
    let _second = scene
        .fetcher
        .attach(scene.layer.clone(), origin(&seek, one));
    let deadline = Instant::now() + Duration::from_secs(6);
    scene.demand_by(0, 10, deadline).unwrap();
    assert_eq!((hangs.calls(), there.calls()), (1, 1));
    // It rests.
    scene.demand(900_000, 10).unwrap();
    assert_eq!((hangs.calls(), there.calls()), (1, 2));
}

/// A scene whose layer has a second origin.
fn with_another(first: &Arc<Double>, second: &Arc<Double>) -> (Scene, Attachment) {
    let scene = Scene::with(1 << 20, 100_000, std::slice::from_ref(first));
    let seek = Arc::new(table(&scene.content, 30_000));
    let layer = scene.layer.clone();
    let attached = scene
        .fetcher
        .attach(layer, origin(&seek, std::slice::from_ref(second)));
    (scene, attached)
}

fn in_4_s() -> Instant {
    Instant::now() + Duration::from_secs(4)
}

#[test]
fn another_image_of_the_same_registry_takes_no_time_from_it() {
    let slow = Double::new("slow");
    let (scene, _other) = with_another(&slow, &slow);
    slow.behave(|b| {
        b.delay = Duration::from_millis(2500);
        b.heeds_deadline = true;
    });
    slow.add(&scene.content);
    scene.demand_by(0, 10, in_4_s()).unwrap();
    assert_eq!(slow.calls(), 1);
}

/// One who asks mirrors, too, tries no more where the next try would be cut off.
#[test]
fn a_registry_that_gives_up_a_little_early_has_had_its_time() {
    let (hangs, there) = (Double::new("hangs"), Double::new("there"));
    let (scene, _other) = with_another(&hangs, &there);
    hangs.behave(|b| {
        b.delay = Duration::from_secs(3600);
        b.heeds_deadline = true;
        b.early = Duration::from_millis(100);
    });
    there.add(&scene.content);
    scene.demand_by(0, 10, in_4_s()).unwrap();
    assert_eq!((hangs.calls(), there.calls()), (1, 1));
}

#[test]
fn a_registry_that_is_gone_rests_too() {
    let (gone, there) = (Double::new("gone"), Double::new("there"));
    let (scene, _other) = with_another(&gone, &there);
    gone.behave(|b| b.failures = usize::MAX);
    there.add(&scene.content);
    scene.demand(0, 10).unwrap();
    let calls = gone.calls();
    scene.demand(900_000, 10).unwrap();
    assert_eq!((gone.calls(), there.calls()), (calls, 2));
}

#[test]
fn a_registry_that_hung_is_asked_again_where_the_other_has_nothing() {
    let (hangs, empty) = (Double::new("hangs"), Double::new("empty"));
    let (scene, _other) = with_another(&hangs, &empty);
    hangs.add(&scene.content);
    hangs.behave(|b| {
        b.delay = Duration::from_secs(3600);
        b.heeds_deadline = true;
    });
    std::thread::scope(|scope| {
        let reader = scope.spawn(|| scene.demand_by(0, 10, in_4_s()));
        while hangs.calls() == 0 {
            std::thread::sleep(Duration::from_millis(1));
        }
        hangs.behave(|b| b.delay = Duration::ZERO);
        reader.join().unwrap().unwrap();
    });
    assert_eq!((hangs.calls(), empty.calls()), (2, 1));
}

#[test]
fn what_has_come_is_decoded_though_its_registry_has_no_more_room() {
    let dir = scratch();
    let store = common::store(dir.path(), 1);
    let settings = Settings {
        demand_threads: 14,
        ..Settings::default()
    };
    let fetcher = Fetcher::new(settings).unwrap();
    let mut seed = 0;
    let mut attach = |source: &Arc<Double>| {
        seed += 1;
        attach_to(&fetcher, &store, seed, source)
    };
    let hanging = ["one", "two", "three"].map(|host| {
        let source = Double::new(host);
        source.behave(|b| b.holds = true);
        let layers = [(); 3].map(|()| attach(&source));
        (source, layers)
    });
    let well = Double::new("one");
    let (id, _attached) = attach(&well);
    well.behave(|b| b.holds = true);
    let demand = |id: &DiffId, len| {
        let deadline = Instant::now() + Duration::from_secs(60);
        fetcher.demand_only(id, Extent { offset: 0, len }, deadline)
    };
    let asked = |source: &Double, calls| {
        while source.calls() < calls {
            std::thread::sleep(Duration::from_millis(1));
        }
    };
    std::thread::scope(|scope| {
        let demand = &demand;
        let mut flood = |(source, layers): &(Arc<Double>, [(DiffId, Attachment); 3])| {
            for (id, _) in layers {
                let id = *id;
                scope.spawn(move || demand(&id, 1));
            }
            asked(source, 3);
        };
        hanging[..2].iter().for_each(&mut flood);
        let reader = scope.spawn(move || demand(&id, 400_000));
        asked(&well, 1);
        flood(&hanging[2]);
        well.behave(|b| b.holds = false);
        let begin = Instant::now();
        while !reader.is_finished() && begin.elapsed() < Duration::from_secs(20) {
            std::thread::sleep(Duration::from_millis(1));
        }
        let is_served = reader.is_finished();
        for (source, _) in &hanging {
            source.behave(|b| b.holds = false);
        }
        assert!(is_served && reader.join().unwrap().is_ok());
    });
    assert_eq!(well.calls(), 1);
}

#[test]
fn no_demand_waits_beyond_its_deadline() {
    let scene = Scene::new(1 << 20, 100_000);
    scene.source.behave(|b| b.delay = Duration::from_secs(3));
    let started = Instant::now();
    let error = scene
        .demand_by(0, 10, started + Duration::from_millis(100))
        .unwrap_err();
    let took = started.elapsed();
    assert!(matches!(error, FetchError::Deadline { .. }), "{error}");
    assert!((90..2500).contains(&took.as_millis()), "{took:?}");
    // The fetch goes on, and a second reader joins it.
    scene.demand(0, 10).unwrap();
    assert_eq!(scene.source.calls(), 1);
}

#[test]
fn an_early_deadline_of_one_reader_is_not_that_of_another() {
    let scene = Scene::new(1 << 20, 100_000);
    scene.source.behave(|b| {
        b.delay = Duration::from_millis(300);
        b.heeds_deadline = true;
    });
    std::thread::scope(|scope| {
        let early =
            scope.spawn(|| scene.demand_by(0, 10, Instant::now() + Duration::from_millis(150)));
        std::thread::sleep(Duration::from_millis(30));
        scene.demand(0, 10).unwrap();
        assert!(matches!(
            early.join().unwrap(),
            Err(FetchError::Deadline { .. })
        ));
    });
}

#[test]
fn a_table_is_loaded_once_and_checked() {
    let dir = scratch();
    let content = noise(4, 1 << 20);
    let seek = Arc::new(table(&content, 65_536));
    let store = common::store(dir.path(), 1);
    let layer = store.layers().open(&seek.diff_id, seek.tar_size).unwrap();
    let source = Double::new("only");
    source.add(&content);
    let fetcher = Fetcher::new(Settings::default()).unwrap();
    let loads = Arc::new(AtomicUsize::new(0));
    let mut lazy = origin(&seek, std::slice::from_ref(&source));
    lazy.table = Box::new({
        let (loads, seek) = (loads.clone(), seek.clone());
        move |_| {
            std::thread::sleep(Duration::from_millis(50));
            match loads.fetch_add(1, Ordering::SeqCst) {
                0 => Err(FetchError::table("app", seek.diff_id, "not yet")),
                1 => Ok(Arc::new(table(&noise(5, 1 << 20), 65_536))),
                _ => Ok(seek.clone()),
            }
        }
    });
    let _attached = fetcher.attach(layer, lazy);
    let deadline = || Instant::now() + Duration::from_secs(5);
    let demand = |offset| fetcher.demand(&seek.diff_id, Extent { offset, len: 1 }, deadline());
    for _ in 0..2 {
        let error = demand(0).unwrap_err();
        assert!(matches!(error, FetchError::Table { .. }), "{error}");
    }
    std::thread::scope(|scope| {
        for reader in 0..8 {
            let demand = &demand;
            scope.spawn(move || demand(reader * 100_000).unwrap());
        }
    });
    assert_eq!(loads.load(Ordering::SeqCst), 3);
}

#[test]
fn a_table_that_does_not_come_ends_with_the_readers_deadline() {
    let dir = scratch();
    let content = noise(4, 1 << 20);
    let seek = Arc::new(table(&content, 65_536));
    let store = common::store(dir.path(), 1);
    let layer = store.layers().open(&seek.diff_id, seek.tar_size).unwrap();
    let source = Double::new("only");
    source.add(&content);
    let settings = Settings {
        demand_threads: 1,
        ..Settings::default()
    };
    let fetcher = Fetcher::new(settings).unwrap();
    let until = Arc::new(Mutex::new(Vec::new()));
    let mut hanging = origin(&seek, std::slice::from_ref(&source));
    hanging.table = Box::new({
        let (until, seek) = (until.clone(), seek.clone());
        move |deadline| {
            until.lock().unwrap().push(deadline.unwrap());
            if until.lock().unwrap().len() > 1 {
                return Ok(seek.clone());
            }
            let after = deadline.unwrap().saturating_duration_since(Instant::now());
            std::thread::sleep(after);
            let source_name = "only".to_owned();
            let late = SourceError::TimedOut { source_name, after };
            Err(FetchError::table("app", seek.diff_id, late))
        }
    });
    let _attached = fetcher.attach(layer, hanging);
    let first = Instant::now() + Duration::from_millis(300);
    let second = Instant::now() + Duration::from_secs(30);
    let demand = |deadline| fetcher.demand(&seek.diff_id, Extent { offset: 0, len: 1 }, deadline);
    std::thread::scope(|scope| {
        let reader = scope.spawn(|| demand(first));
        while until.lock().unwrap().is_empty() {
            std::thread::sleep(Duration::from_millis(1));
        }
        // Waits for what the first one asked for, and has time left to ask once more.
        demand(second).unwrap();
        assert!(matches!(
            reader.join().unwrap(),
            Err(FetchError::Deadline { .. })
        ));
    });
    assert_eq!(*until.lock().unwrap(), [first, second]);
}

/// A layer of its own, and what is fetched of it chunk by chunk from `source`.
fn attach_to(
    fetcher: &Fetcher,
    store: &thaw_cache::Store,
    seed: u64,
    source: &Arc<Double>,
) -> (DiffId, Attachment) {
    let content = noise(seed, 1 << 20);
    let seek = Arc::new(table(&content, 65_536));
    source.add(&content);
    let layer = store.layers().open(&seek.diff_id, seek.tar_size).unwrap();
    let attachment = fetcher.attach(layer, origin(&seek, std::slice::from_ref(source)));
    (seek.diff_id, attachment)
}

#[test]
fn tables_that_do_not_come_hold_up_nobody_who_needs_none() {
    let dir = scratch();
    let store = common::store(dir.path(), 1);
    let settings = Settings {
        demand_threads: 12,
        ..Settings::default()
    };
    let fetcher = Fetcher::new(settings).unwrap();
    let source = Double::new("well");
    let (waiting, released) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let waits: Vec<_> = (1..=16)
        .map(|seed| {
            let content = noise(seed, 1 << 20);
            let seek = Arc::new(table(&content, 65_536));
            source.add(&content);
            let layer = store.layers().open(&seek.diff_id, seek.tar_size).unwrap();
            let mut origin = origin(&seek, std::slice::from_ref(&source));
            origin.table_host = "tables".into();
            let (table, waiting, released) = (seek.clone(), waiting.clone(), released.clone());
            origin.table = Box::new(move |_| {
                waiting.fetch_add(1, Ordering::SeqCst);
                while released.load(Ordering::SeqCst) == 0 {
                    std::thread::sleep(Duration::from_millis(1));
                }
                Ok(table.clone())
            });
            (seek.diff_id, fetcher.attach(layer, origin))
        })
        .collect();
    let (id, _attached) = attach_to(&fetcher, &store, 17, &source);
    let demand = |id: &DiffId| {
        let deadline = Instant::now() + Duration::from_secs(20);
        fetcher.demand_only(id, Extent { offset: 0, len: 1 }, deadline)
    };
    assert_eq!(
        (&*fetcher.host(&waits[0].0), &*fetcher.host(&id)),
        ("tables", "")
    );
    std::thread::scope(|scope| {
        for (id, _) in &waits {
            scope.spawn(|| demand(id));
        }
        while waiting.load(Ordering::SeqCst) < 4 {
            std::thread::sleep(Duration::from_millis(1));
        }
        // All there may be, or nearly.
        std::thread::sleep(Duration::from_millis(100));
        let got = demand(&id);
        released.store(1, Ordering::SeqCst);
        got.unwrap();
    });
    assert_eq!(&*fetcher.host(&id), "well", "its table is here");
}

#[test]
fn a_registry_that_hangs_holds_up_nobody_elses_readers() {
    let dir = scratch();
    let store = common::store(dir.path(), 1);
    let settings = Settings {
        demand_threads: 12,
        // A request for each reader.
        merge_bytes: 0,
        ahead_bytes: 0,
        ..Settings::default()
    };
    let fetcher = Fetcher::new(settings).unwrap();
    let (hanging, well) = (Double::new("hanging"), Double::new("well"));
    // An image may have any number of layers.
    let layers = [1, 2, 3].map(|seed| attach_to(&fetcher, &store, seed, &hanging));
    let (id, _other) = attach_to(&fetcher, &store, 4, &well);
    hanging.behave(|b| b.holds = true);
    let demand = |id: &DiffId, offset| {
        let deadline = Instant::now() + Duration::from_secs(20);
        fetcher.demand(id, Extent { offset, len: 1 }, deadline)
    };
    let waiting = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for (layer, _) in &layers {
            for reader in 0..8 {
                let (demand, waiting) = (&demand, &waiting);
                scope.spawn(move || {
                    waiting.fetch_add(1, Ordering::SeqCst);
                    demand(layer, reader * 2 * 65_536)
                });
            }
        }
        while waiting.load(Ordering::SeqCst) < 24 || hanging.calls() < 4 {
            std::thread::sleep(Duration::from_millis(1));
        }
        // All there may be of its requests, or nearly.
        std::thread::sleep(Duration::from_millis(100));
        let got = [0, 1, 2, 3].map(|reader| demand(&id, reader * 2 * 65_536));
        hanging.behave(|b| b.holds = false);
        assert!(got.iter().all(Result::is_ok), "{got:?}");
    });
    assert!(hanging.peak.load(Ordering::SeqCst) <= 4, "a third of them");
    assert_eq!(hanging.calls(), 24, "and in the end it had its turn");
}

#[test]
fn readers_in_parallel_are_served_in_parallel() {
    let scene = Scene::new(16 << 20, 100_000);
    scene
        .source
        .behave(|b| b.delay = Duration::from_millis(100));
    std::thread::scope(|scope| {
        for reader in 0..12 {
            let scene = &scene;
            scope.spawn(move || scene.demand(reader * 1_300 * KIB + 40_000, 512).unwrap());
        }
    });
    assert!(scene.source.peak.load(Ordering::SeqCst) > 8);
}

#[test]
fn fill_completes_and_checks_the_layer() {
    let scene = Scene::new(3 << 20, 100_000);
    scene.demand(1 << 20, 512).unwrap();
    let fill = scene.fetcher.fill(&scene.id());
    fill.wait(Instant::now() + Duration::from_secs(20))
        .unwrap()
        .unwrap();
    assert!(scene.layer.is_whole());
    let stats = scene.fetcher.stats();
    assert_eq!(
        stats.demand.fetched + stats.fill.fetched,
        3 << 20,
        "no chunk came twice"
    );
    assert_eq!(stats.demand.written + stats.fill.written, 3 << 20);
    let whole = scene.content.clone();
    let mut bytes = vec![0; whole.len()];
    scene.layer.read_at(&mut bytes, 0).unwrap();
    assert!(bytes == whole);
}

#[test]
fn fill_can_be_held_up_and_cancelled_and_gives_up_on_a_dead_source() {
    let scene = Scene::new(4 << 20, 100_000);
    scene.source.behave(|b| b.delay = Duration::from_millis(20));
    let fill = scene.fetcher.fill(&scene.id());
    fill.pause(true);
    assert!(
        fill.wait(Instant::now() + Duration::from_millis(300))
            .is_none()
    );
    assert!(scene.layer.present_bytes() < 3 << 20, "it had just begun");
    fill.cancel();
    let end = fill.wait(Instant::now() + Duration::from_secs(2)).unwrap();
    assert!(matches!(end, Err(FetchError::Stopped)));
    scene.source.behave(|b| b.failures = usize::MAX);
    let fill = scene.fetcher.fill(&scene.id());
    let end = fill.wait(Instant::now() + Duration::from_secs(5)).unwrap();
    assert!(matches!(end, Err(FetchError::Source { .. })), "{end:?}");
    let unknown = scene.fetcher.fill(&DiffId(Digest::of(b"unknown")));
    let end = unknown
        .wait(Instant::now() + Duration::from_secs(5))
        .unwrap();
    assert!(matches!(end, Err(FetchError::NotAttached { .. })));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]
    /// Whatever the chunks, whatever is asked in which order by how many: all of it comes, is
    /// right, and no chunk comes twice.
    #[test]
    fn any_demands_give_the_right_bytes(
        size in 1usize..60_000,
        spacing in 100usize..9_000,
        asks in proptest::collection::vec((0u64..60_000, 1u64..9_000), 1..24),
    ) {
        let scene = Scene::with_gap(size, spacing, 0);
        std::thread::scope(|scope| {
            for part in asks.chunks(6) {
                let scene = &scene;
                scope.spawn(move || for (offset, len) in part {
                    scene.demand(*offset, *len).unwrap();
                });
            }
        });
        scene.scan();
        // Without gaps that are read with their neighbours, no byte is read twice.
        let mut reads = scene.source.reads.lock().unwrap().clone();
        reads.sort_by_key(|read| read.offset);
        let twice = reads.windows(2).find(|pair| pair[1].offset < pair[0].end());
        prop_assert!(twice.is_none(), "{twice:?}");
        let fill = scene.fetcher.fill(&scene.id());
        let end = fill.wait(Instant::now() + Duration::from_secs(20));
        prop_assert!(end.is_some_and(|end| end.is_ok()));
        prop_assert!(scene.layer.is_whole());
    }
}
