//! Full pulls: a tar that arrives whole.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod common;

use std::io::Write;
use std::os::unix::fs::PermissionsExt;

use common::{scratch, store, stream, tar_of, verified};
use thaw_cache::{PresenceReader, TarError};
use thaw_image::{BlobSource, DiffId, Digest, Extent};

#[test]
fn a_full_pull_installs_a_whole_layer() {
    let dir = scratch();
    let content = tar_of(5, 3_000_001);
    let id = DiffId(Digest::of(&content));
    let store = store(dir.path(), 1);
    let mut incoming = store.layers().incoming(&id).unwrap();
    let proof = stream(&content, &mut incoming);
    let layer = incoming.commit(&proof).unwrap();
    assert!(layer.is_whole());
    assert_eq!(layer.present_bytes(), content.len() as u64);
    let mut bytes = vec![0; content.len()];
    layer.read_at(&mut bytes, 0).unwrap();
    assert!(bytes == content);
    layer.sync().unwrap();
    drop(layer);
    let store = common::store(dir.path(), 2);
    let layer = store.layers().open(&id, content.len() as u64).unwrap();
    assert!(layer.is_whole(), "a synced whole layer survives a reboot");
}

#[test]
fn a_pull_that_was_not_synced_is_gone_after_a_reboot() {
    let dir = scratch();
    let content = tar_of(5, 100_000);
    let size = content.len() as u64;
    let id = DiffId(Digest::of(&content));
    let sparse = store(dir.path(), 1);
    let layer = sparse.layers().open(&id, size).unwrap();
    layer.write(0, &verified(&content[..51_200])).unwrap();
    layer.sync().unwrap();
    drop(layer);
    let mut incoming = sparse.layers().incoming(&id).unwrap();
    let proof = stream(&content, &mut incoming);
    drop(incoming.commit(&proof).unwrap());
    let layer = sparse.layers().open(&id, size).unwrap();
    assert!(layer.is_whole(), "in the same boot it is believed");
    drop(layer);
    let rebooted = store(dir.path(), 2);
    let layer = rebooted.layers().open(&id, size).unwrap();
    assert_eq!(
        layer.present_bytes(),
        0,
        "what was durable was of the file before"
    );
}

#[test]
fn a_layer_in_use_is_filled_in_place() {
    let dir = scratch();
    let content = tar_of(5, 100_000);
    let size = content.len() as u64;
    let id = DiffId(Digest::of(&content));
    let store = store(dir.path(), 1);
    let layer = store.layers().open(&id, size).unwrap();
    layer
        .write(30_000, &verified(&content[30_000..60_000]))
        .unwrap();
    let mut incoming = store.layers().incoming(&id).unwrap();
    let proof = stream(&content, &mut incoming);
    let same = incoming.commit(&proof).unwrap();
    assert!(std::sync::Arc::ptr_eq(&layer, &same));
    assert!(layer.is_whole());
    let mut bytes = vec![0; content.len()];
    layer.read_at(&mut bytes, 0).unwrap();
    assert!(bytes == content);
}

#[test]
fn a_layer_in_use_that_is_wrong_is_replaced() {
    let dir = scratch();
    let content = tar_of(5, 100_000);
    let size = content.len() as u64;
    let id = DiffId(Digest::of(&content));
    let store = store(dir.path(), 1);
    let layer = store.layers().open(&id, size).unwrap();
    layer.write(30_000, &verified(&[7; 30_000])).unwrap();
    let mut incoming = store.layers().incoming(&id).unwrap();
    let proof = stream(&content, &mut incoming);
    incoming.commit(&proof).unwrap();
    assert!(layer.is_whole());
    let mut bytes = vec![0; content.len()];
    layer.read_at(&mut bytes, 0).unwrap();
    assert!(bytes == content);
}

#[test]
fn a_layer_in_use_of_a_wrong_size_makes_way() {
    let content = tar_of(5, 100_000);
    let size = content.len() as u64;
    let id = DiffId(Digest::of(&content));
    for wrong in [size - 1, size - 50_000, size + 1, size + 50_000] {
        let dir = scratch();
        let one = store(dir.path(), 1);
        let open = one.layers().open(&id, wrong).unwrap();
        open.write(0, &verified(&[7; 30_000])).unwrap();
        open.sync().unwrap();
        let keeper = PresenceReader::open(open.presence_path()).unwrap();
        let begin = Extent {
            offset: 0,
            len: 512,
        };
        assert!(keeper.contains(begin).unwrap());

        let mut incoming = one.layers().incoming(&id).unwrap();
        let proof = stream(&content, &mut incoming);
        let layer = incoming.commit(&proof).unwrap();
        assert!(layer.is_whole());
        let mut bytes = vec![0; content.len()];
        layer.read_at(&mut bytes, 0).unwrap();
        assert!(bytes == content);
        layer.sync().unwrap();

        // Whoever read the other one finds nothing, in this process and elsewhere, and nothing comes.
        assert_eq!(open.present_bytes(), 0);
        assert!(!keeper.contains(begin).unwrap());
        let error = open.write(0, &verified(&[7; 512])).unwrap_err();
        assert!(matches!(error, TarError::Refused { .. }), "{error}");
        open.sync().unwrap();
        open.punch(&[], || Ok::<_, TarError>(())).unwrap();
        drop((open, layer));
        let error = one.layers().open(&id, wrong).unwrap_err();
        assert!(
            matches!(error, TarError::Size { known, .. } if known == size),
            "{error}"
        );
        let store = store(dir.path(), 2);
        let layer = store.layers().open(&id, size).unwrap();
        assert!(layer.is_whole(), "it survives a reboot");
    }
}

#[test]
fn a_wrong_pull_installs_nothing() {
    let dir = scratch();
    let store = store(dir.path(), 1);
    let (wanted, other) = (tar_of(1, 5000), tar_of(2, 5000));
    let id = DiffId(Digest::of(&wanted));
    let incoming = || store.layers().incoming(&id).unwrap();
    let mut wrong = incoming();
    let proof = stream(&other, &mut wrong);
    let error = wrong.commit(&proof).unwrap_err();
    assert!(matches!(error, TarError::NotItsDiffId { .. }), "{error}");

    // The right proof, but not all went here that it speaks of, or more.
    let proof = stream(&wanted, &mut std::io::sink());
    let mut short = incoming();
    short.write_all(&wanted[..512]).unwrap();
    let mut long = incoming();
    long.write_all(b"before").unwrap();
    stream(&wanted, &mut long);
    for part in [short, long] {
        let error = part.commit(&proof).unwrap_err();
        assert!(matches!(error, TarError::Size { .. }), "{error}");
    }
    drop(incoming());
    assert!(store.layers().list().unwrap().is_empty());
    assert_eq!(
        std::fs::read_dir(dir.path().join("tmp")).unwrap().count(),
        0
    );
}

#[test]
fn blobs_are_whole_or_absent() {
    let dir = scratch();
    let store = store(dir.path(), 1);
    let blobs = store.blobs();
    let (bytes, digest) = (b"hello".to_vec(), Digest::of(b"hello"));
    assert_eq!(blobs.get(&digest).unwrap(), None);
    assert!(blobs.put(&digest, b"hellO").is_err());
    assert!(blobs.put_reader(&digest, &mut &b"hellO"[..]).is_err());
    assert!(!blobs.contains(&digest));
    blobs.put(&digest, &bytes).unwrap();
    assert_eq!(blobs.get(&digest).unwrap(), Some(bytes));
    let mode = std::fs::metadata(blobs.path(&digest))
        .unwrap()
        .permissions()
        .mode();
    assert_eq!(mode & 0o777, 0o600);

    let part = Extent { offset: 1, len: 3 };
    assert_eq!(blobs.read_at(&digest, part, None).unwrap(), b"ell");
    let mut all = Vec::new();
    let mut stream = blobs.stream(&digest, part).unwrap();
    std::io::Read::read_to_end(&mut stream, &mut all).unwrap();
    assert_eq!(all, b"ell");
    let beyond = Extent {
        offset: 1,
        len: u64::MAX,
    };
    let error = blobs.read_at(&digest, beyond, None).unwrap_err();
    assert!(error.to_string().contains("ended early"), "{error}");

    std::fs::write(blobs.path(&digest), b"damaged").unwrap();
    assert_eq!(
        blobs.get(&digest).unwrap(),
        None,
        "a damaged blob counts as absent"
    );
    assert_eq!(blobs.list().unwrap(), []);
    blobs
        .put_file(&digest, &{
            let path = dir.path().join("file");
            std::fs::write(&path, b"hello").unwrap();
            path
        })
        .unwrap();
    assert_eq!(blobs.list().unwrap(), [(digest, 5)]);
    assert_eq!(blobs.remove(&digest).unwrap(), 5);
}
