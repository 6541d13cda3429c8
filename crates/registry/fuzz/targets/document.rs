//! Any bytes that a registry may give for a manifest, an index or a configuration are read or refused,
//! and what is written of them says the same.

use thaw_image::{Digest, media, oci};
use thaw_registry::{Descriptor, Manifest};

fn look(descriptor: &Descriptor) {
    if let Some(data) = descriptor.data() {
        assert_eq!(Digest::of(&data), descriptor.digest);
    }
    if let Some(inner) = descriptor.embedded() {
        assert_eq!(*inner.digest(), descriptor.digest);
    }
}

fn check(manifest: &Manifest) {
    assert_eq!(*manifest.digest(), Digest::of(manifest.bytes()));
    let _ = manifest.descriptor();
    if manifest.is_index() {
        let Ok(index) = manifest.index() else { return };
        index.manifests.iter().for_each(look);
        let again = Manifest::parse(index.to_bytes(), None).expect("it was an index");
        assert_eq!(again.index().expect("it was an index"), index);
        return;
    }
    let Ok(content) = manifest.content() else {
        return;
    };
    content
        .layers
        .iter()
        .chain([&content.config])
        .for_each(look);
    content.subject.iter().for_each(look);
}

pub(crate) fn run(data: &[u8]) {
    for called in [None, Some(media::MANIFEST), Some(media::INDEX), Some("")] {
        if let Ok(manifest) = Manifest::parse(data.to_vec(), called) {
            check(&manifest);
        }
    }
    let _ = oci::ImageConfiguration::from_reader(data);
}
