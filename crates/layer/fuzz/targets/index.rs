//! Any deflate stream that zlib accepts, as the content of a file in a layer: every chunk of the seek
//! table that is made of it gives the tar's bytes, wherever in the stream it begins.

use std::io::Write as _;

use flate2::Compression;
use flate2::write::GzEncoder;
use thaw_image::{CodecState, DiffId, Digest, LayerFormat};
use thaw_layer::{Budget, Expected, Options, Outputs, Packing, decode, index};

use super::{file, zlib};

/// Streams with more are left to the target that decodes them whole.
const LIMIT: usize = 256 << 10;

fn member(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(bytes).expect("memory");
    encoder.finish().expect("memory")
}

pub(crate) fn run(data: &[u8]) {
    let Some((spacing, stream)) = data.split_first() else {
        return;
    };
    let Some((data, used)) = zlib::inflate(stream, LIMIT) else {
        return;
    };
    let (head, tail) = file::around(&data);
    let tar = [head.as_slice(), &data, &tail].concat();
    let blob = [
        member(&head),
        vec![0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 3],
        stream[..used].to_vec(),
        crc32fast::hash(&data).to_le_bytes().to_vec(),
        u32::try_from(data.len())
            .expect("small")
            .to_le_bytes()
            .to_vec(),
        member(&tail),
    ]
    .concat();
    let expected = Expected {
        blob: Digest::of(&blob),
        blob_size: blob.len() as u64,
        diff_id: DiffId(Digest::of(&tar)),
    };
    // Not for a tar that is large: each chunk costs some milliseconds.
    let least = data.len() as u64 / 64;
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
}
