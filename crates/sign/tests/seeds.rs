//! The fuzz targets of the crate take what they begin with, and what is near it.
#![allow(clippy::unwrap_used)]

#[path = "../fuzz/targets/claim.rs"]
mod claim;
#[path = "../fuzz/corpus.rs"]
#[allow(dead_code, reason = "it is a program too")]
mod corpus;
#[path = "../fuzz/targets/key.rs"]
mod key;
#[path = "../../testkit/seeds.rs"]
mod seeds;

use seeds::{Target, hold};

#[test]
fn every_seed_holds() {
    let targets = [
        Target {
            name: "claim",
            body: claim::run,
            mutations: 60,
        },
        Target {
            name: "key",
            body: key::run,
            mutations: 300,
        },
    ];
    let corpus = corpus::inputs().unwrap();
    hold(env!("CARGO_MANIFEST_DIR"), &corpus, &targets);
}
