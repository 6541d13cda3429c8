//! One suite over all formats: what is indexed, decoded chunk by chunk, is the tar again; what is
//! broken is refused, with the right words.

use std::sync::LazyLock;

use flate2::Compression;
use flate2::write::GzEncoder;
use proptest::prelude::*;
use thaw_image::{Chunk, ChunkDigest, CodecState, Extent, MAX_CHUNK_BLOB, WindowRef};

use super::*;
use crate::budget::{Budget, OverBudget};
use crate::decode;
use crate::inflate::WINDOW;

mod bounds;

/// A tar of text, noise, zeros and many small files, of some 3 MiB.
static TAR: LazyLock<Vec<u8>> = LazyLock::new(|| {
    let mut builder = ::tar::Builder::new(Vec::new());
    let mut seed = 1u64;
    let mut next = move || {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        seed >> 33
    };
    for number in 0..400u64 {
        let len = usize::try_from(next() % 16_000).unwrap();
        let data: Vec<u8> = match number % 4 {
            0 => (0..len).map(|_| next().to_le_bytes()[0]).collect(),
            1 => (0..len / 8)
                .flat_map(|_| format!("{:07} ", next() % 999).into_bytes())
                .collect(),
            2 => vec![0; len],
            _ => (0..len).map(|at| (at / 7 * 3).to_le_bytes()[0]).collect(),
        };
        let mut header = ::tar::Header::new_gnu();
        header.set_size(data.len() as u64);
        header.set_mode(0o644);
        let path = format!("usr/share/{number}");
        builder
            .append_data(&mut header, path, data.as_slice())
            .unwrap();
    }
    builder.into_inner().unwrap()
});

fn member(data: &[u8], level: u32) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::new(level));
    encoder.write_all(data).unwrap();
    encoder.finish().unwrap()
}

/// Every way in which layers can be packed: name, packing, blob.
fn layers(tar: &[u8]) -> Vec<(&'static str, Packing, Vec<u8>)> {
    let gzip = Packing::Gzip;
    let half = tar.len() / 2;
    let frames = [&tar[..half], &tar[half..]].map(|part| zstd::encode_all(part, 3).unwrap());
    let many = |size: usize| tar.chunks(size).flat_map(|part| member(part, 6)).collect();
    let mut flushed = GzEncoder::new(Vec::new(), Compression::new(6));
    for part in tar.chunks(50_000) {
        flushed.write_all(part).unwrap();
        flushed.flush().unwrap();
    }
    let mut padded = member(tar, 6);
    padded.resize(padded.len() + 100_000, 0);
    vec![
        ("tar", Packing::Tar, tar.to_vec()),
        ("zstd", Packing::Zstd, frames.concat()),
        ("stored", gzip, member(tar, 0)),
        ("fast", gzip, member(tar, 1)),
        ("default", gzip, member(tar, 6)),
        ("best", gzip, member(tar, 9)),
        ("tiny members", gzip, many(999)),
        ("members", gzip, many(300_000)),
        ("flushed", gzip, flushed.finish().unwrap()),
        ("padded", gzip, padded),
    ]
}

/// Those for which there are seek tables.
fn seekable(tar: &[u8]) -> Vec<(&'static str, Packing, Vec<u8>)> {
    let mut layers = layers(tar);
    layers.retain(|(_, packing, _)| *packing != Packing::Zstd);
    layers
}

/// A reader that gives at most so many bytes at a time.
struct Dribble<'a>(&'a [u8], usize);

impl Read for Dribble<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let limit = buffer.len().min(self.1);
        self.0.read(&mut buffer[..limit])
    }
}

/// The memory of all tests.
static BUDGET: Budget = Budget::new(u64::MAX);

struct Indexed {
    index: Index<'static>,
    tar: Vec<u8>,
    windows: Vec<u8>,
    progress: u64,
}

impl Indexed {
    fn table(&self) -> &SeekTable {
        &self.index.seek.as_ref().unwrap().table
    }
}

fn expected(tar: &[u8], blob: &[u8]) -> Expected {
    Expected {
        blob: Digest::of(blob),
        blob_size: blob.len() as u64,
        diff_id: DiffId(Digest::of(tar)),
    }
}

fn options(spacing: u64) -> Options {
    Options {
        spacing,
        ..Options::default()
    }
}

fn run(
    packing: Packing,
    blob: &[u8],
    expected: &Expected,
    options: &Options,
    step: usize,
) -> Result<Indexed, LayerError> {
    let (mut tar, mut windows, mut progress) = (Vec::new(), Vec::new(), 0);
    let index = index(
        &mut Dribble(blob, step),
        packing,
        expected,
        options,
        Outputs {
            tar: &mut tar,
            windows: &mut windows,
        },
        &BUDGET,
        &mut |read| progress = read,
    )?;
    Ok(Indexed {
        index,
        tar,
        windows,
        progress,
    })
}

fn part(bytes: &[u8], offset: u64, len: u64) -> &[u8] {
    let offset = usize::try_from(offset).unwrap();
    &bytes[offset..offset + usize::try_from(len).unwrap()]
}

fn window<'a>(chunk: &Chunk, windows: &'a [u8]) -> Option<&'a [u8]> {
    match chunk.state {
        CodecState::Deflate { window, .. } if window.len > 0 => {
            Some(part(windows, window.offset, u64::from(window.len)))
        }
        _ => None,
    }
}

/// Decodes each chunk by itself and compares it with the tar.
fn check_chunks(name: &str, table: &SeekTable, blob: &[u8], windows: &[u8], tar: &[u8]) {
    for (number, chunk) in table.chunks.iter().enumerate() {
        let bytes = part(blob, chunk.blob.offset, chunk.blob.len);
        let decoded = decode(table.format, chunk, bytes, window(chunk, windows));
        let decoded = decoded.unwrap_or_else(|error| panic!("{name}, chunk {number}: {error}"));
        assert_eq!(decoded.bytes(), part(tar, chunk.tar.offset, chunk.tar.len));
    }
}

#[test]
fn every_chunk_alone_is_its_part_of_the_tar() {
    let tar = TAR.as_slice();
    for (name, packing, blob) in seekable(tar) {
        for spacing in [5000, 64 << 10, 1 << 20] {
            let expected = expected(tar, &blob);
            let done = run(packing, &blob, &expected, &options(spacing), 70_000).unwrap();
            let table = done.table();
            assert_eq!(done.tar, tar, "{name}");
            assert_eq!(done.progress, blob.len() as u64);
            assert_eq!(done.index.entries.len(), 400);
            let windows = done.index.seek.as_ref().unwrap().windows;
            assert_eq!(windows, Digest::of(&done.windows));
            assert_eq!(
                SeekTable::decode(&table.encode()).as_ref(),
                Ok(table),
                "{name}"
            );
            check_chunks(name, table, &blob, &done.windows, tar);
            check_lengths(name, table, spacing);
        }
    }
}

/// No chunk of a compressed layer is shorter than the spacing, but the last, or longer than a
/// stored block allows.
fn check_lengths(name: &str, table: &SeekTable, spacing: u64) {
    if table.format == LayerFormat::Tar {
        return;
    }
    let lengths: Vec<u64> = table.chunks.iter().map(|chunk| chunk.tar.len).collect();
    let Some((_, all_but_last)) = lengths.split_last() else {
        return;
    };
    let longest = lengths.iter().max().unwrap();
    assert!(*longest < spacing + SLACK, "{name}: {longest}");
    assert!(all_but_last.iter().all(|len| *len >= spacing), "{name}");
}

#[test]
fn a_chunk_may_start_at_any_symbol() {
    let tar = small();
    for (name, packing, blob) in seekable(&tar) {
        let done = run(packing, &blob, &expected(&tar, &blob), &options(1), 1 << 20).unwrap();
        check_chunks(name, done.table(), &blob, &done.windows, &tar);
        let states = done.table().chunks.iter().map(|chunk| chunk.state);
        let inside = states
            .filter(|state| matches!(state, CodecState::Deflate { in_block, .. } if *in_block));
        assert_eq!(
            inside.count() > 100,
            matches!(
                name,
                "fast" | "default" | "best" | "tiny members" | "members" | "flushed" | "padded"
            ),
            "{name}"
        );
    }
}

#[test]
fn no_content_makes_a_long_chunk() {
    let mut builder = ::tar::Builder::new(Vec::new());
    for (number, unit) in [&[0][..], b"abcdefg", b"\0\x01"].into_iter().enumerate() {
        let data = unit.repeat((3 << 19) / unit.len());
        let mut header = ::tar::Header::new_gnu();
        header.set_size(data.len() as u64);
        let path = number.to_string();
        builder
            .append_data(&mut header, path, data.as_slice())
            .unwrap();
    }
    let tar = builder.into_inner().unwrap();
    for (name, packing, blob) in seekable(&tar) {
        // More than a table takes: it is taken for 1 MiB.
        let done = run(
            packing,
            &blob,
            &expected(&tar, &blob),
            &options(1 << 30),
            1 << 20,
        )
        .unwrap();
        check_chunks(name, done.table(), &blob, &done.windows, &tar);
        check_lengths(name, done.table(), 1 << 20);
    }
}

#[test]
fn the_same_layer_gives_the_same_index() {
    for (name, packing, blob) in layers(&TAR) {
        let expected = expected(&TAR, &blob);
        let first = run(packing, &blob, &expected, &options(100_000), 1 << 20).unwrap();
        let second = run(packing, &blob, &expected, &options(100_000), 777).unwrap();
        assert_eq!(*first.index.entries, *second.index.entries, "{name}");
        assert_eq!(first.index.seek, second.index.seek, "{name}");
        assert_eq!(first.windows, second.windows, "{name}");
    }
}

#[test]
fn a_layer_without_a_seek_table_is_read_all_the_same() {
    let packed = layers(&TAR);
    let (_, packing, blob) = packed.iter().find(|layer| layer.0 == "zstd").unwrap();
    let expected = expected(&TAR, blob);
    let done = run(*packing, blob, &expected, &Options::default(), 9999).unwrap();
    assert_eq!(done.index.seek, Err(Unseekable::Zstd));
    assert!(done.tar == *TAR && done.windows.is_empty());
    assert_eq!(done.index.entries.len(), 400);
    assert_eq!(done.progress, blob.len() as u64);
    let garbage = [blob, &b"junk"[..]].concat();
    let error = run(
        *packing,
        &garbage,
        &self::expected(&TAR, &garbage),
        &Options::default(),
        9999,
    );
    assert!(matches!(error.err(), Some(LayerError::Zstd(_))));
}

#[test]
fn a_proof_is_of_the_tar_that_was_written() {
    for (name, packing, blob) in layers(&TAR) {
        let expected = expected(&TAR, &blob);
        let done = run(packing, &blob, &expected, &Options::default(), 1 << 20).unwrap();
        let proof = done.index.proof;
        assert_eq!(proof.diff_id(), expected.diff_id, "{name}");
        assert_eq!(proof.size(), TAR.len() as u64, "{name}");
    }
}

#[test]
fn an_empty_layer() {
    for tar in [vec![], vec![0; 1024]] {
        for (packing, blob) in [
            (Packing::Tar, tar.clone()),
            (Packing::Gzip, member(&tar, 6)),
        ] {
            let done = run(packing, &blob, &expected(&tar, &blob), &options(100), 10).unwrap();
            assert_eq!(done.tar, tar);
            assert!(done.index.entries.is_empty());
            check_chunks("empty", done.table(), &blob, &done.windows, &tar);
        }
    }
}

/// A tar that is small enough to try every byte of it.
fn small() -> Vec<u8> {
    let mut builder = ::tar::Builder::new(Vec::new());
    let mut header = ::tar::Header::new_gnu();
    header.set_size(2000);
    let data: Vec<u8> = (0..2000u32).map(|n| (n * n / 7).to_le_bytes()[0]).collect();
    builder
        .append_data(&mut header, "file", data.as_slice())
        .unwrap();
    builder.into_inner().unwrap()
}

#[test]
fn damage_anywhere_is_told_by_the_digest() {
    let tar = small();
    for (name, packing, blob) in layers(&tar) {
        let expected = expected(&tar, &blob);
        for at in (0..blob.len()).step_by(3) {
            let mut bad = blob.clone();
            bad[at] ^= 1 << (at % 8);
            let error = run(packing, &bad, &expected, &options(500), 1 << 20).err();
            let told = matches!(error, Some(LayerError::BlobDigest { .. }));
            assert!(told, "{name}, byte {at}: {error:?}");
        }
    }
}

#[test]
fn wrong_sizes_are_told() {
    let tar = small();
    for (name, packing, blob) in layers(&tar) {
        let good = expected(&tar, &blob);
        let longer = [blob.as_slice(), b"x"].concat();
        for wrong in [
            &blob[..0],
            &blob[..blob.len() - 1],
            &blob[..blob.len() / 2],
            &longer,
        ] {
            let error = run(packing, wrong, &good, &options(500), 1 << 20).err();
            let told = matches!(&error, Some(LayerError::BlobSize { expected, actual })
                if *expected == good.blob_size && *actual == wrong.len() as u64);
            assert!(told, "{name}, {} bytes: {error:?}", wrong.len());
        }
    }
}

#[test]
fn an_image_that_lies_is_told_from_damage() {
    let tar = small();
    for (name, packing, blob) in layers(&tar) {
        let mut lie = expected(&tar, &blob);
        lie.diff_id = DiffId(Digest::of(b"other"));
        let error = run(packing, &blob, &lie, &options(500), 1 << 20).err();
        assert!(
            matches!(error, Some(LayerError::DiffId { .. })),
            "{name}: {error:?}"
        );
        let message = error.map(|error| error.to_string()).unwrap();
        assert!(
            message.contains(&expected(&tar, &blob).diff_id.to_string()),
            "{message}"
        );
    }
}

#[test]
fn a_layer_made_broken_is_told_by_what_is_broken() {
    let tar = small();
    let outcome = |packing, blob: &[u8]| {
        let error = run(packing, blob, &expected(&tar, blob), &options(500), 1 << 20).err();
        error.unwrap()
    };
    let gzip = member(&tar, 6);
    let cut = outcome(Packing::Gzip, &gzip[..gzip.len() - 9]);
    let truncated = InflateError::Truncated;
    assert!(
        matches!(cut, LayerError::Gzip { source, .. } if source == truncated),
        "{cut:?}"
    );
    let garbage = outcome(Packing::Gzip, &[gzip.as_slice(), b"junk"].concat());
    let source = InflateError::Garbage;
    assert!(matches!(garbage, LayerError::Gzip { source: found, .. } if found == source));
    let not_gzip = outcome(Packing::Gzip, &tar);
    assert!(matches!(not_gzip, LayerError::Gzip { offset: 0, .. }));
    let short = outcome(Packing::Tar, &tar[..700]);
    assert!(matches!(short, LayerError::Tar(_)), "{short:?}");
    let noise = outcome(Packing::Gzip, &member(&[1; 5000], 6));
    assert!(matches!(noise, LayerError::Tar(_)), "{noise:?}");
}

/// Fails with `kind` at the `left`th byte.
struct Failing(usize);

impl Write for Failing {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0 = self
            .0
            .checked_sub(bytes.len())
            .ok_or(io::ErrorKind::StorageFull)?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Read for Failing {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.0 = self
            .0
            .checked_sub(1)
            .ok_or(io::ErrorKind::ConnectionReset)?;
        buffer[..1].copy_from_slice(&TAR[..1]);
        Ok(1)
    }
}

#[test]
fn failing_readers_and_writers_are_told_apart() {
    let blob = member(&TAR, 6);
    let expected = expected(&TAR, &blob);
    let run = |input: &mut (dyn Read + Send), tar: usize, windows: usize| {
        let outputs = Outputs {
            tar: &mut Failing(tar),
            windows: &mut Failing(windows),
        };
        let options = options(64 << 10);
        index(
            input,
            Packing::Gzip,
            &expected,
            &options,
            outputs,
            &BUDGET,
            &mut |_| {},
        )
        .err()
    };
    let lots = usize::MAX;
    assert!(matches!(
        run(&mut Failing(0), lots, lots),
        Some(LayerError::Read(_))
    ));
    let error = run(&mut blob.as_slice(), 1 << 20, lots);
    assert!(matches!(error, Some(LayerError::WriteTar(_))), "{error:?}");
    let error = run(&mut blob.as_slice(), lots, 100);
    assert!(
        matches!(error, Some(LayerError::WriteWindows(_))),
        "{error:?}"
    );
}

#[test]
fn windows_hold_only_what_is_needed() {
    // Noise refers to nothing: its checkpoints need no window at all.
    let mut seed = 7u64;
    let noise: Vec<u8> = std::iter::repeat_with(|| {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        seed.to_be_bytes()[0]
    })
    .take(1 << 20)
    .collect();
    let mut builder = ::tar::Builder::new(Vec::new());
    let mut header = ::tar::Header::new_gnu();
    header.set_size(noise.len() as u64);
    builder
        .append_data(&mut header, "noise", noise.as_slice())
        .unwrap();
    let tar = builder.into_inner().unwrap();
    let blob = member(&tar, 0);
    let done = run(
        Packing::Gzip,
        &blob,
        &expected(&tar, &blob),
        &options(65_536),
        9999,
    )
    .unwrap();
    assert!(done.table().chunks.len() > 10);
    assert!(done.windows.is_empty());
}

#[test]
fn wrong_chunks_are_refused() {
    let blob = member(&TAR, 6);
    let done = run(
        Packing::Gzip,
        &blob,
        &expected(&TAR, &blob),
        &options(64 << 10),
        9999,
    )
    .unwrap();
    let chunk = done.table().chunks[3];
    let bytes = part(&blob, chunk.blob.offset, chunk.blob.len);
    let frame = window(&chunk, &done.windows).unwrap();
    let refused = |chunk: &Chunk, bytes: &[u8], frame: Option<&[u8]>| {
        decode(LayerFormat::Gzip, chunk, bytes, frame)
            .unwrap_err()
            .to_string()
    };
    assert!(decode(LayerFormat::Gzip, &chunk, bytes, Some(frame)).is_ok());
    assert!(refused(&chunk, &bytes[1..], Some(frame)).contains("bytes of the blob"));
    assert!(refused(&chunk, bytes, None).contains("bytes of the windows"));
    assert!(refused(&chunk, bytes, Some(&vec![7; frame.len()])).contains("window"));
    let with = |change: &dyn Fn(&mut Chunk)| {
        let mut chunk = chunk;
        change(&mut chunk);
        chunk
    };
    let longer = with(&|chunk| chunk.tar.len += 1);
    assert!(refused(&longer, bytes, Some(frame)).contains("cannot be decompressed"));
    let last = done.table().chunks.last().unwrap();
    let longer = Chunk {
        tar: Extent {
            len: last.tar.len + 1,
            ..last.tar
        },
        ..*last
    };
    let bytes_of_last = part(&blob, last.blob.offset, last.blob.len);
    let frame_of_last = window(last, &done.windows);
    assert!(refused(&longer, bytes_of_last, frame_of_last).contains("does not unpack to"));
    let huge = with(&|chunk| chunk.tar.len = u64::MAX);
    assert!(refused(&huge, bytes, Some(frame)).contains("too large"));
    let stored = with(&|chunk| chunk.state = CodecState::Stored);
    assert!(refused(&stored, bytes, Some(frame)).contains("do not fit"));
    let other = with(&|chunk| chunk.digest = ChunkDigest::of(b""));
    assert!(refused(&other, bytes, Some(frame)).contains("digest mismatch"));
    let (_, header) = crate::window::unpack(frame).unwrap();
    let with_window = |in_block: bool, header: &[u8]| {
        let mut frame = vec![];
        let window = [&[0; WINDOW], header].concat();
        Windows::new(&mut frame).push(&window).unwrap();
        let mut chunk = chunk;
        if let CodecState::Deflate {
            window,
            in_block: place,
            ..
        } = &mut chunk.state
        {
            window.len = u32::try_from(frame.len()).unwrap();
            *place = in_block;
        }
        refused(&chunk, bytes, Some(&frame))
    };
    assert!(!header.is_empty());
    assert!(with_window(true, &header).contains("digest mismatch"));
    assert!(with_window(true, &[]).contains("not one"));
    assert!(with_window(false, &header).contains("not one"));
    assert!(with_window(true, &[0; 1000]).contains("not one"));
    for bad in [
        &header[..header.len() / 2],
        &[0, 0, 0, 0xff, 0xff],
        &[6],
        &[5, 0xff, 0xff],
    ] {
        assert!(
            with_window(true, bad).contains("cannot be decompressed"),
            "{bad:?}"
        );
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn any_content_any_spacing(
        data in proptest::collection::vec(
            prop_oneof![
                proptest::collection::vec(any::<u8>(), 0..2000),
                (any::<u8>(), 0usize..40_000).prop_map(|(byte, len)| vec![byte; len]),
                proptest::collection::vec(prop::sample::select(b"abcd".to_vec()), 0..9000),
            ],
            0..12,
        ),
        level in 0u32..=9,
        spacing in 1000u64..100_000,
        members in 1usize..4,
    ) {
        let mut builder = ::tar::Builder::new(Vec::new());
        for (number, data) in data.iter().enumerate() {
            let mut header = ::tar::Header::new_ustar();
            header.set_size(data.len() as u64);
            builder.append_data(&mut header, number.to_string(), data.as_slice()).unwrap();
        }
        let tar = builder.into_inner().unwrap();
        let parts = tar.chunks(tar.len().div_ceil(members));
        let blob: Vec<u8> = parts.flat_map(|part| member(part, level)).collect();
        let done = run(Packing::Gzip, &blob, &expected(&tar, &blob), &options(spacing), 5000).unwrap();
        check_chunks("any", done.table(), &blob, &done.windows, &tar);
        check_lengths("any", done.table(), spacing);
    }

    #[test]
    fn hostile_chunks_never_panic(
        blob in proptest::collection::vec(any::<u8>(), 0..500),
        frame in proptest::option::of(proptest::collection::vec(any::<u8>(), 0..100)),
        skip_bits in any::<u8>(),
        len in 0u64..100_000,
        kind in 0..4,
    ) {
        let window = WindowRef {
            offset: 0,
            len: frame.as_ref().map_or(0, |frame| u32::try_from(frame.len()).unwrap()),
        };
        let state = match kind {
            0 => CodecState::Stored,
            1 => CodecState::GzipMember,
            _ => CodecState::Deflate { skip_bits, in_block: kind == 3, window },
        };
        let chunk = Chunk {
            tar: Extent { offset: 0, len },
            blob: Extent { offset: 0, len: blob.len() as u64 },
            state,
            digest: ChunkDigest::of(b""),
        };
        for format in [LayerFormat::Tar, LayerFormat::Gzip] {
            let _ = decode(format, &chunk, &blob, frame.as_deref());
        }
    }
}
