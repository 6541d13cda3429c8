//! Against docker-registry 2.8 itself, which knows no referrers API and no conditional writes.

#![allow(clippy::unwrap_used, reason = "a test ends where its support does")]

mod support;

use std::io::{Cursor, Read};
use std::sync::Barrier;
use std::thread;

use support::certificates::self_signed;
use support::real::RealRegistry;
use support::{accelerations, artifact, client, open, pattern, put, put_image, settings};
use thaw_image::{Digest, Extent, media};
use thaw_registry::{
    Client, Descriptor, IndexContent, Manifest, Platform, RegistryError, Settings, Which, resolve,
};

#[test]
fn what_is_pushed_is_resolved_and_read() {
    let registry = RealRegistry::start();
    let client = client();
    let (_, pusher) = open(&client, &format!("{}/team/app:v1", registry.host));
    let layer = pattern(3_000_000);
    let manifest = put_image(&*pusher, Some("v1"), &layer);

    let (reference, repository) = open(&client, &format!("{}/team/app:v1", registry.host));
    let image = resolve(&*repository, &reference, &Platform::host()).unwrap();
    assert_eq!(image.manifest, manifest);
    assert!(image.index.is_none());
    assert_eq!(
        repository.stats().round_trips,
        1,
        "a single-platform tag is one request"
    );

    let content = image.manifest.content().unwrap();
    let config = repository.blob(&content.config, 1 << 20).unwrap();
    assert!(config.starts_with(b"{\"architecture\""));
    assert!(matches!(
        repository.blob(&content.layers[0], 1 << 20),
        Err(RegistryError::TooLarge { .. })
    ));
    let blob = &content.layers[0].digest;
    let ranges = [
        (0, 1),
        (0, 0),
        (12_345, 70_000),
        (2_999_999, 1),
        (0, 3_000_000),
    ];
    for (offset, len) in ranges {
        let extent = Extent {
            offset: offset as u64,
            len: len as u64,
        };
        let read = repository.read_at(blob, extent, None).unwrap();
        assert!(read == layer[offset..offset + len]);
    }
    let mut streamed = Vec::new();
    let extent = Extent {
        offset: 1000,
        len: 2_000_000,
    };
    repository
        .stream(blob, extent)
        .unwrap()
        .read_to_end(&mut streamed)
        .unwrap();
    assert!(streamed == layer[1000..2_001_000]);
    for extent in [
        Extent {
            offset: 2_999_999,
            len: 2,
        },
        Extent {
            offset: 9_000_000,
            len: 1,
        },
    ] {
        let error = repository.read_at(blob, extent, None).unwrap_err();
        assert!(
            matches!(error, thaw_image::SourceError::Truncated { .. }),
            "{error:?}"
        );
    }
}

#[test]
fn what_is_not_there_is_not_found() {
    let registry = RealRegistry::start();
    let client = client();
    let (reference, repository) = open(&client, &format!("{}/no/such", registry.host));
    let error = resolve(&*repository, &reference, &Platform::host()).unwrap_err();
    let place = repository.name();
    assert_eq!(error.to_string(), format!("{place} has no manifest latest"));
    let blob = Digest::of(b"none");
    let extent = Extent { offset: 0, len: 4 };
    let error = repository.read_at(&blob, extent, None).unwrap_err();
    assert_eq!(error.to_string(), format!("{place} has no blob {blob}"));
    assert!(
        repository
            .referrers(&blob, &[media::ACCELERATION])
            .unwrap()
            .is_empty()
    );
    repository.delete_manifest(&blob).unwrap();
}

#[test]
fn an_upload_happens_once_and_only_when_it_is_right() {
    let registry = RealRegistry::start();
    let client = client();
    let (_, repository) = open(&client, &format!("{}/a", registry.host));
    let bytes = pattern(20_000_000);
    put(&*repository, "x/y", &bytes);
    let before = repository.stats().requests;
    let blob = put(&*repository, "x/y", &bytes);
    assert_eq!(
        repository.stats().requests - before,
        1,
        "what is there is only asked for"
    );
    assert!(repository.blob(&blob, 1 << 30).unwrap() == bytes);
    put(&*repository, "x/y", b"");

    let wrong = Descriptor::new("x/y", Digest::of(b"right"), 5);
    for body in [&b"wrong"[..], b"rig", b""] {
        let error = repository
            .put_blob(&wrong, &mut Cursor::new(body))
            .unwrap_err();
        assert!(matches!(error, RegistryError::Mismatch { .. }), "{error}");
    }
    let error = repository.blob(&wrong, 100).unwrap_err();
    assert!(error.is_not_found());
}

#[test]
fn an_index_gives_the_platforms_image() {
    let registry = RealRegistry::start();
    let client = client();
    let (reference, repository) = open(&client, &format!("{}/multi:v1", registry.host));
    let mut entries = Vec::new();
    for (platform, layer) in [
        ("linux/arm64", "arm"),
        ("linux/386", "old"),
        ("linux/amd64", "new"),
    ] {
        let mut entry = put_image(&*repository, None, layer.as_bytes())
            .descriptor()
            .unwrap();
        entry.platform = Some(platform.parse().unwrap());
        entries.push(entry);
    }
    let wanted = entries[2].digest;
    let inner = Manifest::parse(IndexContent::of(entries).to_bytes(), None).unwrap();
    repository.put_manifest(None, &inner).unwrap();
    let outer = IndexContent::of(vec![inner.descriptor().unwrap()]);
    let outer = Manifest::parse(outer.to_bytes(), None).unwrap();
    repository.put_manifest(Some("v1"), &outer).unwrap();

    let before = repository.stats().round_trips;
    let image = resolve(&*repository, &reference, &"linux/amd64".parse().unwrap()).unwrap();
    assert_eq!(*image.manifest.digest(), wanted);
    assert_eq!(image.index, Some(outer));
    assert_eq!(repository.stats().round_trips - before, 3);
    let error = resolve(&*repository, &reference, &"linux/riscv64".parse().unwrap()).unwrap_err();
    let place = repository.name();
    let has = "linux/arm64, linux/386, linux/amd64";
    let text = format!("{place}:v1 has no image for linux/riscv64; it has {has}");
    assert_eq!(error.to_string(), text);
}

#[test]
fn eight_adders_at_once_lose_no_referrer() {
    let registry = RealRegistry::start();
    let (_, repository) = open(&client(), &format!("{}/app", registry.host));
    let image = put_image(&*repository, Some("v1"), b"layer");
    let place = format!("{}/app", registry.host);
    let together = Barrier::new(8);
    let mut expected: Vec<Digest> = thread::scope(|scope| {
        let adders: Vec<_> = (0..8)
            .map(|number| {
                let (place, image, together) = (&place, &image, &together);
                // A client of its own: nothing in this process may put them in order.
                scope.spawn(move || {
                    let (_, repository) = open(&client(), place);
                    let artifact = artifact(&*repository, image, &format!("number {number}"));
                    together.wait();
                    repository.add_referrer(&artifact).unwrap();
                    *artifact.digest()
                })
            })
            .collect();
        adders.into_iter().map(|it| it.join().unwrap()).collect()
    });
    expected.sort();
    assert_eq!(accelerations(&*repository, &image), expected);

    let (_, fresh) = open(&client(), &place);
    let list = fresh
        .referrers(image.digest(), &[media::ACCELERATION])
        .unwrap();
    assert_eq!(fresh.stats().round_trips, 1, "both ways are asked at once");
    assert!(
        list.iter()
            .all(|entry| entry.annotations["name"].starts_with("number "))
    );
    fresh
        .referrers(image.digest(), &[media::ACCELERATION])
        .unwrap();
    assert_eq!(
        fresh.stats().requests,
        3,
        "and the one that works the next time"
    );
}

#[test]
fn a_lost_list_is_repaired_and_a_deleted_referrer_leaves_it() {
    let registry = RealRegistry::start();
    let (_, repository) = open(&client(), &format!("{}/app", registry.host));
    let image = put_image(&*repository, Some("v1"), b"layer");
    let one = artifact(&*repository, &image, "one");
    let two = artifact(&*repository, &image, "two");
    let three = artifact(&*repository, &image, "three");
    repository.add_referrer(&one).unwrap();
    // Somebody who knows nothing of the others writes the list anew.
    let empty = Manifest::parse(IndexContent::of(Vec::new()).to_bytes(), None).unwrap();
    let tag = format!("sha256-{}", image.digest().hex());
    repository.put_manifest(Some(&tag), &empty).unwrap();
    assert!(accelerations(&*repository, &image).is_empty());
    repository.add_referrer(&two).unwrap();
    repository.add_referrer(&two).unwrap();
    let mut both = [*one.digest(), *two.digest()];
    both.sort();
    assert_eq!(accelerations(&*repository, &image), both);

    repository.delete_manifest(one.digest()).unwrap();
    assert_eq!(accelerations(&*repository, &image), [*two.digest()]);
    let gone = repository
        .manifest(&Which::Digest(*one.digest()))
        .unwrap_err();
    assert!(gone.is_not_found());
    repository.add_referrer(&three).unwrap();
    assert_eq!(accelerations(&*repository, &image).len(), 2);
    assert!(
        repository.add_referrer(&image).is_err(),
        "an image has no subject"
    );
}

#[test]
fn a_password_is_checked_kept_and_used() {
    let registry = RealRegistry::with(|dir| {
        // bcrypt of `secret`.
        let line = "me:$2y$05$2ui4PmX4Kz0dq1Vad8N5/.eZwZHKBGnZDphoqlsAaDO6cEvs0ndcu\n";
        std::fs::write(dir.join("htpasswd"), line).unwrap();
        format!(
            "auth:\n  htpasswd: {{realm: test, path: {}/htpasswd}}",
            dir.display()
        )
    });
    let config = registry.dir.path().join("docker.json");
    let client = Client::new(Settings {
        docker_config: Some(config.clone()),
        ..settings()
    })
    .unwrap();
    let (_, repository) = open(&client, &format!("{}/a:v1", registry.host));
    let error = repository.manifest(&Which::Only).unwrap_err();
    assert!(
        error
            .to_string()
            .contains(&format!("run `thaw login {}`", registry.host)),
        "{error}"
    );
    let error = client.login(&registry.host, "me", "wrong").unwrap_err();
    assert!(
        error.to_string().ends_with("check user and password"),
        "{error}"
    );
    assert!(!config.exists());
    client.login(&registry.host, "me", "secret").unwrap();
    let image = put_image(&*repository, Some("v1"), b"layer");
    assert_eq!(
        repository.manifest(&Which::Tag("v1".into())).unwrap(),
        image
    );
}

#[test]
fn tls_needs_a_known_authority() {
    let registry = RealRegistry::with(|dir| {
        self_signed(dir, "server");
        let dir = dir.display();
        format!("  tls: {{certificate: {dir}/server.pem, key: {dir}/server.key}}")
    });
    let place = registry.no_loopback();
    let (_, repository) = open(&client(), &format!("{place}/a"));
    let error = repository.manifest(&Which::Only).unwrap_err();
    assert!(
        error
            .to_string()
            .contains("add its certificate authority to the system's"),
        "{error}"
    );

    let client = Client::new(Settings {
        certificate_authorities: vec![registry.dir.path().join("server.pem")],
        ..settings()
    })
    .unwrap();
    let (_, repository) = open(&client, &format!("{place}/a"));
    let image = put_image(&*repository, Some("v1"), &pattern(5_000_000));
    assert_eq!(
        repository.manifest(&Which::Tag("v1".into())).unwrap(),
        image
    );
    let layer = &image.content().unwrap().layers[0];
    assert!(repository.blob(layer, 1 << 30).unwrap() == pattern(5_000_000));
}

#[test]
fn plain_http_is_said_so() {
    let registry = RealRegistry::start();
    let place = registry.no_loopback();
    let (_, repository) = open(&client(), &format!("{place}/a"));
    let error = repository.manifest(&Which::Only).unwrap_err();
    assert!(error.to_string().contains("--plain-http"), "{error}");
    let client = Client::new(Settings {
        plain_http: vec![place.clone()],
        ..settings()
    })
    .unwrap();
    let (_, repository) = open(&client, &format!("{place}/a"));
    assert!(
        repository
            .manifest(&Which::Only)
            .unwrap_err()
            .is_not_found()
    );
}
