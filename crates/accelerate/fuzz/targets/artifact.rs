//! Any manifest is that of an acceleration, of a working set, or refused; and its parts unpack to what
//! they promise or not at all.

use std::sync::LazyLock;

use thaw_accelerate::{Acceleration, LayerRef, parse_working_set};
use thaw_image::{DiffId, Digest, media};
use thaw_registry::Manifest;

/// The image that the corpus speaks of.
static IMAGE: LazyLock<(Digest, [LayerRef; 2])> = LazyLock::new(|| {
    let layer = |name: &[u8]| LayerRef {
        blob: Digest::of(name),
        size: 100,
        media_type: "application/vnd.oci.image.layer.v1.tar+gzip".to_owned(),
        diff_id: DiffId(Digest::of(&[name, b" tar"].concat())),
    };
    (Digest::of(b"{}"), [layer(b"one"), layer(b"two")])
});

pub(crate) fn run(data: &[u8]) {
    let Ok(manifest) = Manifest::parse(data.to_vec(), None) else {
        return;
    };
    let (subject, layers) = &*IMAGE;
    if let Ok(set) = parse_working_set(&manifest, subject) {
        assert_eq!(set.index.media_type, media::WORKING_SET_INDEX);
    }
    let Ok(acceleration) = Acceleration::parse(manifest, subject, layers) else {
        return;
    };
    let _ = acceleration.size();
    for packed in [&acceleration.layout]
        .into_iter()
        .chain(&acceleration.generated)
    {
        let _ = packed.unpack(data);
    }
    for blob in acceleration.tables.keys() {
        assert!(layers.iter().any(|layer| layer.blob == *blob));
    }
}
