//! What layers cannot be.

use thaw_image::DiffId;
use thaw_layer::OverBudget;

use super::path::{self, PathError};
use super::{MAX_DEPTH, MAX_GENERATED, MAX_LAYERS, MAX_LINKS, MAX_STEPS};

/// Why layers cannot be merged.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum MergeError {
    /// There are too many.
    #[error("the image has {0} layers, over the limit of {MAX_LAYERS}")]
    Layers(usize),
    /// The size of a layer passes what a device of a layout can have.
    #[error("layer {number} ({diff_id}) has a tar of {size} bytes, over the limit of 2 TiB")]
    LayerSize {
        /// Number of the layer, 1 for the lowest.
        number: usize,
        /// The layer.
        diff_id: DiffId,
        /// Bytes of its tar.
        size: u64,
    },
    /// An entry cannot be taken over.
    #[error("layer {number} ({diff_id}), entry `{}`: {reason}", path::shown(path))]
    Entry {
        /// Number of the layer, 1 for the lowest.
        number: usize,
        /// The layer.
        diff_id: DiffId,
        /// The entry's path as the tar has it.
        path: Vec<u8>,
        /// What is wrong with it.
        reason: EntryError,
    },
}

/// Why an entry cannot be taken over.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[non_exhaustive]
pub enum EntryError {
    /// Its path.
    #[error("bad path: {0}")]
    Path(#[from] PathError),
    /// A link target that is no path.
    #[error("bad link target `{}`: {reason}", path::shown(target))]
    Target {
        /// The target.
        target: Vec<u8>,
        /// What is wrong with it.
        reason: PathError,
    },
    /// A hard link to what is not there.
    #[error("hard link to `{}`, which does not exist", path::shown(.0))]
    MissingTarget(Vec<u8>),
    /// A hard link to a directory.
    #[error("hard link to `{}`, which is a directory", path::shown(.0))]
    DirectoryTarget(Vec<u8>),
    /// The root is a directory.
    #[error("the root directory cannot be replaced by something else")]
    Root,
    /// Below something of the same layer that holds no entries.
    #[error("`{}` above it is not a directory", path::shown(.0))]
    NotDirectory(Vec<u8>),
    /// Too many symbolic links on the way.
    #[error("its path leads through more than {MAX_LINKS} symbolic links")]
    Links,
    /// Too deep.
    #[error("it lies more than {MAX_DEPTH} directories deep")]
    Deep,
    /// An owner or group beyond 32 bits.
    #[error("{what} {id} is larger than Linux can hold; rebuild the layer with a smaller one")]
    Id {
        /// `uid` or `gid`.
        what: &'static str,
        /// The number.
        id: u64,
    },
    /// A device number beyond 12 and 20 bits.
    #[error("device number {major}:{minor} is larger than Linux can hold")]
    DeviceNumber {
        /// Which driver.
        major: u32,
        /// Which device of it.
        minor: u32,
    },
    /// An xattr larger than Linux takes.
    #[error(
        "xattr `{}` has {size} bytes, over the limit of 65,535",
        path::shown(name)
    )]
    XattrSize {
        /// Its name.
        name: Vec<u8>,
        /// Bytes of the value.
        size: usize,
    },
    /// Its data is not within the tar, or not where tar data lies.
    #[error("its data lies outside of the tar")]
    Outside,
    /// A sparse file that neither extents nor the generated device can hold.
    #[error("sparse file in too many pieces: it would take more than {MAX_GENERATED} bytes")]
    Sparse,
    /// The image has too many files, or such with too much to say of them.
    #[error(transparent)]
    Memory(#[from] OverBudget),
    /// The image's paths take too long to follow.
    #[error("following the image's paths takes more than {MAX_STEPS} steps")]
    Steps,
}
