//! What readers have fetched for them: every byte once, and once more what came wrong.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::time::Duration;

use rustix::fs::{Advice, fadvise};
use thaw_image::{BLOCK, Chunk, Digest, Extent, SeekTable};
use thaw_testkit::far::Far;
use thaw_testkit::thaw::Thaw;

use crate::metrics::metrics;
use crate::support::{Scene, json, target, thaw};

/// The file's data lies behind two headers of the layer's tar.
const DATA: u64 = 1024;

/// The scene behind something that sees what is asked for, mounted lazily.
struct Watched {
    scene: Scene,
    far: Far,
    image: String,
    node: Thaw,
    dir: String,
}

impl Watched {
    fn new(scene: Scene, delay: Duration, transport: &str) -> Self {
        let far = Far::new(scene.registry.host(), delay).unwrap();
        let image = scene.image.replace(scene.registry.host(), &far.host());
        let node = thaw();
        let dir = target(&node);
        let options = [
            "mount",
            "--pull",
            "lazy",
            "--profile",
            "none",
            "--transport",
        ];
        node.run(options.into_iter().chain([transport, &image, &dir]))
            .unwrap();
        Self {
            scene,
            far,
            image,
            node,
            dir,
        }
    }

    /// The upper layer's blob, with its size.
    fn blob(&self) -> (Digest, u64) {
        let layer = self.scene.layout.manifest().unwrap()["layers"][1].clone();
        let digest = layer["digest"].as_str().unwrap().parse().unwrap();
        (digest, layer["size"].as_u64().unwrap())
    }

    /// The ranges of it that were asked for, in order.
    fn ranges(&self) -> Vec<Extent> {
        let (digest, size) = self.blob();
        let trips = self.far.trips().into_iter();
        let of = trips.filter(|trip| trip.path.ends_with(&digest.to_string()));
        let mut ranges: Vec<Extent> = of
            .map(|trip| trip.range.unwrap_or(Extent::between(0, size)))
            .collect();
        ranges.sort();
        ranges
    }

    /// Its seek table.
    fn table(&self) -> SeekTable {
        let facts = self.node.run(["inspect", "--json", &self.image]).unwrap();
        let manifest = json(&facts)["acceleration"]["manifest"].clone();
        let manifest = manifest.as_str().unwrap().parse().unwrap();
        let tables = tables(&self.scene.registry, &manifest);
        let blob = self.blob().0;
        tables.into_iter().find(|table| table.blob == blob).unwrap()
    }

    fn file(&self) -> File {
        File::open(format!("{}/srv/never-read", self.dir)).unwrap()
    }
}

/// The seek tables of an acceleration.
pub(crate) fn tables(
    registry: &thaw_testkit::registry::Registry,
    acceleration: &Digest,
) -> Vec<SeekTable> {
    let manifest = fs::read_to_string(registry.blob(acceleration)).unwrap();
    let layers = json(&manifest)["layers"].as_array().unwrap().clone();
    let tables = layers
        .iter()
        .filter(|layer| layer["mediaType"] == thaw_image::media::SEEK_TABLE);
    let decode = |layer: &serde_json::Value| {
        let digest = layer["digest"].as_str().unwrap().parse().unwrap();
        SeekTable::decode(&fs::read(registry.blob(&digest)).unwrap()).unwrap()
    };
    tables.map(decode).collect()
}

/// Readers of the same chunks and of neighbouring ones at the same time: a byte of the blob comes once,
/// and is unpacked once.
#[test]
fn readers_in_parallel_fetch_every_byte_once() {
    const PIECE: usize = 48 << 10;
    for transport in ["fanotify", "fuse"] {
        let watched = Watched::new(Scene::accelerated(), Duration::from_millis(30), transport);
        let full = thaw();
        full.run([
            "mount",
            "--pull",
            "full",
            &watched.scene.image,
            &target(&full),
        ])
        .unwrap();
        let right = fs::read(format!("{}/srv/never-read", target(&full))).unwrap();
        let before = watched.ranges().len();
        let pieces = right.len().div_ceil(PIECE);
        std::thread::scope(|scope| {
            for reader in 0..8 {
                let (watched, right) = (&watched, &right);
                scope.spawn(move || {
                    let file = watched.file();
                    // Two begin at each of four places; one of them goes on to the left.
                    for step in 0..pieces {
                        let step = if reader % 2 == 0 { step } else { pieces - step };
                        let at = (step + reader / 2 * pieces / 4) % pieces * PIECE;
                        let end = right.len().min(at + PIECE);
                        let mut bytes = vec![0; end - at];
                        file.read_exact_at(&mut bytes, at as u64).unwrap();
                        assert!(bytes == right[at..end], "wrong bytes at {at}");
                    }
                });
            }
        });
        let table = watched.table();
        let ranges = &watched.ranges()[..];
        assert!(ranges.len() > before + 4, "{ranges:?}");
        let (mut end, mut twice) = (0_u64, 0);
        for range in ranges {
            twice += end.saturating_sub(range.offset).min(range.len);
            end = end.max(range.end());
        }
        // Of gzip, neighbouring chunks may share the byte in which one ends and the other begins.
        let shared = table.chunks.len() as u64;
        assert!(
            twice <= shared,
            "{transport}: {twice} bytes twice: {ranges:?}"
        );
        assert!(end > table.chunks[table.chunks.len() / 2].blob.end());
        // The blocks at a chunk's ends are there once both chunks are.
        let counted = metrics(&watched.node);
        let sum = |name: &str| -> f64 {
            let causes = ["demand", "ahead"].map(|cause| format!("{name}{{cause=\"{cause}\"}}"));
            causes.iter().map(|name| counted[name]).sum()
        };
        let unpacked = sum("thaw_unpacked_bytes_total");
        let filled = sum("thaw_filled_bytes_total");
        let edges = (shared * 2 * BLOCK) as f64;
        assert!(unpacked >= right.len() as f64, "{transport}: {unpacked}");
        assert!(
            unpacked <= filled + edges,
            "{transport}: {unpacked} for {filled}"
        );
    }
}

/// The file's page in the middle of a chunk, read alone.
fn read_page(file: &File, chunk: &Chunk) -> std::io::Result<()> {
    fadvise(file, 0, None, Advice::Random).unwrap();
    let at = (chunk.tar.offset + chunk.tar.len / 2 - DATA) / 4096 * 4096;
    file.read_exact_at(&mut [0; 4096], at)
}

#[test]
fn damage_is_named_and_was_asked_for_once_more() {
    for transport in ["fanotify", "fuse"] {
        let watched = Watched::new(Scene::accelerated(), Duration::ZERO, transport);
        let table = watched.table();
        let number = table.chunks.len() / 2;
        let chunk = &table.chunks[number];
        let at = chunk.blob.offset + chunk.blob.len / 2;
        let blob = watched.scene.registry.blob(&watched.blob().0);
        let blob = File::options().read(true).write(true).open(blob).unwrap();
        let mut byte = [0];
        blob.read_exact_at(&mut byte, at).unwrap();
        blob.write_all_at(&[byte[0] ^ 1], at).unwrap();

        let before = watched.ranges().len();
        let error = read_page(&watched.file(), chunk).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(5), "{error}");
        let log = fs::read_to_string(watched.node.root().join("daemon.log")).unwrap();
        let lines = |words: &str| -> Vec<&str> {
            let of = log.lines().filter(|line| line.contains(words));
            of.collect()
        };
        let (again, given_up) = (lines("trying once more"), lines("gave wrong bytes"));
        // The kernel may ask more than once for what it cannot read.
        let has = |range: &&Extent| range.offset <= at && at < range.end();
        let ranges = watched.ranges();
        let asked = ranges.iter().filter(has).count();
        assert!(before == 0 && asked > 0, "{ranges:?}");
        assert_eq!(
            (again.len() * 2, given_up.len() * 2),
            (asked, asked),
            "{transport}: {ranges:?} {log}"
        );
        for (line, chunk) in [
            (again[0], format!("chunk={number} ")),
            (given_up[0], format!("chunk {number} ")),
        ] {
            let layer = table.diff_id.to_string();
            for word in [&watched.image, &layer, &chunk, &watched.far.host()] {
                assert!(line.contains(word), "{word}: {line}");
            }
        }
        // What is beside it is not damaged.
        read_page(&watched.file(), &table.chunks[number - 1]).unwrap();
    }
}
