//! Headers made by hand, for what no writer at hand makes.

use proptest::prelude::*;

use super::*;
use crate::Budget;

const USTAR: &[u8] = b"ustar\x0000";
const GNU: &[u8] = b"ustar  \0";

/// A header block, which its closure may change before it gets its checksum.
fn header(name: &str, kind: u8, size: u64, change: impl FnOnce(&mut [u8; 512])) -> Vec<u8> {
    let mut block = [0; 512];
    block[..name.len()].copy_from_slice(name.as_bytes());
    block[100..107].copy_from_slice(b"0000644");
    block[108..115].copy_from_slice(b"0000001");
    block[116..123].copy_from_slice(b"0000002");
    block[124..135].copy_from_slice(format!("{size:011o}").as_bytes());
    block[136..147].copy_from_slice(b"00000000003");
    block[156] = kind;
    block[257..265].copy_from_slice(USTAR);
    change(&mut block);
    seal(&mut block, |byte| i64::from(*byte));
    block.to_vec()
}

fn seal(block: &mut [u8; 512], value: fn(&u8) -> i64) {
    block[148..156].fill(b' ');
    let sum: i64 = block.iter().map(value).sum();
    block[148..155].copy_from_slice(format!("{sum:06o}\0").as_bytes());
}

fn same(_: &mut [u8; 512]) {}

fn padded(data: &[u8]) -> Vec<u8> {
    let mut data = data.to_vec();
    data.resize(data.len().next_multiple_of(512), 0);
    data
}

fn scan(parts: &[&[u8]]) -> Result<Vec<Entry>, TarError> {
    let budget = Budget::new(1 << 20);
    let mut scanner = Scanner::new(&budget);
    scanner.push(&parts.concat())?;
    Ok(scanner.finish()?.to_vec())
}

fn paths(parts: &[&[u8]]) -> Vec<String> {
    let entries = scan(parts).unwrap();
    let path = |entry: Entry| String::from_utf8(entry.path).unwrap();
    entries.into_iter().map(path).collect()
}

fn reason(parts: &[&[u8]]) -> TarReason {
    scan(parts).unwrap_err().reason
}

const END: &[u8] = &[0; 1024];

#[test]
fn prefixes_of_all_dialects() {
    let prefixed = |magic: &'static [u8], star: bool| {
        header("name", b'0', 0, |block| {
            block[257..265].copy_from_slice(magic);
            block[345..351].copy_from_slice(b"prefix");
            if star {
                block[476..487].copy_from_slice(b"00000000001");
                block[508..].copy_from_slice(b"tar\0");
            }
        })
    };
    assert_eq!(paths(&[&prefixed(USTAR, false), END]), ["prefix/name"]);
    assert_eq!(paths(&[&prefixed(USTAR, true), END]), ["prefix/name"]);
    // Go before 1.8 under GNU's magic; a real GNU header has times there.
    assert_eq!(paths(&[&prefixed(GNU, false), END]), ["prefix/name"]);
    let times = header("name", b'0', 0, |block| {
        block[257..265].copy_from_slice(GNU);
        block[345..369].copy_from_slice(b"00000000001\x0000000000002\0");
    });
    assert_eq!(paths(&[&times, END]), ["name"]);
    assert_eq!(paths(&[&prefixed(&[0; 8], false), END]), ["name"]);
}

#[test]
fn kinds_without_data_ignore_their_size() {
    for kind in *b"123456" {
        let first = header("first", kind, 1000, same);
        let second = header("second", b'0', 0, same);
        assert_eq!(paths(&[&first, &second, END]), ["first", "second"]);
    }
}

#[test]
fn old_files_with_a_slash_are_directories() {
    let old = header("dir/", 0, 0, same);
    let new = header("dir/", b'0', 0, same);
    let entries = scan(&[&old, &new, END]).unwrap();
    assert_eq!(entries[0].kind, EntryKind::Directory);
    assert!(matches!(entries[1].kind, EntryKind::File { .. }));
}

#[test]
fn long_names_beat_pax_beats_headers() {
    let pax = padded(b"12 path=pax\n17 linkpath=link\n");
    let pax_header = header("x", b'x', 29, same);
    let long = header("l", b'L', 5, same);
    let link = header("s", b'2', 0, same);
    let entries = scan(&[&pax_header, &pax, &link, END]).unwrap();
    assert_eq!(entries[0].path, b"pax");
    assert_eq!(entries[0].kind, EntryKind::Symlink(b"link".to_vec()));
    let name = padded(b"long\0");
    assert_eq!(
        paths(&[&long, &name, &pax_header, &pax, &link, END]),
        ["long"]
    );
    // They hold for one member only.
    assert_eq!(paths(&[&long, &name, &link, &link, END]), ["long", "s"]);
}

#[test]
fn global_headers_are_read_past() {
    let global = header("g", b'g', 12, same);
    let file = header("file", b'0', 0, same);
    assert_eq!(
        paths(&[&global, &padded(b"12 path=all\n"), &file, END]),
        ["file"]
    );
}

#[test]
fn pax_overrules_numbers() {
    let sized: Vec<u8> = [
        ("uid", "5000000000"),
        ("mtime", "-1.000000001"),
        ("size", "3"),
        ("SCHILY.devmajor", "9"),
    ]
    .iter()
    .flat_map(|(key, value)| record(key, value))
    .collect();
    let pax = header("x", b'x', sized.len() as u64, same);
    let file = header("file", b'0', 99, same);
    let device = header("dev", b'3', 0, |block| {
        block[329..344].copy_from_slice(b"0000001\x000000005");
    });
    let data = padded(b"abc");
    let entries = scan(&[
        &pax,
        &padded(&sized),
        &file,
        &data,
        &pax,
        &padded(&sized),
        &device,
        END,
    ])
    .unwrap();
    assert_eq!(entries[0].uid, 5_000_000_000);
    assert_eq!(entries[0].gid, 2);
    let time = Timestamp {
        seconds: -2,
        nanoseconds: 999_999_999,
    };
    assert_eq!(entries[0].mtime, time);
    assert!(matches!(entries[0].kind, EntryKind::File { size: 3, .. }));
    assert_eq!(
        entries[1].kind,
        EntryKind::CharDevice { major: 9, minor: 5 }
    );
}

fn record(key: &str, value: &str) -> Vec<u8> {
    let rest = format!(" {key}={value}\n");
    let digits = if rest.len() < 9 { 1 } else { 2 };
    format!("{}{rest}", rest.len() + digits).into_bytes()
}

#[test]
fn signed_checksums() {
    let mut block: [u8; 512] = header("file", b'0', 0, |block| block[50] = 0xff)
        .try_into()
        .unwrap();
    block[5..50].fill(0xe9);
    seal(&mut block, |byte| i64::from(byte.cast_signed()));
    assert_eq!(scan(&[&block, END]).unwrap().len(), 1);
    block[0] ^= 1;
    assert_eq!(reason(&[&block, END]), TarReason::Checksum);
}

#[test]
fn ends() {
    let file = header("file", b'0', 3, same);
    let data = padded(b"abc");
    assert_eq!(paths(&[]).len(), 0);
    assert_eq!(paths(&[&file, &data]).len(), 1);
    assert_eq!(paths(&[&file, b"abc"]).len(), 1);
    assert_eq!(paths(&[&file, &data, &[0; 512]]).len(), 1);
    assert_eq!(paths(&[&file, &data, END, b"anything"]).len(), 1);
    assert_eq!(
        reason(&[&file, &data, &[0; 512], &file]),
        TarReason::LoneZeroBlock
    );
    let error = scan(&[&file, b"ab"]).unwrap_err();
    assert_eq!((error.offset, error.reason), (514, TarReason::Truncated));
    assert_eq!(reason(&[&file[..511]]), TarReason::Truncated);
    assert_eq!(
        reason(&[&header("x", b'x', 10, same), b"1"]),
        TarReason::Truncated
    );
}

#[test]
fn limits() {
    let huge = |kind, size| reason(&[&header("x", kind, size, same)]);
    for kind in *b"xLK" {
        assert!(matches!(huge(kind, (1 << 20) + 1), TarReason::Limit { .. }));
    }
    let name = padded(&[b'n'; MAX_PATH + 1]);
    let long = header("l", b'L', MAX_PATH as u64 + 1, same);
    assert!(matches!(reason(&[&long, &name]), TarReason::Limit { .. }));
    let endless = header("file", b'0', 0, |block| {
        block[124..136].copy_from_slice(&[0x80, 0, 0, 0, 0x7f, 255, 255, 255, 255, 255, 255, 255]);
    });
    assert!(matches!(reason(&[&endless]), TarReason::Field { .. }));
    let negative = header("file", b'0', 0, |block| block[124..136].fill(0xff));
    assert!(matches!(reason(&[&negative]), TarReason::Field { .. }));
    assert_eq!(huge(b'Z', 0), TarReason::Type('Z'));
    assert_eq!(huge(b'M', 0), TarReason::Type('M'));
}

#[test]
fn sparse_maps_that_lie() {
    let map = |text: &str| {
        let records: Vec<u8> = [
            ("GNU.sparse.major", "1"),
            ("GNU.sparse.minor", "0"),
            ("GNU.sparse.realsize", "100"),
        ]
        .iter()
        .flat_map(|(key, value)| record(key, value))
        .collect();
        let pax = header("x", b'x', records.len() as u64, same);
        let file = header("file", b'0', 512 + 10, same);
        let data = padded(text.as_bytes());
        scan(&[
            &pax,
            &padded(&records),
            &file,
            &data,
            &padded(&[7; 10]),
            END,
        ])
    };
    assert!(map("1\n50\n10\n").is_ok());
    for bad in [
        "1\n50\n9\n",
        "1\n95\n10\n",
        "2\n0\n5\n3\n5\n",
        "9999999\n",
        "x\n",
        "1\n50\n",
        "\n",
    ] {
        let reason = map(bad).unwrap_err().reason;
        let told = matches!(
            reason,
            TarReason::Sparse(_) | TarReason::Field { .. } | TarReason::Limit { .. }
        );
        assert!(told, "{bad:?}: {reason}");
    }
}

proptest! {
    #[test]
    fn pushes_of_any_size_are_the_same(
        files in proptest::collection::vec((0usize..3000, 0u8..4), 0..10),
        step in 1usize..2000,
    ) {
        let mut tar = Vec::new();
        for (number, (size, kind)) in files.iter().enumerate() {
            let name = format!("file{number}");
            if *kind == 1 {
                let pax = record("path", &format!("pax{number}"));
                tar.extend(header("x", b'x', pax.len() as u64, same));
                tar.extend(padded(&pax));
            }
            if *kind == 2 {
                tar.extend(header("l", b'L', name.len() as u64, same));
                tar.extend(padded(name.as_bytes()));
            }
            tar.extend(header(&name, b'0', *size as u64, same));
            tar.extend(padded(&vec![*kind; *size]));
        }
        tar.extend(END);
        let whole = scan(&[&tar]).unwrap();
        prop_assert_eq!(whole.len(), files.len());
        let budget = Budget::new(1 << 20);
    let mut scanner = Scanner::new(&budget);
        for piece in tar.chunks(step) {
            scanner.push(piece).unwrap();
        }
        prop_assert_eq!(&*scanner.finish().unwrap(), whole);
    }

    #[test]
    fn damaged_headers_never_panic(
        kind in prop::sample::select(b"0\x001234567xLKgSDVX".to_vec()),
        size in 0u64..5000,
        flips in proptest::collection::vec((0usize..512, any::<u8>()), 0..20),
        body in proptest::collection::vec(any::<u8>(), 0..4000),
    ) {
        let block = header("name", kind, size, |block| {
            for (at, value) in flips {
                block[at] = value;
            }
        });
        let _ = scan(&[&block, &body]);
        let file = header("file", b'0', 0, same);
        let _ = scan(&[&block, &padded(&body), &file, END]);
    }

    #[test]
    fn damaged_pax_never_panics(
        records in proptest::collection::vec((
            prop::sample::select(vec![
                "path", "size", "mtime", "uid", "SCHILY.xattr.user.a", "LIBARCHIVE.xattr.b%41",
                "GNU.sparse.major", "GNU.sparse.minor", "GNU.sparse.map", "GNU.sparse.size",
                "GNU.sparse.offset", "GNU.sparse.numbytes", "GNU.sparse.name", "SCHILY.devmajor",
            ]),
            "[0-9,.a-]{0,12}",
        ), 0..12),
        size in 0u64..3000,
        body in proptest::collection::vec(prop::sample::select(b"0123456789\n\n".to_vec()), 3072),
    ) {
        let records: Vec<u8> = records.iter().flat_map(|(key, value)| record(key, value)).collect();
        let pax = header("x", b'x', records.len() as u64, same);
        let file = header("file", b'0', size, same);
        let _ = scan(&[&pax, &padded(&records), &file, &body, END]);
    }
}
