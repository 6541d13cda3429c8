//! Fuzz targets of all crates, built without further tools and run one at a time, in turns.
//!
//! ```text
//! crates/CRATE/fuzz/
//!   targets/NAME.rs        what must hold of an input; the crate's tests/seeds.rs asks it too
//!   fuzz_targets/NAME.rs   one program each
//!   corpus.rs              writes what they begin with, by the crate's own writers
//!   seeds/NAME/            what longer runs found to be worth keeping; in the repository
//!   corpus/NAME/           both, and what is found; not in the repository
//!   artifacts/             inputs that crash, hang, or take too much memory
//! ```

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use crate::command::{self, cargo, nightly, root};

/// What cargo-fuzz builds with: libFuzzer's instrumentation, and AddressSanitizer.
const FLAGS: &str = "-Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 \
    -Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table \
    -Cllvm-args=-sanitizer-coverage-trace-compares -Zsanitizer=address -Cdebug-assertions \
    -Ccodegen-units=1 --cfg fuzzing";
/// How long a target runs before it is another's turn.
const TURN: Duration = Duration::from_secs(60);
/// Clock ticks in a second, as /proc/PID/stat counts them (`_SC_CLK_TCK`).
const TICKS: u64 = 100;

/// One fuzz target.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
struct Target {
    /// The directory of its crate's targets.
    dir: PathBuf,
    name: String,
}

impl Target {
    fn krate(&self) -> std::borrow::Cow<'_, str> {
        let krate = self.dir.parent().and_then(Path::file_name);
        krate.unwrap_or_default().to_string_lossy()
    }
}

/// What a target has done.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
struct Done {
    ticks: u64,
    runs: u64,
    edges: u64,
    features: u64,
    crashed: bool,
}

/// Runs all targets, or those whose names begin with one of the words, for so many minutes in all.
pub(crate) fn run(args: &[String]) -> Result<()> {
    let (mut minutes, mut words) = (10, Vec::new());
    let mut args = args.iter();
    while let Some(word) = args.next() {
        match word.as_str() {
            "--minutes" => {
                let value = args.next().context("--minutes wants a number")?;
                minutes = value.parse().context("--minutes wants a whole number")?;
            }
            word => words.push(word),
        }
    }
    let mut targets = targets()?;
    targets.retain(|target| {
        words.is_empty() || words.iter().any(|word| target.name.starts_with(word))
    });
    ensure!(!targets.is_empty(), "no fuzz target begins with {words:?}");
    let mut dirs: Vec<&PathBuf> = targets.iter().map(|target| &target.dir).collect();
    dirs.dedup();
    for dir in dirs {
        build(dir)?;
    }
    take_turns(&targets, Duration::from_secs(60 * minutes))
}

/// Every target of every crate, in order.
fn targets() -> Result<Vec<Target>> {
    let mut targets = Vec::new();
    for entry in fs::read_dir(root().join("crates"))? {
        let dir = entry?.path().join("fuzz");
        let Ok(programs) = fs::read_dir(dir.join("fuzz_targets")) else {
            continue;
        };
        for program in programs {
            let program = program?.path();
            let name = program.file_stem().and_then(|name| name.to_str());
            let (dir, name) = (dir.clone(), name.context("a name in UTF-8")?.to_owned());
            targets.push(Target { dir, name });
        }
    }
    targets.sort();
    Ok(targets)
}

/// Where all of them are built: most of what they need is the same.
fn target_dir() -> PathBuf {
    root().join("target/fuzz")
}

/// Builds the targets of a crate, and writes what they begin with.
fn build(dir: &Path) -> Result<()> {
    let mut corpus = cargo();
    corpus.args(["run", "--quiet", "--bin", "corpus"]);
    command::run(
        corpus
            .current_dir(dir)
            .env("CARGO_TARGET_DIR", target_dir()),
    )?;
    let mut build = nightly()?;
    build.args(["build", "--quiet", "--release", "--target", &host()?]);
    for program in fs::read_dir(dir.join("fuzz_targets"))? {
        let program = program?.path();
        let name = program.file_stem().context("a program has a name")?;
        build.arg("--bin").arg(name);
    }
    let build = build.current_dir(dir).env("CARGO_TARGET_DIR", target_dir());
    command::run(build.env("RUSTFLAGS", FLAGS))
}

/// Instrumentation is not for build scripts, so a target has to be named.
pub(crate) fn host() -> Result<String> {
    let said = Command::new("rustc").arg("-vV").output()?;
    let said = String::from_utf8(said.stdout)?;
    let host = said.lines().find_map(|line| line.strip_prefix("host: "));
    Ok(host
        .context("rustc does not say for what it compiles")?
        .to_owned())
}

fn take_turns(targets: &[Target], time: Duration) -> Result<()> {
    let begin = Instant::now();
    let mut done: BTreeMap<&Target, Done> = BTreeMap::new();
    let per_target = time / u32::try_from(targets.len())?;
    loop {
        let mut is_over = true;
        for target in targets {
            let so_far = done.entry(target).or_default();
            let left = time.saturating_sub(begin.elapsed());
            let turn = TURN.min(left).min(per_target.max(Duration::from_secs(1)));
            if !so_far.crashed && turn >= Duration::from_secs(1) {
                so_far.add(turn_of(target, turn)?);
                is_over = false;
            }
        }
        // The time is up, or all have crashed.
        if is_over {
            break;
        }
        println!("{}", table(&done));
    }
    match done.values().any(|done| done.crashed) {
        true => bail!("there are inputs below crates/*/fuzz/artifacts that a target cannot take"),
        false => Ok(()),
    }
}

/// Runs a target for a while.
fn turn_of(target: &Target, time: Duration) -> Result<Done> {
    let program = target_dir()
        .join(host()?)
        .join("release")
        .join(&target.name);
    for dir in ["artifacts", "seeds"] {
        fs::create_dir_all(target.dir.join(dir).join(&target.name))?;
    }
    let mut child = Command::new(program)
        .current_dir(&target.dir)
        .arg(format!("-max_total_time={}", time.as_secs()))
        .arg(format!("-artifact_prefix=artifacts/{}/", target.name))
        .args(["-max_len=8192", "-timeout=20", "-rss_limit_mb=1024"])
        .arg(format!("corpus/{}", target.name))
        .arg(format!("seeds/{}", target.name))
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("cannot start {}", target.name))?;
    let mut done = Done::default();
    let mut said = Vec::new();
    let lines = child.stderr.take().context("no standard error")?;
    for line in BufReader::new(lines).split(b'\n') {
        let line = String::from_utf8_lossy(&line?).into_owned();
        done.hear(&line);
        done.ticks = ticks(&child).unwrap_or(done.ticks);
        said.push(line);
    }
    done.crashed = !child.wait()?.success();
    if done.crashed {
        println!("{} failed:\n{}", target.name, said.join("\n"));
    }
    Ok(done)
}

/// Processor time of a process.
fn ticks(child: &Child) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{}/stat", child.id())).ok()?;
    // The name, in parentheses, may have any character.
    let fields: Vec<&str> = stat.rsplit_once(") ")?.1.split(' ').collect();
    let field = |number: usize| fields.get(number)?.parse::<u64>().ok();
    Some(field(11)? + field(12)?)
}

impl Done {
    /// Reads `#4096  pulse  cov: 262 ft: 505 corp: …`, which libFuzzer says now and then.
    fn hear(&mut self, line: &str) {
        let mut words = line.split_whitespace().peekable();
        let Some(runs) = words.next().and_then(|word| word.strip_prefix('#')) else {
            return;
        };
        self.runs = runs.parse().unwrap_or(self.runs);
        while let Some(word) = words.next() {
            let number = words.peek().and_then(|word| word.parse().ok());
            match (word, number) {
                ("cov:", Some(number)) => self.edges = number,
                ("ft:", Some(number)) => self.features = number,
                _ => {}
            }
        }
    }

    /// Adds a later turn.
    fn add(&mut self, turn: Self) {
        self.ticks += turn.ticks;
        self.runs += turn.runs;
        self.edges = self.edges.max(turn.edges);
        self.features = self.features.max(turn.features);
        self.crashed |= turn.crashed;
    }
}

fn table(done: &BTreeMap<&Target, Done>) -> String {
    let head =
        "| target | processor time | executions | edges | features |\n|---|---|---|---|---|\n";
    let rows = done.iter().map(|(target, done)| {
        let krate = target.krate();
        let seconds = done.ticks / TICKS;
        let (minutes, seconds) = (seconds / 60, seconds % 60);
        let note = if done.crashed { " **failed**" } else { "" };
        format!(
            "| {krate} `{}`{note} | {minutes} min {seconds:02} s | {} | {} | {} |\n",
            target.name, done.runs, done.edges, done.features
        )
    });
    head.to_owned() + &rows.collect::<String>()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_libfuzzer_says_is_understood() {
        let mut done = Done::default();
        done.hear("INFO: Seed: 123");
        done.hear("#2\tINITED cov: 10 ft: 11 corp: 1/1b exec/s: 0 rss: 30Mb");
        done.hear("#4096\tpulse  cov: 262 ft: 505 corp: 90/3Kb lim: 43 exec/s: 2048 rss: 40Mb");
        done.hear("###### Recommended dictionary. ######");
        let wanted = Done {
            runs: 4096,
            edges: 262,
            features: 505,
            ..Done::default()
        };
        assert_eq!(done, wanted);
        done.add(wanted);
        assert_eq!((done.runs, done.edges), (8192, 262));
    }

    /// Both tables of the document, and the seeds that longer runs have left, are of exactly the targets that there are.
    #[test]
    fn every_target_is_stated_and_has_seeds() {
        let text = fs::read_to_string(root().join("docs/fuzzing.md")).unwrap();
        let mut tables: Vec<Vec<String>> = Vec::new();
        for row in text.lines().filter(|line| line.starts_with('|')) {
            let first = row.split('|').nth(1).unwrap().trim();
            match first.split_once(" `") {
                Some((krate, names)) => {
                    let names = names.split(", ").map(|it| it.trim_matches('`'));
                    let names = names.map(|name| format!("{krate} {name}"));
                    tables.last_mut().unwrap().extend(names);
                }
                None if first == "target" => tables.push(Vec::new()),
                None => assert!(first.starts_with('-'), "{row}"),
            }
        }
        let targets = targets().unwrap();
        let mut all: Vec<String> = targets
            .iter()
            .map(|target| format!("{} {}", target.krate(), target.name))
            .collect();
        all.sort();
        assert_eq!(tables.len(), 2, "what they ask, and what has run");
        for mut table in tables {
            table.sort();
            assert_eq!(table, all);
        }
        for target in targets {
            let seeds = target.dir.join("seeds").join(&target.name);
            let seeds = fs::read_dir(&seeds).map(Iterator::count);
            assert!(
                seeds.is_ok_and(|count| count > 0),
                "{}: no seeds",
                target.name
            );
        }
    }
}
