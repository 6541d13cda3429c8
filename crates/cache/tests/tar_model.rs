//! Layer tars against a reference model: any sequence of writes, syncs, reopenings and reboots.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod common;

use std::fs::File;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use common::{noise, scratch, store, verified};
use proptest::prelude::*;
use thaw_cache::{LayerTar, PresenceReader, Store};
use thaw_image::{BLOCK, DiffId, Digest, Extent};

#[derive(Debug, Clone)]
enum Step {
    Write(usize, usize),
    Sync,
    Reopen,
    Reboot,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        8 => (0usize..20_000, 1usize..4_000).prop_map(|(at, len)| Step::Write(at, len)),
        1 => Just(Step::Sync),
        1 => Just(Step::Reopen),
        1 => Just(Step::Reboot),
    ]
}

/// What is known to be written, byte by byte, and what survives a reboot, block by block.
struct Model {
    content: Vec<u8>,
    covered: Vec<bool>,
    durable: Vec<bool>,
}

const B: usize = 512;

impl Model {
    fn new(size: usize) -> Self {
        Self {
            content: noise(7, size),
            covered: vec![false; size],
            durable: vec![false; size.div_ceil(B)],
        }
    }

    fn present(&self) -> Vec<bool> {
        let blocks = self.covered.chunks(B);
        blocks.map(|block| block.iter().all(|byte| *byte)).collect()
    }

    /// Parts of blocks are remembered in memory only.
    fn keep_blocks(&mut self, blocks: &[bool]) {
        for (bytes, keep) in self.covered.chunks_mut(B).zip(blocks) {
            bytes.fill(*keep);
        }
    }
}

fn check(model: &Model, layer: &LayerTar) -> Result<(), TestCaseError> {
    let reader = PresenceReader::open(layer.presence_path()).unwrap();
    prop_assert_eq!(reader.diff_id(), layer.diff_id());
    let present = model.present();
    let size = model.content.len();
    for (number, present) in present.iter().enumerate() {
        let block = Extent {
            offset: (number * B) as u64,
            len: BLOCK,
        };
        prop_assert_eq!(layer.contains(block), *present, "block {}", number);
        prop_assert_eq!(
            reader.contains(block).unwrap(),
            *present,
            "block {}",
            number
        );
        if *present {
            let len = B.min(size - number * B);
            let mut bytes = vec![0; len];
            layer.read_at(&mut bytes, block.offset).unwrap();
            prop_assert_eq!(&bytes[..], &model.content[number * B..][..len]);
        }
    }
    let all = Extent {
        offset: 0,
        len: size as u64,
    };
    let mut missing = vec![false; size];
    for extent in layer.missing(all) {
        for at in extent.offset..extent.end() {
            missing[usize::try_from(at).unwrap()] = true;
        }
    }
    let absent: Vec<bool> = model.covered.iter().map(|covered| !covered).collect();
    prop_assert!(missing == absent, "missing bytes differ from the model's");
    for (from, len) in [(0, size), (B, 3 * B), (size / 2, size), (0, 1)] {
        let blocks = (from / B)..(from + len).div_ceil(B).min(present.len());
        let model_says = present[blocks].iter().all(|present| *present);
        let extent = Extent {
            offset: from as u64,
            len: len as u64,
        };
        prop_assert_eq!(layer.contains(extent), model_says);
        prop_assert_eq!(reader.contains(extent).unwrap(), model_says);
    }
    Ok(())
}

fn open(store: &Store, model: &Model) -> Arc<LayerTar> {
    let id = DiffId(Digest::of(&model.content));
    store
        .layers()
        .open(&id, model.content.len() as u64)
        .unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 192, ..ProptestConfig::default() })]
    #[test]
    fn any_history_agrees_with_the_model(
        size in 1usize..20_000,
        steps in proptest::collection::vec(step(), 1..40),
    ) {
        let dir = scratch();
        let mut model = Model::new(size);
        let mut boot = 1;
        let mut now = store(dir.path(), boot);
        let mut layer = open(&now, &model);
        for step in steps {
            match step {
                Step::Write(at, len) => {
                    let at = at % size;
                    let end = (at + len).min(size);
                    layer.write(at as u64, &verified(&model.content[at..end])).unwrap();
                    model.covered[at..end].fill(true);
                    // A block that is there stays so, whatever part of it was written how often.
                    let present = model.present();
                    prop_assert!(present.iter().zip(&model.durable).all(|(p, d)| *p || !*d));
                }
                Step::Sync => {
                    layer.sync().unwrap();
                    model.durable = model.present();
                }
                Step::Reopen | Step::Reboot => {
                    drop(layer);
                    let keep = if matches!(step, Step::Reboot) {
                        boot += 1;
                        model.durable.clone()
                    } else {
                        model.present()
                    };
                    now = store(dir.path(), boot);
                    layer = open(&now, &model);
                    model.keep_blocks(&keep);
                    if matches!(step, Step::Reboot) {
                        holes_are_zero(&layer, &keep)?;
                    }
                }
            }
            check(&model, &layer)?;
        }
    }
}

/// After a reboot nothing is left of what was not durable.
fn holes_are_zero(layer: &LayerTar, present: &[bool]) -> Result<(), TestCaseError> {
    for (number, present) in present.iter().enumerate() {
        if !present {
            let mut bytes = [1; B];
            layer
                .file()
                .read_exact_at(&mut bytes, (number * B) as u64)
                .unwrap();
            prop_assert!(bytes.iter().all(|byte| *byte == 0), "block {}", number);
        }
    }
    Ok(())
}

#[test]
fn a_whole_layer_stays_whole_over_reboots_and_others_sizes_are_refused() {
    let dir = scratch();
    let content = noise(3, 5_000);
    let id = DiffId(Digest::of(&content));
    {
        let store = store(dir.path(), 1);
        let layer = store.layers().open(&id, 5_000).unwrap();
        layer.write(0, &verified(&content[..1_000])).unwrap();
        let early = layer.verify_whole(&|| true).unwrap_err();
        assert!(early.to_string().contains("still lacks"), "{early}");
        layer.write(1_000, &verified(&content[1_000..])).unwrap();
        layer.verify_whole(&|| true).unwrap();
        layer.sync().unwrap();
        let lie = store.layers().open(&id, 9_000).unwrap_err();
        assert!(lie.to_string().contains("9000 were asked for"), "{lie}");
    }
    let store = store(dir.path(), 2);
    let lie = store.layers().open(&id, 4_000).unwrap_err();
    assert!(lie.to_string().contains("has 5000 bytes here"), "{lie}");
    let layer = store.layers().open(&id, 5_000).unwrap();
    assert!(layer.is_whole());
    assert_eq!(layer.present_bytes(), 5_000);
}

#[test]
fn a_tar_that_is_not_its_diff_id_is_forgotten() {
    let dir = scratch();
    let store = store(dir.path(), 1);
    let id = DiffId(Digest::of(b"another"));
    let content = noise(3, 5_000);
    let layer = store.layers().open(&id, 5_000).unwrap();
    layer.write(0, &verified(&content)).unwrap();
    layer.sync().unwrap();
    let error = layer.verify_whole(&|| true).unwrap_err();
    assert!(error.to_string().contains("hashes to"), "{error}");
    let all = Extent {
        offset: 0,
        len: 5_000,
    };
    assert!(!layer.contains(Extent { offset: 0, len: 1 }));
    let reader = PresenceReader::open(layer.presence_path()).unwrap();
    assert!(
        !reader
            .contains(Extent {
                offset: 4_999,
                len: 1
            })
            .unwrap()
    );
    assert!(
        layer.write(0, &verified(&content)).is_err(),
        "it takes no more writes"
    );
    drop(layer);
    let layer = store.layers().open(&id, 5_000).unwrap();
    assert_eq!(layer.missing(all), [all]);
    layer.write(0, &verified(&content)).unwrap();
}

#[test]
fn writes_outside_the_tar_are_refused() {
    let dir = scratch();
    let store = store(dir.path(), 1);
    let id = DiffId(Digest::of(b"x"));
    let layer = store.layers().open(&id, 1_000).unwrap();
    for offset in [1, 1_000, u64::MAX, u64::MAX - 999] {
        layer.write(offset, &verified(&[1; 1_000])).unwrap_err();
    }
    let to = Extent {
        offset: 0,
        len: 500,
    };
    let placed = thaw_cache::Placed { from: 600, to };
    layer
        .write_runs(&verified(&[1; 1_000]), &[placed])
        .unwrap_err();
    assert_eq!(layer.present_bytes(), 0);
    assert!(
        store
            .layers()
            .open(&DiffId(Digest::of(b"big")), u64::MAX)
            .is_err()
    );
}

#[test]
fn damaged_presence_files_are_not_believed() {
    for damage in [0usize, 20, 30, 60, 80] {
        let dir = scratch();
        let content = noise(1, 4_096);
        let id = DiffId(Digest::of(&content));
        let path = {
            let store = store(dir.path(), 1);
            let layer = store.layers().open(&id, 4_096).unwrap();
            layer.write(0, &verified(&content[..1_024])).unwrap();
            layer.sync().unwrap();
            layer.write(2_048, &verified(&content[2_048..])).unwrap();
            layer.presence_path().to_owned()
        };
        let mut bytes = std::fs::read(&path).unwrap();
        bytes[damage] ^= 1;
        std::fs::write(&path, bytes).unwrap();
        assert!(PresenceReader::open(&path).is_err());
        let store = store(dir.path(), 1);
        let layer = store.layers().open(&id, 4_096).unwrap();
        assert_eq!(layer.present_bytes(), 1_024, "only what was durable");
        PresenceReader::open(&path).unwrap();
    }
}

#[test]
fn one_instance_per_layer_and_only_its_own_descriptor() {
    let dir = scratch();
    let store = store(dir.path(), 1);
    let id = DiffId(Digest::of(b"x"));
    let layer = store.layers().open(&id, 1_000).unwrap();
    assert!(Arc::ptr_eq(
        &layer,
        &store.layers().open(&id, 1_000).unwrap()
    ));
    assert!(store.layers().in_use(&id).is_some());
    let descriptor = layer.file().try_clone().unwrap();
    drop(layer);
    assert!(store.layers().in_use(&id).is_none());
    let other = DiffId(Digest::of(b"y"));
    drop(store.layers().open(&other, 1_000).unwrap());
    let wrong = store
        .layers()
        .adopt(&other, 1_000, descriptor.try_clone().unwrap());
    assert!(wrong.unwrap_err().to_string().contains("another file"));
    // As that of an event is: the right file, and nothing can be written to it.
    let only_read = File::open(format!("/proc/self/fd/{}", descriptor.as_raw_fd())).unwrap();
    let wrong = store.layers().adopt(&id, 1_000, only_read);
    assert!(wrong.unwrap_err().to_string().contains("another file"));
    let layer = store.layers().adopt(&id, 1_000, descriptor).unwrap();
    assert_eq!(layer.file().metadata().unwrap().len(), 1_024);
}
