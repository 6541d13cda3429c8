//! Any deflate stream that zlib accepts, as the content of a file in a layer: every chunk of the seek
//! table that is made of it gives the tar's bytes, wherever in the stream it begins.
//!
//!     cargo run --bin corpus && cargo +nightly fuzz run index corpus/index -- -max_len=4096

#![no_main]

use std::io::Write as _;

use flate2::write::GzEncoder;
use flate2::{Compression, Decompress, FlushDecompress, Status};
use libfuzzer_sys::fuzz_target;
use thaw_image::{CodecState, DiffId, Digest, LayerFormat};
use thaw_layer::{Budget, Expected, Options, Outputs, Packing, decode, index};

/// Streams with more are left to the target that decodes them whole.
const LIMIT: usize = 256 << 10;
const BLOCK: usize = 512;

/// What zlib makes of the stream, and how much of it that took; `None` if it refuses it.
fn judge(stream: &[u8]) -> Option<(Vec<u8>, usize)> {
    let mut zlib = Decompress::new(false);
    let mut out = vec![0; LIMIT];
    let status = zlib.decompress(stream, &mut out, FlushDecompress::Finish);
    if !matches!(status, Ok(Status::StreamEnd)) {
        return None;
    }
    out.truncate(usize::try_from(zlib.total_out()).ok()?);
    Some((out, usize::try_from(zlib.total_in()).ok()?))
}

/// The header of a file of `size` bytes.
fn header(size: usize) -> Vec<u8> {
    let mut block = vec![0; BLOCK];
    for (at, text) in [(0, "f"), (100, "0000644"), (108, "0000000"), (116, "0000000")] {
        block[at..at + text.len()].copy_from_slice(text.as_bytes());
    }
    block[124..135].copy_from_slice(format!("{size:011o}").as_bytes());
    block[136..147].copy_from_slice(b"00000000000");
    block[156] = b'0';
    block[257..265].copy_from_slice(b"ustar\x0000");
    block[148..156].fill(b' ');
    let sum: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
    block[148..155].copy_from_slice(format!("{sum:06o}\0").as_bytes());
    block
}

fn member(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(bytes).expect("memory");
    encoder.finish().expect("memory")
}

fuzz_target!(|data: &[u8]| {
    let Some((spacing, stream)) = data.split_first() else {
        return;
    };
    let Some((file, used)) = judge(stream) else {
        return;
    };
    let head = header(file.len());
    let tail = vec![0; file.len().next_multiple_of(BLOCK) - file.len() + 2 * BLOCK];
    let tar = [head.as_slice(), &file, &tail].concat();
    let blob = [
        member(&head),
        vec![0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 3],
        stream[..used].to_vec(),
        crc32fast::hash(&file).to_le_bytes().to_vec(),
        u32::try_from(file.len()).expect("small").to_le_bytes().to_vec(),
        member(&tail),
    ]
    .concat();
    let expected = Expected {
        blob: Digest::of(&blob),
        blob_size: blob.len() as u64,
        diff_id: DiffId(Digest::of(&tar)),
    };
    // Not for a tar that is large: each chunk costs some milliseconds.
    let least = file.len() as u64 / 64;
    let options = Options {
        spacing: (u64::from(*spacing) * 16).max(least).max(1),
        ..Options::default()
    };
    let budget = Budget::new(64 << 20);
    let (mut written, mut windows) = (Vec::new(), Vec::new());
    let outputs = Outputs {
        tar: &mut written,
        windows: &mut windows,
    };
    let mut input = blob.as_slice();
    let found = index(
        &mut input,
        Packing::Gzip,
        &expected,
        &options,
        outputs,
        &budget,
        &mut |_| (),
    );
    let found = found.expect("zlib and the tar scanner accept it");
    assert!(written == tar, "another tar");
    let seek = found.seek.expect("a gzip layer has a seek table");
    for chunk in &seek.table.chunks {
        let from = usize::try_from(chunk.blob.offset).expect("small");
        let to = usize::try_from(chunk.blob.end()).expect("small");
        let window = match chunk.state {
            CodecState::Deflate { window, .. } if window.len > 0 => {
                let at = usize::try_from(window.offset).expect("small");
                Some(&windows[at..at + window.len as usize])
            }
            _ => None,
        };
        let bytes = decode(LayerFormat::Gzip, chunk, &blob[from..to], window).expect("its bytes");
        let at = usize::try_from(chunk.tar.offset).expect("small");
        assert!(bytes.bytes() == &tar[at..at + bytes.bytes().len()]);
    }
});
