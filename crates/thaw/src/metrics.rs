//! What the daemon has counted, in Prometheus' text format. Names are promised: `docs/metrics.md`
//! has each of them, and a test holds it against them.

use std::fmt::Write as _;

use thaw_node::{How, ImageLoad, Measures};

/// The content type of [`text`].
pub(crate) const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// A metric: what it is called, what it is, what it means.
#[derive(Debug)]
struct Family {
    name: &'static str,
    kind: &'static str,
    help: &'static str,
}

const fn counter(name: &'static str, help: &'static str) -> Family {
    let kind = "counter";
    Family { name, kind, help }
}

const fn gauge(name: &'static str, help: &'static str) -> Family {
    let kind = "gauge";
    Family { name, kind, help }
}

const INFO: Family = gauge(
    "thaw_daemon_info",
    "Always 1; the daemon's version, and the fault transport that runs (none: no lazy mount has asked for one).",
);
const HITS: Family = counter(
    "thaw_read_hits_total",
    "Reads of layer tars that were let through at once. Only reads that the transport sees: not those of the page cache, nor, with fanotify, of whole layers; and those by which the daemon reads a working set ahead of a program.",
);
const FAULTS: Family = counter(
    "thaw_faults_total",
    "Reads of layer tars that had to wait for bytes.",
);
const FAILURES: Family = counter(
    "thaw_read_failures_total",
    "Reads of layer tars that got an error: failed (the bytes could not be had), expired (not in time), unknown (of no layer).",
);
const WAITING: Family = gauge("thaw_faults_waiting", "Reads that wait for bytes now.");
const WAITS: Family = Family {
    name: "thaw_fault_wait_seconds",
    kind: "histogram",
    help: "How long readers waited for bytes.",
};
const FETCHED: Family = counter(
    "thaw_fetched_bytes_total",
    "Bytes of layers read from sources, compressed as they are there, by cause; not those of full pulls.",
);
const UNPACKED: Family = counter(
    "thaw_unpacked_bytes_total",
    "Bytes that were unpacked from what was read from sources, by cause; not those of full pulls.",
);
const FILLED: Family = counter(
    "thaw_filled_bytes_total",
    "Bytes that became present in layer tars, by cause; not those of full pulls.",
);
const REQUESTS: Family = counter(
    "thaw_fault_requests_total",
    "Ranged reads of sources that were made for faults.",
);
const MISMATCHES: Family = counter(
    "thaw_mismatches_total",
    "Chunks and frames whose bytes did not match their digest, and were not used.",
);
const RECEIVED: Family = counter(
    "thaw_network_received_bytes_total",
    "Bytes that came from registries, for whatever reason.",
);
const STARTED: Family = counter(
    "thaw_lazy_image_bytes_total",
    "Compressed bytes of layers that were not whole here when this daemon mounted an image of theirs lazily, each layer once.",
);
const SAVED: Family = gauge(
    "thaw_saved_bytes",
    "Compressed bytes of the mounted images' layers that are not here: what full pulls would move, by the share of each tar that is absent.",
);
const PRESENT: Family = gauge(
    "thaw_image_present_bytes",
    "Bytes of a mounted image's layer tars that are here.",
);
const READ: Family = gauge(
    "thaw_image_read_bytes",
    "Bytes of a mounted image's layer tars that starts here have read, each once; noted when a container ends.",
);
const SIZE: Family = gauge(
    "thaw_image_size_bytes",
    "Bytes of a mounted image's layer tars.",
);
const CONTAINERS: Family = gauge("thaw_containers", "Containers in the store, by state.");
const MOUNTS: Family = gauge("thaw_mounts", "Root filesystems that thaw mount mounted.");

/// For wait class `n` the bucket has waits of less than 2^n microseconds: from 64 µs to 16.8 s.
const BUCKETS: std::ops::RangeInclusive<usize> = 6..=24;

/// Everything that was counted. What nobody counts is left out.
pub(crate) fn text(measures: &Measures) -> String {
    let mut page = Page::default();
    let transport = measures.transport.as_deref().unwrap_or("none");
    let version = env!("CARGO_PKG_VERSION");
    page.family(&INFO);
    page.sample(&INFO, &[("version", version), ("transport", transport)], 1);
    if let Some(reads) = &measures.reads {
        page.single(&HITS, reads.hits);
        page.single(&FAULTS, reads.faults);
        page.family(&FAILURES);
        let failures = [
            ("failed", reads.failed),
            ("expired", reads.expired),
            ("unknown", reads.unknown),
        ];
        for (reason, count) in failures {
            page.sample(&FAILURES, &[("reason", reason)], count);
        }
        page.single(&WAITING, reads.waiting);
        page.histogram(&WAITS, &reads.waits, reads.waited);
    }
    let moved = &measures.moved;
    let causes = [
        ("demand", moved.demand),
        ("ahead", moved.ahead),
        ("working_set", moved.working_set),
        ("fill", moved.fill),
    ];
    page.family(&FETCHED);
    for (cause, moves) in causes {
        page.sample(&FETCHED, &[("cause", cause)], moves.fetched);
    }
    page.family(&UNPACKED);
    for (cause, moves) in causes {
        page.sample(&UNPACKED, &[("cause", cause)], moves.unpacked);
    }
    page.family(&FILLED);
    for (cause, moves) in causes {
        page.sample(&FILLED, &[("cause", cause)], moves.written);
    }
    page.single(&REQUESTS, measures.requests);
    page.single(&MISMATCHES, measures.mismatches);
    page.single(&RECEIVED, measures.received);
    page.single(&STARTED, measures.started);
    page.single(&SAVED, measures.saved);
    page.images(measures);
    page.family(&CONTAINERS);
    page.sample(
        &CONTAINERS,
        &[("state", "running")],
        measures.containers.running,
    );
    page.sample(
        &CONTAINERS,
        &[("state", "ended")],
        measures.containers.ended,
    );
    page.single(&MOUNTS, measures.mounts);
    page.0
}

#[derive(Default)]
struct Page(String);

impl Page {
    fn family(&mut self, family: &Family) {
        let Family { name, kind, help } = family;
        let help = help.replace('\\', "\\\\").replace('\n', "\\n");
        let _ = write!(self.0, "# HELP {name} {help}\n# TYPE {name} {kind}\n");
    }

    fn line(&mut self, name: &str, labels: &[(&str, &str)], value: impl std::fmt::Display) {
        self.0.push_str(name);
        for (index, (label, text)) in labels.iter().enumerate() {
            let begin = if index == 0 { '{' } else { ',' };
            let _ = write!(self.0, "{begin}{label}=\"{}\"", escaped(text));
        }
        let end = if labels.is_empty() { "" } else { "}" };
        let _ = writeln!(self.0, "{end} {value}");
    }

    fn sample(&mut self, family: &Family, labels: &[(&str, &str)], value: impl std::fmt::Display) {
        self.line(family.name, labels, value);
    }

    fn single(&mut self, family: &Family, value: impl std::fmt::Display) {
        self.family(family);
        self.sample(family, &[], value);
    }

    /// `classes[n]` were shorter than 2^n microseconds, and not in an earlier class; all of them
    /// together took `micros`.
    fn histogram(&mut self, family: &Family, classes: &[u64], micros: u64) {
        self.family(family);
        let bucket = format!("{}_bucket", family.name);
        for class in BUCKETS {
            let count: u64 = classes.iter().take(class + 1).sum();
            self.line(&bucket, &[("le", &seconds(1 << class))], count);
        }
        let all: u64 = classes.iter().sum();
        self.line(&bucket, &[("le", "+Inf")], all);
        self.line(&format!("{}_sum", family.name), &[], seconds(micros));
        self.line(&format!("{}_count", family.name), &[], all);
    }

    fn images(&mut self, measures: &Measures) {
        type Value = fn(&ImageLoad) -> Option<u64>;
        let values: [(_, Value); 3] = [
            (&PRESENT, |image| Some(image.present)),
            (&READ, |image| image.read),
            (&SIZE, |image| Some(image.size)),
        ];
        for (family, value) in values {
            self.family(family);
            for image in &measures.images {
                let Some(value) = value(image) else { continue };
                let manifest = image.manifest.to_string();
                let how = match image.how {
                    How::Lazy => "lazy",
                    How::Full => "full",
                };
                let labels = [
                    ("manifest", manifest.as_str()),
                    ("reference", &image.reference),
                    ("how", how),
                ];
                self.sample(family, &labels, value);
            }
        }
    }
}

/// Exact, and without trailing zeros.
fn seconds(micros: u64) -> String {
    let text = format!("{}.{:06}", micros / 1_000_000, micros % 1_000_000);
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

fn escaped(label: &str) -> String {
    label
        .replace('\\', "\\\\")
        .replace('"', "\\\"")
        .replace('\n', "\\n")
}

#[cfg(test)]
mod tests {
    use thaw_node::{ContainerCounts, Reads};

    use super::*;

    const FAMILIES: [&Family; 19] = [
        &INFO,
        &HITS,
        &FAULTS,
        &FAILURES,
        &WAITING,
        &WAITS,
        &FETCHED,
        &UNPACKED,
        &FILLED,
        &REQUESTS,
        &MISMATCHES,
        &RECEIVED,
        &STARTED,
        &SAVED,
        &PRESENT,
        &READ,
        &SIZE,
        &CONTAINERS,
        &MOUNTS,
    ];

    fn measures() -> Measures {
        let mut waits = vec![0; 26];
        (waits[3], waits[10], waits[25]) = (1, 2, 4);
        Measures {
            transport: Some("fuse".to_owned()),
            reads: Some(Reads {
                faults: 7,
                waited: 61_000_500,
                waits,
                ..Reads::default()
            }),
            started: 10,
            moved: thaw_node::Causes {
                fill: thaw_node::Moves {
                    fetched: 30,
                    unpacked: 100,
                    written: 90,
                },
                ..thaw_node::Causes::default()
            },
            images: vec![ImageLoad {
                reference: "oci:/a \"b\"\\\n:1".to_owned(),
                manifest: thaw_image::Digest::of(b"x"),
                how: How::Lazy,
                present: 5,
                read: Some(4),
                size: 8,
            }],
            containers: ContainerCounts {
                running: 2,
                ended: 1,
            },
            ..Measures::default()
        }
    }

    #[test]
    fn every_name_is_told_once_and_by_the_conventions() {
        let text = text(&measures());
        let told: Vec<&str> = text
            .lines()
            .filter_map(|line| line.strip_prefix("# TYPE "))
            .collect();
        let wanted: Vec<String> = FAMILIES
            .iter()
            .map(|family| format!("{} {}", family.name, family.kind))
            .collect();
        assert_eq!(told, wanted);
        for family in FAMILIES {
            let is_total = family.name.ends_with("_total");
            assert_eq!(is_total, family.kind == "counter", "{}", family.name);
            assert!(family.help.ends_with('.'), "{}", family.help);
        }
    }

    #[test]
    fn the_document_has_every_name() {
        let document = include_str!("../../../docs/metrics.md");
        let listed: Vec<&str> = document
            .lines()
            .filter_map(|line| line.strip_prefix("| `")?.split('`').next())
            .collect();
        let names: Vec<&str> = FAMILIES.iter().map(|family| family.name).collect();
        assert_eq!(listed, names);
    }

    #[test]
    fn waits_are_cumulative_and_in_seconds() {
        let text = text(&measures());
        for line in [
            "thaw_fault_wait_seconds_bucket{le=\"0.000064\"} 1",
            "thaw_fault_wait_seconds_bucket{le=\"0.000512\"} 1",
            "thaw_fault_wait_seconds_bucket{le=\"0.001024\"} 3",
            "thaw_fault_wait_seconds_bucket{le=\"16.777216\"} 3",
            "thaw_fault_wait_seconds_bucket{le=\"+Inf\"} 7",
            "thaw_fault_wait_seconds_sum 61.0005",
            "thaw_fault_wait_seconds_count 7",
        ] {
            assert!(text.lines().any(|one| one == line), "{line}\n{text}");
        }
        assert_eq!((seconds(0), seconds(10_000_000)), ("0".into(), "10".into()));
    }

    /// Whoever swaps two of them is found out.
    #[test]
    fn each_name_and_label_has_its_own_value() {
        let moves = |first: u64| thaw_node::Moves {
            fetched: first,
            unpacked: first + 1,
            written: first + 2,
        };
        let all = Measures {
            transport: Some("fanotify".to_owned()),
            reads: Some(Reads {
                hits: 101,
                faults: 102,
                failed: 103,
                expired: 104,
                unknown: 105,
                waiting: 106,
                waited: 107_000_000,
                waits: vec![108],
            }),
            moved: thaw_node::Causes {
                demand: moves(110),
                ahead: moves(120),
                working_set: moves(130),
                fill: moves(140),
            },
            requests: 150,
            mismatches: 151,
            received: 152,
            started: 153,
            saved: 154,
            images: vec![ImageLoad {
                reference: "image".to_owned(),
                manifest: thaw_image::Digest::of(b"x"),
                how: How::Full,
                present: 155,
                read: Some(160),
                size: 156,
            }],
            containers: ContainerCounts {
                running: 157,
                ended: 158,
            },
            mounts: 159,
        };
        let manifest = thaw_image::Digest::of(b"x");
        let image = format!("{{manifest=\"{manifest}\",reference=\"image\",how=\"full\"}}");
        let mut wanted = vec![
            ("thaw_read_hits_total".to_owned(), 101),
            ("thaw_faults_total".to_owned(), 102),
            (
                "thaw_read_failures_total{reason=\"failed\"}".to_owned(),
                103,
            ),
            (
                "thaw_read_failures_total{reason=\"expired\"}".to_owned(),
                104,
            ),
            (
                "thaw_read_failures_total{reason=\"unknown\"}".to_owned(),
                105,
            ),
            ("thaw_faults_waiting".to_owned(), 106),
            ("thaw_fault_wait_seconds_sum".to_owned(), 107),
            ("thaw_fault_wait_seconds_count".to_owned(), 108),
            ("thaw_fault_requests_total".to_owned(), 150),
            ("thaw_mismatches_total".to_owned(), 151),
            ("thaw_network_received_bytes_total".to_owned(), 152),
            ("thaw_lazy_image_bytes_total".to_owned(), 153),
            ("thaw_saved_bytes".to_owned(), 154),
            (format!("thaw_image_present_bytes{image}"), 155),
            (format!("thaw_image_read_bytes{image}"), 160),
            (format!("thaw_image_size_bytes{image}"), 156),
            ("thaw_containers{state=\"running\"}".to_owned(), 157),
            ("thaw_containers{state=\"ended\"}".to_owned(), 158),
            ("thaw_mounts".to_owned(), 159),
        ];
        for (cause, first) in [
            ("demand", 110),
            ("ahead", 120),
            ("working_set", 130),
            ("fill", 140),
        ] {
            for (name, value) in [
                ("fetched", first),
                ("unpacked", first + 1),
                ("filled", first + 2),
            ] {
                wanted.push((
                    format!("thaw_{name}_bytes_total{{cause=\"{cause}\"}}"),
                    value,
                ));
            }
        }
        let text = text(&all);
        let samples = text.lines().filter(|line| !line.starts_with('#'));
        let others = ["thaw_daemon_info", "thaw_fault_wait_seconds_bucket"];
        let mut told: Vec<&str> = samples
            .filter(|line| !others.iter().any(|name| line.starts_with(name)))
            .collect();
        let mut wanted: Vec<String> = wanted
            .iter()
            .map(|(name, value)| format!("{name} {value}"))
            .collect();
        told.sort_unstable();
        wanted.sort_unstable();
        assert_eq!(told, wanted);
        let version = env!("CARGO_PKG_VERSION");
        let info = format!("thaw_daemon_info{{version=\"{version}\",transport=\"fanotify\"}} 1\n");
        assert!(text.contains(&info), "{text}");
    }

    #[test]
    fn labels_are_escaped() {
        let wanted = r#"reference="oci:/a \"b\"\\\n:1",how="lazy"} 5"#;
        let text = text(&measures());
        assert!(text.contains(wanted), "{text}");
    }

    #[test]
    fn what_nobody_counts_is_not_told() {
        let text = text(&Measures::default());
        assert!(text.contains("transport=\"none\"") && !text.contains(FAULTS.name));
    }

    /// So are what starts have read of an image that was mounted whole, and what a daemon did not count that
    /// was begun before it was updated.
    #[test]
    fn what_nobody_counts_of_an_image_is_not_told() {
        let mut counted = serde_json::to_value(measures()).unwrap();
        counted["images"][0].as_object_mut().unwrap().remove("read");
        let text = text(&serde_json::from_value(counted).unwrap());
        let samples = |family: &Family| text.matches(&format!("\n{}{{", family.name)).count();
        assert_eq!([&PRESENT, &READ, &SIZE].map(samples), [1, 0, 1], "{text}");
    }
}
