//! The demo: one real image, cold by a full pull and cold by thaw, side by side.
//!
//! The image is the small web service, the registry is real and lies behind a link of 1 Gbit/s
//! with a round trip of 2 ms. Each start has a new store and cold page caches, and ends with the
//! first good HTTP answer.

use std::process::Command;

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use thaw_testkit::process;
use thaw_testkit::scratch;
use thaw_testkit::thaw::Thaw;

use crate::world::World;

/// What one cold start came to.
struct Start {
    milliseconds: f64,
    bytes: u64,
    waterfall: String,
}

/// Runs it and prints what happened.
pub(crate) fn run() -> Result<()> {
    let world = World::new()?;
    println!("building and pushing the image (kept for the next time)");
    let image = world.serve("web")?;
    let facts = world.measure(&image)?;
    println!(
        "{}: {:.1} MB compressed; round trip {:.1} ms, {:.0} Mbit/s\n",
        image.reference,
        image.compressed as f64 / 1e6,
        facts.round_trip_ms,
        facts.megabit_per_second
    );

    println!("== cold, by a full pull of the original image");
    let full = start(&world, &image.reference, "full")?;
    print!("{}", full.waterfall);

    println!("\n== thaw accelerate --record: once per image, anywhere");
    let indexer = store()?;
    let said = indexer.run([
        "--plain-http",
        &host(&image.reference),
        "accelerate",
        "--record",
        "--ready",
        "http://:8080/",
        &image.reference,
    ])?;
    print!("{said}");
    drop(indexer);

    println!("\n== cold, by thaw, on a node that has nothing of the image");
    let lazy = start(&world, &image.reference, "lazy")?;
    print!("{}", lazy.waterfall);

    println!("\n{:<10}{:>12}{:>14}", "", "ready after", "bytes moved");
    for (name, start) in [("full pull", &full), ("thaw", &lazy)] {
        let (time, moved) = (start.milliseconds, start.bytes as f64 / 1e6);
        println!("{name:<10}{time:>9.0} ms{moved:>11.1} MB");
    }
    println!(
        "ratio: {:.2} of the time, {:.2} of the bytes",
        lazy.milliseconds / full.milliseconds,
        lazy.bytes as f64 / full.bytes as f64
    );
    Ok(())
}

fn host(reference: &str) -> String {
    reference.split('/').next().unwrap_or_default().to_owned()
}

/// A new store for the program beside this one.
fn store() -> Result<Thaw> {
    Thaw::new(crate::thaw::binary()?)
}

/// One cold start, up to the first good answer.
fn start(world: &World, image: &str, way: &str) -> Result<Start> {
    let node = store()?;
    let plain = host(image);
    // A node has its daemon running; only what concerns the image is cold.
    node.run(["--plain-http", &plain, "images"])?;
    world.registry.warm()?;
    process::run(
        Command::new("sync")
            .arg("--file-system")
            .arg(scratch::target_directory()),
    )?;
    std::fs::write("/proc/sys/vm/drop_caches", "3").context("cannot drop caches: not root")?;
    let before = world.link.received();
    let output = node.output([
        "--plain-http",
        &plain,
        "run",
        "--detach",
        "--name",
        "demo",
        "--pull",
        way,
        "--timing",
        "--ready",
        "http://:8080/",
        image,
    ])?;
    let waterfall = String::from_utf8_lossy(&output.stderr).into_owned();
    ensure!(output.status.success(), "the start failed: {waterfall}");
    let bytes = world.link.received() - before;
    node.run(["stop", "--time", "2", "demo"])?;
    let listed: Value = serde_json::from_str(&node.run(["ps", "--all", "--json"])?)?;
    ensure!(
        listed[0]["way"]["how"] == way,
        "it was not started {way}: {listed}"
    );
    Ok(Start {
        milliseconds: total(&waterfall)?,
        bytes,
        waterfall,
    })
}

/// Reads `total 402.1 ms, …` out of what `--timing` prints.
fn total(text: &str) -> Result<f64> {
    let line = text.lines().find_map(|line| line.strip_prefix("total "));
    let number = line.and_then(|line| line.split(' ').next());
    number
        .and_then(|number| number.parse().ok())
        .context("no total in the timing")
}
