//! From the entries of all layers to the bytes of the layout.

use std::io::{self, Write};
use std::rc::Rc;

use thaw_image::{Digest, Extent};
use thaw_layer::tar::Entries;
use thaw_layer::{Budget, OverBudget};

use crate::merge::{Generated, Layer, MAX_GENERATED, MergeError, Merged, Merger};

/// Most warnings that are kept in words.
const MAX_WARNINGS: usize = 64;
/// Most bytes that are copied at once.
const COPY_BYTES: usize = 4 << 20;

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
    /// The layout, or what has to be copied for sparse files, takes too much memory.
    #[error(transparent)]
    Memory(#[from] OverBudget),
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

/// Merges `layers` and writes the layout. The entries of a layer go when it is merged, if it does
/// not come once more. `read` gives bytes of a layer's tar, for what has to be copied.
pub(crate) fn build(
    layers: Vec<(Layer, Rc<Entries<'_>>)>,
    budget: &Budget,
    read: &dyn Fn(usize, Extent) -> io::Result<Vec<u8>>,
) -> Result<Layout, LayoutError> {
    let mut merger = Merger::new(budget);
    for (layer, entries) in layers {
        merger.apply(&layer, &entries)?;
    }
    let Merged {
        tree,
        mut devices,
        generated,
        warnings,
    } = merger.finish()?;
    let generated = match generated.size {
        0 => None,
        size => {
            budget.take(usize::try_from(size).unwrap_or(usize::MAX))?;
            Some(copy(&generated, read)?)
        }
    };
    if let Some(bytes) = &generated {
        devices.push(thaw_erofs::Device {
            tag: tag(&Digest::of(bytes)),
            blocks: bytes.len() as u64 / thaw_erofs::BLOCK,
        });
    }
    let bytes = write(&tree, &devices, budget)?;
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

fn write(
    tree: &thaw_erofs::Tree,
    devices: &[thaw_erofs::Device],
    budget: &Budget,
) -> Result<Vec<u8>, LayoutError> {
    let mut out = Bounded {
        bytes: Vec::new(),
        budget,
        over: None,
    };
    let written = thaw_erofs::write(tree, devices, &mut out);
    if let Some(over) = out.over {
        return Err(over.into());
    }
    written?;
    Ok(out.bytes)
}

/// Bytes that take their memory from a budget.
struct Bounded<'a> {
    bytes: Vec<u8>,
    budget: &'a Budget,
    over: Option<OverBudget>,
}

impl Write for Bounded<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.budget.take(bytes.len()).map_err(|over| {
            self.over = Some(over);
            io::Error::other(over)
        })?;
        self.bytes.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn copy(
    generated: &Generated,
    read: &dyn Fn(usize, Extent) -> io::Result<Vec<u8>>,
) -> Result<Vec<u8>, LayoutError> {
    let size = usize::try_from(generated.size.min(MAX_GENERATED)).unwrap_or(0);
    let mut bytes = vec![0; size];
    for piece in &generated.copies {
        for offset in (0..piece.tar.len).step_by(COPY_BYTES) {
            let extent = Extent {
                offset: piece.tar.offset + offset,
                len: (COPY_BYTES as u64).min(piece.tar.len - offset),
            };
            let failed = |source| LayoutError::Copy {
                layer: piece.layer + 1,
                extent,
                source,
            };
            let from = read(piece.layer, extent).map_err(failed)?;
            let start = usize::try_from(piece.to + offset).unwrap_or(usize::MAX);
            bytes
                .get_mut(start..start.saturating_add(from.len()))
                .ok_or_else(|| failed(io::ErrorKind::UnexpectedEof.into()))?
                .copy_from_slice(&from);
        }
    }
    Ok(bytes)
}

/// What a device slot is marked with.
pub(crate) fn tag(digest: &Digest) -> [u8; 64] {
    let mut tag = [0; 64];
    tag.copy_from_slice(digest.hex().as_bytes());
    tag
}
