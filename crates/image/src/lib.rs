//! The vocabulary of thaw: what the other crates say to each other. Pure: no I/O, no clock, no threads.
//!
//! The one idea behind every type here: an uncompressed OCI layer is a tar, and that tar is a disk.
//!
//! - [`Digest`] names bytes; a layer has two, the digest of its blob and the [`DiffId`] of its tar.
//! - [`Extent`] is a range of bytes in a blob or in a tar; [`BLOCK`] is the grain of presence.
//! - [`SeekTable`] says how to produce any range of a layer tar from the layer's blob.
//! - [`WorkingSet`] says which blocks a start reads, and where they lie packed together.
//! - [`Verified`] holds bytes whose digest matched. Nothing else may be written to a layer tar.
//! - [`BlobSource`] is where blobs come from; [`Progress`] is who wants to know how far we are.
//!
//! The byte pictures of the two encodings are in `docs/format.md`.

mod chunk_digest;
mod digest;
mod extent;
pub mod media;
mod progress;
mod reference;
mod seek;
mod source;
mod verified;
mod wire;
mod working_set;

pub use chunk_digest::{ChunkDigest, ChunkHasher};
pub use digest::{DiffId, Digest, DigestError, Hasher};
pub use extent::{BLOCK, BlockRun, Extent};
/// Image manifests, indexes and configurations, as the OCI image specification defines them.
pub use oci_spec::image as oci;
pub use progress::{Progress, Silent};
pub use reference::{ImageReference, ReferenceError, RegistryReference};
pub use seek::{
    Chunk, CodecState, LayerFormat, MAX_CHUNK_BLOB, MAX_CHUNK_TAR, MAX_CHUNKS, SeekTable, WindowRef,
};
pub use source::{BlobSource, SourceError};
pub use verified::{Mismatch, Verified};
pub use wire::FormatError;
pub use working_set::{Frame, MAX_FRAME_BYTES, Run, WorkingSet};
