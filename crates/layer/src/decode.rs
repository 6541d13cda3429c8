//! Decoding one chunk of a seek table.

use thaw_image::{Chunk, CodecState, LayerFormat, Mismatch, Verified};

/// Why a chunk could not be made from its bytes of the blob.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DecodeError {
    /// Not as many bytes of the blob as the chunk needs.
    #[error("the chunk takes {expected} bytes of the blob, got {actual}")]
    BlobLength {
        /// `chunk.blob.len`.
        expected: u64,
        /// Bytes given.
        actual: usize,
    },
    /// The chunk says of itself what cannot be.
    #[error("the seek table contradicts itself: {0}")]
    Table(&'static str),
    /// Not the bytes that the seek table promised.
    #[error(transparent)]
    Mismatch(#[from] Mismatch),
}

/// Makes the tar bytes of `chunk` from `blob`, its bytes of the layer's blob, and `window`, its
/// bytes of the windows blob (`None` where the chunk's [`WindowRef`](thaw_image::WindowRef) is
/// empty), and checks them against the chunk's digest.
///
/// # Errors
/// [`DecodeError`]; whatever the bytes are, it never panics and never makes more than
/// `chunk.tar.len` bytes.
pub fn decode(
    format: LayerFormat,
    chunk: &Chunk,
    blob: &[u8],
    _window: Option<&[u8]>,
) -> Result<Verified, DecodeError> {
    if blob.len() as u64 != chunk.blob.len {
        return Err(DecodeError::BlobLength {
            expected: chunk.blob.len,
            actual: blob.len(),
        });
    }
    match (format, chunk.state) {
        (LayerFormat::Tar, CodecState::Stored) if chunk.tar == chunk.blob => {
            Ok(Verified::check(blob.to_vec(), &chunk.digest)?)
        }
        _ => Err(DecodeError::Table("codec state and format do not fit")),
    }
}
