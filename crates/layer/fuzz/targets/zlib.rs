//! The judge of deflate streams: zlib's own rules of what a stream may be, and not those of a laxer
//! decoder.

use zlib_rs::{Inflate, InflateFlush, Status};

/// What zlib makes of a stream, and how much of it that took; `None` if it refuses it, or makes more
/// than `limit` bytes of it.
pub(crate) fn inflate(stream: &[u8], limit: usize) -> Option<(Vec<u8>, usize)> {
    let mut zlib = Inflate::new(false, 15);
    let mut out = vec![0; limit];
    let status = zlib.decompress(stream, &mut out, InflateFlush::Finish);
    if !matches!(status, Ok(Status::StreamEnd)) {
        return None;
    }
    out.truncate(usize::try_from(zlib.total_out()).ok()?);
    Some((out, usize::try_from(zlib.total_in()).ok()?))
}
