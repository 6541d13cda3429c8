//! Any bytes as a layer of zstd frames: as they are, and as the data of a file in a layer, they give
//! what zstd itself makes of them, or are refused where it refuses them; and what unpacks to too much
//! is stopped.

use std::io::Read;

use thaw_image::{DiffId, Digest};
use thaw_layer::{Budget, Expected, LayerError, Options, Outputs, Packing, Unseekable, index};
use zstd::stream::read::Decoder;

use super::file;

/// Most that a layer may unpack to here.
const LIMIT: u64 = 1 << 20;
/// What zstd(1) accepts, as a power of two.
const WINDOW_LOG: u32 = 27;
/// What the index pass unpacks at once.
const BATCH_BYTES: usize = 512 << 10;

/// What zstd makes of a stream.
enum Verdict {
    Refused,
    Large,
    Bytes(Vec<u8>),
}

/// Reads into as much room as the index pass does: a frame that lies about its size, or about a window
/// that it does not need, zstd takes or refuses by whether all of it has room at once.
fn judge(stream: &[u8]) -> Verdict {
    let mut decoder = Decoder::new(stream).expect("memory");
    decoder.window_log_max(WINDOW_LOG).expect("a window");
    let (mut bytes, mut batch) = (Vec::new(), vec![0; BATCH_BYTES]);
    loop {
        let mut filled = 0;
        while filled < BATCH_BYTES {
            match decoder.read(&mut batch[filled..]) {
                Ok(0) => break,
                Ok(count) => filled += count,
                Err(_) => return Verdict::Refused,
            }
        }
        bytes.extend_from_slice(&batch[..filled]);
        if bytes.len() as u64 > LIMIT {
            return Verdict::Large;
        }
        if filled < BATCH_BYTES {
            return Verdict::Bytes(bytes);
        }
    }
}

/// Indexes a blob whose tar is promised to be `tar`, and compares what is written.
fn check(blob: &[u8], tar: &[u8]) -> Result<(), LayerError> {
    let expected = Expected {
        blob: Digest::of(blob),
        blob_size: blob.len() as u64,
        diff_id: DiffId(Digest::of(tar)),
    };
    let options = Options {
        max_tar_size: LIMIT,
        ..Options::default()
    };
    let budget = Budget::new(64 << 20);
    let (mut written, mut windows) = (Vec::new(), Vec::new());
    let outputs = Outputs {
        tar: &mut written,
        windows: &mut windows,
    };
    let mut input = blob;
    let found = index(
        &mut input,
        Packing::Zstd,
        &expected,
        &options,
        outputs,
        &budget,
        &mut |_| (),
    )
    .map(|found| found.seek);
    assert!(written.len() as u64 <= LIMIT && windows.is_empty());
    let seek = found?;
    assert_eq!(seek, Err(Unseekable::Zstd));
    assert!(written == tar, "another tar");
    Ok(())
}

/// One frame.
fn frame(bytes: &[u8]) -> Vec<u8> {
    zstd::bulk::compress(bytes, 1).expect("memory")
}

pub(crate) fn run(data: &[u8]) {
    match judge(data) {
        Verdict::Refused => {
            let found = check(data, b"");
            // What comes before may be no tar.
            assert!(matches!(
                found,
                Err(LayerError::Zstd(_) | LayerError::Tar(_))
            ));
        }
        Verdict::Large => {
            let found = check(data, b"");
            assert!(matches!(
                found,
                Err(LayerError::TooLarge { limit: LIMIT } | LayerError::Tar(_))
            ));
        }
        Verdict::Bytes(bytes) => {
            let found = check(data, &bytes);
            assert!(matches!(found, Ok(()) | Err(LayerError::Tar(_))));
            let (head, tail) = file::around(&bytes);
            let tar = [head.as_slice(), &bytes, &tail].concat();
            let blob = [frame(&head), data.to_vec(), frame(&tail)].concat();
            match check(&blob, &tar) {
                Err(LayerError::TooLarge { .. }) => assert!(tar.len() as u64 > LIMIT),
                // Behind the header there is less room.
                Err(LayerError::Zstd(_)) => {
                    let whole = zstd::bulk::decompress(data, bytes.len());
                    assert!(whole.is_err() || tar.len() > BATCH_BYTES, "zstd accepts it");
                }
                found => found.expect("zstd and the tar scanner accept it"),
            }
        }
    }
}
