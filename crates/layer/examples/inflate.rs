//! Measures a gzip layer: `cargo run --release -p thaw-layer --example inflate -- LAYER.tar.gz`.
//!
//! Prints the speed of decompression alone, of flate2 for comparison, and of the whole pass; the
//! index's size, with windows as they are and with whole ones, for some spacings; and how long one
//! chunk takes to decode.

use std::io::{self, Read as _};
use std::time::{Duration, Instant};

use thaw_image::{Chunk, CodecState, DiffId, Digest, SeekTable};
use thaw_layer::{Budget, Expected, Options, Outputs, Packing, decode, gunzip, index};

type Error = Box<dyn std::error::Error>;

fn main() -> Result<(), Error> {
    let path = std::env::args_os()
        .nth(1)
        .ok_or("usage: inflate LAYER.tar.gz")?;
    let blob = std::fs::read(path)?;
    let mut tar = Vec::new();
    flate2::read::MultiGzDecoder::new(blob.as_slice()).read_to_end(&mut tar)?;
    println!("blob {} bytes, tar {} bytes", blob.len(), tar.len());
    for _ in 0..3 {
        let mut reference = flate2::read::MultiGzDecoder::new(blob.as_slice());
        let (_, time) = timed_cpu(|| Ok(io::copy(&mut reference, &mut io::sink())?))?;
        rate("flate2 alone, per core", tar.len(), time);
        let ours = || Ok(gunzip(&mut blob.as_slice(), &mut io::sink(), u64::MAX)?);
        let (size, time) = timed_cpu(ours)?;
        assert_eq!(size, tar.len() as u64);
        rate("thaw's inflate alone, per core", tar.len(), time);
    }
    let expected = Expected {
        blob: Digest::of(&blob),
        blob_size: blob.len() as u64,
        diff_id: DiffId(Digest::of(&tar)),
    };
    for spacing in [256 << 10, 512 << 10, 1 << 20] {
        let options = Options {
            spacing,
            ..Options::default()
        };
        let mut windows = Vec::new();
        let whole = || timed(|| pass(&blob, &expected, &options, &mut windows));
        let ((table, time), cpu) = timed_cpu(whole)?;
        println!(
            "spacing {} KiB: {} chunks",
            spacing >> 10,
            table.chunks.len()
        );
        rate("  index, wall, tar", tar.len(), time);
        rate("  index, wall, blob", blob.len(), time);
        rate("  index, per core, blob", blob.len(), cpu);
        sizes(&table, &blob, &windows, &tar)?;
        decode_all(&table, &blob, &windows)?;
    }
    Ok(())
}

fn pass(
    blob: &[u8],
    expected: &Expected,
    options: &Options,
    windows: &mut Vec<u8>,
) -> Result<SeekTable, Error> {
    let outputs = Outputs {
        tar: &mut io::sink(),
        windows,
    };
    let mut input = blob;
    let budget = Budget::new(options.max_memory);
    let found = index(
        &mut input,
        Packing::Gzip,
        expected,
        options,
        outputs,
        &budget,
        &mut |_| {},
    )?;
    Ok(found.seek?.table)
}

/// What the index takes, and what it would take if nothing of a window were left out: zstd's level and
/// the headers of blocks are the same for both.
fn sizes(table: &SeekTable, blob: &[u8], windows: &[u8], tar: &[u8]) -> Result<(), Error> {
    const WINDOW: usize = 32 << 10;
    const HEADER: usize = 640;
    let percent = |bytes: usize| 100.0 * bytes as f64 / blob.len() as f64;
    let encoded = table.encode().len();
    let (mut whole, mut kept, mut all) = (0, 0, 0);
    for (chunk, at, len) in table.chunks.iter().filter_map(window_of) {
        let frame = &windows[usize::try_from(at)?..usize::try_from(at + u64::from(len))?];
        let mut window = zstd::bulk::decompress(frame, WINDOW + HEADER)?;
        kept += window[..WINDOW].iter().filter(|byte| **byte != 0).count();
        let end = usize::try_from(chunk.tar.offset)?;
        let before = &tar[end.saturating_sub(WINDOW)..end];
        window[WINDOW - before.len()..WINDOW].copy_from_slice(before);
        all += before.iter().filter(|byte| **byte != 0).count();
        whole += zstd::bulk::compress(&window, 3)?.len();
    }
    println!(
        "  table {:.2} %, sparse windows {:.2} %, together {:.2} %; whole windows {:.2} %; {:.0} % of their bytes are kept",
        percent(encoded),
        percent(windows.len()),
        percent(encoded + windows.len()),
        percent(whole),
        100.0 * kept as f64 / (all as f64).max(1.0),
    );
    Ok(())
}

/// A chunk that has a window, and where that is.
fn window_of(chunk: &Chunk) -> Option<(&Chunk, u64, u32)> {
    match chunk.state {
        CodecState::Deflate { window, .. } if window.len > 0 => {
            Some((chunk, window.offset, window.len))
        }
        _ => None,
    }
}

fn decode_all(table: &SeekTable, blob: &[u8], windows: &[u8]) -> Result<(), Error> {
    let mut times = Vec::new();
    let mut largest = 0;
    for chunk in &table.chunks {
        let part = |bytes, offset: u64, len: u64| -> Result<&[u8], Error> {
            let offset = usize::try_from(offset)?;
            let bytes: &[u8] = bytes;
            Ok(&bytes[offset..offset + usize::try_from(len)?])
        };
        let bytes = part(blob, chunk.blob.offset, chunk.blob.len)?;
        let window = match chunk.state {
            CodecState::Deflate { window, .. } if window.len > 0 => {
                Some(part(windows, window.offset, window.len.into())?)
            }
            _ => None,
        };
        let (_, time) = timed(|| Ok(decode(table.format, chunk, bytes, window)?))?;
        times.push(time);
        largest = largest.max(chunk.tar.len);
    }
    times.sort();
    println!(
        "  decode and verify a chunk: median {:?}, longest {:?}; largest chunk {} KiB",
        times[times.len() / 2],
        times[times.len() - 1],
        largest >> 10,
    );
    Ok(())
}

fn timed<T>(work: impl FnOnce() -> Result<T, Error>) -> Result<(T, Duration), Error> {
    let start = Instant::now();
    let result = work()?;
    Ok((result, start.elapsed()))
}

/// Time on all cores together, which other work on the machine does not add to.
fn timed_cpu<T>(work: impl FnOnce() -> Result<T, Error>) -> Result<(T, Duration), Error> {
    let start = cpu_time()?;
    let result = work()?;
    Ok((result, cpu_time()? - start))
}

fn rate(what: &str, bytes: usize, time: Duration) {
    let rate = bytes as f64 / 1e6 / time.as_secs_f64();
    println!("{what}: {rate:.0} MB/s");
}

/// User and system time of this process, all threads (proc(5), fields 14 and 15 of `stat`).
fn cpu_time() -> Result<Duration, Error> {
    let stat = std::fs::read_to_string("/proc/self/stat")?;
    let fields = stat.rsplit(") ").next().unwrap_or_default();
    let ticks = fields.split(' ').skip(11).take(2);
    let ticks = ticks.map(str::parse::<u64>).sum::<Result<u64, _>>()?;
    Ok(Duration::from_millis(ticks * 10))
}
