//! OCI layouts as other tools write them, and what this crate adds to them.

#![allow(clippy::unwrap_used, reason = "a test ends where its support does")]

mod support;

use std::fs;
use std::io::{Cursor, Read};
use std::path::Path;
use std::process::Command;
use std::thread;

use support::{accelerations, artifact, client, open, put_image};
use thaw_image::{Digest, Extent, SourceError, media};
use thaw_registry::{Descriptor, Platform, RegistryError, Which, resolve};

fn temporary() -> tempfile::TempDir {
    tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap()
}

fn run(program: &str, arguments: &[&str]) {
    let made = Command::new(program)
        .args(arguments)
        .output()
        .expect(program);
    assert!(made.status.success(), "{program} {arguments:?}: {made:?}");
}

/// A layout as umoci makes it, with one image of one layer that holds one file.
fn umoci(dir: &Path, tag: &str) -> String {
    let layout = dir.join("layout").display().to_string();
    if !Path::new(&layout).exists() {
        run("umoci", &["init", "--layout", &layout]);
    }
    let image = format!("{layout}:{tag}");
    run("umoci", &["new", "--image", &image]);
    let file = dir.join("file");
    fs::write(&file, tag.repeat(10_000)).unwrap();
    run(
        "umoci",
        &[
            "insert",
            "--image",
            &image,
            &file.display().to_string(),
            "/file",
        ],
    );
    layout
}

#[test]
fn a_layout_of_umoci_is_read() {
    let dir = temporary();
    let layout = umoci(dir.path(), "v1");
    let client = client();
    for name in [format!("oci:{layout}:v1"), format!("oci:{layout}")] {
        let (reference, repository) = open(&client, &name);
        let image = resolve(&*repository, &reference, &Platform::host()).unwrap();
        let content = image.manifest.content().unwrap();
        let config = repository.blob(&content.config, 1 << 20).unwrap();
        assert!(config.starts_with(b"{"));
        let layer = &content.layers[0];
        let whole = repository.blob(layer, 1 << 20).unwrap();
        let extent = Extent { offset: 5, len: 20 };
        assert_eq!(
            repository.read_at(&layer.digest, extent, None).unwrap(),
            whole[5..25]
        );
        let mut streamed = Vec::new();
        let mut stream = repository.stream(&layer.digest, extent).unwrap();
        stream.read_to_end(&mut streamed).unwrap();
        assert_eq!(streamed, whole[5..25]);
        let past = Extent {
            offset: layer.size - 1,
            len: 2,
        };
        let error = repository.read_at(&layer.digest, past, None).unwrap_err();
        assert!(
            matches!(error, SourceError::Truncated { got: 1, .. }),
            "{error}"
        );
        assert_eq!(repository.stats().requests, 0);
    }
}

#[test]
fn two_images_want_a_tag() {
    let dir = temporary();
    let layout = umoci(dir.path(), "v1");
    umoci(dir.path(), "v2");
    let client = client();
    let (reference, repository) = open(&client, &format!("oci:{layout}"));
    let error = resolve(&*repository, &reference, &Platform::host()).unwrap_err();
    let text = format!("oci:{layout} has no only image (its images: v1, v2)");
    assert_eq!(error.to_string(), text);
    let one = repository.manifest(&Which::Tag("v1".into())).unwrap();
    let two = repository.manifest(&Which::Tag("v2".into())).unwrap();
    assert_ne!(one, two);
    assert!(
        repository
            .manifest(&Which::Tag("v3".into()))
            .unwrap_err()
            .is_not_found()
    );
}

#[test]
fn referrers_are_pushed_back_and_disturb_nobody() {
    let dir = temporary();
    let layout = umoci(dir.path(), "v1");
    let client = client();
    let (reference, repository) = open(&client, &format!("oci:{layout}"));
    let image = resolve(&*repository, &reference, &Platform::host())
        .unwrap()
        .manifest;
    let mut expected: Vec<Digest> = thread::scope(|scope| {
        let adders: Vec<_> = (0..8)
            .map(|number| {
                let (repository, image) = (&repository, &image);
                scope.spawn(move || {
                    let artifact = artifact(&**repository, image, &format!("number {number}"));
                    repository.add_referrer(&artifact).unwrap();
                    *artifact.digest()
                })
            })
            .collect();
        adders.into_iter().map(|it| it.join().unwrap()).collect()
    });
    expected.sort();
    assert_eq!(accelerations(&*repository, &image), expected);
    assert!(
        repository
            .referrers(image.digest(), &["application/x"])
            .unwrap()
            .is_empty()
    );
    let none = Digest::of(b"none");
    assert!(
        repository
            .referrers(&none, &[media::ACCELERATION])
            .unwrap()
            .is_empty()
    );

    // The only image is still the only image, for us and for others.
    let again = resolve(&*repository, &reference, &Platform::host())
        .unwrap()
        .manifest;
    assert_eq!(again, image);
    let copy = dir.path().join("copy").display().to_string();
    let (from, to) = (format!("oci:{layout}:v1"), format!("oci:{copy}:v1"));
    run("skopeo", &["--insecure-policy", "copy", &from, &to]);
    run("umoci", &["stat", "--image", &format!("{layout}:v1")]);

    repository.delete_manifest(&expected[0]).unwrap();
    repository.delete_manifest(&expected[0]).unwrap();
    assert_eq!(accelerations(&*repository, &image), expected[1..]);
    let left = fs::read_dir(&layout).unwrap().count();
    assert_eq!(left, 3, "no lock and no temporary file is left");
}

#[test]
fn images_are_put_under_tags() {
    let dir = temporary();
    let layout = umoci(dir.path(), "v1");
    let (_, repository) = open(&client(), &format!("oci:{layout}"));
    let one = put_image(&*repository, Some("new"), b"one");
    let two = put_image(&*repository, Some("new"), b"two");
    assert_ne!(one, two);
    assert_eq!(repository.manifest(&Which::Tag("new".into())).unwrap(), two);
    let wrong = Descriptor::new("x", Digest::of(b"right"), 5);
    let error = repository
        .put_blob(&wrong, &mut Cursor::new(b"wrong"))
        .unwrap_err();
    assert!(matches!(error, RegistryError::Mismatch { .. }), "{error}");
    assert!(repository.blob(&wrong, 5).unwrap_err().is_not_found());
}

#[test]
fn what_is_no_layout_is_refused() {
    let dir = temporary();
    let client = client();
    let open = |path: &Path| client.open(&format!("oci:{}", path.display()).parse().unwrap());
    assert!(
        open(&dir.path().join("nowhere"))
            .unwrap_err()
            .is_not_found()
    );
    assert!(open(dir.path()).unwrap_err().is_not_found());
    let marker = dir.path().join("oci-layout");
    for text in ["", "[]", "{}", r#"{"imageLayoutVersion":"2.0.0"}"#] {
        fs::write(&marker, text).unwrap();
        let error = open(dir.path()).unwrap_err();
        assert!(matches!(error, RegistryError::Malformed { .. }), "{error}");
    }
}

#[test]
fn a_layout_that_lies_is_refused() {
    let dir = temporary();
    let layout = umoci(dir.path(), "v1");
    let (_, repository) = open(&client(), &format!("oci:{layout}"));
    let image = repository.manifest(&Which::Tag("v1".into())).unwrap();
    let path = format!("{layout}/blobs/sha256/{}", image.digest().hex());
    fs::write(&path, b"{}").unwrap();
    let error = repository.manifest(&Which::Only).unwrap_err();
    assert!(matches!(error, RegistryError::Mismatch { .. }), "{error}");
    // A pipe would keep its reader waiting for ever.
    fs::remove_file(&path).unwrap();
    run("mkfifo", &[&path]);
    let error = repository.manifest(&Which::Only).unwrap_err();
    assert!(matches!(error, RegistryError::Malformed { .. }), "{error}");
    for text in [
        "",
        "{",
        r#"{"schemaVersion":2,"manifests":[{"digest":"sha256:../../x"}]}"#,
    ] {
        fs::write(format!("{layout}/index.json"), text).unwrap();
        let error = repository.manifest(&Which::Only).unwrap_err();
        assert!(matches!(error, RegistryError::Malformed { .. }), "{error}");
    }
}
