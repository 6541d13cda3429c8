//! Headers of gzip members (RFC 1952, 2.3).

use super::InflateError;

pub(super) const MAGIC: [u8; 3] = [0x1f, 0x8b, 8];
/// Most bytes of a header: 64 KiB of extra field, and reasonable names.
const MAX_HEADER: usize = 80 << 10;

const HEADER_CRC: u8 = 2;
const EXTRA: u8 = 4;
const NAME: u8 = 8;
const COMMENT: u8 = 16;
const RESERVED: u8 = 0xe0;

/// How many bytes the header at the start of `bytes` has; `None` if it goes on behind them.
pub(super) fn header(bytes: &[u8]) -> Result<Option<usize>, InflateError> {
    let magic = &bytes[..bytes.len().min(3)];
    if *magic != MAGIC[..magic.len()] {
        return Err(InflateError::Magic);
    }
    if bytes.get(3).is_some_and(|flags| flags & RESERVED != 0) {
        return Err(InflateError::Header);
    }
    match parse(bytes) {
        Some((len, true)) if len <= MAX_HEADER => Ok(Some(len)),
        None if bytes.len() < MAX_HEADER => Ok(None),
        _ => Err(InflateError::Header),
    }
}

/// Length of the header, and whether its own checksum, if it has one, matches.
fn parse(bytes: &[u8]) -> Option<(usize, bool)> {
    let flags = *bytes.get(3)?;
    let mut at = 10;
    if flags & EXTRA != 0 {
        let len = bytes.get(at..)?.first_chunk()?;
        at += 2 + usize::from(u16::from_le_bytes(*len));
    }
    for text in [NAME, COMMENT] {
        if flags & text != 0 {
            at += 1 + bytes.get(at..)?.iter().position(|byte| *byte == 0)?;
        }
    }
    let mut matches = true;
    if flags & HEADER_CRC != 0 {
        let stored = bytes.get(at..)?.first_chunk()?;
        let crc = crc32fast::hash(&bytes[..at]) & 0xffff;
        matches = u32::from(u16::from_le_bytes(*stored)) == crc;
        at += 2;
    }
    (at <= bytes.len()).then_some((at, matches))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn optional_fields() {
        let mut bytes = vec![0x1f, 0x8b, 8, EXTRA | NAME | COMMENT | HEADER_CRC];
        bytes.extend_from_slice(&[0; 6]);
        bytes.extend_from_slice(b"\x03\0abcname\0comment\0");
        let crc = crc32fast::hash(&bytes) & 0xffff;
        bytes.extend_from_slice(&crc.to_le_bytes()[..2]);
        let len = bytes.len();
        bytes.push(99);
        assert_eq!(header(&bytes), Ok(Some(len)));
        for cut in 0..len {
            assert_eq!(header(&bytes[..cut]), Ok(None), "{cut}");
        }
        bytes[len - 1] ^= 1;
        assert_eq!(header(&bytes), Err(InflateError::Header));
    }

    #[test]
    fn what_is_no_header() {
        assert_eq!(header(b"\x1f\x8b\x07\0"), Err(InflateError::Magic));
        assert_eq!(header(b"PK"), Err(InflateError::Magic));
        assert_eq!(header(b"\x1f\x8b\x08\x80"), Err(InflateError::Header));
        let mut endless = b"\x1f\x8b\x08\x08\0\0\0\0\0\0".to_vec();
        endless.resize(MAX_HEADER + 1, b'x');
        assert_eq!(header(&endless), Err(InflateError::Header));
    }
}
