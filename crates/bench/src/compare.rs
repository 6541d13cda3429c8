//! Runs every contender on every image.

use anyhow::{Context, Result, ensure};
use thaw_testkit::net::Shape;

use crate::Arguments;
use crate::bounds;
use crate::containerd::Containerd;
use crate::contender::{Contender, Start, cold, warm};
use crate::disk::{Disk, drop_caches};
use crate::pages;
use crate::report::{ContenderReport, ImageReport, Report, median_of};
use crate::thaw::{Thaw, Way};
use crate::world::{Served, World};

/// Round trips that no system can do without: name, manifest, configuration, data.
const ROUND_TRIPS: f64 = 6.0;

pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    let world = World::new()?;
    let mut report = Report {
        kernel: rustix::system::uname()
            .release()
            .to_string_lossy()
            .into_owned(),
        processors: std::thread::available_parallelism().map_or(0, usize::from),
        images: Vec::new(),
    };
    for name in &arguments.images {
        let image = world.serve(name)?;
        let image = compare(&world, &image, arguments.runs)
            .with_context(|| format!("cannot compare on the image {name}"))?;
        image.print();
        bounds::print(&bounds::of(&image));
        report.images.push(image);
    }
    if let Some(path) = &arguments.json {
        std::fs::write(path, serde_json::to_string_pretty(&report)?)
            .with_context(|| format!("cannot write {}", path.display()))?;
    }
    let images = report.images.iter();
    let missed = images.flat_map(bounds::of).filter(|bound| !bound.is_kept());
    let missed = missed.count();
    ensure!(
        missed == 0 || !arguments.check,
        "{missed} bounds were missed"
    );
    Ok(())
}

fn compare(world: &World, image: &Served, runs: usize) -> Result<ImageReport> {
    let link = world.measure(image)?;
    let mut contenders: Vec<Box<dyn Contender>> = vec![
        Box::new(Containerd),
        Box::new(Thaw(Way::Full)),
        Box::new(Thaw(Way::Lazy)),
        Box::new(Thaw(Way::Recorded)),
    ];
    let mut reports = Vec::new();
    for contender in &mut contenders {
        contender.prepare(&image.reference)?;
        reports.push(ContenderReport {
            name: contender.name(),
            cold: Vec::new(),
            warm: Vec::new(),
        });
    }
    // In turns, so that what drifts on the machine drifts for all.
    for number in 1..=runs {
        for (contender, report) in contenders.iter().zip(&mut reports) {
            let (cold, warm) = start(world, image, contender.as_ref())
                .with_context(|| format!("{}, run {number}", contender.name()))?;
            eprintln!(
                "{} {} run {number}/{runs}: cold {:.2} s, warm {:.2} s",
                image.name,
                contender.name(),
                cold.answered,
                warm.answered
            );
            report.cold.push(cold);
            report.warm.push(warm);
        }
    }
    let touched = pages::touched(world, image)?;
    let warm = reports
        .iter()
        .map(|report| median_of(&report.warm, |start| start.answered));
    let bandwidth = Shape::GIGABIT.rate as f64 / 8.0;
    let round_trip = Shape::GIGABIT.delay.as_secs_f64() * 2.0;
    Ok(ImageReport {
        name: image.name,
        compressed_bytes: image.compressed,
        limit: warm.fold(f64::INFINITY, f64::min)
            + touched.zstd_bytes as f64 / bandwidth
            + ROUND_TRIPS * round_trip,
        link,
        touched,
        contenders: reports,
    })
}

/// One cold start on a new disk, and a warm one after it.
fn start(world: &World, image: &Served, contender: &dyn Contender) -> Result<(Start, Start)> {
    let disk = Disk::new()?;
    let mut node = contender.node(disk.path())?;
    node.ready(&image.reference)?;
    drop_caches()?;
    world.registry.warm()?;
    let cold = cold(node.as_mut(), &image.reference, &world.link)?;
    node.stop()?;
    let warm = warm(node.as_mut(), &image.reference, &world.link)?;
    node.stop()?;
    Ok((cold, warm))
}
