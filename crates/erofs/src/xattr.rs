//! Extended attributes, which lie behind their inode: a header, then entries of (prefix, name
//! without prefix, value). EROFS can also share xattrs between inodes; images have too few to gain
//! by it.

use std::collections::BTreeMap;

use zerocopy::little_endian::U16;
use zerocopy::{FromBytes, FromZeros, IntoBytes};

use crate::format::{XattrEntry, XattrHeader};

/// Most bytes in a full name, as Linux has it.
const MAX_NAME: usize = 255;

/// Numbers of name prefixes. The last two are whole names.
const PREFIXES: [(u8, &[u8]); 3] = [(1, b"user."), (4, b"trusted."), (6, b"security.")];
const WHOLE: [(u8, &[u8]); 2] = [
    (2, b"system.posix_acl_access"),
    (3, b"system.posix_acl_default"),
];

/// Why an xattr cannot be stored.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum XattrError {
    /// Linux serves no such name from EROFS.
    #[error(
        "xattr `{}` is none of user.*, trusted.*, security.* and system.posix_acl_*; leave it out",
        .0.escape_ascii()
    )]
    Name(Vec<u8>),
    /// The name is over 255 bytes.
    #[error("the name of xattr `{}` has over {MAX_NAME} bytes", .0.escape_ascii())]
    LongName(Vec<u8>),
    /// The value is over 65,535 bytes.
    #[error("the value of xattr `{}` has over 65535 bytes", .0.escape_ascii())]
    LongValue(Vec<u8>),
    /// All of an inode's xattrs together are over 262,136 bytes.
    #[error("all xattrs together have {0} bytes, over the limit of 262136")]
    Total(usize),
}

/// Whether a layout can hold an xattr of this name. Others are best left out: Linux would not
/// show them.
#[must_use]
pub fn is_storable(name: &[u8]) -> bool {
    name.len() <= MAX_NAME && split(name).is_some()
}

fn split(name: &[u8]) -> Option<(u8, &[u8])> {
    if let Some((index, _)) = WHOLE.iter().find(|(_, whole)| *whole == name) {
        return Some((*index, b""));
    }
    let (index, rest) = PREFIXES
        .iter()
        .find_map(|(index, prefix)| Some((*index, name.strip_prefix(*prefix)?)))?;
    (!rest.is_empty() && !rest.contains(&0)).then_some((index, rest))
}

fn join(prefix: u8, rest: &[u8]) -> Option<Vec<u8>> {
    let known = PREFIXES.iter().chain(&WHOLE);
    let (_, start) = known.into_iter().find(|(index, _)| *index == prefix)?;
    let name = [*start, rest].concat();
    is_storable(&name).then_some(name)
}

/// The bytes behind the inode, a multiple of 4, and the count that goes into the inode; none and 0
/// without xattrs.
pub(crate) fn encode(xattrs: &BTreeMap<Vec<u8>, Vec<u8>>) -> Result<(Vec<u8>, u16), XattrError> {
    if xattrs.is_empty() {
        return Ok((Vec::new(), 0));
    }
    let mut out = XattrHeader::new_zeroed().as_bytes().to_vec();
    let header = out.len();
    for (name, value) in xattrs {
        let (prefix, rest) = split(name).ok_or_else(|| XattrError::Name(name.clone()))?;
        let name_len = u8::try_from(rest.len())
            .ok()
            .filter(|_| name.len() <= MAX_NAME)
            .ok_or_else(|| XattrError::LongName(name.clone()))?;
        let value_len =
            u16::try_from(value.len()).map_err(|_| XattrError::LongValue(name.clone()))?;
        let entry = XattrEntry {
            name_len,
            prefix,
            value_len: U16::new(value_len),
        };
        out.extend_from_slice(entry.as_bytes());
        out.extend_from_slice(rest);
        out.extend_from_slice(value);
        out.resize(out.len().next_multiple_of(4), 0);
    }
    let total = out.len() - header;
    match u16::try_from(1 + total / 4) {
        Ok(count) => Ok((out, count)),
        Err(_) => Err(XattrError::Total(total)),
    }
}

/// Bytes of the xattrs of an inode with this count.
pub(crate) fn len(count: u16) -> usize {
    match count {
        0 => 0,
        _ => size_of::<XattrHeader>() + 4 * (usize::from(count) - 1),
    }
}

/// Reads what [`encode`] wrote; the reason otherwise.
pub(crate) fn decode(bytes: &[u8]) -> Result<BTreeMap<Vec<u8>, Vec<u8>>, &'static str> {
    let mut xattrs = BTreeMap::new();
    if bytes.is_empty() {
        return Ok(xattrs);
    }
    let (header, mut rest) =
        XattrHeader::read_from_prefix(bytes).map_err(|_| "xattrs end in their header")?;
    if header.shared != 0 {
        return Err("shared xattrs are not supported");
    }
    while !rest.is_empty() {
        let (entry, behind) =
            XattrEntry::read_from_prefix(rest).map_err(|_| "an xattr ends in its header")?;
        let name_len = usize::from(entry.name_len);
        let len = name_len + usize::from(entry.value_len.get());
        let (name, value) = behind
            .get(..len)
            .and_then(|body| body.split_at_checked(name_len))
            .ok_or("an xattr ends behind the others")?;
        let name = join(entry.prefix, name).ok_or("an xattr has a bad name")?;
        if xattrs.insert(name, value.to_vec()).is_some() {
            return Err("an xattr is there twice");
        }
        let next = len.next_multiple_of(4);
        rest = behind.get(next..).unwrap_or_default();
    }
    Ok(xattrs)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one(name: &[u8], value: &[u8]) -> BTreeMap<Vec<u8>, Vec<u8>> {
        BTreeMap::from([(name.to_vec(), value.to_vec())])
    }

    #[test]
    fn names_are_split_at_their_prefix() {
        assert_eq!(split(b"user.a"), Some((1, b"a".as_slice())));
        assert_eq!(
            split(b"security.capability"),
            Some((6, b"capability".as_slice()))
        );
        assert_eq!(
            split(b"system.posix_acl_default"),
            Some((3, b"".as_slice()))
        );
        for name in [
            b"user.".as_slice(),
            b"system.posix_acl_access2",
            b"com.apple.x",
            b"user.\0",
        ] {
            assert_eq!(split(name), None);
            assert!(!is_storable(name));
        }
    }

    #[test]
    fn entries_are_padded() {
        let (bytes, count) = encode(&one(b"user.ab", b"xyz")).unwrap();
        assert_eq!(bytes[12..], *b"\x02\x01\x03\x00abxyz\0\0\0");
        assert_eq!(count, 4);
        assert_eq!(len(count), bytes.len());
        assert_eq!(decode(&bytes).unwrap(), one(b"user.ab", b"xyz"));
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        let refused = |name: &[u8], value: &[u8]| encode(&one(name, value)).unwrap_err();
        assert!(matches!(
            refused(b"system.nfs4_acl", b""),
            XattrError::Name(_)
        ));
        assert!(matches!(
            refused(&[b"user.".as_slice(), &[b'x'; 251]].concat(), b""),
            XattrError::LongName(_)
        ));
        assert!(matches!(
            refused(b"user.a", &[0; 65_536]),
            XattrError::LongValue(_)
        ));
        let many = (0..5u8).map(|n| {
            (
                vec![b'u', b's', b'e', b'r', b'.', b'a' + n],
                vec![0; 60_000],
            )
        });
        assert!(matches!(encode(&many.collect()), Err(XattrError::Total(_))));
        assert!(
            encode(&one(
                &[b"user.".as_slice(), &[b'x'; 250]].concat(),
                &[0; 65_535]
            ))
            .is_ok()
        );
    }
}
