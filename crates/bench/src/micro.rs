//! What a mounted image costs: faults, warm reads, memory, and indexing.
//!
//! | figure | how |
//! |---|---|
//! | absent block | 4 KiB of files that lie 4 MiB apart in the image, nothing of it here, over the link |
//! | present block | 4 KiB of files that were read whole, all page caches dropped, when nothing has arrived for some seconds; the same on ext4, in turns |
//! | while bytes arrive | the same before that: through the tar's page cache; and with the mount's own pages dropped but not the tar's |
//! | warm reads | largest files in sequence, 4 KiB at random places of them, a walk with `stat`; beside a copy on ext4 |
//! | memory | resident bytes of daemon and keeper with ten mounts |
//! | accelerate | bytes of the compressed image for each second of processor time that the daemon spent |
//!
//! Reads are told to be random, so that one read is one block. Each figure is a median.

use std::fs::{self, File};
use std::hint::black_box;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use rustix::fs::{Advice, fadvise};
use serde::Serialize;
use thaw_testkit::thaw::Thaw;
use thaw_testkit::{process, scratch};

use crate::disk::drop_caches;
use crate::report::median;
use crate::thaw::{binary, plain};
use crate::world::{Served, World};

/// Between two blocks that are read absent: further than a chunk is long.
const APART: u64 = 4 << 20;
/// Files for the present blocks.
const FILES: usize = 1000;
/// Files for the warm reads, and rounds of these.
const LARGEST: usize = 20;
const ROUNDS: usize = 9;
/// Times that the present blocks are read, all of them.
const PRESENT_ROUNDS: usize = 3;
/// How long the daemon may take to find that nothing arrives any more.
const SETTLED: Duration = Duration::from_secs(60);
const RANDOM_READS: u64 = 20_000;
const MOUNTS: usize = 10;
const BLOCK: usize = 4096;
/// Of the times in `/proc/PID/stat`: Linux's `USER_HZ` on every architecture that Rust runs on.
const TICKS_PER_SECOND: f64 = 100.0;

/// What was found.
#[derive(Debug, Default, Serialize)]
pub(crate) struct Micro {
    image: &'static str,
    round_trip_ms: f64,
    absent_ms: f64,
    absent_samples: usize,
    present_us: f64,
    present_ext4_us: f64,
    present_arriving_us: f64,
    present_tar_cached_us: f64,
    present_samples: usize,
    /// Time on the mount ÷ time on ext4.
    warm_sequential: f64,
    warm_random: f64,
    warm_walk: f64,
    resident_daemon_mib: f64,
    resident_keeper_mib: f64,
    accelerate_mb_per_cpu_second: f64,
    /// The same for the large image, where what is done once for an image does not count.
    accelerate_large_mb_per_cpu_second: f64,
}

pub(crate) fn run(image: &'static str) -> Result<Micro> {
    let world = World::new()?;
    let served = world.serve(image)?;
    let mut micro = Micro {
        image,
        round_trip_ms: world.measure(&served)?.round_trip_ms,
        ..Micro::default()
    };
    micro.accelerate_mb_per_cpu_second = accelerate(&served)?;
    micro.accelerate_large_mb_per_cpu_second = accelerate(&world.serve("ml")?)?;
    let scratch = scratch::directory()?;
    let node = Rig::new(&served)?;
    let mount = scratch.path().join("lazy");
    node.mount(&mount)?;
    let tree = Tree::of(&mount)?;
    faults(&tree, scratch.path(), &mut micro)?;
    warm(&tree, scratch.path(), &mut micro)?;
    memory(&node, scratch.path(), &mut micro)?;
    node.thaw.run(["unmount", "--all"])?;
    Ok(micro)
}

impl Micro {
    pub(crate) fn print(&self) {
        println!(
            "\nimage {}, round trip {:.2} ms",
            self.image, self.round_trip_ms
        );
        println!(
            "  absent block: {:.2} ms ({} reads)",
            self.absent_ms, self.absent_samples
        );
        println!(
            "  present block, nothing cached: {:.0} µs; ext4 {:.0} µs ({} reads each)\n  \
             while bytes arrive: {:.0} µs; only the tar cached: {:.0} µs",
            self.present_us,
            self.present_ext4_us,
            self.present_samples,
            self.present_arriving_us,
            self.present_tar_cached_us
        );
        println!(
            "  warm, time against ext4: sequential {:.3}, random {:.3}, walk {:.3}",
            self.warm_sequential, self.warm_random, self.warm_walk
        );
        println!(
            "  resident with {MOUNTS} mounts: daemon {:.1} MiB, keeper {:.1} MiB",
            self.resident_daemon_mib, self.resident_keeper_mib
        );
        println!(
            "  accelerate: {:.0} MB of gzip per second of processor time; {:.0} of the large image",
            self.accelerate_mb_per_cpu_second, self.accelerate_large_mb_per_cpu_second
        );
    }
}

/// A store that speaks with the bench's registry.
struct Rig<'a> {
    thaw: Thaw,
    image: &'a Served,
}

impl<'a> Rig<'a> {
    fn new(image: &'a Served) -> Result<Self> {
        let thaw = Thaw::new(binary()?)?;
        let rig = Self { thaw, image };
        rig.run(&["images"])?;
        Ok(rig)
    }

    fn run(&self, args: &[&str]) -> Result<String> {
        let flags = plain(&self.image.reference);
        let args = flags.into_iter().chain(args.iter().copied());
        self.thaw.run(args)
    }

    fn mount(&self, dir: &Path) -> Result<()> {
        fs::create_dir(dir)?;
        let dir = dir.to_str().context("a path that is not UTF-8")?;
        let how = ["mount", "--pull", "lazy", "--profile", "none"];
        self.run(&[&how[..], &[&self.image.reference, dir]].concat())?;
        Ok(())
    }
}

/// The regular files of a tree, in the order of their paths, and how many names it has.
struct Tree {
    root: PathBuf,
    files: Vec<(PathBuf, u64)>,
}

impl Tree {
    fn of(root: &Path) -> Result<Self> {
        let mut tree = Self {
            root: root.to_owned(),
            files: Vec::new(),
        };
        walk(root, &mut |path, metadata| {
            if metadata.is_file() && metadata.len() > 0 {
                tree.files.push((path.to_owned(), metadata.len()));
            }
        })?;
        Ok(tree)
    }

    /// The same file below another root.
    fn below(&self, root: &Path, file: &Path) -> Result<PathBuf> {
        Ok(root.join(file.strip_prefix(&self.root)?))
    }
}

fn walk(dir: &Path, each: &mut dyn FnMut(&Path, &fs::Metadata)) -> Result<()> {
    let mut entries = fs::read_dir(dir)?.collect::<std::io::Result<Vec<_>>>()?;
    entries.sort_by_key(fs::DirEntry::file_name);
    for entry in entries {
        let (path, metadata) = (entry.path(), entry.metadata()?);
        each(&path, &metadata);
        if metadata.is_dir() {
            walk(&path, each)?;
        }
    }
    Ok(())
}

fn accelerate(image: &Served) -> Result<f64> {
    let rig = Rig::new(image)?;
    let daemon = rig.thaw.daemon().context("no daemon")?;
    let before = processor_seconds(daemon)?;
    rig.run(&["accelerate", &image.reference])?;
    let spent = processor_seconds(daemon)? - before;
    Ok(image.compressed as f64 / 1e6 / spent)
}

/// Processor time of a process so far, of user and kernel.
fn processor_seconds(pid: u32) -> Result<f64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let fields: Vec<&str> = stat
        .rsplit_once(')')
        .map(|(_, rest)| rest.split_whitespace().collect())
        .context("a process without a name")?;
    let ticks = |index: usize| -> Result<f64> { Ok(fields.get(index).context("short")?.parse()?) };
    Ok((ticks(11)? + ticks(12)?) / TICKS_PER_SECOND)
}

fn faults(tree: &Tree, scratch: &Path, micro: &mut Micro) -> Result<()> {
    let (mut absent, mut at, mut next) = (Vec::new(), 0, 0);
    for (path, size) in &tree.files {
        if at >= next {
            absent.push(read_block(path, 0)? * 1e3);
            next = at + APART;
        }
        at += size;
    }
    micro.absent_samples = absent.len();
    micro.absent_ms = median(&mut absent);

    let step = (tree.files.len() / FILES).max(1);
    let files: Vec<&PathBuf> = tree
        .files
        .iter()
        .step_by(step)
        .map(|(path, _)| path)
        .collect();
    let copy = scratch.join("copy");
    fs::create_dir(&copy)?;
    for (number, file) in files.iter().enumerate() {
        fs::write(copy.join(number.to_string()), fs::read(file)?)?;
    }
    let time = |path: &dyn Fn(usize) -> PathBuf| -> Result<Vec<f64>> {
        drop_caches()?;
        let times = (0..files.len()).map(|number| Ok(read_block(&path(number), 0)? * 1e6));
        times.collect()
    };
    let ours = |number: usize| files[number].clone();
    micro.present_arriving_us = median(&mut time(&ours)?);
    // Only the mount's own pages are given up.
    let times = files.iter().map(|file| {
        fs::read(file)?;
        fadvise(File::open(file)?, 0, None, Advice::DontNeed)?;
        Ok(read_block(file, 0)? * 1e6)
    });
    micro.present_tar_cached_us = median(&mut times.collect::<Result<Vec<f64>>>()?);

    settle(&tree.root)?;
    let (mut present, mut ext4) = (Vec::new(), Vec::new());
    for _ in 0..PRESENT_ROUNDS {
        present.extend(time(&ours)?);
        ext4.extend(time(&|number| copy.join(number.to_string()))?);
    }
    micro.present_samples = present.len();
    micro.present_us = median(&mut present);
    micro.present_ext4_us = median(&mut ext4);
    fs::remove_dir_all(copy)?;
    Ok(())
}

/// Waits until a mount reads directly: the daemon found that nothing arrives for it any more.
fn settle(mount: &Path) -> Result<()> {
    let begin = Instant::now();
    let mount = format!(" {} ", mount.display());
    loop {
        let table = fs::read_to_string("/proc/self/mountinfo")?;
        let mut lines = table.lines().filter(|line| line.contains(&mount));
        if lines.any(|line| line.contains("directio")) {
            return Ok(());
        }
        let direct = "see `thaw doctor`, direct reads";
        ensure!(
            begin.elapsed() < SETTLED,
            "{mount}does not read directly: {direct}"
        );
        std::thread::sleep(Duration::from_millis(100));
    }
}

/// Reads one block, and says in how many seconds; opening the file is not counted.
fn read_block(path: &Path, offset: u64) -> Result<f64> {
    let file = File::open(path)?;
    fadvise(&file, 0, None, Advice::Random)?;
    let mut block = [0; BLOCK];
    let begin = Instant::now();
    let read = file.read_at(&mut block, offset)?;
    let took = begin.elapsed().as_secs_f64();
    ensure!(read > 0, "{} is empty", path.display());
    black_box(&block);
    Ok(took)
}

fn warm(tree: &Tree, scratch: &Path, micro: &mut Micro) -> Result<()> {
    let copy = scratch.join("tree");
    process::run(Command::new("cp").arg("-a").arg(&tree.root).arg(&copy))?;
    // Both are to be in the page cache by being read: what was written lies there in larger pieces.
    drop_caches()?;
    let mut largest = tree.files.clone();
    largest.sort_by_key(|(_, size)| std::cmp::Reverse(*size));
    largest.truncate(LARGEST);
    let ours: Vec<PathBuf> = largest.iter().map(|(path, _)| path.clone()).collect();
    let theirs = ours.iter().map(|path| tree.below(&copy, path));
    let theirs = theirs.collect::<Result<Vec<_>>>()?;
    micro.warm_sequential = ratio(&|| sequential(&ours), &|| sequential(&theirs))?;
    micro.warm_random = ratio(&|| random(&ours[0]), &|| random(&theirs[0]))?;
    let walked = |root: &Path| {
        let begin = Instant::now();
        walk(root, &mut |_, metadata| {
            black_box(metadata.len());
        })?;
        Ok(begin.elapsed().as_secs_f64())
    };
    micro.warm_walk = ratio(&|| walked(&tree.root), &|| walked(&copy))?;
    fs::remove_dir_all(copy)?;
    Ok(())
}

type Timed<'a> = &'a dyn Fn() -> Result<f64>;

/// The median of the ratios of pairs, in turns, after one of each that warms.
fn ratio(ours: Timed<'_>, theirs: Timed<'_>) -> Result<f64> {
    ours()?;
    theirs()?;
    let mut ratios = Vec::new();
    for _ in 0..ROUNDS {
        ratios.push(ours()? / theirs()?);
    }
    Ok(median(&mut ratios))
}

fn sequential(files: &[PathBuf]) -> Result<f64> {
    let mut buffer = vec![0; 1 << 20];
    let begin = Instant::now();
    for path in files {
        let mut file = File::open(path)?;
        while std::io::Read::read(&mut file, &mut buffer)? > 0 {
            black_box(&buffer);
        }
    }
    Ok(begin.elapsed().as_secs_f64())
}

fn random(path: &Path) -> Result<f64> {
    let file = File::open(path)?;
    let blocks = (file.metadata()?.len() / BLOCK as u64).max(1);
    let mut block = [0; BLOCK];
    let mut place: u64 = 1;
    let begin = Instant::now();
    for _ in 0..RANDOM_READS {
        place = place
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        file.read_at(&mut block, (place >> 33) % blocks * BLOCK as u64)?;
        black_box(&block);
    }
    Ok(begin.elapsed().as_secs_f64())
}

fn memory(node: &Rig<'_>, scratch: &Path, micro: &mut Micro) -> Result<()> {
    for number in 1..MOUNTS {
        node.mount(&scratch.join(format!("mount-{number}")))?;
    }
    let daemon = node.thaw.daemon().context("no daemon")?;
    micro.resident_daemon_mib = resident_mib(daemon)?;
    let children = fs::read_to_string(format!("/proc/{daemon}/task/{daemon}/children"))?;
    let keepers = children
        .split_whitespace()
        .filter_map(|pid| pid.parse().ok());
    for keeper in keepers {
        micro.resident_keeper_mib += resident_mib(keeper)?;
    }
    Ok(())
}

fn resident_mib(pid: u32) -> Result<f64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib = line.and_then(|line| line.split_whitespace().next());
    Ok(kib.context("no resident size")?.parse::<f64>()? / 1024.0)
}
