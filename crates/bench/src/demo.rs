//! The demo: one real image, cold by a full pull and cold by thaw, side by side.
//!
//! The image is the small web service, the registry is real and lies behind a link of 1 Gbit/s
//! with a round trip of 2 ms. Each start has a new store and cold page caches, and ends with the
//! first good HTTP answer.

mod function;

use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde::Deserialize;
use serde_json::Value;
use thaw_testkit::process;
use thaw_testkit::scratch;
use thaw_testkit::thaw::Thaw;

use crate::thaw::{binary, plain};
use crate::world::World;

/// Columns of a bar.
const BAR: usize = 32;

/// What one cold start came to.
struct Start {
    total: Duration,
    spans: Vec<Span>,
    bytes: u64,
    way: String,
    waits: u64,
}

/// One step of a start, as `thaw run --timing --json` tells of it.
#[derive(Debug, Deserialize)]
struct Span {
    name: String,
    begin: Duration,
    took: Duration,
}

/// Runs it and prints what happened.
pub(crate) fn run() -> Result<()> {
    let world = World::new()?;
    println!("building and pushing the image (kept for the next time)");
    let image = world.serve("web")?;
    let facts = world.measure(&image)?;
    println!(
        "{}: {:.1} MB compressed; round trip {:.1} ms, {:.0} Mbit/s",
        image.reference,
        image.compressed as f64 / 1e6,
        facts.round_trip_ms,
        facts.megabit_per_second
    );
    println!("\n== cold, by a full pull of the original image");
    let full = start(&world, &image.reference, "full")?;
    println!("== once per image, anywhere: thaw accelerate --record --ready http://:8080/");
    let indexer = store()?;
    let [plain, host] = plain(&image.reference);
    let how = ["accelerate", "--record", "--ready", "http://:8080/"];
    print!(
        "{}",
        indexer.run(
            [plain, host]
                .into_iter()
                .chain(how)
                .chain([image.reference.as_str()])
        )?
    );
    drop(indexer);
    println!("== cold, by thaw, on a node that has nothing of the image");
    let lazy = start(&world, &image.reference, "lazy")?;

    print!("\n{}", side_by_side(&full, &lazy));
    println!("\n{:<10}{:>12}{:>14}", "", "ready after", "bytes moved");
    for (name, start) in [("full pull", &full), ("thaw", &lazy)] {
        let (time, moved) = (start.total.as_secs_f64() * 1e3, start.bytes as f64 / 1e6);
        println!("{name:<10}{time:>9.0} ms{moved:>11.1} MB   {}", start.way);
    }
    println!(
        "ratio: {:.2} of the time, {:.2} of the bytes; {} reads had to wait",
        lazy.total.as_secs_f64() / full.total.as_secs_f64(),
        lazy.bytes as f64 / full.bytes as f64,
        lazy.waits
    );
    // Under another name: the function's host would take the acceleration that is there by now.
    let layout =
        thaw_testkit::image::real::web_service(&thaw_testkit::image::real::cache_directory())?;
    let image = layout.push(&world.registry, "demo/function:1")?;
    function::run(&world, &image)?;
    // The bridge is the machine's: it goes with the last who needs it.
    store()?.run(["gc", "--all"])?;
    Ok(())
}

/// Where the time of both went, on one scale.
fn side_by_side(full: &Start, lazy: &Start) -> String {
    let mut names: Vec<&str> = Vec::new();
    for span in full.spans.iter().chain(&lazy.spans) {
        if !names.contains(&span.name.as_str()) {
            names.push(&span.name);
        }
    }
    let first = |name: &&str| {
        let spans = full.spans.iter().chain(&lazy.spans);
        let begins = spans.filter(|span| span.name == **name);
        begins.map(|span| span.begin).min()
    };
    names.sort_by_key(first);
    let scale = full.total.max(lazy.total).as_secs_f64();
    let mut text = format!("{:<22}{:<47}{}\n", "", "full pull", "thaw");
    for name in names {
        let cells = [full, lazy].map(|start| cell(start, name, scale));
        text.push_str(format!("{name:<22}{}  {}", cells[0], cells[1]).trim_end());
        text.push('\n');
    }
    text
}

/// One start's time for one step: milliseconds, and a bar where it lay.
fn cell(start: &Start, name: &str, scale: f64) -> String {
    let Some(span) = start.spans.iter().find(|span| span.name == name) else {
        return " ".repeat(BAR + 13);
    };
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "0 to BAR"
    )]
    let column = |time: Duration| ((time.as_secs_f64() / scale * BAR as f64) as usize).min(BAR);
    let begin = column(span.begin).min(BAR - 1);
    let end = column(span.begin + span.took).clamp(begin + 1, BAR);
    let bar = format!("{}{}", " ".repeat(begin), "█".repeat(end - begin));
    let took = span.took.as_secs_f64() * 1e3;
    format!("{took:>8.1} ms  {bar:BAR$}")
}

/// A new store for the program beside this one.
fn store() -> Result<Thaw> {
    Thaw::new(binary()?)
}

/// One cold start, up to the first good answer.
fn start(world: &World, image: &str, way: &str) -> Result<Start> {
    let node = store()?;
    let thaw = |args: &[&str]| node.output(plain(image).into_iter().chain(args.iter().copied()));
    // A node has its daemon running; only what concerns the image is cold.
    thaw(&["images"])?;
    world.registry.warm()?;
    process::run(
        Command::new("sync")
            .arg("--file-system")
            .arg(scratch::target_directory()),
    )?;
    std::fs::write("/proc/sys/vm/drop_caches", "3").context("cannot drop caches: not root")?;
    let before = world.link.received();
    let how = ["run", "--detach", "--name", "demo", "--pull", way];
    let told = ["--json", "--timing", "--ready", "http://:8080/", image];
    let output = thaw(&[&how[..], &told[..]].concat())?;
    let bytes = world.link.received() - before;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "the start failed: {said}");
    node.run(["stop", "--time", "2", "demo"])?;
    let listed: Value = serde_json::from_str(&node.run(["ps", "--all", "--json"])?)?;
    ensure!(
        listed[0]["way"]["how"] == way,
        "it was not started {way}: {listed}"
    );
    let timing: Value = said
        .lines()
        .find_map(|line| serde_json::from_str(line).ok())
        .with_context(|| format!("no timing in {said}"))?;
    Ok(Start {
        total: serde_json::from_value(timing["total"].clone())?,
        spans: serde_json::from_value(timing["spans"].clone())?,
        bytes,
        way: format!(
            "{}: {}",
            way,
            listed[0]["way"]["why"].as_str().unwrap_or_default()
        ),
        waits: timing["report"]["waits"].as_u64().unwrap_or_default(),
    })
}
