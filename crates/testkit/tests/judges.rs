//! The images that we build are what other tools think they are.
#![allow(clippy::unwrap_used)]

use std::process::Command;

use thaw_testkit::image::{Compression, Entry, Image, Layer, cases, real, write_index};
use thaw_testkit::registry::Registry;
use thaw_testkit::tree::{Kind, Snapshot, list};
use thaw_testkit::{process, scratch, unpack};

/// Another tool reads every case; a few facts of each are checked by hand, so that a comparison of two
/// wrong trees cannot pass.
#[test]
fn every_case_can_be_unpacked() {
    for case in cases::all() {
        let directory = scratch::directory().unwrap();
        let layout = case.image.write(directory.path(), "t").unwrap();
        let unpacked = case
            .unpack(&layout)
            .unwrap_or_else(|error| panic!("{}: {error:#}", case.name));
        let tree = Snapshot::of(unpacked.root()).unwrap();
        let has = |path: &str| tree.0.contains_key(path.as_bytes());
        let get = |path: &str| &tree.0[path.as_bytes()];
        match case.name {
            "attributes" => {
                assert_eq!(get("bin/setuid").mode, 0o4755);
                assert!(
                    get("bin/capable")
                        .xattrs
                        .contains_key(b"security.capability".as_slice())
                );
                assert!(
                    get("bin/acl")
                        .xattrs
                        .contains_key(b"system.posix_acl_access".as_slice())
                );
                assert_eq!(get("dev/big").device, Some((4095, 1_048_575)));
            }
            "names" => {
                assert_eq!(
                    tree.0
                        .keys()
                        .filter(|path| path.starts_with(b"many/"))
                        .count(),
                    1500
                );
                assert!(tree.0.contains_key(b"\xff\xfe-not-utf8".as_slice()));
            }
            "gnu" => assert_eq!(get("before-1970").mtime.0, -1_000_000),
            "gnu-sparse" => assert_eq!(get("sparse").size, 1 << 20),
            "times-and-ids" => {
                assert_eq!(get("nanoseconds").mtime, (1_700_000_000, 123_456_789));
                assert_eq!(get("directory").mtime, (1_234_567_890, 42));
                assert_eq!(get("big-ids").uid, 4_294_967_294);
            }
            "sparse" => assert_eq!(get("aligned").size, 3 << 20),
            "whiteouts" => assert!(has("a/stays") && !has("a/gone") && !has("a/tree")),
            "opaque" => assert!(has("b/before") && has("b/behind") && !has("b/old")),
            "links-across-layers" => {
                assert!(!has("base"));
                assert_eq!(get("third").link_of.as_deref(), Some(b"again".as_slice()));
            }
            "type-changes" => assert_eq!(get("directory-to-symlink").kind, Kind::Symlink),
            "file-directory-file" => assert_eq!(get("it").kind, Kind::Directory),
            "many-layers" => assert!(has("of-layer-127") && !has("toggled")),
            _ => {}
        }
    }
}

/// GNU tar, a third reader, sees the same files in our tars as umoci does.
#[test]
fn gnu_tar_agrees_on_single_layers() {
    for case in cases::all() {
        if !["attributes", "gnu", "sparse", "times-and-ids", "links"].contains(&case.name) {
            continue;
        }
        let directory = scratch::directory().unwrap();
        let layout = case.image.write(directory.path(), "t").unwrap();
        let tar = unpack::gnu_tar(&layout).unwrap();
        let umoci = unpack::umoci(&layout).unwrap();
        let differences = Snapshot::of(tar.root())
            .unwrap()
            .diff(&Snapshot::of(umoci.root()).unwrap());
        assert!(
            differences.is_empty(),
            "{}: {}",
            case.name,
            list(&differences)
        );
    }
}

#[test]
fn the_same_image_twice_is_the_same() {
    let digests: Vec<_> = (0..2)
        .map(|_| {
            let directory = scratch::directory().unwrap();
            let case = cases::all()
                .into_iter()
                .find(|case| case.name == "compressions")
                .unwrap();
            case.image.write(directory.path(), "t").unwrap().digest()
        })
        .collect();
    assert_eq!(digests[0], digests[1]);
}

#[test]
fn a_registry_takes_images_and_indexes() {
    let registry = Registry::start().unwrap();
    let directory = scratch::directory().unwrap();
    let image = |text: &str| {
        let layer = Layer::new([Entry::file("file", text)]);
        Image::new([layer.clone(), layer.compression(Compression::None)]).config("Cmd", vec!["/x"])
    };
    let index = [("amd64", image("amd64")), ("arm64", image("arm64"))];
    let layout = write_index(directory.path(), "multi", &index).unwrap();
    let reference = layout.push(&registry, "team/app:1").unwrap();
    let raw = |arguments: &[&str]| {
        let output = process::run(
            Command::new("skopeo")
                .args(["inspect", "--tls-verify=false"])
                .args(arguments)
                .arg(format!("docker://{reference}")),
        );
        String::from_utf8(output.unwrap().stdout).unwrap()
    };
    assert_eq!(
        thaw_image::Digest::of(raw(&["--raw"]).as_bytes()),
        layout.digest()
    );
    assert!(raw(&["--override-arch=arm64"]).contains("\"Architecture\": \"arm64\""));
    assert!(registry.blob(&layout.digest()).is_file());
    let got =
        |request: &thaw_testkit::registry::Request| request.method == "GET" && request.written > 0;
    assert!(registry.requests().iter().any(got));
    registry.warm().unwrap();
}

#[test]
fn docker_types_are_pushed_unchanged() {
    let registry = Registry::start().unwrap();
    let directory = scratch::directory().unwrap();
    let image = Image::new([Layer::new([Entry::file("file", "x")])]).docker();
    let layout = image.write(directory.path(), "d").unwrap();
    layout.push(&registry, "d:1").unwrap();
    assert!(registry.blob(&layout.digest()).is_file());
}

/// Slow the first time: it builds the image.
#[test]
fn the_web_service_is_a_real_image() {
    let layout = real::web_service(&real::cache_directory()).unwrap();
    let manifest = layout.manifest().unwrap();
    let sizes = manifest["layers"].as_array().unwrap().iter();
    let compressed: u64 = sizes.map(|layer| layer["size"].as_u64().unwrap()).sum();
    assert!(
        (40..80).contains(&(compressed >> 20)),
        "{compressed} bytes compressed"
    );
    let unpacked = unpack::umoci(&layout).unwrap();
    let tree = Snapshot::of(unpacked.root()).unwrap();
    assert!(tree.0.len() > 3000, "{} paths", tree.0.len());
    let bytecode = |path: &&Vec<u8>| path.ends_with(b".pyc") && path.starts_with(b"usr/local");
    assert!(tree.0.keys().filter(bytecode).count() > 300);
}
