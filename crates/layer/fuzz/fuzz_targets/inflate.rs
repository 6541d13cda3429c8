//! Any deflate stream is decoded as zlib decodes it, or refused where zlib refuses it.
//!
//!     cargo run --bin corpus && cargo +nightly fuzz run inflate corpus/inflate -- -max_len=4096

#![no_main]

use flate2::{Decompress, FlushDecompress, Status};
use libfuzzer_sys::fuzz_target;
use thaw_layer::gunzip;

/// More than this is not compared.
const LIMIT: usize = 4 << 20;

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

fuzz_target!(|data: &[u8]| {
    let mut blob = vec![0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 3];
    let verdict = judge(data);
    let (body, out) = match &verdict {
        Some((out, used)) => (&data[..*used], out.as_slice()),
        None => (data, &[][..]),
    };
    blob.extend_from_slice(body);
    blob.extend_from_slice(&crc32fast::hash(out).to_le_bytes());
    blob.extend_from_slice(&u32::try_from(out.len()).unwrap_or(0).to_le_bytes());
    let mut ours = Vec::new();
    let result = gunzip(&mut blob.as_slice(), &mut ours, LIMIT as u64);
    match verdict {
        Some((theirs, _)) => {
            result.expect("zlib accepts it");
            assert!(ours == theirs, "other bytes than zlib's");
        }
        // Refused, or too large for the judge; a stream cut short may end in the trailer's bytes,
        // but then the trailer's checksum is not there.
        None => assert!(result.is_err(), "zlib refuses it"),
    }
});
