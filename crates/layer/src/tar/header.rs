//! One header block: checksum, dialect, fields.

use super::TarReason;

/// Bytes of a header, and the grain of all in a tar.
pub(super) const BLOCK: usize = 512;

/// One header block, not yet believed.
pub(super) struct Header<'a>(pub(super) &'a [u8; BLOCK]);

/// Who wrote a header: decides what the bytes behind the link name mean.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Dialect {
    V7,
    Ustar,
    Star,
    Gnu,
}

/// Whether `head`, the first bytes of something, may start a tar. Nothing at all may.
pub(crate) fn is_tar(head: &[u8]) -> bool {
    match head.first_chunk::<BLOCK>() {
        Some(block) => is_zero(block) || Header(block).check().is_ok(),
        None => head.is_empty(),
    }
}

/// Whether a block marks the end.
pub(super) fn is_zero(block: &[u8; BLOCK]) -> bool {
    block.iter().all(|byte| *byte == 0)
}

impl Header<'_> {
    /// Compares the checksum: of unsigned bytes, as POSIX says, or of signed ones, as some old
    /// writers had it.
    pub(super) fn check(&self) -> Result<(), TarReason> {
        let stored = number("checksum", &self.0[148..156]).map_err(|_| TarReason::Checksum)?;
        let blank = 8 * i64::from(b' ');
        let (mut unsigned, mut signed) = (blank, blank);
        for byte in self.0[..148].iter().chain(&self.0[156..]) {
            unsigned += i64::from(*byte);
            signed += i64::from(byte.cast_signed());
        }
        if stored == unsigned || stored == signed {
            Ok(())
        } else {
            Err(TarReason::Checksum)
        }
    }

    fn dialect(&self) -> Dialect {
        match &self.0[257..265] {
            b"ustar  \0" => Dialect::Gnu,
            magic if magic.starts_with(b"ustar\0") && self.0[508..] == *b"tar\0" => Dialect::Star,
            magic if magic.starts_with(b"ustar\0") => Dialect::Ustar,
            _ => Dialect::V7,
        }
    }

    pub(super) fn typeflag(&self) -> u8 {
        self.0[156]
    }

    /// The name, with the prefix that the dialect has for long ones.
    pub(super) fn path(&self) -> Vec<u8> {
        let name = text(&self.0[..100]);
        let prefix = match self.dialect() {
            Dialect::V7 => &[],
            Dialect::Ustar => text(&self.0[345..500]),
            Dialect::Star => text(&self.0[345..476]),
            Dialect::Gnu => self.mistaken_prefix(),
        };
        if prefix.is_empty() {
            return name.to_vec();
        }
        [prefix, name].join(&b'/')
    }

    /// GNU has access and change times where ustar has the prefix. Go before 1.8 wrote a prefix
    /// there all the same, under GNU's magic, and images of that age are still pulled: so what is
    /// no time and is ASCII is a prefix.
    fn mistaken_prefix(&self) -> &[u8] {
        let is_time = |field: &[u8]| field[0] == 0 || number("time", field).is_ok();
        if is_time(&self.0[345..357]) && is_time(&self.0[357..369]) {
            return &[];
        }
        let prefix = text(&self.0[345..500]);
        if prefix.is_ascii() { prefix } else { &[] }
    }

    pub(super) fn link(&self) -> &[u8] {
        text(&self.0[157..257])
    }

    pub(super) fn mode(&self) -> Result<u32, TarReason> {
        let mode = number("mode", &self.0[100..108])?;
        Ok(u32::try_from(mode & 0o7777).unwrap_or_default())
    }

    pub(super) fn uid(&self) -> Result<u64, TarReason> {
        unsigned("uid", &self.0[108..116])
    }

    pub(super) fn gid(&self) -> Result<u64, TarReason> {
        unsigned("gid", &self.0[116..124])
    }

    pub(super) fn size(&self) -> Result<u64, TarReason> {
        unsigned("size", &self.0[124..136])
    }

    pub(super) fn mtime(&self) -> Result<i64, TarReason> {
        number("mtime", &self.0[136..148])
    }

    /// Major and minor number; V7 has none.
    pub(super) fn device(&self) -> Result<(u64, u64), TarReason> {
        if self.dialect() == Dialect::V7 {
            return Ok((0, 0));
        }
        let major = unsigned("device major", &self.0[329..337])?;
        Ok((major, unsigned("device minor", &self.0[337..345])?))
    }

    /// The sparse map of GNU's type `S`: four (offset, length) pairs at 386, whether more blocks
    /// of it follow at 482, the file's size at 483.
    pub(super) fn sparse(&self) -> Result<(SparseBlock, u64), TarReason> {
        let block = SparseBlock::parse(&self.0[386..482], self.0[482])?;
        Ok((block, unsigned("real size", &self.0[483..495])?))
    }
}

/// One block's part of a GNU sparse map.
pub(super) struct SparseBlock {
    /// (offset in the file, bytes).
    pub(super) pieces: Vec<(u64, u64)>,
    /// Another block of the map follows.
    pub(super) more: bool,
}

impl SparseBlock {
    /// An extension block: 21 pairs, and whether another follows at 504.
    pub(super) fn extension(block: &[u8; BLOCK]) -> Result<Self, TarReason> {
        Self::parse(&block[..504], block[504])
    }

    fn parse(pairs: &[u8], more: u8) -> Result<Self, TarReason> {
        let mut pieces = Vec::new();
        // An empty pair ends the map before its room does.
        for pair in pairs.chunks_exact(24).take_while(|pair| pair[0] != 0) {
            let offset = unsigned("sparse offset", &pair[..12])?;
            pieces.push((offset, unsigned("sparse length", &pair[12..])?));
        }
        let more = more != 0;
        Ok(Self { pieces, more })
    }
}

/// The bytes of a field up to its NUL.
pub(super) fn text(field: &[u8]) -> &[u8] {
    field.split(|byte| *byte == 0).next().unwrap_or_default()
}

fn unsigned(name: &'static str, field: &[u8]) -> Result<u64, TarReason> {
    u64::try_from(number(name, field)?).map_err(|_| TarReason::field(name, field))
}

/// A number: octal digits between spaces or NULs, or, with the first bit set, big-endian two's
/// complement in the bits after it (GNU's base-256).
fn number(name: &'static str, field: &[u8]) -> Result<i64, TarReason> {
    let bad = || TarReason::field(name, field);
    if field[0] & 0x80 != 0 {
        return base_256(field).ok_or_else(bad);
    }
    let blank = |byte: &u8| matches!(byte, b' ' | 0);
    let start = field.iter().position(|byte| !blank(byte));
    let digits = &field[start.unwrap_or(field.len())..];
    let digits = digits.split(blank).next().unwrap_or_default();
    digits.iter().try_fold(0i64, |value, digit| match digit {
        b'0'..=b'7' => Ok(value << 3 | i64::from(digit - b'0')),
        _ => Err(bad()),
    })
}

fn base_256(field: &[u8]) -> Option<i64> {
    // Bit 6 of the first byte is the sign; it fills up what the marker bit took.
    let first = field[0];
    let sign = if first & 0x40 != 0 { -1 } else { 0 };
    let start = i128::from(sign) << 7 | i128::from(first & 0x7f);
    let value = field[1..].iter().try_fold(start, |value, byte| {
        let next = value.checked_mul(256)? | i128::from(*byte);
        (next.unsigned_abs() < 1 << 96).then_some(next)
    })?;
    i64::try_from(value).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers() {
        let of = |field: &[u8]| number("n", field).ok();
        assert_eq!(of(b"0000644\0"), Some(0o644));
        assert_eq!(of(b"   644 \0"), Some(0o644));
        assert_eq!(of(b"\0\0\0\0\0\0\0\0"), Some(0));
        assert_eq!(of(b"77777777777\0"), Some(0o77_777_777_777));
        assert_eq!(of(b"777777777777"), Some(0o777_777_777_777));
        assert_eq!(of(b"12 junk\0"), Some(0o12));
        assert_eq!(of(b"0000648\0"), None);
        assert_eq!(of(b"-000001\0"), None);
        assert_eq!(of(&[0x80, 0, 0, 0, 0, 0, 1, 0]), Some(256));
        assert_eq!(of(&[0xff; 12]), Some(-1));
        assert_eq!(
            of(&[
                0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0
            ]),
            Some(-256)
        );
        assert_eq!(
            of(&[
                0x80, 0, 0, 0, 0x7f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff
            ]),
            Some(i64::MAX)
        );
        assert_eq!(of(&[0x80, 0, 0, 0, 0x80, 0, 0, 0, 0, 0, 0, 0]), None);
        assert_eq!(of(&[0xbf; 12]), None);
    }

    #[test]
    fn what_may_start_a_tar() {
        assert!(is_tar(&[]));
        assert!(is_tar(&[0; 512]));
        assert!(!is_tar(&[0; 511]));
        assert!(!is_tar(&[1; 512]));
    }
}
