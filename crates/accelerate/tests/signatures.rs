//! Looking for signatures beside an artifact.
#![allow(clippy::unwrap_used)]

mod common;

use std::sync::Arc;
use std::sync::atomic::Ordering;

use common::Memory;
use thaw_image::media;
use thaw_registry::{Descriptor, Manifest, ManifestContent, Repository};

#[test]
fn what_does_not_come_in_time_is_the_last_that_is_asked_for() {
    let memory = Arc::new(Memory::with([media::EMPTY_CONTENT.to_vec()]));
    let artifact = Descriptor::of(media::MANIFEST, b"{}");
    let parsed = |content: &ManifestContent| Manifest::parse(content.to_bytes(), None).unwrap();
    let subject = ManifestContent::artifact(media::ACCELERATION, artifact, Vec::new());
    let subject = parsed(&subject);
    for signature in 0..3 {
        let payload = |number: u8| {
            let bytes = vec![signature, number];
            let payload = Descriptor::of(media::SIMPLE_SIGNING, &bytes);
            memory.blobs.lock().unwrap().insert(payload.digest, bytes);
            payload.annotated(media::ANNOTATION_SIGNATURE, "c2ln")
        };
        let payloads = (0..3).map(payload).collect();
        let of = subject.descriptor().unwrap();
        let content = ManifestContent::artifact(media::COSIGN_SIGNATURE, of, payloads);
        memory.add_referrer(&parsed(&content)).unwrap();
    }
    memory.is_late.store(true, Ordering::Relaxed);
    let repository: Arc<dyn Repository> = Arc::<Memory>::clone(&memory);
    let why = thaw_accelerate::signed_by(&repository, &subject, &[]).unwrap_err();
    assert!(why.contains("did not give"), "{why}");
    assert_eq!(memory.late.load(Ordering::Relaxed), 1);
}
