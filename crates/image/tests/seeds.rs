//! The fuzz targets of the crate take what they begin with, and what is near it.
#![allow(clippy::unwrap_used)]

#[path = "../fuzz/corpus.rs"]
#[allow(dead_code, reason = "it is a program too")]
mod corpus;
#[path = "../fuzz/targets/reference.rs"]
mod reference;
#[path = "../../testkit/seeds.rs"]
mod seeds;
#[path = "../fuzz/targets/seek_table.rs"]
mod seek_table;
#[path = "../fuzz/targets/working_set.rs"]
mod working_set;

use seeds::{Target, hold};

#[test]
fn every_seed_holds() {
    let targets = [
        Target {
            name: "reference",
            body: reference::run,
            mutations: 300,
        },
        Target {
            name: "seek_table",
            body: seek_table::run,
            mutations: 300,
        },
        Target {
            name: "working_set",
            body: working_set::run,
            mutations: 300,
        },
    ];
    let corpus = corpus::inputs().unwrap();
    hold(env!("CARGO_MANIFEST_DIR"), &corpus, &targets);
}
