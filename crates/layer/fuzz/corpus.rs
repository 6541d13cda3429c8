//! Writes what the fuzzers begin with into `corpus/`.

use std::error::Error;
use std::fs;
use std::io::{self, Write as _};

use flate2::Compression;
use flate2::write::{DeflateEncoder, GzEncoder};

/// An input, after the names of its target and its own.
type Input = (&'static str, String, Vec<u8>);

/// Text, noise, repetition from near and from far.
fn data() -> Vec<u8> {
    let mut seed = 1u32;
    let noise: Vec<u8> = std::iter::repeat_with(|| {
        seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        seed.to_be_bytes()[0]
    })
    .take(600)
    .collect();
    let text = b"the quick brown fox jumps over the lazy dog, ".repeat(7);
    let zeros = vec![0; 40_000];
    [
        noise.as_slice(),
        &text,
        &zeros,
        b"abcabcabcabcab",
        &text[..90],
    ]
    .concat()
}

/// A header block; the fuzz target gives it its checksum.
fn header(name: &str, kind: u8, size: usize, magic: &[u8; 8]) -> Vec<u8> {
    let mut block = vec![0; 512];
    block[..name.len()].copy_from_slice(name.as_bytes());
    for (at, text) in [
        (100, "0000644"),
        (108, "0000001"),
        (116, "0000002"),
        (136, "00000000003"),
    ] {
        block[at..at + text.len()].copy_from_slice(text.as_bytes());
    }
    block[124..135].copy_from_slice(format!("{size:011o}").as_bytes());
    block[156] = kind;
    block[257..265].copy_from_slice(magic);
    block
}

fn padded(data: &[u8]) -> Vec<u8> {
    let mut data = data.to_vec();
    data.resize(data.len().next_multiple_of(512), 0);
    data
}

/// A PAX record, whose length counts itself.
fn record(key: &str, value: &str) -> Vec<u8> {
    let rest = format!(" {key}={value}\n");
    format!("{}{rest}", rest.len() + 2).into_bytes()
}

fn tars() -> Vec<(&'static str, Vec<u8>)> {
    let (ustar, gnu) = (b"ustar\x0000", b"ustar  \0");
    let file = header("file", b'0', 3, ustar);
    let pax = |records: &[(&str, &str)]| {
        let records: Vec<u8> = records
            .iter()
            .flat_map(|(key, value)| record(key, value))
            .collect();
        [header("x", b'x', records.len(), ustar), padded(&records)].concat()
    };
    let sparse = [
        ("GNU.sparse.major", "1"),
        ("GNU.sparse.minor", "0"),
        ("GNU.sparse.realsize", "99"),
    ];
    let mapped = [("GNU.sparse.map", "0,1,9,2"), ("GNU.sparse.size", "99")];
    let xattr = [
        ("SCHILY.xattr.user.a", "b"),
        ("LIBARCHIVE.xattr.user.c", "ZA"),
        ("mtime", "-1.500"),
    ];
    let mut old = header("old", b'S', 3, gnu);
    old[386..398].copy_from_slice(b"00000000000\0");
    old[398..410].copy_from_slice(b"00000000003\0");
    old[482] = 1;
    old[483..495].copy_from_slice(b"00000000100\0");
    let data = padded(b"abc");
    vec![
        (
            "plain",
            [file.clone(), data.clone(), vec![0; 1024]].concat(),
        ),
        (
            "long",
            [
                header("l", b'L', 5, gnu),
                padded(b"name\0"),
                file.clone(),
                data.clone(),
            ]
            .concat(),
        ),
        ("xattr", [pax(&xattr), file.clone(), data.clone()].concat()),
        ("mapped", [pax(&mapped), file, data.clone()].concat()),
        (
            "sparse",
            [
                pax(&sparse),
                header("s", b'0', 515, ustar),
                padded(b"1\n5\n3\n"),
                data.clone(),
            ]
            .concat(),
        ),
        ("old", [old, vec![0; 512], data].concat()),
        ("device", header("dev", b'3', 0, ustar)),
    ]
}

/// zstd's frames: of every kind of block, one and several, with and without what need not be there.
fn frames() -> io::Result<Vec<(String, Vec<u8>)>> {
    use zstd::stream::Encoder;
    let data = data();
    let tar = [header("f", b'0', 0, b"ustar\x0000"), vec![0; 1024]].concat();
    let mut frames = Vec::new();
    for level in [-5, 1, 3, 9, 19] {
        let frame = zstd::encode_all(data.as_slice(), level)?;
        frames.push((format!("level-{level}"), frame));
    }
    let mut checked = Encoder::new(Vec::new(), 3)?;
    checked.include_checksum(true)?;
    checked.include_contentsize(false)?;
    checked.write_all(&data)?;
    frames.push(("checked".to_owned(), checked.finish()?));
    let mut wide = Encoder::new(Vec::new(), 3)?;
    wide.window_log(24)?;
    wide.long_distance_matching(true)?;
    wide.write_all(&data)?;
    frames.push(("wide".to_owned(), wide.finish()?));
    let mut with_dictionary = Encoder::with_dictionary(Vec::new(), 3, &data[..2000])?;
    with_dictionary.write_all(&data[1000..3000])?;
    frames.push(("dictionary".to_owned(), with_dictionary.finish()?));
    let one = zstd::encode_all(&data[..100], 3)?;
    let skipped = [&[0x50, 0x2a, 0x4d, 0x18, 3, 0, 0, 0][..], b"toc"].concat();
    let several = [&one, &skipped, &one, &skipped, &frames[1].1].map(Vec::as_slice);
    frames.push(("several".to_owned(), several.concat()));
    frames.push(("skipped".to_owned(), skipped));
    frames.push(("tar".to_owned(), zstd::encode_all(tar.as_slice(), 3)?));
    // The largest window that is taken, and the smallest that is not: a last block without data.
    for (name, log) in [("window-27", 27), ("window-28", 28)] {
        let frame = [0x28, 0xb5, 0x2f, 0xfd, 0, (log - 10) << 3, 1, 0, 0];
        frames.push((name.to_owned(), frame.to_vec()));
    }
    let large = zstd::encode_all(vec![0; 3 << 20].as_slice(), 3)?;
    frames.push(("large".to_owned(), large));
    Ok(frames)
}

/// The inputs of all targets, each with a name.
pub(crate) fn inputs() -> Result<Vec<Input>, Box<dyn Error>> {
    let mut inputs = Vec::new();
    let mut put = |target, name: &str, bytes: &[u8]| {
        inputs.push((target, name.to_owned(), bytes.to_vec()));
    };
    let data = data();
    for level in 0..=9 {
        let mut encoder = DeflateEncoder::new(Vec::new(), Compression::new(level));
        encoder.write_all(&data)?;
        let stream = encoder.finish()?;
        put("inflate", &format!("level-{level}"), &stream);
        for spacing in [3, 90] {
            let indexed = [&[spacing], stream.as_slice()].concat();
            put("index", &format!("level-{level}-every-{spacing}"), &indexed);
        }
        let mut encoder = GzEncoder::new(Vec::new(), Compression::new(level));
        encoder.write_all(&data)?;
        let member = encoder.finish()?;
        let len = u16::try_from(data.len())?.to_le_bytes();
        put(
            "decode",
            &format!("member-{level}"),
            &[&[1, len[0], len[1], 0], member.as_slice()].concat(),
        );
        let window = zstd::bulk::compress(&[7; 32 << 10], 3)?;
        let frame = u8::try_from(window.len())?;
        let head = [2, len[0], len[1], frame];
        put(
            "decode",
            &format!("block-{level}"),
            &[&head, window.as_slice(), &member[10..]].concat(),
        );
        // The first bytes of the block, as the header of the block that it is in the middle of.
        let window = [&[7; 32 << 10], &member[10..70]].concat();
        let window = zstd::bulk::compress(&window, 3)?;
        let frame = u8::try_from(window.len())?;
        let head = [3, len[0], len[1], frame];
        put(
            "decode",
            &format!("in-block-{level}"),
            &[&head, window.as_slice(), &member[70..]].concat(),
        );
    }
    // A block with the fixed codes: its header is three bits.
    let window = zstd::bulk::compress(&[&[0; 32 << 10][..], &[3]].concat(), 3)?;
    let frame = u8::try_from(window.len())?;
    put(
        "decode",
        "in-block-fixed",
        &[&[3, 9, 0, frame], window.as_slice(), &[0x4b, 0x04, 0x11, 0]].concat(),
    );
    for (name, frames) in frames()? {
        put("zstd", &name, &frames);
    }
    for (name, tar) in tars() {
        put("tar", name, &tar);
    }
    Ok(inputs)
}

fn main() -> Result<(), Box<dyn Error>> {
    for (target, name, bytes) in inputs()? {
        fs::create_dir_all(format!("corpus/{target}"))?;
        fs::write(format!("corpus/{target}/{name}"), bytes)?;
    }
    Ok(())
}
