//! From the entries of all layers to the bytes of the layout.

use std::io;

use thaw_image::{Digest, Extent};
use thaw_layer::tar::Entry;

use crate::merge::{Generated, Layer, MAX_GENERATED, MergeError, Merged, Merger};
use crate::pipeline::LayerRef;

/// Most warnings that are kept in words.
const MAX_WARNINGS: usize = 64;

/// The merged metadata of an image.
#[derive(Clone, Debug)]
pub struct Layout {
    /// An EROFS image without data.
    pub bytes: Vec<u8>,
    /// Its digest.
    pub digest: Digest,
    /// Content of the device behind those of the layers, where one is needed.
    pub generated: Option<Vec<u8>>,
    /// What could not be taken over as it is.
    pub warnings: Vec<String>,
}

/// Why layers make no layout.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LayoutError {
    /// They break a rule.
    #[error(transparent)]
    Merge(#[from] MergeError),
    /// Linux or EROFS cannot hold what they make.
    #[error(transparent)]
    Write(#[from] thaw_erofs::WriteError),
    /// A part of a sparse file could not be copied to the generated device.
    #[error("cannot copy {} bytes of layer {layer} for a sparse file", extent.len)]
    Copy {
        /// Counted from 1, the lowest.
        layer: usize,
        /// The range of its tar.
        extent: Extent,
        /// Why.
        source: io::Error,
    },
}

/// Merges `layers` (each with the bytes and entries of its tar) and writes the layout. `read`
/// gives bytes of a layer's tar, for what has to be copied.
pub(crate) fn build(
    layers: &[(&LayerRef, u64, &[Entry])],
    read: &dyn Fn(usize, Extent) -> io::Result<Vec<u8>>,
) -> Result<Layout, LayoutError> {
    let mut merger = Merger::new();
    for (layer, tar_size, entries) in layers {
        let layer = Layer {
            diff_id: layer.diff_id,
            tar_size: *tar_size,
        };
        merger.apply(&layer, entries)?;
    }
    let Merged {
        tree,
        mut devices,
        generated,
        warnings,
    } = merger.finish()?;
    let generated = match generated.size {
        0 => None,
        _ => Some(copy(&generated, read)?),
    };
    if let Some(bytes) = &generated {
        devices.push(thaw_erofs::Device {
            tag: tag(&Digest::of(bytes)),
            blocks: bytes.len() as u64 / thaw_erofs::BLOCK,
        });
    }
    let mut bytes = Vec::new();
    thaw_erofs::write(&tree, &devices, &mut bytes)?;
    let kept = warnings.kept();
    let mut words: Vec<String> = kept
        .iter()
        .take(MAX_WARNINGS)
        .map(ToString::to_string)
        .collect();
    if warnings.total() > words.len() {
        words.push(format!("and {} more", warnings.total() - words.len()));
    }
    let digest = Digest::of(&bytes);
    Ok(Layout {
        bytes,
        digest,
        generated,
        warnings: words,
    })
}

fn copy(
    generated: &Generated,
    read: &dyn Fn(usize, Extent) -> io::Result<Vec<u8>>,
) -> Result<Vec<u8>, LayoutError> {
    let size = usize::try_from(generated.size.min(MAX_GENERATED)).unwrap_or(0);
    let mut bytes = vec![0; size];
    for piece in &generated.copies {
        let (layer, extent) = (piece.layer + 1, piece.tar);
        let failed = |source| LayoutError::Copy {
            layer,
            extent,
            source,
        };
        let from = read(piece.layer, extent).map_err(failed)?;
        let start = usize::try_from(piece.to).unwrap_or(usize::MAX);
        bytes
            .get_mut(start..start.saturating_add(from.len()))
            .ok_or_else(|| failed(io::ErrorKind::UnexpectedEof.into()))?
            .copy_from_slice(&from);
    }
    Ok(bytes)
}

/// What a device slot is marked with.
pub(crate) fn tag(digest: &Digest) -> [u8; 64] {
    let mut tag = [0; 64];
    tag.copy_from_slice(digest.hex().as_bytes());
    tag
}
