//! Merge layers into a layout, pack working sets, publish and find accelerations.
//!
//! ```text
//!  blobs ──▶ index each layer once ──▶ entries ──▶ merge ──▶ tree ──▶ layout ─┐
//!            (download, inflate, hash) └──▶ seek tables, windows ─────────────┼─▶ acceleration
//!  access trace ──▶ pack ──▶ working set                                      ┘
//! ```
//!
//! [`unpack()`] makes directories of layers, for kernels that mount no layout.
//!
//! [`merge`] is pure: entries in, tree out. [`prepare`] reads an image once; [`Artifact`] is what
//! is published of it. [`closure`] guesses what a start reads.

mod artifact;
pub mod closure;
mod layout;
pub mod merge;
mod names;
mod offer;
mod pages;
mod pipeline;
mod reader;
mod signature;
mod unpack;
mod working_set;

pub use artifact::{
    Acceleration, Artifact, ArtifactError, BlobContent, Packed, TableRef, read_table,
};
pub use layout::{Layout, LayoutError};
pub use names::names;
pub use offer::{Offer, find, offers};
pub use pages::{FilePages, file_pages};
pub use pipeline::{
    Known, LayerFailure, LayerIndex, LayerRef, LocalTar, Place, PrepareError, Prepared,
    PreparedLayer, TarSink, WindowsFile, fetch, prepare,
};
pub use signature::{SignError, sign, signed_by};
/// What memory is taken from.
pub use thaw_layer::Budget;
/// How layers are indexed.
pub use thaw_layer::Options as IndexOptions;
/// What a tar is committed with.
pub use thaw_layer::TarProof;
pub use unpack::{Correction, FILES, HEADERS, Headers, UnpackError, Unpacker, unpack};
pub use working_set::{
    Origin, PackError, PackOptions, PackedSet, WorkingSetArtifact, WorkingSetRef, merge_traces,
    pack, parse_working_set,
};
