//! The decoder against the flate2 crate, and against itself from every boundary.

use std::io::{Read as _, Write as _};

use flate2::write::GzEncoder;
use flate2::{Compression, GzBuilder};
use proptest::prelude::*;

use super::*;

/// Decodes `blob`, fed in pieces of `read` bytes and taken out in pieces of about `room`.
fn gunzip(blob: &[u8], read: usize, room: usize) -> Result<Vec<u8>, InflateError> {
    let mut left = blob;
    let mut input = Input::with_capacity(200 << 10);
    let mut output = Output::new(&[], room);
    let mut decoder = Decoder::new(true);
    let mut out = Vec::new();
    loop {
        match decoder.run(&mut input, &mut output)? {
            Stop::Input => {
                let source = |buffer: &mut [u8]| {
                    let count = buffer.len().min(read).min(left.len());
                    buffer[..count].copy_from_slice(&left[..count]);
                    left = &left[count..];
                    Ok(count)
                };
                input.fill(source).unwrap();
            }
            Stop::Output => take(&mut output, room, &mut out),
            Stop::Member | Stop::Block | Stop::Symbol => {}
            Stop::End => {
                take(&mut output, room, &mut out);
                return Ok(out);
            }
        }
    }
}

fn take(output: &mut Output, room: usize, out: &mut Vec<u8>) {
    let (buffer, fresh) = output.swap(vec![0; Output::buffer_len(room)]);
    out.extend_from_slice(&buffer[fresh]);
}

fn compress(data: &[u8], level: u32) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::new(level));
    encoder.write_all(data).unwrap();
    encoder.finish().unwrap()
}

fn judge(blob: &[u8]) -> std::io::Result<Vec<u8>> {
    let mut out = Vec::new();
    flate2::read::MultiGzDecoder::new(blob).read_to_end(&mut out)?;
    Ok(out)
}

/// Something between noise and repetition, as layers are.
fn data() -> impl Strategy<Value = Vec<u8>> {
    let noise = proptest::collection::vec(any::<u8>(), 0..3000);
    let text =
        proptest::collection::vec(prop::sample::select(b"etaoin shrdlu\n".to_vec()), 0..3000);
    let run = (any::<u8>(), 0usize..70_000).prop_map(|(byte, len)| vec![byte; len]);
    let period = (proptest::collection::vec(any::<u8>(), 1..40), 1usize..2000)
        .prop_map(|(unit, count)| unit.repeat(count));
    let piece = prop_oneof![noise, text, run, period];
    proptest::collection::vec(piece, 0..8).prop_map(|pieces| {
        let mut all = pieces.concat();
        // A repetition from far away.
        all.extend_from_within(..all.len().min(5000));
        all
    })
}

#[test]
fn empty_and_tiny() {
    for data in [&b""[..], b"a", b"ab", &[7; 300]] {
        for level in 0..=9 {
            assert_eq!(gunzip(&compress(data, level), 1, 1).unwrap(), data);
        }
    }
}

#[test]
fn header_fields_and_zero_padding() {
    let mut encoder = GzBuilder::new()
        .filename("layer.tar")
        .comment("c")
        .extra(vec![1, 2, 3])
        .write(Vec::new(), Compression::fast());
    encoder.write_all(b"hello").unwrap();
    let mut blob = encoder.finish().unwrap();
    assert_eq!(gunzip(&blob, 3, 100).unwrap(), b"hello");
    blob.resize(blob.len() + 5000, 0);
    assert_eq!(gunzip(&blob, 300, 100).unwrap(), b"hello");
    blob.push(1);
    assert_eq!(gunzip(&blob, 300, 100), Err(InflateError::Garbage));
}

#[test]
fn every_cut_is_truncated() {
    let data: Vec<u8> = (0..2000u32).flat_map(|n| (n * n).to_le_bytes()).collect();
    let blob = compress(&data, 6);
    for cut in 0..blob.len() {
        let error = gunzip(&blob[..cut], 1000, 10_000).unwrap_err();
        assert_eq!(error, InflateError::Truncated, "cut at {cut}");
    }
}

#[test]
fn every_flipped_bit_is_noticed() {
    let data: Vec<u8> = b"the quick brown fox jumps over the lazy dog ".repeat(9);
    let blob = compress(&data, 9);
    // Time, extra flags and operating system are free; all else is checked.
    let checked = (0..4).chain(10..blob.len());
    for byte in checked {
        for bit in 0..8 {
            let mut bad = blob.clone();
            bad[byte] ^= 1 << bit;
            // The bits behind the last block, up to a whole byte, mean nothing; neither does the
            // flag that calls it text.
            match gunzip(&bad, 1000, 10_000) {
                Ok(out) => {
                    assert!(byte == 3 || byte == blob.len() - 9, "byte {byte} bit {bit}");
                    assert_eq!(out, data);
                }
                Err(error) => assert_ne!(error, InflateError::Garbage),
            }
        }
    }
}

#[test]
fn distances_may_not_leave_their_member() {
    // A fixed block: literal 'a', then a match of 3 from 2 back.
    let body = [0x4b, 0x04, 0x11, 0x00];
    let mut input = Input::whole(&body);
    let mut decoder = Decoder::resume(&mut input, 0);
    let mut output = Output::new(&[], 100);
    output.start_member();
    let mut stop = decoder.run(&mut input, &mut output);
    while matches!(stop, Ok(Stop::Block | Stop::Member)) {
        stop = decoder.run(&mut input, &mut output);
    }
    assert_eq!(stop, Err(InflateError::Distance));
}

proptest! {
    #[test]
    fn agrees_with_flate2(
        members in proptest::collection::vec((data(), 0u32..=9), 1..4),
        read in 1usize..5000,
        room in 1usize..100_000,
    ) {
        let blob: Vec<u8> = members.iter().flat_map(|(data, level)| compress(data, *level)).collect();
        let expected: Vec<u8> = members.into_iter().flat_map(|(data, _)| data).collect();
        prop_assert_eq!(&judge(&blob).unwrap(), &expected);
        prop_assert_eq!(gunzip(&blob, read, room).unwrap(), expected);
    }

    #[test]
    fn flushed_streams(pieces in proptest::collection::vec(data(), 1..5), level in 0u32..=9) {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::new(level));
        for piece in &pieces {
            encoder.write_all(piece).unwrap();
            encoder.flush().unwrap();
        }
        let blob = encoder.finish().unwrap();
        prop_assert_eq!(gunzip(&blob, 1000, 1000).unwrap(), pieces.concat());
    }

    #[test]
    fn damage_never_panics_and_never_lies(
        data in data(),
        level in 0u32..=9,
        flips in proptest::collection::vec((any::<prop::sample::Index>(), 0u8..8), 1..4),
    ) {
        let mut blob = compress(&data, level);
        for (at, bit) in flips {
            let at = at.index(blob.len());
            blob[at] ^= 1 << bit;
        }
        if let Ok(out) = gunzip(&blob, 1000, 1000) {
            prop_assert_eq!(judge(&blob).unwrap(), out);
        }
    }

    #[test]
    fn noise_never_panics(body in proptest::collection::vec(any::<u8>(), 0..2000), skip in 0u32..8) {
        let mut input = Input::whole(&body);
        let mut decoder = Decoder::resume(&mut input, skip);
        let mut output = Output::new(&[0; WINDOW], 20_000);
        while let Ok(Stop::Block | Stop::Member) = decoder.run(&mut input, &mut output) {}
        prop_assert!(output.fresh_len() <= 20_000 + 258);
    }
}
