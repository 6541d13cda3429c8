//! Any deflate stream is decoded as zlib decodes it, or refused where zlib refuses it.

use thaw_layer::gunzip;

use super::zlib;

/// More than this is not compared.
const LIMIT: usize = 4 << 20;

pub(crate) fn run(data: &[u8]) {
    let mut blob = vec![0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 3];
    let verdict = zlib::inflate(data, LIMIT);
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
}
