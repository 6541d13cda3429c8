//! What the tests of this crate share: a real registry, a faulty one, small images.

#![allow(dead_code, reason = "each test program uses a part of it")]
#![allow(unreachable_pub, reason = "the test programs are its only readers")]
#![allow(clippy::unwrap_used, reason = "a test ends where its support does")]

pub mod certificates;
pub mod faulty;
pub mod pipe;
pub mod proxy;
pub mod real;

use std::io::Cursor;
use std::sync::Arc;
use std::time::Duration;

use thaw_image::{Digest, ImageReference, media};
use thaw_registry::{Client, Descriptor, Manifest, ManifestContent, Repository, Settings};

/// A client that gives up soon.
pub fn client() -> Client {
    Client::new(settings()).unwrap()
}

pub fn settings() -> Settings {
    Settings {
        connect_timeout: Duration::from_secs(1),
        request_timeout: Duration::from_secs(2),
        deadline: Duration::from_secs(10),
        ..Settings::default()
    }
}

pub fn open(client: &Client, reference: &str) -> (ImageReference, Arc<dyn Repository>) {
    let reference: ImageReference = reference.parse().unwrap();
    let repository = client.open(&reference).unwrap();
    (reference, repository)
}

pub fn put(repository: &dyn Repository, media_type: &str, bytes: &[u8]) -> Descriptor {
    let descriptor = Descriptor::of(media_type, bytes);
    let mut body = Cursor::new(bytes.to_vec());
    repository.put_blob(&descriptor, &mut body).unwrap();
    descriptor
}

/// Pushes an image of one layer.
pub fn put_image(repository: &dyn Repository, tag: Option<&str>, layer: &[u8]) -> Manifest {
    let config =
        br#"{"architecture":"amd64","os":"linux","rootfs":{"type":"layers","diff_ids":[]}}"#;
    let kind = "application/vnd.oci.image.config.v1+json";
    let content = ManifestContent {
        schema_version: 2,
        media_type: media::MANIFEST.into(),
        artifact_type: None,
        config: put(repository, kind, config),
        layers: vec![put(
            repository,
            "application/vnd.oci.image.layer.v1.tar",
            layer,
        )],
        subject: None,
        annotations: Default::default(),
    };
    let manifest = Manifest::parse(content.to_bytes(), None).unwrap();
    repository.put_manifest(tag, &manifest).unwrap();
    manifest
}

/// An acceleration that speaks for `subject`, its blobs pushed, itself not.
pub fn artifact(repository: &dyn Repository, subject: &Manifest, name: &str) -> Manifest {
    put(repository, media::EMPTY, media::EMPTY_CONTENT);
    let layer = put(repository, media::LAYOUT, name.as_bytes());
    let subject = subject.descriptor().unwrap();
    let subject = Descriptor::new(&subject.media_type, subject.digest, subject.size);
    let mut content = ManifestContent::artifact(media::ACCELERATION, subject, vec![layer]);
    content.annotations.insert("name".into(), name.into());
    Manifest::parse(content.to_bytes(), None).unwrap()
}

/// The digests of the accelerations of `subject`, in order.
pub fn accelerations(repository: &dyn Repository, subject: &Manifest) -> Vec<Digest> {
    let list = repository
        .referrers(subject.digest(), &[media::ACCELERATION])
        .unwrap();
    let mut digests: Vec<_> = list.iter().map(|entry| entry.digest).collect();
    digests.sort();
    digests
}

/// Bytes that differ from place to place.
pub fn pattern(len: usize) -> Vec<u8> {
    (0..len as u64)
        .map(|i| (i.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 56) as u8)
        .collect()
}
