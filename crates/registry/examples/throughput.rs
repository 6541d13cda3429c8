//! Streams the largest layer of an image and says how fast that was and what it cost.
//!
//! ```text
//! cargo run --release -p thaw-registry --example throughput -- localhost:5000/app:v1
//! ```

use std::io::Read;
use std::time::Instant;

use thaw_image::{Extent, ImageReference};
use thaw_registry::{Client, Platform, Settings, resolve};

/// Processor time of this process so far, in clock ticks of 10 ms (proc(5), fields 14 and 15).
fn ticks() -> u64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let behind_name = stat.rsplit(')').next().unwrap_or_default();
    let fields = behind_name.split_whitespace().skip(11).take(2);
    fields.filter_map(|field| field.parse::<u64>().ok()).sum()
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let name = std::env::args().nth(1).ok_or("usage: throughput IMAGE")?;
    let reference: ImageReference = name.parse()?;
    let repository = Client::new(Settings::default())?.open(&reference)?;
    let image = resolve(&*repository, &reference, &Platform::host())?;
    let layers = image.manifest.content()?.layers;
    let layer = layers
        .iter()
        .max_by_key(|layer| layer.size)
        .ok_or("no layers")?;
    let extent = Extent {
        offset: 0,
        len: layer.size,
    };
    let (begun, before) = (Instant::now(), ticks());
    let mut stream = repository.stream(&layer.digest, extent)?;
    let mut piece = vec![0; 1 << 20];
    let mut total = 0;
    loop {
        match stream.read(&mut piece)? {
            0 => break,
            got => total += got,
        }
    }
    let (seconds, cpu) = (begun.elapsed().as_secs_f64(), (ticks() - before) * 10);
    let megabytes = f64::from(u32::try_from(total >> 10)?) / 1024.0;
    println!(
        "{megabytes:.0} MiB in {seconds:.3} s: {:.0} MiB/s, {cpu} ms of processor",
        megabytes / seconds
    );
    let begun = Instant::now();
    for number in 0..200 {
        let len = 64 << 10;
        let offset = (number * 7919 * len) % layer.size.saturating_sub(len).max(1);
        let extent = Extent {
            offset,
            len: len.min(layer.size),
        };
        repository.read_at(&layer.digest, extent, None)?;
    }
    println!(
        "200 reads of 64 KiB: {:.0} us each",
        begun.elapsed().as_secs_f64() * 5000.0
    );
    Ok(())
}
