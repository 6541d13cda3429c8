//! As much of ELF as says what a program needs to start (System V gABI, "Program Loading and
//! Dynamic Linking"). The files are an image's, hence hostile: every offset is checked where it is
//! used, every length is capped, and what is malformed is simply no ELF file.

use std::io;

use thaw_image::Extent;

/// Most bytes of program headers and of the dynamic section that are read.
const MAX_TABLE: u64 = 64 << 10;
/// Most bytes of the strings of the dynamic section.
const MAX_STRINGS: u64 = 4 << 20;
/// Most libraries that one file may need.
const MAX_NEEDED: usize = 256;
/// Most bytes of a path.
const MAX_PATH: usize = 4096;

const PT_LOAD: u64 = 1;
const PT_DYNAMIC: u64 = 2;
const PT_INTERP: u64 = 3;
const DT_NEEDED: u64 = 1;
const DT_STRTAB: u64 = 5;
const DT_STRSZ: u64 = 10;
const DT_RPATH: u64 = 15;
const DT_RUNPATH: u64 = 29;

/// Which machine's code it is: objects of different kinds are not loaded together.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Kind {
    pub(super) machine: u16,
    wide: bool,
    big: bool,
}

/// What an ELF file says of its start.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Elf {
    pub(super) kind: Kind,
    /// The parts of the file that are mapped.
    pub(super) segments: Vec<Extent>,
    /// Its dynamic linker.
    pub(super) interpreter: Option<Vec<u8>>,
    /// Names of libraries, in order.
    pub(super) needed: Vec<Vec<u8>>,
    /// Where to look for them, separated by colons: the older and the newer way.
    pub(super) rpath: Option<Vec<u8>>,
    pub(super) runpath: Option<Vec<u8>>,
}

/// Reads a range of a file; what is behind its end is left out.
pub(super) type ReadFile<'a> = &'a dyn Fn(u64, u64) -> io::Result<Vec<u8>>;

/// Reads what `file` says of itself; `None` if it is no good ELF file.
pub(super) fn read(file: ReadFile<'_>) -> io::Result<Option<Elf>> {
    let head = file(0, 64)?;
    let Some((kind, headers, entry_size)) = header(&head) else {
        return Ok(None);
    };
    let table = file(headers.offset, headers.len)?;
    if table.len() as u64 != headers.len {
        return Ok(None);
    }
    let segments: Option<Vec<Segment>> = table
        .chunks_exact(entry_size)
        .map(|entry| Segment::read(kind, entry))
        .collect();
    let Some(segments) = segments else {
        return Ok(None);
    };
    let part = |wanted| segments.iter().find(|segment| segment.kind == wanted);
    let interpreter = match part(PT_INTERP) {
        Some(segment) => Some(until_zero(&file(
            segment.file.offset,
            segment.file.len.min(MAX_PATH as u64),
        )?)),
        None => None,
    };
    let loaded = segments.iter().filter(|segment| segment.kind == PT_LOAD);
    let mut elf = Elf {
        kind,
        segments: loaded.map(|segment| segment.file).collect(),
        interpreter,
        needed: Vec::new(),
        rpath: None,
        runpath: None,
    };
    if let Some(dynamic) = part(PT_DYNAMIC) {
        let table = file(dynamic.file.offset, dynamic.file.len.min(MAX_TABLE))?;
        elf.read_dynamic(&table, &segments, file)?;
    }
    Ok(Some(elf))
}

/// Kind, and where the program headers are.
fn header(head: &[u8]) -> Option<(Kind, Extent, usize)> {
    if head.get(..4)? != b"\x7fELF" {
        return None;
    }
    let wide = match head.get(4)? {
        1 => false,
        2 => true,
        _ => return None,
    };
    let mut kind = Kind {
        machine: 0,
        wide,
        big: *head.get(5)? == 2,
    };
    let half = |at| u16::try_from(kind.number(head, at, 2)?).ok();
    let (offset, sizes, least) = if wide { (32, 54, 56) } else { (28, 42, 32) };
    let machine = half(18)?;
    let (size, count) = (half(sizes)?, half(sizes + 2)?);
    let offset = kind.word(head, offset)?;
    kind.machine = machine;
    let len = u64::from(size) * u64::from(count);
    let table = Extent::checked(offset, len).filter(|table| table.len <= MAX_TABLE)?;
    (size >= least).then_some((kind, table, usize::from(size)))
}

impl Kind {
    fn number(self, bytes: &[u8], at: usize, len: usize) -> Option<u64> {
        let bytes = bytes.get(at..at.checked_add(len)?)?;
        let push = |number: u64, byte: &u8| number << 8 | u64::from(*byte);
        Some(if self.big {
            bytes.iter().fold(0, push)
        } else {
            bytes.iter().rev().fold(0, push)
        })
    }

    /// An address, an offset or a size.
    fn word(self, bytes: &[u8], at: usize) -> Option<u64> {
        self.number(bytes, at, self.word_len())
    }

    const fn word_len(self) -> usize {
        if self.wide { 8 } else { 4 }
    }
}

/// A program header.
struct Segment {
    kind: u64,
    file: Extent,
    address: u64,
}

impl Segment {
    fn read(kind: Kind, entry: &[u8]) -> Option<Self> {
        let (offset, address, size) = if kind.wide { (8, 16, 32) } else { (4, 8, 16) };
        Some(Self {
            kind: kind.number(entry, 0, 4)?,
            file: Extent::checked(kind.word(entry, offset)?, kind.word(entry, size)?)?,
            address: kind.word(entry, address)?,
        })
    }
}

impl Elf {
    fn read_dynamic(
        &mut self,
        table: &[u8],
        segments: &[Segment],
        file: ReadFile<'_>,
    ) -> io::Result<()> {
        let len = self.kind.word_len();
        let value = |entry: &[u8]| Some((self.kind.word(entry, 0)?, self.kind.word(entry, len)?));
        let entries: Vec<(u64, u64)> = table
            .chunks_exact(2 * len)
            .filter_map(value)
            .take_while(|(tag, _)| *tag != 0)
            .collect();
        let of = |wanted| {
            entries
                .iter()
                .find(|(tag, _)| *tag == wanted)
                .map(|entry| entry.1)
        };
        let place = of(DT_STRTAB).and_then(|address| {
            let mut loaded = segments.iter().filter(|segment| segment.kind == PT_LOAD);
            loaded.find_map(|segment| {
                let within = address.checked_sub(segment.address)?;
                (within < segment.file.len).then(|| segment.file.offset + within)
            })
        });
        let Some(place) = place else {
            return Ok(());
        };
        let strings = file(place, of(DT_STRSZ).unwrap_or(0).min(MAX_STRINGS))?;
        let string = |offset: u64| {
            let text = strings.get(usize::try_from(offset).ok()?..)?;
            Some(until_zero(text.get(..MAX_PATH).unwrap_or(text)))
        };
        let needed = entries.iter().filter(|(tag, _)| *tag == DT_NEEDED);
        self.needed = needed
            .filter_map(|entry| string(entry.1))
            .take(MAX_NEEDED)
            .collect();
        self.rpath = of(DT_RPATH).and_then(string);
        self.runpath = of(DT_RUNPATH).and_then(string);
        Ok(())
    }
}

fn until_zero(bytes: &[u8]) -> Vec<u8> {
    let end = bytes.iter().position(|byte| *byte == 0);
    bytes[..end.unwrap_or(bytes.len())].to_vec()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn parse(bytes: &[u8]) -> Option<Elf> {
        let file = |offset: u64, len: u64| {
            let start = usize::try_from(offset)
                .unwrap_or(usize::MAX)
                .min(bytes.len());
            let len = usize::try_from(len).unwrap_or(usize::MAX);
            Ok(bytes[start..start.saturating_add(len).min(bytes.len())].to_vec())
        };
        read(&file).unwrap()
    }

    fn own() -> Vec<u8> {
        std::fs::read(std::env::current_exe().unwrap()).unwrap()
    }

    #[test]
    fn this_program_needs_libc() {
        let elf = parse(&own()).unwrap();
        assert!(
            elf.needed.iter().any(|name| name.starts_with(b"libc.so")),
            "{elf:?}"
        );
        assert!(elf.interpreter.unwrap().starts_with(b"/lib"));
        assert!(elf.segments.len() > 1);
    }

    #[test]
    fn other_files_are_no_elf() {
        assert_eq!(parse(b""), None);
        assert_eq!(parse(b"#!/bin/sh\n"), None);
        assert_eq!(parse(b"\x7fELF"), None);
        assert_eq!(parse(&own()[..63]), None);
    }

    #[test]
    fn an_address_far_behind_a_segment_is_not_in_it() {
        let mut bytes = vec![0; 0x1000];
        let mut put = |at: usize, number: u64| {
            bytes[at..at + 8].copy_from_slice(&number.to_le_bytes());
        };
        put(0, u64::from_le_bytes(*b"\x7fELF\x02\x01\x01\0"));
        // Where the program headers are, how long one is, and how many there are.
        put(32, 64);
        put(54, 56 | 2 << 16);
        // One that is loaded, and the dynamic section, whose strings would be far behind that.
        put(64, PT_LOAD);
        put(64 + 8, 1 << 40);
        put(64 + 32, 8);
        put(120, PT_DYNAMIC);
        put(120 + 8, 0x200);
        put(120 + 32, 0x20);
        put(0x200, DT_STRTAB);
        put(0x208, u64::MAX);
        let elf = parse(&bytes).unwrap();
        assert_eq!(elf.segments.len(), 1);
        assert!(elf.needed.is_empty());
    }

    proptest! {
        #[test]
        fn damage_never_panics(changes in proptest::collection::vec((0usize..4096, any::<u8>()), 1..40)) {
            let mut bytes = own();
            bytes.truncate(1 << 16);
            for (at, byte) in changes {
                bytes[at] = byte;
            }
            let _ = parse(&bytes);
        }
    }
}
