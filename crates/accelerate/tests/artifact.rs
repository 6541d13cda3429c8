//! Accelerations and working sets: published, found again, and refused where they are not what
//! they should be.

#![allow(clippy::unwrap_used, reason = "a test that fails says where")]

mod common;

use std::sync::Arc;

use common::{Here, Loaded, load};
use thaw_accelerate::{
    Acceleration, Artifact, ArtifactError, BlobContent, Origin, PackOptions, PackedSet, Prepared,
    PreparedLayer, WorkingSetArtifact, find, merge, pack, parse_working_set, prepare, read_table,
};
use thaw_erofs::{Content, StoredContent};
use thaw_image::{DiffId, Digest, Extent, Silent, WorkingSet, media};
use thaw_layer::Options;
use thaw_registry::{Descriptor, Manifest, ManifestContent, Repository, Which};
use thaw_testkit::image::{Compression, Entry, Image, Layer};

/// Two gzip layers, one plain, one zstd, and a sparse file that has to be copied.
fn image() -> Loaded {
    let line = |n: u32| format!("{:08x} and some text\n", n.wrapping_mul(2_654_435_761));
    let text: String = (0..40_000).map(line).collect();
    let pieces = vec![(700, vec![7; 1024]), (5000, vec![8; 512])];
    load(&Image::new([
        Layer::new([Entry::file("text", text), Entry::file("gone", "1")]),
        Layer::new([
            Entry::whiteout("gone"),
            Entry::sparse("odd", 100_000, pieces),
        ]),
        Layer::new([Entry::file("plain", "p")]).compression(Compression::None),
        Layer::new([Entry::file("z", "z")]).compression(Compression::Zstd(3)),
    ]))
}

/// What was prepared, and the place whose scratch directory holds its windows until it is
/// published.
struct Ready {
    prepared: Prepared,
    _here: Here,
}

impl std::ops::Deref for Ready {
    type Target = Prepared;

    fn deref(&self) -> &Prepared {
        &self.prepared
    }
}

impl Ready {
    /// The tars that the layers have.
    fn tars(&self) -> Vec<merge::Layer> {
        let layers = self.prepared.layers.iter();
        let tar = |layer: &PreparedLayer| merge::Layer {
            diff_id: layer.layer.diff_id,
            tar_size: layer.tar_size,
        };
        layers.map(tar).collect()
    }
}

fn prepared(loaded: &Loaded) -> Ready {
    let options = Options {
        spacing: 64 << 10,
        ..Options::default()
    };
    let here = Here::new(true);
    let prepared = prepare(&loaded.layers, &loaded.source, &here, &options, &Silent).unwrap();
    Ready {
        prepared,
        _here: here,
    }
}

#[test]
fn what_is_published_is_found() {
    let loaded = image();
    let prepared = prepared(&loaded);
    let (subject, layers) = (&loaded.subject, &loaded.layers);
    assert!(
        find(&loaded.source, &subject.digest, layers)
            .unwrap()
            .is_none()
    );
    let artifact = Artifact::build(subject, &prepared).unwrap();
    artifact.publish(&loaded.source).unwrap();

    let found = find(&loaded.source, &subject.digest, layers)
        .unwrap()
        .unwrap();
    assert_eq!(found.manifest, artifact.acceleration.manifest);
    let packed = loaded
        .source
        .blob(&found.layout.descriptor, u64::MAX)
        .unwrap();
    let layout = found.layout.unpack(&packed).unwrap();
    assert!(layout.bytes() == prepared.layout.bytes);
    let tars = prepared.tars();
    found.check_layout(layout.bytes(), &tars).unwrap();
    let generated = found.generated.as_ref().unwrap();
    let packed = loaded.source.blob(&generated.descriptor, u64::MAX).unwrap();
    assert_eq!(
        Some(generated.unpack(&packed).unwrap().into_bytes()),
        prepared.layout.generated
    );

    // Every layer but the zstd one has its table.
    assert_eq!(found.tables.len(), 3);
    for layer in &prepared.layers {
        let Ok(index) = &layer.index else {
            assert!(!found.tables.contains_key(&layer.layer.blob));
            continue;
        };
        let table = &found.tables[&layer.layer.blob];
        let bytes = loaded.source.blob(&table.table, u64::MAX).unwrap();
        assert_eq!(
            read_table(&bytes, &layer.layer.blob, table).unwrap(),
            *index.table
        );
        if let Some(windows) = &table.windows {
            let bytes = loaded.source.blob(windows, u64::MAX).unwrap();
            assert_eq!(Digest::of(&bytes), index.windows);
        }
        assert!(read_table(&bytes, &Digest::of(b"other"), table).is_err());
    }
}

#[test]
fn the_same_image_gives_the_same_artifact() {
    let (loaded, again) = (image(), image());
    let build = |loaded: &Loaded| Artifact::build(&loaded.subject, &prepared(loaded)).unwrap();
    let (first, second) = (build(&loaded), build(&again));
    assert_eq!(first.acceleration.manifest, second.acceleration.manifest);
    let content = first.acceleration.manifest.content().unwrap();
    assert_eq!(content.artifact_type.as_deref(), Some(media::ACCELERATION));
    assert_eq!(content.subject.as_ref(), Some(&loaded.subject));
    assert_eq!(content.layers[0].media_type, media::LAYOUT);
    assert_eq!(content.config.digest, Digest::of(media::EMPTY_CONTENT));
}

/// Why a changed manifest is refused.
fn forged(change: impl FnOnce(&mut ManifestContent)) -> String {
    let loaded = image();
    let manifest = changed(&loaded, change);
    let outcome = Acceleration::parse(manifest, &loaded.subject.digest, &loaded.layers);
    reason(outcome.unwrap_err())
}

/// A changed manifest, whose blobs are in the repository.
fn changed(loaded: &Loaded, change: impl FnOnce(&mut ManifestContent)) -> Manifest {
    let prepared = prepared(loaded);
    let artifact = Artifact::build(&loaded.subject, &prepared).unwrap();
    artifact.publish(&loaded.source).unwrap();
    let manifest = &artifact.acceleration.manifest;
    loaded.source.delete_manifest(manifest.digest()).unwrap();
    let mut content = manifest.content().unwrap();
    change(&mut content);
    Manifest::parse(content.to_bytes(), None).unwrap()
}

fn reason(error: ArtifactError) -> String {
    match error {
        ArtifactError::Unusable { reason, .. } => reason,
        other => panic!("{other}"),
    }
}

fn annotate(descriptor: &mut Descriptor, key: &str, value: impl ToString) {
    descriptor
        .annotations
        .insert(key.to_owned(), value.to_string());
}

fn part<'a>(content: &'a mut ManifestContent, kind: &str) -> &'a mut Descriptor {
    content
        .layers
        .iter_mut()
        .find(|layer| layer.media_type == kind)
        .unwrap()
}

#[test]
fn forged_manifests_are_refused() {
    let other = Digest::of(b"other");
    assert!(forged(|m| m.artifact_type = None).contains("no acceleration"));
    assert!(forged(|m| m.subject = None).contains("another image"));
    assert!(forged(|m| m.subject.as_mut().unwrap().digest = other).contains("another image"));
    assert!(forged(|m| m.layers.clear()).contains("no layout"));
    assert!(forged(|m| m.layers.retain(|l| l.media_type != media::LAYOUT)).contains("no layout"));
    assert!(forged(|m| m.layers.push(m.layers[0].clone())).contains("bad part"));
    assert!(forged(|m| m.layers[0].media_type = "text/plain".into()).contains("bad part"));
    let table = media::SEEK_TABLE;
    let key = media::ANNOTATION_LAYER;
    assert!(forged(|m| annotate(part(m, table), key, other)).contains("foreign layer"));
    assert!(forged(|m| annotate(part(m, table), key, "sha256:zz")).contains("malformed"));
    assert!(forged(|m| drop(part(m, table).annotations.remove(key))).contains("missing"));
    let key = media::ANNOTATION_DIFF_ID;
    assert!(forged(|m| annotate(part(m, table), key, other)).contains("foreign layer"));
    let tar_size = media::ANNOTATION_TAR_SIZE;
    assert!(forged(|m| annotate(part(m, table), tar_size, "-1")).contains("malformed"));
    let twice = forged(|m| {
        let second = part(m, table).clone();
        m.layers.push(second);
    });
    assert!(twice.contains("second"), "{twice}");
    assert!(forged(|m| part(m, media::WINDOWS).size = u64::MAX).contains("bad part"));
    let again = forged(|m| {
        let second = part(m, media::WINDOWS).clone();
        m.layers.push(second);
    });
    assert!(again.contains("second windows"), "{again}");
    let key = media::ANNOTATION_LAYER;
    let foreign = forged(|m| annotate(part(m, media::WINDOWS), key, other));
    assert!(foreign.contains("no seek table"), "{foreign}");
    let key = media::ANNOTATION_UNPACKED_SIZE;
    assert!(forged(|m| annotate(&mut m.layers[0], key, u64::MAX)).contains("limit"));
    assert!(forged(|m| annotate(&mut m.layers[0], key, "much")).contains("malformed"));
    assert!(forged(|m| m.layers[0].size = u64::MAX).contains("which is more"));
    // A bomb that keeps its promise.
    assert!(forged(|m| annotate(&mut m.layers[0], key, (256 << 20) + 1)).contains("limit"));
    let generated = media::GENERATED;
    let large = forged(|m| annotate(part(m, generated), key, (128 << 20) + 1));
    assert!(large.contains("limit"), "{large}");
}

/// Where it is found: by what a mount reads already it goes on.
#[test]
fn what_all_seek_tables_promise_is_bounded() {
    let each = |change: &dyn Fn(&mut Descriptor)| {
        let loaded = image();
        let (subject, layers) = (&loaded.subject.digest, &loaded.layers);
        let manifest = changed(&loaded, |m| {
            let tables = m.layers.iter_mut();
            tables
                .filter(|layer| layer.media_type == media::SEEK_TABLE)
                .for_each(change);
        });
        Acceleration::parse(manifest.clone(), subject, layers).unwrap();
        loaded.source.add_referrer(&manifest).unwrap();
        let found = find(&loaded.source, subject, layers);
        reason(found.unwrap_err())
    };
    let tars = |bytes: u64| {
        move |table: &mut Descriptor| annotate(table, media::ANNOTATION_TAR_SIZE, bytes)
    };
    // Three layers have one: none of these is too large by itself but the last.
    for bytes in [86 << 30, 256 << 30, u64::MAX] {
        let said = each(&tars(bytes));
        assert!(said.contains("over the limit"), "{said}");
    }
    for bytes in [43 << 20, 128 << 20, u64::MAX] {
        let said = each(&move |table| table.size = bytes);
        assert!(said.contains("over the limit"), "{said}");
    }
}

#[test]
fn a_layout_that_unpacks_to_something_else_is_refused() {
    let loaded = image();
    let artifact = Artifact::build(&loaded.subject, &prepared(&loaded)).unwrap();
    let layout = &artifact.acceleration.layout;
    let BlobContent::Bytes(packed) = &artifact.blobs[0].1 else {
        panic!("the layout is in memory");
    };
    layout.unpack(packed).unwrap();
    let bomb = zstd::encode_all(&vec![0; 256 << 20][..], 3).unwrap();
    let other = zstd::encode_all(&b"other"[..], 3).unwrap();
    for bytes in [
        &bomb[..],
        &other,
        &packed[..packed.len() / 2],
        b"",
        b"no zstd",
    ] {
        layout.unpack(bytes).unwrap_err();
    }
}

#[test]
fn a_layout_of_other_layers_is_refused() {
    let loaded = image();
    let prepared = prepared(&loaded);
    let artifact = Artifact::build(&loaded.subject, &prepared).unwrap();
    let tars = prepared.tars();
    let check = |bytes: &[u8]| artifact.acceleration.check_layout(bytes, &tars);
    let image = thaw_erofs::Image::open(&prepared.layout.bytes).unwrap();
    let (tree, devices) = (image.to_tree().unwrap(), image.devices().to_vec());
    let written = |devices: &[thaw_erofs::Device]| {
        let mut bytes = Vec::new();
        thaw_erofs::write(&tree, devices, &mut bytes).unwrap();
        bytes
    };
    check(&written(&devices)).unwrap();
    // The last has no seek table that says how large it is.
    assert!(
        !artifact
            .acceleration
            .tables
            .contains_key(&loaded.layers[3].blob)
    );
    let changed = |change: fn(&mut Vec<thaw_erofs::Device>)| {
        let mut devices = devices.clone();
        change(&mut devices);
        check(&written(&devices)).unwrap_err()
    };
    assert!(changed(|d| d[0].tag = [b'0'; 64]).contains("not the layers"));
    assert!(changed(|d| d[0].tag = d[2].tag).contains("not the layers"));
    assert!(changed(|d| d[0].blocks += 1).contains("not the layers"));
    assert!(changed(|d| d[3].blocks += 1).contains("not the layers"));
    assert!(changed(|d| d[4].blocks += 8).contains("another size"));
    let extra = thaw_erofs::Device {
        tag: [b'0'; 64],
        blocks: 1,
    };
    let more = [devices.as_slice(), &[extra]].concat();
    assert!(
        check(&written(&more))
            .unwrap_err()
            .contains("6 devices instead of 5")
    );
    assert!(check(b"no layout").is_err());
}

/// A foreign layout's device table may be right and a file of it point behind its layer: the
/// kernel would read what lies there.
#[test]
fn a_layout_whose_files_leave_their_layers_is_refused() {
    let loaded = image();
    let prepared = prepared(&loaded);
    let artifact = Artifact::build(&loaded.subject, &prepared).unwrap();
    let tars = prepared.tars();
    let check = |bytes: &[u8]| artifact.acceleration.check_layout(bytes, &tars);
    let good = &prepared.layout.bytes;
    check(good).unwrap();
    let image = thaw_erofs::Image::open(good).unwrap();
    let StoredContent::Directory { entries, .. } = image.inode(image.root()).unwrap().content
    else {
        panic!("the root is a directory");
    };
    let nid = entries.iter().find(|it| it.name == b"text").unwrap().nid;
    let StoredContent::Other(Content::File(text)) = image.inode(nid).unwrap().content else {
        panic!("it is a file");
    };
    let [extent] = text.extents[..] else {
        panic!("it lies in one piece: {text:?}");
    };
    // The one entry of its table, behind the 64 bytes of an inode without xattrs.
    let at = usize::try_from(nid.0).unwrap() * 32 + 64;
    let field = |bytes: &[u8]| u32::from_le_bytes(bytes[at + 4..at + 8].try_into().unwrap());
    assert_eq!(u64::from(field(good)), extent.device_block);
    let moved = |block: u64| {
        let mut bytes = good.clone();
        bytes[at + 4..at + 8].copy_from_slice(&u32::try_from(block).unwrap().to_le_bytes());
        check(&bytes)
    };
    let layer = &image.devices()[usize::from(extent.device) - 1];
    let last = layer.blocks - extent.blocks;
    assert_eq!(moved(last), Ok(()));
    let outside = format!(
        "inode {} of the layout: its extent at block 0 lies outside of its device",
        nid.0
    );
    assert_eq!(moved(last + 1), Err(outside.clone()));
    assert_eq!(moved(0xffff_fff0), Err(outside));
}

#[test]
fn the_first_usable_one_is_taken() {
    let loaded = image();
    let prepared = prepared(&loaded);
    let artifact = Artifact::build(&loaded.subject, &prepared).unwrap();
    let mut content = artifact.acceleration.manifest.content().unwrap();
    content.layers.clear();
    let empty = Descriptor::of(media::EMPTY, media::EMPTY_CONTENT);
    loaded
        .source
        .put_blob(&empty, &mut std::io::Cursor::new(media::EMPTY_CONTENT))
        .unwrap();
    let broken = Manifest::parse(content.to_bytes(), None).unwrap();
    loaded.source.add_referrer(&broken).unwrap();
    let subject = &loaded.subject.digest;
    find(&loaded.source, subject, &loaded.layers).unwrap_err();
    artifact.publish(&loaded.source).unwrap();
    let found = find(&loaded.source, subject, &loaded.layers)
        .unwrap()
        .unwrap();
    assert_eq!(found.manifest, artifact.acceleration.manifest);
    let listed = loaded.source.referrers(subject, &[media::ACCELERATION]);
    assert_eq!(listed.unwrap().len(), 2);
}

#[test]
fn working_sets_are_published_and_found() {
    let loaded = image();
    let here = Here::new(true);
    prepare(
        &loaded.layers,
        &loaded.source,
        &here,
        &Options::default(),
        &Silent,
    )
    .unwrap();
    let tars = here.tars.lock().unwrap();
    let layers: Vec<(DiffId, u64)> = loaded
        .layers
        .iter()
        .map(|layer| (layer.diff_id, tars[&layer.diff_id].len() as u64))
        .collect();
    let read = |id: &DiffId, extent: Extent| {
        let start = usize::try_from(extent.offset).unwrap();
        Ok(tars[id][start..start + usize::try_from(extent.len).unwrap()].to_vec())
    };
    let trace = [
        (
            layers[2].0,
            Extent {
                offset: 0,
                len: 600,
            },
        ),
        (
            layers[0].0,
            Extent {
                offset: 512,
                len: 90_000,
            },
        ),
    ];
    let packed: PackedSet = pack(&trace, &layers, &read, &PackOptions::default()).unwrap();
    let artifact =
        WorkingSetArtifact::build(&loaded.subject, "default", Origin::Recorded, packed.clone())
            .unwrap();
    artifact.publish(&loaded.source).unwrap();

    let listed = loaded
        .source
        .referrers(&loaded.subject.digest, &[media::WORKING_SET])
        .unwrap();
    assert_eq!(listed[0].annotations[media::ANNOTATION_PROFILE], "default");
    let manifest = loaded
        .source
        .manifest(&Which::Digest(listed[0].digest))
        .unwrap();
    let found = parse_working_set(&manifest, &loaded.subject.digest).unwrap();
    assert_eq!(found.profile, "default");
    let index = loaded.source.blob(&found.index, u64::MAX).unwrap();
    assert_eq!(WorkingSet::decode(&index).unwrap(), packed.set);
    let data: Arc<[u8]> = loaded.source.blob(&found.data, u64::MAX).unwrap().into();
    assert!(*data == *packed.data);
    assert!(parse_working_set(&manifest, &Digest::of(b"other")).is_err());
}
