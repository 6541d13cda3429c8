//! The fuzz targets of the crate take what they begin with, and what is near it.
#![allow(clippy::unwrap_used)]

#[path = "../fuzz/targets/artifact.rs"]
mod artifact;
#[path = "../fuzz/corpus.rs"]
#[allow(dead_code, reason = "it is a program too")]
mod corpus;
#[path = "../fuzz/targets/layers.rs"]
mod layers;
#[path = "../fuzz/targets/program.rs"]
mod program;
#[path = "../../testkit/seeds.rs"]
mod seeds;

use seeds::{Target, hold};

#[test]
fn every_seed_holds() {
    let targets = [
        Target {
            name: "artifact",
            body: artifact::run,
            mutations: 300,
        },
        Target {
            name: "layers",
            body: layers::run,
            mutations: 100,
        },
        Target {
            name: "program",
            body: program::run,
            mutations: 300,
        },
    ];
    let corpus = corpus::inputs().unwrap();
    hold(env!("CARGO_MANIFEST_DIR"), &corpus, &targets);
}
