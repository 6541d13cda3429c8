//! Any text is a reference or refused, and one that is read is the same when it is written and read.

use thaw_image::ImageReference;

pub(crate) fn run(data: &[u8]) {
    let text = data.utf8_chunks().next().map_or("", |chunk| chunk.valid());
    let Ok(reference) = text.parse::<ImageReference>() else {
        return;
    };
    let again: ImageReference = reference.to_string().parse().expect("it was one");
    assert_eq!(again, reference);
}
