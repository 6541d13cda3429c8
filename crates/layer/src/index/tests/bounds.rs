//! What asks for too much: bombs, blocks and streams without end, members that say a lot in few
//! bytes, tables that are too long.

use super::*;

#[test]
fn a_bomb_is_stopped() {
    let blob = member(&vec![0; 8 << 20], 9);
    let options = Options {
        max_tar_size: 1 << 20,
        ..Options::default()
    };
    let expected = expected(b"", &blob);
    let error = run(Packing::Gzip, &blob, &expected, &options, 1 << 20).err();
    assert!(matches!(error, Some(LayerError::TooLarge { limit }) if limit == 1 << 20));
}

#[test]
fn a_bomb_is_stopped_by_its_ratio() {
    let zeros = vec![0; 8 << 20];
    let zstd = zstd::bulk::compress(&zeros, 3).unwrap();
    for (packing, blob) in [(Packing::Gzip, member(&zeros, 9)), (Packing::Zstd, zstd)] {
        let options = Options {
            max_ratio: 100,
            small_tar: 1 << 20,
            ..Options::default()
        };
        let expected = expected(b"", &blob);
        let error = run(packing, &blob, &expected, &options, 1 << 20).err();
        let allowed = (blob.len() as u64 * 100).max(1 << 20);
        assert!(
            matches!(error, Some(LayerError::Bomb { limit, ratio: 100 }) if limit == allowed),
            "{error:?}"
        );
        // What is small may be as empty as it likes.
        let options = Options {
            small_tar: 8 << 20,
            ..options
        };
        let expected = self::expected(&zeros, &blob);
        run(packing, &blob, &expected, &options, 1 << 20).unwrap();
    }
}

#[test]
fn what_is_shipped_has_bounds() {
    let options = Options::default();
    let most = |blob: u64| options.bound(blob);
    assert_eq!(most(1000).bytes, 1 << 30, "small tars may be empty");
    assert_eq!(most(10 << 20).bytes, 250 * (10 << 20));
    assert_eq!(most(2 << 30).bytes, 256 << 30);
    assert_eq!(most(u64::MAX).bytes, 256 << 30);
    assert_eq!(options.max_memory, 256 << 20);
}

/// One deflate block of `matches` matches of 258 zeros: a fixed block with a literal zero first.
fn one_block(matches: usize) -> Vec<u8> {
    let mut bits: Vec<bool> = Vec::new();
    let mut push = |code: &str| bits.extend(code.bytes().map(|digit| digit == b'1'));
    // Final, fixed; literal 0; then symbol 285 with distance 1; end of block.
    push("110");
    push("00110000");
    for _ in 0..matches {
        push("1100010100000");
    }
    push("0000000");
    let mut blob = vec![0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 3];
    for byte in bits.chunks(8) {
        let value = byte
            .iter()
            .enumerate()
            .map(|(at, bit)| u8::from(*bit) << at)
            .sum::<u8>();
        blob.push(value);
    }
    let data = vec![0; 1 + matches * 258];
    blob.extend_from_slice(&crc32fast::hash(&data).to_le_bytes());
    blob.extend_from_slice(&u32::try_from(data.len()).unwrap().to_le_bytes());
    blob
}

#[test]
fn a_stream_of_one_block_is_divided() {
    let blob = one_block(70_000);
    let tar = vec![0; 1 + 70_000 * 258];
    let expected = expected(&tar, &blob);
    let done = run(Packing::Gzip, &blob, &expected, &options(1 << 20), 999).unwrap();
    let table = done.table();
    assert_eq!(table.chunks.len(), tar.len().div_ceil((1 << 20) + 258));
    check_chunks("one block", table, &blob, &done.windows, &tar);
    check_lengths("one block", table, 1 << 20);
    assert_eq!(SeekTable::decode(&table.encode()).as_ref(), Ok(table));
}

/// Members without data until a chunk of one byte takes too much of the blob.
#[test]
fn a_stream_of_almost_nothing_has_no_seek_table() {
    let empty = member(b"", 6);
    let padding = empty.repeat(usize::try_from(MAX_CHUNK_BLOB).unwrap() / empty.len() + 1);
    let (half, tar) = (member(&[0; 512], 6), vec![0; 1024]);
    for blob in [
        [half.clone(), padding.clone(), half.clone()].concat(),
        [half.clone(), half, padding].concat(),
    ] {
        for spacing in [100, 1 << 20] {
            let expected = expected(&tar, &blob);
            let done = run(Packing::Gzip, &blob, &expected, &options(spacing), 1 << 20).unwrap();
            assert_eq!(done.index.seek, Err(Unseekable::ChunkBlob));
            assert_eq!(done.tar, tar);
        }
    }
}

/// The same bytes again and again: a hostile layer that nobody has to hold.
struct Endless<'a> {
    unit: &'a [u8],
    left: usize,
    at: usize,
}

impl Read for Endless<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.left == 0 {
            return Ok(0);
        }
        let rest = &self.unit[self.at..];
        let count = rest.len().min(buffer.len());
        buffer[..count].copy_from_slice(&rest[..count]);
        self.at = (self.at + count) % self.unit.len();
        self.left -= usize::from(self.at == 0);
        Ok(count)
    }
}

/// Members that say much in few bytes, each in its own way.
fn talkative() -> Vec<(&'static str, Vec<u8>)> {
    let built = |name: &str, records: &[(&str, Vec<u8>)]| {
        let mut builder = ::tar::Builder::new(Vec::new());
        let records = records.iter().map(|(key, value)| (*key, value.as_slice()));
        builder.append_pax_extensions(records).unwrap();
        let mut header = ::tar::Header::new_ustar();
        header.set_size(0);
        builder.append_data(&mut header, name, &[][..]).unwrap();
        let mut tar = builder.into_inner().unwrap();
        tar.truncate(tar.len() - 1024);
        tar
    };
    let hole = |at: usize| format!("{},1", at * 2);
    let map = (0..5000).map(hole).collect::<Vec<_>>().join(",");
    let sparse = [
        ("GNU.sparse.size", b"99999".to_vec()),
        ("GNU.sparse.map", map.into_bytes()),
        ("size", b"5000".to_vec()),
    ];
    let mut sparse = built("sparse", &sparse);
    sparse.extend_from_slice(&[1; 5120]);
    vec![
        ("names", built("name", &[])),
        ("long names", built("name", &[("path", vec![b'n'; 4000])])),
        (
            "xattrs",
            built("name", &[("SCHILY.xattr.user.a", vec![b'v'; 900_000])]),
        ),
        ("sparse maps", sparse),
    ]
}

#[test]
fn a_layer_that_takes_too_much_memory_is_refused() {
    let limit = 4 << 20;
    for (name, unit) in talkative() {
        let count = (32 << 20) / unit.len();
        let stream = || Endless {
            unit: &unit,
            left: count,
            at: 0,
        };
        let mut hasher = Hasher::new();
        let size = io::copy(&mut stream(), &mut Hashed(&mut hasher)).unwrap();
        let expected = Expected {
            blob: hasher.finish(),
            blob_size: size,
            diff_id: DiffId(Digest::of(b"")),
        };
        let budget = Budget::new(limit);
        let outputs = Outputs {
            tar: &mut io::sink(),
            windows: &mut io::sink(),
        };
        let options = Options::default();
        let input = &mut stream();
        let error = index(
            input,
            Packing::Tar,
            &expected,
            &options,
            outputs,
            &budget,
            &mut |_| {},
        );
        let error = error.unwrap_err();
        let LayerError::Tar(TarError { reason, .. }) = &error else {
            panic!("{name}: {error:?}");
        };
        assert_eq!(
            *reason,
            tar::TarReason::Memory(OverBudget { limit }),
            "{name}"
        );
        assert!(reason.to_string().contains("leave files out"), "{reason}");
        // What it held came back, but for the chunks.
        budget.take(usize::try_from(limit / 2).unwrap()).unwrap();
    }
}

struct Hashed<'a>(&'a mut Hasher);

impl Write for Hashed<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.update(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[test]
fn a_table_takes_memory_too() {
    let blob = member(&TAR, 6);
    let budget = Budget::new(400 * 1000);
    let outputs = Outputs {
        tar: &mut io::sink(),
        windows: &mut io::sink(),
    };
    let (expected, options) = (expected(&TAR, &blob), options(100));
    let input = &mut blob.as_slice();
    let error = index(
        input,
        Packing::Gzip,
        &expected,
        &options,
        outputs,
        &budget,
        &mut |_| {},
    );
    assert!(matches!(error, Err(LayerError::Memory(_))), "{error:?}");
}

/// Indexes `size` bytes that are no gzip; the error, and how many were read.
fn of_no_gzip(size: u64, promised: u64) -> (LayerError, u64) {
    let mut input = io::repeat(b'x').take(size);
    let expected = Expected {
        blob: Digest::of(b"another"),
        blob_size: promised,
        diff_id: DiffId(Digest::of(b"")),
    };
    let outputs = Outputs {
        tar: &mut io::sink(),
        windows: &mut io::sink(),
    };
    let (options, budget) = (Options::default(), Budget::new(1 << 20));
    let (packing, mut read) = (Packing::Gzip, 0);
    let error = index(
        &mut input,
        packing,
        &expected,
        &options,
        outputs,
        &budget,
        &mut |now| read = now,
    );
    (error.unwrap_err(), read)
}

#[test]
fn a_layer_that_cannot_be_used_is_not_read_for_ever() {
    let (error, read) = of_no_gzip(1 << 20, 1 << 20);
    assert!(matches!(error, LayerError::BlobDigest { .. }), "{error}");
    assert_eq!(read, 1 << 20);
    let far = MAX_UNUSED + (1 << 20);
    let (error, read) = of_no_gzip(far, far);
    assert!(matches!(error, LayerError::Gzip { .. }), "{error}");
    assert!(read < 1 << 20, "{read}");
    let (error, read) = of_no_gzip(0, u64::MAX);
    assert!(matches!(error, LayerError::BlobTooLarge { .. }), "{error}");
    assert_eq!(read, 0);
}
