//! Any bytes given for a chunk are refused: no panic, no memory beyond the chunk's.

use thaw_image::{Chunk, ChunkDigest, CodecState, Extent, LayerFormat, WindowRef};
use thaw_layer::decode;

pub(crate) fn run(data: &[u8]) {
    let Some(([kind, low, high, frame_len], rest)) = data.split_first_chunk() else {
        return;
    };
    let (frame, blob) = rest.split_at(rest.len().min(usize::from(*frame_len)));
    let window = WindowRef {
        offset: 0,
        len: u32::try_from(frame.len()).unwrap_or(0),
    };
    let skip_bits = kind >> 4;
    let state = match kind % 4 {
        0 => CodecState::Stored,
        1 => CodecState::GzipMember,
        state => CodecState::Deflate {
            skip_bits,
            in_block: state == 3,
            window,
        },
    };
    let chunk = Chunk {
        tar: Extent {
            offset: 0,
            len: u64::from(u16::from_le_bytes([*low, *high])),
        },
        blob: Extent {
            offset: 0,
            len: blob.len() as u64,
        },
        state,
        digest: ChunkDigest::of(b"no bytes have this digest"),
    };
    for format in [LayerFormat::Tar, LayerFormat::Gzip] {
        assert!(decode(format, &chunk, blob, Some(frame)).is_err());
        assert!(decode(format, &chunk, blob, None).is_err());
    }
}
