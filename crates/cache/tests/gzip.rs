//! A real gzip layer, indexed by the layer crate, filled from its blob and its windows.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod common;

use std::io::Write;
use std::sync::Arc;
use std::time::{Duration, Instant};

use common::double::Double;
use common::{noise, scratch, store};
use thaw_cache::{Fetcher, Origin, Settings};
use thaw_image::{DiffId, Digest, Extent};
use thaw_layer::{Budget, Expected, Options, Outputs, Packing};

/// A tar of files that compress, with some that do not.
fn tar_bytes() -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    for number in 0..40u64 {
        let mut bytes = noise(number, 20_000);
        for word in 0..9_000u64 {
            write!(bytes, "word {} ", (word * word + number) % 977).unwrap();
        }
        let mut header = tar::Header::new_gnu();
        header.set_size(bytes.len() as u64);
        header.set_mode(0o644);
        let name = format!("dir/file-{number}");
        builder.append_data(&mut header, name, &bytes[..]).unwrap();
    }
    builder.into_inner().unwrap()
}

#[test]
fn a_gzip_layer_fills_from_blob_and_windows() {
    let content = tar_bytes();
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    gzip.write_all(&content).unwrap();
    let blob = gzip.finish().unwrap();
    let dir = scratch();
    let store = store(dir.path(), 1);
    let id = DiffId(Digest::of(&content));
    let expected = Expected {
        blob: Digest::of(&blob),
        blob_size: blob.len() as u64,
        diff_id: id,
    };
    let options = Options {
        spacing: 64 << 10,
        ..Options::default()
    };
    let mut incoming = store.layers().incoming(&id).unwrap();
    let mut windows = Vec::new();
    let outputs = Outputs {
        tar: &mut incoming,
        windows: &mut windows,
    };
    let packing = Packing::Gzip;
    let budget = Budget::new(options.max_memory);
    let index = thaw_layer::index(
        &mut &blob[..],
        packing,
        &expected,
        &options,
        outputs,
        &budget,
        &mut |_| (),
    );
    let index = index.unwrap();
    let seek = index.seek.unwrap();
    assert!(seek.table.chunks.len() > 10);

    // What the full pull wrote is the layer.
    let whole = incoming.commit(&index.proof).unwrap();
    assert!(whole.is_whole());
    drop(whole);
    store.layers().remove(&id).unwrap();

    // And what the chunks give is, too. The windows come from the local store.
    store.blobs().put(&seek.windows, &windows).unwrap();
    let source = Double::new("registry");
    source.add(&blob);
    let layer = store.layers().open(&id, seek.table.tar_size).unwrap();
    let fetcher = Fetcher::new(Settings::default()).unwrap();
    let table = Arc::new(seek.table);
    let _attached = fetcher.attach(
        layer.clone(),
        Origin {
            image: "registry.test/app:1".into(),
            blobs: vec![source.clone()],
            layer_blob: expected.blob,
            table: Box::new({
                let table = table.clone();
                move |_| Ok(table.clone())
            }),
            table_host: String::new(),
            windows: Some((Arc::new(store.blobs().clone()), seek.windows)),
        },
    );
    for step in 0..50u64 {
        let offset = step * 104_729 % (content.len() as u64 - 20_000);
        let extent = Extent {
            offset,
            len: 1 + step * 400,
        };
        fetcher
            .demand(&id, extent, Instant::now() + Duration::from_secs(10))
            .unwrap();
        let mut bytes = vec![0; usize::try_from(extent.len).unwrap()];
        layer.read_at(&mut bytes, offset).unwrap();
        assert!(bytes == content[usize::try_from(offset).unwrap()..][..bytes.len()]);
    }
    let fill = fetcher.fill(&id);
    fill.wait(Instant::now() + Duration::from_secs(20))
        .unwrap()
        .unwrap();
    assert!(layer.is_whole());
    assert_eq!(fetcher.stats().mismatches, 0);
}
