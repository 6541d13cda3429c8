//! Measures the one pass over an image in an OCI layout, and what an acceleration of it weighs:
//! `cargo run --release -p thaw-accelerate --example prepare -- oci:DIR[:TAG]`

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::path::PathBuf;
use std::time::Instant;

use thaw_accelerate::closure::{Root, Start, static_set};
use thaw_accelerate::{
    Artifact, Known, LayerRef, PackOptions, Place, TarProof, TarSink, pack, prepare,
};
use thaw_image::{DiffId, Digest, Extent, ImageReference, Silent, media};
use thaw_registry::{Client, Descriptor, Settings, Which};

type Outcome<T> = Result<T, Box<dyn std::error::Error>>;

/// Keeps nothing.
struct Nowhere(PathBuf);

struct Discard;

impl Write for Discard {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl TarSink for Discard {
    fn commit(self: Box<Self>, _proof: &TarProof) -> io::Result<()> {
        Ok(())
    }
}

impl Place for Nowhere {
    fn tar(&self, _layer: &LayerRef) -> io::Result<Box<dyn TarSink>> {
        Ok(Box::new(Discard))
    }

    fn known(&self, _layer: &LayerRef) -> Option<Known> {
        None
    }

    fn read(&self, _diff_id: &DiffId, _extent: Extent) -> Option<io::Result<Vec<u8>>> {
        None
    }

    fn scratch(&self) -> PathBuf {
        self.0.clone()
    }

    fn cancelled(&self) -> bool {
        false
    }
}

#[expect(clippy::cast_precision_loss, reason = "figures for people")]
fn mb(bytes: u64) -> f64 {
    bytes as f64 / 1e6
}

fn status(key: &str) -> String {
    let text = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = text.lines().find(|line| line.starts_with(key));
    line.unwrap_or_default().to_owned()
}

fn main() -> Outcome<()> {
    let name = std::env::args()
        .nth(1)
        .ok_or("which image? oci:DIR[:TAG]")?;
    let reference: ImageReference = name.parse()?;
    let repository = Client::new(Settings::default())?.open(&reference)?;
    let manifest = repository.manifest(&Which::of(&reference))?;
    let content = manifest.content()?;
    let config = repository.blob(&content.config, 8 << 20)?;
    let config: serde_json::Value = serde_json::from_slice(&config)?;
    let mut layers = Vec::new();
    for (number, layer) in content.layers.iter().enumerate() {
        let diff_id = config["rootfs"]["diff_ids"][number]
            .as_str()
            .ok_or("no diffID")?;
        layers.push(LayerRef {
            blob: layer.digest,
            size: layer.size,
            media_type: layer.media_type.clone(),
            diff_id: DiffId(diff_id.parse::<Digest>()?),
        });
    }
    let scratch = tempfile::tempdir_in(std::env::current_dir()?)?;
    let place = Nowhere(scratch.path().to_owned());
    let compressed: u64 = layers.iter().map(|layer| layer.size).sum();

    let start = Instant::now();
    let options = thaw_layer::Options::default();
    let prepared = prepare(&layers, &*repository, &place, &options, &Silent)?;
    let elapsed = start.elapsed().as_secs_f64();
    let cpu = std::fs::read_to_string("/proc/self/schedstat")?;
    println!(
        "prepare: {:.1} MB compressed in {elapsed:.1} s, {:.1} MB/s; {}; schedstat {}",
        mb(compressed),
        mb(compressed) / elapsed,
        status("VmHWM"),
        cpu.trim()
    );

    let subject = Descriptor::of(media::MANIFEST, manifest.bytes());
    let start = Instant::now();
    let artifact = Artifact::build(&subject, &prepared)?;
    let mut parts: BTreeMap<&str, u64> = BTreeMap::new();
    for (descriptor, _) in &artifact.blobs {
        *parts.entry(&descriptor.media_type).or_default() += descriptor.size;
    }
    let size = artifact.acceleration.size();
    println!(
        "artifact: {size} bytes in {:.2} s, {:.2} % of the image",
        start.elapsed().as_secs_f64(),
        100.0 * mb(size) / mb(compressed)
    );
    for (part, bytes) in parts {
        println!("  {bytes:>10} {part}");
    }
    println!("  {:>10} layout, unpacked", prepared.layout.bytes.len());

    let start = Instant::now();
    let tars: Vec<_> = prepared
        .layers
        .iter()
        .map(|layer| thaw_accelerate::merge::Layer {
            diff_id: layer.layer.diff_id,
            tar_size: layer.tar_size,
        })
        .collect();
    artifact
        .acceleration
        .check_layout(&prepared.layout.bytes, &tars)?;
    println!(
        "check_layout: {:.1} ms",
        start.elapsed().as_secs_f64() * 1e3
    );

    let tree = thaw_erofs::Image::open(&prepared.layout.bytes)?.to_tree()?;
    let diff_ids: Vec<DiffId> = layers.iter().map(|layer| layer.diff_id).collect();
    let read = |diff_id: &DiffId, extent: Extent| {
        let layer = prepared
            .layers
            .iter()
            .find(|layer| layer.layer.diff_id == *diff_id);
        match layer.map(|layer| &layer.index) {
            Some(Ok(index)) => index.read(&*repository, extent),
            _ => Err(io::Error::other("the layer has no seek table")),
        }
    };
    let words = |key: &str| {
        let list = config["config"][key]
            .as_array()
            .cloned()
            .unwrap_or_default();
        list.into_iter()
            .filter_map(|word| Some(word.as_str()?.as_bytes().to_vec()))
            .collect::<Vec<_>>()
    };
    let start = Start {
        command: [words("Entrypoint"), words("Cmd")].concat(),
        directory: b"/".to_vec(),
        ..Start::default()
    };
    let clock = Instant::now();
    let trace = static_set(
        &Root {
            tree: &tree,
            layers: &diff_ids,
            read: &read,
        },
        &start,
    )?;
    let bytes: u64 = trace.iter().map(|(_, extent)| extent.len).sum();
    println!(
        "closure: {} extents, {bytes} bytes in {:.2} s",
        trace.len(),
        clock.elapsed().as_secs_f64()
    );

    let sizes: Vec<(DiffId, u64)> = prepared
        .layers
        .iter()
        .map(|layer| (layer.layer.diff_id, layer.tar_size))
        .collect();
    for level in [3, 9, 12, 19] {
        let clock = Instant::now();
        let options = PackOptions {
            level,
            ..PackOptions::default()
        };
        let packed = pack(&trace, &sizes, &read, &options)?;
        println!(
            "pack at level {level}: {} bytes in {:.2} s",
            packed.data.len(),
            clock.elapsed().as_secs_f64()
        );
    }
    Ok(())
}
