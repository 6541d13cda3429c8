//! Decoding one chunk of a seek table.

use thaw_image::{
    Chunk, ChunkDigest, CodecState, LayerFormat, MAX_CHUNK_BLOB, MAX_CHUNK_TAR, Mismatch, Verified,
    WindowRef,
};

use crate::inflate::{Decoder, InflateError, Input, Output, Stop, WINDOW};
use crate::window;

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
    /// Not as many bytes of the windows blob as the chunk needs.
    #[error("the chunk takes {expected} bytes of the windows, got {actual}")]
    WindowLength {
        /// `len` of the chunk's [`WindowRef`].
        expected: u32,
        /// Bytes given.
        actual: usize,
    },
    /// The window is not a zstd frame of 32 KiB, with a block's header behind them where the chunk
    /// starts inside of a block, and only there.
    #[error("the chunk's window is not one")]
    Window,
    /// The deflate stream cannot be decoded from where the chunk starts.
    #[error("the chunk cannot be decompressed")]
    Inflate(#[from] InflateError),
    /// The chunk's part of the stream has more or fewer bytes of tar than the table says.
    #[error("the chunk does not unpack to {expected} bytes")]
    Length {
        /// `chunk.tar.len`.
        expected: u64,
    },
    /// The chunk says of itself what cannot be.
    #[error("the seek table contradicts itself: {0}")]
    Table(&'static str),
    /// Not the bytes that the seek table promised.
    #[error(transparent)]
    Mismatch(#[from] Mismatch<ChunkDigest>),
}

/// Makes the tar bytes of `chunk` from `blob`, its bytes of the layer's blob, and `window`, its
/// bytes of the windows blob (`None` where the chunk's [`WindowRef`] is empty), and checks them
/// against the chunk's digest.
///
/// # Errors
/// [`DecodeError`]; whatever the bytes are, it never panics, never gives other bytes, and takes no
/// more memory than about `chunk.tar.len + blob.len()`, of which it refuses more than
/// [`MAX_CHUNK_TAR`] and [`MAX_CHUNK_BLOB`].
pub fn decode(
    format: LayerFormat,
    chunk: &Chunk,
    blob: &[u8],
    window: Option<&[u8]>,
) -> Result<Verified, DecodeError> {
    if blob.len() as u64 != chunk.blob.len {
        return Err(DecodeError::BlobLength {
            expected: chunk.blob.len,
            actual: blob.len(),
        });
    }
    if chunk.tar.len > MAX_CHUNK_TAR || chunk.blob.len > MAX_CHUNK_BLOB {
        return Err(DecodeError::Table("a chunk is too large"));
    }
    let bytes = match (format, chunk.state) {
        (LayerFormat::Tar, CodecState::Stored) if chunk.tar == chunk.blob => blob.to_vec(),
        (LayerFormat::Gzip, CodecState::GzipMember) => {
            let mut input = Input::whole(blob);
            inflate(chunk, &mut input, Decoder::new(false), &[])?
        }
        (
            LayerFormat::Gzip,
            CodecState::Deflate {
                skip_bits,
                in_block,
                window: place,
            },
        ) if skip_bits < 8 => {
            let (history, header) = history(place, window)?;
            if header.is_empty() == in_block {
                return Err(DecodeError::Window);
            }
            let mut input = Input::whole(blob);
            let skip = u32::from(skip_bits);
            let decoder = if in_block {
                Decoder::resume_in_block(&mut input, skip, &header)?
            } else {
                Decoder::resume(&mut input, skip)
            };
            inflate(chunk, &mut input, decoder, &history)?
        }
        _ => return Err(DecodeError::Table("codec state and format do not fit")),
    };
    Ok(Verified::check_chunk(bytes, &chunk.digest)?)
}

/// The 32 KiB before the chunk, as far as they are needed, and the header of the block in which it
/// starts.
fn history(place: WindowRef, window: Option<&[u8]>) -> Result<(Vec<u8>, Vec<u8>), DecodeError> {
    let frame = window.unwrap_or_default();
    if frame.len() as u64 != u64::from(place.len) {
        return Err(DecodeError::WindowLength {
            expected: place.len,
            actual: frame.len(),
        });
    }
    if frame.is_empty() {
        return Ok((vec![0; WINDOW], Vec::new()));
    }
    window::unpack(frame).ok_or(DecodeError::Window)
}

fn inflate(
    chunk: &Chunk,
    input: &mut Input,
    mut decoder: Decoder,
    history: &[u8],
) -> Result<Vec<u8>, DecodeError> {
    let len = usize::try_from(chunk.tar.len).unwrap_or(usize::MAX);
    let mut output = Output::new(history, len);
    // The chunk may end in the middle of a block: not a symbol more.
    output.pause_after(len);
    while output.fresh_len() < len {
        match decoder.run(input, &mut output)? {
            Stop::Member | Stop::Block => {}
            Stop::End | Stop::Input | Stop::Output | Stop::Symbol => break,
        }
    }
    if output.fresh_len() != len {
        return Err(DecodeError::Length {
            expected: chunk.tar.len,
        });
    }
    Ok(output.into_fresh())
}
