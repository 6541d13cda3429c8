//! Merge layers into a layout, pack working sets, publish and find accelerations.
//!
//! ```text
//!  blobs ──▶ index each layer once ──▶ entries ──▶ merge ──▶ tree ──▶ layout ─┐
//!            (download, inflate, hash) └──▶ seek tables, windows ─────────────┼─▶ acceleration
//!  access trace ──▶ pack ──▶ working set                                      ┘
//! ```
//!
//! [`merge`] is pure: entries in, tree out. [`prepare`] reads an image once; [`Artifact`] is what
//! is published of it. [`closure`] guesses what a start reads.

mod artifact;
pub mod closure;
mod layout;
pub mod merge;
mod names;
mod offer;
mod pipeline;
mod reader;
mod signature;
mod working_set;

pub use artifact::{
    Acceleration, Artifact, ArtifactError, BlobContent, Packed, TableRef, read_table,
};
pub use layout::{Layout, LayoutError};
pub use names::names;
pub use offer::{Offer, find, offers};
pub use pipeline::{
    Known, LayerFailure, LayerIndex, LayerRef, Place, PrepareError, Prepared, PreparedLayer,
    TarSink, WindowsFile, fetch, prepare,
};
pub use signature::{SignError, sign, signed_by};
/// How layers are indexed.
pub use thaw_layer::Options as IndexOptions;
/// What a tar is committed with.
pub use thaw_layer::TarProof;
pub use working_set::{
    Origin, PackError, PackOptions, PackedSet, WorkingSetArtifact, WorkingSetRef, merge_traces,
    pack, parse_working_set,
};
