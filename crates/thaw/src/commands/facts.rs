//! `inspect`, `ps`, `mount` without arguments, `images`, `gc`, `metrics`: facts about what is here.

use std::fmt::Write as _;
use std::process::ExitCode;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use thaw_node::container::{Protocol, Published};
use thaw_node::{
    Collected, ContainerFacts, GcOptions, ImageFacts, Inspection, Measures, MountFacts,
};

use super::{Context, plain_wish, reference};
use crate::cli::{Gc, Inspect, Ps};
use crate::output::{bytes, percent, table};
use crate::protocol::Request;

/// As many hex characters of a digest or id as a person needs.
const SHORT: usize = 12;

pub(super) fn inspect(context: &Context, args: &Inspect) -> anyhow::Result<ExitCode> {
    let image = plain_wish(&args.image, args.platform.as_ref())?;
    let facts: Inspection = context.client.ask(Request::Inspect { image })?;
    context.print(&facts, describe)?;
    Ok(ExitCode::SUCCESS)
}

pub(super) fn metrics(context: &Context) -> anyhow::Result<ExitCode> {
    let measures: Measures = context.client.ask(Request::Metrics)?;
    context.print(&measures, crate::metrics::text)?;
    Ok(ExitCode::SUCCESS)
}

fn describe(facts: &Inspection) -> String {
    let mut text = String::new();
    let mut line = |name: &str, value: String| {
        let _ = writeln!(text, "{name:14} {value}");
    };
    line("image", facts.reference.clone());
    line("manifest", facts.manifest.to_string());
    line("platform", facts.platform.clone());
    line("command", facts.command.join(" "));
    line("compressed", bytes(facts.compressed));
    if let Some(unpacked) = facts.unpacked {
        line("unpacked", bytes(unpacked));
        line(
            "here",
            format!(
                "{} ({})",
                bytes(facts.cached),
                percent(facts.cached, unpacked)
            ),
        );
    } else {
        line("here", bytes(facts.cached));
    }
    match &facts.acceleration {
        None => line("acceleration", "none".to_owned()),
        Some(acceleration) => {
            line("acceleration", acceleration.manifest.to_string());
            line(
                "  from",
                format!("{} ({})", acceleration.source, acceleration.trust),
            );
            if let Some(key) = &acceleration.signed_by {
                line("  signed by", key.clone());
            }
            let share = percent(acceleration.size, facts.compressed);
            line(
                "  size",
                format!("{} ({share} of the image)", bytes(acceleration.size)),
            );
        }
    }
    for set in &facts.working_sets {
        let (blocks, packed) = (bytes(set.blocks), bytes(set.packed));
        let set = format!("{}: {blocks} packed in {packed}", set.profile);
        line("working set", set);
    }
    if let Some(load) = &facts.load {
        let (rate, read) = (load.rate * 100.0, bytes(load.read));
        let load = format!("{rate:.1} % ({read} read; from {})", load.source);
        line("load rate", load);
    }
    line(
        "would start",
        format!("{}: {}", facts.way.how, facts.way.why),
    );
    if let Some(transport) = &facts.transport {
        line("  served by", transport.clone());
    }
    let rows: Vec<Vec<String>> = facts
        .layers
        .iter()
        .map(|layer| {
            vec![
                layer.diff_id.0.hex()[..SHORT].to_owned(),
                format_name(&layer.media_type).to_owned(),
                bytes(layer.compressed),
                layer.unpacked.map_or("?".to_owned(), bytes),
                bytes(layer.cached),
                if layer.seek_table { "yes" } else { "no" }.to_owned(),
            ]
        })
        .collect();
    text.push('\n');
    let header = [
        "LAYER",
        "FORMAT",
        "COMPRESSED",
        "UNPACKED",
        "HERE",
        "SEEK TABLE",
    ];
    text.push_str(&table(&header, &rows));
    text
}

fn format_name(media_type: &str) -> &str {
    match media_type.rsplit_once(['+', '.']) {
        Some((_, "gzip")) => "tar+gzip",
        Some((_, "zstd")) => "tar+zstd",
        Some((_, "tar")) => "tar",
        _ => media_type,
    }
}

fn lines(all: impl Iterator<Item = String>) -> String {
    all.map(|line| line + "\n").collect()
}

pub(super) fn ps(context: &Context, args: &Ps) -> anyhow::Result<ExitCode> {
    let containers: Vec<ContainerFacts> = context.client.ask(Request::Ps { all: args.all })?;
    context.print(&containers, |containers| {
        let short = |container: &ContainerFacts| container.id.chars().take(SHORT).collect();
        if context.global.quiet {
            return lines(containers.iter().map(short));
        }
        let rows: Vec<Vec<String>> = containers
            .iter()
            .map(|container| {
                vec![
                    short(container),
                    container.name.clone(),
                    container.image.clone(),
                    container.status.clone(),
                    ago(container.created),
                    container
                        .ports
                        .iter()
                        .map(port)
                        .collect::<Vec<_>>()
                        .join(", "),
                    container.way.how.to_string(),
                    container.way.why.clone(),
                ]
            })
            .collect();
        table(
            &[
                "CONTAINER",
                "NAME",
                "IMAGE",
                "STATUS",
                "CREATED",
                "PORTS",
                "START",
                "WHY",
            ],
            &rows,
        )
    })?;
    Ok(ExitCode::SUCCESS)
}

/// `mount` without arguments, as mount(8).
pub(super) fn mounts(context: &Context) -> anyhow::Result<ExitCode> {
    let mounts: Vec<MountFacts> = context.client.ask(Request::Mounts)?;
    context.print(&mounts, |mounts| {
        let rows: Vec<Vec<String>> = mounts
            .iter()
            .map(|mount| {
                vec![
                    mount.dir.display().to_string(),
                    mount.image.clone(),
                    mount.manifest.hex()[..SHORT].to_owned(),
                    mount.way.how.to_string(),
                    format!("{} of {}", bytes(mount.present), bytes(mount.size)),
                    mount.way.why.clone(),
                ]
            })
            .collect();
        table(&["DIR", "IMAGE", "MANIFEST", "HOW", "HERE", "WHY"], &rows)
    })?;
    Ok(ExitCode::SUCCESS)
}

/// A published port as Docker shows it.
fn port(port: &Published) -> String {
    let protocol = match port.protocol {
        Protocol::Tcp => "tcp",
        Protocol::Udp => "udp",
    };
    format!("{}->{}/{protocol}", port.host, port.container)
}

pub(super) fn images(context: &Context) -> anyhow::Result<ExitCode> {
    let images: Vec<ImageFacts> = context.client.ask(Request::Images)?;
    context.print(&images, |images| {
        if context.global.quiet {
            let short = |image: &ImageFacts| image.manifest.hex()[..SHORT].to_owned();
            return lines(images.iter().map(short));
        }
        let rows: Vec<Vec<String>> = images
            .iter()
            .map(|image| {
                vec![
                    image.reference.clone(),
                    image.manifest.hex()[..SHORT].to_owned(),
                    bytes(image.compressed),
                    bytes(image.cached),
                    bytes(image.index),
                    if image.whole { "whole" } else { "in part" }.to_owned(),
                    if image.in_use { "yes" } else { "no" }.to_owned(),
                    ago(image.used),
                ]
            })
            .collect();
        let header = [
            "IMAGE",
            "MANIFEST",
            "COMPRESSED",
            "ON DISK",
            "INDEX",
            "HERE",
            "IN USE",
            "LAST USE",
        ];
        table(&header, &rows)
    })?;
    Ok(ExitCode::SUCCESS)
}

pub(super) fn gc(context: &Context, args: &Gc) -> anyhow::Result<ExitCode> {
    let complete = |name: &String| match name.starts_with("oci:") {
        true => reference(name),
        false => Ok(name.clone()),
    };
    let options = GcOptions {
        images: args.images.iter().map(complete).collect::<Result<_, _>>()?,
        all: args.all,
        dry_run: args.dry_run,
        cache_size: args.cache_size,
    };
    let done: Collected = context.client.ask(Request::Gc(options))?;
    context.print(&done, |done| {
        let mut text = String::new();
        for removal in &done.removals {
            let size = bytes(removal.bytes);
            let _ = writeln!(text, "remove  {size:>9}  {}: {}", removal.what, removal.why);
        }
        for kept in &done.kept {
            let size = bytes(kept.bytes);
            let _ = writeln!(text, "keep    {size:>9}  {}: {}", kept.what, kept.why);
        }
        let total = bytes(done.removals.iter().map(|removal| removal.bytes).sum());
        let verb = if done.dry_run {
            "would give back"
        } else {
            "gave back"
        };
        let _ = writeln!(text, "{verb} {total}");
        text
    })?;
    Ok(ExitCode::SUCCESS)
}

/// A time in seconds since 1970, as people say it.
pub(super) fn ago(seconds: u64) -> String {
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or(Duration::ZERO)
        .as_secs();
    match now.saturating_sub(seconds) {
        age @ 0..60 => format!("{age} s ago"),
        age @ 60..3600 => format!("{} min ago", age / 60),
        age @ 3600..86_400 => format!("{} h ago", age / 3600),
        age => format!("{} d ago", age / 86_400),
    }
}
