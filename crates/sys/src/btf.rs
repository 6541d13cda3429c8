//! What the running kernel's structures have, by its own description of its types (BTF;
//! `Documentation/bpf/btf.rst`, `include/uapi/linux/btf.h`).
//!
//! A correction of the kernel that came with a new member can be recognised by it, whatever release the
//! kernel calls itself: distributions bring corrections into old ones. Only as much is read as that takes.
//!
//! A module's description continues the kernel's: names before the end of the kernel's own are the
//! kernel's.

use std::fs;
use std::io;
use std::path::Path;

/// Where the kernel and its modules describe themselves.
const DIRECTORY: &str = "/sys/kernel/btf";
const MAGIC: u16 = 0xeb9f;
/// `struct btf_header`.
const HEADER: usize = 24;
/// `BTF_KIND_STRUCT`.
const STRUCTURE: u32 = 4;

/// Whether the structure `name`, of the kernel itself or its module `module`, has a member `member`. `None`:
/// there is no such structure.
///
/// # Errors
/// `NotFound` where the kernel does not describe itself (`CONFIG_DEBUG_INFO_BTF`), `InvalidData` where the
/// description has a form that is not known.
pub fn has_member(module: &str, name: &str, member: &str) -> io::Result<Option<bool>> {
    let directory = Path::new(DIRECTORY);
    let kernel = fs::read(directory.join("vmlinux"))?;
    let malformed = || io::Error::new(io::ErrorKind::InvalidData, "a form that is not known");
    let own = Description::of(&kernel, 0).ok_or_else(malformed)?;
    let found = match fs::read(directory.join(module)) {
        Ok(bytes) => Description::of(&bytes, own.names.len())
            .and_then(|description| description.members(name, member)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => own.members(name, member),
        Err(error) => return Err(error),
    };
    found.ok_or_else(malformed)
}

/// The types of the kernel or of a module, and their names.
struct Description<'a> {
    types: &'a [u8],
    names: &'a [u8],
    /// Names of the kernel, before these.
    before: usize,
}

impl<'a> Description<'a> {
    fn of(bytes: &'a [u8], before: usize) -> Option<Self> {
        let magic = bytes.get(..2)?;
        // Of this machine's byte order.
        if u16::from_ne_bytes(magic.try_into().ok()?) != MAGIC || bytes.len() < HEADER {
            return None;
        }
        let body = bytes.get(word(bytes, 4)?..)?;
        let section = |at: usize| {
            let offset = word(bytes, at)?;
            body.get(offset..offset.checked_add(word(bytes, at + 4)?)?)
        };
        Some(Self {
            types: section(8)?,
            names: section(16)?,
            before,
        })
    }

    /// Whether the name at `offset` is `name`.
    fn is_named(&self, offset: usize, name: &str) -> bool {
        let own = offset.checked_sub(self.before);
        let rest = own.and_then(|offset| self.names.get(offset..));
        let rest = rest.and_then(|rest| rest.strip_prefix(name.as_bytes()));
        rest.is_some_and(|rest| rest.first() == Some(&0))
    }

    /// `None` where the description is malformed.
    fn members(&self, name: &str, member: &str) -> Option<Option<bool>> {
        let mut types = self.types;
        while !types.is_empty() {
            let (named, info) = (word(types, 0)?, u32::try_from(word(types, 4)?).ok()?);
            let (kind, count) = (info >> 24 & 0x1f, (info & 0xffff) as usize);
            let (each, rest) = (size_of_entry(kind)?, types.get(12..)?);
            let entries =
                rest.get(..each.checked_mul(if each_repeats(kind) { count } else { 1 })?)?;
            if kind == STRUCTURE && self.is_named(named, name) {
                let mut members = entries.chunks_exact(each);
                let has = members.any(|entry| {
                    word(entry, 0).is_some_and(|offset| self.is_named(offset, member))
                });
                return Some(Some(has));
            }
            types = rest.get(entries.len()..)?;
        }
        Some(None)
    }
}

/// Bytes that follow a type of this kind: of each of its entries, where it has some.
const fn size_of_entry(kind: u32) -> Option<usize> {
    Some(match kind {
        // Pointer, forward, typedef, volatile, const, restrict, function, float, type tag.
        2 | 7..=12 | 16 | 18 => 0,
        // Integer, variable, declaration tag.
        1 | 14 | 17 => 4,
        // Enumeration, prototype.
        6 | 13 => 8,
        // Array, structure, union, section, enumeration of 64 bits.
        3 | STRUCTURE | 5 | 15 | 19 => 12,
        _ => return None,
    })
}

/// Whether a type of this kind has as many entries as it says.
const fn each_repeats(kind: u32) -> bool {
    matches!(kind, STRUCTURE | 5 | 6 | 13 | 15 | 19)
}

fn word(bytes: &[u8], at: usize) -> Option<usize> {
    let word = bytes.get(at..at.checked_add(4)?)?;
    usize::try_from(u32::from_ne_bytes(word.try_into().ok()?)).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A description with one type of each given kind; a structure has the members `a` and `b`.
    fn description(kinds: &[u32], before: usize) -> Vec<u8> {
        let names = b"\0it\0a\0b\0";
        let name = |offset: usize| u32::try_from(offset + before).unwrap();
        let mut types: Vec<u32> = Vec::new();
        for kind in kinds {
            let entries: u32 = if each_repeats(*kind) { 2 } else { 0 };
            types.extend([name(1), kind << 24 | entries, 0]);
            match (*kind, entries) {
                (STRUCTURE, _) => types.extend([name(4), 0, 0, name(6), 0, 0]),
                (kind, entries) => {
                    let words = size_of_entry(kind).unwrap() / 4 * entries.max(1) as usize;
                    types.extend(std::iter::repeat_n(0, words));
                }
            }
        }
        let types: Vec<u8> = types.into_iter().flat_map(u32::to_ne_bytes).collect();
        let mut bytes = MAGIC.to_ne_bytes().to_vec();
        bytes.extend([1, 0]);
        for word in [HEADER, 0, types.len(), types.len(), names.len()] {
            bytes.extend(u32::try_from(word).unwrap().to_ne_bytes());
        }
        [bytes, types, names.to_vec()].concat()
    }

    #[test]
    fn members_are_found_behind_types_of_every_kind() {
        let kinds: Vec<u32> = (1..20).filter(|kind| *kind != STRUCTURE).collect();
        for before in [0, 100] {
            let bytes = description(&[&kinds[..], &[STRUCTURE]].concat(), before);
            let found = |name, member| {
                let description = Description::of(&bytes, before).unwrap();
                description.members(name, member).unwrap()
            };
            assert_eq!(found("it", "a"), Some(true));
            assert_eq!(found("it", "b"), Some(true));
            assert_eq!(found("it", "c"), Some(false));
            assert_eq!(found("i", "a"), None);
            // Names of the kernel's are not looked for here.
            let elsewhere = Description::of(&bytes, before + 1).unwrap();
            assert_eq!(elsewhere.members("it", "a"), Some(None));
        }
    }

    #[test]
    fn what_is_cut_or_unknown_is_malformed() {
        let whole = description(&[1, STRUCTURE], 0);
        let read = |bytes: &[u8]| Description::of(bytes, 0)?.members("it", "a");
        assert_eq!(read(&whole), Some(Some(true)));
        for len in 0..whole.len() - 1 {
            let found = read(&whole[..len]);
            assert!(found.is_none(), "{len} bytes: {found:?}");
        }
        let mut unknown = whole.clone();
        unknown[HEADER + 7] = 31;
        assert_eq!(read(&unknown), None);
        let mut other = whole;
        other[0] ^= 1;
        assert!(Description::of(&other, 0).is_none());
    }

    #[test]
    fn this_kernel_describes_itself() {
        assert_eq!(
            has_member("vmlinux-none", "list_head", "next").unwrap(),
            Some(true)
        );
        assert_eq!(
            has_member("vmlinux-none", "list_head", "after").unwrap(),
            Some(false)
        );
        assert_eq!(
            has_member("vmlinux-none", "no_such_structure", "a").unwrap(),
            None
        );
    }
}
