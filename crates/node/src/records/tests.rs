use thaw_testkit::disk::Disk;

use super::*;

#[test]
fn records_come_back() {
    let dir = tempfile::tempdir().unwrap();
    let records = Records::open(dir.path()).unwrap();
    let reference: ImageReference = "localhost:5000/a:1".parse().unwrap();
    let manifest = Digest::of(b"m");
    let record = RefRecord {
        reference: reference.to_string(),
        platform: "linux/amd64".into(),
        manifest,
    };
    records.put_reference(&record).unwrap();
    assert_eq!(records.reference(&reference, "linux/amd64"), Some(record));
    assert_eq!(records.reference(&reference, "linux/arm64"), None);
    let image = ImageRecord {
        reference: reference.to_string(),
        media_type: "m".into(),
        manifest,
        config: Digest::of(b"c"),
        acceleration: None,
        working_sets: BTreeMap::new(),
        no_working_set: BTreeSet::new(),
        used: 0,
    };
    records
        .change_image(&manifest, |before| {
            assert_eq!(before, None);
            Some(image.clone())
        })
        .unwrap();
    assert_eq!(records.images().unwrap(), [image]);
    records.remove_image(&manifest).unwrap();
    assert!(records.images().unwrap().is_empty());
    assert_eq!(records.reference(&reference, "linux/amd64"), None);
}

#[test]
fn a_record_has_many_writers() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("record");
    std::thread::scope(|scope| {
        for number in 0..8u64 {
            let path = &path;
            scope.spawn(move || {
                for _ in 0..200 {
                    write(path, &number).unwrap();
                    assert!(read::<u64>(path).unwrap() < 8);
                }
            });
        }
    });
    assert_eq!(files(dir.path()).unwrap(), [path]);
}

#[test]
fn what_was_not_finished_goes() {
    let dir = tempfile::tempdir().unwrap();
    let records = Records::open(dir.path()).unwrap();
    let unfinished = records.manifests.join("abc.17.new");
    fs::write(&unfinished, "{").unwrap();
    Records::open(dir.path()).unwrap();
    assert!(!unfinished.exists());
}

#[test]
fn what_is_known_of_an_artifact_is_not_forgotten() {
    let (manifest, key) = (Digest::of(b"a"), Digest::of(b"k"));
    let from = |repository: Option<&str>, signed| ArtifactRecord {
        manifest,
        repository: repository.map(str::to_owned),
        signed,
    };
    let (made, found) = (ArtifactRecord::made(manifest), from(Some("r"), None));
    let signed = from(Some("s"), Some(key));
    assert_eq!(found.clone().after(None), found);
    assert_eq!(found.clone().after(Some(&made)), made);
    assert_eq!(
        found.clone().after(Some(&signed)),
        from(Some("r"), Some(key))
    );
    assert_eq!(made.clone().after(Some(&found)), made);
    let other = ArtifactRecord::made(Digest::of(b"b"));
    assert_eq!(found.clone().after(Some(&other)), found);
    // As it was written once: where it came from is not known.
    let old = serde_json::to_string(&manifest).unwrap();
    let old: ArtifactRecord = serde_json::from_str(&old).unwrap();
    assert_eq!(old, from(Some(""), None));
    let text = serde_json::to_string(&signed).unwrap();
    assert_eq!(
        serde_json::from_str::<ArtifactRecord>(&text).unwrap(),
        signed
    );
}

#[test]
fn a_damaged_record_is_absent() {
    let dir = tempfile::tempdir().unwrap();
    let records = Records::open(dir.path()).unwrap();
    let manifest = Digest::of(b"m");
    fs::write(
        dir.path().join("images/manifests").join(manifest.hex()),
        b"{",
    )
    .unwrap();
    assert_eq!(records.image(&manifest), None);
}

/// A layer's blocks survive a power cut on their own: what is said of them must not be older.
#[test]
fn words_that_were_settled_or_removed_do_not_come_back() {
    let disk = Disk::new(32 << 20).unwrap();
    let records = Records::open(disk.root()).unwrap();
    let [replaced, removed, forgotten, first] =
        [b"1", b"2", b"3", b"4"].map(|name| DiffId(Digest::of(name)));
    let [old, new] = [b"a", b"b"].map(|name| vec![ArtifactRecord::made(Digest::of(name))]);
    for layer in [&replaced, &removed, &forgotten] {
        records.put_words(layer, &old).unwrap();
    }
    records.settle();
    let after = || {
        let after = disk.after_a_power_cut().unwrap();
        let records = Records::open(after.root()).unwrap();
        [&replaced, &removed, &forgotten, &first].map(|layer| records.words(layer))
    };
    let before = Some(old.clone());
    assert_eq!(after(), [before.clone(), before.clone(), before, None]);
    records.put_words(&first, &old).unwrap();
    // Each on its own: what is synced behind it would help.
    records.put_words(&replaced, &new).unwrap();
    records.settle();
    assert_eq!(after()[0], Some(new));
    records.remove_words(&removed);
    assert_eq!(after()[1], None);
    records.remove_layer(&forgotten).unwrap();
    let [.., forgotten, first] = after();
    assert_eq!(forgotten, None);
    // One that was lost says that nobody knows.
    assert!(first.is_none_or(|words| words == old));
}
