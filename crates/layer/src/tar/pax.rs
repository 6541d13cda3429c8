//! PAX extended headers: records `LENGTH KEY=VALUE\n` that overrule the header behind them.

use super::{MAX_PATH, MAX_SPARSE, TarReason, Timestamp};

/// Most extended attributes of one member: Linux lists no more than 64 KiB of names.
const MAX_XATTRS: usize = 4096;

/// What one extended header says, as far as it matters here.
#[derive(Default)]
pub(super) struct Pax {
    pub(super) path: Option<Vec<u8>>,
    pub(super) link: Option<Vec<u8>>,
    pub(super) size: Option<u64>,
    pub(super) uid: Option<u64>,
    pub(super) gid: Option<u64>,
    pub(super) mtime: Option<Timestamp>,
    pub(super) device: (Option<u64>, Option<u64>),
    pub(super) xattrs: Vec<(Vec<u8>, Vec<u8>)>,
    pub(super) sparse: PaxSparse,
}

/// GNU's sparse keywords, of all three versions of them.
#[derive(Default)]
pub(super) struct PaxSparse {
    /// `GNU.sparse.major` and `minor`; before 1.0 they may be missing.
    pub(super) version: (Option<u64>, Option<u64>),
    /// `GNU.sparse.name`: the file's path, where `path` is a made-up one.
    pub(super) name: Option<Vec<u8>>,
    /// `GNU.sparse.size` (0.0, 0.1) or `GNU.sparse.realsize` (1.0).
    pub(super) size: Option<u64>,
    /// The map of 0.0 and 0.1: offset and length, in turns.
    pub(super) map: Vec<u64>,
}

impl Pax {
    /// Reads the records of one extended header. An empty value takes back what an earlier record
    /// of the same key said.
    pub(super) fn parse(mut bytes: &[u8]) -> Result<Self, TarReason> {
        let mut pax = Self::default();
        while !bytes.is_empty() {
            let (key, value, rest) =
                record(bytes).ok_or_else(|| TarReason::field("PAX record", bytes))?;
            pax.set(key, value)?;
            bytes = rest;
        }
        Ok(pax)
    }

    fn set(&mut self, key: &[u8], value: &[u8]) -> Result<(), TarReason> {
        match key {
            b"path" => self.path = path("PAX path", value)?,
            b"linkpath" => self.link = path("PAX linkpath", value)?,
            b"size" => self.size = number("PAX size", value)?,
            b"uid" => self.uid = number("PAX uid", value)?,
            b"gid" => self.gid = number("PAX gid", value)?,
            b"mtime" => self.mtime = time(value)?,
            b"SCHILY.devmajor" => self.device.0 = number("SCHILY.devmajor", value)?,
            b"SCHILY.devminor" => self.device.1 = number("SCHILY.devminor", value)?,
            _ => {
                if let Some(name) = key.strip_prefix(b"SCHILY.xattr.") {
                    self.set_xattr(name, value)?;
                } else if let Some(name) = key.strip_prefix(b"LIBARCHIVE.xattr.") {
                    self.set_libarchive_xattr(name, value)?;
                } else if let Some(keyword) = key.strip_prefix(b"GNU.sparse.") {
                    self.sparse.set(keyword, value)?;
                }
            }
        }
        Ok(())
    }

    fn set_xattr(&mut self, name: &[u8], value: &[u8]) -> Result<(), TarReason> {
        match self.xattrs.iter_mut().find(|(known, _)| known == name) {
            Some((_, old)) => *old = value.to_vec(),
            None => self.add_xattr(name.to_vec(), value.to_vec())?,
        }
        Ok(())
    }

    fn add_xattr(&mut self, name: Vec<u8>, value: Vec<u8>) -> Result<(), TarReason> {
        if self.xattrs.len() >= MAX_XATTRS {
            return Err(TarReason::limit("extended attributes", MAX_XATTRS));
        }
        self.xattrs.push((name, value));
        Ok(())
    }

    /// libarchive writes each attribute twice, its own way (percent-encoded name, base64 value)
    /// and star's. They say the same; should they not, star's holds, which others read too.
    fn set_libarchive_xattr(&mut self, name: &[u8], value: &[u8]) -> Result<(), TarReason> {
        let bad = |text| TarReason::field("LIBARCHIVE.xattr", text);
        let name = percent_decode(name).ok_or_else(|| bad(name))?;
        let value = base64_decode(value).ok_or_else(|| bad(value))?;
        if !self.xattrs.iter().any(|(known, _)| *known == name) {
            self.add_xattr(name, value)?;
        }
        Ok(())
    }
}

impl PaxSparse {
    fn set(&mut self, keyword: &[u8], value: &[u8]) -> Result<(), TarReason> {
        match keyword {
            b"major" => self.version.0 = number("GNU.sparse.major", value)?,
            b"minor" => self.version.1 = number("GNU.sparse.minor", value)?,
            b"name" => self.name = path("GNU.sparse.name", value)?,
            b"size" | b"realsize" => self.size = number("GNU.sparse.size", value)?,
            b"map" => {
                self.map.clear();
                for field in value.split(|byte| *byte == b',') {
                    self.push(number("GNU.sparse.map", field)?)?;
                }
            }
            b"offset" => self.push_at(0, number("GNU.sparse.offset", value)?)?,
            b"numbytes" => self.push_at(1, number("GNU.sparse.numbytes", value)?)?,
            _ => {}
        }
        Ok(())
    }

    /// Version 0.0 has one record for each number: offsets and lengths must alternate.
    fn push_at(&mut self, turn: usize, number: Option<u64>) -> Result<(), TarReason> {
        if self.map.len() % 2 != turn {
            return Err(TarReason::Sparse("offsets and lengths do not alternate"));
        }
        self.push(number)
    }

    fn push(&mut self, number: Option<u64>) -> Result<(), TarReason> {
        if self.map.len() >= MAX_SPARSE * 2 {
            return Err(TarReason::limit("a sparse map", MAX_SPARSE));
        }
        self.map
            .push(number.ok_or(TarReason::Sparse("a number is missing"))?);
        Ok(())
    }
}

/// Splits the first record off: its key, its value, the rest.
fn record(bytes: &[u8]) -> Option<(&[u8], &[u8], &[u8])> {
    let space = bytes.iter().take(8).position(|byte| *byte == b' ')?;
    let len = usize::try_from(decimal(&bytes[..space])?).ok()?;
    if len <= space + 1 || len > bytes.len() {
        return None;
    }
    let (record, rest) = bytes.split_at(len);
    let record = record[space + 1..].strip_suffix(b"\n")?;
    let equals = record.iter().position(|byte| *byte == b'=')?;
    let key = &record[..equals];
    if key.is_empty() || key.contains(&0) {
        return None;
    }
    Some((key, &record[equals + 1..], rest))
}

fn path(field: &'static str, value: &[u8]) -> Result<Option<Vec<u8>>, TarReason> {
    if value.contains(&0) {
        return Err(TarReason::field(field, value));
    }
    if value.len() > MAX_PATH {
        return Err(TarReason::limit(field, MAX_PATH));
    }
    Ok((!value.is_empty()).then(|| value.to_vec()))
}

fn number(field: &'static str, value: &[u8]) -> Result<Option<u64>, TarReason> {
    if value.is_empty() {
        return Ok(None);
    }
    match decimal(value) {
        Some(number) if i64::try_from(number).is_ok() => Ok(Some(number)),
        _ => Err(TarReason::field(field, value)),
    }
}

pub(super) fn decimal(digits: &[u8]) -> Option<u64> {
    if digits.is_empty() {
        return None;
    }
    digits.iter().try_fold(0u64, |value, digit| {
        let digit = digit.is_ascii_digit().then(|| u64::from(digit - b'0'))?;
        value.checked_mul(10)?.checked_add(digit)
    })
}

/// Seconds with a fraction, e.g. `-1.25`, which is three quarters of a second after -2. Digits
/// beyond nanoseconds are dropped.
fn time(value: &[u8]) -> Result<Option<Timestamp>, TarReason> {
    if value.is_empty() {
        return Ok(None);
    }
    let bad = || TarReason::field("PAX mtime", value);
    let (negative, digits) = match value.strip_prefix(b"-") {
        Some(digits) => (true, digits),
        None => (false, value),
    };
    let mut parts = digits.splitn(2, |byte| *byte == b'.');
    let whole = decimal(parts.next().unwrap_or_default()).ok_or_else(bad)?;
    let mut seconds = i64::try_from(whole).map_err(|_| bad())?;
    let fraction = parts.next().unwrap_or_default();
    if !fraction.iter().all(u8::is_ascii_digit) {
        return Err(bad());
    }
    let digit = |at| fraction.get(at).map_or(0, |digit| u32::from(digit - b'0'));
    let mut nanoseconds = (0..9).fold(0, |value, at| value * 10 + digit(at));
    if negative {
        seconds = -seconds;
        if nanoseconds > 0 {
            seconds -= 1;
            nanoseconds = 1_000_000_000 - nanoseconds;
        }
    }
    Ok(Some(Timestamp {
        seconds,
        nanoseconds,
    }))
}

fn percent_decode(text: &[u8]) -> Option<Vec<u8>> {
    let mut out = Vec::with_capacity(text.len());
    let mut bytes = text.iter();
    while let Some(byte) = bytes.next() {
        if *byte != b'%' {
            out.push(*byte);
            continue;
        }
        let mut nibble = || char::from(*bytes.next()?).to_digit(16);
        let value = nibble()? * 16 + nibble()?;
        out.push(u8::try_from(value).ok()?);
    }
    (!out.contains(&0)).then_some(out)
}

/// Standard base64; libarchive leaves the padding away.
fn base64_decode(text: &[u8]) -> Option<Vec<u8>> {
    let mut out = Vec::with_capacity(text.len() / 4 * 3 + 2);
    let end = text.iter().rposition(|byte| *byte != b'=');
    let (mut bits, mut count) = (0u32, 0);
    for byte in &text[..end.map_or(0, |last| last + 1)] {
        let six = match byte {
            b'A'..=b'Z' => byte - b'A',
            b'a'..=b'z' => byte - b'a' + 26,
            b'0'..=b'9' => byte - b'0' + 52,
            b'+' => 62,
            b'/' => 63,
            _ => return None,
        };
        bits = bits << 6 | u32::from(six);
        count += 6;
        if count >= 8 {
            count -= 8;
            out.push((bits >> count & 0xff).try_into().ok()?);
        }
    }
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(key: &str, value: &str) -> Vec<u8> {
        let body = key.len() + value.len() + 3;
        let mut len = body + 1;
        while body + len.to_string().len() != len {
            len += 1;
        }
        format!("{len} {key}={value}\n").into_bytes()
    }

    fn parse(records: &[(&str, &str)]) -> Result<Pax, TarReason> {
        let lines: Vec<_> = records
            .iter()
            .map(|(key, value)| line(key, value))
            .collect();
        Pax::parse(&lines.concat())
    }

    fn mtime(text: &str) -> Option<(i64, u32)> {
        let time = parse(&[("mtime", text)]).ok()?.mtime?;
        Some((time.seconds, time.nanoseconds))
    }

    #[test]
    fn times() {
        assert_eq!(
            mtime("1350244992.023960108"),
            Some((1_350_244_992, 23_960_108))
        );
        assert_eq!(mtime("5.1234567899999"), Some((5, 123_456_789)));
        assert_eq!(mtime("7."), Some((7, 0)));
        assert_eq!(mtime("-1"), Some((-1, 0)));
        assert_eq!(mtime("-1.25"), Some((-2, 750_000_000)));
        assert_eq!(mtime("-0.5"), Some((-1, 500_000_000)));
        for bad in ["x", "-", ".5", "1.x", "99999999999999999999", "1.-5"] {
            assert_eq!(mtime(bad), None, "{bad}");
        }
    }

    #[test]
    fn values_overrule_and_are_taken_back() {
        let pax = parse(&[
            ("path", "a=b\nc"),
            ("uid", "7"),
            ("uid", ""),
            ("comment", "x"),
        ])
        .unwrap();
        assert_eq!(pax.path.as_deref(), Some(b"a=b\nc".as_slice()));
        assert_eq!(pax.uid, None);
    }

    #[test]
    fn attributes_of_both_spellings() {
        let pax = parse(&[
            ("LIBARCHIVE.xattr.user.a%3d%25", "aGk"),
            ("SCHILY.xattr.user.b", "one"),
            ("LIBARCHIVE.xattr.user.b", "dHdv"),
            ("SCHILY.xattr.user.c", ""),
        ])
        .unwrap();
        let pair = |name: &str, value: &str| (name.as_bytes().to_vec(), value.as_bytes().to_vec());
        let expected = [
            pair("user.a=%", "hi"),
            pair("user.b", "one"),
            pair("user.c", ""),
        ];
        assert_eq!(pax.xattrs, expected);
    }

    #[test]
    fn malformed_records_are_refused() {
        for bad in [
            &b"5 a=b"[..],
            b"6 a=b\n\n",
            b"0 \n",
            b"99 a=b\n",
            b"7 path\n",
            b"5 =b\n",
            b"x a=b\n",
            b"99999999999999999999999 a=b\n",
            b"11 path=a\0b\n",
            b"9 size=-1\n",
            b"28 size=9223372036854775808\n",
        ] {
            assert!(
                Pax::parse(bad).is_err(),
                "{:?}",
                String::from_utf8_lossy(bad)
            );
        }
        assert!(parse(&[("path", &"x".repeat(MAX_PATH + 1))]).is_err());
        assert!(parse(&[("GNU.sparse.numbytes", "1")]).is_err());
    }
}
