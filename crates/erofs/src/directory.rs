//! Directory blocks: each holds its dirents, then their names. Names ascend bytewise, `.` and `..`
//! among them, over all blocks of a directory, for the kernel searches both blocks and dirents by
//! halves. No dirent or name crosses a block.

use zerocopy::little_endian::{U16, U64};
use zerocopy::{FromBytes, IntoBytes};

use crate::Nid;
use crate::format::{BLOCK_LEN, Dirent, Kind};

const DIRENT: usize = size_of::<Dirent>();

/// A name in a directory, `.` and `..` included.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Name<'a> {
    pub(crate) name: &'a [u8],
    pub(crate) nid: Nid,
    pub(crate) kind: Kind,
}

/// Packs names, sorted and each of at most 255 bytes, into blocks. The last is not filled up.
pub(crate) fn encode(names: &[Name<'_>]) -> Vec<u8> {
    let mut out = Vec::new();
    let mut rest = names;
    while !rest.is_empty() {
        let (block, behind) = rest.split_at(fitting(rest));
        out.resize(out.len().next_multiple_of(BLOCK_LEN), 0);
        encode_block(block, &mut out);
        rest = behind;
    }
    out
}

/// How many of the names fit in one block.
fn fitting(names: &[Name<'_>]) -> usize {
    let mut used = 0;
    names
        .iter()
        .take_while(|name| {
            used += DIRENT + name.name.len();
            used <= BLOCK_LEN
        })
        .count()
}

fn encode_block(names: &[Name<'_>], out: &mut Vec<u8>) {
    let mut name_offset = names.len() * DIRENT;
    for name in names {
        let dirent = Dirent {
            nid: U64::new(name.nid.0),
            name_offset: U16::new(u16::try_from(name_offset).expect("it is within a block")),
            file_type: name.kind.dirent(),
            reserved: 0,
        };
        out.extend_from_slice(dirent.as_bytes());
        name_offset += name.name.len();
    }
    for name in names {
        out.extend_from_slice(name.name);
    }
}

/// A dirent as it was found.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Found<'a> {
    pub(crate) name: &'a [u8],
    pub(crate) nid: Nid,
    pub(crate) file_type: u8,
}

/// Reads what [`encode`] wrote, and checks that names ascend; the reason otherwise.
pub(crate) fn decode(data: &[u8]) -> Result<Vec<Found<'_>>, &'static str> {
    let mut names = Vec::new();
    for block in data.chunks(BLOCK_LEN) {
        decode_block(block, &mut names)?;
    }
    if names.windows(2).any(|pair| pair[0].name >= pair[1].name) {
        return Err("its names do not ascend");
    }
    Ok(names)
}

fn decode_block<'a>(block: &'a [u8], names: &mut Vec<Found<'a>>) -> Result<(), &'static str> {
    let (first, _) = Dirent::ref_from_prefix(block).map_err(|_| "a block has no dirent")?;
    let dirents_len = usize::from(first.name_offset.get());
    if dirents_len == 0 || dirents_len % DIRENT != 0 {
        return Err("a block has a bad first name");
    }
    let dirents = block
        .get(..dirents_len)
        .ok_or("dirents end behind their block")?;
    let dirents =
        <[Dirent]>::ref_from_bytes(dirents).map_err(|_| "a block has a bad first name")?;
    for (index, dirent) in dirents.iter().enumerate() {
        let start = usize::from(dirent.name_offset.get());
        let name = match dirents.get(index + 1) {
            Some(next) => block.get(start..usize::from(next.name_offset.get())),
            // The last name ends with the block or with the first zero of its padding.
            None => block
                .get(start..)
                .and_then(|rest| rest.split(|byte| *byte == 0).next()),
        };
        names.push(Found {
            name: name.ok_or("a name lies behind its block")?,
            nid: Nid(dirent.nid.get()),
            file_type: dirent.file_type,
        });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(count: usize, len: usize) -> Vec<Vec<u8>> {
        (0..count)
            .map(|n| format!("{n:0len$}").into_bytes())
            .collect()
    }

    fn dirents(names: &[Vec<u8>]) -> Vec<Name<'_>> {
        names
            .iter()
            .enumerate()
            .map(|(n, name)| Name {
                name,
                nid: Nid(n as u64),
                kind: Kind::File,
            })
            .collect()
    }

    #[test]
    fn no_name_crosses_a_block() {
        for (count, len, blocks) in [
            (1, 1, 1),
            (2, 255, 2),
            (2, 244, 1),
            (2, 245, 2),
            (1000, 20, 63),
        ] {
            let names = names(count, len);
            let bytes = encode(&dirents(&names));
            assert_eq!(bytes.len().div_ceil(BLOCK_LEN), blocks, "{count} of {len}");
            let found = decode(&bytes).unwrap();
            assert!(found.iter().map(|found| found.name).eq(&names));
            assert!(found.iter().map(|found| found.nid.0).eq(0..count as u64));
        }
    }

    #[test]
    fn disorder_is_found() {
        let names = [b"b".to_vec(), b"a".to_vec()];
        assert_eq!(
            decode(&encode(&dirents(&names))),
            Err("its names do not ascend")
        );
        assert_eq!(decode(&[0; 20]), Err("a block has a bad first name"));
        assert_eq!(decode(&[0; 5]), Err("a block has no dirent"));
    }
}
