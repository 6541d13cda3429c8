//! Holds the dependencies between the crates against the table in `ARCHITECTURE.md`.
#![allow(clippy::unwrap_used)]

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

/// Crates that only developers run; what they depend on is not held.
const DEV_ONLY: &[&str] = &["testkit", "bench", "xtask"];
/// Crates that block and know no async runtime.
const SYNCHRONOUS: &[&str] = &["image", "sign", "erofs", "layer", "sys", "cache", "mount"];

type Arrows = BTreeMap<String, BTreeSet<String>>;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// The rows of the table whose header names `may depend on`: crate → what it may depend on.
/// `None` stands for "all" and "any".
fn allowed(text: &str) -> BTreeMap<String, Option<BTreeSet<String>>> {
    let table = text
        .lines()
        .skip_while(|line| !(line.starts_with("| crate ") && line.contains("may depend on")))
        .skip(2)
        .take_while(|line| line.starts_with('|'));
    let mut rows = BTreeMap::new();
    for row in table {
        let cells: Vec<&str> = row.trim_matches('|').split('|').map(str::trim).collect();
        let dependencies = match *cells.last().unwrap() {
            "all" | "any" => None,
            "–" => Some(BTreeSet::new()),
            list => Some(list.split(',').map(|name| name.trim().to_owned()).collect()),
        };
        for name in cells[0].split(',') {
            let name = name.trim().trim_matches(['*', '`']).to_owned();
            rows.insert(name, dependencies.clone());
        }
    }
    rows
}

fn metadata() -> Value {
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--format-version=1", "--no-deps", "--offline"])
        .current_dir(root())
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    serde_json::from_slice(&output.stdout).unwrap()
}

/// A package's name in the table.
fn short(package: &str) -> String {
    package.strip_prefix("thaw-").unwrap_or(package).to_owned()
}

/// Crate → everything it depends on outside of tests; ours by their short names.
fn found(metadata: &Value) -> Arrows {
    let packages = metadata["packages"].as_array().unwrap();
    packages
        .iter()
        .map(|package| {
            let dependencies = package["dependencies"].as_array().unwrap();
            let names = dependencies
                .iter()
                .filter(|dependency| dependency["kind"] != "dev")
                .map(|dependency| short(dependency["name"].as_str().unwrap()))
                .collect();
            (short(package["name"].as_str().unwrap()), names)
        })
        .collect()
}

#[test]
fn every_arrow_is_in_the_table() {
    let text = std::fs::read_to_string(root().join("ARCHITECTURE.md")).unwrap();
    let allowed = allowed(&text);
    let found = found(&metadata());
    let known: BTreeSet<&String> = found.keys().collect();
    assert_eq!(
        allowed.keys().collect::<BTreeSet<_>>(),
        known,
        "crates of the table and on disk"
    );
    for (name, dependencies) in &found {
        let Some(may) = &allowed[name] else { continue };
        for dependency in dependencies.iter().filter(|name| known.contains(name)) {
            assert!(
                may.contains(dependency),
                "{name} may not depend on {dependency}"
            );
        }
    }
}

#[test]
fn nothing_that_ships_depends_on_what_does_not() {
    for (name, dependencies) in found(&metadata()) {
        if DEV_ONLY.contains(&name.as_str()) {
            continue;
        }
        for dev in DEV_ONLY {
            assert!(
                !dependencies.contains(*dev),
                "{name} may use {dev} in its tests only"
            );
        }
    }
}

#[test]
fn synchronous_crates_have_no_runtime() {
    let found = found(&metadata());
    for name in SYNCHRONOUS {
        for runtime in ["tokio", "futures", "async-trait"] {
            assert!(
                !found[*name].contains(runtime),
                "{name} may not depend on {runtime}"
            );
        }
    }
}

#[test]
fn the_table_is_read_as_it_stands() {
    let rows = allowed(
        "| crate | duty | may depend on |\n|---|---|---|\n| `image` | words | – |\n\
         | `layer` | tar | image, erofs |\n| *`bench`*, *`xtask`* | dev only | any |\n\n| `x` | | – |",
    );
    assert_eq!(rows.len(), 4);
    assert_eq!(rows["image"], Some(BTreeSet::new()));
    assert_eq!(
        rows["layer"],
        Some(["erofs".to_owned(), "image".to_owned()].into())
    );
    assert_eq!(rows["xtask"], None);
}
